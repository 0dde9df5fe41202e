//! Owns the HTTP connection that a handler gets: a request and its response.
//!
//! `request.rs` reads the request, `response.rs` sets the head of the response, and `send.rs`, `file.rs`, `render.rs`
//! and `stream.rs` write it.

#[cfg(feature = "compression")]
mod encoding;
mod end;
mod file;
#[cfg(not(feature = "compression"))]
mod identity;
#[cfg(feature = "templates")]
mod render;
mod request;
mod response;
mod send;
#[cfg(feature = "sessions")]
mod session;
mod stream;

#[cfg(not(feature = "compression"))]
use identity as encoding;

use std::cell::OnceCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode};

pub use stream::{Event, EventStream, ResponseStream};

use crate::body::Incoming;
use crate::cookies::Cookies;
use crate::log::LogFormat;
use crate::query::Query;
use crate::router::Params;
#[cfg(feature = "sessions")]
use crate::session::Session;
use crate::site::{Site, SiteRequest};
use crate::transport::Transport;
use gyre_core::counters::Counters;
use gyre_core::data::Data;
use gyre_core::error::{Code, TrackerError};
use gyre_core::time::Timestamp;

/// An HTTP request to a route of the program, and its response.
///
/// A handler gets it as `&mut HttpConnection`, reads the request, sets the head of the response, and sends. If a
/// handler returns without having sent a response, the site sends one: an empty body, or the error that the handler
/// returned, through the error route.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::error::TrackerError;
/// use gyre::web::HttpConnection;
///
/// async fn greet(connection: &mut HttpConnection) -> Result<(), TrackerError> {
///     let name = connection.param("name").unwrap_or("stranger").to_owned();
///     connection.set_header("x-greeted", &name)?;
///     connection.send(format!("Hello, {name}!\n")).await
/// }
/// # fn is_handler(_: impl gyre::web::Handler) {}
/// # is_handler(greet);
/// ```
pub struct HttpConnection {
    request: Parts,
    ip: IpAddr,
    is_https: bool,
    host: String,
    params: Params,
    query: OnceCell<Query>,
    cookies: OnceCell<Cookies>,
    incoming: Incoming,
    data: Data,
    #[cfg(feature = "sessions")]
    session: Option<Session>,
    response: ResponseHead,
    progress: Progress,
    /// Whether the connection stays open after the response.
    keep_alive: bool,
    /// The handler has called [`HttpConnection::close`]: the site sends no response in its place.
    closed: bool,
    /// An error route is running.
    in_error: bool,
    /// Number of bytes of the response body that were written.
    sent_bytes: u64,
    log: Vec<PendingLog>,
    started: Timestamp,
    site: Arc<Site>,
    transport: Rc<dyn Transport>,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Its status. Default: 200.
    pub status: StatusCode,
    /// Its header fields. Those that frame the body are added when it is written.
    pub headers: HeaderMap,
}

/// Progress of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The head can still be changed.
    Open,
    /// The head is written, the body not completely.
    Begun,
    /// All of it is written.
    Sent,
}

/// Receives a line of the log.
pub type Logger = Box<dyn FnOnce(&str)>;

/// A log line that is written at the end of the request.
struct PendingLog {
    format: LogFormat,
    tokens: Vec<(String, String)>,
    logger: Option<Logger>,
}

impl HttpConnection {
    pub(super) fn new(site: &Arc<Site>, transport: Rc<dyn Transport>, request: SiteRequest) -> Self {
        let SiteRequest { head, ip, is_https, keep_alive } = request;
        let incoming = Incoming::new(transport.clone(), head.framing, head.expects_continue);
        Self {
            request: head.parts,
            ip,
            is_https,
            host: head.host,
            params: Params::default(),
            query: OnceCell::new(),
            cookies: OnceCell::new(),
            incoming,
            data: Data::default(),
            #[cfg(feature = "sessions")]
            session: None,
            response: ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() },
            progress: Progress::Open,
            keep_alive,
            closed: false,
            in_error: false,
            sent_bytes: 0,
            log: Vec::new(),
            started: transport.now(),
            site: site.clone(),
            transport,
        }
    }

    /// Returns the data that the handler attaches to this request, one value per type.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// struct User(u64);
    ///
    /// connection.data_mut().insert(User(7));
    /// let user = connection.data().get::<User>().map(|user| user.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Returns mutable access to the attached data.
    pub fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }

    /// Returns the counters of each of the tracker's workers, like `Tracker::counters`. Workers publish them four times
    /// a second.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// use gyre::counters::Counter;
    /// use gyre::web::HttpConnection;
    ///
    /// async fn swarms(connection: &mut HttpConnection) -> Result<(), gyre::error::TrackerError> {
    ///     let swarms: u64 = connection.counters().iter().map(|worker| worker.get(Counter::Swarms)).sum();
    ///     connection.send(format!("{swarms} swarms\n")).await
    /// }
    /// ```
    pub fn counters(&self) -> Vec<Counters> {
        self.site.counters()
    }

    /// Returns whether the client has closed the connection. Then nothing can be sent.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// for part in 0..1_000 {
    ///     if connection.is_aborted() {
    ///         break; // the client won't read the rest
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_aborted(&self) -> bool {
        self.transport.is_aborted()
    }

    /// Waits until the client has closed the connection. Await it together with what the response waits for. The
    /// closing is not noticed while more than [`WEB_INPUT_BYTES`](crate::limits::WEB_INPUT_BYTES) of input are unread.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let second = std::time::Duration::from_secs(1);
    /// while tokio::time::timeout(second, connection.aborted()).await.is_err() {
    ///     // The client is still there.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn aborted(&self) {
        std::future::poll_fn(|context| match self.transport.poll_gone(context) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .await;
    }

    /// Sets how long the handler may run without a byte being read or written. After this time the connection is
    /// closed. Default: [`WEB_KEEP_MS`](crate::limits::WEB_KEEP_MS). Maximum:
    /// [`WEB_KEEP_MAX_MS`](crate::limits::WEB_KEEP_MAX_MS).
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.keep(std::time::Duration::from_secs(300)); // for a slow report
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep(&mut self, timeout: Duration) {
        self.transport.keep(timeout);
    }

    /// Closes the connection after the response. If the handler has sent none, the client gets none.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.close(); // without a response
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&mut self) {
        self.keep_alive = false;
        self.closed = true;
    }

    /// Logs this request at its end. `tokens` are the values of the format's own tokens. The line goes to `logger`.
    /// Without a logger it becomes an event of level `INFO` and target `gyre::web` in the program's log.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// use gyre::web::HttpConnection;
    /// use gyre::web::log::LogFormat;
    ///
    /// async fn page(connection: &mut HttpConnection) -> Result<(), gyre::error::TrackerError> {
    ///     let format = LogFormat::parse_with(":method :url :status :user", &["user"])?;
    ///     connection.log(format, &[("user", "admin")], None);
    ///     connection.send("logged").await
    /// }
    /// ```
    pub fn log(&mut self, format: LogFormat, tokens: &[(&str, &str)], logger: Option<Logger>) {
        let tokens = tokens.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.log.push(PendingLog { format, tokens, logger });
    }

    fn gone() -> TrackerError {
        TrackerError::new(Code::ConnectionClosed, "the client closed the connection")
    }
}

#[cfg(not(feature = "sessions"))]
impl HttpConnection {
    /// Does nothing: this build has no sessions.
    pub(crate) async fn store_session(&mut self) -> Result<(), TrackerError> {
        Ok(())
    }
}

/// Logs the request, even if its handler was cancelled.
impl Drop for HttpConnection {
    fn drop(&mut self) {
        for PendingLog { format, tokens, logger } in std::mem::take(&mut self.log) {
            let tokens: Vec<_> = tokens.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let line = format.render_with(self, &tokens);
            match logger {
                Some(logger) => logger(&line),
                None => tracing::info!(target: "gyre::web", "{line}"),
            }
        }
    }
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection")
            .field("request", &self.request)
            .field("response", &self.response)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}
