//! Owns the measurements: requests, replies and latencies of each kind of request, and errors in replies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gyre::time::Timestamp;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::{Answer, CheckedReply, DUPLICATE_CHECK_EVERY};

/// Significant digits of latencies in a histogram.
const DIGITS: u8 = 3;
/// The longest latency that a histogram tells apart: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Announce,
    Scrape,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Connect, Self::Announce, Self::Scrape];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Announce => "announce",
            Self::Scrape => "scrape",
        }
    }
}

/// An error in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyError {
    /// The reply can't be parsed: too short, not HTTP, not bencode.
    Malformed,
    /// The reply is for another kind of request.
    Kind,
    /// No request matches the reply: unknown transaction id, or more than one response.
    Unsolicited,
    /// The length is not a whole number of peers or swarms.
    Length,
    /// A required field is missing or out of range.
    Field,
    /// More peers than the request wanted.
    TooManyPeers,
    /// The peers include the client's own address.
    OwnAddress,
    /// A peer is listed twice.
    DuplicatePeer,
    /// An HTTP status other than 200.
    Status,
}

impl ReplyError {
    pub(crate) const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Kind,
        Self::Unsolicited,
        Self::Length,
        Self::Field,
        Self::TooManyPeers,
        Self::OwnAddress,
        Self::DuplicatePeer,
        Self::Status,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Kind => "wrong kind",
            Self::Unsolicited => "unsolicited",
            Self::Length => "wrong length",
            Self::Field => "field missing or out of range",
            Self::TooManyPeers => "too many peers",
            Self::OwnAddress => "client's own address among the peers",
            Self::DuplicatePeer => "duplicate peer",
            Self::Status => "HTTP status",
        }
    }
}

/// The figures of one kind of request.
#[derive(Clone)]
pub(crate) struct KindTally {
    pub(crate) requests: u64,
    /// Replies, correct or not.
    pub(crate) replies: u64,
    /// Requests without a reply before the timeout or the end of the connection.
    pub(crate) lost: u64,
    /// Latencies in microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// The figures of a run, or of one thread.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) kinds: [KindTally; 3],
    pub(crate) wrong: [u64; ReplyError::ALL.len()],
    /// Replies with an error from the tracker: UDP errors, `failure reason`.
    pub(crate) refused: u64,
    pub(crate) first_refusal: Option<String>,
    /// Requests of an open loop that were due but could not be sent before the end. They had waited longest.
    pub(crate) unsent: u64,
    /// Replies that arrived after the timeout of their request, or a second time.
    pub(crate) late: u64,
    /// HTTP connections that could not be established or broke.
    pub(crate) broken: u64,
    /// Datagrams that the kernel dropped because the generator's sockets were full. Not the server's fault.
    pub(crate) overrun: u64,
    /// Peers in all replies.
    pub(crate) peers: u64,
    pub(crate) flood: FloodCounts,
}

/// The figures of a flood.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct FloodCounts {
    /// Datagrams that the kernel accepted.
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    /// Datagrams that the kernel rejected.
    pub(crate) failed: u64,
    /// Received datagrams of any kind.
    pub(crate) replies: u64,
    pub(crate) reply_bytes: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let kind_tally = || KindTally { requests: 0, replies: 0, lost: 0, latency: empty_histogram() };
        Self {
            kinds: [kind_tally(), kind_tally(), kind_tally()],
            wrong: [0; ReplyError::ALL.len()],
            refused: 0,
            first_refusal: None,
            unsent: 0,
            late: 0,
            broken: 0,
            overrun: 0,
            peers: 0,
            flood: FloodCounts::default(),
        }
    }
}

/// Returns an empty histogram of latencies.
pub(crate) fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_US, DIGITS).expect("a valid range and precision")
}

impl Tally {
    pub(crate) fn kind_mut(&mut self, kind: Kind) -> &mut KindTally {
        &mut self.kinds[kind as usize]
    }

    /// Counts a reply, correct or not.
    pub(crate) fn count_reply(&mut self, kind: Kind, latency: Duration) {
        let kind_tally = self.kind_mut(kind);
        kind_tally.replies += 1;
        kind_tally.latency.saturating_record(latency.as_micros() as u64);
    }

    pub(crate) fn count_error(&mut self, error: ReplyError) {
        self.wrong[error as usize] += 1;
    }

    pub(crate) fn count_refusal(&mut self, message: &[u8]) {
        self.refused += 1;
        self.first_refusal.get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in self.kinds.iter_mut().zip(&other.kinds) {
            sum.requests += part.requests;
            sum.replies += part.replies;
            sum.lost += part.lost;
            sum.latency.add(&part.latency).expect("histograms of one range");
        }
        self.wrong.iter_mut().zip(other.wrong).for_each(|(sum, part)| *sum += part);
        self.refused += other.refused;
        self.unsent += other.unsent;
        self.late += other.late;
        self.broken += other.broken;
        self.overrun += other.overrun;
        self.peers += other.peers;
        self.flood.sent += other.flood.sent;
        self.flood.sent_bytes += other.flood.sent_bytes;
        self.flood.failed += other.flood.failed;
        self.flood.replies += other.flood.replies;
        self.flood.reply_bytes += other.flood.reply_bytes;
        if self.first_refusal.is_none() {
            self.first_refusal.clone_from(&other.first_refusal);
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.requests).sum()
    }

    pub(crate) fn replies(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.replies).sum()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.lost).sum()
    }

    pub(crate) fn error_count(&self) -> u64 {
        self.wrong.iter().sum()
    }

    /// Returns the latencies of all kinds together.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut all = self.kinds[0].latency.clone();
        self.kinds[1..].iter().for_each(|kind| all.add(&kind.latency).expect("histograms of one range"));
        all
    }
}

/// The figures of one running thread.
pub(crate) struct Meter {
    pub(crate) tally: Tally,
    /// The measured time: requests due from the first timestamp on and before the second.
    pub(crate) window: Option<[Timestamp; 2]>,
    live: Arc<LiveCounts>,
    replies: u64,
}

impl Meter {
    pub(crate) fn new(live: Arc<LiveCounts>) -> Self {
        Self { tally: Tally::default(), window: None, live, replies: 0 }
    }

    fn is_measured(&self, due: Timestamp) -> bool {
        self.window.is_some_and(|[from, to]| (from..to).contains(&due))
    }

    /// Returns whether `due` is after the window.
    pub(crate) fn is_after_window(&self, due: Timestamp) -> bool {
        self.window.is_some_and(|[_, to]| due >= to)
    }

    pub(crate) fn count_request(&mut self, kind: Kind, due: Timestamp) {
        LiveCounts::add(&self.live.requests, 1);
        self.tally.kind_mut(kind).requests += u64::from(self.is_measured(due));
    }

    pub(crate) fn count_lost(&mut self, kind: Kind, due: Timestamp) {
        LiveCounts::add(&self.live.lost, 1);
        self.tally.kind_mut(kind).lost += u64::from(self.is_measured(due));
    }

    /// Returns the counts of the flood if `now` is in the window.
    pub(crate) fn flood(&mut self, now: Timestamp) -> Option<&mut FloodCounts> {
        self.is_measured(now).then_some(&mut self.tally.flood)
    }

    /// Counts an error in a reply.
    pub(crate) fn count_error(&mut self, error: ReplyError) {
        LiveCounts::add(&self.live.wrong, 1);
        self.tally.count_error(error);
    }

    /// Counts a reply that is late or a duplicate.
    pub(crate) fn count_late(&mut self) {
        self.tally.late += u64::from(self.window.is_some());
    }

    /// Counts a connection that could not be established or broke.
    pub(crate) fn count_broken(&mut self) {
        self.tally.broken += u64::from(self.window.is_some());
    }

    /// Counts a reply that has been checked.
    pub(crate) fn count_reply(
        &mut self,
        kind: Kind,
        due: Timestamp,
        now: Timestamp,
        checked: &CheckedReply<'_>,
    ) {
        LiveCounts::add(&self.live.replies, 1);
        self.replies += 1;
        let measured = self.is_measured(due);
        if measured {
            let latency = now.since(due);
            self.tally.count_reply(kind, latency);
            self.live.latency().saturating_record(latency.as_micros() as u64);
        }
        match checked {
            Ok(Answer::Peers(peers)) if measured => self.tally.peers += *peers as u64,
            Ok(Answer::Refused(message)) if measured => self.tally.count_refusal(message),
            Ok(_) => {}
            Err(error) => self.count_error(*error),
        }
    }

    /// Returns the number of replies in all phases.
    pub(crate) fn replies(&self) -> u64 {
        self.replies
    }

    /// Returns whether the next reply must be searched for duplicate peers.
    pub(crate) fn checks_duplicates(&self) -> bool {
        self.replies.is_multiple_of(DUPLICATE_CHECK_EVERY)
    }
}

/// Figures of a running thread that other threads may read. The counts cover all phases and are never reset.
#[derive(Debug)]
pub(crate) struct LiveCounts {
    pub(crate) requests: AtomicU64,
    pub(crate) replies: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) wrong: AtomicU64,
    /// Latencies in microseconds since they were last read.
    latency: Mutex<Histogram<u64>>,
}

impl Default for LiveCounts {
    fn default() -> Self {
        let [requests, replies, lost, wrong] = Default::default();
        Self { requests, replies, lost, wrong, latency: Mutex::new(empty_histogram()) }
    }
}

impl LiveCounts {
    /// Locks the latencies since they were last [taken](std::mem::replace). An uncontended lock is cheap compared to a
    /// request.
    pub(crate) fn latency(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a number that is only written by the calling thread.
    pub(crate) fn add(number: &AtomicU64, more: u64) {
        number.store(number.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> [u64; 4] {
        [&self.requests, &self.replies, &self.lost, &self.wrong].map(|number| number.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.count_reply(Kind::Announce, Duration::from_micros(10));
        other.count_reply(Kind::Announce, Duration::from_micros(30));
        other.count_reply(Kind::Scrape, Duration::from_micros(1_000_000));
        other.count_error(ReplyError::OwnAddress);
        other.count_refusal(b"no");
        other.kind_mut(Kind::Connect).lost += 2;
        one.add(&other);
        assert_eq!((one.replies(), one.lost(), one.error_count(), one.refused), (3, 2, 1, 1));
        assert_eq!(one.first_refusal.as_deref(), Some("no"));
        assert_eq!(one.latency().len(), 3);
        assert!(one.latency().value_at_quantile(1.0).abs_diff(1_000_000) < 2_000);
        assert_eq!(one.kinds[Kind::Announce as usize].latency.value_at_quantile(0.5), 10);
    }

    #[test]
    fn lists_of_variants_are_in_declaration_order() {
        for (number, error) in ReplyError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, number);
        }
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }
}
