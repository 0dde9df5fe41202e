//! Owns the requests that wait for other workers: the questions they sent, the answers so far and their deadlines.

use std::collections::{BTreeMap, VecDeque};
use std::task::Poll;

use gyre_core::counters::Counter;
use gyre_core::engine::{Answer, Endpoint, Engine, Outcome, Source, Ticket};
use gyre_core::types::{InfoHash, SwarmCounts};

use crate::bytes::{ClientAnnounce, Reply};
use crate::check::{Check, check_announce_fields};
use crate::oracle::{ReplyValues, Terms};
use crate::watch::{Event, MessageContent, Peers};

/// Time after which a request gives up, and number of requests of one worker that may wait.
const GATHER_DEADLINE_US: u64 = 1_000_000;
const MAX_WAITS: usize = 4_096;

/// Source of a request that waits.
#[derive(Clone, Debug)]
enum Requester {
    Udp { to: Endpoint, transaction: u32 },
    Task,
}

/// A request that waits for answers of other workers.
#[derive(Debug)]
struct PendingWait {
    ticket: Ticket,
    opened_us: u64,
    requester: Requester,
    /// Workers that have not answered yet.
    missing: usize,
    counts: Vec<SwarmCounts>,
    announced: Option<(SwarmCounts, Peers)>,
    is_late: bool,
}

/// A question to another worker.
#[derive(Debug)]
struct SentQuestion {
    ticket: Ticket,
    content: QuestionContent,
}

#[derive(Debug)]
enum QuestionContent {
    Announce { request: ClientAnnounce, terms: Terms },
    Scrape(Vec<(InfoHash, u8)>),
}

/// State of a scrape after its first step.
enum ScrapeStart {
    Complete(Vec<SwarmCounts>),
    Waiting(Ticket),
    Busy,
}

/// All requests that wait, and the questions between workers.
pub(crate) struct PendingWaits {
    waits: Vec<Vec<PendingWait>>,
    /// Questions in the mesh, by sender and owner, in order.
    questions: BTreeMap<(usize, usize), VecDeque<SentQuestion>>,
    /// The question that a worker has just received, with its sender. The next message must answer it.
    unanswered: Option<(usize, SentQuestion)>,
    timeouts: Vec<u64>,
}

impl PendingWaits {
    pub(crate) fn new(workers: usize) -> Self {
        let waits = (0..workers).map(|_| Vec::new()).collect();
        Self { waits, questions: BTreeMap::new(), unanswered: None, timeouts: vec![0; workers] }
    }

    pub(crate) fn is_waiting(&self, worker: usize) -> bool {
        !self.waits[worker].is_empty()
    }

    fn find(&mut self, worker: usize, ticket: Ticket) -> Option<&mut PendingWait> {
        self.waits[worker].iter_mut().find(|wait| wait.ticket == ticket)
    }

    fn remove(&mut self, worker: usize, ticket: Ticket) -> Option<PendingWait> {
        let at = self.waits[worker].iter().position(|wait| wait.ticket == ticket)?;
        Some(self.waits[worker].remove(at))
    }

    /// Checks the reply to a scrape by UDP that waited for other workers.
    pub(crate) fn check_gathered_scrape(
        &mut self,
        worker: usize,
        to: &Endpoint,
        number: u32,
        counts: &[SwarmCounts],
    ) {
        let matches_reply = |wait: &PendingWait| {
            let Requester::Udp { to: client, transaction } = wait.requester else { return false };
            client == *to && transaction == number && wait.missing == 0
        };
        let at = self.waits[worker].iter().position(matches_reply);
        let at = at.unwrap_or_else(|| {
            panic!("no scrape of {} with the transaction {number:#x} is complete", to.source)
        });
        assert_eq!(self.waits[worker].remove(at).counts, counts, "counts of a gathered scrape");
    }

    /// Checks that no request waits and that no question is without an answer.
    pub(crate) fn check_nothing_pending(&self) {
        assert!(self.waits.iter().all(Vec::is_empty), "requests that still wait: {:?}", self.waits);
        let lost: Vec<_> = self.questions.values().flatten().collect();
        assert!(lost.is_empty() && self.unanswered.is_none(), "questions without an answer: {lost:?}");
    }
}

impl Check {
    /// Checks the first step of a scrape by UDP.
    #[allow(clippy::too_many_arguments, reason = "all of it belongs to the request")]
    pub(crate) fn check_scrape(
        &mut self,
        worker: usize,
        now_us: u64,
        from: &Endpoint,
        transaction: u32,
        info_hashes: &[InfoHash],
        reply: Option<&[u8]>,
        events: Vec<Event>,
    ) {
        let requester = Requester::Udp { to: *from, transaction };
        match (self.check_scrape_messages(worker, now_us, requester, info_hashes, events), reply) {
            (ScrapeStart::Complete(counts), Some(reply)) => {
                assert_eq!(Reply::read(reply, from.source), (transaction, Reply::Scrape { counts }));
                self.count_reply(worker, from, "UDP scrape replies");
            }
            (ScrapeStart::Waiting(_) | ScrapeStart::Busy, None) => {}
            (_, reply) => panic!("unexpected reply to a scrape: {reply:?}"),
        }
    }

    /// Counts the worker's own swarms, and checks the questions to the owners of the others.
    fn check_scrape_messages(
        &mut self,
        worker: usize,
        now_us: u64,
        requester: Requester,
        info_hashes: &[InfoHash],
        events: Vec<Event>,
    ) -> ScrapeStart {
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
            assert!(events.is_empty(), "unexpected messages: {events:?}");
            return ScrapeStart::Complete(counts);
        }
        if self.waits.waits[worker].len() >= MAX_WAITS {
            assert!(events.is_empty(), "questions although too many requests wait");
            self.bump(worker, Counter::DropGatherFull);
            return ScrapeStart::Busy;
        }
        let (owners, mut all_taken, mut asked) = (foreign.len(), true, None);
        for event in events {
            let Event::Posted { to, content: MessageContent::Scrape { ticket, swarms }, was_taken } = event
            else {
                panic!("expected a scrape message, got {event:?}")
            };
            let expected = foreign
                .remove(&to)
                .unwrap_or_else(|| panic!("worker {to} owns none of the swarms or was asked twice"));
            let swarms: Vec<_> = swarms.into_iter().map(|(hash, place, _)| (hash, place)).collect();
            assert_eq!(swarms, expected, "swarms in the question to worker {to}");
            assert!(
                all_taken && asked.is_none_or(|other| other == ticket),
                "the questions of one scrape have different tickets"
            );
            asked = Some(ticket);
            all_taken = self.count_post(worker, was_taken);
            if was_taken {
                self.add_question(worker, to, ticket, QuestionContent::Scrape(swarms));
            }
        }
        assert!(foreign.is_empty() || !all_taken, "owners without a question: {foreign:?}");
        match asked {
            Some(ticket) if all_taken => {
                self.open_wait(worker, now_us, ticket, requester, owners, counts);
                ScrapeStart::Waiting(ticket)
            }
            _ => ScrapeStart::Busy,
        }
    }

    fn add_question(&mut self, from: usize, to: usize, ticket: Ticket, content: QuestionContent) {
        self.waits.questions.entry((from, to)).or_default().push_back(SentQuestion { ticket, content });
    }

    fn open_wait(
        &mut self,
        worker: usize,
        opened_us: u64,
        ticket: Ticket,
        requester: Requester,
        missing: usize,
        counts: Vec<SwarmCounts>,
    ) {
        assert!(self.waits.find(worker, ticket).is_none(), "two requests have one ticket");
        let wait =
            PendingWait { ticket, opened_us, requester, missing, counts, announced: None, is_late: false };
        self.waits.waits[worker].push(wait);
    }

    /// Checks the first step of an announce by a task.
    pub(crate) fn check_announce_outcome(
        &mut self,
        worker: usize,
        now_us: u64,
        request: &ClientAnnounce,
        source: Source,
        outcome: &Outcome,
        events: &[Event],
    ) {
        let (owner, terms) = (self.owner(&request.info_hash), self.terms(request, source == Source::Udp));
        let is_full = self.waits.waits[worker].len() >= MAX_WAITS;
        match (outcome, events) {
            (Outcome::Ready(Answer::Announced { counts, peers }), []) if owner == worker => {
                self.check_peer_list(worker, now_us, request, terms, *counts, &Peers::of(peers));
            }
            (Outcome::Busy, []) if is_full && owner != worker => self.bump(worker, Counter::DropGatherFull),
            (
                outcome,
                [
                    Event::Posted {
                        to,
                        content: MessageContent::Announce { ticket, announce, source: sent_source },
                        was_taken,
                    },
                ],
            ) if owner != worker => {
                assert_eq!((*to, *sent_source), (owner, source), "owner and source in the message");
                check_announce_fields(announce, request, terms);
                self.count_post(worker, *was_taken);
                match outcome {
                    Outcome::Waiting(waiting) if *was_taken => {
                        assert_eq!(waiting, ticket);
                        self.add_question(
                            worker,
                            owner,
                            *ticket,
                            QuestionContent::Announce { request: request.clone(), terms },
                        );
                        self.open_wait(worker, now_us, *ticket, Requester::Task, 1, Vec::new());
                    }
                    Outcome::Busy if !was_taken => {}
                    other => panic!("unexpected first step of an announce: {other:?}"),
                }
            }
            other => panic!("unexpected first step of an announce: {other:?}"),
        }
    }

    /// Checks the first step of a scrape by a task.
    pub(crate) fn check_scrape_outcome(
        &mut self,
        worker: usize,
        now_us: u64,
        info_hashes: &[InfoHash],
        outcome: &Outcome,
        events: Vec<Event>,
    ) {
        match (self.check_scrape_messages(worker, now_us, Requester::Task, info_hashes, events), outcome) {
            (ScrapeStart::Complete(counts), Outcome::Ready(Answer::Scraped(answered))) => {
                assert_eq!(counts, answered[..]);
            }
            (ScrapeStart::Waiting(ticket), Outcome::Waiting(waiting)) => assert_eq!(ticket, *waiting),
            (ScrapeStart::Busy, Outcome::Busy) => {}
            (_, other) => panic!("unexpected first step of a scrape: {other:?}"),
        }
    }

    fn check_peer_list(
        &mut self,
        worker: usize,
        now_us: u64,
        request: &ClientAnnounce,
        terms: Terms,
        counts: SwarmCounts,
        peers: &Peers,
    ) {
        let values = ReplyValues {
            seeders: counts.seeders,
            leechers: counts.leechers,
            downloaded: Some(counts.downloaded),
            peers: &peers.addresses,
            ids: &peers.ids,
        };
        self.check_answer(worker, now_us, request, terms, &values);
    }

    /// Checks a question or an answer that a worker receives from another.
    pub(crate) fn check_received(&mut self, worker: usize, from: usize, content: MessageContent) {
        assert!(self.waits.unanswered.is_none(), "the last question has no answer");
        match content {
            MessageContent::Announce { ticket, announce, .. } => {
                let question = self.take_question(from, worker, ticket);
                let QuestionContent::Announce { request, terms } = &question.content else {
                    panic!("expected an announce: {question:?}")
                };
                check_announce_fields(&announce, request, *terms);
                self.waits.unanswered = Some((from, question));
            }
            MessageContent::Scrape { ticket, .. } => {
                let question = self.take_question(from, worker, ticket);
                self.waits.unanswered = Some((from, question));
            }
            MessageContent::Announced { ticket, counts, peers } => {
                if let Some(wait) = self.waits.find(worker, ticket).filter(|wait| !wait.is_late) {
                    assert!(
                        wait.missing == 1 && wait.counts.is_empty(),
                        "an announce's answer to another question"
                    );
                    (wait.missing, wait.announced) = (0, Some((counts, peers)));
                }
            }
            MessageContent::Scraped { ticket, swarms } => {
                if let Some(wait) = self.waits.find(worker, ticket).filter(|wait| !wait.is_late) {
                    swarms.iter().for_each(|(_, place, counts)| wait.counts[usize::from(*place)] = *counts);
                    wait.missing = wait.missing.checked_sub(1).expect("no more answers than questions");
                }
            }
            MessageContent::UdpAnnounce(_) => unreachable!("check_events handles it"),
        }
    }

    /// Returns the next question in the queue between two workers.
    fn take_question(&mut self, from: usize, to: usize, ticket: Ticket) -> SentQuestion {
        let question = self.waits.questions.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        let question = question
            .unwrap_or_else(|| panic!("worker {from} has sent no question {ticket:?} to worker {to}"));
        assert_eq!(question.ticket, ticket, "questions are received out of order");
        question
    }

    /// Checks the answer of a worker to the last question.
    pub(crate) fn check_answer_message(
        &mut self,
        worker: usize,
        now_us: u64,
        to: usize,
        content: MessageContent,
        was_taken: bool,
    ) {
        let (from, question) = self
            .waits
            .unanswered
            .take()
            .unwrap_or_else(|| panic!("an answer without a question: {content:?}"));
        assert_eq!(from, to, "receiver of the answer");
        match (content, question.content) {
            (
                MessageContent::Announced { ticket, counts, peers },
                QuestionContent::Announce { request, terms },
            ) => {
                assert_eq!(ticket, question.ticket);
                self.check_peer_list(worker, now_us, &request, terms, counts, &peers);
            }
            (MessageContent::Scraped { ticket, swarms }, QuestionContent::Scrape(asked)) => {
                assert_eq!(ticket, question.ticket);
                let counted =
                    |(hash, place): (InfoHash, u8)| (hash, place, self.oracle.counts(worker, &hash));
                assert_eq!(
                    swarms,
                    asked.into_iter().map(counted).collect::<Vec<_>>(),
                    "counts in the answer to a scrape"
                );
            }
            (content, question) => panic!("unexpected answer to {question:?}: {content:?}"),
        }
        self.count_post(worker, was_taken);
    }

    /// Checks the requests that a turn has given up: they were past their deadline, and the oldest were given up first.
    pub(crate) fn check_timeouts(&mut self, worker: usize, now_us: u64, engine: &Engine, is_finished: bool) {
        let all = engine.counters.get(Counter::DropGatherLate);
        let timeouts = all - std::mem::replace(&mut self.waits.timeouts[worker], all);
        self.log.add("gather timeouts", timeouts);
        let mut left = timeouts;
        self.waits.waits[worker].retain_mut(|wait| {
            let is_overdue =
                wait.opened_us + GATHER_DEADLINE_US <= now_us && wait.missing > 0 && !wait.is_late;
            if !is_overdue || left == 0 {
                assert!(!is_overdue || !is_finished, "{wait:?} is past its deadline");
                return true;
            }
            left -= 1;
            wait.is_late = true;
            matches!(wait.requester, Requester::Task) // it is removed when the task polls
        });
        assert_eq!(left, 0, "requests were given up before their deadline");
    }

    /// Checks what a task gets when it polls for its answer.
    pub(crate) fn check_poll(&mut self, worker: usize, ticket: Ticket, polled: &Poll<Option<Answer>>) {
        let wait =
            self.waits.find(worker, ticket).unwrap_or_else(|| panic!("no request waits with {ticket:?}"));
        let is_ready = wait.missing == 0;
        match polled {
            Poll::Pending => assert!(!is_ready && !wait.is_late, "the task should have its answer"),
            Poll::Ready(None) => assert!(wait.is_late, "the request was not given up"),
            Poll::Ready(Some(Answer::Scraped(counts))) => {
                assert!(is_ready && wait.announced.is_none());
                assert_eq!(wait.counts, counts[..], "counts of a gathered scrape");
            }
            Poll::Ready(Some(Answer::Announced { counts, peers })) => {
                assert_eq!(
                    wait.announced,
                    Some((*counts, Peers::of(peers))),
                    "counts and peers of an announce"
                );
            }
        }
        if polled.is_ready() {
            self.waits.remove(worker, ticket);
        }
    }

    /// Removes the wait of a task that has ended, with or without its answer.
    pub(crate) fn remove_wait(&mut self, worker: usize, ticket: Ticket) {
        let was_open = self.waits.remove(worker, ticket).is_some();
        self.log.add("abandoned waits", u64::from(was_open));
    }
}
