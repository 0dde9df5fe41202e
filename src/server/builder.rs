//! Owns the builder of a tracker: its configuration, middleware and site.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::{Bound, Inherited, Tracker};
use crate::config::{Config, Cores, Listen};
use crate::engine::middleware::{Chain, Middleware};
use crate::error::ServerError;
use crate::web::log::LogFormat;
#[cfg(feature = "sessions")]
use crate::web::session::Sessions;
#[cfg(feature = "templates")]
use crate::web::templates::Templates;
use crate::web::{Directory, Handler, Site};

/// A builder for a tracker; [`listen`](Self::listen) starts it.
///
/// ```no_run
/// use std::time::Duration;
/// use gyre::Tracker;
/// use gyre::engine::context::RequestContext;
/// use gyre::engine::middleware::Then;
/// use gyre::web::HttpConnection;
///
/// # fn main() -> Result<(), gyre::error::ServerError> {
/// let mut tracker = Tracker::builder()
///     .udp("0.0.0.0:6969".parse().unwrap())
///     .http("0.0.0.0:6969".parse().unwrap())
///     .middleware(|request: &mut RequestContext<'_>| {
///         tracing::debug!("{:?} from {}", request.action(), request.connection().ip());
///         Ok(Then::Next)
///     })
///     .get("/", async |connection: &mut HttpConnection| connection.send("a tracker\n").await)
///     .listen()?;
/// tracker.wait(Duration::MAX)?;
/// # Ok(())
/// # }
/// ```
pub struct Builder<M = ()> {
    /// Prefix of the thread names.
    name: &'static str,
    config: Config,
    middleware: M,
    site: Site,
    inherited: Inherited,
    spare_descriptors: u64,
    /// The first error. It is returned when the tracker is bound.
    error: Option<ServerError>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            name: "gyre",
            config: Config::default(),
            middleware: (),
            site: Site::default(),
            inherited: Inherited::default(),
            spare_descriptors: 0,
            error: None,
        }
    }
}

impl<M: Middleware + Send> Builder<M> {
    /// Sets the whole configuration. Replaces everything that was set before.
    ///
    /// ```
    /// use gyre::config::{Config, Cores};
    ///
    /// let config = Config { announce_interval_secs: 900, ..Config::default() };
    /// let builder = gyre::Tracker::builder().config(config).cores(Cores::Floating(2));
    /// ```
    pub fn config(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Reserves this number of file descriptors for the rest of the program. If the limit is low, fewer HTTP
    /// connections are allowed.
    ///
    /// ```
    /// let builder = gyre::Tracker::builder().spare_descriptors(100); // connections to a database
    /// ```
    pub fn spare_descriptors(self, spare_descriptors: u64) -> Self {
        Self { spare_descriptors, ..self }
    }

    /// Sets the prefix of the thread names.
    pub(crate) fn name(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Adds an address to serve UDP on. The first one replaces the default addresses.
    pub fn udp(mut self, address: SocketAddr) -> Self {
        add(&mut self.config.udp, address);
        self
    }

    /// Adds an address to serve HTTP on. The first one replaces the default addresses.
    pub fn http(mut self, address: SocketAddr) -> Self {
        add(&mut self.config.http, address);
        self
    }

    /// Sets the cores that the workers run on, or their number.
    pub fn cores(mut self, cores: Cores) -> Self {
        self.config.cores = cores;
        self
    }

    /// Adds a middleware after those added before: a function of the request, a result of
    /// [`from_async`](crate::engine::middleware::from_async), or your own type. Each worker gets a clone.
    pub fn middleware<N: Middleware + Send>(self, middleware: N) -> Builder<Chain<M, N>> {
        Builder {
            name: self.name,
            config: self.config,
            middleware: Chain::new(self.middleware, middleware),
            site: self.site,
            inherited: self.inherited,
            spare_descriptors: self.spare_descriptors,
            error: self.error,
        }
    }

    /// Adds a handler for requests with this method and a path that matches this pattern: `/swarms`, `/swarm/{hash}`,
    /// `/files/{*path}`. A GET handler also answers HEAD. Announces and scrapes always go to the tracker.
    ///
    /// ```
    /// use gyre::web::HttpConnection;
    ///
    /// let swarm = async |connection: &mut HttpConnection| {
    ///     let hash = connection.param("hash").unwrap_or_default().to_owned();
    ///     connection.send(hash).await
    /// };
    /// let builder = gyre::Tracker::builder()
    ///     .route(http::Method::DELETE, "/swarm/{hash}", swarm)
    ///     .get("/swarm/{hash}", swarm)
    ///     .post("/swarm/{hash}", swarm)
    ///     .any("/old/{*path}", async |connection: &mut HttpConnection| connection.error(410).await);
    /// ```
    pub fn route(self, method: Method, pattern: &str, handler: impl Handler) -> Self {
        self.add_route(Some(method), pattern, handler)
    }

    /// Adds a handler for GET; see [`route`](Self::route).
    pub fn get(self, pattern: &str, handler: impl Handler) -> Self {
        self.route(Method::GET, pattern, handler)
    }

    /// Adds a handler for POST; see [`route`](Self::route).
    pub fn post(self, pattern: &str, handler: impl Handler) -> Self {
        self.route(Method::POST, pattern, handler)
    }

    /// Adds a handler for all methods that have no handler of their own; see [`route`](Self::route).
    pub fn any(self, pattern: &str, handler: impl Handler) -> Self {
        self.add_route(None, pattern, handler)
    }

    fn add_route(mut self, method: Option<Method>, pattern: &str, handler: impl Handler) -> Self {
        let added = self.site.route(method, pattern, Arc::new(handler));
        self.note(added.map_err(|error| ServerError::Route(error.to_string())));
        self
    }

    /// Adds a handler for responses with this error status, or with `None`, for all that have no handler of their own.
    /// The connection's data contains the [`TrackerError`](crate::error::TrackerError) that caused it, if there was
    /// one.
    ///
    /// ```
    /// use gyre::error::TrackerError;
    /// use gyre::web::HttpConnection;
    /// use http::StatusCode;
    ///
    /// let builder = gyre::Tracker::builder()
    ///     .error_route(Some(StatusCode::BAD_REQUEST), async |connection: &mut HttpConnection| {
    ///         let reason = connection.data().get::<TrackerError>().map(ToString::to_string);
    ///         connection.send(reason.unwrap_or_default()).await
    ///     })
    ///     .error_route(None, async |connection: &mut HttpConnection| {
    ///         let status = connection.status();
    ///         connection.send(format!("{status}\n")).await
    ///     });
    /// ```
    pub fn error_route(mut self, status: Option<StatusCode>, handler: impl Handler) -> Self {
        self.site.error(status, Arc::new(handler));
        self
    }

    /// Serves the files of a directory below a path prefix. Requests can't leave the directory.
    ///
    /// ```
    /// let builder = gyre::Tracker::builder().directory("/files", "/srv/torrents");
    /// ```
    pub fn directory(mut self, prefix: &str, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let added = match Directory::open(path) {
            Ok(directory) => {
                self.site.directory(prefix, directory).map_err(|error| ServerError::Route(error.to_string()))
            }
            Err(source) => Err(ServerError::Directory { path: path.to_owned(), source }),
        };
        self.note(added);
        self
    }

    /// Logs each HTTP request except announces and scrapes, whatever its result, as an event with level `INFO` and
    /// target `gyre::web`.
    ///
    /// ```
    /// use gyre::web::log::LogFormat;
    ///
    /// # fn main() -> Result<(), gyre::error::TrackerError> {
    /// let builder = gyre::Tracker::builder().log(LogFormat::parse(LogFormat::COMMON)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn log(mut self, format: LogFormat) -> Self {
        self.site.set_log(format);
        self
    }

    /// Uses existing sockets, as far as they match the configuration, and takes over from their tracker, if any.
    /// [`Bound::rest`] returns the remaining sockets for the next tracker of the process.
    ///
    /// ```no_run
    /// use gyre::server::Inherited;
    ///
    /// # fn main() -> Result<(), gyre::error::ServerError> {
    /// let inherited = Inherited::from_service_manager()?.take_over("/var/lib/gyre".as_ref())?;
    /// let builder = gyre::Tracker::builder().inherit(inherited);
    /// # Ok(())
    /// # }
    /// ```
    pub fn inherit(self, inherited: Inherited) -> Self {
        Self { inherited, ..self }
    }

    fn note(&mut self, result: Result<(), ServerError>) {
        self.error = self.error.take().or(result.err());
    }

    /// Binds all sockets and starts all workers. They serve when this returns.
    ///
    /// # Errors
    ///
    /// [`ServerError`], with the reason and how to fix it. Workers that were started are told to end.
    pub fn listen(self) -> Result<Tracker, ServerError> {
        let mut tracker = self.bind()?.start()?;
        tracker.succeed()?;
        Ok(tracker)
    }

    /// Binds all sockets. [`start`](Bound::start) starts the workers.
    ///
    /// ```
    /// # fn main() -> Result<(), gyre::error::ServerError> {
    /// let bound = gyre::Tracker::builder().http("127.0.0.1:0".parse().unwrap()).bind()?;
    /// // A process that runs as root only to bind its ports can switch to another user here.
    /// let mut tracker = bound.start()?;
    /// # tracker.stop();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ServerError`], with the reason and how to fix it.
    pub fn bind(self) -> Result<Bound<M>, ServerError> {
        match self.error {
            Some(error) => Err(error),
            None => {
                let Self { name, config, middleware, site, inherited, spare_descriptors, .. } = self;
                Bound::new(name, config, middleware, site, inherited, spare_descriptors)
            }
        }
    }
}

#[cfg(feature = "templates")]
impl<M> Builder<M> {
    /// Has handlers render these templates.
    ///
    /// ```
    /// use gyre::web::HttpConnection;
    /// use gyre::web::templates::Templates;
    ///
    /// let builder = gyre::Tracker::builder()
    ///     .templates(Templates::directory("/srv/templates"))
    ///     .get("/", async |connection: &mut HttpConnection| connection.render("index.html", ()).await);
    /// ```
    pub fn templates(mut self, templates: Templates) -> Self {
        self.site.set_templates(templates);
        self
    }
}

#[cfg(feature = "sessions")]
impl<M> Builder<M> {
    /// Keeps sessions.
    ///
    /// ```
    /// use gyre::web::session::{MemoryStore, Sessions};
    /// use std::sync::Arc;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let builder = gyre::Tracker::builder().sessions(Sessions::new(Arc::new(MemoryStore::new()))?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.site.set_sessions(sessions);
        self
    }
}

fn add(listen: &mut Listen, address: SocketAddr) {
    match listen {
        Listen::At(addresses) => addresses.push(address),
        _ => *listen = Listen::At(vec![address]),
    }
}
