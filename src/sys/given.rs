//! Owns the listening descriptors that the service manager passes to the process (`sd_listen_fds(3)`).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Returns the descriptors passed by `LISTEN_FDS`, in their order. Only the first call in a process returns any.
///
/// # Errors
///
/// A variable is not a number, or a descriptor is not open.
pub fn given_descriptors() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    // SAFETY: the variables say that the descriptors belong to this process (LISTEN_PID). Setting them to close on
    // `exec` has shown that they are open. No other code owns them, since this line runs once.
    Ok(sd_notify::listen_fds()?.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
