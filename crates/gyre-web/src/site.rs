//! Owns a site: the routes that a program adds to the tracker's, what they share, and how a request reaches its
//! handler.

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
#[cfg(feature = "sessions")]
use crate::session::Sessions;
#[cfg(feature = "templates")]
use crate::templates::Templates;
use crate::transport::Transport;
use gyre_core::counters::{Counters, Published};
use gyre_core::engine::route::Route as TrackerRoute;
use gyre_core::error::{Code, TrackerError};

/// Answers the requests of a route: an async function of the connection. All workers share it, so its state must be
/// [`Sync`]. Its futures stay on the worker of the connection.
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
    /// The client gets the error through the error route, if no response was sent yet.
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

/// Serves the files of a directory.
struct Files {
    /// The URL path of the directory, without a slash at its end.
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
                    // Some clients send control characters and non-ASCII characters unencoded.
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
    #[cfg(feature = "templates")]
    templates: Option<Templates>,
    #[cfg(feature = "sessions")]
    sessions: Option<Sessions>,
    /// Format in which each request is logged. `None`: requests are not logged.
    log: Option<LogFormat>,
    /// The counters of each of the tracker's workers.
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

/// What the worker must do with the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The connection stays open.
    pub keep_alive: bool,
    /// Number of bytes that follow and belong to the body that the handler did not read.
    pub skip_bytes: u64,
}

impl Site {
    /// Adds a route; `None` is any method. For a tracker's site the `Builder` calls this. A program that serves a site
    /// through another [`Transport`] calls it itself.
    ///
    /// # Errors
    ///
    /// The pattern is invalid, or conflicts with that of another route.
    pub fn route(
        &mut self,
        method: Option<Method>,
        pattern: &str,
        handler: Arc<dyn Handler>,
    ) -> Result<(), RouteError> {
        self.has_routes = true;
        self.router.add(method, pattern, handler)
    }

    /// Sets the error route of a status, or with `None` of every status that has no error route.
    pub fn error(&mut self, status: Option<StatusCode>, handler: Arc<dyn Handler>) {
        self.errors.retain(|(known, _)| *known != status);
        self.errors.push((status, handler));
    }

    /// Serves the files of a directory below a path.
    ///
    /// # Errors
    ///
    /// The path is invalid as a pattern, or conflicts with that of another route.
    pub fn directory(&mut self, prefix: &str, directory: Directory) -> Result<(), RouteError> {
        let prefix = prefix.trim_end_matches('/');
        let files: Arc<dyn Handler> = Arc::new(Files { prefix: prefix.to_owned(), directory });
        self.route(Some(Method::GET), &format!("{prefix}/"), files.clone())?;
        self.route(Some(Method::GET), &format!("{prefix}/{{*path}}"), files)
    }

    /// Logs each request in this format.
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

    pub(super) fn error_route(&self, status: StatusCode) -> Option<Arc<dyn Handler>> {
        let of = |wanted| self.errors.iter().find(|(known, _)| *known == wanted);
        of(Some(status)).or_else(|| of(None)).map(|(_, handler)| handler.clone())
    }

    /// Returns whether the site answers this request, rather than the tracker. False if the site has no routes.
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
            tracing::warn!(target: "gyre::web", "{}: the response was cut off: {error}", connection.path());
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
                Err(TrackerError::incorrect_request("the path has an invalid percent escape"))
            }
            Match::MethodNotAllowed { allow } => {
                connection.allow(&allow);
                if connection.method() == Method::OPTIONS {
                    connection.set_status(204)?;
                    return Ok(());
                }
                Err(TrackerError::new(Code::MethodNotAllowed, "method not allowed"))
            }
        };
        let (handler, params) = found?;
        connection.set_params(params);
        handler.handle(connection).await
    }
}

#[cfg(feature = "templates")]
impl Site {
    /// Sets the templates that [`HttpConnection::render`] uses.
    pub fn set_templates(&mut self, templates: Templates) {
        self.templates = Some(templates);
    }

    pub(super) fn templates(&self) -> Result<Templates, TrackerError> {
        self.templates.clone().ok_or_else(|| TrackerError::internal("the site has no templates"))
    }
}

#[cfg(feature = "sessions")]
impl Site {
    /// Sets how [`HttpConnection::session`] keeps sessions.
    pub fn set_sessions(&mut self, sessions: Sessions) {
        self.sessions = Some(sessions);
    }

    pub(super) fn sessions(&self) -> Result<&Sessions, TrackerError> {
        self.sessions.as_ref().ok_or_else(|| TrackerError::internal("the site has no sessions"))
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("has_routes", &self.has_routes).finish_non_exhaustive()
    }
}
