//! Owns the admin listener: a second tracker that serves HTTP only, whose site shows the state of the first one and
//! changes its lists. It has its own worker, so that its pages take no time from the tracker's workers.
//!
//! | path | content |
//! |---|---|
//! | `/` | the live page |
//! | `/metrics` | metrics for Prometheus ([`metrics`]) |
//! | `/api/stats`, `/api/events` | statistics as JSON, once or each second ([`stats`]) |
//! | `/api/swarms`, `/api/swarms/{info_hash}`, `/api/full-scrape`, `/api/clients` | the swarms and the clients |
//! | `/api/lists` ... | the lists: anyone can read them, a change needs the token |
//! | `/api/doctor` | the findings of the doctor on this machine |
//! | `/api/openapi.json` | a description of this API |
//!
//! Anyone who can reach the listener can read. Requests that change something need the token ([`token`]).

mod doctor;
mod kept;
mod lists;
pub mod metrics;
mod page;
pub mod stats;
pub(crate) mod swarms;
pub mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use http::Method;
use serde_json::json;

use crate::config::{Config, Cores, Listen};
use crate::engine::context::RequestContext;
use crate::engine::middleware::Middleware;
use crate::error::{Code, ServerError, TrackerError};
use crate::limits::{ADMIN_CONNECTIONS, ADMIN_EVENT_INTERVAL_MS, ADMIN_MEMORY_BYTES};
use crate::server::{Bound, Builder, Handle, Inherited, Tracker};
use crate::web::cache::CacheControl;
use crate::web::{Event, Handler, HttpConnection};
use kept::Kept;
use stats::Stats;
use swarms::Surveys;
use token::Token;

/// Settings of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The file that holds the token. `None`: the one in the state directory, if there is a state directory.
    pub token_file: Option<PathBuf>,
}

/// What the handlers can access.
struct Watched {
    handle: Handle,
    /// The configuration that the tracker was started with.
    config: Config,
    token: Option<Token>,
    surveys: Surveys,
    /// The last findings of the doctor.
    findings: Kept<str>,
}

type Done = Result<(), TrackerError>;

/// A bound admin listener that does not serve yet.
pub struct Admin<M> {
    bound: Bound<M>,
    watched: Arc<OnceLock<Watched>>,
    token_file: Option<PathBuf>,
}

/// Binds the admin listener, or takes its socket from `inherited` if it is there.
///
/// # Errors
///
/// [`ServerError::Admin`] if it can't be bound.
pub fn bind(
    config: &AdminConfig,
    inherited: &mut Inherited,
) -> Result<Admin<impl Middleware + Send + use<>>, ServerError> {
    let watched = Arc::new(OnceLock::new());
    let settings = Config {
        udp: Listen::At(Vec::new()),
        http: Listen::At(vec![config.address]),
        cores: Cores::Floating(1),
        max_memory_bytes: Some(ADMIN_MEMORY_BYTES),
        http_connections: Some(ADMIN_CONNECTIONS),
        ..Config::default()
    };
    let no_tracker = |_: &mut RequestContext<'_>| {
        Err(TrackerError::new(Code::AccessDenied, "this is the admin listener, not a tracker"))
    };
    let builder = Tracker::builder().config(settings).name("gyre-admin").middleware(no_tracker);
    let builder = builder.inherit(std::mem::take(inherited));
    let mut bound = routes(builder, &watched).bind().map_err(ServerError::admin)?;
    *inherited = bound.rest();
    Ok(Admin { bound, watched, token_file: config.token_file.clone() })
}

impl<M: Middleware + Send> Admin<M> {
    /// Serves the state of the tracker `of`, which was started with `config`, until the returned [`Tracker`] is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`ServerError::Admin`]: the token can't be read, or the worker doesn't start.
    pub fn start(self, of: &Tracker, config: &Config) -> Result<Tracker, ServerError> {
        let token = Token::find(self.token_file.as_deref(), config.state_dir.as_deref());
        let watched = Watched {
            handle: of.handle(),
            config: config.clone(),
            token: token.map_err(ServerError::admin)?,
            surveys: Surveys::default(),
            findings: Kept::default(),
        };
        assert!(self.watched.set(watched).is_ok(), "it is set only here, before the worker starts");
        self.bound.start().map_err(ServerError::admin)
    }
}

fn routes<M: Middleware + Send>(builder: Builder<M>, watched: &Arc<OnceLock<Watched>>) -> Builder<M> {
    page::routes(builder)
        .get("/metrics", with(watched, metrics))
        .get("/api/stats", with(watched, stats))
        .get("/api/events", with(watched, events))
        .get("/api/swarms", with(watched, swarms::largest))
        .get("/api/swarms/{info_hash}", with(watched, swarms::one))
        .get("/api/full-scrape", with(watched, swarms::scrape))
        .get("/api/clients", with(watched, swarms::clients))
        .get("/api/doctor", with(watched, doctor::examine))
        .get("/api/lists", with(watched, lists::all))
        .get("/api/lists/{name}", with(watched, lists::read))
        .route(Method::PUT, "/api/lists/{name}", with(watched, lists::replace))
        .post("/api/lists/{name}", with(watched, lists::add))
        .route(Method::DELETE, "/api/lists/{name}", with(watched, lists::delete))
        .route(Method::DELETE, "/api/lists/{name}/{*entry}", with(watched, lists::remove))
        .get("/api/openapi.json", async |connection: &mut HttpConnection| {
            connection.set_content_type("application/json")?;
            connection.send(OPENAPI).await
        })
        .error_route(None, error)
}

/// The description of the API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// Wraps a handler that gets the shared state.
fn with<F>(watched: &Arc<OnceLock<Watched>>, handler: F) -> impl Handler
where
    F: for<'a> AsyncFn(&'a Watched, &'a mut HttpConnection) -> Done + Send + Sync + 'static,
{
    let watched = watched.clone();
    async move |connection: &mut HttpConnection| {
        handler(watched.get().expect("it is set before the worker starts"), connection).await
    }
}

/// `GET /metrics`
async fn metrics(watched: &Watched, connection: &mut HttpConnection) -> Done {
    connection.set_content_type(metrics::CONTENT_TYPE)?;
    no_store(connection)?;
    connection.send(metrics::text(&watched.handle)).await
}

/// `GET /api/stats`
async fn stats(watched: &Watched, connection: &mut HttpConnection) -> Done {
    send_json(connection, &Stats::of(&watched.handle)).await
}

/// `GET /api/events`: the statistics of `/api/stats` each second, as server-sent events.
async fn events(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let mut events = connection.events().await?;
    loop {
        let stats = serde_json::to_string(&Stats::of(&watched.handle)).map_err(TrackerError::internal)?;
        events.send(&Event::new(stats).name("stats")).await?;
        tokio::time::sleep(std::time::Duration::from_millis(ADMIN_EVENT_INTERVAL_MS)).await;
    }
}

/// Turns errors into `{"error": "..."}`.
async fn error(connection: &mut HttpConnection) -> Done {
    let status = connection.status();
    let words = connection.data().get::<TrackerError>().map(|error| error.message().to_owned());
    let words = words.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned());
    no_store(connection)?;
    connection.send(json!({ "error": words })).await
}

async fn send_json(connection: &mut HttpConnection, value: &impl serde::Serialize) -> Done {
    no_store(connection)?;
    connection.send(serde_json::to_value(value).map_err(TrackerError::internal)?).await
}

/// Forbids caches to store the response.
fn no_store(connection: &mut HttpConnection) -> Done {
    connection.set_cache(Some(&CacheControl::new().no_store()))
}

/// Refuses requests that do not carry the token.
fn require_token(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let Some(token) = &watched.token else {
        let words =
            "changes are disabled because there is no token; start with --admin-token-file or --state-dir";
        return Err(TrackerError::new(Code::AccessDenied, words));
    };
    let given = connection.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    if given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case("Bearer") && token.is(given.trim())) {
        return Ok(());
    }
    connection.set_header("www-authenticate", "Bearer")?;
    Err(TrackerError::new(Code::Unauthorized, "this request needs the header `Authorization: Bearer TOKEN`"))
}
