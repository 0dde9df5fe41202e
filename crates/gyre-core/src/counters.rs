//! Owns what is counted: plain numbers of one worker, which it publishes now and then for others to read.

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
            /// How many there are.
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
    /// HTTP requests for anything else, /health among them.
    HttpOther,

    /// UDP responses over IPv4, errors among them.
    UdpRepliesV4,
    /// UDP responses over IPv6, errors among them.
    UdpRepliesV6,
    /// HTTP responses over IPv4.
    HttpRepliesV4,
    /// HTTP responses over IPv6.
    HttpRepliesV6,
    /// Requests refused in the tracker's own words: error packets, failure reasons.
    Refused,
    /// Requests that middleware ended without an answer (UDP), or with a bare 403 (HTTP).
    Silenced,

    /// Requests that failed by a fault of the program, of which clients are told no more.
    Faults,

    /// Announces denied because their torrent is not served.
    DeniedTorrent,
    /// Announces denied because their client is not allowed.
    DeniedClient,
    /// Requests denied because of the address that they come from.
    DeniedSource,

    /// UDP connects of sources over their limit; they get no answer.
    LimitedConnect,
    /// UDP announces of sources over their limit; they get no answer.
    LimitedAnnounce,
    /// UDP scrapes of sources over their limit; they get no answer.
    LimitedScrape,
    /// HTTP requests of sources over their limit; they get a 429.
    LimitedHttpRequest,
    /// HTTP connections of sources over their limit; they are closed.
    LimitedHttpConnection,
    /// UDP announces and scrapes of addresses that are banned; they get no answer.
    LimitedBanned,
    /// Bans of addresses that sent too many wrong connection ids; one that goes on is banned anew.
    Bans,

    /// Datagrams shorter than their kind needs.
    BadShort,
    /// Connect requests without the protocol's magic.
    BadMagic,
    /// Datagrams of an action that no client sends.
    BadAction,
    /// Datagrams longer than any request.
    BadTruncated,
    /// Datagrams from port 0, which nothing can be sent to.
    BadSourcePort,
    /// Announces and scrapes without a valid connection id.
    BadConnectionId,
    /// Announces of port 0.
    BadAnnouncePort,
    /// Announces whose options are malformed; they are answered all the same.
    BadOptions,
    /// HTTP requests that are none (4xx, 501).
    BadHttp,
    /// Announces and scrapes by HTTP whose query is wrong.
    BadQuery,

    /// Requests dropped (UDP) or refused with 503 (HTTP) because the queue to their owner was full.
    DropMeshFull,
    /// Requests dropped or refused because too many waited for other workers.
    DropGatherFull,
    /// Requests dropped or refused because another worker did not answer in time.
    DropGatherLate,
    /// Requests dropped or refused because middleware waited with too many others.
    DropWaitFull,
    /// Requests dropped or refused because middleware did not come to an end with them in time.
    DropWaitLate,
    /// Announces of new peers that were not entered because the table was full; they are answered, without peers.
    DropTableFull,
    /// UDP responses that the kernel did not take.
    DropSendFailed,
    /// HTTP connections refused because too many were open.
    DropConnections,
    /// HTTP connections that could not be accepted.
    DropAccept,
    /// Datagrams that the kernel dropped because a socket's receive buffer was full.
    DropReceiveOverrun,

    /// Messages sent to other workers.
    MeshHops,
    /// Times the ring ran out of receive buffers or its completion queue overflowed; nothing is lost by it.
    RingOverflows,
    /// Downloads that were completed.
    Completed,
    /// Peers that were taken out because their time was over.
    ExpiredPeers,
    /// Peers that were taken out before their time, because memory was short.
    EvictedPeers,
    /// Peers that were taken out because their swarm is not served any more.
    DeniedPeers,
    /// HTTP connections that were closed while they waited for their client, to make room for others.
    EvictedConnections,

    /// Microseconds of CPU time that the worker has used.
    CpuMicros,
    /// HTTP connections open now.
    Connections,
    /// Swarms now.
    Swarms,
    /// Seeders now.
    Seeders,
    /// Leechers now.
    Leechers,
    /// IPv6 peers now.
    V6Peers,
    /// Bytes of memory that the table takes now.
    TableBytes,
    /// By how many milliseconds a peer may outlive its time at present.
    SweepLagMs,
}

/// Requests that are none, by what is wrong with them.
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

/// Requests of sources that asked for more than they may, by what they asked for.
pub const LIMITED: [(&str, Counter); 6] = [
    ("connects", Counter::LimitedConnect),
    ("announces", Counter::LimitedAnnounce),
    ("scrapes", Counter::LimitedScrape),
    ("http-requests", Counter::LimitedHttpRequest),
    ("http-connections", Counter::LimitedHttpConnection),
    ("banned", Counter::LimitedBanned),
];

/// What was lost, by its cause.
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

/// The request of a kind and family that a counter counts.
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

    /// Counts so many more.
    #[inline]
    pub fn add(&mut self, counter: Counter, more: u64) {
        self.0[counter as usize] += more;
    }

    /// Sets a number that goes up and down.
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.0[counter as usize] = value;
    }

    /// The value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// The sum of the values.
    pub fn sum(&self, counters: &[Counter]) -> u64 {
        counters.iter().map(|&counter| self.get(counter)).sum()
    }
}

/// What several workers have counted together.
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

/// How long the turns of a worker took, each with what the runtime did before the next one: a datagram that comes waits
/// for so long at most.
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
    /// Counts a turn.
    #[inline]
    pub fn note(&mut self, took: Duration) {
        let micros = took.as_micros() as u64;
        // 0 us: bucket 0; 1: bucket 1; 2 and 3: bucket 2 ...
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(TURN_BUCKETS)] += 1;
        self.sum_us += micros;
    }

    /// How many turns took so many microseconds: less than this, and no less than the bucket before says. The last one
    /// has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let below = |at: usize| (at < TURN_BUCKETS).then(|| 1 << at);
        self.counts.iter().enumerate().map(move |(at, count)| (below(at), *count))
    }

    /// What all of them took together, in microseconds.
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

/// The last values that a worker published. Written by that worker, read by anybody; what is read together was not
/// necessarily published at the same moment.
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
    /// Makes these the values that others read.
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

    /// Reads how long turns took.
    pub fn read_turns(&self) -> Turns {
        Turns {
            counts: std::array::from_fn(|at| self.turns[at].load(Ordering::Relaxed)),
            sum_us: self.turns_sum_us.load(Ordering::Relaxed),
        }
    }
}
