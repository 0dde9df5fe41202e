//! Owns the accepting of connections.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener that accepts only when a connection waits. No accept is ever in flight, so when this is dropped all later
/// connections go to the other processes that hold the listener. The port closes with its last holder.
pub struct Acceptor(AsyncFd<TcpListener>);

impl Acceptor {
    /// Registers the listener with the current runtime.
    ///
    /// # Errors
    ///
    /// As `epoll_ctl(2)`.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // SAFETY: the listener owns the descriptor, keeps it open and unchanged, and lives as long as the registration.
        let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Accepts the next connection. Returns it with the client's address.
    ///
    /// # Errors
    ///
    /// As `accept(2)`.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.async_io(Interest::READABLE, TcpListener::accept).await
    }
}
