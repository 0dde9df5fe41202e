//! Owns a simulated worker: an engine, its end of the mesh, a socket and tasks. The turn of the engine runs here as it
//! does on a worker's thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use fastrand::Rng;
use gyre_core::counters::{Counter, Counters};
use gyre_core::engine::middleware::Middleware;
use gyre_core::engine::{
    self, Datagrams, Endpoint, Engine, Gate, Host, Intake, Post, Received, Replies, ReplyBuffer, Waiting,
};
use gyre_core::error::TrackerError;
use gyre_core::limits::UDP_REPLY_MAX_BYTES;
use gyre_core::mesh::Mesh;
use gyre_core::swarm::Saved;
use gyre_core::time::Timestamp;

use crate::check::{Check, LIMITS};
use crate::middleware::{Decision, NextDecision, TestMiddleware};
use crate::rules::Rules;
use crate::saving::SnapshotPart;
use crate::tasks::{HttpRequest, Shared, Task, answer, wait, wait_deadline_us};
use crate::watch::{Event, Events, WatchedMailbox};

/// A command for a worker.
pub(crate) enum Order {
    Access(Rules),
    Load(Vec<Saved>),
}

/// A datagram in a socket, and the decision of the middleware on it.
pub(crate) struct Datagram {
    pub(crate) from: Endpoint,
    pub(crate) bytes: Vec<u8>,
    pub(crate) decision: Option<Decision>,
}

/// A datagram from the tracker, and its receiver.
pub(crate) type SentDatagram = (Endpoint, Vec<u8>);

/// A worker.
pub(crate) struct Worker<M: TestMiddleware> {
    pub(crate) shared: Rc<Shared>,
    gate: Rc<RefCell<Gate<M>>>,
    next_decision: NextDecision,
    pub(crate) socket: VecDeque<Datagram>,
    pub(crate) orders: VecDeque<Order>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) stalled_until_us: u64,
    pub(crate) save: Option<SnapshotPart>,
    /// Whether the last turn left work to do.
    pub(crate) unfinished: bool,
}

impl<M: TestMiddleware> Worker<M> {
    pub(crate) fn new(me: usize, engine: Engine, mesh: Mesh, check: Rc<RefCell<Check>>) -> Self {
        let next_decision = NextDecision::default();
        let events = Events::default();
        let shared = Shared {
            me,
            engine: RefCell::new(engine),
            mesh: RefCell::new(WatchedMailbox::new(mesh, events.clone())),
            events,
            check,
            now: Cell::default(),
        };
        Self {
            shared: Rc::new(shared),
            gate: Rc::new(RefCell::new(Gate::new(M::with_decisions(next_decision.clone())))),
            next_decision,
            socket: VecDeque::new(),
            orders: VecDeque::new(),
            tasks: Vec::new(),
            stalled_until_us: 0,
            save: None,
            unfinished: false,
        }
    }

    /// Returns whether the worker has no work and waits for nothing.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = self.unfinished || self.shared.engine.borrow().is_waiting();
        self.socket.is_empty() && self.orders.is_empty() && self.tasks.is_empty() && !waits
    }

    /// Runs a turn. Datagrams that leave are added to `out`.
    pub(crate) fn turn(&mut self, now: Timestamp, out: &mut Vec<SentDatagram>) {
        self.shared.now.set(now);
        let shared = self.shared.clone();
        let (me, now_us) = (shared.me, now.as_micros());
        let waiting_datagrams = self.socket.len();
        let mut thread = Thread {
            socket: Socket {
                shared: &shared,
                next_decision: &self.next_decision,
                received: &mut self.socket,
                has_loaded: false,
                replies: Vec::new(),
                out,
            },
            orders: &mut self.orders,
            to_wait: Vec::new(),
        };
        let (engine, mesh) = (&mut *shared.engine.borrow_mut(), &mut *shared.mesh.borrow_mut());
        let turned = engine.turn(now, &mut self.gate.borrow_mut(), mesh, &mut thread);
        let turned = turned.expect("the simulated socket does not fail");
        assert!(thread.socket.replies.is_empty(), "replies that the turn has not submitted");
        assert!(!mesh.unflushed, "messages without a flush");
        for waiting in thread.to_wait {
            let future = wait(shared.clone(), self.gate.clone(), waiting);
            self.tasks.push(Task::new(future, Some(wait_deadline_us(now)), false));
        }
        self.unfinished = turned.unfinished;
        assert_eq!(turned.datagrams, waiting_datagrams - self.socket.len(), "datagrams of the turn");
        let mut check = shared.check.borrow_mut();
        check.check_events(me, now_us, shared.events.take());
        check.check_timeouts(me, now_us, engine, !turned.unfinished);
        check.check_turn(me, now_us, engine, turned.swept);
        if turned.published {
            check.check_gauges(me, now_us, engine);
        }
    }

    /// Takes a request by HTTP, between two turns.
    pub(crate) fn handle_http(
        &mut self,
        now: Timestamp,
        ip: std::net::IpAddr,
        http_request: HttpRequest,
        decision: Option<Decision>,
    ) {
        self.shared.now.set(now);
        self.next_decision.set(decision);
        let waits = matches!(decision, Some(Decision::Wait(_)));
        let future = answer(self.shared.clone(), self.gate.clone(), ip, http_request);
        let mut task = Task::new(future, waits.then(|| wait_deadline_us(now)), true);
        if !task.run() {
            self.tasks.push(task);
        }
    }

    /// Runs tasks, as the runtime does between two turns. Some HTTP clients may close their connection meanwhile.
    pub(crate) fn run_tasks(&mut self, now: Timestamp, rng: &mut Rng, clients_may_leave: bool) {
        self.shared.now.set(now);
        let mut kept = Vec::new();
        for mut task in std::mem::take(&mut self.tasks) {
            if task.deadline_us.is_some_and(|deadline| deadline <= now.as_micros()) {
                drop(task);
                let mut check = self.shared.check.borrow_mut();
                check.bump(self.shared.me, Counter::DropWaitLate);
                check.log.add("middleware timeouts", 1);
                self.shared.engine.borrow_mut().counters.bump(Counter::DropWaitLate); // as the worker does
                continue;
            }
            let leaves = clients_may_leave && task.by_http && rng.u8(..20) == 0;
            if !leaves && (rng.u8(..4) == 0 || !task.run()) {
                kept.push(task);
            }
        }
        self.tasks = kept;
    }
}

/// The thread that a worker's turn runs on.
struct Thread<'a> {
    socket: Socket<'a>,
    orders: &'a mut VecDeque<Order>,
    to_wait: Vec<Waiting>,
}

impl<'a> Host for Thread<'a> {
    type Datagrams = Socket<'a>;

    fn datagrams(&mut self) -> &mut Socket<'a> {
        &mut self.socket
    }

    fn next_order(&mut self) -> Option<engine::Order> {
        let shared = self.socket.shared;
        let mut check = shared.check.borrow_mut();
        Some(match self.orders.pop_front()? {
            Order::Access(rules) => {
                let access = rules.access();
                check.rules[shared.me] = rules;
                engine::Order::Access(access)
            }
            Order::Load(saved) => {
                let now_us = shared.now.get().as_micros();
                check.oracle.advance(shared.me, now_us);
                for piece in &saved {
                    check.oracle.load(shared.me, now_us, piece, true);
                }
                self.socket.has_loaded = true;
                engine::Order::Load(saved)
            }
        })
    }

    fn start_wait(&mut self, waiting: Waiting) {
        self.to_wait.push(waiting);
    }

    fn tend(&mut self, _: Timestamp) -> bool {
        false
    }

    fn publish(&mut self, _: Timestamp, _: &mut Counters, fault: Option<TrackerError>) {
        assert_eq!(fault, None, "the simulated middleware does not fail");
    }
}

/// A worker's socket during a turn. It checks each datagram as the engine takes it.
struct Socket<'a> {
    shared: &'a Shared,
    next_decision: &'a NextDecision,
    received: &'a mut VecDeque<Datagram>,
    /// Whether swarms were loaded in this turn.
    has_loaded: bool,
    /// Replies that are not submitted yet.
    replies: Vec<SentDatagram>,
    /// Replies that were submitted.
    out: &'a mut Vec<SentDatagram>,
}

impl Datagrams for Socket<'_> {
    fn receive<M: Middleware, P: Post>(
        &mut self,
        at_most: usize,
        intake: &mut Intake<'_, M, P>,
    ) -> io::Result<Received> {
        let (shared, mut taken) = (self.shared, Received::default());
        let (me, now_us) = (shared.me, shared.now.get().as_micros());
        let mut check = shared.check.borrow_mut();
        if self.has_loaded && check.oracle.is_limited {
            check.oracle.apply_refusals(me, intake.engine());
        }
        while taken.completions < at_most
            && let Some(Datagram { from, bytes, decision }) = self.received.pop_front()
        {
            taken.completions += 1;
            taken.datagrams += 1;
            self.next_decision.set(decision);
            let limits = |intake: &Intake<'_, M, P>| LIMITS.map(|limit| intake.engine().counters.get(limit));
            let before = limits(intake);
            let mut reply = [0xa5; UDP_REPLY_MAX_BYTES];
            let length = intake.take(&from, &bytes, &mut reply);
            let after = limits(intake);
            let limited = (0..LIMITS.len()).find(|at| after[*at] > before[*at]).map(|at| LIMITS[at]);
            let expected = check.expect(me, now_us, &from, &bytes, decision, limited);
            let answer = length.map(|length| &reply[..length]);
            check.check_datagram(me, now_us, &from, expected, answer, shared.events.take());
            self.replies.extend(answer.map(|answer| (from, answer.to_vec())));
        }
        Ok(taken)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.out.append(&mut self.replies);
        Ok(())
    }
}

impl Replies for Socket<'_> {
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut ReplyBuffer) -> usize) {
        let mut out = [0x5a; UDP_REPLY_MAX_BYTES];
        let length = write(&mut out);
        let bytes = out[..length].to_vec();
        self.shared.events.borrow_mut().push(Event::Reply { to: *to, bytes: bytes.clone() });
        self.replies.push((*to, bytes));
    }
}
