//! Owns HTTP/1.x as far as a tracker speaks it (RFC 9110, RFC 9112): request heads in, responses out.
//!
//! The caller lends the bytes that have come; a head is parsed once, when its end is there.

use std::mem::MaybeUninit;

use http::StatusCode;
use memchr::memchr;

use crate::limits::{HTTP_BODY_SKIP_BYTES, HTTP_HEADERS_MAX};

/// What a response says (RFC 9110, section 15).
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
    /// Any other, which a middleware has chosen.
    Other(StatusCode),
}

impl Status {
    /// Writes the code and its reason phrase, as they stand in the status line.
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
            Self::Other(_) => "", // it writes its own
        }
    }
}

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: as GET, without the body of the response.
    Head,
    /// Any other.
    Other,
}

/// How long a request's body is (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; none if the head doesn't say.
    Length(u64),
    /// As long as its chunks are.
    Chunked,
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Path and query, as they stand.
    pub url: &'a str,
    /// The path, as it stands: still percent-encoded.
    pub path: &'a str,
    /// What stands behind the `?`; empty if there is none.
    pub query: &'a str,
    /// It is HTTP/1.0.
    pub http_10: bool,
    /// The connection stays open after the response.
    pub keep_alive: bool,
    /// The body that follows the head.
    pub framing: Framing,
    /// The client, of HTTP/1.1, sends its body when it is told to (`Expect: 100-continue`).
    pub expects_continue: bool,
}

/// Looks for the end of a head in `bytes`, of which the first `searched` held none before. Returns the head's length.
///
/// An empty line ends a head; lines end with CR LF or, from lenient clients, with LF alone (RFC 9112, section 2.2).
pub fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let mut from = searched.saturating_sub(3); // the end may have come in two parts
    while let Some(found) = memchr(b'\n', &bytes[from..]) {
        let after = from + found + 1;
        match bytes[after..] {
            [b'\n', ..] => return Some(after + 1),
            [b'\r', b'\n', ..] => return Some(after + 2),
            _ => from = after,
        }
    }
    None
}

/// How many bytes at the start are empty lines, which are read over (RFC 9112, section 2.2).
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count()
}

/// Whether a request can start with this byte. If not, what comes is no HTTP, and its head may never end.
pub fn can_start_request(first: u8) -> bool {
    first.is_ascii_alphabetic()
}

impl<'a> Request<'a> {
    /// Reads a whole head, up to and with its empty line.
    ///
    /// # Errors
    ///
    /// The status to answer with before the connection is closed: what follows can't be told apart any more.
    pub fn parse(head: &'a [u8]) -> Result<Self, Status> {
        let mut headers = [const { MaybeUninit::uninit() }; HTTP_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, &mut headers) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Status::BadRequest),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(Status::BadRequest);
        };
        let http_10 = minor == 0;
        let fields = Fields::read(request.headers, http_10)?;
        let (url, path, query) = split_target(target).ok_or(Status::BadRequest)?;
        Ok(Self {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => Method::Other,
            },
            url,
            path,
            query,
            http_10,
            keep_alive: fields.keep_alive,
            framing: fields.framing,
            expects_continue: fields.expects_continue,
        })
    }

    /// How many bytes of body are to be read over, where nobody reads it.
    ///
    /// # Errors
    ///
    /// The status to answer with before the connection is closed: it is too long, or nobody knows how long.
    pub fn skippable_bytes(&self) -> Result<u64, Status> {
        match self.framing {
            Framing::Length(bytes) if bytes <= HTTP_BODY_SKIP_BYTES => Ok(bytes),
            Framing::Length(_) => Err(Status::ContentTooLarge),
            Framing::Chunked => Err(Status::NotImplemented),
        }
    }

    /// Whether the connection stays open if nobody reads the body: who expects a 100 before it sends one gets the final
    /// answer instead, and then no more.
    pub fn stays_open_unread(&self) -> bool {
        self.keep_alive && (!self.expects_continue || self.framing == Framing::Length(0))
    }
}

/// What the header fields say of the connection and the body.
struct Fields {
    keep_alive: bool,
    framing: Framing,
    expects_continue: bool,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>], http_10: bool) -> Result<Self, Status> {
        let (mut close, mut keep_alive, mut hosts, mut expects_continue) = (false, false, 0, false);
        let (mut content_length, mut chunked) = (None, false);
        for header in headers {
            let name = header.name;
            if name.eq_ignore_ascii_case("connection") {
                for option in header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if name.eq_ignore_ascii_case("host") {
                hosts += 1;
            } else if name.eq_ignore_ascii_case("content-length") {
                // RFC 9112, section 6.3: a length that is no number, or two that differ, can't be recovered from.
                let digits = !header.value.is_empty() && header.value.iter().all(u8::is_ascii_digit);
                let text = str::from_utf8(header.value).ok().filter(|_| digits);
                let length: u64 = text.and_then(|text| text.parse().ok()).ok_or(Status::BadRequest)?;
                if content_length.replace(length).is_some_and(|other| other != length) {
                    return Err(Status::BadRequest);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                // RFC 9112, section 6.1: one coding that we know, and never before HTTP/1.1.
                if http_10 || chunked {
                    return Err(Status::BadRequest);
                }
                if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Status::NotImplemented);
                }
                chunked = true;
            } else if name.eq_ignore_ascii_case("expect") {
                expects_continue = !http_10; // RFC 9110, section 10.1.1: older clients don't know it
            }
        }
        // RFC 9112, section 3.2: 400 to a request of HTTP/1.1 without Host, or to any with several.
        if hosts > 1 || (hosts == 0 && !http_10) {
            return Err(Status::BadRequest);
        }
        let framing = match (content_length, chunked) {
            (Some(_), true) => return Err(Status::BadRequest), // section 6.3: a smuggled request may follow
            (length, false) => Framing::Length(length.unwrap_or(0)),
            (None, true) => Framing::Chunked,
        };
        Ok(Self { keep_alive: !close && (!http_10 || keep_alive), framing, expects_continue })
    }
}

/// Splits a request target into path and query, and gives these together and apart: `/path?query`, or
/// `http://host/path?query` as to a proxy, whose empty path stands for `/` (RFC 9112, section 3.2).
fn split_target(target: &str) -> Option<(&str, &str, &str)> {
    const SCHEME: &str = "http://";
    let target = match target.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
        _ if target.starts_with('/') => target,
        _ => return None,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some((target, if path.is_empty() { "/" } else { path }, query))
}

/// How a response treats its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Stays open, as HTTP/1.1 takes for granted.
    KeepAlive,
    /// Stays open, which HTTP/1.0 wants to be told.
    KeepAlive10,
    /// Is closed after the response.
    Close,
}

/// A response being written at the end of a buffer: the head with room for the length, then the body, then
/// [`finish`](ResponseWriter::finish).
#[derive(Debug)]
#[must_use = "a response without its length is no response"]
pub struct ResponseWriter {
    length_at: usize,
    body_at: usize,
    head_only: bool,
}

/// Room for the body's length. Blanks before a field's value are optional white space (RFC 9110, section 5.5).
const LENGTH_ROOM: &[u8] = b"      ";
/// Digits that it has room for, behind one blank: none of the tracker's own bodies has more.
const LENGTH_DIGITS: usize = LENGTH_ROOM.len() - 1;

impl ResponseWriter {
    /// Writes the head. With `head_only` (the answer to HEAD) the body is measured and then left out.
    pub fn start(out: &mut Vec<u8>, status: Status, persistence: Persistence, head_only: bool) -> Self {
        out.extend_from_slice(b"HTTP/1.1 ");
        status.put(out);
        out.extend_from_slice(b"\r\nContent-Type: text/plain\r\n");
        out.extend_from_slice(match persistence {
            Persistence::KeepAlive => b"".as_slice(),
            Persistence::KeepAlive10 => b"Connection: keep-alive\r\n",
            Persistence::Close => b"Connection: close\r\n",
        });
        out.extend_from_slice(match status {
            Status::MethodNotAllowed => b"Allow: GET, HEAD\r\n".as_slice(),
            Status::Unavailable => b"Retry-After: 60\r\n",
            _ => b"",
        });
        out.extend_from_slice(b"Content-Length:");
        let length_at = out.len();
        out.extend_from_slice(LENGTH_ROOM);
        out.extend_from_slice(b"\r\n\r\n");
        Self { length_at, body_at: out.len(), head_only }
    }

    /// Fills in the length of what was written since the head.
    pub fn finish(self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        let digits = number.format(out.len() - self.body_at).as_bytes();
        let room_end = self.length_at + LENGTH_ROOM.len();
        // A body that a middleware sends may be longer than any of the tracker's.
        let lacking = digits.len().saturating_sub(LENGTH_DIGITS);
        if lacking > 0 {
            out.splice(room_end..room_end, std::iter::repeat_n(b' ', lacking));
        }
        let digits_end = room_end + lacking;
        out[digits_end - digits.len()..digits_end].copy_from_slice(digits);
        if self.head_only {
            out.truncate(self.body_at + lacking);
        }
    }
}

/// Writes a whole response that says no more than its status.
pub fn put_status(out: &mut Vec<u8>, status: Status, persistence: Persistence, head_only: bool) {
    let response = ResponseWriter::start(out, status, persistence, head_only);
    status.put(out);
    out.push(b'\n');
    response.finish(out);
}

#[cfg(test)]
mod tests;
