//! Owns what can go wrong with a request that a middleware or a route has in hand ([`TrackerError`]).

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

/// What kind of thing went wrong with a request. Each has the HTTP status that it is answered with where the answer has
/// one; announces and scrapes carry the message instead, as `failure reason` (BEP 3) or error packet (BEP 15).
///
/// ```
/// # use gyre_core as gyre;
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
    pub fn is_fault(self) -> bool {
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
/// # use gyre_core as gyre;
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
