//! Owns requests that a worker answers in a task: HTTP requests, and requests for which the middleware waits. The world
//! is the executor.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_core::future::LocalBoxFuture;
use gyre_core::counters::Counter;
use gyre_core::engine::context::{AnnounceRequest, RequestContext, Response, ScrapeRequest};
use gyre_core::engine::middleware::Middleware;
use gyre_core::engine::task::{self, Step, Swarms};
use gyre_core::engine::{Answer, Engine, Gate, Outcome, Source, Verdict, Waiting};
use gyre_core::error::{Code, TrackerError};
use gyre_core::limits::WAIT_DEADLINE_MS;
use gyre_core::throttle::Limited;
use gyre_core::time::Timestamp;
use gyre_core::types::{InfoHash, PeerId, SwarmCounts};
use gyre_core::wire::query::{AnnounceQuery, ScrapeQuery};

use crate::bytes::{self, ClientAnnounce, Reply};
use crate::check::Check;
use crate::middleware::refusal;
use crate::watch::{Event, Events, WatchedMailbox};

/// State that the tasks of a worker share.
pub(crate) struct Shared {
    pub(crate) me: usize,
    pub(crate) engine: RefCell<Engine>,
    pub(crate) mesh: RefCell<WatchedMailbox>,
    /// Events that are not checked yet.
    pub(crate) events: Events,
    pub(crate) check: Rc<RefCell<Check>>,
    pub(crate) now: Cell<Timestamp>,
}

/// A request by HTTP.
#[derive(Clone, Debug)]
pub(crate) enum HttpRequest {
    Announce { request: ClientAnnounce, wants_ids: bool },
    Scrape(Vec<InfoHash>),
}

/// Set when a task must be polled.
#[derive(Default)]
pub(crate) struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A task that answers a request.
pub(crate) struct Task {
    future: LocalBoxFuture<'static, ()>,
    woken: Arc<WakeFlag>,
    /// When the middleware has waited too long, if it waits.
    pub(crate) deadline_us: Option<u64>,
    pub(crate) by_http: bool,
}

impl Task {
    pub(crate) fn new(
        future: impl Future<Output = ()> + 'static,
        deadline_us: Option<u64>,
        by_http: bool,
    ) -> Self {
        let woken = Arc::new(WakeFlag(AtomicBool::new(true)));
        Self { future: Box::pin(future), woken, deadline_us, by_http }
    }

    /// Polls the task if it was woken. Returns whether it has ended.
    pub(crate) fn run(&mut self) -> bool {
        let is_woken = self.woken.0.swap(false, Ordering::Relaxed);
        let waker = Waker::from(self.woken.clone());
        is_woken && self.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }
}

/// Returns the deadline of a wait that starts now.
pub(crate) fn wait_deadline_us(now: Timestamp) -> u64 {
    now.as_micros() + WAIT_DEADLINE_MS * 1_000
}

/// A slot for a request that waits. It is returned on drop.
struct WaitSlot<M: Middleware>(Rc<RefCell<Gate<M>>>);

impl<M: Middleware> Drop for WaitSlot<M> {
    fn drop(&mut self) {
        self.0.borrow_mut().end_waiting();
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        self.now.get().as_micros()
    }

    fn check(&self) -> std::cell::RefMut<'_, Check> {
        self.check.borrow_mut()
    }

    /// Returns the answer, or `None` if the worker is busy or has given up.
    async fn answer(&self, outcome: Outcome) -> Option<Answer> {
        match outcome {
            Outcome::Ready(answer) => Some(answer),
            Outcome::Waiting(ticket) => task::answer(self, ticket).await,
            Outcome::Busy => None,
        }
    }

    fn check_outcome(&self, request: &RequestContext<'_>, outcome: &Outcome, events: Vec<Event>) {
        let now_us = self.now_us();
        match request {
            RequestContext::Announce(asked) => {
                let source = if asked.is_source_udp() { Source::Udp } else { Source::Http };
                let request = client_announce(asked.ip, &asked.query);
                self.check().check_announce_outcome(self.me, now_us, &request, source, outcome, &events);
            }
            RequestContext::Scrape(asked) => {
                self.check().check_scrape_outcome(self.me, now_us, &asked.query.info_hashes, outcome, events);
            }
            RequestContext::Connect(_) => panic!("a connect sends no question"),
        }
    }
}

impl task::Worker for Shared {
    type Mailbox = WatchedMailbox;

    fn now(&self) -> Timestamp {
        self.now.get()
    }

    fn engine(&self) -> &RefCell<Engine> {
        &self.engine
    }

    fn mailbox(&self) -> &RefCell<WatchedMailbox> {
        &self.mesh
    }

    fn observe(&self, step: Step<'_>) {
        if std::thread::panicking() {
            return; // `check` may be borrowed
        }
        match step {
            Step::Ask(request, outcome) => self.check_outcome(request, outcome, self.events.take()),
            Step::Polled(ticket, polled) => self.check().check_poll(self.me, ticket, polled),
            Step::Abandoned(ticket) => self.check().remove_wait(self.me, ticket),
            Step::Responded(request, Response::Connect(connect)) => {
                let ip = request.connection().ip();
                self.check().issue(self.now_us(), ip, connect.connection_id);
            }
            Step::Responded(..) => {}
        }
    }
}

fn client_announce(ip: IpAddr, query: &AnnounceQuery) -> ClientAnnounce {
    ClientAnnounce {
        info_hash: query.info_hash,
        peer_id: query.peer_id.0,
        peer: (ip, query.port).into(),
        event: query.event,
        seeder: query.left == Some(0),
        num_want: query.num_want,
    }
}

fn http_query(request: &ClientAnnounce, wants_ids: bool) -> AnnounceQuery {
    AnnounceQuery {
        info_hash: request.info_hash,
        peer_id: PeerId(request.peer_id),
        port: request.peer.port(),
        uploaded: 0,
        downloaded: 0,
        left: Some(u64::from(!request.seeder)),
        event: request.event,
        num_want: request.num_want,
        compact: !wants_ids,
        no_peer_id: false,
    }
}

/// Runs the middleware for a request by UDP that waits.
pub(crate) async fn wait<M: Middleware>(shared: Rc<Shared>, gate: Rc<RefCell<Gate<M>>>, waiting: Waiting) {
    let Waiting { mut request, passed, to } = waiting;
    let middleware = gate.borrow().middleware();
    let _slot = WaitSlot(gate.clone());
    let result = middleware.run(Some(passed), &mut request, &Swarms(&*shared)).await;
    let is_busy = |error: &TrackerError| error.code() == Code::Unavailable;
    let was_busy = result.as_ref().is_err_and(is_busy);
    let (refused, sent) = (result.is_err(), request.sent());
    let gate = &mut *gate.borrow_mut();
    let has_response = shared.engine.borrow_mut().end_wait(gate, &mut request, result, &to);
    let mut check = shared.check();
    match has_response {
        false if was_busy => check.log.add("waits that found a busy tracker", 1), // already counted
        false => {
            assert!(!refused && !sent, "no response to a refused or passed request");
            check.bump(shared.me, Counter::Silenced);
        }
        true => {
            let (_, response) = gate.answered().last().expect("the response is queued for the next turn");
            if refused {
                check.bump(shared.me, Counter::Refused);
                let message = refusal(request.is_connect()).to_owned();
                assert_eq!(Reply::read(response, to.source).1, Reply::Error { message });
            }
            check.add_late_response(shared.me, &to, response);
        }
    }
}

/// Answers a request by HTTP.
pub(crate) async fn answer<M: Middleware>(
    shared: Rc<Shared>,
    gate: Rc<RefCell<Gate<M>>>,
    ip: IpAddr,
    http_request: HttpRequest,
) {
    let now = shared.now.get();
    let permitted = shared.engine.borrow_mut().is_within_rate(now, ip, Limited::HttpRequest);
    if !permitted || denies(&shared, ip, &http_request) {
        return;
    }
    let mut request = match &http_request {
        HttpRequest::Announce { request, wants_ids } => {
            let query = http_query(request, *wants_ids);
            RequestContext::Announce(AnnounceRequest::http(ip, "/announce?a=1", query))
        }
        HttpRequest::Scrape(info_hashes) => {
            let query = Box::new(ScrapeQuery { info_hashes: info_hashes.iter().copied().collect() });
            RequestContext::Scrape(ScrapeRequest::http(ip, "/scrape?a=1", query))
        }
    };
    let verdict = gate.borrow().ask(&mut request);
    match verdict {
        Verdict::Pass => pass(&shared, ip, &http_request).await,
        Verdict::Concluded(result) => conclude(&shared, &mut request, result),
        Verdict::Wait(passed) => {
            let has_slot = gate.borrow_mut().start_waiting();
            assert!(has_slot, "the simulation has fewer requests than waiting slots");
            let middleware = gate.borrow().middleware();
            let _slot = WaitSlot(gate);
            let result = middleware.run(Some(passed), &mut request, &Swarms(&*shared)).await;
            conclude(&shared, &mut request, result);
        }
    }
}

/// Returns whether the lists deny a request by HTTP, and checks it.
fn denies(shared: &Shared, ip: IpAddr, http_request: &HttpRequest) -> bool {
    let (mut body, now) = (Vec::new(), shared.now.get());
    let query = match http_request {
        HttpRequest::Announce { request, .. } => Some(http_query(request, false)),
        HttpRequest::Scrape(_) => None,
    };
    let denied = shared.engine.borrow_mut().deny_http(now, ip, query.as_ref(), &mut body);
    let mut check = shared.check();
    let permitted = check.rules[shared.me].permits_source(ip);
    let expected = match http_request {
        _ if !permitted => {
            check.bump(shared.me, Counter::DeniedSource);
            Some("this address is not allowed".to_owned())
        }
        HttpRequest::Announce { request, .. } => check.denial_message(shared.me, now.as_micros(), request),
        HttpRequest::Scrape(_) => None,
    };
    assert_eq!(denied, expected.is_some(), "whether the lists deny the request");
    if let Some(mut reason) = expected {
        if reason.is_empty() {
            reason = gyre_core::limits::DEFAULT_DENY_REASON.to_owned();
        }
        check.bump(shared.me, Counter::Refused);
        let expected = format!("d14:failure reason{}:{reason}e", reason.len());
        assert_eq!(String::from_utf8_lossy(&body), expected);
    }
    denied
}

/// Asks the swarms for a request that did not wait, and writes the response.
async fn pass(shared: &Shared, ip: IpAddr, http_request: &HttpRequest) {
    let now = shared.now.get();
    match http_request {
        HttpRequest::Announce { request, wants_ids } => {
            let query = http_query(request, *wants_ids);
            let outcome = task::ask(shared, now, |engine, now, mesh| {
                engine.announce(now, ip, &query, Source::Http, mesh)
            });
            let events = shared.events.take();
            shared.check().check_announce_outcome(
                shared.me,
                now.as_micros(),
                request,
                Source::Http,
                &outcome,
                &events,
            );
            let Some(Answer::Announced { counts, peers }) = shared.answer(outcome).await else {
                return shared.check().log.add("HTTP responses 503", 1);
            };
            let (v4, v6) = (peers.v4.as_flattened().to_vec(), peers.v6.as_flattened().to_vec());
            let mut body = Vec::new();
            let terms = gyre_core::engine::context::Terms::default();
            shared.engine.borrow_mut().write_announced(&mut body, ip, &query, &terms, counts, peers);
            if !wants_ids {
                check_body(&body, counts, &v4, &v6);
            }
            shared.check().log.add("HTTP announce responses", 1);
        }
        HttpRequest::Scrape(info_hashes) => {
            let query = ScrapeQuery { info_hashes: info_hashes.iter().copied().collect() };
            let outcome = task::ask(shared, now, |engine, now, mesh| engine.scrape(now, &query, mesh));
            let events = shared.events.take();
            shared.check().check_scrape_outcome(shared.me, now.as_micros(), info_hashes, &outcome, events);
            let Some(Answer::Scraped(counts)) = shared.answer(outcome).await else {
                return shared.check().log.add("HTTP responses 503", 1);
            };
            let mut body = Vec::new();
            shared.engine.borrow_mut().write_scraped(&mut body, &query, counts);
            assert!(body.starts_with(b"d5:filesd20:") && body.ends_with(b"eee"));
            shared.check().log.add("HTTP scrape responses", 1);
        }
    }
}

/// Checks the body of a compact response to an announce.
fn check_body(body: &[u8], counts: SwarmCounts, v4: &[u8], v6: &[u8]) {
    let SwarmCounts { seeders, leechers, downloaded } = counts;
    let head = format!("d8:completei{seeders}e10:downloadedi{downloaded}e11:external ip");
    assert!(body.starts_with(head.as_bytes()), "{}", body.escape_ascii());
    let mut end = [format!("5:peers{}:", v4.len()).as_bytes(), v4].concat();
    if !v6.is_empty() {
        end.extend([format!("6:peers6{}:", v6.len()).as_bytes(), v6].concat());
    }
    end.push(b'e');
    assert!(body.ends_with(&end), "{}", body.escape_ascii());
    assert!(body.windows(20).any(|bytes| bytes.starts_with(format!("incompletei{leechers}e").as_bytes())));
    assert_eq!(bytes::peers(v4, false).len() + bytes::peers(v6, true).len(), v4.len() / 6 + v6.len() / 18);
}

/// Writes the response to the result of the middleware.
fn conclude(shared: &Shared, request: &mut RequestContext<'_>, result: Result<(), TrackerError>) {
    let (refused, sent, mut body) = (result.is_err(), request.sent(), Vec::new());
    let status = shared.engine.borrow_mut().conclude_http(request, result, &mut body);
    let mut check = shared.check();
    match (refused, sent) {
        (true, _) => check.bump(shared.me, Counter::Refused),
        (false, false) => check.bump(shared.me, Counter::Silenced),
        (false, true) => check.log.add("HTTP responses after a wait", 1),
    }
    assert_eq!(status.as_u16(), if refused || sent { 200 } else { 403 });
    assert_eq!(body.is_empty(), !refused && !sent, "whether the body is empty");
}
