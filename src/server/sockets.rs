//! Owns the sockets. They are bound in the order of the workers, which gives their numbers in the reuseport groups.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::inherit::{self, Inherited, bound_address};
use crate::config::{Config, Listen, Steering};
use crate::error::ServerError;
use crate::limits::{
    BIND_PATIENCE_MS, BIND_RETRY_MS, DEFAULT_HTTP_CONNECTIONS, HTTP_BACKLOG, HTTP_REFUSALS,
    HTTP_UNSENT_BYTES, SPARE_DESCRIPTORS, WORKER_DESCRIPTORS,
};
use crate::owner::Owners;
use crate::ring::RingSocket;
use crate::sys;
use crate::types::Family;
use crate::worker::ConnectionLimits;

/// Numbers of file descriptors that a server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// Descriptors without which it does not start.
    pub(crate) own: u64,
    /// Connection limits of each worker.
    per_worker: ConnectionLimits,
    /// Descriptors for connections of all workers.
    pub(crate) connections: u64,
}

/// Returns the descriptors that a server needs with this configuration and number of workers, if the rest of the
/// program needs `spare`.
pub(crate) fn descriptors_needed(config: &Config, workers: usize, spare: u64) -> Descriptors {
    // A worker holds each listener twice: to accept from, and to hand over.
    let (udp, listeners) = (config.udp.addresses().len(), config.http.addresses().len());
    // A tracker that takes over gets one more of each.
    let handed_over = if config.state_dir.is_some() { udp + listeners } else { 0 };
    let sockets_per_worker = udp + 2 * listeners + handed_over;
    let own = SPARE_DESCRIPTORS + spare + workers as u64 * (WORKER_DESCRIPTORS + sockets_per_worker as u64);
    let open = config.http_connections.unwrap_or(DEFAULT_HTTP_CONNECTIONS).div_ceil(workers.max(1));
    let per_worker = ConnectionLimits { open, refused: HTTP_REFUSALS };
    let each = if listeners == 0 { 0 } else { open + HTTP_REFUSALS };
    Descriptors { own, per_worker, connections: (workers * each) as u64 }
}

/// Raises the limit of file descriptors for all sockets and connections. Returns the connection limits of each worker.
/// If the number of connections is the default, it is reduced to what the limit allows.
pub(super) fn reserve_descriptors(
    config: &Config,
    workers: usize,
    spare: u64,
) -> Result<ConnectionLimits, ServerError> {
    let listeners = config.http.addresses().len();
    let Descriptors { own, per_worker: wanted, connections } = descriptors_needed(config, workers, spare);
    let needed = own + connections;
    let limit = sys::raise_descriptor_limit(needed);
    if limit >= needed {
        return Ok(wanted);
    }
    let left = (limit.saturating_sub(own) as usize) / workers;
    let refused = (left / 8).clamp(1, HTTP_REFUSALS);
    match config.http_connections {
        None if listeners > 0 && left > refused => Ok(ConnectionLimits { open: left - refused, refused }),
        None => Err(ServerError::Descriptors { needed: own + 2 * listeners.min(1) as u64, limit, cure: "" }),
        Some(_) => Err(ServerError::Descriptors { needed, limit, cure: ", or lower --http-connections" }),
    }
}

/// All sockets of the process.
pub(super) struct Sockets {
    udp: Vec<Group<RingSocket>>,
    http: Vec<Group<TcpListener>>,
}

impl Sockets {
    /// Binds a socket for each worker at each address, unless it was inherited.
    pub(super) fn bind(
        config: &Config,
        workers: usize,
        inherited: &mut Inherited,
    ) -> Result<Self, ServerError> {
        let buffer_bytes = config.receive_buffer_bytes;
        Ok(Self {
            udp: bind_all("udp", &config.udp, workers, inherited, |socket| udp_socket(socket, buffer_bytes))?,
            http: bind_all("http", &config.http, workers, inherited, tcp_listener)?,
        })
    }

    pub(super) fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(|group| group.address).collect()
    }

    pub(super) fn http_addresses(&self) -> Vec<SocketAddr> {
        self.http.iter().map(|group| group.address).collect()
    }

    /// Attaches the steering programs to the sockets. Without them, requests still arrive, with more hops between
    /// workers.
    pub(super) fn steer(&self, steering: Steering, owners: &Owners, cores: &[Option<usize>]) {
        let cores: Vec<_> = cores.iter().enumerate().map(|(worker, core)| core.unwrap_or(worker)).collect();
        let (udp_program, http_program) = match steering {
            Steering::None => (None, None),
            Steering::InfoHash => (Some(owners.steer_by_info_hash(&cores)), None),
            Steering::Cpu => (Some(owners.steer_by_cpu(&cores)), Some(owners.steer_by_cpu(&cores))),
        };
        let udp = self.udp.iter().map(|group| (group.sockets[0].socket.as_fd(), &udp_program));
        let http = self.http.iter().map(|group| (group.sockets[0].as_fd(), &http_program));
        for (socket, program) in udp.chain(http) {
            let Some(program) = program else {
                sys::detach_steering(socket); // the program of a former owner of the socket
                continue;
            };
            if let Err(error) = sys::attach_steering(socket, program) {
                return tracing::warn!(
                    "can't set up --steering {steering}: {error}; the kernel distributes requests by a \
                     hash of the addresses"
                );
            }
        }
    }

    /// Returns the sockets of each worker, in the order of the workers.
    pub(super) fn by_worker(self) -> impl Iterator<Item = (Vec<RingSocket>, Vec<TcpListener>)> {
        by_worker(self.udp).zip(by_worker(self.http))
    }
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
    inherited: &mut Inherited,
    adopt: impl Fn(Socket) -> io::Result<S>,
) -> Result<Vec<Group<S>>, ServerError> {
    let kind = kind_of(protocol);
    let addresses = listen.addresses();
    let given: Vec<_> = addresses.iter().map(|&address| inherited.take(kind, address)).collect();
    // All are probed before any is bound, since our own sockets may overlap: a wildcard and a specific address.
    let probed = addresses.iter().zip(&given).map(|(&address, given)| match given.is_empty() {
        true => probe_patiently(protocol, address),
        false => Ok(()),
    });
    let probed: Vec<_> = probed.collect();
    let mut groups = Vec::new();
    for ((address, mut sockets), probed) in addresses.into_iter().zip(given).zip(probed) {
        inherit::check(&sockets, workers).map_err(|fault| ServerError::Inherited {
            protocol,
            address,
            fault,
        })?;
        let group = probed.and_then(|()| {
            while sockets.len() < workers {
                let at = sockets.first().map_or(Ok(address), bound_address)?;
                sockets.push(bind(at, kind)?);
            }
            let address = bound_address(&sockets[0])?;
            let sockets: io::Result<_> = sockets.into_iter().map(&adopt).collect();
            Ok(Group { address, sockets: sockets? })
        });
        match group {
            Ok(group) => groups.push(group),
            Err(error) if *listen == Listen::Default && address.is_ipv6() && lacks_ipv6(&error) => {
                tracing::warn!("this machine has no IPv6 ({error}); {protocol} is served over IPv4 only");
            }
            Err(source) => return Err(ServerError::Bind { protocol, address, source }),
        }
    }
    Ok(groups)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Like [`probe`], but waits for a port in use to become free, which it does in a restart after `kill -9`.
fn probe_patiently(protocol: &str, address: SocketAddr) -> io::Result<()> {
    let mut tries = BIND_PATIENCE_MS / BIND_RETRY_MS;
    loop {
        match probe(protocol, address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => tries -= 1,
            done => return done,
        }
        thread::sleep(Duration::from_millis(BIND_RETRY_MS));
    }
}

/// Fails if another process uses the port. Our own sockets share ports (`SO_REUSEPORT`), and so could another tracker
/// of the same user. Then each of them would get a part of the requests, unnoticed.
pub(crate) fn probe(protocol: &str, address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let kind = kind_of(protocol);
    let socket = open(address, kind)?;
    // Lingering connections of an earlier process do not matter, but a listening socket does.
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.bind(&address.into())
}

fn kind_of(protocol: &str) -> Type {
    if protocol == "udp" { Type::DGRAM } else { Type::STREAM }
}

/// Opens a socket for one address family only. IPv4 and IPv6 have separate sockets.
fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = open(address, kind)?;
    // A port chosen by the kernel must not be shared, but with SO_REUSEPORT it could choose a port of another process.
    let is_chosen = address.port() == 0;
    socket.set_reuse_port(!is_chosen)?;
    socket.set_reuse_address(kind == Type::STREAM && !is_chosen)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(kind == Type::STREAM)?; // its lingering connections inherit it
    Ok(socket)
}

fn udp_socket(socket: Socket, receive_buffer_bytes: usize) -> io::Result<RingSocket> {
    let address = bound_address(&socket)?;
    let buffer = sys::set_receive_buffer(&socket, receive_buffer_bytes)?;
    if buffer < receive_buffer_bytes / 2 * 2 {
        tracing::warn!(
            "udp {address}: the receive buffer has {buffer} bytes instead of {receive_buffer_bytes}, \
             which can lose datagrams in a burst; set `sysctl net.core.rmem_max={receive_buffer_bytes}`"
        );
    }
    let wildcard = address.ip().is_unspecified();
    if wildcard {
        sys::deliver_local_address(&socket, Family::of(address.ip()))?;
    }
    Ok(RingSocket { socket: UdpSocket::from(socket), wildcard })
}

fn tcp_listener(socket: Socket) -> io::Result<TcpListener> {
    // Accepted connections inherit these.
    socket.set_tcp_nodelay(true)?;
    sys::bound_unsent(&socket, HTTP_UNSENT_BYTES)?;
    socket.listen(HTTP_BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Converts the sockets of each address to the sockets of each worker.
fn by_worker<S>(groups: Vec<Group<S>>) -> impl Iterator<Item = Vec<S>> {
    let mut groups: Vec<_> = groups.into_iter().map(|group| group.sockets.into_iter()).collect();
    std::iter::from_fn(move || Some(groups.iter_mut().filter_map(Iterator::next).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Among many ports that may be shared, the kernel would choose some twice.
    #[test]
    fn a_port_chosen_by_the_kernel_is_unique_and_can_be_shared_later() {
        for kind in [Type::DGRAM, Type::STREAM] {
            let sockets: Vec<_> = (0..400).map(|_| bind(([127, 0, 0, 1], 0).into(), kind).unwrap()).collect();
            let mut ports: Vec<_> =
                sockets.iter().map(|socket| bound_address(socket).unwrap().port()).collect();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), sockets.len());
            bind(bound_address(&sockets[0]).unwrap(), kind).unwrap();
        }
    }

    #[test]
    fn sockets_are_distributed_in_the_order_of_the_workers() {
        let group = |name: &str| Group {
            address: ([127, 0, 0, 1], 0).into(),
            sockets: (0..3).map(|worker| format!("{name}{worker}")).collect(),
        };
        let dealt: Vec<_> = by_worker(vec![group("a"), group("b")]).take(3).collect();
        assert_eq!(dealt, [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]);
        assert_eq!(by_worker(Vec::<Group<()>>::new()).next(), Some(Vec::new()));
    }
}
