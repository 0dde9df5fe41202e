//! Owns what a request is answered through: a datagram's way back, or an HTTP connection.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::StatusCode;

use crate::engine::context::{Action, Response};
use crate::engine::message::Endpoint;
use crate::error::{Code, TrackerError};
use crate::types::Family;
use crate::wire::udp::Options;

/// What was sent: it leaves when the middleware is through.
#[derive(Debug)]
pub(in crate::engine) struct Sent {
    pub(in crate::engine) response: Response,
    pub(in crate::engine) status: StatusCode,
}

/// Keeps the first answer, and refuses others.
#[derive(Debug, Default)]
struct Outbox(Option<Box<Sent>>);

impl Outbox {
    fn put(&mut self, response: Response, action: Action, status: StatusCode) -> Result<(), TrackerError> {
        if self.0.is_some() {
            return Err(TrackerError::new(Code::ResponseAlreadySent, "a response has been sent already"));
        }
        let fits = match (&response, action) {
            (Response::Connect(_), action) => action == Action::Connect,
            (Response::Announce(_), action) => action == Action::Announce,
            (Response::Scrape(_), action) => action == Action::Scrape,
            (Response::Failure(_) | Response::Raw(_), _) => true,
        };
        if !fits {
            let message = format!("this is no response to a request of action {}", action as u32);
            return Err(TrackerError::new(Code::IncorrectResponse, message));
        }
        self.0 = Some(Box::new(Sent { response, status }));
        Ok(())
    }
}

/// The way back of a request that came by UDP.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{Action, UdpContext};
/// use gyre::error::{Code, TrackerError};
///
/// fn refuse(udp: &mut UdpContext<'_>, action: Action) -> Result<(), TrackerError> {
///     assert_eq!((udp.address().ip(), udp.address().port()), (udp.ip(), udp.port()));
///     if !udp.sent() {
///         let words = format!("not request {}", udp.transaction_id());
///         udp.send(TrackerError::new(Code::AccessDenied, words), action)?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct UdpContext<'a> {
    to: Endpoint,
    transaction_id: u32,
    key: Option<u32>,
    /// BEP 41.
    options: Cow<'a, [u8]>,
    outbox: Outbox,
}

impl<'a> UdpContext<'a> {
    pub(in crate::engine) fn new(to: &Endpoint, transaction_id: u32, options: &'a [u8]) -> Self {
        let (options, outbox) = (Cow::Borrowed(options), Outbox::default());
        Self { to: *to, transaction_id, key: None, options, outbox }
    }

    pub(super) fn with_key(self, key: u32) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(super) fn key(&self) -> Option<u32> {
        self.key
    }

    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        self.to.source.ip()
    }

    /// The port that the datagram came from; the client's peers reach it at another one.
    pub fn port(&self) -> u16 {
        self.to.source.port()
    }

    /// Both.
    pub fn address(&self) -> SocketAddr {
        self.to.source
    }

    /// The number that the client gave its request (BEP 15).
    pub fn transaction_id(&self) -> u32 {
        self.transaction_id
    }

    /// Whether an answer was sent.
    pub fn sent(&self) -> bool {
        self.outbox.0.is_some()
    }

    /// Answers the request, which is of this action. It leaves with the worker's next submission.
    ///
    /// # Errors
    ///
    /// [`Code::ResponseAlreadySent`], [`Code::IncorrectResponse`] if it answers another action.
    pub fn send(&mut self, payload: impl Into<Response>, action: Action) -> Result<(), TrackerError> {
        self.outbox.put(payload.into(), action, StatusCode::OK)
    }

    /// The URL's path and query, where the client sent it (BEP 41); else empty.
    pub(super) fn request_path(&self) -> Cow<'_, str> {
        if let Some(path) = Options::only_url_data(&self.options) {
            return Cow::Borrowed(str::from_utf8(path).unwrap_or_default());
        }
        match str::from_utf8(&Options::parse(&self.options).url_data) {
            Ok(path) => Cow::Owned(path.to_owned()),
            Err(_) => Cow::Borrowed(""),
        }
    }
}

/// The way back of a request that came by HTTP.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{Action, ConnectionContext, ScrapeRequest};
/// use http::StatusCode;
///
/// # fn main() -> Result<(), gyre::error::TrackerError> {
/// let mut scrape = ScrapeRequest::http("192.0.2.1".parse().unwrap(), "/scrape?a=b", Box::default());
/// let ConnectionContext::Http(http) = scrape.connection_mut() else { panic!("it came by HTTP") };
/// assert_eq!((http.ip().to_string().as_str(), http.url()), ("192.0.2.1", "/scrape?a=b"));
/// if !http.aborted() {
///     http.send(b"try again later".to_vec(), Action::Scrape, StatusCode::TOO_MANY_REQUESTS)?;
/// }
/// assert!(http.sent());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HttpContext<'a> {
    ip: IpAddr,
    url: Cow<'a, str>,
    /// Set by the watcher of the connection while the request waits.
    aborted: Option<Rc<Cell<bool>>>,
    outbox: Outbox,
}

impl<'a> HttpContext<'a> {
    pub(in crate::engine) fn new(ip: IpAddr, url: &'a str) -> Self {
        Self { ip, url: Cow::Borrowed(url), aborted: None, outbox: Outbox::default() }
    }

    /// Whether the client went away. It is noticed at once, also while a middleware awaits something.
    pub fn aborted(&self) -> bool {
        self.aborted.as_ref().is_some_and(|aborted| aborted.get())
    }

    /// The client's address: behind a proxy that the configuration trusts the one that this proxy names.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The URL's path and query, as they stand in the request.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether an answer was sent.
    pub fn sent(&self) -> bool {
        self.outbox.0.is_some()
    }

    /// Answers the request, which is of this action, with this status. Trackers answer 200, failures too.
    ///
    /// # Errors
    ///
    /// [`Code::ConnectionClosed`] if the client has gone, [`Code::ResponseAlreadySent`], [`Code::IncorrectResponse`] if
    /// it answers another action, or the status is invalid or that of a response without a body.
    pub fn send(
        &mut self,
        payload: impl Into<Response>,
        action: Action,
        status: StatusCode,
    ) -> Result<(), TrackerError> {
        if self.aborted() {
            return Err(TrackerError::new(Code::ConnectionClosed, "the client has gone"));
        }
        if !(200..600).contains(&status.as_u16())
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
        {
            return Err(TrackerError::new(Code::IncorrectResponse, "no status of a response with a body"));
        }
        self.outbox.put(payload.into(), action, status)
    }
}

/// The way back of a request.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{ConnectionContext, RequestContext};
/// use gyre::engine::middleware::Then;
///
/// let log = |request: &mut RequestContext<'_>| {
///     match request.connection() {
///         ConnectionContext::Udp(udp) => tracing::debug!("from {}", udp.address()),
///         ConnectionContext::Http(http) => tracing::debug!("from {}: {}", http.ip(), http.url()),
///     }
///     let connection = request.connection();
///     tracing::debug!("from {}, answered: {}", connection.ip(), connection.sent());
///     Ok(Then::Next)
/// };
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(log);
/// ```
#[derive(Debug)]
pub enum ConnectionContext<'a> {
    /// It came by UDP.
    Udp(UdpContext<'a>),
    /// It came by HTTP.
    Http(HttpContext<'a>),
}

impl ConnectionContext<'_> {
    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Udp(udp) => udp.ip(),
            Self::Http(http) => http.ip(),
        }
    }

    /// Whether an answer was sent.
    pub fn sent(&self) -> bool {
        match self {
            Self::Udp(udp) => udp.sent(),
            Self::Http(http) => http.sent(),
        }
    }

    pub(super) fn send(&mut self, response: Response, action: Action) -> Result<(), TrackerError> {
        match self {
            Self::Udp(udp) => udp.send(response, action),
            Self::Http(http) => http.send(response, action, StatusCode::OK),
        }
    }

    fn outbox(&mut self) -> &mut Outbox {
        match self {
            Self::Udp(udp) => &mut udp.outbox,
            Self::Http(http) => &mut http.outbox,
        }
    }

    pub(in crate::engine) fn take_sent(&mut self) -> Option<Box<Sent>> {
        self.outbox().0.take()
    }

    /// The answer that was sent and has not left yet.
    pub(super) fn response_mut(&mut self) -> Option<&mut Response> {
        self.outbox().0.as_mut().map(|sent| &mut sent.response)
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.ip())
    }

    /// From now on `aborted` tells whether the client has gone.
    pub(super) fn watch(&mut self, aborted: Rc<Cell<bool>>) {
        if let Self::Http(http) = self {
            http.aborted = Some(aborted);
        }
    }

    /// The same, with its own copy of what it borrowed.
    pub(super) fn into_owned(self) -> ConnectionContext<'static> {
        match self {
            Self::Udp(udp) => ConnectionContext::Udp(UdpContext {
                to: udp.to,
                transaction_id: udp.transaction_id,
                key: udp.key,
                options: Cow::Owned(udp.options.into_owned()),
                outbox: udp.outbox,
            }),
            Self::Http(http) => ConnectionContext::Http(HttpContext {
                ip: http.ip,
                url: Cow::Owned(http.url.into_owned()),
                aborted: http.aborted,
                outbox: http.outbox,
            }),
        }
    }
}
