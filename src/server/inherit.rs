//! Owns inherited sockets, from the service manager or from a tracker to take over from.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::{Socket, Type};

use super::takeover::Predecessor;
use crate::config::Config;
use crate::error::ServerError;
use crate::sys;

/// Existing sockets, in the order of the workers. Each [`Builder`](super::Builder) takes those that match its
/// configuration and leaves the others for the next builder.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<Socket>,
    predecessor: Option<Predecessor>,
}

impl Inherited {
    /// Returns the sockets that the service manager has bound (`LISTEN_FDS`, see `sd_listen_fds(3)`), if any. Only the
    /// first call returns them.
    ///
    /// # Errors
    ///
    /// The environment variables are not valid.
    pub fn from_service_manager() -> Result<Self, ServerError> {
        let what = "can't use the sockets of the service manager (LISTEN_FDS)";
        let given = sys::given_descriptors().map_err(|source| ServerError::System { what, source })?;
        Ok(Self { sockets: given.into_iter().map(Socket::from).collect(), predecessor: None })
    }

    /// Adds the sockets of the tracker that is running with this state directory, if there is one. The first builder
    /// whose configuration has that directory takes over from it. The old tracker serves until the new one does.
    ///
    /// # Errors
    ///
    /// The old tracker refuses or does not answer. It keeps serving.
    pub fn take_over(mut self, state_dir: &Path) -> Result<Self, ServerError> {
        if let Some((predecessor, sockets)) =
            Predecessor::connect(state_dir).map_err(ServerError::TakeOver)?
        {
            self.predecessor = Some(predecessor);
            self.sockets.extend(sockets.into_iter().map(|socket: OwnedFd| Socket::from(socket)));
        }
        Ok(self)
    }

    /// Returns the addresses of the sockets that no builder has taken.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> =
            self.sockets.iter().filter_map(|socket| bound_address(socket).ok()).collect();
        addresses.dedup();
        addresses
    }

    /// Returns the tracker to take over from, if it has the state directory of this configuration.
    pub(super) fn take_predecessor(
        &mut self,
        config: &Config,
        workers: usize,
    ) -> Result<Option<Predecessor>, ServerError> {
        let is_for =
            |predecessor: &mut Predecessor| config.state_dir.as_deref() == Some(predecessor.state_dir());
        let Some(predecessor) = self.predecessor.take_if(is_for) else { return Ok(None) };
        match predecessor.workers() {
            same if same == workers => Ok(Some(predecessor)),
            other => Err(ServerError::TakeOver(io::Error::other(format!(
                "the running tracker has {other} workers, but this one would have {workers}; set --cores \
                 to the same number, or stop it first"
            )))),
        }
    }

    /// Takes the sockets of this kind that are bound to this address. Port 0 matches any port.
    pub(super) fn take(&mut self, kind: Type, address: SocketAddr) -> Vec<Socket> {
        let (mut port, mut taken) = (address.port(), Vec::new());
        for socket in std::mem::take(&mut self.sockets) {
            match bound_address(&socket) {
                Ok(bound)
                    if bound.ip() == address.ip()
                        && (port == 0 || bound.port() == port)
                        && socket.r#type().is_ok_and(|found| found == kind) =>
                {
                    port = bound.port(); // the others must have the same port
                    taken.push(socket);
                }
                _ => self.sockets.push(socket),
            }
        }
        taken
    }
}

pub(super) fn bound_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a socket without an address"))
}

/// Checks that the inherited sockets for an address are suitable for this number of workers.
pub(super) fn check(given: &[Socket], workers: usize) -> Result<(), String> {
    let count = given.len();
    if count > workers {
        return Err(format!(
            "there are {count} sockets, but {workers} workers; each worker needs one (--cores)"
        ));
    }
    let shares = |socket: &Socket| socket.reuse_port().unwrap_or(false);
    if workers > 1 && !given.iter().all(shares) {
        return Err("SO_REUSEPORT is not set, which several workers need (ReusePort=yes in systemd)".into());
    }
    let both = |socket: &Socket| {
        bound_address(socket).is_ok_and(|address| address.is_ipv6()) && !socket.only_v6().unwrap_or(false)
    };
    if given.iter().any(both) {
        return Err(
            "they also accept IPv4, which needs separate sockets (BindIPv6Only=ipv6-only in systemd)".into(),
        );
    }
    Ok(())
}
