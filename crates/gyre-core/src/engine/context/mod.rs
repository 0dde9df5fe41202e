//! Owns a request as middleware sees it: its parameters, its source, and the way back.
//!
//! | BEP 15's action | context | by |
//! |---|---|---|
//! | connect | [`ConnectRequest`] | UDP |
//! | announce | [`AnnounceRequest`] | UDP, HTTP |
//! | scrape | [`ScrapeRequest`] | UDP, HTTP |
//!
//! [`RequestContext`] is one of them. Fields can be changed before the swarm is asked. Methods read everything else.

mod connection;
mod response;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

pub(super) use connection::Sent;
pub use connection::{ConnectionContext, HttpContext, UdpContext};
pub use response::{AnnounceResponse, ConnectResponse, Response, ScrapeResponse};

use crate::data::Data;
use crate::engine::message::Endpoint;
use crate::engine::route;
use crate::error::TrackerError;
use crate::types::{Event, Family};
use crate::wire::query::{AnnounceQuery, ScrapeQuery};
use crate::wire::{query, udp};

/// What a request wants, with BEP 15's numbers.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::Action;
///
/// assert_eq!([Action::Connect as u32, Action::Announce as u32, Action::Scrape as u32], [0, 1, 2]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Action {
    /// A connection id; UDP alone has it.
    Connect = 0,
    /// A place in a swarm, and peers.
    Announce = 1,
    /// The counts of swarms.
    Scrape = 2,
}

/// What all requests have.
#[derive(Debug)]
struct Core<'a> {
    connection: ConnectionContext<'a>,
    data: Data,
}

impl<'a> Core<'a> {
    fn new(connection: ConnectionContext<'a>) -> Self {
        Self { connection, data: Data::default() }
    }

    fn into_owned(self) -> Core<'static> {
        Core { connection: self.connection.into_owned(), data: self.data }
    }
}

/// Asks for a connection id (BEP 15).
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{Action, ConnectRequest, ConnectResponse};
/// use gyre::error::TrackerError;
///
/// fn with_an_id_of_our_own(connect: &mut ConnectRequest<'_>) -> Result<(), TrackerError> {
///     assert!(connect.action() == Action::Connect && connect.is_connect() && connect.is_source_udp());
///     connect.send(ConnectResponse { connection_id: 7 })
/// }
/// ```
#[derive(Debug)]
pub struct ConnectRequest<'a> {
    core: Core<'a>,
}

/// Enters, renews or leaves a swarm and asks for peers (BEP 3, BEP 15).
///
/// The parameters are those of its [`AnnounceQuery`], by UDP too: `request.info_hash`, `request.left`. Changed ones are
/// what the swarm sees.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::AnnounceRequest;
///
/// fn at_most_ten(announce: &mut AnnounceRequest<'_>) {
///     announce.num_want = Some(announce.num_want.unwrap_or(10).min(10));
///     announce.terms.interval_secs = Some(3_600);
/// }
/// ```
///
/// What is no parameter of the swarm's is asked by methods:
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{Action, AnnounceRequest};
/// use gyre::types::Event;
/// use gyre::wire::query::AnnounceQuery;
///
/// let query = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881&left=0\
///     &event=completed&key=FEED&trackerid=t&compact=0&no_peer_id=1";
/// let url = format!("/passkey/announce?{query}");
/// let query = AnnounceQuery::parse(query.as_bytes()).expect("an announce");
/// let announce = AnnounceRequest::http("192.0.2.1".parse().unwrap(), &url, query);
/// assert_eq!((announce.action(), announce.event()), (Action::Announce, Event::Completed));
/// assert_eq!(announce.address(), "192.0.2.1:6881".parse().unwrap());
/// assert_eq!((announce.key(), announce.tracker_id()), (Some(0xfeed), Some("t")));
/// assert_eq!((announce.is_compact(), announce.no_peer_id()), (false, true));
/// assert_eq!(announce.passkey().as_deref(), Some("passkey"));
/// ```
#[derive(Debug)]
pub struct AnnounceRequest<'a> {
    /// Where the peer is said to be; the address that the request came from, unless it is changed.
    pub ip: IpAddr,
    /// The parameters.
    pub query: AnnounceQuery,
    /// What the answer says beside the swarm's counts and peers.
    pub terms: Terms,
    core: Core<'a>,
}

/// What an announce's answer says beside the swarm's counts and peers. `None`: as configured.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{AnnounceRequest, Terms};
///
/// fn slowly(announce: &mut AnnounceRequest<'_>) {
///     let warning = Some("the tracker is overloaded".into());
///     announce.terms = Terms { interval_secs: Some(7_200), min_interval_secs: Some(3_600), warning };
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Seconds to the next announce.
    pub interval_secs: Option<u32>,
    /// Seconds that must pass before it; HTTP alone can say so.
    pub min_interval_secs: Option<u32>,
    /// Words for the user (`warning message`); HTTP alone can say so.
    pub warning: Option<Cow<'static, str>>,
}

/// Asks for the counts of swarms (BEP 15, BEP 48): `request.info_hashes`, of which some may be taken out.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{Action, ScrapeRequest};
/// use gyre::types::InfoHash;
/// use gyre::wire::query::ScrapeQuery;
///
/// let query = ScrapeQuery::parse(b"info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=bbbbbbbbbbbbbbbbbbbb");
/// let query = Box::new(query.expect("a scrape"));
/// let mut scrape = ScrapeRequest::http("192.0.2.1".parse().unwrap(), "/passkey/scrape", query);
/// scrape.info_hashes.retain(|hash| hash.0[0] == b'a');
/// assert_eq!(scrape.info_hashes.as_slice(), [InfoHash([b'a'; 20])]);
/// assert_eq!((scrape.action(), scrape.passkey().as_deref()), (Action::Scrape, Some("passkey")));
/// ```
#[derive(Debug)]
pub struct ScrapeRequest<'a> {
    /// The swarms asked for.
    pub query: Box<ScrapeQuery>,
    core: Core<'a>,
}

impl<'a> ConnectRequest<'a> {
    pub(super) fn udp(to: &Endpoint, transaction_id: u32) -> Self {
        Self { core: Core::new(ConnectionContext::Udp(UdpContext::new(to, transaction_id, &[]))) }
    }

    /// [`Action::Connect`].
    pub fn action(&self) -> Action {
        Action::Connect
    }
}

impl<'a> AnnounceRequest<'a> {
    #[inline]
    pub(super) fn udp(to: &Endpoint, announce: &udp::Announce<'a>) -> Self {
        let query = query_of_udp(announce);
        let connection =
            UdpContext::new(to, announce.transaction_id, announce.options).with_key(announce.key);
        let core = Core::new(ConnectionContext::Udp(connection));
        Self { ip: to.source.ip(), query, terms: Terms::default(), core }
    }

    /// An announce by HTTP: from this address, with this URL (path and query), whose query was read.
    pub fn http(ip: IpAddr, url: &'a str, query: AnnounceQuery) -> Self {
        let core = Core::new(ConnectionContext::Http(HttpContext::new(ip, url)));
        Self { ip, query, terms: Terms::default(), core }
    }

    /// [`Action::Announce`].
    pub fn action(&self) -> Action {
        Action::Announce
    }

    /// Where the peer is said to be reached: its address and the port that it listens at.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.query.port)
    }

    /// Whether packed peers are wanted (BEP 23); by UDP always.
    pub fn is_compact(&self) -> bool {
        self.query.compact
    }

    /// Whether an uncompact list is wanted without the peers' ids.
    pub fn no_peer_id(&self) -> bool {
        self.query.no_peer_id
    }

    /// What happened, if anything.
    pub fn event(&self) -> Event {
        self.query.event
    }

    /// The client's own number, by which it can be told if its address changes. By HTTP up to eight hexadecimal digits,
    /// as most clients write it; `None` if there is none, or it has another form.
    pub fn key(&self) -> Option<u32> {
        match &self.core.connection {
            ConnectionContext::Http(http) => {
                let text = query::parameter(query_of(http.url()), "key")?;
                u32::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))
            }
            ConnectionContext::Udp(udp) => udp.key(),
        }
    }

    /// What the tracker gave the client as `trackerid` before (BEP 3), still percent-encoded; HTTP alone has it.
    pub fn tracker_id(&self) -> Option<&str> {
        match &self.core.connection {
            ConnectionContext::Http(http) => query::parameter(query_of(http.url()), "trackerid"),
            ConnectionContext::Udp(_) => None,
        }
    }
}

impl<'a> ScrapeRequest<'a> {
    pub(super) fn udp(to: &Endpoint, transaction_id: u32, query: Box<ScrapeQuery>) -> Self {
        Self { query, core: Core::new(ConnectionContext::Udp(UdpContext::new(to, transaction_id, &[]))) }
    }

    /// A scrape by HTTP: from this address, with this URL (path and query), whose query was read.
    pub fn http(ip: IpAddr, url: &'a str, query: Box<ScrapeQuery>) -> Self {
        Self { query, core: Core::new(ConnectionContext::Http(HttpContext::new(ip, url))) }
    }

    /// [`Action::Scrape`].
    pub fn action(&self) -> Action {
        Action::Scrape
    }
}

impl Deref for AnnounceRequest<'_> {
    type Target = AnnounceQuery;

    fn deref(&self) -> &AnnounceQuery {
        &self.query
    }
}

impl DerefMut for AnnounceRequest<'_> {
    fn deref_mut(&mut self) -> &mut AnnounceQuery {
        &mut self.query
    }
}

impl Deref for ScrapeRequest<'_> {
    type Target = ScrapeQuery;

    fn deref(&self) -> &ScrapeQuery {
        &self.query
    }
}

impl DerefMut for ScrapeRequest<'_> {
    fn deref_mut(&mut self) -> &mut ScrapeQuery {
        &mut self.query
    }
}

/// A request, whatever it wants and however it came.
///
/// A middleware looks at its kind and its source:
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::RequestContext;
/// use gyre::engine::middleware::{Flow, Then};
///
/// fn look(request: &mut RequestContext<'_>) -> Flow {
///     let (action, ip) = (request.action(), request.connection().ip());
///     match request.transaction_id() {
///         Some(number) => tracing::debug!("{action:?} {number} of {ip} by UDP"),
///         None => tracing::debug!("{action:?} of {ip} by HTTP: {}", request.request_path()),
///     }
///     assert_eq!(request.is_source_udp(), !request.is_source_http());
///     assert!(request.is_connect() || request.is_announce() || request.is_scrape());
///     if let Some(announce) = request.as_announce() {
///         announce.num_want = Some(20);
///     } else if let Some(scrape) = request.as_scrape() {
///         scrape.info_hashes.truncate(10);
///     }
///     Ok(Then::Next)
/// }
/// # fn is_middleware(_: impl gyre::engine::middleware::Middleware) {}
/// # is_middleware(look);
/// ```
///
/// It keeps what the next one needs, and answers, once:
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{RequestContext, Response, ScrapeRequest, ScrapeResponse};
/// use gyre::error::{Code, TrackerError};
/// use gyre::types::SwarmCounts;
///
/// # fn main() -> Result<(), TrackerError> {
/// let scrape = ScrapeRequest::http("192.0.2.1".parse().unwrap(), "/passkey/scrape", Box::default());
/// let mut request = RequestContext::Scrape(scrape);
/// let passkey = request.passkey().map(|passkey| passkey.into_owned());
/// request.data_mut().insert(passkey);
/// assert_eq!(request.data().get(), Some(&Some("passkey".to_owned())));
///
/// assert!(!request.sent());
/// request.send([SwarmCounts::default()].into_iter().collect::<ScrapeResponse>())?;
/// assert!(request.sent());
/// let again = request.send(TrackerError::new(Code::AccessDenied, "no"));
/// assert_eq!(again.unwrap_err().code(), Code::ResponseAlreadySent);
/// // What was sent leaves when all are through, and can be changed until then.
/// let Some(Response::Scrape(response)) = request.response_mut() else { panic!("it was sent") };
/// response.counts[0].seeders = 1;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum RequestContext<'a> {
    /// Asks for a connection id.
    Connect(ConnectRequest<'a>),
    /// Enters, renews or leaves a swarm and asks for peers.
    Announce(AnnounceRequest<'a>),
    /// Asks for the counts of swarms.
    Scrape(ScrapeRequest<'a>),
}

impl<'a> RequestContext<'a> {
    fn core(&self) -> &Core<'a> {
        match self {
            Self::Connect(request) => &request.core,
            Self::Announce(request) => &request.core,
            Self::Scrape(request) => &request.core,
        }
    }

    fn core_mut(&mut self) -> &mut Core<'a> {
        match self {
            Self::Connect(request) => &mut request.core,
            Self::Announce(request) => &mut request.core,
            Self::Scrape(request) => &mut request.core,
        }
    }

    /// What it wants.
    pub fn action(&self) -> Action {
        match self {
            Self::Connect(_) => Action::Connect,
            Self::Announce(_) => Action::Announce,
            Self::Scrape(_) => Action::Scrape,
        }
    }

    /// The announce, if it is one.
    pub fn as_announce(&mut self) -> Option<&mut AnnounceRequest<'a>> {
        if let Self::Announce(announce) = self { Some(announce) } else { None }
    }

    /// The scrape, if it is one.
    pub fn as_scrape(&mut self) -> Option<&mut ScrapeRequest<'a>> {
        if let Self::Scrape(scrape) = self { Some(scrape) } else { None }
    }

    pub(super) fn family(&self) -> Family {
        self.core().connection.family()
    }

    pub(super) fn take_sent(&mut self) -> Option<Box<Sent>> {
        self.core_mut().connection.take_sent()
    }

    /// From now on the HTTP connection's `aborted` tells whether the client has gone.
    ///
    /// ```
    /// # use gyre_core as gyre;
    /// use std::{cell::Cell, rc::Rc};
    /// use gyre::engine::context::{ConnectionContext, RequestContext, ScrapeRequest};
    ///
    /// let scrape = ScrapeRequest::http("192.0.2.1".parse().unwrap(), "/scrape", Box::default());
    /// let (mut request, gone) = (RequestContext::Scrape(scrape).into_owned(), Rc::new(Cell::new(false)));
    /// request.watch(gone.clone());
    /// gone.set(true);
    /// assert!(matches!(request.connection(), ConnectionContext::Http(http) if http.aborted()));
    /// ```
    pub fn watch(&mut self, aborted: Rc<Cell<bool>>) {
        self.core_mut().connection.watch(aborted);
    }

    /// The same request, with its own copy of what it borrowed: to outlive the bytes that it came in.
    pub fn into_owned(self) -> RequestContext<'static> {
        match self {
            Self::Connect(request) => {
                RequestContext::Connect(ConnectRequest { core: request.core.into_owned() })
            }
            Self::Announce(request) => RequestContext::Announce(AnnounceRequest {
                ip: request.ip,
                query: request.query,
                terms: request.terms,
                core: request.core.into_owned(),
            }),
            Self::Scrape(request) => RequestContext::Scrape(ScrapeRequest {
                query: request.query,
                core: request.core.into_owned(),
            }),
        }
    }
}

/// What can be asked of a request, whatever it wants: the same for each kind and for [`RequestContext`].
macro_rules! shared_members {
    ($name:ident, $this:ident, $core:expr, $core_mut:expr) => {
        impl<'a> $name<'a> {
            /// Whether it is a connect.
            pub fn is_connect(&self) -> bool {
                self.action() == Action::Connect
            }

            /// Whether it is an announce.
            pub fn is_announce(&self) -> bool {
                self.action() == Action::Announce
            }

            /// Whether it is a scrape.
            pub fn is_scrape(&self) -> bool {
                self.action() == Action::Scrape
            }

            /// Whether it came by HTTP.
            pub fn is_source_http(&self) -> bool {
                matches!(self.connection(), ConnectionContext::Http(_))
            }

            /// Whether it came by UDP.
            pub fn is_source_udp(&self) -> bool {
                matches!(self.connection(), ConnectionContext::Udp(_))
            }

            /// The number that the client gave it; UDP alone has one.
            pub fn transaction_id(&self) -> Option<u32> {
                match self.connection() {
                    ConnectionContext::Udp(udp) => Some(udp.transaction_id()),
                    ConnectionContext::Http(_) => None,
                }
            }

            /// The URL's path and query: that of the HTTP request, or what an announce by UDP carries of it (BEP 41);
            /// empty if it carries none.
            pub fn request_path(&self) -> Cow<'_, str> {
                match self.connection() {
                    ConnectionContext::Http(http) => Cow::Borrowed(http.url()),
                    ConnectionContext::Udp(udp) => udp.request_path(),
                }
            }

            /// What stands for the user of a private tracker: `/PASSKEY/announce`, or else `?passkey=PASSKEY`.
            pub fn passkey(&self) -> Option<Cow<'_, str>> {
                match self.request_path() {
                    Cow::Borrowed(path) => passkey_of(path).map(Cow::Borrowed),
                    Cow::Owned(path) => passkey_of(&path).map(|passkey| Cow::Owned(passkey.to_owned())),
                }
            }

            /// Where it came from and is answered.
            pub fn connection(&self) -> &ConnectionContext<'a> {
                let $this = self;
                &$core.connection
            }

            /// The same, to send an answer of one's own with a status.
            pub fn connection_mut(&mut self) -> &mut ConnectionContext<'a> {
                let $this = self;
                &mut $core_mut.connection
            }

            /// What middleware keeps with the request.
            pub fn data(&self) -> &Data {
                let $this = self;
                &$core.data
            }

            /// The same, to be changed.
            pub fn data_mut(&mut self) -> &mut Data {
                let $this = self;
                &mut $core_mut.data
            }

            /// Whether an answer was sent. Then the swarm is not asked any more.
            pub fn sent(&self) -> bool {
                self.connection().sent()
            }

            /// Answers it, with what is an answer to its action, a [`TrackerError`], or bytes.
            ///
            /// # Errors
            ///
            /// [`Code::ResponseAlreadySent`](crate::error::Code::ResponseAlreadySent),
            /// [`Code::IncorrectResponse`](crate::error::Code::IncorrectResponse) if it answers another action,
            /// [`Code::ConnectionClosed`](crate::error::Code::ConnectionClosed) if the client has gone.
            pub fn send(&mut self, payload: impl Into<Response>) -> Result<(), TrackerError> {
                let action = self.action();
                self.connection_mut().send(payload.into(), action)
            }

            /// The answer that was sent and has not left yet: after [`Next::run`](super::middleware::Next::run) that of
            /// the swarm.
            pub fn response_mut(&mut self) -> Option<&mut Response> {
                self.connection_mut().response_mut()
            }
        }
    };
}

shared_members!(ConnectRequest, this, this.core, this.core);
shared_members!(AnnounceRequest, this, this.core, this.core);
shared_members!(ScrapeRequest, this, this.core, this.core);
shared_members!(RequestContext, this, this.core(), this.core_mut());

/// The parameters of an announce by UDP.
#[inline]
pub(super) fn query_of_udp(announce: &udp::Announce<'_>) -> AnnounceQuery {
    AnnounceQuery {
        info_hash: announce.info_hash,
        peer_id: announce.peer_id,
        port: announce.port,
        uploaded: announce.uploaded,
        downloaded: announce.downloaded,
        left: Some(announce.left),
        event: announce.event,
        num_want: announce.num_want(),
        compact: true,
        no_peer_id: false,
    }
}

fn query_of(url: &str) -> &str {
    url.split_once('?').map_or("", |(_, query)| query)
}

fn passkey_of(url: &str) -> Option<&str> {
    let path = url.split_once('?').map_or(url, |(path, _)| path);
    route::passkey(path)
        .or_else(|| query::parameter(query_of(url), "passkey").filter(|text| route::is_passkey(text)))
}

#[cfg(test)]
mod tests;
