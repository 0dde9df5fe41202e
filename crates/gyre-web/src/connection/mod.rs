//! Owns the HTTP connection as a handler has it in hand: a request, and the response that it becomes.
//!
//! What is asked about the request is in `request.rs`, what is set on the response in `response.rs`, and what writes it
//! in `send.rs`, `file.rs` and `stream.rs`.

mod end;
mod file;
mod request;
mod response;
mod send;
mod stream;

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
use crate::session::Session;
use crate::site::{Site, SiteRequest};
use crate::transport::Transport;
use gyre_core::counters::Counters;
use gyre_core::data::Data;
use gyre_core::error::{Code, TrackerError};
use gyre_core::time::Timestamp;

/// A request by HTTP to a route of the program's own, and its response.
///
/// A handler gets it as `&mut HttpConnection`, looks at the request, sets what the response's head says, and sends.
/// What it has not sent when it returns is sent for it: an empty body, or the error that it returned, by the error's
/// route.
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
    session: Option<Session>,
    response: ResponseHead,
    progress: Progress,
    /// What becomes of the connection after the response.
    keep_alive: bool,
    /// Nothing is to be sent in the handler's stead.
    closed: bool,
    /// The route of an error has it in hand.
    in_error: bool,
    /// Bytes of body that were written.
    sent_bytes: u64,
    log: Vec<Logged>,
    started: Timestamp,
    site: Arc<Site>,
    transport: Rc<dyn Transport>,
}

/// The head of a response while it can still be changed.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// Its status; 200 unless another is set.
    pub status: StatusCode,
    /// Its header fields; those that frame the body come when it is written.
    pub headers: HeaderMap,
}

/// How far the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Its head can be changed.
    Open,
    /// Its head is written, its body not to the end.
    Begun,
    /// It is written.
    Sent,
}

/// Takes a line of the log.
pub type Logger = Box<dyn FnOnce(&str)>;

/// What is to be logged when the response is through.
struct Logged {
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

    /// What the handler keeps with this connection's request, one value of each type.
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

    /// The same, to be changed.
    pub fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }

    /// The client's session: what the program keeps about it from one request to the next, itself, while the client has
    /// no more than a signed id in a cookie. Loaded at the first call; what is changed in it is stored before the
    /// response's head is written.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// let session = connection.session().await?;
    /// let visits = session.get::<u64>("visits").unwrap_or(0) + 1;
    /// session.insert("visits", visits)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Code::Internal`] if the site has no sessions, [`Code::IncorrectRequest`] if the cookies can't be read, and
    /// those of the store.
    pub async fn session(&mut self) -> Result<&mut Session, TrackerError> {
        if self.session.is_none() {
            let site = self.site.clone();
            let sessions = site.sessions()?;
            let now = self.transport.now();
            self.session = Some(sessions.load(self.cookies()?, now).await?);
        }
        Ok(self.session.as_mut().expect("it was loaded"))
    }

    /// What each worker of the tracker has counted, as of a moment ago: as
    /// `Tracker::counters`.
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

    /// Whether the client has gone. Then nothing can be sent.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// for part in 0..1_000 {
    ///     if connection.is_aborted() {
    ///         break; // what follows is work for nobody
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_aborted(&self) -> bool {
        self.transport.is_aborted()
    }

    /// Waits until the client has gone. To be awaited beside other things that a response waits for. Of a client that
    /// has sent more than [`WEB_INPUT_BYTES`](crate::limits::WEB_INPUT_BYTES) that nobody reads it is not noticed.
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

    /// Lets the handler go on for so long without a byte being read or written; then the connection is closed.
    /// [`WEB_KEEP_MS`](crate::limits::WEB_KEEP_MS) unless this is called, at most
    /// [`WEB_KEEP_MAX_MS`](crate::limits::WEB_KEEP_MAX_MS).
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.keep(std::time::Duration::from_secs(300)); // a report that takes its time
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep(&mut self, timeout: Duration) {
        self.transport.keep(timeout);
    }

    /// Closes the connection when the response is through; if none was sent, without one.
    ///
    /// ```
    /// # use gyre_web::testing as gyre;
    /// # use gyre::{error::TrackerError, web::HttpConnection};
    /// # async fn handler(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    /// connection.close(); // without a word
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&mut self) {
        self.keep_alive = false;
        self.closed = true;
    }

    /// Logs this request when its response is through. `tokens` are values for names of the format's own. The line goes
    /// to `logger`, or as an event of level `INFO` and target `gyre::web` to the program's own log.
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
        self.log.push(Logged { format, tokens, logger });
    }

    fn gone() -> TrackerError {
        TrackerError::new(Code::ConnectionClosed, "the client has gone")
    }
}

/// Logs the request, whatever became of it: also if its handler did not come to an end.
impl Drop for HttpConnection {
    fn drop(&mut self) {
        for Logged { format, tokens, logger } in std::mem::take(&mut self.log) {
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
