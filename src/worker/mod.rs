//! Owns a worker: one thread on one core, with its sockets, its ring and its shard. The order of a turn is the
//! engine's ([`Engine::turn`]); here stand the thread that it runs on, what it looks after beside, and when it sleeps.
//!
//! ```text
//!  ┌─► turn: completions, requests by UDP, mail ──► new connections ──► tasks of connections ──┐
//!  └────────────── enter the kernel: submit all that was queued, perhaps sleep ◄──────────────┘
//! ```
//!
//! A worker sleeps in its own ring. Only while the program that serves has tasks does it sleep in the runtime.

mod accept;
mod answer;
mod client;
mod connections;
mod http;
mod orders;
mod queues;
mod runtime;
mod save;
mod stream;
mod tasks;
mod waiting;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::Receiver;
use ipnet::IpNet;

use crate::counters::{Counter, Counters, Published, Turns};
use crate::engine::middleware::Middleware;
use crate::engine::{self, Engine, Gate, Host, Pace, Turned, Waiting, task};
use crate::error::TrackerError;
use crate::limits::{HOUSEKEEPING_INTERVAL_MS, SHUTDOWN_GRACE_MS};
use crate::mesh::Mesh;
use crate::ring::{Receive, Ring, RingSocket, Streams};
use crate::sys::{self, Doorbell};
use crate::time::{Clock, Timestamp};
use crate::web::Site;
use connections::Connections;
pub use orders::{LateSnapshot, Order, Slice};
use runtime::{Handover, Runtime};
pub use save::Written;
use tasks::Tasks;

/// Everything that the server gives a worker.
pub struct Setup {
    /// The core to run on. `None`: the kernel chooses.
    pub core: Option<usize>,
    /// Its UDP sockets, one for each listen address.
    pub sockets: Vec<RingSocket>,
    /// Its TCP listeners, one for each listen address.
    pub listeners: Vec<TcpListener>,
    /// Its part of the tracker.
    pub engine: Engine,
    /// Its end of the mesh.
    pub mesh: Mesh,
    /// Wakes the worker.
    pub doorbell: Arc<Doorbell>,
    /// The process's clock.
    pub clock: Clock,
    /// Where it publishes its counters.
    pub published: Arc<Published>,
    /// Tells it to end.
    pub shutdown: Arc<Shutdown>,
    /// How long it polls for work before it sleeps.
    pub busy_poll: Duration,
    /// How long it lets datagrams come together before a turn.
    pub gather: Duration,
    /// Limits of its HTTP connections.
    pub connections: ConnectionLimits,
    /// Orders of the control thread.
    pub orders: Receiver<Order>,
}

/// Limits of the HTTP connections of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Maximum number of open connections.
    pub open: usize,
    /// Maximum number of further connections that are answered with a 503. More are closed without an answer.
    pub refused: usize,
}

/// Shared state of the shutdown: each worker answers the others until all have finished their requests.
#[derive(Debug)]
pub struct Shutdown {
    stop: AtomicBool,
    unfinished: AtomicUsize,
}

impl Shutdown {
    /// Starts the shutdown state of `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self { stop: AtomicBool::new(false), unfinished: AtomicUsize::new(workers) }
    }

    /// Tells all workers to end. They see it when they wake, so the caller must ring their doorbells.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A network of proxies that are trusted to name the client.
#[derive(Clone, Copy, Debug)]
pub struct Trusted {
    /// The number of the listener that it is trusted at. `None`: all listeners.
    pub listener: Option<usize>,
    /// The network.
    pub network: IpNet,
}

/// What the program adds to the tracker. Each worker has its own.
pub struct Program<M> {
    /// The middleware.
    pub middleware: M,
    /// Routes that are served by HTTP beside the tracker.
    pub site: Arc<Site>,
    /// Networks of trusted proxies.
    pub trusted_proxies: Arc<[Trusted]>,
}

/// A worker's part of the program, and what its tasks and its turn share.
struct App<M> {
    shared: Rc<Shared>,
    gate: RefCell<Gate<M>>,
    site: Arc<Site>,
    trusted_proxies: RefCell<Arc<[Trusted]>>,
}

/// What the tasks of a worker share. A borrow never lasts over an `await`.
struct Shared {
    engine: RefCell<Engine>,
    mesh: RefCell<Mesh>,
    connections: RefCell<Connections>,
    streams: Streams,
    handover: Handover,
    doorbell: Arc<Doorbell>,
    clock: Clock,
    stopping: Cell<bool>,
    /// A task has panicked, in a build that unwinds.
    panicked: Cell<bool>,
}

/// Ends the worker if the task that holds the guard panics, because the task may leave its work half done. It is a
/// value in the task, not a wrapper: a wrapper would hold the memory of the task twice.
struct PanicGuard(Rc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked.set(true);
            self.0.doorbell.ring();
        }
    }
}

/// Runs a worker on the calling thread until it ends. `ready` is called once it serves.
///
/// # Errors
///
/// An error that keeps it from starting or from going on.
pub fn run<M: Middleware>(setup: Setup, program: Program<M>, ready: impl FnOnce()) -> io::Result<()> {
    if let Some(core) = setup.core {
        let named = |error| io::Error::other(format!("it can't be bound to core {core}: {error}"));
        sys::pin(core).map_err(named)?;
    }
    let mut driver = Driver::new(setup, program)?;
    driver.ring.enter(Receive::Now, None)?;
    driver.turn(driver.app.shared.clock.now())?; // a kernel that can't do it says so here
    ready();
    driver.run()
}

/// Returns the number of datagrams that the kernel has dropped since the sockets were created, by any process.
fn kernel_drops(ring: &Ring) -> u64 {
    ring.sockets().filter_map(|socket| sys::kernel_drops(socket).ok()).map(u64::from).sum()
}

/// Pause of a worker that has finished before it checks again whether the others have.
const FINISH_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The worker's thread.
struct Driver<M> {
    // In the order in which they must be dropped: the tasks use the ring.
    http: Tasks,
    runtime: Runtime,
    ring: Ring,
    app: Rc<App<M>>,
    published: Arc<Published>,
    turns: Turns,
    shutdown: Arc<Shutdown>,
    busy_poll: Duration,
    busy_until: Timestamp,
    pace: Pace,
    orders: Receiver<Order>,
    /// The late snapshot to write before the end, in a handover.
    late: Option<LateSnapshot>,
    /// Drops of the sockets before the start.
    drops_before: u64,
    /// When the turn began that the current one follows without a sleep.
    last_turn: Option<Timestamp>,
    /// When the counters are published next. The worker does not sleep longer.
    publishes_at: Timestamp,
    /// Earliest time of the next accept, after one that failed.
    accepts_from: Timestamp,
}

impl<M: Middleware> Driver<M> {
    fn new(setup: Setup, program: Program<M>) -> io::Result<Self> {
        let mut ring = Ring::new(setup.sockets)?;
        let streams = ring.listen(setup.listeners)?;
        ring.watch(setup.doorbell.clone());
        let shared = Rc::new(Shared {
            engine: RefCell::new(setup.engine),
            mesh: RefCell::new(setup.mesh),
            connections: RefCell::new(Connections::new(setup.connections)),
            streams,
            handover: Handover::default(),
            doorbell: setup.doorbell,
            clock: setup.clock,
            stopping: Cell::new(false),
            panicked: Cell::new(false),
        });
        let app = Rc::new(App {
            shared,
            gate: RefCell::new(Gate::new(program.middleware)),
            site: program.site,
            trusted_proxies: RefCell::new(program.trusted_proxies),
        });
        Ok(Self {
            http: Tasks::new(),
            runtime: Runtime::new(&mut ring)?,
            drops_before: kernel_drops(&ring),
            ring,
            app,
            published: setup.published,
            turns: Turns::default(),
            shutdown: setup.shutdown,
            busy_poll: setup.busy_poll,
            busy_until: Timestamp::default(),
            pace: Pace::new(if setup.busy_poll.is_zero() { setup.gather } else { Duration::ZERO }),
            orders: setup.orders,
            late: None,
            last_turn: None,
            publishes_at: Timestamp::default(),
            accepts_from: Timestamp::default(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        while !self.shutdown.stopping() {
            if self.runtime.take_spawned(&self.app.shared.handover) {
                self.serve_in_runtime()?;
            } else if self.step()? {
                self.ring.enter(self.next_receive(), None)?;
            } else {
                self.sleep()?;
            }
        }
        let runtime = self.runtime.handle();
        runtime.block_on(self.finish())
    }

    /// Runs a turn, and then the tasks of connections. Returns true if the worker must not sleep.
    fn step(&mut self) -> io::Result<bool> {
        if self.app.shared.panicked.get() {
            return Err(io::Error::other("it panicked"));
        }
        let now = self.app.shared.clock.now();
        if let Some(last) = self.last_turn.take() {
            self.turns.note(now.since(last));
        }
        let turned = self.turn(now)?;
        self.take_connections(now);
        let unfinished = self.http.run_woken() | turned.unfinished;
        if turned.worked {
            self.busy_until = now + self.busy_poll;
        }
        self.turns.note_datagrams(turned.datagrams);
        self.pace.turn(now, turned.datagrams);
        let stays_awake = unfinished
            || now < self.busy_until
            || self.pace.is_full()
            || self.app.shared.handover.has_spawned()
            || self.ring.has_work();
        if stays_awake {
            self.last_turn = Some(now);
        } else {
            self.turns.note(self.app.shared.clock.now().since(now));
        }
        Ok(stays_awake)
    }

    /// Returns when a worker that stays awake receives. One that only polls asks the kernel for nothing.
    fn next_receive(&self) -> Receive {
        if self.pace.is_full() { Receive::Now } else { Receive::WhenReadable }
    }

    fn turn(&mut self, now: Timestamp) -> io::Result<Turned> {
        let app = self.app.clone();
        let shared = &*app.shared;
        let (engine, mesh) = (&mut *shared.engine.borrow_mut(), &mut *shared.mesh.borrow_mut());
        engine.turn(now, &mut app.gate.borrow_mut(), mesh, self)
    }

    /// Sleeps until there is something to do. Datagrams may come together first.
    fn sleep(&mut self) -> io::Result<()> {
        if !self.app.shared.mesh.borrow().fall_asleep() {
            return self.ring.enter(Receive::Now, None);
        }
        let now = self.app.shared.clock.now();
        let gather = self.pace.gathers_for(now);
        let slept = self.ring.sleep(gather, self.until_due(now).saturating_sub(gather));
        self.app.shared.mesh.borrow().wake_up();
        slept
    }

    /// Returns the time until the worker has something to do without a request.
    fn until_due(&self, now: Timestamp) -> Duration {
        let due = self.publishes_at.since(now);
        if self.accepts_from > now { due.min(self.accepts_from.since(now)) } else { due }
    }

    /// Takes no new connections and datagrams, finishes the requests in flight, and answers the other workers until
    /// they have finished theirs.
    async fn finish(mut self) -> io::Result<()> {
        let started = self.app.shared.clock.now();
        let grace = Duration::from_millis(SHUTDOWN_GRACE_MS);
        self.app.shared.stopping.set(true);
        self.ring.stop_receiving();
        self.app.shared.streams.close_listeners();
        self.app.shared.connections.borrow_mut().close_idle();
        let mut finished = false;
        loop {
            self.runtime.take_spawned(&self.app.shared.handover);
            let stays_awake = self.step()?;
            let late = self.app.shared.clock.now().since(started) >= grace;
            if late {
                self.app.shared.connections.borrow_mut().close_all();
            }
            let in_flight = self.ring.is_receiving()
                || self.app.shared.streams.is_accepting()
                || self.app.shared.connections.borrow().len() > 0
                || self.app.shared.engine.borrow().is_waiting()
                || self.app.gate.borrow().waiting() > 0;
            if !finished && (late || !in_flight) {
                finished = true;
                self.shutdown.unfinished.fetch_sub(1, Ordering::AcqRel);
            }
            if late || (finished && self.shutdown.unfinished.load(Ordering::Acquire) == 0) {
                break;
            }
            match stays_awake {
                true => {
                    self.ring.enter(Receive::Later, None)?;
                    self.runtime.pass(&self.app.shared.handover).await?;
                }
                // The progress of the others rings no doorbell.
                false => self.sleep_in_runtime(FINISH_POLL_INTERVAL).await?,
            }
        }
        // The tasks whose connections were closed just now see it in their next step.
        self.sleep_in_runtime(FINISH_POLL_INTERVAL).await?;
        self.app.shared.engine.borrow_mut().publish_soon();
        self.step()?;
        self.ring.enter(Receive::Later, None)?;
        if let Some(LateSnapshot { file, young_secs, done }) = self.late.take() {
            let _ = done.send(save::save(self.app.shared.clone(), file, Some(young_secs)).await);
        }
        Ok(())
    }
}

impl<M: Middleware> Host for Driver<M> {
    type Datagrams = Ring;

    #[inline]
    fn datagrams(&mut self) -> &mut Ring {
        &mut self.ring
    }

    #[inline]
    fn next_order(&mut self) -> Option<engine::Order> {
        if self.orders.is_empty() { None } else { self.follow_orders() }
    }

    fn start_wait(&mut self, waiting: Waiting) {
        self.app.shared.spawn(waiting::wait(self.app.clone(), waiting));
    }

    #[inline]
    fn tend(&mut self, now: Timestamp) -> bool {
        self.app.shared.connections.borrow_mut().reap(now)
    }

    fn publish(&mut self, now: Timestamp, counters: &mut Counters, fault: Option<TrackerError>) {
        self.publishes_at = now + Duration::from_millis(HOUSEKEEPING_INTERVAL_MS);
        if let Some(fault) = fault {
            tracing::warn!("a request failed: {fault} ({} so far)", counters.get(Counter::Faults));
        }
        let connections = self.app.shared.connections.borrow();
        counters.set(Counter::Connections, connections.len() as u64);
        counters.set(Counter::EvictedConnections, connections.evicted());
        let drops = kernel_drops(&self.ring).wrapping_sub(self.drops_before);
        counters.set(Counter::DropReceiveOverrun, drops);
        counters.set(Counter::CpuMicros, sys::thread_cpu_time().as_micros() as u64);
        self.published.publish(counters, &self.turns);
    }
}

impl task::Worker for Shared {
    type Mailbox = Mesh;

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn engine(&self) -> &RefCell<Engine> {
        &self.engine
    }

    fn mailbox(&self) -> &RefCell<Mesh> {
        &self.mesh
    }
}

#[cfg(test)]
mod tests;
