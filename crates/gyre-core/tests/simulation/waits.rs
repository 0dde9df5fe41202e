//! Owns the expected state of requests that wait for other workers: the workers they asked, the answers so far,
//! since when.

use std::collections::{BTreeMap, VecDeque};
use std::task::Poll;

use gyre_core::counters::Counter;
use gyre_core::engine::{Answer, Endpoint, Engine, Outcome, Source, Ticket};
use gyre_core::types::{InfoHash, SwarmCounts};

use crate::bytes::{ClientAnnounce, Reply};
use crate::check::{Check, check_announce};
use crate::oracle::{Answered, Terms};
use crate::watch::{Content, Event, Peers};

/// How long a request waits, and how many of a worker may.
const DEADLINE_US: u64 = 1_000_000;
const MOST: usize = 4_096;

/// The waiting client.
#[derive(Clone, Debug)]
enum Waiter {
    Udp { to: Endpoint, transaction: u32 },
    Task,
}

/// A request that waits.
#[derive(Debug)]
struct Wait {
    ticket: Ticket,
    opened_us: u64,
    client: Waiter,
    /// Workers that have yet to answer.
    missing: usize,
    counts: Vec<SwarmCounts>,
    announced: Option<(SwarmCounts, Peers)>,
    is_late: bool,
}

/// What a worker was asked.
#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    request: Inquiry,
}

#[derive(Debug)]
enum Inquiry {
    Announce { wish: ClientAnnounce, terms: Terms },
    Scrape(Vec<(InfoHash, u8)>),
}

/// How far a scrape has come at once.
enum Spread {
    All(Vec<SwarmCounts>),
    Waiting(Ticket),
    Busy,
}

/// All that wait, by worker.
pub(crate) struct Waits {
    waits: Vec<Vec<Wait>>,
    /// By asker and owner, in their order.
    flights: BTreeMap<(usize, usize), VecDeque<Flight>>,
    /// What a worker has just taken from another, and must answer next.
    in_hand: Option<(usize, Flight)>,
    late: Vec<u64>,
}

impl Waits {
    pub(crate) fn new(workers: usize) -> Self {
        let waits = (0..workers).map(|_| Vec::new()).collect();
        Self { waits, flights: BTreeMap::new(), in_hand: None, late: vec![0; workers] }
    }

    pub(crate) fn is_waiting(&self, worker: usize) -> bool {
        !self.waits[worker].is_empty()
    }

    fn find(&mut self, worker: usize, ticket: Ticket) -> Option<&mut Wait> {
        self.waits[worker].iter_mut().find(|wait| wait.ticket == ticket)
    }

    fn remove(&mut self, worker: usize, ticket: Ticket) -> Option<Wait> {
        let at = self.waits[worker].iter().position(|wait| wait.ticket == ticket)?;
        Some(self.waits[worker].remove(at))
    }

    /// A scrape by UDP that was gathered is answered.
    pub(crate) fn scrape_answered(
        &mut self,
        worker: usize,
        to: &Endpoint,
        number: u32,
        counts: &[SwarmCounts],
    ) {
        let is_it = |wait: &Wait| {
            let Waiter::Udp { to: asker, transaction } = wait.client else { return false };
            asker == *to && transaction == number && wait.missing == 0
        };
        let at = self.waits[worker].iter().position(is_it);
        let at = at.unwrap_or_else(|| panic!("no client at {} waits for the scrape {number:#x}", to.source));
        assert_eq!(self.waits[worker].remove(at).counts, counts, "a gathered scrape");
    }

    /// Checks that no request waits.
    pub(crate) fn check_quiet(&self) {
        assert!(self.waits.iter().all(Vec::is_empty), "who still waits: {:?}", self.waits);
        let lost: Vec<_> = self.flights.values().flatten().collect();
        assert!(lost.is_empty() && self.in_hand.is_none(), "what was never answered: {lost:?}");
    }
}

impl Check {
    /// A scrape by UDP was taken in.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to the request")]
    pub(crate) fn scrape_asked(
        &mut self,
        worker: usize,
        now_us: u64,
        from: &Endpoint,
        transaction: u32,
        info_hashes: &[InfoHash],
        reply: Option<&[u8]>,
        events: Vec<Event>,
    ) {
        let who = Waiter::Udp { to: *from, transaction };
        match (self.spread(worker, now_us, who, info_hashes, events), reply) {
            (Spread::All(counts), Some(reply)) => {
                assert_eq!(Reply::read(reply, from.source), (transaction, Reply::Scrape { counts }));
                self.replied(worker, from, "answered scrapes");
            }
            (Spread::Waiting(_) | Spread::Busy, None) => {}
            (_, reply) => panic!("a scrape has led to {reply:?}"),
        }
    }

    /// Counts what is the worker's own, and holds what others were asked.
    fn spread(
        &mut self,
        worker: usize,
        now_us: u64,
        client: Waiter,
        info_hashes: &[InfoHash],
        events: Vec<Event>,
    ) -> Spread {
        let mut foreign = BTreeMap::<usize, Vec<(InfoHash, u8)>>::new();
        let mut counts = Vec::new();
        for (place, info_hash) in info_hashes.iter().enumerate() {
            let owner = self.owner(info_hash);
            if owner == worker {
                counts.push(self.oracle.counts(worker, info_hash));
            } else {
                counts.push(SwarmCounts::default());
                foreign.entry(owner).or_default().push((*info_hash, place as u8));
            }
        }
        if foreign.is_empty() {
            assert!(events.is_empty(), "no other worker must be asked: {events:?}");
            return Spread::All(counts);
        }
        if self.waits.waits[worker].len() >= MOST {
            assert!(events.is_empty(), "too many wait");
            self.bump(worker, Counter::DropGatherFull);
            return Spread::Busy;
        }
        let (parts, mut all_taken, mut asked) = (foreign.len(), true, None);
        for event in events {
            let Event::Posted { to, words: Content::Scrape { ticket, swarms }, was_taken } = event else {
                panic!("a scrape is asked for: {event:?}")
            };
            let expected = foreign.remove(&to).unwrap_or_else(|| panic!("worker {to} is asked for nothing"));
            let swarms: Vec<_> = swarms.into_iter().map(|(hash, place, _)| (hash, place)).collect();
            assert_eq!(swarms, expected, "swarms of worker {to}");
            assert!(all_taken && asked.is_none_or(|other| other == ticket), "one wait for all");
            asked = Some(ticket);
            all_taken = self.posted(worker, was_taken);
            if was_taken {
                self.fly(worker, to, ticket, Inquiry::Scrape(swarms));
            }
        }
        assert!(foreign.is_empty() || !all_taken, "owners that were not asked: {foreign:?}");
        match asked {
            Some(ticket) if all_taken => {
                self.open_wait(worker, now_us, ticket, client, parts, counts);
                Spread::Waiting(ticket)
            }
            _ => Spread::Busy,
        }
    }

    fn fly(&mut self, from: usize, to: usize, ticket: Ticket, request: Inquiry) {
        self.waits.flights.entry((from, to)).or_default().push_back(Flight { ticket, request });
    }

    fn open_wait(
        &mut self,
        worker: usize,
        opened_us: u64,
        ticket: Ticket,
        client: Waiter,
        missing: usize,
        counts: Vec<SwarmCounts>,
    ) {
        assert!(self.waits.find(worker, ticket).is_none(), "two with one ticket");
        let wait = Wait { ticket, opened_us, client, missing, counts, announced: None, is_late: false };
        self.waits.waits[worker].push(wait);
    }

    /// A task has asked for an announce. Holds what came of it.
    pub(crate) fn announce_asked(
        &mut self,
        worker: usize,
        now_us: u64,
        wish: &ClientAnnounce,
        source: Source,
        outcome: &Outcome,
        events: &[Event],
    ) {
        let (owner, terms) = (self.owner(&wish.info_hash), self.terms(wish, source == Source::Udp));
        let is_full = self.waits.waits[worker].len() >= MOST;
        match (outcome, events) {
            (Outcome::Ready(Answer::Announced { counts, peers }), []) if owner == worker => {
                self.announced_by_list(worker, now_us, wish, terms, *counts, &Peers::of(peers));
            }
            (Outcome::Busy, []) if is_full && owner != worker => self.bump(worker, Counter::DropGatherFull),
            (
                outcome,
                [
                    Event::Posted {
                        to,
                        words: Content::Announce { ticket, announce, source: how },
                        was_taken,
                    },
                ],
            ) if owner != worker => {
                assert_eq!((*to, *how), (owner, source), "the worker that an announce goes to");
                check_announce(announce, wish, terms);
                self.posted(worker, *was_taken);
                match outcome {
                    Outcome::Waiting(waiting) if *was_taken => {
                        assert_eq!(waiting, ticket);
                        self.fly(worker, owner, *ticket, Inquiry::Announce { wish: wish.clone(), terms });
                        self.open_wait(worker, now_us, *ticket, Waiter::Task, 1, Vec::new());
                    }
                    Outcome::Busy if !was_taken => {}
                    other => panic!("an announce has led to {other:?}"),
                }
            }
            other => panic!("an announce has led to {other:?}"),
        }
    }

    /// A task has asked for a scrape. Holds what came of it.
    pub(crate) fn scrape_asked_by_task(
        &mut self,
        worker: usize,
        now_us: u64,
        info_hashes: &[InfoHash],
        outcome: &Outcome,
        events: Vec<Event>,
    ) {
        match (self.spread(worker, now_us, Waiter::Task, info_hashes, events), outcome) {
            (Spread::All(counts), Outcome::Ready(Answer::Scraped(said))) => assert_eq!(counts, said[..]),
            (Spread::Waiting(ticket), Outcome::Waiting(waiting)) => assert_eq!(ticket, *waiting),
            (Spread::Busy, Outcome::Busy) => {}
            (_, other) => panic!("a scrape has led to {other:?}"),
        }
    }

    fn announced_by_list(
        &mut self,
        worker: usize,
        now_us: u64,
        wish: &ClientAnnounce,
        terms: Terms,
        counts: SwarmCounts,
        peers: &Peers,
    ) {
        let said = Answered {
            seeders: counts.seeders,
            leechers: counts.leechers,
            downloaded: Some(counts.downloaded),
            peers: &peers.addresses,
            ids: &peers.ids,
        };
        self.announced(worker, now_us, wish, terms, &said);
    }

    /// A worker has taken a question of another, or an answer.
    pub(crate) fn took(&mut self, worker: usize, from: usize, words: Content) {
        assert!(self.waits.in_hand.is_none(), "a question was not answered");
        match words {
            Content::Announce { ticket, announce, .. } => {
                let flight = self.land(from, worker, ticket);
                let Inquiry::Announce { wish, terms } = &flight.request else {
                    panic!("an announce: {flight:?}")
                };
                check_announce(&announce, wish, *terms);
                self.waits.in_hand = Some((from, flight));
            }
            Content::Scrape { ticket, .. } => {
                let flight = self.land(from, worker, ticket);
                self.waits.in_hand = Some((from, flight));
            }
            Content::Announced { ticket, counts, peers } => {
                if let Some(wait) = self.waits.find(worker, ticket).filter(|wait| !wait.is_late) {
                    assert!(wait.missing == 1 && wait.counts.is_empty(), "an answer to what was not asked");
                    (wait.missing, wait.announced) = (0, Some((counts, peers)));
                }
            }
            Content::Scraped { ticket, swarms } => {
                if let Some(wait) = self.waits.find(worker, ticket).filter(|wait| !wait.is_late) {
                    swarms.iter().for_each(|(_, place, counts)| wait.counts[usize::from(*place)] = *counts);
                    wait.missing = wait.missing.checked_sub(1).expect("an answer that was missing");
                }
            }
            Content::UdpAnnounce(_) => unreachable!("it waits for no worker"),
        }
    }

    /// The next question on the way between two workers has come.
    fn land(&mut self, from: usize, to: usize, ticket: Ticket) -> Flight {
        let flight = self.waits.flights.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        let flight = flight.unwrap_or_else(|| panic!("worker {from} has not asked {to} for {ticket:?}"));
        assert_eq!(flight.ticket, ticket, "out of order");
        flight
    }

    /// A worker has answered another.
    pub(crate) fn answered(
        &mut self,
        worker: usize,
        now_us: u64,
        to: usize,
        words: Content,
        was_taken: bool,
    ) {
        let (from, flight) =
            self.waits.in_hand.take().unwrap_or_else(|| panic!("an answer to nothing: {words:?}"));
        assert_eq!(from, to, "the way back");
        match (words, flight.request) {
            (Content::Announced { ticket, counts, peers }, Inquiry::Announce { wish, terms }) => {
                assert_eq!(ticket, flight.ticket);
                self.announced_by_list(worker, now_us, &wish, terms, counts, &peers);
            }
            (Content::Scraped { ticket, swarms }, Inquiry::Scrape(asked)) => {
                assert_eq!(ticket, flight.ticket);
                let counted =
                    |(hash, place): (InfoHash, u8)| (hash, place, self.oracle.counts(worker, &hash));
                assert_eq!(swarms, asked.into_iter().map(counted).collect::<Vec<_>>(), "a part of a scrape");
            }
            (words, asked) => panic!("{asked:?} was answered by {words:?}"),
        }
        self.posted(worker, was_taken);
    }

    /// Some may have been given up in a turn; those must have waited for too long, the first first.
    pub(crate) fn check_late(&mut self, worker: usize, now_us: u64, engine: &Engine, is_finished: bool) {
        let all = engine.counters.get(Counter::DropGatherLate);
        let late = all - std::mem::replace(&mut self.waits.late[worker], all);
        self.log.add("gathered too late", late);
        let mut left = late;
        self.waits.waits[worker].retain_mut(|wait| {
            let is_due = wait.opened_us + DEADLINE_US <= now_us && wait.missing > 0 && !wait.is_late;
            if !is_due || left == 0 {
                assert!(!is_due || !is_finished, "{wait:?} should have been given up");
                return true;
            }
            left -= 1;
            wait.is_late = true;
            matches!(wait.client, Waiter::Task) // it is woken, and ends then
        });
        assert_eq!(left, 0, "given up before its time");
    }

    /// A task has looked for its answer.
    pub(crate) fn polled(&mut self, worker: usize, ticket: Ticket, polled: &Poll<Option<Answer>>) {
        let wait =
            self.waits.find(worker, ticket).unwrap_or_else(|| panic!("no request waits with {ticket:?}"));
        let is_ready = wait.missing == 0;
        match polled {
            Poll::Pending => assert!(!is_ready && !wait.is_late, "there is an answer"),
            Poll::Ready(None) => assert!(wait.is_late, "it was not given up"),
            Poll::Ready(Some(Answer::Scraped(counts))) => {
                assert!(is_ready && wait.announced.is_none());
                assert_eq!(wait.counts, counts[..], "a gathered scrape");
            }
            Poll::Ready(Some(Answer::Announced { counts, peers })) => {
                assert_eq!(wait.announced, Some((*counts, Peers::of(peers))), "an announce's answer");
            }
        }
        if polled.is_ready() {
            self.waits.remove(worker, ticket);
        }
    }

    /// A task has gone, whether it had its answer or not.
    pub(crate) fn abandoned(&mut self, worker: usize, ticket: Ticket) {
        let was_open = self.waits.remove(worker, ticket).is_some();
        self.log.add("abandoned", u64::from(was_open));
    }
}
