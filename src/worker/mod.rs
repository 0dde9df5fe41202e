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

/// All that a worker is given by the server.
pub struct Setup {
    /// Where it runs; `None` leaves that to the kernel.
    pub core: Option<usize>,
    /// Its UDP sockets, one for each listen address.
    pub sockets: Vec<RingSocket>,
    /// Its TCP listeners, one for each listen address.
    pub listeners: Vec<TcpListener>,
    /// Its part of the tracker.
    pub engine: Engine,
    /// Its end of the mesh.
    pub mesh: Mesh,
    /// What wakes it.
    pub doorbell: Arc<Doorbell>,
    /// The process's clock.
    pub clock: Clock,
    /// Where it publishes its counters.
    pub published: Arc<Published>,
    /// When it must end.
    pub shutdown: Arc<Shutdown>,
    /// How long it looks for work before it sleeps.
    pub busy_poll: Duration,
    /// HTTP connections that it holds at a time.
    pub connections: ConnectionLimits,
    /// What it is told while it runs.
    pub orders: Receiver<Order>,
}

/// How many HTTP connections a worker holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// That are served.
    pub open: usize,
    /// Beyond those, that are told that there are too many (503); still more are closed without a word.
    pub refused: usize,
}

/// How the workers end together: each goes on answering the others until none has anything left to finish.
#[derive(Debug)]
pub struct Shutdown {
    stop: AtomicBool,
    unfinished: AtomicUsize,
}

impl Shutdown {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self { stop: AtomicBool::new(false), unfinished: AtomicUsize::new(workers) }
    }

    /// Asks all workers to end. They see it when they wake: ring their doorbells.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A network whose word on a client's address is taken.
#[derive(Clone, Copy, Debug)]
pub struct Trusted {
    /// The listener for which it is, by its number; `None`: all.
    pub listener: Option<usize>,
    /// The network.
    pub network: IpNet,
}

/// What a program brings along to the tracker; each worker has its own.
pub struct Program<M> {
    /// What stands between requests and the swarms.
    pub middleware: M,
    /// What is served by HTTP beside the tracker.
    pub site: Arc<Site>,
    /// Networks whose word on a client's address is taken.
    pub trusted_proxies: Arc<[Trusted]>,
}

/// A worker's part of the program, and what its tasks share with the turn.
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
    /// An operation was queued on the runtime's ring, which submits only when the thread is about to sleep.
    unsubmitted: Cell<bool>,
    /// A task has panicked, where that does not abort.
    panicked: Cell<bool>,
}

/// Each task of a worker has one. A task that panics has left things half done, so that the worker ends too. (It is
/// not wrapped around the task, which would be held twice then.)
struct Witness(Rc<Shared>);

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked.set(true);
            self.0.doorbell.ring();
        }
    }
}

/// Runs a worker to its end, on the calling thread. `ready` is called once it serves.
///
/// # Errors
///
/// What keeps it from starting, or from going on.
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
        doors: Vec::new(),
        submission: None,
    };
    driver.turn(setup.clock.now())?; // a kernel that can't do it says so here
    for (number, listener) in setup.listeners.into_iter().enumerate() {
        let acceptor = Acceptor::new(listener.try_clone()?)?;
        let accepting = tokio_uring::spawn(http::accept(app.clone(), acceptor, number));
        driver.doors.push(Door { listener, accepting });
    }
    let ticking = tokio_uring::spawn(tick(setup.doorbell));
    ready();
    let ended = driver.run(&sleeper).await;
    ticking.abort();
    ended
}

/// Wakes the worker now and then, if it sleeps for want of requests, to look after what depends on time alone.
async fn tick(doorbell: Arc<Doorbell>) {
    loop {
        tokio::time::sleep(Duration::from_millis(HOUSEKEEPING_INTERVAL_MS)).await;
        doorbell.ring();
    }
}

/// Datagrams that the kernel has dropped since the sockets were made, by whichever process.
fn kernel_drops(ring: &UdpRing) -> u64 {
    ring.sockets().filter_map(|socket| sys::kernel_drops(socket).ok()).map(u64::from).sum()
}

/// How long a worker that has nothing left to finish sleeps before it looks whether the others have.
const NAP: Duration = Duration::from_millis(1);

/// A listener, and the task that takes connections from it.
struct Door {
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
    /// What the sockets had dropped when it began.
    drops_before: u64,
    /// Where connections come in; none once the worker is to end.
    doors: Vec<Door>,
    /// In flight: a no-op that completes once all that HTTP queued before it has been submitted.
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
            let Turned { worked, unfinished, .. } = self.turn(now)?;
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
    /// tokio-uring submits when its thread is about to sleep for want of ready tasks, and yielding is not that: as long
    /// as UDP keeps a worker busy HTTP would starve. So when something is to be submitted the worker queues a no-op
    /// behind it and waits instead of yielding. The runtime then goes to sleep, submits, and is woken by the no-op's
    /// completion. If tasks are ready meanwhile they come first, and the worker has its turns between them.
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

    /// Takes no new connections and datagrams, finishes the requests in flight, and helps the other workers to finish
    /// theirs.
    async fn finish(mut self) -> io::Result<()> {
        let started = self.app.shared.clock.now();
        let grace = Duration::from_millis(SHUTDOWN_GRACE_MS);
        self.app.shared.stopping.set(true);
        self.ring.stop_receiving();
        self.doors.drain(..).for_each(|door| door.accepting.abort());
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
                false => tokio::time::sleep(NAP).await, // no sleep: the others' progress rings no doorbell
            }
        }
        // The tasks whose connections were closed just now see it in their next step.
        tokio::time::sleep(NAP).await;
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
