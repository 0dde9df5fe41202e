//! Owns HTTP/1.x as far as a tracker speaks it (RFC 9110, RFC 9112): requests read, responses written and read.
//!
//! Nothing here knows a socket. The caller lends the bytes that have come and is told how many of them are done with.

mod fields;
mod request;
mod response;
mod writer;

pub use fields::{FieldBuffer, Fields};
pub use request::{Framing, Head, Method, Progress, Request, RequestReader};
pub use response::{BodyLength, Response, ResponseBody, ResponseError, ResponseHead, ResponseReader};
pub use writer::{Persistence, ResponseWriter, put_status};

use http::StatusCode;

/// Status of a response (RFC 9110, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 413
    ContentTooLarge,
    /// 429
    TooManyRequests,
    /// 431
    HeadTooLarge,
    /// 501
    NotImplemented,
    /// 503
    Unavailable,
    /// Any other, chosen by a middleware.
    Other(StatusCode),
}

impl Status {
    /// Writes the code and its reason phrase, as in the status line.
    pub fn put(self, out: &mut Vec<u8>) {
        if let Self::Other(code) = self {
            out.extend_from_slice(code.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(code.canonical_reason().unwrap_or_default().as_bytes());
        }
        out.extend_from_slice(self.line().as_bytes());
    }

    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::TooManyRequests => "429 Too Many Requests",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::Other(_) => "", // `put` has written it
        }
    }
}
