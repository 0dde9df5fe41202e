//! Owns the eventfds of a worker: the doorbell, by which other threads wake it, and the notifier, by which its ring
//! wakes it while it sleeps in the runtime.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::mesh::Bell;

/// An eventfd that the worker's ring reads: see [`Ring::watch`](crate::ring::Ring::watch).
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Creates a doorbell that has not been rung.
    ///
    /// # Errors
    ///
    /// As `eventfd(2)`: no free descriptors.
    pub fn new() -> io::Result<Self> {
        // It blocks: a ring's read of a descriptor that does not block would fail at once instead of waiting.
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Rings. May be called from any thread.
    pub fn ring(&self) {
        // A write would block only when the counter is full, after 2⁶⁴ - 2 rings without a read.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Bell for Doorbell {
    fn ring(&self) {
        Self::ring(self);
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An eventfd that a ring notifies of completions and the runtime watches. It is never read: each notification is an
/// edge, which epoll reports once.
pub struct Notifier(AsyncFd<OwnedFd>);

impl Notifier {
    /// Creates a notifier, registered with the current runtime.
    ///
    /// # Errors
    ///
    /// As `eventfd(2)` and `epoll_ctl(2)`.
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned, stays open and unchanged, and lives as long as the registration.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Waits for a notification. Those since the last call count, several as one.
    ///
    /// # Errors
    ///
    /// If the runtime shuts down.
    pub fn poll_notified(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.0.get_ref().as_raw_fd()
    }
}
