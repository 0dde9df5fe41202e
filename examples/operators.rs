//! A page for the tracker's operators: what it does at this moment, behind a login.
//!
//! `GYRE_PASSWORD=... cargo run --release --example operators -- [ADDR:PORT]`, then look at `http://127.0.0.1:6969/`.
//!
//! | path | is |
//! |---|---|
//! | `/` | the page; who is not logged in is sent to `/login` |
//! | `/login`, `/logout` | the form, and what forms are sent to |
//! | `/live` | the figures once a second, as server-sent events |
//! | `/api/stats` | the figures as JSON |
//! | `/static/` | the files of `examples/operators/static` |
//!
//! Whoever reads the line can read the password: in earnest a proxy with TLS stands before it, and is named in
//! `Config::trusted_proxies` so that tries are counted for the client's address and not for the proxy's. A signal ends
//! the program at once.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::hint::black_box;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gyre::Tracker;
use gyre::counters::{Counter, Counters};
use gyre::error::{Code, TrackerError};
use gyre::time::{Clock, Timestamp};
use gyre::web::cache::CacheControl;
use gyre::web::cookie::SameSite;
use gyre::web::log::LogFormat;
use gyre::web::session::{MemoryStore, Sessions};
use gyre::web::templates::Templates;
use gyre::web::{Event, HttpConnection, Json};
use http::StatusCode;
use http::header::ORIGIN;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Where the files are that are served as they are.
const STATIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/operators/static");
const PASSWORD_MIN_BYTES: usize = 12;
/// A form of this site's is shorter.
const FORM_BYTES: u64 = 4_096;
/// Operators who are logged in at a time.
const SESSIONS: usize = 1_000;
const SESSION_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Passwords that an address may try in this time.
const TRIES: u32 = 5;
const TRIES_PERIOD: Duration = Duration::from_secs(15 * 60);
/// Addresses whose tries are counted at a time. If they are all taken, others have to wait.
const TRIERS: usize = 10_000;
/// A stream of events ends after so many; the browser comes again, and has to be logged in still.
const EVENTS: u32 = 600;
const EVENT_PERIOD: Duration = Duration::from_secs(1);

/// The names in the session.
const OPERATOR: &str = "operator";
const CSRF: &str = "csrf";

/// What is shown: its name in JSON, its title, and the counters that it is the sum of.
const FIGURES: [(&str, &str, &[Counter]); 7] = [
    ("swarms", "Swarms", &[Counter::Swarms]),
    ("seeders", "Seeders", &[Counter::Seeders]),
    ("leechers", "Leechers", &[Counter::Leechers]),
    ("connections", "HTTP connections", &[Counter::Connections]),
    ("announces_udp", "Announces by UDP", &[Counter::UdpAnnounceV4, Counter::UdpAnnounceV6]),
    ("announces_http", "Announces by HTTP", &[Counter::HttpAnnounceV4, Counter::HttpAnnounceV6]),
    ("refused", "Refused", &[Counter::Refused, Counter::Silenced]),
];

fn figures(connection: &HttpConnection) -> BTreeMap<&'static str, u64> {
    let all: Counters = connection.counters().iter().sum();
    FIGURES.map(|(name, _, counters)| (name, all.sum(counters))).into()
}

/// Compares what somebody sent with a secret, in a time that tells nothing of the secret.
fn is_equal(sent: &str, secret: &str) -> bool {
    let pairs = sent.bytes().zip(secret.bytes().cycle());
    let difference = pairs.fold(0, |difference, (one, other)| black_box(difference | (one ^ other)));
    (difference == 0) & (sent.len() == secret.len())
}

/// A text that nobody guesses.
fn random_token() -> Result<String, TrackerError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(TrackerError::internal)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Sends a page of this site: never kept by anybody, with nothing in it that comes from elsewhere.
async fn page(
    connection: &mut HttpConnection,
    template: &str,
    context: impl Serialize,
) -> Result<(), TrackerError> {
    connection.set_header("content-security-policy", "default-src 'self'; frame-ancestors 'none'")?;
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

async fn is_operator(connection: &mut HttpConnection) -> Result<bool, TrackerError> {
    Ok(connection.session().await?.get(OPERATOR).unwrap_or(false))
}

/// Refuses whoever is not logged in.
async fn require_operator(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    if is_operator(connection).await? {
        return Ok(());
    }
    connection.set_header("www-authenticate", "Session realm=\"operators\"")?;
    Err(TrackerError::new(Code::Unauthorized, "log in first"))
}

/// The page `/`.
async fn home(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    if !is_operator(connection).await? {
        return see(connection, "/login").await;
    }
    let csrf: Option<String> = connection.session().await?.get(CSRF);
    let values = figures(connection);
    let rows = FIGURES.map(|(name, title, _)| json!({ "name": name, "title": title, "value": values[name] }));
    page(connection, "home.html", json!({ "figures": rows, "csrf": csrf })).await
}

/// `/api/stats`
async fn stats(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    require_operator(connection).await?;
    connection.set_cache(Some(&CacheControl::new().no_store()))?;
    connection.send(Json(figures(connection))).await
}

/// `/live`
async fn live(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    require_operator(connection).await?;
    let mut events = connection.events().await?;
    for _ in 0..EVENTS {
        let figures = json!(figures(events.connection()));
        events.send(&Event::new(figures.to_string()).name("figures")).await?;
        tokio::time::sleep(EVENT_PERIOD).await;
    }
    events.finish().await
}

/// The passwords that each address has tried lately.
#[derive(Default)]
struct Tries(HashMap<IpAddr, (u32, Timestamp)>);

impl Tries {
    /// Takes one of the tries of an address; false: it has none.
    fn take(&mut self, ip: IpAddr, now: Timestamp) -> bool {
        let ip = network(ip);
        let is_over = |since: Timestamp| now.since(since) >= TRIES_PERIOD;
        if self.0.len() >= TRIERS && !self.0.contains_key(&ip) {
            self.0.retain(|_, (_, since)| !is_over(*since));
            if self.0.len() >= TRIERS {
                return false;
            }
        }
        let (tries, since) = self.0.entry(ip).or_insert((0, now));
        if is_over(*since) {
            (*tries, *since) = (0, now);
        }
        *tries = tries.saturating_add(1);
        *tries <= TRIES
    }

    fn forget(&mut self, ip: IpAddr) {
        self.0.remove(&network(ip));
    }
}

/// What one client has of addresses: by IPv6 a whole network.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Lets operators in and out.
struct Door {
    password: String,
    tries: Mutex<Tries>,
    clock: Clock,
}

#[derive(Deserialize)]
struct LoginForm {
    password: String,
}

#[derive(Deserialize)]
struct LogoutForm {
    csrf: String,
}

impl Door {
    fn new(password: String) -> Self {
        Self { password, tries: Mutex::default(), clock: Clock::start() }
    }

    /// `POST /login`
    async fn login(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        require_own_form(connection)?;
        let LoginForm { password } = connection.body().limit(FORM_BYTES).form().await?;
        let ip = connection.ip();
        // A try counts before it is known to be wrong: those who send many at once have no more of them.
        let may_try = self.tries().take(ip, self.clock.now());
        if !may_try {
            connection.set_header("retry-after", &TRIES_PERIOD.as_secs().to_string())?;
            connection.set_status(429)?;
            return page(connection, "login.html", json!({ "message": "Too many tries, come later." })).await;
        }
        if !is_equal(&password, &self.password) {
            tracing::warn!("{ip} has tried a wrong password");
            connection.set_status(403)?;
            return page(connection, "login.html", json!({ "message": "Wrong password." })).await;
        }
        self.tries().forget(ip);
        let token = random_token()?;
        let session = connection.session().await?;
        session.clear();
        session.renew(); // whoever knew the session before has nothing of the login
        session.insert(OPERATOR, true)?;
        session.insert(CSRF, token)?;
        see(connection, "/").await
    }

    fn tries(&self) -> std::sync::MutexGuard<'_, Tries> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a form that a page of another site has sent. There is no session before the login that could hold a token:
/// whoever likes could fill the room for sessions with it. So this goes by what browsers tell.
fn require_own_form(connection: &HttpConnection) -> Result<(), TrackerError> {
    let Some(origin) = connection.headers().get(ORIGIN) else { return Ok(()) }; // no browser
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match authority {
        Some((_, authority)) if authority.eq_ignore_ascii_case(connection.host()) => Ok(()),
        _ => Err(TrackerError::new(Code::AccessDenied, "the form is one of another site's")),
    }
}

/// `GET /login`
async fn login_form(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    match is_operator(connection).await? {
        true => see(connection, "/").await,
        false => page(connection, "login.html", ()).await,
    }
}

/// `POST /logout`
async fn logout(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    require_operator(connection).await?;
    let form: LogoutForm = connection.body().limit(FORM_BYTES).form().await?;
    let session = connection.session().await?;
    let token: String = session.get(CSRF).unwrap_or_default();
    if token.is_empty() || !is_equal(&form.csrf, &token) {
        return Err(TrackerError::new(Code::AccessDenied, "the form is one of another session's"));
    }
    session.end();
    see(connection, "/login").await
}

/// Answers for paths that lead nowhere.
async fn not_found(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    tell(connection, "There is nothing at this address.").await
}

/// Answers for all other errors.
async fn failed(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    // What went wrong on this side is for the log alone.
    let is_told = connection.status().is_client_error();
    let error = connection.data().get::<TrackerError>().filter(|_| is_told);
    let message = error.map_or("Something went wrong.", TrackerError::message).to_owned();
    tell(connection, &message).await
}

/// Tells of an error in the way that the client reads it.
async fn tell(connection: &mut HttpConnection, message: &str) -> Result<(), TrackerError> {
    if connection.path().starts_with("/api/") {
        return connection.send(json!({ "error": message })).await;
    }
    let status = connection.status();
    let title = format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or_default());
    page(connection, "error.html", json!({ "title": title, "message": message })).await
}

fn templates() -> Result<Templates, TrackerError> {
    Templates::new()
        .add("base.html", include_str!("operators/base.html"))?
        .add("home.html", include_str!("operators/home.html"))?
        .add("login.html", include_str!("operators/login.html"))?
        .add("error.html", include_str!("operators/error.html"))
}

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_target(false).with_writer(io::stderr).init();
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:6969").parse()?;
    let password = std::env::var("GYRE_PASSWORD").unwrap_or_default();
    if password.len() < PASSWORD_MIN_BYTES {
        return Err(format!("GYRE_PASSWORD must be set, to {PASSWORD_MIN_BYTES} bytes or more").into());
    }
    let sessions = Sessions::new(Arc::new(MemoryStore::with_capacity(SESSIONS)))?
        .lifetime(SESSION_LIFETIME)
        .same_site(SameSite::Strict);
    let door = Door::new(password);
    let mut tracker = Tracker::builder()
        .udp(address)
        .http(address)
        .get("/", home)
        .get("/live", live)
        .get("/api/stats", stats)
        .get("/login", login_form)
        .post("/login", async move |connection: &mut HttpConnection| door.login(connection).await)
        .post("/logout", logout)
        .directory("/static", STATIC)
        .error_route(Some(StatusCode::NOT_FOUND), not_found)
        .error_route(None, failed)
        .templates(templates()?)
        .sessions(sessions)
        .log(LogFormat::parse(LogFormat::COMMON)?)
        .listen()?;
    tracing::info!("ready: udp://{} http://{}", tracker.udp_addresses()[0], tracker.http_addresses()[0]);
    while !tracker.wait(Duration::from_secs(1))? {}
    Ok(())
}
