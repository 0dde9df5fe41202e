//! A page with the tracker's current figures for its operators, behind a login.
//!
//! ```sh
//! GYRE_PASSWORD='correct horse battery' cargo run --release --example operators
//! ```
//!
//! Then open `http://127.0.0.1:6969/`. The figures are updated each second. Programs get them at `/api/stats`. The
//! templates and static files are in `examples/operators`.
//!
//! The password is sent in plain text. In production put a TLS proxy in front and name it in `Config::trusted_proxies`,
//! so that login attempts are counted for the client's address and not for the proxy's. A signal ends the program at
//! once.

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

/// Folder of the templates. Its subfolder `static` has the static files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/operators");
const PASSWORD_MIN_BYTES: usize = 12;
const FORM_BYTES: u64 = 4_096;
/// Maximum number of operators that are logged in at a time.
const SESSIONS: usize = 1_000;
const SESSION_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Login attempts of one address in a period, and addresses that are counted. Any further address is refused.
const TRIES: u32 = 5;
const TRIES_PERIOD: Duration = Duration::from_secs(15 * 60);
const TRIES_ADDRESSES: usize = 10_000;
/// Number of events after which a stream ends. The browser reconnects, which checks its login again.
const EVENTS: u32 = 600;
const EVENT_PERIOD: Duration = Duration::from_secs(1);
/// Name of the session value that marks a login: a token against cross-site requests, which the forms send.
const TOKEN: &str = "token";

/// A tracker with a page for its operators, whose password is in GYRE_PASSWORD
#[derive(Parser)]
struct Options {
    /// Where to serve UDP and HTTP
    #[arg(value_name = "ADDR:PORT", default_value = "127.0.0.1:6969")]
    address: SocketAddr,
}

/// Returns the figures of the page.
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

/// Sends a page that is never cached and loads nothing from other sites.
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

/// Redirects the client to another page, which it requests with GET.
async fn go_to(connection: &mut HttpConnection, location: &str) -> Result<(), TrackerError> {
    connection.set_status(303)?;
    connection.redirect(location, false).await
}

/// Returns the token of the session. Refuses clients that are not logged in.
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
        return go_to(connection, "/login").await;
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

/// The number of login attempts of each address in the current period.
#[derive(Default)]
struct Tries {
    since: Timestamp,
    by_address: HashMap<IpAddr, u32>,
}

impl Tries {
    /// Counts an attempt of an address. Returns false if it has none left.
    fn take(&mut self, ip: IpAddr, now: Timestamp) -> bool {
        // An IPv6 client has a whole network of addresses.
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

/// Checks the password of operators.
struct PasswordCheck {
    password: String,
    tries: Mutex<Tries>,
    clock: Clock,
}

#[derive(Deserialize)]
struct Login {
    password: String,
}

impl PasswordCheck {
    /// `POST /login`
    async fn login(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let Login { password } = connection.body().limit(FORM_BYTES).form().await?;
        let (ip, now) = (connection.ip(), self.clock.now());
        // Attempts with the right password count, too: an operator logs in once.
        if !self.tries.lock().expect("no panic under the lock").take(ip, now) {
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
        session.renew(); // makes an id useless that an attacker has planted in the browser
        session.insert(TOKEN, format!("{:032x}", u128::from_ne_bytes(token)))?;
        go_to(connection, "/").await
    }
}

/// Compares a value with a secret, in a time that does not depend on the secret.
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
    go_to(connection, "/login").await
}

/// Sends an error in the format that the client reads. Errors of the server are only described in the log.
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
    let check = PasswordCheck { password, tries: Mutex::default(), clock: Clock::start() };
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
        .post("/login", async move |connection: &mut HttpConnection| check.login(connection).await)
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
