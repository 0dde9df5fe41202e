//! Owns the error of a request in middleware and routes ([`TrackerError`]).

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

/// The kind of a [`TrackerError`]. It determines the status of an HTTP response. Responses to announces and scrapes
/// carry the error's message instead, as `failure reason` (BEP 3) or error packet (BEP 15).
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::error::Code;
///
/// assert_eq!(Code::NotFound.status(), 404);
/// assert_eq!(Code::ContentTooLarge.status(), 413);
/// assert_eq!(Code::ResponseAlreadySent.status(), 500, "a fault of the server");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// 400: the request is malformed, or lacks a required part, or has too many.
    IncorrectRequest,
    /// 401: the client must authenticate.
    Unauthorized,
    /// 403: the client has no permission.
    AccessDenied,
    /// 404: the target does not exist.
    NotFound,
    /// 405: the target does not support this method.
    MethodNotAllowed,
    /// 408: the client took too long.
    RequestTimeout,
    /// 411: the request lacks the length of its body.
    LengthRequired,
    /// 412: a precondition of the request is false.
    PreconditionFailed,
    /// 413: the body is too long.
    ContentTooLarge,
    /// 415: the type of the body is not supported.
    UnsupportedMediaType,
    /// 416: the requested range is outside the file.
    RangeNotSatisfiable,
    /// 431: a header field is too large.
    HeadTooLarge,
    /// 500: a fault of the server. The client gets no details.
    Internal,
    /// 501: not implemented.
    NotImplemented,
    /// 503: temporarily unavailable. The client may try again.
    Unavailable,
    /// 500: the response to this request has already been sent, a fault of the server.
    ResponseAlreadySent,
    /// 500: the response does not fit the request, or can't be written because a header value has a line break. A fault
    /// of the server.
    IncorrectResponse,
    /// 500: the client has closed the connection. The response is not sent.
    ConnectionClosed,
}

impl Code {
    /// Returns whether this is a fault of the server. Faults are logged, and the client gets no details.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::Internal | Self::ResponseAlreadySent | Self::IncorrectResponse)
    }

    /// Returns the HTTP status of this kind of error.
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

/// The error of a request: a code for programs and a message for people.
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
    /// Creates an error with this code and message.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// Creates an error with [`Code::IncorrectRequest`] and this message.
    pub fn incorrect_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::IncorrectRequest, message)
    }

    /// Creates an error with [`Code::Internal`]. The message is only logged.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Code::Internal, cause.to_string())
    }

    /// Returns the error's code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the error's message.
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
