//! Owns what the web needs of a connection's socket. A worker gives it, on its ring; tests give their own.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::time::Timestamp;

/// A future on the worker's thread.
pub use futures_core::future::LocalBoxFuture as LocalFuture;

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

    /// The same, and whoever asks is woken when it goes.
    fn poll_gone(&self, context: &mut Context<'_>) -> bool;

    /// How long the handler may go on without a byte being read or written.
    fn keep(&self, timeout: Duration);

    /// Says that the response has no end of its own: when the worker stops it is cut.
    fn set_endless(&self);

    /// Who is at the other end: a client, or a proxy.
    fn peer(&self) -> IpAddr;

    /// The time.
    fn now(&self) -> Timestamp;
}
