//! Owns the start of a tracker: first its sockets, then its workers; and the cores that these run on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::control::{Control, Orders};
use super::handover::{Crew, Estate};
use super::inherit::Inherited;
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

/// A tracker that has its sockets, and does not serve yet: what comes waits in their buffers. Between this and
/// [`start`](Self::start) is the time to give up what rights a process needs for its ports alone.
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
    /// The directories of files that can still be read, if not all can.
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
            .map_err(|source| ServerError::System { what: "the cores can't be known", source })?;
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

    /// What was inherited and is not this tracker's, for another.
    pub fn rest(&mut self) -> Inherited {
        std::mem::take(&mut self.rest)
    }

    /// Where UDP will be served; a port that was given as 0 is the one that it became.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.udp_addresses()
    }

    /// Where HTTP will be served; a port that was given as 0 is the one that it became.
    pub fn http_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.http_addresses()
    }

    /// Reads lists and the last snapshot and starts all workers. When this returns, they serve. (If the tracker takes
    /// over from another one, that serves too, until [`Tracker::succeed`].)
    ///
    /// # Errors
    ///
    /// [`ServerError`], which says what failed and what may help. Workers that had started are asked to end.
    pub fn start(self) -> Result<Tracker, ServerError> {
        let Self { name, config, middleware, mut site, cores, connections, sockets, .. } = self;
        let Self { predecessor, spare_descriptors, readable, .. } = self;
        let workers = cores.len();
        let system = |what| move |source| ServerError::System { what, source };
        let clock = Clock::start();
        let Tables { owners, engines, charge, started_unix } =
            Tables::prepare(&config, workers, clock, predecessor.as_ref())?;
        sockets.steer(config.steering, &owners, &cores);
        let doorbells: io::Result<Vec<_>> = (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect();
        let doorbells = doorbells.map_err(system("a doorbell can't be made"))?;
        let meshes = Mesh::connect(&doorbells);
        let (report_ready, ready) = bounded(workers);
        let (report_end, ended) = bounded(workers);
        let (orders, receivers) = Orders::new(&doorbells);
        let control = Control::start(name, charge, orders.clone());
        let (control, state) = control.map_err(system("a thread can't be started"))?;
        let crew = Crew { orders, shutdown: Arc::new(Shutdown::new(workers)) };
        let tracker = Tracker {
            udp: sockets.udp_addresses(),
            http: sockets.http_addresses(),
            cores,
            published: (0..workers).map(|_| Arc::default()).collect(),
            together: Arc::new(Mutex::new(vec![crew.clone()])),
            crew,
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
        let parts = sockets.deal().zip(engines).zip(meshes).zip(receivers).zip(doorbells);
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
                shutdown: tracker.crew.shutdown.clone(),
                busy_poll: tracker.config.busy_poll,
                connections,
                orders,
            };
            let (middleware, site) = (middleware.clone(), site.clone());
            let program = Program { middleware, site, trusted_proxies: trusted_proxies.clone() };
            spawn(name, number, setup, program, report_ready.clone(), report_end.clone())
                .map_err(system("a thread can't be started"))?;
        }
        await_ready(&ready, &tracker.ended, workers)?;
        if tracker.predecessor.is_none() {
            tracker.offer()?;
        }
        Ok(tracker)
    }
}

impl Tracker {
    /// Lets the tracker end that this one takes over from, if there is one: until then both serve.
    ///
    /// # Errors
    ///
    /// It has ended already. What came to it since its last snapshot is lost then.
    pub fn succeed(&mut self) -> Result<(), ServerError> {
        let (Some(predecessor), Some(state)) = (self.predecessor.take(), &self.state) else { return Ok(()) };
        let (orders, control) = (self.crew.orders.clone(), self.control.clone());
        predecessor.relieve(Arc::downgrade(state), self.owners, orders, control)?;
        self.offer()
    }

    /// Is ready to be taken over from, if it keeps a state.
    fn offer(&self) -> Result<(), ServerError> {
        let Some(state) = &self.state else { return Ok(()) };
        let Some(listener) = state.listener() else { return Ok(()) };
        let offer = || {
            let estate = Estate {
                listener: listener.try_clone()?,
                state: Arc::downgrade(state),
                control: self.control.clone(),
                owners: self.owners,
                crews: self.together.clone(),
                clock: self.clock,
                started_unix: self.started_unix,
                peer_timeout_secs: self.config.peer_timeout_secs,
            };
            estate.offer()
        };
        offer().map_err(|source| ServerError::System { what: "nobody can be let take over", source })
    }
}

/// Waits until each worker has said that it is ready, or that it has ended.
fn await_ready(ready: &Receiver<()>, ended: &Receiver<Ended>, workers: usize) -> Result<(), ServerError> {
    for _ in 0..workers {
        crossbeam::channel::select! {
            recv(ready) -> _ => {}
            recv(ended) -> ended => {
                let Ended { worker, result } = ended.expect("a worker that isn't ready holds a sender");
                let source = result.err().unwrap_or_else(|| io::Error::other("it ended at once"));
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
    /// Sees to it that the end is reported even if the worker panics and panics don't abort.
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

/// The core of each worker, of those that the process may run on; `None` for one that isn't pinned.
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
