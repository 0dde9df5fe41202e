//! Owns the taking in of connections.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener from which connections are taken once there are some. No accept is ever in flight, so that whoever gives
/// it up leaves all that comes to those who have it too; when nobody has, its port is closed.
pub struct Acceptor(AsyncFd<TcpListener>);

impl Acceptor {
    /// Waits for connections in the runtime that this is called in.
    ///
    /// # Errors
    ///
    /// As `epoll_ctl(2)`.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // SAFETY: the descriptor belongs to the listener, which keeps it open and the same, and lives as long as this.
        let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// The next connection, and who is at its other end.
    ///
    /// # Errors
    ///
    /// As `accept(2)`.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.async_io(Interest::READABLE, TcpListener::accept).await
    }
}
