//! Owns what a request can be answered with.

use std::borrow::Cow;

use crate::engine::message::ScrapeCounts;
use crate::engine::peers::PeerList;
use crate::error::TrackerError;
use crate::types::SwarmCounts;

/// The answer to a connect (BEP 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// What the client's announces and scrapes must carry. Those that the tracker did not give itself it will not know.
    pub connection_id: u64,
}

/// The answer to an announce (BEP 3, BEP 15).
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::PeerList;
/// use gyre::engine::context::{AnnounceRequest, AnnounceResponse};
/// use gyre::error::TrackerError;
///
/// fn with_one_peer(announce: &mut AnnounceRequest<'_>) -> Result<(), TrackerError> {
///     let mut peers = Box::<PeerList>::default();
///     peers.push("192.0.2.1:6881".parse().unwrap(), None);
///     announce.send(AnnounceResponse { interval_secs: 1_800, peers, ..AnnounceResponse::default() })
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnounceResponse {
    /// The swarm's counts.
    pub counts: SwarmCounts,
    /// Seconds to the next announce.
    pub interval_secs: u32,
    /// Seconds that must pass before it; HTTP alone can say so.
    pub min_interval_secs: u32,
    /// Words for the user (`warning message`); HTTP alone can say so.
    pub warning: Option<Cow<'static, str>>,
    /// The peers. A client that asked by UDP is given those of its own family.
    pub peers: Box<PeerList>,
}

/// The answer to a scrape (BEP 15, BEP 48).
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::ScrapeResponse;
/// use gyre::types::SwarmCounts;
///
/// let response: ScrapeResponse = [SwarmCounts { seeders: 5, leechers: 6, downloaded: 7 }].into_iter().collect();
/// assert_eq!(response.counts[0].seeders, 5);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeResponse {
    /// The swarms' counts, in the order of the request's info-hashes.
    pub counts: Box<ScrapeCounts>,
}

impl FromIterator<SwarmCounts> for ScrapeResponse {
    /// Takes as many as a scrape can ask for.
    fn from_iter<I: IntoIterator<Item = SwarmCounts>>(counts: I) -> Self {
        let mut all = Box::<ScrapeCounts>::default();
        let room = all.capacity();
        all.extend(counts.into_iter().take(room));
        Self { counts: all }
    }
}

/// What a request is answered with.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::context::{ConnectResponse, Response};
/// use gyre::error::{Code, TrackerError};
///
/// let refusal: Response = TrackerError::new(Code::AccessDenied, "unknown passkey").into();
/// assert!(matches!(refusal, Response::Failure(error) if error.code() == Code::AccessDenied));
/// assert!(matches!(ConnectResponse { connection_id: 7 }.into(), Response::Connect(_)));
/// assert!(matches!(b"d8:intervali60ee".to_vec().into(), Response::Raw(_)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To a connect.
    Connect(ConnectResponse),
    /// To an announce.
    Announce(AnnounceResponse),
    /// To a scrape.
    Scrape(ScrapeResponse),
    /// To any: `failure reason` (BEP 3) or an error packet (BEP 15).
    Failure(TrackerError),
    /// To any: the body of the HTTP response, or the datagram, as it is.
    Raw(Vec<u8>),
}

impl From<ConnectResponse> for Response {
    fn from(response: ConnectResponse) -> Self {
        Self::Connect(response)
    }
}

impl From<AnnounceResponse> for Response {
    fn from(response: AnnounceResponse) -> Self {
        Self::Announce(response)
    }
}

impl From<ScrapeResponse> for Response {
    fn from(response: ScrapeResponse) -> Self {
        Self::Scrape(response)
    }
}

impl From<TrackerError> for Response {
    fn from(error: TrackerError) -> Self {
        Self::Failure(error)
    }
}

impl From<Vec<u8>> for Response {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Raw(bytes)
    }
}
