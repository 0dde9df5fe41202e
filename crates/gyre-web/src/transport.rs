//! Owns the interface through which the web reads sockets and files. A worker implements it on its ring, tests on a
//! script.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use gyre_core::time::Timestamp;

/// A future on the worker's thread.
pub use futures_core::future::LocalBoxFuture as LocalFuture;

/// A connection's socket, as the web sees it. The reader of the body and the check for a closed connection share it;
/// both run in one task.
pub trait Transport {
    /// Returns input that has arrived and was not taken yet: the rest of the body, and what follows it.
    fn input(&self) -> &RefCell<Vec<u8>>;

    /// Waits until [`input`](Self::input) has grown. `Ok(false)`: the client has closed its side.
    ///
    /// # Errors
    ///
    /// The connection broke.
    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<bool>>;

    /// Writes all of these bytes. Returns the buffer for reuse.
    fn write(&self, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)>;

    /// Returns whether the client has closed the connection.
    fn is_aborted(&self) -> bool;

    /// Returns whether the client has closed the connection. If not, wakes the task when it does.
    fn poll_gone(&self, context: &mut Context<'_>) -> bool;

    /// Sets how long the handler may run without a byte being read or written.
    fn keep(&self, timeout: Duration);

    /// Marks the response as one that never ends by itself. It is cut off when the worker stops.
    fn set_endless(&self);

    /// Returns the address of the other end: a client or a proxy.
    fn peer(&self) -> IpAddr;

    /// Returns the current time.
    fn now(&self) -> Timestamp;

    /// Takes a file and returns its reader.
    fn open(&self, file: File) -> Box<dyn FileReader>;

    /// Yields to the worker and its other connections.
    fn pause(&self) -> LocalFuture<'_, ()>;
}

/// A file that is read without blocking the worker.
pub trait FileReader {
    /// Reads at most `length` bytes from an offset into the buffer, in place of its content. Returns the number of
    /// bytes read (0 at the end of the file) and the buffer.
    fn read_at(
        &self,
        buffer: Vec<u8>,
        offset: u64,
        length: usize,
    ) -> LocalFuture<'_, (io::Result<usize>, Vec<u8>)>;

    /// Closes the file.
    ///
    /// # Errors
    ///
    /// As `close(2)`.
    fn close(self: Box<Self>) -> LocalFuture<'static, io::Result<()>>;
}
