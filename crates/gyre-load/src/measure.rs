//! Owns what is measured: how many requests and replies there were of each kind, how long each took, what was wrong.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gyre::time::Timestamp;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::{Answer, Judgement, TWICE_EVERY};

/// Latencies are told apart to this many digits ...
const DIGITS: u8 = 3;
/// ... up to an hour.
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

/// What may be wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It can't be read: too short, not HTTP, not bencode.
    Malformed,
    /// It answers another kind of request.
    Kind,
    /// It answers nothing that was asked: no such transaction id, or more than one response.
    Unasked,
    /// Its length fits no number of peers, or of swarms.
    Length,
    /// It lacks what each reply has, or has what is out of range.
    Field,
    /// It has more peers than were wanted.
    TooManyPeers,
    /// It gives the asker itself.
    Asker,
    /// It gives a peer twice.
    PeerTwice,
    /// HTTP: another status than 200.
    Status,
}

impl Wrong {
    pub(crate) const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Kind,
        Self::Unasked,
        Self::Length,
        Self::Field,
        Self::TooManyPeers,
        Self::Asker,
        Self::PeerTwice,
        Self::Status,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Kind => "wrong kind",
            Self::Unasked => "unasked",
            Self::Length => "wrong length",
            Self::Field => "field missing or out of range",
            Self::TooManyPeers => "too many peers",
            Self::Asker => "asker among the peers",
            Self::PeerTwice => "peer twice",
            Self::Status => "HTTP status",
        }
    }
}

/// The figures of one kind of request.
#[derive(Clone)]
pub(crate) struct OfKind {
    pub(crate) requests: u64,
    /// Right or not.
    pub(crate) replies: u64,
    /// No reply came in time, or the connection broke.
    pub(crate) lost: u64,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// The figures of a run, or of one thread's part of it.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) kinds: [OfKind; 3],
    pub(crate) wrong: [u64; Wrong::ALL.len()],
    /// Replies in which the tracker refuses: UDP errors, `failure reason`.
    pub(crate) refused: u64,
    pub(crate) first_refusal: Option<String>,
    /// Requests of an open loop that were due but could not be sent before the end: they had waited longest.
    pub(crate) unsent: u64,
    /// Replies that came after their request had been given up, or a second time.
    pub(crate) late: u64,
    /// HTTP connections that could not be made or broke.
    pub(crate) broken: u64,
    /// Datagrams that the kernel dropped as the generator's own sockets were full: its fault, not the server's.
    pub(crate) overrun: u64,
    /// Peers that were given.
    pub(crate) peers: u64,
    pub(crate) flood: Flooded,
}

/// The figures of a flood.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Flooded {
    /// Datagrams that the kernel took.
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    /// Those that it did not take.
    pub(crate) failed: u64,
    /// What came back, be it what it may.
    pub(crate) replies: u64,
    pub(crate) reply_bytes: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let of_kind = || OfKind { requests: 0, replies: 0, lost: 0, latency: no_latencies() };
        Self {
            kinds: [of_kind(), of_kind(), of_kind()],
            wrong: [0; Wrong::ALL.len()],
            refused: 0,
            first_refusal: None,
            unsent: 0,
            late: 0,
            broken: 0,
            overrun: 0,
            peers: 0,
            flood: Flooded::default(),
        }
    }
}

/// What latencies are counted in.
pub(crate) fn no_latencies() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_US, DIGITS).expect("a range and digits that it knows")
}

impl Tally {
    pub(crate) fn of(&mut self, kind: Kind) -> &mut OfKind {
        &mut self.kinds[kind as usize]
    }

    /// Counts a reply, right or not.
    pub(crate) fn replied(&mut self, kind: Kind, latency: Duration) {
        let of_kind = self.of(kind);
        of_kind.replies += 1;
        of_kind.latency.saturating_record(latency.as_micros() as u64);
    }

    pub(crate) fn is_wrong(&mut self, wrong: Wrong) {
        self.wrong[wrong as usize] += 1;
    }

    pub(crate) fn is_refused(&mut self, message: &[u8]) {
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

    pub(crate) fn all_wrong(&self) -> u64 {
        self.wrong.iter().sum()
    }

    /// Of all kinds together.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut all = self.kinds[0].latency.clone();
        self.kinds[1..].iter().for_each(|kind| all.add(&kind.latency).expect("histograms of one range"));
        all
    }
}

/// A thread's part of the figures, as they arise.
pub(crate) struct Meter {
    pub(crate) tally: Tally,
    /// What is measured: requests that are due from the first moment on and before the second.
    pub(crate) window: Option<[Timestamp; 2]>,
    live: Arc<Live>,
    replies: u64,
}

impl Meter {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        Self { tally: Tally::default(), window: None, live, replies: 0 }
    }

    fn is_measured(&self, due: Timestamp) -> bool {
        self.window.is_some_and(|[from, to]| (from..to).contains(&due))
    }

    /// Whether something is due after the window.
    pub(crate) fn is_behind(&self, due: Timestamp) -> bool {
        self.window.is_some_and(|[_, to]| due >= to)
    }

    pub(crate) fn asked(&mut self, kind: Kind, due: Timestamp) {
        Live::add(&self.live.requests, 1);
        self.tally.of(kind).requests += u64::from(self.is_measured(due));
    }

    pub(crate) fn lost(&mut self, kind: Kind, due: Timestamp) {
        Live::add(&self.live.lost, 1);
        self.tally.of(kind).lost += u64::from(self.is_measured(due));
    }

    /// The figures of a flood, if it is measured now.
    pub(crate) fn flood(&mut self, now: Timestamp) -> Option<&mut Flooded> {
        self.is_measured(now).then_some(&mut self.tally.flood)
    }

    /// A reply is no answer to anything.
    pub(crate) fn is_wrong(&mut self, wrong: Wrong) {
        Live::add(&self.live.wrong, 1);
        self.tally.is_wrong(wrong);
    }

    /// A reply is too late, or the second one.
    pub(crate) fn late(&mut self) {
        self.tally.late += u64::from(self.window.is_some());
    }

    /// A connection could not be made, or broke.
    pub(crate) fn broken(&mut self) {
        self.tally.broken += u64::from(self.window.is_some());
    }

    /// A reply has come, which is judged.
    pub(crate) fn judged(&mut self, kind: Kind, due: Timestamp, now: Timestamp, judgement: &Judgement<'_>) {
        Live::add(&self.live.replies, 1);
        self.replies += 1;
        let measured = self.is_measured(due);
        if measured {
            let latency = now.since(due);
            self.tally.replied(kind, latency);
            self.live.latency().saturating_record(latency.as_micros() as u64);
        }
        match judgement {
            Ok(Answer::Peers(peers)) if measured => self.tally.peers += *peers as u64,
            Ok(Answer::Refused(message)) if measured => self.tally.is_refused(message),
            Ok(_) => {}
            Err(wrong) => self.is_wrong(*wrong),
        }
    }

    /// Replies of all phases.
    pub(crate) fn replies(&self) -> u64 {
        self.replies
    }

    /// Whether the next reply is to be searched for a peer that is there twice.
    pub(crate) fn looks_closely(&self) -> bool {
        self.replies.is_multiple_of(TWICE_EVERY)
    }
}

/// What a thread tells while it runs. Counts of all phases, never reset.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) requests: AtomicU64,
    pub(crate) replies: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) wrong: AtomicU64,
    /// In microseconds, since this was last looked at.
    latency: Mutex<Histogram<u64>>,
}

impl Default for Live {
    fn default() -> Self {
        let [requests, replies, lost, wrong] = Default::default();
        Self { requests, replies, lost, wrong, latency: Mutex::new(no_latencies()) }
    }
}

impl Live {
    /// The latencies since they were last [taken](std::mem::replace). A lock that nobody else wants is cheap beside
    /// what a request costs.
    pub(crate) fn latency(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a number that only the calling thread writes.
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
        one.replied(Kind::Announce, Duration::from_micros(10));
        other.replied(Kind::Announce, Duration::from_micros(30));
        other.replied(Kind::Scrape, Duration::from_micros(1_000_000));
        other.is_wrong(Wrong::Asker);
        other.is_refused(b"no");
        other.of(Kind::Connect).lost += 2;
        one.add(&other);
        assert_eq!((one.replies(), one.lost(), one.all_wrong(), one.refused), (3, 2, 1, 1));
        assert_eq!(one.first_refusal.as_deref(), Some("no"));
        assert_eq!(one.latency().len(), 3);
        assert!(one.latency().value_at_quantile(1.0).abs_diff(1_000_000) < 2_000);
        assert_eq!(one.kinds[Kind::Announce as usize].latency.value_at_quantile(0.5), 10);
    }

    #[test]
    fn causes_are_in_their_order() {
        for (number, wrong) in Wrong::ALL.into_iter().enumerate() {
            assert_eq!(wrong as usize, number);
        }
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }
}
