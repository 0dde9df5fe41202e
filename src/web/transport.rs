//! Owns what the web needs of a connection's socket. A worker gives it, on its ring; tests give their own.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A future on the worker's thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A connection's socket, as the web sees it: it is shared by what reads the body and what looks whether the client is
/// still there, which run in one task.
pub trait Transport {
    /// What has come and was not taken yet: the rest of the body, and what follows it.
    fn input(&self) -> &RefCell<Vec<u8>>;

    /// Waits until there is more of `input` than there was. `Ok(false)`: there will be no more.
    ///
    /// # Errors
    ///
    /// The connection broke.
    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>>;

    /// Writes all of these bytes; gives the buffer back for reuse.
    fn write(&self, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)>;

    /// Whether the client has gone.
    fn is_aborted(&self) -> bool;

    /// How long the handler may go on without a byte being read or written.
    fn keep(&self, timeout: Duration);

    /// Who is at the other end: a client, or a proxy.
    fn peer(&self) -> IpAddr;
}
