//! Owns the eventfd that wakes a worker. Other workers, the kernel (for the UDP ring) and the worker itself ring it.
//! The worker's thread waits for it within the runtime, so that HTTP and timers go on.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::mesh::Bell;

/// An eventfd. It is never read: each ring is an edge, which epoll reports once.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Creates a doorbell that has not been rung.
    ///
    /// # Errors
    ///
    /// As `eventfd(2)`: no free descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings. May be called from any thread.
    pub fn ring(&self) {
        // An eventfd rejects a write only when its counter is full. Then the reader has a ring to see anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Returns the number of rings since the last call.
    #[cfg(test)]
    pub(crate) fn rung(&self) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&self.0, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    /// Sleeps until it is rung.
    #[cfg(test)]
    pub(crate) fn wait(&self) {
        let mut fds = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let minute = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&minute)).unwrap(), 1, "no ring for a minute");
        self.rung();
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

/// The receiving side of a doorbell, on its worker's thread.
pub struct Sleeper(AsyncFd<Arc<Doorbell>>);

impl Sleeper {
    /// Registers the doorbell with the current runtime.
    ///
    /// # Errors
    ///
    /// As `epoll_ctl(2)`.
    pub fn new(doorbell: Arc<Doorbell>) -> io::Result<Self> {
        // SAFETY: the doorbell owns the descriptor, keeps it open and unchanged, and lives as long as the registration.
        let registered = unsafe { AsyncFd::register_with_interest(doorbell, Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Sleeps until the doorbell rings. Rings since the last sleep count, several as one.
    ///
    /// # Errors
    ///
    /// If the runtime shuts down.
    pub async fn sleep(&self) -> io::Result<()> {
        // Each ring is an edge to epoll, so there is no need to read the eventfd.
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
