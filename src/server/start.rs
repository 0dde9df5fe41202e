//! Owns the start of a tracker: first its sockets, then its workers. Also chooses the cores of the workers.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::control::Control;
use super::handover::{Handover, WorkerGroup};
use super::inherit::Inherited;
use super::orders::Orders;
use super::sockets::{Sockets, reserve_descriptors};
use super::tables::Tables;
use super::takeover::Predecessor;
use super::{Ended, Tracker, format_cores, trusted};
use crate::config::{Config, Cores};
use crate::engine::middleware::Middleware;
use crate::error::ServerError;
use crate::limits::MAX_WORKERS;
use crate::mesh::Mesh;
use crate::sys::{self, Doorbell};
use crate::time::Clock;
use crate::web::Site;
use crate::worker::{self, ConnectionLimits, Program, Setup, Shutdown};

/// A tracker with bound sockets that does not serve yet: requests wait in the sockets' buffers. Before
/// [`start`](Self::start), the process can drop the privileges that it only needs to bind ports.
pub struct Bound<M = ()> {
    name: &'static str,
    pub(super) config: Config,
    middleware: M,
    site: Site,
    spare_descriptors: u64,
    pub(super) cores: Vec<Option<usize>>,
    connections: ConnectionLimits,
    sockets: Sockets,
    predecessor: Option<Predecessor>,
    rest: Inherited,
    /// The directories whose files can still be read. `None`: all.
    pub(super) readable: Option<Vec<PathBuf>>,
}

impl<M: Middleware + Send> Bound<M> {
    pub(super) fn new(
        name: &'static str,
        config: Config,
        middleware: M,
        site: Site,
        mut inherited: Inherited,
        spare_descriptors: u64,
    ) -> Result<Self, ServerError> {
        config.check()?;
        let allowed = sys::allowed_cores()
            .map_err(|source| ServerError::System { what: "can't get the available cores", source })?;
        let cores = choose_cores(&config.cores, &allowed)?;
        let connections = reserve_descriptors(&config, cores.len(), spare_descriptors)?;
        let predecessor = inherited.take_predecessor(&config, cores.len())?;
        let sockets = Sockets::bind(&config, cores.len(), &mut inherited)?;
        let rest = inherited;
        Ok(Self {
            name,
            config,
            middleware,
            site,
            spare_descriptors,
            cores,
            connections,
            sockets,
            predecessor,
            rest,
            readable: None,
        })
    }

    /// Returns the inherited sockets that this tracker does not use, for another tracker.
    pub fn rest(&mut self) -> Inherited {
        std::mem::take(&mut self.rest)
    }

    /// Returns the addresses that UDP will be served on, with port 0 replaced by the port in use.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.udp_addresses()
    }

    /// Returns the addresses that HTTP will be served on, with port 0 replaced by the port in use.
    pub fn http_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.http_addresses()
    }

    /// Reads the lists and the last snapshot, and starts all workers. They serve when this returns. A tracker to take
    /// over from also serves, until [`Tracker::succeed`].
    ///
    /// # Errors
    ///
    /// [`ServerError`], with the reason and how to fix it. Workers that were started are told to end.
    pub fn start(self) -> Result<Tracker, ServerError> {
        let Self { name, config, middleware, mut site, cores, connections, sockets, .. } = self;
        let Self { predecessor, spare_descriptors, readable, .. } = self;
        let workers = cores.len();
        let system = |what| move |source| ServerError::System { what, source };
        let clock = Clock::start();
        let Tables { owners, engines, control_setup, started_unix } =
            Tables::prepare(&config, workers, clock, predecessor.as_ref())?;
        sockets.steer(config.steering, &owners, &cores);
        let doorbells: io::Result<Vec<_>> = (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect();
        let doorbells = doorbells.map_err(system("can't create an eventfd"))?;
        let meshes = Mesh::connect(&doorbells);
        let (report_ready, ready) = bounded(workers);
        let (report_end, ended) = bounded(workers);
        let (orders, receivers) = Orders::new(&doorbells);
        let control = Control::start(name, control_setup, orders.clone());
        let (control, state) = control.map_err(system("can't start a thread"))?;
        let group = WorkerGroup { orders, shutdown: Arc::new(Shutdown::new(workers)) };
        let tracker = Tracker {
            udp: sockets.udp_addresses(),
            http: sockets.http_addresses(),
            cores,
            published: (0..workers).map(|_| Arc::default()).collect(),
            together: Arc::new(Mutex::new(vec![group.clone()])),
            group,
            ended,
            running: workers,
            config,
            clock,
            control: Arc::new(control),
            owners,
            spare_descriptors,
            state,
            predecessor,
            started_unix,
            readable,
        };
        site.set_published(tracker.published.clone());
        let site = Arc::new(site);
        let trusted_proxies = trusted(&tracker.config);
        let parts = sockets.by_worker().zip(engines).zip(meshes).zip(receivers).zip(doorbells);
        for (number, (((((sockets, listeners), engine), mesh), orders), doorbell)) in parts.enumerate() {
            let setup = Setup {
                core: tracker.cores[number],
                sockets,
                listeners,
                engine,
                mesh,
                doorbell,
                clock,
                published: tracker.published[number].clone(),
                shutdown: tracker.group.shutdown.clone(),
                busy_poll: tracker.config.busy_poll,
                gather: tracker.config.gather,
                connections,
                orders,
            };
            let (middleware, site) = (middleware.clone(), site.clone());
            let program = Program { middleware, site, trusted_proxies: trusted_proxies.clone() };
            spawn(name, number, setup, program, report_ready.clone(), report_end.clone())
                .map_err(system("can't start a thread"))?;
        }
        await_ready(&ready, &tracker.ended, workers)?;
        if tracker.predecessor.is_none() {
            tracker.offer()?;
        }
        Ok(tracker)
    }
}

impl Tracker {
    /// Ends the tracker that this one takes over from, if there is one. Until then both serve.
    ///
    /// # Errors
    ///
    /// That tracker has already ended. What it received since its last snapshot is lost then.
    pub fn succeed(&mut self) -> Result<(), ServerError> {
        let (Some(predecessor), Some(state)) = (self.predecessor.take(), &self.state) else { return Ok(()) };
        let (orders, control) = (self.group.orders.clone(), self.control.clone());
        predecessor.shut_down(Arc::downgrade(state), self.owners, orders, control)?;
        self.offer()
    }

    /// Waits in the background for another tracker that wants to take over, if there is a state directory.
    fn offer(&self) -> Result<(), ServerError> {
        let Some(state) = &self.state else { return Ok(()) };
        let Some(listener) = state.listener() else { return Ok(()) };
        let offer = || {
            let handover = Handover {
                listener: listener.try_clone()?,
                state: Arc::downgrade(state),
                control: self.control.clone(),
                owners: self.owners,
                groups: self.together.clone(),
                clock: self.clock,
                started_unix: self.started_unix,
                peer_timeout_secs: self.config.peer_timeout_secs,
            };
            handover.spawn()
        };
        offer().map_err(|source| ServerError::System {
            what: "can't wait for another tracker to take over",
            source,
        })
    }
}

/// Waits until each worker is ready or has ended.
fn await_ready(ready: &Receiver<()>, ended: &Receiver<Ended>, workers: usize) -> Result<(), ServerError> {
    for _ in 0..workers {
        crossbeam::channel::select! {
            recv(ready) -> _ => {}
            recv(ended) -> ended => {
                let Ended { worker, result } = ended.expect("a worker that isn't ready holds a sender");
                let source = result.err().unwrap_or_else(|| io::Error::other("it ended immediately"));
                return Err(ServerError::Worker { worker, what: "can't start", source });
            }
        }
    }
    Ok(())
}

fn spawn<M: Middleware + Send>(
    name: &str,
    number: usize,
    setup: Setup,
    program: Program<M>,
    ready: Sender<()>,
    ended: Sender<Ended>,
) -> io::Result<()> {
    /// Reports the end of the worker, even if it panics and panics don't abort.
    struct Report {
        worker: usize,
        ended: Sender<Ended>,
        result: Option<io::Result<()>>,
    }
    impl Drop for Report {
        fn drop(&mut self) {
            let result = self.result.take().unwrap_or_else(|| Err(io::Error::other("it panicked")));
            let _ = self.ended.send(Ended { worker: self.worker, result });
        }
    }
    let name = match setup.core {
        Some(core) => format!("{name}-{number}@{core}"),
        None => format!("{name}-{number}"),
    };
    let body = move || {
        let mut report = Report { worker: number, ended, result: None };
        report.result = Some(worker::run(setup, program, || {
            let _ = ready.send(());
        }));
    };
    thread::Builder::new().name(name).spawn(body).map(drop)
}

/// Returns the core of each worker, from `allowed`; `None` for a worker that is not pinned.
pub(crate) fn choose_cores(cores: &Cores, allowed: &[usize]) -> Result<Vec<Option<usize>>, ServerError> {
    let chosen: Vec<_> = match cores {
        Cores::Auto => allowed.iter().copied().take(MAX_WORKERS).map(Some).collect(),
        Cores::Floating(workers) => vec![None; *workers],
        Cores::List(cores) => {
            if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
                return Err(ServerError::Core { core, allowed: format_cores(allowed) });
            }
            cores.iter().copied().map(Some).collect()
        }
    };
    if chosen.len() > MAX_WORKERS {
        return Err(ServerError::TooManyCores(chosen.len()));
    }
    Ok(chosen)
}
