//! Owns the process's part of the tracker: sockets bound in the order of the workers, threads started and ended together.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Config, Cores, Listen, Steering};
use crate::connection_id::ConnectionIds;
use crate::counters::{Counters, Published};
use crate::engine::{Engine, Policy, Seeds};
use crate::error::ServerError;
use crate::limits::{
    DEFAULT_HTTP_CONNECTIONS, HTTP_BACKLOG, MAX_WORKERS, SPARE_DESCRIPTORS, WORKER_DESCRIPTORS,
};
use crate::mesh::Mesh;
use crate::owner::Owners;
use crate::ring::RingSocket;
use crate::sys::{self, Doorbell};
use crate::time::Clock;
use crate::types::{Family, WorkerId};
use crate::worker::{self, Setup, Shutdown};

/// A tracker that runs.
pub struct Server {
    udp: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    cores: Vec<Option<usize>>,
    published: Vec<Arc<Published>>,
    doorbells: Vec<Arc<Doorbell>>,
    shutdown: Arc<Shutdown>,
    ended: Receiver<Ended>,
    running: usize,
}

/// What a worker says when it is through: how it ended.
struct Ended {
    worker: usize,
    result: io::Result<()>,
}

impl Server {
    /// Binds all sockets and starts all workers. When this returns, they serve.
    ///
    /// # Errors
    ///
    /// [`ServerError`], which says what failed and what may help. Nothing is left running then but threads that are
    /// about to end: a program should end too.
    pub fn start(config: &Config) -> Result<Self, ServerError> {
        config.check()?;
        let system = |what| move |source| ServerError::System { what, source };
        let cores = choose_cores(&config.cores)?;
        let workers = cores.len();
        let (udp_addresses, http_addresses) = (config.udp.addresses(), config.http.addresses());
        let connections =
            reserve_descriptors(config, workers, udp_addresses.len() + 2 * http_addresses.len())?;

        let udp = bind_all("udp", &config.udp, workers, |address| {
            udp_socket(address, config.receive_buffer_bytes)
        })?;
        let http = bind_all("http", &config.http, workers, tcp_listener)?;
        let clock = Clock::start();
        let random = system("random numbers can't be had");
        let key: [u8; 12] = sys::random().map_err(random)?;
        let owners = Owners::new(
            workers,
            std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| key[word * 4 + byte]))),
        );
        let ids = ConnectionIds::new(sys::random().map_err(random)?, config.connection_id_window_secs);
        let policy = Policy {
            announce_interval_secs: config.announce_interval_secs,
            min_interval_secs: config.min_interval_secs,
            max_peers: config.max_peers,
        };
        let doorbells: io::Result<Vec<_>> = (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect();
        let doorbells = doorbells.map_err(system("a doorbell can't be made"))?;
        let shutdown = Arc::new(Shutdown::new(workers));
        let published: Vec<_> = (0..workers).map(|_| Arc::new(Published::default())).collect();
        let udp_bound = udp.iter().map(|group| group.address).collect();
        let http_bound = http.iter().map(|group| group.address).collect();
        steer(config.steering, &owners, &cores, &udp, &http);

        let (mut udp, mut http) = (deal(udp), deal(http));
        let (report_ready, ready) = bounded(workers);
        let (report_end, ended) = bounded(workers);
        for (number, mesh) in Mesh::connect(&doorbells).into_iter().enumerate() {
            let seeds = Seeds {
                table: sys::random().map_err(random)?,
                random: u64::from_ne_bytes(sys::random().map_err(random)?),
            };
            let me = WorkerId(number as u16);
            let setup = Setup {
                core: cores[number],
                sockets: udp.next().expect("a set of sockets for each worker"),
                listeners: http.next().expect("a set of listeners for each worker"),
                engine: Engine::new(me, owners, policy, ids, config.peer_timeout_secs, seeds),
                mesh,
                doorbell: doorbells[number].clone(),
                clock,
                published: published[number].clone(),
                shutdown: shutdown.clone(),
                busy_poll: config.busy_poll,
                connections: (connections / workers).max(1),
            };
            spawn(number, setup, report_ready.clone(), report_end.clone())
                .map_err(system("a thread can't be started"))?;
        }
        let server = Self {
            udp: udp_bound,
            http: http_bound,
            cores,
            published,
            doorbells,
            shutdown,
            ended,
            running: workers,
        };
        for _ in 0..workers {
            // Ready or at its end, each worker says one of the two.
            crossbeam::channel::select! {
                recv(ready) -> _ => {}
                recv(server.ended) -> ended => {
                    let Ended { worker, result } = ended.expect("this function holds a sender");
                    let source = result.err().unwrap_or_else(|| io::Error::other("it ended at once"));
                    return Err(ServerError::Worker { worker, what: "can't start", source });
                }
            }
        }
        Ok(server)
    }

    /// Where UDP is served; a port that was given as 0 is the one that it became.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Where HTTP is served; a port that was given as 0 is the one that it became.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// The core of each worker; `None` for one that isn't pinned.
    pub fn cores(&self) -> &[Option<usize>] {
        &self.cores
    }

    /// What each worker has counted, as of a moment ago.
    pub fn counters(&self) -> Vec<Counters> {
        self.published.iter().map(|published| published.read()).collect()
    }

    /// Asks all workers to end: no new connections, what is in flight is finished. Returns at once; see
    /// [`wait`](Self::wait).
    pub fn stop(&self) {
        self.shutdown.stop();
        self.doorbells.iter().for_each(|doorbell| doorbell.ring());
    }

    /// Waits until all workers have ended, for at most so long. `Ok(false)`: some still run.
    ///
    /// # Errors
    ///
    /// If a worker ended by an error. The others go on, but without its part of the swarms and the ports: the process
    /// should end.
    pub fn wait(&mut self, at_most: Duration) -> Result<bool, ServerError> {
        let until = crossbeam::channel::after(at_most);
        while self.running > 0 {
            crossbeam::channel::select! {
                recv(self.ended) -> ended => match ended {
                    Ok(Ended { result: Ok(()), .. }) => self.running -= 1,
                    Ok(Ended { worker, result: Err(source) }) => {
                        return Err(ServerError::Worker { worker, what: "ended", source });
                    }
                    Err(_) => return Ok(true),
                },
                recv(until) -> _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn spawn(number: usize, setup: Setup, ready: Sender<()>, ended: Sender<Ended>) -> io::Result<()> {
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
        Some(core) => format!("gyre-{number}@{core}"),
        None => format!("gyre-{number}"),
    };
    let body = move || {
        let mut report = Report { worker: number, ended, result: None };
        report.result = Some(worker::run(setup, || {
            let _ = ready.send(());
        }));
    };
    thread::Builder::new().name(name).spawn(body).map(drop)
}

fn choose_cores(cores: &Cores) -> Result<Vec<Option<usize>>, ServerError> {
    let allowed = sys::allowed_cores()
        .map_err(|source| ServerError::System { what: "the cores can't be known", source })?;
    let chosen: Vec<_> = match cores {
        Cores::Auto => allowed.into_iter().map(Some).collect(),
        Cores::Floating(workers) => vec![None; (*workers).max(1)],
        Cores::List(cores) => {
            if let Some(&core) = cores.iter().find(|core| !allowed.contains(core)) {
                return Err(ServerError::Core { core, allowed: format_cores(&allowed) });
            }
            cores.iter().copied().map(Some).collect()
        }
    };
    if chosen.len() > MAX_WORKERS {
        return Err(ServerError::TooManyCores(chosen.len()));
    }
    Ok(chosen)
}

/// Writes ascending cores as a list with ranges.
pub fn format_cores(cores: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cores;
    while let [first, ..] = *rest {
        let length = rest.iter().zip(first..).take_while(|(core, expected)| *core == expected).count();
        let comma = if text.is_empty() { "" } else { "," };
        text += &match length {
            1 => format!("{comma}{first}"),
            _ => format!("{comma}{first}-{}", rest[length - 1]),
        };
        rest = &rest[length..];
    }
    text
}

/// Sees to it that there are descriptors for all sockets and connections; returns for how many connections. Where their
/// number is the default it gives way to the limit.
fn reserve_descriptors(
    config: &Config,
    workers: usize,
    sockets_per_worker: usize,
) -> Result<usize, ServerError> {
    let own = SPARE_DESCRIPTORS + workers as u64 * (WORKER_DESCRIPTORS + sockets_per_worker as u64);
    let wanted = match config.http.addresses().is_empty() {
        true => 0,
        false => config.http_connections.unwrap_or(DEFAULT_HTTP_CONNECTIONS) as u64,
    };
    let least = config.http_connections.map_or(wanted.min(workers as u64), |_| wanted);
    let limit = sys::raise_descriptor_limit(own + wanted);
    if limit < own + least {
        return Err(ServerError::Descriptors { needed: own + least, limit });
    }
    Ok(wanted.min(limit - own) as usize)
}

/// The sockets of all workers at one address, in the order of the workers.
struct Group<S> {
    address: SocketAddr,
    sockets: Vec<S>,
}

fn bind_all<S>(
    protocol: &'static str,
    listen: &Listen,
    workers: usize,
    bind: impl Fn(SocketAddr) -> io::Result<(S, SocketAddr)>,
) -> Result<Vec<Group<S>>, ServerError> {
    let mut groups = Vec::new();
    for address in listen.addresses() {
        let group = probe(protocol, address).and_then(|()| {
            let (first, bound) = bind(address)?;
            let others = (1..workers).map(|_| bind(bound).map(|(socket, _)| socket));
            let sockets: io::Result<Vec<_>> = std::iter::once(Ok(first)).chain(others).collect();
            Ok(Group { address: bound, sockets: sockets? })
        });
        match group {
            Ok(group) => groups.push(group),
            Err(error) if *listen == Listen::Default && address.is_ipv6() && lacks_ipv6(&error) => {
                tracing::warn!("this machine has no IPv6 ({error}): {protocol} is served over IPv4 alone");
            }
            Err(source) => return Err(ServerError::Bind { protocol, address, source }),
        }
    }
    Ok(groups)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Fails if another process has the port. Our own sockets share theirs (`SO_REUSEPORT`), and so would another
/// tracker's of the same user: unnoticed, each would get a part of the requests.
fn probe(protocol: &str, address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let kind = if protocol == "udp" { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process that linger are no obstacle; one that listens is.
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.bind(&address.into())
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bound_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without an address"))
}

fn udp_socket(address: SocketAddr, receive_buffer_bytes: usize) -> io::Result<(RingSocket, SocketAddr)> {
    let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
    sys::set_receive_buffer(&socket, receive_buffer_bytes)?;
    let wildcard = address.ip().is_unspecified();
    if wildcard {
        sys::deliver_local_address(&socket, Family::of(address.ip()))?;
    }
    let bound = bound_address(&socket)?;
    Ok((RingSocket { socket: UdpSocket::from(socket), wildcard }, bound))
}

fn tcp_listener(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = bind(address, Type::STREAM, Protocol::TCP)?;
    socket.set_tcp_nodelay(true)?; // accepted connections inherit it
    socket.listen(HTTP_BACKLOG)?;
    let bound = bound_address(&socket)?;
    Ok((TcpListener::from(socket), bound))
}

/// Hands the steering programs to the kernel. Without them requests still arrive, with more hops between workers.
fn steer(
    steering: Steering,
    owners: &Owners,
    cores: &[Option<usize>],
    udp: &[Group<RingSocket>],
    http: &[Group<TcpListener>],
) {
    let cores: Vec<_> = cores.iter().enumerate().map(|(worker, core)| core.unwrap_or(worker)).collect();
    let attached = match steering {
        Steering::None => return,
        Steering::InfoHash => {
            let program = owners.steer_by_info_hash(&cores);
            udp.iter().try_for_each(|group| sys::attach_steering(&group.sockets[0].socket, &program))
        }
        Steering::Cpu => {
            let program = owners.steer_by_cpu(&cores);
            udp.iter()
                .try_for_each(|group| sys::attach_steering(&group.sockets[0].socket, &program))
                .and_then(|()| {
                    http.iter().try_for_each(|group| sys::attach_steering(&group.sockets[0], &program))
                })
        }
    };
    if let Err(error) = attached {
        tracing::warn!(
            "--steering {steering} can't be set up ({error}): the kernel deals datagrams out on its own"
        );
    }
}

/// Turns the sockets of each address into the sockets of each worker.
fn deal<S>(groups: Vec<Group<S>>) -> impl Iterator<Item = Vec<S>> {
    let mut groups: Vec<_> = groups.into_iter().map(|group| group.sockets.into_iter()).collect();
    std::iter::from_fn(move || Some(groups.iter_mut().filter_map(Iterator::next).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_written_as_they_are_read() {
        assert_eq!(format_cores(&[]), "");
        assert_eq!(format_cores(&[0]), "0");
        assert_eq!(format_cores(&[0, 1, 2, 3, 6, 8, 9]), "0-3,6,8-9");
    }

    #[test]
    fn sockets_are_dealt_in_the_order_of_the_workers() {
        let group = |name: &str| Group {
            address: ([127, 0, 0, 1], 0).into(),
            sockets: (0..3).map(|worker| format!("{name}{worker}")).collect(),
        };
        let dealt: Vec<_> = deal(vec![group("a"), group("b")]).take(3).collect();
        assert_eq!(dealt, [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]);
        assert_eq!(deal(Vec::<Group<()>>::new()).next(), Some(Vec::new()));
    }
}
