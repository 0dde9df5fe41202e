//! Owns how a tracker is put together: its configuration, its middleware, its site.

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

/// A tracker that is being put together; [`listen`](Self::listen) starts it.
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
    /// What its threads are named after.
    name: &'static str,
    config: Config,
    middleware: M,
    site: Site,
    inherited: Inherited,
    spare_descriptors: u64,
    /// What went wrong first; it is said when the tracker is to start.
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
    /// Takes a whole configuration, in place of what was set so far.
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

    /// Leaves so many file descriptors to the rest of the program: connections get fewer where they are few.
    ///
    /// ```
    /// let builder = gyre::Tracker::builder().spare_descriptors(100); // connections to a database
    /// ```
    pub fn spare_descriptors(self, spare_descriptors: u64) -> Self {
        Self { spare_descriptors, ..self }
    }

    /// Names the threads.
    pub(crate) fn name(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Serves UDP here, and at the other addresses that are named so, instead of at the default ones.
    pub fn udp(mut self, address: SocketAddr) -> Self {
        add(&mut self.config.udp, address);
        self
    }

    /// Serves HTTP here, and at the other addresses that are named so, instead of at the default ones.
    pub fn http(mut self, address: SocketAddr) -> Self {
        add(&mut self.config.http, address);
        self
    }

    /// Runs a worker on each of these cores, or as many as are said.
    pub fn cores(mut self, cores: Cores) -> Self {
        self.config.cores = cores;
        self
    }

    /// Adds a middleware after those that were added before: a function of the request, what
    /// [`from_async`](crate::engine::middleware::from_async) makes, or a type of one's own. Each worker gets a clone.
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

    /// Has a handler answer the requests of this method, for paths of this pattern: `/swarms`, `/swarm/{hash}`,
    /// `/files/{*path}`. GET answers HEAD too. Announces and scrapes are the tracker's in any case.
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

    /// The same for GET.
    pub fn get(self, pattern: &str, handler: impl Handler) -> Self {
        self.route(Method::GET, pattern, handler)
    }

    /// The same for POST.
    pub fn post(self, pattern: &str, handler: impl Handler) -> Self {
        self.route(Method::POST, pattern, handler)
    }

    /// The same for any method that has no handler of its own.
    pub fn any(self, pattern: &str, handler: impl Handler) -> Self {
        self.add_route(None, pattern, handler)
    }

    fn add_route(mut self, method: Option<Method>, pattern: &str, handler: impl Handler) -> Self {
        let added = self.site.route(method, pattern, Arc::new(handler));
        self.note(added.map_err(|error| ServerError::Route(error.to_string())));
        self
    }

    /// Has a handler answer what ends with this status; `None`: with any that has no handler of its own. It finds the
    /// [`TrackerError`](crate::error::TrackerError) that led to it, if there was one, among the connection's data.
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

    /// Serves the files of a directory below a path; no request leaves the directory.
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

    /// Logs each request that is not the tracker's own, whatever becomes of it, as an event of level `INFO` and target
    /// `gyre::web`.
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

    /// Takes sockets that are there already, as far as they are those of the configuration, and with them another
    /// tracker's place; what is left of them, [`Bound::rest`] gives to the next tracker of the process.
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

    /// Binds all sockets and starts all workers. When this returns, they serve.
    ///
    /// # Errors
    ///
    /// [`ServerError`], which says what failed and what may help. Workers that had started are asked to end.
    pub fn listen(self) -> Result<Tracker, ServerError> {
        let mut tracker = self.bind()?.start()?;
        tracker.succeed()?;
        Ok(tracker)
    }

    /// Binds all sockets, so that only the workers are left to [`start`](Bound::start).
    ///
    /// ```
    /// # fn main() -> Result<(), gyre::error::ServerError> {
    /// let bound = gyre::Tracker::builder().http("127.0.0.1:0".parse().unwrap()).bind()?;
    /// // A process that is root's for the sake of its ports would become another user's here.
    /// let mut tracker = bound.start()?;
    /// # tracker.stop();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ServerError`], which says what failed and what may help.
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
