//! Owns what the web needs of a connection's socket and of files. A worker gives it, on its ring; tests give their own.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use gyre_core::time::Timestamp;

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

    /// Takes a file to read from.
    fn open(&self, file: File) -> Box<dyn FileReader>;

    /// Lets the worker and its other connections take their turns.
    fn pause(&self) -> LocalFuture<'_, ()>;
}

/// A file that is read without blocking the worker.
pub trait FileReader {
    /// Reads at most `length` bytes from an offset into the buffer, in place of its content. Returns the number of bytes
    /// read, 0 at the end of the file, and the buffer.
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
