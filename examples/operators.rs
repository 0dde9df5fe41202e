//! A page for the tracker's operators: what it does at this moment, behind a login.
//!
//! ```sh
//! GYRE_PASSWORD='correct horse battery' cargo run --release --example operators
//! ```
//!
//! Then look at `http://127.0.0.1:6969/`. The figures come anew each second, and are at `/api/stats` for programs; what
//! the pages are made of is in `examples/operators`.
//!
//! Whoever reads the line can read the password: in earnest a proxy with TLS stands before it, and is named in
//! `Config::trusted_proxies`, so that tries are counted for the client's address and not for the proxy's. A signal ends
//! the program at once.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use gyre::Tracker;
use gyre::counters::{Counter, Counters};
use gyre::error::{Code, TrackerError};
use gyre::time::{Clock, Timestamp};
use gyre::web::cache::CacheControl;
use gyre::web::cookie::SameSite;
use gyre::web::log::LogFormat;
use gyre::web::session::{MemoryStore, Sessions};
use gyre::web::templates::Templates;
use gyre::web::{Event, HttpConnection};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Where the templates are, and in a folder below them the files that are served as they are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/operators");
const PASSWORD_MIN_BYTES: usize = 12;
const FORM_BYTES: u64 = 4_096;
/// Operators who are logged in at a time.
const SESSIONS: usize = 1_000;
const SESSION_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Passwords that an address may try in this time, and addresses that are counted in it; others have to wait.
const TRIES: u32 = 5;
const TRIES_PERIOD: Duration = Duration::from_secs(15 * 60);
const TRIES_ADDRESSES: usize = 10_000;
/// A stream of events ends after so many; the browser comes again, and has to be logged in still.
const EVENTS: u32 = 600;
const EVENT_PERIOD: Duration = Duration::from_secs(1);
/// What a session holds: a token that this site's forms send along. Who has one is logged in.
const TOKEN: &str = "token";

/// A tracker with a page for its operators, whose password is in GYRE_PASSWORD.
#[derive(Parser)]
struct Options {
    /// Where to serve UDP and HTTP
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:6969")]
    address: SocketAddr,
}

/// What is shown.
fn figures(connection: &HttpConnection) -> Value {
    let all: Counters = connection.counters().iter().sum();
    json!({
        "swarms": all.get(Counter::Swarms),
        "seeders": all.get(Counter::Seeders),
        "leechers": all.get(Counter::Leechers),
        "announces_udp": all.sum(&[Counter::UdpAnnounceV4, Counter::UdpAnnounceV6]),
        "announces_http": all.sum(&[Counter::HttpAnnounceV4, Counter::HttpAnnounceV6]),
        "connections": all.get(Counter::Connections),
    })
}

/// Sends a page of this site: never kept by anybody, with nothing in it that comes from elsewhere.
async fn page(
    connection: &mut HttpConnection,
    template: &str,
    context: impl Serialize,
) -> Result<(), TrackerError> {
    let policy = "default-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    connection.set_header("content-security-policy", policy)?;
    connection.set_header("referrer-policy", "same-origin")?;
    connection.set_header("x-content-type-options", "nosniff")?;
    connection.set_cache(Some(&CacheControl::new().no_store()))?;
    connection.render(template, context).await
}

/// Sends the client on to another page, which it gets by GET.
async fn see(connection: &mut HttpConnection, location: &str) -> Result<(), TrackerError> {
    connection.set_status(303)?;
    connection.redirect(location, false).await
}

/// The token of whoever is logged in; others are refused.
async fn require_login(connection: &mut HttpConnection) -> Result<String, TrackerError> {
    if let Some(token) = connection.session().await?.get(TOKEN) {
        return Ok(token);
    }
    connection.set_header("www-authenticate", "Session realm=\"operators\"")?;
    Err(TrackerError::new(Code::Unauthorized, "log in first"))
}

/// `GET /`
async fn home(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    let Some::<String>(token) = connection.session().await?.get(TOKEN) else {
        return see(connection, "/login").await;
    };
    let figures = figures(connection);
    page(connection, "home.html", json!({ "figures": figures, "token": token })).await
}

/// `GET /api/stats`
async fn stats(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    require_login(connection).await?;
    connection.set_cache(Some(&CacheControl::new().no_store()))?;
    connection.send(figures(connection)).await
}

/// `GET /live`
async fn live(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    require_login(connection).await?;
    let mut events = connection.events().await?;
    for _ in 0..EVENTS {
        let figures = figures(events.connection()).to_string();
        events.send(&Event::new(figures).name("figures")).await?;
        tokio::time::sleep(EVENT_PERIOD).await;
    }
    events.finish().await
}

/// `GET /login`
async fn login_form(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    page(connection, "login.html", ()).await
}

/// The passwords that each address has tried since the period began.
#[derive(Default)]
struct Tries {
    since: Timestamp,
    by_address: HashMap<IpAddr, u32>,
}

impl Tries {
    /// Takes one of the tries of an address; false: it has none left.
    fn take(&mut self, ip: IpAddr, now: Timestamp) -> bool {
        // By IPv6 one client has a whole network of addresses.
        let ip = match ip {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            v4 => v4,
        };
        if now.since(self.since) >= TRIES_PERIOD {
            *self = Self { since: now, by_address: HashMap::new() };
        }
        if self.by_address.len() >= TRIES_ADDRESSES && !self.by_address.contains_key(&ip) {
            return false;
        }
        let tries = self.by_address.entry(ip).or_default();
        *tries = tries.saturating_add(1);
        *tries <= TRIES
    }
}

/// Lets operators in.
struct Door {
    password: String,
    tries: Mutex<Tries>,
    clock: Clock,
}

#[derive(Deserialize)]
struct Login {
    password: String,
}

impl Door {
    /// `POST /login`
    async fn login(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let Login { password } = connection.body().limit(FORM_BYTES).form().await?;
        let (ip, now) = (connection.ip(), self.clock.now());
        // Also those with the right password count: who knows it logs in once, and doesn't try all the time.
        if !self.tries.lock().expect("who has the lock doesn't panic").take(ip, now) {
            connection.set_header("retry-after", &TRIES_PERIOD.as_secs().to_string())?;
            connection.set_status(429)?;
            return page(connection, "login.html", json!({ "message": "Too many tries, come later." })).await;
        }
        if !is_equal(&password, &self.password) {
            tracing::warn!("{ip} has tried a wrong password");
            connection.set_status(403)?;
            return page(connection, "login.html", json!({ "message": "Wrong password." })).await;
        }
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(TrackerError::internal)?;
        let session = connection.session().await?;
        session.renew(); // an id that somebody has foisted on the browser is worth nothing after the login
        session.insert(TOKEN, format!("{:032x}", u128::from_ne_bytes(token)))?;
        see(connection, "/").await
    }
}

/// Compares what somebody sent with a secret, in a time that tells nothing of the secret.
fn is_equal(sent: &str, secret: &str) -> bool {
    let pairs = sent.bytes().zip(secret.bytes().cycle());
    let difference = pairs.fold(0, |difference, (one, other)| black_box(difference | (one ^ other)));
    (difference == 0) & (sent.len() == secret.len())
}

#[derive(Deserialize)]
struct Logout {
    token: String,
}

/// `POST /logout`
async fn logout(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    let token = require_login(connection).await?;
    let form: Logout = connection.body().limit(FORM_BYTES).form().await?;
    if !is_equal(&form.token, &token) {
        return Err(TrackerError::new(Code::AccessDenied, "this form is not from your page"));
    }
    connection.session().await?.end();
    see(connection, "/login").await
}

/// Tells of an error in the way that the client reads it. What went wrong on this side is for the log alone.
async fn failed(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    let status = connection.status();
    let error = connection.data().get::<TrackerError>().filter(|_| status.is_client_error());
    let message = error.map_or("something went wrong", TrackerError::message).to_owned();
    if connection.path().starts_with("/api/") {
        return connection.send(json!({ "error": message })).await;
    }
    page(connection, "error.html", json!({ "status": status.as_u16(), "message": message })).await
}

fn serve(Options { address }: Options) -> Result<(), Box<dyn Error>> {
    let password = std::env::var("GYRE_PASSWORD").unwrap_or_default();
    if password.len() < PASSWORD_MIN_BYTES {
        return Err(format!("GYRE_PASSWORD must be set, to {PASSWORD_MIN_BYTES} bytes or more").into());
    }
    let door = Door { password, tries: Mutex::default(), clock: Clock::start() };
    let sessions = Sessions::new(Arc::new(MemoryStore::with_capacity(SESSIONS)))?
        .lifetime(SESSION_LIFETIME)
        .same_site(SameSite::Strict);
    let mut tracker = Tracker::builder()
        .udp(address)
        .http(address)
        .get("/", home)
        .get("/live", live)
        .get("/api/stats", stats)
        .get("/login", login_form)
        .post("/login", async move |connection: &mut HttpConnection| door.login(connection).await)
        .post("/logout", logout)
        .directory("/static", format!("{FOLDER}/static"))
        .error_route(None, failed)
        .templates(Templates::directory(FOLDER))
        .sessions(sessions)
        .log(LogFormat::parse(LogFormat::COMMON)?)
        .listen()?;
    tracing::info!("ready: udp://{} http://{}", tracker.udp_addresses()[0], tracker.http_addresses()[0]);
    tracker.wait(Duration::MAX)?;
    Ok(())
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_target(false).with_writer(io::stderr).init();
    match serve(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
