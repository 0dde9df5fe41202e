//! Owns the counters: plain numbers of one worker, which it publishes at intervals for other threads to read.

use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::TURN_BUCKETS;
use crate::types::Family;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A number that each worker keeps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Counter {
            /// Number of counters.
            pub const COUNT: usize = [$(Counter::$name),+].len();
        }
    };
}

counters! {
    /// UDP connect requests over IPv4.
    UdpConnectV4,
    /// UDP connect requests over IPv6.
    UdpConnectV6,
    /// UDP announces over IPv4.
    UdpAnnounceV4,
    /// UDP announces over IPv6.
    UdpAnnounceV6,
    /// UDP scrapes over IPv4.
    UdpScrapeV4,
    /// UDP scrapes over IPv6.
    UdpScrapeV6,
    /// HTTP announces over IPv4.
    HttpAnnounceV4,
    /// HTTP announces over IPv6.
    HttpAnnounceV6,
    /// HTTP scrapes over IPv4.
    HttpScrapeV4,
    /// HTTP scrapes over IPv6.
    HttpScrapeV6,
    /// HTTP requests other than announces and scrapes, /health included.
    HttpOther,

    /// UDP responses over IPv4, error packets included.
    UdpRepliesV4,
    /// UDP responses over IPv6, error packets included.
    UdpRepliesV6,
    /// HTTP responses over IPv4.
    HttpRepliesV4,
    /// HTTP responses over IPv6.
    HttpRepliesV6,
    /// Requests that the tracker refused with a message: an error packet (UDP) or a failure reason (HTTP).
    Refused,
    /// Requests that middleware ended without a response (UDP) or with a plain 403 (HTTP).
    Silenced,

    /// Requests that failed because of a fault of the program. Clients are told no more than that.
    Faults,

    /// Announces denied because their torrent is not allowed.
    DeniedTorrent,
    /// Announces denied because their client is not allowed.
    DeniedClient,
    /// Requests denied because their source address is not allowed.
    DeniedSource,

    /// UDP connects of sources over their limit. They get no response.
    LimitedConnect,
    /// UDP announces of sources over their limit. They get no response.
    LimitedAnnounce,
    /// UDP scrapes of sources over their limit. They get no response.
    LimitedScrape,
    /// HTTP requests of sources over their limit. They get a 429.
    LimitedHttpRequest,
    /// HTTP connections of sources over their limit. They are closed.
    LimitedHttpConnection,
    /// UDP announces and scrapes of banned addresses. They get no response.
    LimitedBanned,
    /// Bans of addresses that sent too many wrong connection ids. An address that goes on sending them is banned again.
    Bans,

    /// Datagrams that are too short for their action.
    BadShort,
    /// Connect requests without the protocol's magic number.
    BadMagic,
    /// Datagrams with an action that clients do not send.
    BadAction,
    /// Datagrams longer than any request.
    BadTruncated,
    /// Datagrams from port 0, which cannot be answered.
    BadSourcePort,
    /// Announces and scrapes without a valid connection id.
    BadConnectionId,
    /// Announces of port 0.
    BadAnnouncePort,
    /// Announces with malformed options (BEP 41). They get a normal response.
    BadOptions,
    /// Invalid HTTP requests (4xx, 501).
    BadHttp,
    /// HTTP announces and scrapes with an invalid query.
    BadQuery,

    /// Requests dropped (UDP) or refused with 503 (HTTP) because the queue to the owning worker was full.
    DropMeshFull,
    /// Requests dropped or refused because too many requests were waiting for other workers.
    DropGatherFull,
    /// Requests dropped or refused because another worker did not answer in time.
    DropGatherLate,
    /// Requests dropped or refused because too many requests were waiting in middleware.
    DropWaitFull,
    /// Requests dropped or refused because middleware did not finish in time.
    DropWaitLate,
    /// Announces of new peers that were not stored because the table was full. They get a response without peers.
    DropTableFull,
    /// UDP responses that the kernel did not accept.
    DropSendFailed,
    /// HTTP connections refused because too many were open.
    DropConnections,
    /// HTTP connections that could not be accepted.
    DropAccept,
    /// Datagrams that the kernel dropped because a socket's receive buffer was full.
    DropReceiveOverrun,

    /// Messages sent to other workers.
    MeshHops,
    /// Times the ring ran out of receive buffers or its completion queue overflowed. Nothing is lost by it.
    RingOverflows,
    /// Completed downloads.
    Completed,
    /// Peers that were removed because their timeout passed.
    ExpiredPeers,
    /// Peers that were removed before their timeout because memory was short.
    EvictedPeers,
    /// Peers that were removed because their swarm is denied now.
    DeniedPeers,
    /// HTTP connections that were closed while they waited for their client, to make room for new ones.
    EvictedConnections,

    /// Microseconds of CPU time that the worker has used.
    CpuMicros,
    /// Open HTTP connections.
    Connections,
    /// Current number of swarms.
    Swarms,
    /// Current number of seeders.
    Seeders,
    /// Current number of leechers.
    Leechers,
    /// Current number of IPv6 peers.
    V6Peers,
    /// Bytes of memory that the table uses.
    TableBytes,
    /// Milliseconds that peers may currently stay beyond their timeout.
    SweepLagMs,
}

/// Invalid requests, by cause.
pub const BAD: [(&str, Counter); 10] = [
    ("short", Counter::BadShort),
    ("magic", Counter::BadMagic),
    ("action", Counter::BadAction),
    ("truncated", Counter::BadTruncated),
    ("source-port", Counter::BadSourcePort),
    ("connection-id", Counter::BadConnectionId),
    ("announce-port", Counter::BadAnnouncePort),
    ("options", Counter::BadOptions),
    ("http", Counter::BadHttp),
    ("query", Counter::BadQuery),
];

/// Requests of sources over their limit, by kind.
pub const LIMITED: [(&str, Counter); 6] = [
    ("connects", Counter::LimitedConnect),
    ("announces", Counter::LimitedAnnounce),
    ("scrapes", Counter::LimitedScrape),
    ("http-requests", Counter::LimitedHttpRequest),
    ("http-connections", Counter::LimitedHttpConnection),
    ("banned", Counter::LimitedBanned),
];

/// Lost requests and responses, by cause.
pub const DROPS: [(&str, Counter); 10] = [
    ("mesh-full", Counter::DropMeshFull),
    ("gather-full", Counter::DropGatherFull),
    ("gather-late", Counter::DropGatherLate),
    ("wait-full", Counter::DropWaitFull),
    ("wait-late", Counter::DropWaitLate),
    ("table-full", Counter::DropTableFull),
    ("send-failed", Counter::DropSendFailed),
    ("connections", Counter::DropConnections),
    ("accept", Counter::DropAccept),
    ("receive-overrun", Counter::DropReceiveOverrun),
];

/// What a counter with one value for each address family counts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A connect by UDP.
    UdpConnect,
    /// An announce by UDP.
    UdpAnnounce,
    /// A scrape by UDP.
    UdpScrape,
    /// An announce by HTTP.
    HttpAnnounce,
    /// A scrape by HTTP.
    HttpScrape,
    /// A response by UDP.
    UdpReply,
    /// A response by HTTP.
    HttpReply,
}

impl Counter {
    /// Returns the counter of requests or responses of this kind and family.
    pub fn of(kind: Kind, family: Family) -> Self {
        match (kind, family) {
            (Kind::UdpConnect, Family::V4) => Self::UdpConnectV4,
            (Kind::UdpConnect, Family::V6) => Self::UdpConnectV6,
            (Kind::UdpAnnounce, Family::V4) => Self::UdpAnnounceV4,
            (Kind::UdpAnnounce, Family::V6) => Self::UdpAnnounceV6,
            (Kind::UdpScrape, Family::V4) => Self::UdpScrapeV4,
            (Kind::UdpScrape, Family::V6) => Self::UdpScrapeV6,
            (Kind::HttpAnnounce, Family::V4) => Self::HttpAnnounceV4,
            (Kind::HttpAnnounce, Family::V6) => Self::HttpAnnounceV6,
            (Kind::HttpScrape, Family::V4) => Self::HttpScrapeV4,
            (Kind::HttpScrape, Family::V6) => Self::HttpScrapeV6,
            (Kind::UdpReply, Family::V4) => Self::UdpRepliesV4,
            (Kind::UdpReply, Family::V6) => Self::UdpRepliesV6,
            (Kind::HttpReply, Family::V4) => Self::HttpRepliesV4,
            (Kind::HttpReply, Family::V6) => Self::HttpRepliesV6,
        }
    }
}

/// One value for each [`Counter`].
#[derive(Clone, Debug)]
pub struct Counters([u64; Counter::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::COUNT])
    }
}

impl Counters {
    /// Counts one more.
    #[inline]
    pub fn bump(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds `more`.
    #[inline]
    pub fn add(&mut self, counter: Counter, more: u64) {
        self.0[counter as usize] += more;
    }

    /// Sets a value that can go up and down.
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.0[counter as usize] = value;
    }

    /// Returns the value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Returns the sum of these counters.
    pub fn sum(&self, counters: &[Counter]) -> u64 {
        counters.iter().map(|&counter| self.get(counter)).sum()
    }
}

/// Adds up the counters of several workers.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::counters::{Counter, Counters};
///
/// let mut workers = [Counters::default(), Counters::default()];
/// workers[0].add(Counter::Swarms, 2);
/// workers[1].add(Counter::Swarms, 3);
/// let all: Counters = workers.iter().sum();
/// assert_eq!(all.get(Counter::Swarms), 5);
/// ```
impl<'a> Sum<&'a Self> for Counters {
    fn sum<I: Iterator<Item = &'a Self>>(workers: I) -> Self {
        workers.fold(Self::default(), |all, worker| Self(std::array::from_fn(|at| all.0[at] + worker.0[at])))
    }
}

/// Durations of a worker's turns, each including what the runtime did before the next one. A datagram that arrives
/// waits for at most one turn.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::counters::Turns;
/// use std::time::Duration;
///
/// let mut turns = Turns::default();
/// turns.note(Duration::from_micros(40));
/// turns.note(Duration::from_secs(3));
/// assert_eq!(turns.buckets().find(|(_, count)| *count > 0), Some((Some(64), 1)));
/// assert_eq!(turns.buckets().last(), Some((None, 1)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Turns {
    counts: [u64; TURN_BUCKETS + 1],
    sum_us: u64,
}

impl Turns {
    /// Counts a turn that took `took`.
    #[inline]
    pub fn note(&mut self, took: Duration) {
        let micros = took.as_micros() as u64;
        // 0 us: bucket 0; 1: bucket 1; 2 and 3: bucket 2 ...
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(TURN_BUCKETS)] += 1;
        self.sum_us += micros;
    }

    /// Returns the number of turns in each bucket, with the bucket's upper bound in microseconds (exclusive). The lower
    /// bound is that of the bucket before. The last bucket has no upper bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let below = |at: usize| (at < TURN_BUCKETS).then(|| 1 << at);
        self.counts.iter().enumerate().map(move |(at, count)| (below(at), *count))
    }

    /// Returns the sum of all durations in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

impl<'a> Sum<&'a Self> for Turns {
    fn sum<I: Iterator<Item = &'a Self>>(workers: I) -> Self {
        workers.fold(Self::default(), |all, worker| Self {
            counts: std::array::from_fn(|at| all.counts[at] + worker.counts[at]),
            sum_us: all.sum_us + worker.sum_us,
        })
    }
}

/// The last values that a worker published. Only that worker writes them, any thread reads them. Values that are read
/// together were not necessarily published at the same moment.
#[derive(Debug)]
pub struct Published {
    counters: [AtomicU64; Counter::COUNT],
    turns: [AtomicU64; TURN_BUCKETS + 1],
    turns_sum_us: AtomicU64,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            turns: [const { AtomicU64::new(0) }; TURN_BUCKETS + 1],
            turns_sum_us: AtomicU64::new(0),
        }
    }
}

impl Published {
    /// Publishes these values.
    pub fn publish(&self, counters: &Counters, turns: &Turns) {
        let counters = self.counters.iter().zip(counters.0);
        let turns_sum_us = (&self.turns_sum_us, turns.sum_us);
        let turns = self.turns.iter().zip(turns.counts);
        for (published, value) in counters.chain(turns).chain([turns_sum_us]) {
            published.store(value, Ordering::Relaxed);
        }
    }

    /// Reads the counters.
    pub fn read(&self) -> Counters {
        Counters(std::array::from_fn(|at| self.counters[at].load(Ordering::Relaxed)))
    }

    /// Reads the durations of the turns.
    pub fn read_turns(&self) -> Turns {
        Turns {
            counts: std::array::from_fn(|at| self.turns[at].load(Ordering::Relaxed)),
            sum_us: self.turns_sum_us.load(Ordering::Relaxed),
        }
    }
}
