//! Owns the errors of a server, each with what failed and how to fix it ([`ServerError`]). The errors of requests stand
//! beside it under the same path.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use gyre_core::error::{Code, TrackerError};

use crate::access::ListError;
use crate::config::ConfigError;
use crate::limits::MAX_WORKERS;

/// Why a server does not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Invalid or inconsistent settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A core that the process may not use, or that does not exist.
    #[error("core {core} is not available to this process; available cores: {allowed}")]
    Core {
        /// The core.
        core: usize,
        /// A list of the cores that the process may use.
        allowed: String,
    },
    /// More cores than a process can have workers.
    #[error(
        "{0} cores are selected, but at most {MAX_WORKERS} workers are supported; select fewer with --cores"
    )]
    TooManyCores(usize),
    /// A socket could not be bound.
    #[error("can't serve {protocol} on {address}: {source}{}", bind_cure(source, protocol))]
    Bind {
        /// `udp` or `http`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error from the kernel.
        source: io::Error,
    },
    /// Too few file descriptors.
    #[error(
        "the limit of open files is too low: {needed} file descriptors are needed, but the limit is \
         {limit} and can't be raised; set `ulimit -n {needed}` (LimitNOFILE= in a systemd unit){cure}"
    )]
    Descriptors {
        /// The number of descriptors needed.
        needed: u64,
        /// The limit.
        limit: u64,
        /// Another way to fix it.
        cure: &'static str,
    },
    /// A list can't be read.
    #[error("{}:{source}{}", path.display(), list_cure(source))]
    List {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: ListError,
    },
    /// A list in a directory that the sandbox does not allow.
    #[error(
        "{}: the sandbox does not allow this directory, because no file in it was used at the start; put \
         the list into the directory of another list, or restart gyre",
        .0.display()
    )]
    OutOfReach(PathBuf),
    /// The process would serve as root.
    #[error(
        "refusing to serve as root; name a user to switch to with --user NAME, or allow it with --allow-root"
    )]
    Root,
    /// The process can't switch to the user.
    #[error("--user {name}: {source}{}", user_cure(source))]
    User {
        /// The user, and the group if it is given.
        name: String,
        /// The reason.
        source: io::Error,
    },
    /// The state directory can't be used.
    #[error("--state-dir: {}: {source}{}", path.display(), state_cure(source))]
    State {
        /// The file or directory in it that can't be used.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Inherited sockets that can't serve their address.
    #[error("can't use the inherited sockets for {protocol} {address}: {fault}")]
    Inherited {
        /// `udp` or `http`.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// The reason, and how to fix it.
        fault: String,
    },
    /// Taking over from the running tracker failed. That tracker keeps serving.
    #[error("--take-over failed: {0}; the running tracker keeps serving")]
    TakeOver(#[source] io::Error),
    /// The admin listener can't be started.
    #[error("can't start the admin listener: {}; --no-admin disables it", admin_cause(.0))]
    Admin(Box<Self>),
    /// The token can't be used.
    #[error("can't use the token in {}: {source}", path.display())]
    Token {
        /// The file of the token.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The memory limit is too low.
    #[error(
        "the memory limit of {most} bytes is too low for {workers} workers; raise --max-memory to \
         {needed_mib}M, or use fewer --cores"
    )]
    Memory {
        /// The limit in bytes.
        most: u64,
        /// The number of workers.
        workers: u64,
        /// The lowest possible limit in MiB.
        needed_mib: u64,
    },
    /// An invalid route: its pattern and the reason.
    #[error("{0}")]
    Route(String),
    /// A directory of files can't be served.
    #[error("can't serve the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error from the kernel.
        source: io::Error,
    },
    /// An error that concerns the whole process.
    #[error("{what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// The error from the kernel.
        source: io::Error,
    },
    /// A worker could not start, or ended with an error.
    #[error("worker {worker} {what}: {source}{}", ring_cure(source))]
    Worker {
        /// Number of the worker.
        worker: usize,
        /// `can't start` or `ended`.
        what: &'static str,
        /// The error from the kernel.
        source: io::Error,
    },
}

impl ServerError {
    /// Wraps an error of the admin listener.
    pub fn admin(self) -> Self {
        Self::Admin(Box::new(self))
    }
}

/// Returns the message of an error of the admin listener. An error about its address names its option, not `--http`.
fn admin_cause(error: &ServerError) -> String {
    match error {
        ServerError::Bind { protocol, address, source } => {
            format!("can't serve {protocol} on {address}: {source}{}", bind_cure(source, "admin"))
        }
        error => error.to_string(),
    }
}

/// Returns how to fix a socket that can't be bound, starting with `; `, or an empty string. `option` names its address.
fn bind_cure(error: &io::Error, option: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            format!(
                "; stop the other process (`ss -lntup` shows it), or choose another address with --{option}"
            )
        }
        Some(libc::EACCES | libc::EPERM) => {
            "; ports below 1024 require root or CAP_NET_BIND_SERVICE, or choose a higher port".into()
        }
        Some(libc::EADDRNOTAVAIL) => {
            "; this machine does not have that address (`ip addr` lists its addresses)".into()
        }
        Some(libc::EAFNOSUPPORT) => {
            format!("; the kernel does not support IPv6, use only IPv4 addresses with --{option}")
        }
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (`ulimit -n`)".into(),
        _ => String::new(),
    }
}

fn user_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; switching to another user requires root with CAP_SETUID and CAP_SETGID; root can be kept with \
             --allow-root, without --user"
        }
        Some(libc::EINVAL) => {
            "; the user namespace (of a container) does not map this user or its group; choose another user with \
             --user, or keep root with --allow-root, without --user"
        }
        _ => "",
    }
}

fn state_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; change its owner to the user that gyre runs as (`chown -R`), which also needs access to the \
             directories above it"
        }
        _ => "",
    }
}

fn list_cure(error: &ListError) -> &'static str {
    match error {
        ListError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "; the user that gyre runs as needs the right to read it, and access to the directories above it"
        }
        _ => "",
    }
}

/// Returns how to fix a ring that can't be set up, starting with `; `, or an empty string.
pub(crate) fn ring_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "; the kernel has no io_uring: Linux 6.1 or newer is needed, built with CONFIG_IO_URING"
        }
        Some(libc::EPERM) => {
            "; io_uring is not permitted: set `sysctl kernel.io_uring_disabled=0`, and in a container \
             permit the io_uring calls in its seccomp profile"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_switch_of_the_user_names_the_way_to_keep_root() {
        for (code, reason) in [(libc::EPERM, "CAP_SETUID"), (libc::EINVAL, "user namespace")] {
            let source = io::Error::from_raw_os_error(code);
            let text = ServerError::User { name: "nobody".to_owned(), source }.to_string();
            assert!(text.contains(reason) && text.contains("--allow-root"), "{text}");
        }
    }
}
