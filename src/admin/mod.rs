//! Owns the admin listener: a tracker beside the tracker, for HTTP alone, whose site shows what the other one does and
//! lets its lists be changed. It has a worker of its own, so that no page takes the other workers' time.
//!
//! | path | what it is |
//! |---|---|
//! | `/` | the live page |
//! | `/metrics` | for Prometheus ([`metrics`]) |
//! | `/api/stats`, `/api/events` | the same for programs, once or each second ([`stats`]) |
//! | `/api/swarms`, `/api/swarms/{info_hash}`, `/api/full-scrape`, `/api/clients` | the swarms and who announces |
//! | `/api/lists` ... | the lists: read by all, changed by who has the token |
//! | `/api/doctor` | what the doctor says of this machine |
//! | `/api/openapi.json` | a description of all this |
//!
//! Whoever reaches the listener reads; what changes something needs the token ([`token`]).

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

/// What an operator decides about the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it is.
    pub address: SocketAddr,
    /// The file that holds the token; `None`: one in the state directory, if there is one.
    pub token_file: Option<PathBuf>,
}

/// What the handlers see of the tracker.
struct Watched {
    handle: Handle,
    /// What it was started with.
    config: Config,
    token: Option<Token>,
    surveys: Surveys,
    /// What the doctor has found.
    findings: Kept<str>,
}

type Done = Result<(), TrackerError>;

/// An admin listener that has its socket.
pub struct Admin<M> {
    bound: Bound<M>,
    watched: Arc<OnceLock<Watched>>,
    token_file: Option<PathBuf>,
}

/// Binds the admin listener, unless its socket is among those that were inherited.
///
/// # Errors
///
/// [`ServerError::Admin`]: it can't be.
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
        Err(TrackerError::new(Code::AccessDenied, "this is the admin listener, and no tracker"))
    };
    let builder = Tracker::builder().config(settings).name("gyre-admin").middleware(no_tracker);
    let builder = builder.inherit(std::mem::take(inherited));
    let mut bound = routes(builder, &watched).bind().map_err(ServerError::admin)?;
    *inherited = bound.rest();
    Ok(Admin { bound, watched, token_file: config.token_file.clone() })
}

impl<M: Middleware + Send> Admin<M> {
    /// Serves what this tracker does, which was started with this configuration. It ends when what this returns goes.
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
        assert!(self.watched.set(watched).is_ok(), "it is set once, before anybody asks");
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

/// The description of the interface (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// A handler that sees the tracker.
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

/// `GET /api/events`: the same each second, as server-sent events.
async fn events(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let mut events = connection.events().await?;
    loop {
        let stats = serde_json::to_string(&Stats::of(&watched.handle)).map_err(TrackerError::internal)?;
        events.send(&Event::new(stats).name("stats")).await?;
        tokio::time::sleep(std::time::Duration::from_millis(ADMIN_EVENT_INTERVAL_MS)).await;
    }
}

/// What becomes of errors: `{"error": "..."}`.
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

/// What is sent is as of now, and nobody's to keep.
fn no_store(connection: &mut HttpConnection) -> Done {
    connection.set_cache(Some(&CacheControl::new().no_store()))
}

/// Refuses who has not the token.
fn require_token(watched: &Watched, connection: &mut HttpConnection) -> Done {
    let Some(token) = &watched.token else {
        let words =
            "nothing can be changed without a token: --admin-token-file names one, --state-dir keeps one";
        return Err(TrackerError::new(Code::AccessDenied, words));
    };
    let given = connection.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    if given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case("Bearer") && token.is(given.trim())) {
        return Ok(());
    }
    connection.set_header("www-authenticate", "Bearer")?;
    Err(TrackerError::new(Code::Unauthorized, "`Authorization: Bearer TOKEN` is needed to change something"))
}
