//! Owns what a tracker gets from elsewhere: sockets of the service manager's, or those that another tracker serves at.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::{Socket, Type};

use super::takeover::Predecessor;
use crate::config::Config;
use crate::error::ServerError;
use crate::sys;

/// Sockets that are there already, in the order of the workers. Each [`Builder`](super::Builder) takes those that its
/// configuration names; what it leaves is for the next.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<Socket>,
    predecessor: Option<Predecessor>,
}

impl Inherited {
    /// What the service manager has bound (`LISTEN_FDS`, see `sd_listen_fds(3)`); nothing if it hasn't. It is there
    /// once: who asks again gets nothing.
    ///
    /// # Errors
    ///
    /// What it says isn't so.
    pub fn from_service_manager() -> Result<Self, ServerError> {
        let what = "the sockets of the service manager (LISTEN_FDS) can't be used";
        let given = sys::given_descriptors().map_err(|source| ServerError::System { what, source })?;
        Ok(Self { sockets: given.into_iter().map(Socket::from).collect(), predecessor: None })
    }

    /// Adds what the tracker with this state directory serves at, if one runs: the first builder whose configuration
    /// has that directory takes over from it. The other one goes on until that serves.
    ///
    /// # Errors
    ///
    /// The other one doesn't hand over. It goes on.
    pub fn take_over(mut self, state_dir: &Path) -> Result<Self, ServerError> {
        if let Some((predecessor, sockets)) =
            Predecessor::connect(state_dir).map_err(ServerError::TakeOver)?
        {
            self.predecessor = Some(predecessor);
            self.sockets.extend(sockets.into_iter().map(|socket: OwnedFd| Socket::from(socket)));
        }
        Ok(self)
    }

    /// Where the sockets are bound that nobody has taken.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> =
            self.sockets.iter().filter_map(|socket| bound_address(socket).ok()).collect();
        addresses.dedup();
        addresses
    }

    /// The tracker to take over from, if this configuration is to.
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
                "the tracker that runs has {other} workers and this one would have {workers}: name as many --cores, or \
                 stop it first"
            )))),
        }
    }

    /// Takes the sockets of this kind that are bound to an address; port 0 stands for any.
    pub(super) fn take(&mut self, kind: Type, address: SocketAddr) -> Vec<Socket> {
        let (mut port, mut taken) = (address.port(), Vec::new());
        for socket in std::mem::take(&mut self.sockets) {
            match bound_address(&socket) {
                Ok(bound)
                    if bound.ip() == address.ip()
                        && (port == 0 || bound.port() == port)
                        && socket.r#type().is_ok_and(|found| found == kind) =>
                {
                    port = bound.port(); // the others are those beside it
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

/// Sees to it that sockets for an address serve so many workers.
pub(super) fn check(given: &[Socket], workers: usize) -> Result<(), String> {
    let count = given.len();
    if count > workers {
        return Err(format!(
            "{count} of them, but there are {workers} workers: give each worker one (--cores)"
        ));
    }
    let shares = |socket: &Socket| socket.reuse_port().unwrap_or(false);
    if workers > 1 && !given.iter().all(shares) {
        return Err(
            "they don't have SO_REUSEPORT, which several workers need (ReusePort=yes in systemd)".into()
        );
    }
    let both = |socket: &Socket| {
        bound_address(socket).is_ok_and(|address| address.is_ipv6()) && !socket.only_v6().unwrap_or(false)
    };
    if given.iter().any(both) {
        return Err(
            "they take IPv4 too, which has sockets of its own (BindIPv6Only=ipv6-only in systemd)".into()
        );
    }
    Ok(())
}
