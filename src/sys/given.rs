//! Owns the descriptors that the process was started with for it to serve (`sd_listen_fds(3)`).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the service manager has given us by `LISTEN_FDS`, in its order; at most once in a process.
///
/// # Errors
///
/// The variables are no numbers, or a descriptor isn't there.
pub fn given_descriptors() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    // SAFETY: the variables say that these are ours (LISTEN_PID is this process), that they are open was seen when they
    // were set to be closed by an `exec`, and nobody else takes them: this comes by here once.
    Ok(sd_notify::listen_fds()?.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
