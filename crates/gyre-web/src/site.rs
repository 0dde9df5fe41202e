//! Owns a site: the routes that a program adds beside the tracker's, what they share, and the way of a request to its
//! handler and back.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use futures_core::future::LocalBoxFuture;
use http::{Method, StatusCode};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::HttpConnection;
use crate::files::{Directory, Found};
use crate::head::RequestHead;
use crate::log::LogFormat;
use crate::router::{Match, RouteError, Router};
use crate::session::Sessions;
use crate::templates::Templates;
use crate::transport::Transport;
use gyre_core::counters::{Counters, Published};
use gyre_core::engine::route::Route as TrackerRoute;
use gyre_core::error::{Code, TrackerError};

/// What answers the requests of a route: an async function of the connection. All workers share it, so what it keeps
/// must be [`Sync`]; its futures stay on the worker of the connection.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::HttpConnection;
///
/// let greeting = String::from("hello");
/// let handler = async move |connection: &mut HttpConnection| connection.send(greeting.clone()).await;
/// # fn is_handler(_: impl gyre::web::Handler) {}
/// # is_handler(handler);
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Answers a request.
    ///
    /// # Errors
    ///
    /// What the client is told by the error's route, if nothing was sent yet.
    fn handle<'a>(
        &'a self,
        connection: &'a mut HttpConnection,
    ) -> LocalBoxFuture<'a, Result<(), TrackerError>>;
}

impl<F> Handler for F
where
    F: AsyncFn(&mut HttpConnection) -> Result<(), TrackerError> + Send + Sync + 'static,
{
    fn handle<'a>(
        &'a self,
        connection: &'a mut HttpConnection,
    ) -> LocalBoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(self(connection))
    }
}

/// The files of a directory.
struct Files {
    /// What the path starts with, without its last slash.
    prefix: String,
    directory: Directory,
}

impl Handler for Files {
    fn handle<'a>(
        &'a self,
        connection: &'a mut HttpConnection,
    ) -> LocalBoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async move {
            let below = connection.path().strip_prefix(&self.prefix).unwrap_or_default();
            match self.directory.find(below.strip_prefix('/').unwrap_or_default()).await? {
                Found::File(file) => connection.send_file(file).await,
                Found::Directory => {
                    let mut location = format!("{}/", connection.path());
                    if let Some(query) = connection.request().uri.query() {
                        location = format!("{location}?{query}");
                    }
                    // Some clients send such paths as they were typed.
                    let location = utf8_percent_encode(&location, CONTROLS).to_string();
                    connection.redirect(&location, true).await
                }
            }
        })
    }
}

/// The routes of a program, and what they share.
#[derive(Default)]
pub struct Site {
    router: Router<Arc<dyn Handler>>,
    errors: Vec<(Option<StatusCode>, Arc<dyn Handler>)>,
    templates: Option<Templates>,
    sessions: Option<Sessions>,
    /// How each request is logged, if it is.
    log: Option<LogFormat>,
    /// What each worker of the tracker has counted.
    published: Vec<Arc<Published>>,
    has_routes: bool,
}

/// A request, as the worker hands it over.
#[derive(Debug)]
pub struct SiteRequest {
    /// Its head.
    pub head: RequestHead,
    /// Address of the client; behind a trusted proxy, the address that the proxy names.
    pub ip: IpAddr,
    /// The client uses HTTPS, as a trusted proxy says.
    pub is_https: bool,
    /// Client and server want to keep the connection.
    pub keep_alive: bool,
}

/// What is left to do with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// It stays open.
    pub keep_alive: bool,
    /// So much of what follows is body that nobody wanted.
    pub skip_bytes: u64,
}

impl Site {
    /// Adds a route; `None` is any method. A tracker's own site has its routes from the
    /// `Builder`; one that is served by another [`Transport`] has them from here.
    ///
    /// # Errors
    ///
    /// The pattern is invalid, or another route has it.
    pub fn route(
        &mut self,
        method: Option<Method>,
        pattern: &str,
        handler: Arc<dyn Handler>,
    ) -> Result<(), RouteError> {
        self.has_routes = true;
        self.router.add(method, pattern, handler)
    }

    /// Adds the route of a status, or of all errors that have none of their own.
    pub fn error(&mut self, status: Option<StatusCode>, handler: Arc<dyn Handler>) {
        self.errors.retain(|(known, _)| *known != status);
        self.errors.push((status, handler));
    }

    /// Serves the files of a directory below a path.
    ///
    /// # Errors
    ///
    /// The path is invalid as a pattern, or another route has it.
    pub fn directory(&mut self, prefix: &str, directory: Directory) -> Result<(), RouteError> {
        let prefix = prefix.trim_end_matches('/');
        let files: Arc<dyn Handler> = Arc::new(Files { prefix: prefix.to_owned(), directory });
        self.route(Some(Method::GET), &format!("{prefix}/"), files.clone())?;
        self.route(Some(Method::GET), &format!("{prefix}/{{*path}}"), files)
    }

    /// Sets the templates that [`HttpConnection::render`] takes from.
    pub fn set_templates(&mut self, templates: Templates) {
        self.templates = Some(templates);
    }

    /// Keeps sessions.
    pub fn set_sessions(&mut self, sessions: Sessions) {
        self.sessions = Some(sessions);
    }

    /// Logs each request, in this format.
    pub fn set_log(&mut self, format: LogFormat) {
        self.log = Some(format);
    }

    /// Sets the counters that [`HttpConnection::counters`] reads, one set for each worker.
    pub fn set_published(&mut self, published: Vec<Arc<Published>>) {
        self.published = published;
    }

    pub(super) fn counters(&self) -> Vec<Counters> {
        self.published.iter().map(|published| published.read()).collect()
    }

    pub(super) fn templates(&self) -> Result<Templates, TrackerError> {
        self.templates.clone().ok_or_else(|| TrackerError::internal("the site has no templates"))
    }

    pub(super) fn sessions(&self) -> Result<&Sessions, TrackerError> {
        self.sessions.as_ref().ok_or_else(|| TrackerError::internal("the site has no sessions"))
    }

    pub(super) fn error_route(&self, status: StatusCode) -> Option<Arc<dyn Handler>> {
        let of = |wanted| self.errors.iter().find(|(known, _)| *known == wanted);
        of(Some(status)).or_else(|| of(None)).map(|(_, handler)| handler.clone())
    }

    /// Whether a request is the site's to answer: what is not the tracker's, if there is a site at all.
    pub fn serves(&self, route: &TrackerRoute<'_>, path: &str) -> bool {
        self.has_routes
            && match route {
                TrackerRoute::Announce { .. } | TrackerRoute::Scrape { .. } => false,
                TrackerRoute::Health => matches!(self.router.find(&Method::GET, path), Match::Found { .. }),
                TrackerRoute::NotFound => true,
            }
    }

    /// Answers a request.
    pub async fn serve(self: &Arc<Self>, transport: Rc<dyn Transport>, mut request: SiteRequest) -> Served {
        let malformed = request.head.malformed.take();
        let mut connection = HttpConnection::new(self, transport, request);
        if let Some(format) = &self.log {
            connection.log(format.clone(), &[], None);
        }
        let answered = match malformed {
            None => self.answer(&mut connection).await,
            Some(error) => {
                connection.end_after_response();
                Err(error)
            }
        };
        let answered = match answered {
            Err(error) if !connection.sent() && error.code() != Code::ConnectionClosed => {
                connection.fail(error).await
            }
            Ok(()) if !connection.sent() && !connection.is_closed() => connection.send(()).await,
            answered => answered,
        };
        if let Err(error) = &answered
            && error.code() != Code::ConnectionClosed
        {
            tracing::warn!(target: "gyre::web", "{} broke off: {error}", connection.path());
        }
        if let Err(error) = connection.store_session().await {
            tracing::warn!(target: "gyre::web", "a session was not stored: {error}");
        }
        connection.served()
    }

    async fn answer(&self, connection: &mut HttpConnection) -> Result<(), TrackerError> {
        let found = match self.router.find(connection.method(), connection.path()) {
            Match::Found { handler, params } => Ok((handler.clone(), params)),
            Match::NotFound => Err(TrackerError::new(Code::NotFound, "there is nothing at this path")),
            Match::BadEscape => {
                Err(TrackerError::incorrect_request("the path has an escape that stands for nothing"))
            }
            Match::MethodNotAllowed { allow } => {
                connection.allow(&allow);
                if connection.method() == Method::OPTIONS {
                    connection.set_status(204)?;
                    return Ok(());
                }
                Err(TrackerError::new(Code::MethodNotAllowed, "not by this method"))
            }
        };
        let (handler, params) = found?;
        connection.set_params(params);
        handler.handle(connection).await
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("has_routes", &self.has_routes).finish_non_exhaustive()
    }
}
