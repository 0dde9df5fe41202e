//! Owns what can go wrong with a server: each error names what failed and its likely cure ([`ServerError`]). The errors
//! of requests stand beside it under the same path.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use gyre_core::error::{Code, TrackerError};

use crate::access::ListError;
use crate::config::ConfigError;
use crate::limits::MAX_WORKERS;

/// Why a server does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Options that don't go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A core that isn't there, or isn't ours.
    #[error("core {core} is not available to this process; these are: {allowed}")]
    Core {
        /// The core.
        core: usize,
        /// Those that may be used, as a list.
        allowed: String,
    },
    /// More cores than a process has workers.
    #[error("{0} cores: at most {MAX_WORKERS} workers are possible; choose some with --cores")]
    TooManyCores(usize),
    /// A socket could not be bound.
    #[error("{protocol} {address} can't be served: {source}{}", bind_cure(source, protocol))]
    Bind {
        /// `udp` or `http`.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// Too few file descriptors.
    #[error(
        "{needed} file descriptors are needed, but the limit is {limit} and can't be raised: set `ulimit -n {needed}` \
         (LimitNOFILE= in a systemd unit){cure}"
    )]
    Descriptors {
        /// How many are needed.
        needed: u64,
        /// How many there may be.
        limit: u64,
        /// What else would help.
        cure: &'static str,
    },
    /// A list that can't be read.
    #[error("{}:{source}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ListError,
    },
    /// A list that the process has shut out with all else that it had no use for.
    #[error(
        "{}: the sandbox shuts this directory, since no file in it was named at the start: put the list beside another \
         one, or start again",
        .0.display()
    )]
    OutOfReach(PathBuf),
    /// Root would serve.
    #[error(
        "this would serve as root: name a user to become with --user NAME, or allow it with --allow-root"
    )]
    Root,
    /// A user that the process can't become.
    #[error("--user {name}: {source}{}", user_cure(source))]
    User {
        /// Which, and perhaps the group.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A state directory that can't be used.
    #[error("--state-dir: {}: {source}{}", path.display(), state_cure(source))]
    State {
        /// What of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Sockets for an address were given that can't serve it.
    #[error("{protocol} {address}: the sockets that were given for it can't be used: {fault}")]
    Inherited {
        /// `udp` or `http`.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not, and what would help.
        fault: String,
    },
    /// Another tracker can't be taken over from. It goes on.
    #[error("--take-over: {0}; the tracker that runs goes on")]
    TakeOver(#[source] io::Error),
    /// The admin listener can't be had.
    #[error("the admin listener: {0}; choose another address with --admin, or none with --no-admin")]
    Admin(Box<Self>),
    /// A token that can't be used.
    #[error("the token in {}: {source}", path.display())]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too little memory.
    #[error(
        "{most} bytes of memory are too few for {workers} workers: raise --max-memory to {needed_mib}M, or name fewer \
         --cores"
    )]
    Memory {
        /// What there may be.
        most: u64,
        /// How many workers there are to be.
        workers: u64,
        /// What they need at least, in MiB.
        needed_mib: u64,
    },
    /// A route that can't be: its pattern, and why not.
    #[error("{0}")]
    Route(String),
    /// A directory of files that can't be served.
    #[error("the directory {} can't be served: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something that the process needs as a whole.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// A worker could not start, or could not go on.
    #[error("worker {worker} {what}: {source}{}", ring_cure(source))]
    Worker {
        /// Which.
        worker: usize,
        /// `can't start` or `ended`.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl ServerError {
    /// The same, of the admin listener.
    pub fn admin(self) -> Self {
        Self::Admin(Box::new(self))
    }
}

fn bind_cure(error: &io::Error, protocol: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            format!(
                "; stop the other process (`ss -lntup` shows it) or choose another address with --{protocol}"
            )
        }
        Some(libc::EACCES | libc::EPERM) => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE, choose a higher one".into()
        }
        Some(libc::EADDRNOTAVAIL) => {
            "; no interface of this machine has that address (`ip addr` shows them)".into()
        }
        Some(libc::EAFNOSUPPORT) => {
            format!("; the kernel has no IPv6, name IPv4 addresses alone with --{protocol}")
        }
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (`ulimit -n`)".into(),
        _ => String::new(),
    }
}

fn user_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; only root can become another user",
        _ => "",
    }
}

fn state_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; give it to the user that gyre runs as (`chown -R`)",
        _ => "",
    }
}

/// What helps against a ring that can't be set up; empty, or with the `; ` that it follows.
pub(crate) fn ring_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "; io_uring is not there: Linux 6.1 or newer is needed, built with CONFIG_IO_URING"
        }
        Some(libc::EPERM) => {
            "; io_uring is forbidden: set `sysctl kernel.io_uring_disabled=0`, and in a container allow the io_uring \
             calls in its seccomp profile"
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            "; the kernel's io_uring is too old: Linux 6.1 or newer is needed"
        }
        Some(libc::ENOMEM) => {
            "; raise the limit of locked memory (`ulimit -l unlimited`, LimitMEMLOCK= in systemd)"
        }
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (`ulimit -n`)",
        _ => "",
    }
}
