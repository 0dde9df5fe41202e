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
