//! Owns the counters: plain numbers of one worker, which it publishes at intervals for other threads to read.

use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::{TURN_BUCKETS, TURN_DATAGRAM_BUCKETS};
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

/// A histogram: the number of values in each bucket, and the sum of all values. The upper bounds of the buckets are 1,
/// 2, 4, 8 and so on. The last bucket has none.
#[derive(Clone, Debug)]
pub struct Histogram<const BUCKETS: usize> {
    counts: [u64; BUCKETS],
    sum: u64,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum: 0 }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// Counts `value` in the first bucket whose bound is more than `rank`.
    #[inline]
    fn note(&mut self, value: u64, rank: u64) {
        // 0: bucket 0; 1: bucket 1; 2 and 3: bucket 2 ...
        let bucket = (u64::BITS - rank.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum += value;
    }

    /// Returns the number of values in each bucket, with the bucket's upper bound. The lower bound is that of the
    /// bucket before. The last bucket has no upper bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bound = |at: usize| (at + 1 < BUCKETS).then(|| 1 << at);
        self.counts.iter().enumerate().map(move |(at, count)| (bound(at), *count))
    }

    /// Returns the number of values in each bucket.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    fn plus(&self, other: &Self) -> Self {
        let counts = std::array::from_fn(|at| self.counts[at] + other.counts[at]);
        Self { counts, sum: self.sum + other.sum }
    }
}

/// Histogram of the durations of turns.
pub type DurationHistogram = Histogram<{ TURN_BUCKETS + 1 }>;
/// Histogram of the numbers of datagrams of turns.
pub type DatagramHistogram = Histogram<{ TURN_DATAGRAM_BUCKETS + 1 }>;

/// Durations of a worker's turns, and how many datagrams they took.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::counters::Turns;
/// use std::time::Duration;
///
/// let mut turns = Turns::default();
/// turns.note(Duration::from_micros(40));
/// turns.note(Duration::from_secs(3));
/// assert_eq!(turns.durations().buckets().find(|(_, count)| *count > 0), Some((Some(64), 1)));
/// assert_eq!(turns.durations().buckets().last(), Some((None, 1)));
/// turns.note_datagrams(0);
/// turns.note_datagrams(64);
/// assert_eq!(turns.datagrams().buckets().find(|(_, count)| *count > 0), Some((Some(64), 1)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Turns {
    durations: DurationHistogram,
    datagrams: DatagramHistogram,
}

impl Turns {
    /// Counts a turn that took `took`.
    #[inline]
    pub fn note(&mut self, took: Duration) {
        let micros = took.as_micros() as u64;
        self.durations.note(micros, micros);
    }

    /// Counts the datagrams of a turn, unless there were none.
    #[inline]
    pub fn note_datagrams(&mut self, datagrams: usize) {
        if datagrams > 0 {
            self.datagrams.note(datagrams as u64, datagrams as u64 - 1);
        }
    }

    /// Returns the durations in microseconds. Each includes what the runtime did before the next turn. A datagram that
    /// arrives waits for at most one turn. The bounds are exclusive.
    pub fn durations(&self) -> &DurationHistogram {
        &self.durations
    }

    /// Returns the numbers of datagrams of the turns that took any. The bounds are inclusive.
    pub fn datagrams(&self) -> &DatagramHistogram {
        &self.datagrams
    }
}

impl<'a> Sum<&'a Self> for Turns {
    fn sum<I: Iterator<Item = &'a Self>>(workers: I) -> Self {
        workers.fold(Self::default(), |all, worker| Self {
            durations: all.durations.plus(&worker.durations),
            datagrams: all.datagrams.plus(&worker.datagrams),
        })
    }
}

/// A histogram that other threads can read.
#[derive(Debug)]
struct PublishedHistogram<const BUCKETS: usize> {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl<const BUCKETS: usize> Default for PublishedHistogram<BUCKETS> {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl<const BUCKETS: usize> PublishedHistogram<BUCKETS> {
    fn publish(&self, histogram: &Histogram<BUCKETS>) {
        publish(&self.counts, &histogram.counts);
        self.sum.store(histogram.sum, Ordering::Relaxed);
    }

    fn read(&self) -> Histogram<BUCKETS> {
        Histogram { counts: read(&self.counts), sum: self.sum.load(Ordering::Relaxed) }
    }
}

fn publish(published: &[AtomicU64], values: &[u64]) {
    published.iter().zip(values).for_each(|(published, value)| published.store(*value, Ordering::Relaxed));
}

fn read<const COUNT: usize>(published: &[AtomicU64; COUNT]) -> [u64; COUNT] {
    std::array::from_fn(|at| published[at].load(Ordering::Relaxed))
}

/// The last values that a worker published. Only that worker writes them, any thread reads them. Values that are read
/// together were not necessarily published at the same moment.
#[derive(Debug)]
pub struct Published {
    counters: [AtomicU64; Counter::COUNT],
    durations: PublishedHistogram<{ TURN_BUCKETS + 1 }>,
    datagrams: PublishedHistogram<{ TURN_DATAGRAM_BUCKETS + 1 }>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            durations: PublishedHistogram::default(),
            datagrams: PublishedHistogram::default(),
        }
    }
}

impl Published {
    /// Publishes these values.
    pub fn publish(&self, counters: &Counters, turns: &Turns) {
        publish(&self.counters, &counters.0);
        self.durations.publish(&turns.durations);
        self.datagrams.publish(&turns.datagrams);
    }

    /// Reads the counters.
    pub fn read(&self) -> Counters {
        Counters(read(&self.counters))
    }

    /// Reads the statistics of the turns.
    pub fn read_turns(&self) -> Turns {
        Turns { durations: self.durations.read(), datagrams: self.datagrams.read() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TURN_DATAGRAMS;

    #[test]
    fn turns_are_counted_by_powers_of_two_of_their_datagrams() {
        let mut turns = Turns::default();
        for datagrams in [0, 1, 1, 2, 3, 4, 5, 64, 65, TURN_DATAGRAMS] {
            turns.note_datagrams(datagrams);
        }
        let counts: Vec<_> = turns.datagrams().buckets().filter(|(_, count)| *count > 0).collect();
        let bounds = [(1, 2), (2, 1), (4, 2), (8, 1), (64, 1), (128, 2)];
        assert_eq!(counts, bounds.map(|(bound, count)| (Some(bound), count)));
        assert_eq!(turns.datagrams().sum(), 145 + TURN_DATAGRAMS as u64);
        assert_eq!(turns.datagrams().buckets().last(), Some((None, 0)), "no turn takes more");
        assert_eq!(turns.durations().sum(), 0);
    }

    #[test]
    fn durations_are_below_the_bound_of_their_bucket() {
        let mut turns = Turns::default();
        for micros in [0, 1, 2, 3, 4, 524_287, 524_288, u64::MAX >> 1] {
            turns.note(Duration::from_micros(micros));
        }
        let counts: Vec<_> = turns.durations().buckets().filter(|(_, count)| *count > 0).collect();
        let bound = |bound, count| (Some(bound), count);
        assert_eq!(
            counts,
            [bound(1, 1), bound(2, 1), bound(4, 2), bound(8, 1), bound(1 << 19, 1), (None, 2)]
        );
    }

    #[test]
    fn what_is_published_can_be_read_and_added_up() {
        let (published, mut counters, mut turns) =
            (Published::default(), Counters::default(), Turns::default());
        counters.bump(Counter::Faults);
        turns.note(Duration::from_micros(9));
        turns.note_datagrams(7);
        published.publish(&counters, &turns);
        assert_eq!(published.read().get(Counter::Faults), 1);
        let workers = [published.read_turns(), turns];
        let all: Turns = workers.iter().sum();
        assert_eq!((all.durations().sum(), all.datagrams().sum()), (18, 14));
        assert_eq!((all.durations().counts()[4], all.datagrams().counts()[3]), (2, 2));
    }
}
