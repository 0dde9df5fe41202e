//! Owns a simulated worker: an engine, its end of the mesh, a socket and tasks, and the turn of `worker::Driver`
//! without the kernel.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use fastrand::Rng;
use gyre_core::counters::Counter;
use gyre_core::engine::{Endpoint, Engine, Gate};
use gyre_core::limits::{HOUSEKEEPING_INTERVAL_MS, TURN_DATAGRAMS, UDP_REPLY_MAX_BYTES};
use gyre_core::mesh::Mesh;
use gyre_core::swarm::Saved;
use gyre_core::time::Timestamp;

use crate::check::{Check, LIMITS};
use crate::rules::Rules;
use crate::saving::Save;
use crate::tasks::{Asking, Shared, Task, answer, wait, wait_deadline_us};
use crate::verdict::{Mind, Steered, Verdict};
use crate::watch::{Event, Leaving, Watched};

/// What a worker is told.
pub(crate) enum Order {
    Access(Rules),
    Load(Vec<Saved>),
}

/// A datagram in a socket, and what the middleware will think of it.
pub(crate) struct Received {
    pub(crate) from: Endpoint,
    pub(crate) bytes: Vec<u8>,
    pub(crate) verdict: Option<Verdict>,
}

/// A datagram that leaves.
pub(crate) type Departure = (Endpoint, Vec<u8>);

/// A worker.
pub(crate) struct Worker<M: Steered> {
    pub(crate) shared: Rc<Shared>,
    gate: Rc<RefCell<Gate<M>>>,
    mind: Mind,
    pub(crate) socket: VecDeque<Received>,
    pub(crate) orders: VecDeque<Order>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) stalled_until_us: u64,
    pub(crate) save: Option<Save>,
    next_gauge: Timestamp,
    /// There is more to do, whatever comes.
    pub(crate) unfinished: bool,
}

impl<M: Steered> Worker<M> {
    pub(crate) fn new(me: usize, engine: Engine, mesh: Mesh, check: Rc<RefCell<Check>>) -> Self {
        let mind = Mind::default();
        let shared = Shared {
            me,
            engine: RefCell::new(engine),
            mesh: RefCell::new(mesh),
            check,
            now: Cell::default(),
            replies: RefCell::default(),
        };
        Self {
            shared: Rc::new(shared),
            gate: Rc::new(RefCell::new(Gate::new(M::steered(mind.clone())))),
            mind,
            socket: VecDeque::new(),
            orders: VecDeque::new(),
            tasks: Vec::new(),
            stalled_until_us: 0,
            save: None,
            next_gauge: Timestamp::default(),
            unfinished: false,
        }
    }

    /// Whether nothing is left to do, nor to wait for.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = self.unfinished || self.shared.engine.borrow().is_waiting();
        self.socket.is_empty() && self.orders.is_empty() && self.tasks.is_empty() && !waits
    }

    /// A turn, as `worker::Driver` has it; what leaves is added to `out`.
    pub(crate) fn turn(&mut self, now: Timestamp, out: &mut Vec<Departure>) {
        self.shared.now.set(now);
        self.obey(now);
        let shared = self.shared.clone();
        let (me, now_us) = (shared.me, now.as_micros());
        self.take_datagrams(now, out);
        let events = RefCell::default();
        shared.engine.borrow_mut().answer_announces(now, &mut Leaving(&events));
        self.happened(now_us, &events, out);
        while let Some(waiting) = self.gate.borrow_mut().next_waiting() {
            let future = wait(shared.clone(), self.gate.clone(), waiting);
            self.tasks.push(Task::new(future, Some(wait_deadline_us(now)), false));
        }
        out.append(&mut shared.replies.borrow_mut());
        let mesh = &mut *shared.mesh.borrow_mut();
        let mut watched = Watched { mesh, events: &events };
        let tended = shared.engine.borrow_mut().tend(now, &mut watched, &mut Leaving(&events));
        self.happened(now_us, &events, out);
        self.unfinished = tended.unfinished;
        let engine = &mut *shared.engine.borrow_mut();
        let mut check = shared.check.borrow_mut();
        check.hold_late(me, now_us, engine, !tended.unfinished);
        check.after_turn(me, now_us, engine, tended.swept);
        if now >= self.next_gauge {
            self.next_gauge = now + std::time::Duration::from_millis(HOUSEKEEPING_INTERVAL_MS);
            engine.gauge(now);
            check.hold_gauges(me, now_us, engine);
        }
        mesh.flush();
    }

    /// Follows its orders; of those to load, one.
    fn obey(&mut self, now: Timestamp) {
        while let Some(order) = self.orders.pop_front() {
            let engine = &mut *self.shared.engine.borrow_mut();
            let mut check = self.shared.check.borrow_mut();
            match order {
                Order::Access(rules) => {
                    engine.set_access(rules.access());
                    check.rules[self.shared.me] = rules;
                }
                Order::Load(saved) => {
                    check.oracle.pass(self.shared.me, now.as_micros());
                    for piece in &saved {
                        check.oracle.load(self.shared.me, now.as_micros(), piece, true);
                    }
                    engine.load(now, saved);
                    engine.gauge(now);
                    if check.oracle.is_limited {
                        check.oracle.learn_refused(self.shared.me, engine);
                    }
                    return;
                }
            }
        }
    }

    fn take_datagrams(&mut self, now: Timestamp, out: &mut Vec<Departure>) {
        let shared = self.shared.clone();
        let (me, now_us) = (shared.me, now.as_micros());
        let (engine, gate) = (&mut *shared.engine.borrow_mut(), &mut *self.gate.borrow_mut());
        let mesh = &mut *shared.mesh.borrow_mut();
        let mut check = shared.check.borrow_mut();
        for _ in 0..TURN_DATAGRAMS {
            let Some(Received { from, bytes, verdict }) = self.socket.pop_front() else { break };
            self.mind.set(verdict);
            let before = LIMITS.map(|limit| engine.counters.get(limit));
            let events = RefCell::default();
            let mut reply = [0xa5; UDP_REPLY_MAX_BYTES];
            let mut watched = Watched { mesh, events: &events };
            let length = engine.datagram(now, &from, &bytes, &mut reply, &mut watched, gate);
            let limited = (0..LIMITS.len()).find(|at| engine.counters.get(LIMITS[*at]) > before[*at]);
            let limited = limited.map(|at| LIMITS[at]);
            let fate = check.judge(me, now_us, &from, &bytes, verdict, limited);
            let answer = length.map(|length| &reply[..length]);
            check.judged(me, now_us, &from, fate, answer, events.into_inner());
            out.extend(answer.map(|answer| (from, answer.to_vec())));
        }
    }

    /// Holds what has happened, and lets go what leaves.
    fn happened(&self, now_us: u64, events: &RefCell<Vec<Event>>, out: &mut Vec<Departure>) {
        let events = events.take();
        out.extend(events.iter().filter_map(|event| match event {
            Event::Reply { to, bytes } => Some((*to, bytes.clone())),
            _ => None,
        }));
        self.shared.check.borrow_mut().happened(self.shared.me, now_us, events);
    }

    /// Takes a request by HTTP, between two turns.
    pub(crate) fn ask(
        &mut self,
        now: Timestamp,
        ip: std::net::IpAddr,
        asking: Asking,
        verdict: Option<Verdict>,
    ) {
        self.shared.now.set(now);
        self.mind.set(verdict);
        let waits = matches!(verdict, Some(Verdict::Wait(_)));
        let future = answer(self.shared.clone(), self.gate.clone(), ip, asking);
        let mut task = Task::new(future, waits.then(|| wait_deadline_us(now)), true);
        if !task.run() {
            self.tasks.push(task);
        }
    }

    /// Lets tasks run, as the runtime does between two turns; some clients by HTTP go away meanwhile.
    pub(crate) fn run_tasks(&mut self, now: Timestamp, rng: &mut Rng, impatient: bool) {
        self.shared.now.set(now);
        let mut kept = Vec::new();
        for mut task in std::mem::take(&mut self.tasks) {
            if task.deadline_us.is_some_and(|deadline| deadline <= now.as_micros()) {
                drop(task);
                let mut check = self.shared.check.borrow_mut();
                check.bump(self.shared.me, Counter::DropWaitLate);
                check.log.add("waited too long", 1);
                self.shared.engine.borrow_mut().counters.bump(Counter::DropWaitLate); // the worker's own
                continue;
            }
            let leaves = impatient && task.by_http && rng.u8(..20) == 0;
            if !leaves && (rng.u8(..4) == 0 || !task.run()) {
                kept.push(task);
            }
        }
        self.tasks = kept;
    }
}
