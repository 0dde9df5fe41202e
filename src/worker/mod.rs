//! Owns a worker: one thread on one core, with its sockets, its rings and its shard. The order of a turn is the
//! engine's ([`Engine::turn`]); here stand the thread that it runs on, what it looks after beside, and when it sleeps.
//!
//! Between two turns the runtime runs the HTTP tasks. When there is nothing to do all sleep in one epoll.

mod answer;
mod client;
mod connections;
mod http;
mod orders;
mod queues;
mod save;
mod stream;
mod waiting;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use crossbeam::channel::Receiver;
use ipnet::IpNet;
use tokio::task::JoinHandle;

use crate::counters::{Counter, Counters, Published, Turns};
use crate::engine::middleware::Middleware;
use crate::engine::{self, Engine, Gate, Host, Turned, Waiting, task};
use crate::error::TrackerError;
use crate::limits::{HOUSEKEEPING_INTERVAL_MS, RUNTIME_RING_ENTRIES, SHUTDOWN_GRACE_MS};
use crate::mesh::Mesh;
use crate::ring::{RingSocket, UdpRing};
use crate::sys::{self, Acceptor, Doorbell, Sleeper};
use crate::time::{Clock, Timestamp};
use crate::web::Site;
use connections::Connections;
pub use orders::{LateSnapshot, Order, Slice};
pub use save::Written;

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
    buffers: RefCell<Vec<Vec<u8>>>,
    doorbell: Arc<Doorbell>,
    clock: Clock,
    stopping: Cell<bool>,
    /// An operation is queued on the runtime's ring, which submits only when the thread is about to sleep.
    unsubmitted: Cell<bool>,
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
    let mut rings = tokio_uring::uring_builder();
    rings.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    let runtime = tokio_uring::Runtime::new(builder.entries(RUNTIME_RING_ENTRIES).uring_builder(&rings))?;
    runtime.block_on(serve(setup, program, ready))
}

async fn serve<M: Middleware>(setup: Setup, program: Program<M>, ready: impl FnOnce()) -> io::Result<()> {
    let shared = Rc::new(Shared {
        engine: RefCell::new(setup.engine),
        mesh: RefCell::new(setup.mesh),
        connections: RefCell::new(Connections::new(setup.connections)),
        buffers: RefCell::new(Vec::new()),
        doorbell: setup.doorbell.clone(),
        clock: setup.clock,
        stopping: Cell::new(false),
        unsubmitted: Cell::new(false),
        panicked: Cell::new(false),
    });
    let app = Rc::new(App {
        shared: shared.clone(),
        gate: RefCell::new(Gate::new(program.middleware)),
        site: program.site,
        trusted_proxies: RefCell::new(program.trusted_proxies),
    });
    let sleeper = Sleeper::new(setup.doorbell.clone())?;
    let ring = UdpRing::new(setup.sockets, &setup.doorbell)?;
    let mut driver = Driver {
        drops_before: kernel_drops(&ring),
        ring,
        app: app.clone(),
        published: setup.published,
        turns: Turns::default(),
        shutdown: setup.shutdown,
        busy_poll: setup.busy_poll,
        orders: setup.orders,
        late: None,
        listeners: Vec::new(),
        submission: None,
    };
    driver.turn(setup.clock.now())?; // a kernel that can't do it says so here
    for (number, listener) in setup.listeners.into_iter().enumerate() {
        let acceptor = Acceptor::new(listener.try_clone()?)?;
        let accepting = tokio_uring::spawn(http::accept(app.clone(), acceptor, number));
        driver.listeners.push(OpenListener { listener, accepting });
    }
    let ticking = tokio_uring::spawn(ring_periodically(setup.doorbell));
    ready();
    let ended = driver.run(&sleeper).await;
    ticking.abort();
    ended
}

/// Wakes a worker without requests every [`HOUSEKEEPING_INTERVAL_MS`] for the work that depends on time alone.
async fn ring_periodically(doorbell: Arc<Doorbell>) {
    loop {
        tokio::time::sleep(Duration::from_millis(HOUSEKEEPING_INTERVAL_MS)).await;
        doorbell.ring();
    }
}

/// Returns the number of datagrams that the kernel has dropped since the sockets were created, by any process.
fn kernel_drops(ring: &UdpRing) -> u64 {
    ring.sockets().filter_map(|socket| sys::kernel_drops(socket).ok()).map(u64::from).sum()
}

/// Pause of a worker that has finished before it checks again whether the others have.
const FINISH_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A listener, and the task that takes connections from it.
struct OpenListener {
    listener: TcpListener,
    accepting: JoinHandle<()>,
}

/// The worker's thread.
struct Driver<M> {
    ring: UdpRing,
    app: Rc<App<M>>,
    published: Arc<Published>,
    turns: Turns,
    shutdown: Arc<Shutdown>,
    busy_poll: Duration,
    orders: Receiver<Order>,
    /// The late snapshot to write before the end, in a handover.
    late: Option<LateSnapshot>,
    /// Drops of the sockets before the start.
    drops_before: u64,
    /// The listeners. Empty once the worker ends.
    listeners: Vec<OpenListener>,
    /// A no-op in flight. It completes once everything that HTTP queued before it has been submitted.
    submission: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
}

impl<M: Middleware> Driver<M> {
    async fn run(mut self, sleeper: &Sleeper) -> io::Result<()> {
        let mut busy_until = Timestamp::default();
        let mut last = None;
        while !self.shutdown.stopping() {
            if self.app.shared.panicked.get() {
                return Err(io::Error::other("it panicked"));
            }
            let now = self.app.shared.clock.now();
            if let Some(last) = last.take() {
                self.turns.note(now.since(last));
            }
            let Turned { worked, unfinished, datagrams, .. } = self.turn(now)?;
            self.turns.note_datagrams(datagrams);
            if worked {
                busy_until = now + self.busy_poll;
            }
            if unfinished || now < busy_until || self.ring.has_work() {
                last = Some(now);
                self.pass().await?;
            } else {
                self.turns.note(self.app.shared.clock.now().since(now));
                self.sleep(sleeper).await?;
            }
        }
        self.finish().await
    }

    fn turn(&mut self, now: Timestamp) -> io::Result<Turned> {
        let app = self.app.clone();
        let shared = &*app.shared;
        let (engine, mesh) = (&mut *shared.engine.borrow_mut(), &mut *shared.mesh.borrow_mut());
        engine.turn(now, &mut app.gate.borrow_mut(), mesh, self)
    }

    /// Lets the runtime run some of the tasks that are ready, and comes back.
    ///
    /// tokio-uring submits when its thread is about to sleep because no task is ready. A worker that yields stays
    /// ready, so HTTP would starve while UDP keeps the worker busy. If HTTP has queued an operation, the worker
    /// queues a no-op behind it and waits for its completion instead of yielding. The runtime then sleeps, submits,
    /// and is woken by the completion. Tasks that become ready in between run first, and the worker has its turns
    /// between them.
    async fn pass(&mut self) -> io::Result<()> {
        if self.submission.is_none() && self.app.shared.unsubmitted.replace(false) {
            self.submission = Some(Box::pin(tokio_uring::no_op()));
        }
        let Some(submission) = &mut self.submission else {
            tokio::task::yield_now().await;
            return Ok(());
        };
        let mut passed = false;
        let submitted = poll_fn(|context| match (submission.as_mut().poll(context), passed) {
            (Poll::Ready(result), _) => Poll::Ready(Some(result)),
            (Poll::Pending, true) => Poll::Ready(None),
            (Poll::Pending, false) => {
                passed = true;
                Poll::Pending
            }
        });
        if let Some(result) = submitted.await {
            self.submission = None;
            result?;
        }
        Ok(())
    }

    /// Sleeps until there is something to do, unless there is already.
    async fn sleep(&mut self, sleeper: &Sleeper) -> io::Result<()> {
        if !self.app.shared.mesh.borrow().fall_asleep() {
            return self.pass().await;
        }
        let slept = match self.ring.fall_asleep() {
            false => self.pass().await,
            true => {
                let slept = sleeper.sleep().await;
                self.ring.wake_up();
                slept
            }
        };
        self.app.shared.mesh.borrow().wake_up();
        slept
    }

    /// Takes no new connections and datagrams, finishes the requests in flight, and answers the other workers until
    /// they have finished theirs.
    async fn finish(mut self) -> io::Result<()> {
        let started = self.app.shared.clock.now();
        let grace = Duration::from_millis(SHUTDOWN_GRACE_MS);
        self.app.shared.stopping.set(true);
        self.ring.stop_receiving();
        self.listeners.drain(..).for_each(|listener| listener.accepting.abort());
        self.app.shared.connections.borrow_mut().close_idle();
        let mut finished = false;
        loop {
            let now = self.app.shared.clock.now();
            let Turned { worked, .. } = self.turn(now)?;
            let late = now.since(started) >= grace;
            if late {
                self.app.shared.connections.borrow_mut().close_all();
            }
            let in_flight = self.ring.is_receiving()
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
            match worked {
                true => self.pass().await?,
                // The progress of the others rings no doorbell.
                false => tokio::time::sleep(FINISH_POLL_INTERVAL).await,
            }
        }
        // The tasks whose connections were closed just now see it in their next step.
        tokio::time::sleep(FINISH_POLL_INTERVAL).await;
        self.app.shared.engine.borrow_mut().publish_soon();
        self.turn(self.app.shared.clock.now())?;
        if let Some(LateSnapshot { file, young_secs, done }) = self.late {
            let _ = done.send(save::save(self.app.shared.clone(), file, Some(young_secs)).await);
        }
        Ok(())
    }
}

impl<M: Middleware> Host for Driver<M> {
    type Datagrams = UdpRing;

    #[inline]
    fn datagrams(&mut self) -> &mut UdpRing {
        &mut self.ring
    }

    #[inline]
    fn next_order(&mut self) -> Option<engine::Order> {
        if self.orders.is_empty() { None } else { self.follow_orders() }
    }

    fn start_wait(&mut self, waiting: Waiting) {
        tokio_uring::spawn(waiting::wait(self.app.clone(), waiting));
    }

    #[inline]
    fn tend(&mut self, now: Timestamp) -> bool {
        self.app.shared.connections.borrow_mut().reap(now)
    }

    fn publish(&mut self, _: Timestamp, counters: &mut Counters, fault: Option<TrackerError>) {
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
