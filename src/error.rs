//! Owns the errors: of a server, each with what failed and how to fix it ([`ServerError`]), and of a request that a
//! middleware or a route handles ([`TrackerError`]).

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::StatusCode;

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
    #[error("{}:{source}", path.display())]
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
    #[error(
        "can't start the admin listener: {0}; change its address with --admin, or disable it with --no-admin"
    )]
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

/// What kind of thing went wrong with a request. Each has the HTTP status that it is answered with where the answer has
/// one; announces and scrapes carry the message instead, as `failure reason` (BEP 3) or error packet (BEP 15).
///
/// ```
/// use gyre::error::Code;
///
/// assert_eq!(Code::NotFound.status(), 404);
/// assert_eq!(Code::ContentTooLarge.status(), 413);
/// assert_eq!(Code::ResponseAlreadySent.status(), 500, "a fault of the program's");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// 400: the request can't be understood, or lacks something, or has too much of it.
    IncorrectRequest,
    /// 401: who asks has to say who they are.
    Unauthorized,
    /// 403: who asks may not have it.
    AccessDenied,
    /// 404: there is nothing of this name.
    NotFound,
    /// 405: what is there can't be asked for in this way.
    MethodNotAllowed,
    /// 408: the client took too long.
    RequestTimeout,
    /// 411: the body's length must be given.
    LengthRequired,
    /// 412: what the request supposes of its target isn't so.
    PreconditionFailed,
    /// 413: the body is longer than is taken.
    ContentTooLarge,
    /// 415: the body is of a type that is not read here.
    UnsupportedMediaType,
    /// 416: no byte of the file is in the range asked for.
    RangeNotSatisfiable,
    /// 431: a header field is larger than is taken.
    HeadTooLarge,
    /// 500: a fault on this side. Clients are told no more than that.
    Internal,
    /// 501: not done here.
    NotImplemented,
    /// 503: not at the moment; another try may succeed.
    Unavailable,
    /// 500: the response to this request has been sent already; a fault on this side.
    ResponseAlreadySent,
    /// 500: this is no response to such a request, or one that can't be written: a header's value with a line break. A
    /// fault on this side.
    IncorrectResponse,
    /// 500: the client has gone. Nobody reads the answer.
    ConnectionClosed,
}

impl Code {
    /// Whether it is the program's own fault: that is logged, and clients are told no more than that.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Self::Internal | Self::ResponseAlreadySent | Self::IncorrectResponse)
    }

    /// The status of an HTTP response that tells of it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::IncorrectRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::AccessDenied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal | Self::ResponseAlreadySent | Self::IncorrectResponse | Self::ConnectionClosed => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

/// Why a request is not answered as it asks: a code for programs, a message for people.
///
/// ```
/// use gyre::error::{Code, TrackerError};
///
/// let error = TrackerError::new(Code::AccessDenied, "unknown passkey");
/// assert_eq!((error.code(), error.message()), (Code::AccessDenied, "unknown passkey"));
/// assert_eq!(error.code().status(), 403);
/// assert_eq!(error.to_string(), "unknown passkey");
/// assert_eq!(TrackerError::incorrect_request("no port").code(), Code::IncorrectRequest);
/// assert_eq!(TrackerError::internal("the database is gone").code().status(), 500);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerError {
    code: Code,
    message: Cow<'static, str>,
}

impl TrackerError {
    /// An error with this code, told in these words.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// [`Code::IncorrectRequest`], in these words.
    pub fn incorrect_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::IncorrectRequest, message)
    }

    /// A fault on this side; the message is for the log alone.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Code::Internal, cause.to_string())
    }

    /// What kind of thing went wrong.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What went wrong, in words.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for TrackerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TrackerError {}

impl ServerError {
    /// Wraps an error of the admin listener.
    pub fn admin(self) -> Self {
        Self::Admin(Box::new(self))
    }
}

fn bind_cure(error: &io::Error, protocol: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            format!(
                "; stop the other process (`ss -lntup` shows it), or choose another address with --{protocol}"
            )
        }
        Some(libc::EACCES | libc::EPERM) => {
            "; ports below 1024 require root or CAP_NET_BIND_SERVICE, or choose a higher port".into()
        }
        Some(libc::EADDRNOTAVAIL) => {
            "; this machine does not have that address (`ip addr` lists its addresses)".into()
        }
        Some(libc::EAFNOSUPPORT) => {
            format!("; the kernel does not support IPv6, use only IPv4 addresses with --{protocol}")
        }
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (`ulimit -n`)".into(),
        _ => String::new(),
    }
}

fn user_cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; only root can switch to another user",
        _ => "",
    }
}

fn state_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; change its owner to the user that gyre runs as (`chown -R`)",
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
