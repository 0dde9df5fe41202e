//! Owns requests as they are read: where a head ends, what it says, and what of a body is skipped.

use memchr::memchr;

use super::Status;
use super::fields::{ConnectionOptions, FieldBuffer, Fields, add_content_length};
use crate::limits::{HTTP_BODY_SKIP_BYTES, HTTP_HEAD_MAX_BYTES, HTTP_HEADERS_MAX};
use crate::wire::forwarded;

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

/// Length of a request's body (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Number of bytes; 0 if the head does not say.
    Length(u64),
    /// The body ends with its last chunk.
    Chunked,
}

/// What the head of a request says.
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
    /// The version is HTTP/1.0.
    pub http_10: bool,
    /// The connection stays open after the response.
    pub keep_alive: bool,
    /// The body that follows the head.
    pub framing: Framing,
    /// The client, of HTTP/1.1, waits for a 100 before it sends its body (`Expect: 100-continue`).
    pub expects_continue: bool,
}

/// The head of a request: what it says, and where its parts stand, so that it need not be parsed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'f, 'a> {
    /// What it says of the request.
    pub request: Request<'a>,
    /// The name of the method.
    pub method: &'a str,
    /// The request target, as it stands.
    pub target: &'a str,
    /// All header fields.
    pub fields: Fields<'f, 'a>,
    /// Bit n is set: field n is one that proxies set.
    proxied: u64,
}

const _: () = assert!(HTTP_HEADERS_MAX <= u64::BITS as usize);

/// What [`RequestReader::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'f, 'a> {
    /// Number of bytes at the start that are done with: the rest of a body, empty lines, and the head if there is one.
    pub taken: usize,
    /// The next head. `None`: more bytes are needed.
    pub head: Option<Head<'f, 'a>>,
}

/// Reads the requests of a connection, one after the other, from bytes that come in any pieces. It keeps none of them.
///
/// Of a body it knows only how much of it must be [skipped](Self::skip).
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::wire::http::{FieldBuffer, RequestReader};
///
/// let mut reader = RequestReader::default();
/// let bytes = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /scr";
/// let mut buffer = FieldBuffer::new();
/// let progress = reader.read(bytes, &mut buffer).unwrap();
/// assert_eq!((progress.taken, progress.head.unwrap().request.path), (33, "/health"));
/// let mut buffer = FieldBuffer::new();
/// let progress = reader.read(&bytes[33..], &mut buffer).unwrap();
/// assert_eq!((progress.taken, progress.head), (0, None), "more bytes are needed");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestReader {
    /// Number of bytes, of those that are not done with, which hold no end of a head.
    searched: usize,
    /// Number of bytes of a body that are still to be skipped.
    skip_bytes: u64,
}

impl RequestReader {
    /// Reads on. `bytes` are all that have come and were not reported as taken.
    ///
    /// # Errors
    ///
    /// The status to answer with before the connection is closed: where the next request begins is not known. The
    /// reader is unchanged, nothing is taken.
    pub fn read<'f, 'a>(
        &mut self,
        bytes: &'a [u8],
        buffer: &'f mut FieldBuffer<'a>,
    ) -> Result<Progress<'f, 'a>, Status> {
        let skipped = self.skip_bytes.min(bytes.len() as u64);
        let start = skipped as usize + leading_empty_lines(&bytes[skipped as usize..]);
        let input = &bytes[start..];
        let (searched, progress) = match input.first() {
            None => (0, Progress { taken: start, head: None }),
            // This is not HTTP, and it may never end.
            Some(first) if !first.is_ascii_alphabetic() => return Err(Status::BadRequest),
            Some(_) => match whole_head(input, self.searched)? {
                None => (input.len(), Progress { taken: start, head: None }),
                Some(whole) => {
                    let (length, head) = Head::parse(whole, buffer)?;
                    (0, Progress { taken: start + length, head: Some(head) })
                }
            },
        };
        self.searched = searched;
        self.skip_bytes -= skipped;
        Ok(progress)
    }

    /// Skips a body of this length before the next head.
    pub fn skip(&mut self, bytes: u64) {
        self.skip_bytes = bytes;
    }

    /// Whether a body is still being skipped.
    pub fn is_skipping(&self) -> bool {
        self.skip_bytes > 0
    }
}

/// Returns bytes that start with a whole head and perhaps go on behind it; `None` if its end has not come. The first
/// `searched` bytes held none before.
fn whole_head(input: &[u8], searched: usize) -> Result<Option<&[u8]>, Status> {
    // The usual input is one head, whose end needs no search: its lines are walked over when it is parsed.
    if input.len() <= HTTP_HEAD_MAX_BYTES && input.ends_with(b"\r\n\r\n") {
        return Ok(Some(input));
    }
    match head_end(input, searched) {
        Some(end) if end <= HTTP_HEAD_MAX_BYTES => Ok(Some(&input[..end])),
        None if input.len() < HTTP_HEAD_MAX_BYTES => Ok(None),
        _ => Err(Status::HeadTooLarge),
    }
}

/// Looks for the end of a head in `bytes`, of which the first `searched` held none before. Returns the head's length.
///
/// An empty line ends a head. Lines end with CR LF or, from lenient clients, with LF alone (RFC 9112, section 2.2).
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
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

/// Returns the number of bytes at the start that are empty lines, which are ignored (RFC 9112, section 2.2).
fn leading_empty_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count()
}

impl<'f, 'a> Head<'f, 'a> {
    /// Parses the head that `bytes` start with, and returns its length too.
    fn parse(bytes: &'a [u8], buffer: &'f mut FieldBuffer<'a>) -> Result<(usize, Self), Status> {
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(bytes, &mut buffer.0) {
            Ok(httparse::Status::Complete(length)) => length,
            Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Status::BadRequest),
        };
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Status::BadRequest);
        };
        let http_10 = minor == 0;
        let walked = Walked::over(parsed.headers, http_10)?;
        let (url, path, query) = split_target(target).ok_or(Status::BadRequest)?;
        let request = Request {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => Method::Other,
            },
            url,
            path,
            query,
            http_10,
            keep_alive: walked.keep_alive,
            framing: walked.framing,
            expects_continue: walked.expects_continue,
        };
        let fields = Fields(parsed.headers);
        Ok((length, Self { request, method, target, fields, proxied: walked.proxied }))
    }

    /// Returns the fields that proxies set, as [`forwarded::client_ip`] and [`forwarded::protocol`] take them.
    pub fn proxy_fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone + use<'f, 'a> {
        let (fields, mut left) = (self.fields.0, self.proxied);
        std::iter::from_fn(move || {
            let field = fields.get(left.trailing_zeros() as usize)?; // of 0 it is 64, where no field is
            left &= left - 1;
            Some((field.name, field.value))
        })
    }
}

impl<'a> Request<'a> {
    /// Reads one whole head.
    ///
    /// # Errors
    ///
    /// Those of [`RequestReader::read`], and 400 if the head is not all there.
    pub fn parse(head: &'a [u8]) -> Result<Self, Status> {
        Head::parse(head, &mut FieldBuffer::new()).map(|(_, head)| head.request)
    }

    /// Returns the number of bytes to skip if the body is not wanted.
    ///
    /// # Errors
    ///
    /// The status to answer with before the connection is closed: the body is too long, or its length is not known.
    pub fn skippable_bytes(&self) -> Result<u64, Status> {
        match self.framing {
            Framing::Length(bytes) if bytes <= HTTP_BODY_SKIP_BYTES => Ok(bytes),
            Framing::Length(_) => Err(Status::ContentTooLarge),
            Framing::Chunked => Err(Status::NotImplemented),
        }
    }

    /// Whether the connection stays open if the body is not read. A client that waits for a 100 before it sends the
    /// body gets the final response instead, and then the end.
    pub fn stays_open_unread(&self) -> bool {
        self.keep_alive && (!self.expects_continue || self.framing == Framing::Length(0))
    }
}

/// What one walk over the header fields finds.
struct Walked {
    keep_alive: bool,
    framing: Framing,
    expects_continue: bool,
    proxied: u64,
}

impl Walked {
    fn over(fields: &[httparse::Header<'_>], http_10: bool) -> Result<Self, Status> {
        let (mut connection, mut hosts, mut expects_continue) = (ConnectionOptions::default(), 0, false);
        let (mut content_length, mut chunked, mut proxied) = (None, false, 0);
        for (at, field) in fields.iter().enumerate() {
            let (name, value) = (field.name, field.value);
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            match name.len() {
                4 if is("host") => hosts += 1,
                6 if is("expect") => expects_continue = !http_10, // RFC 9110, section 10.1.1: 1.0 does not know it
                10 if is("connection") => connection.add(value),
                14 if is("content-length") => {
                    add_content_length(&mut content_length, value).ok_or(Status::BadRequest)?;
                }
                17 if is("transfer-encoding") => {
                    // RFC 9112, section 6.1: one coding that we know, and never before HTTP/1.1.
                    if http_10 || chunked {
                        return Err(Status::BadRequest);
                    }
                    if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(Status::NotImplemented);
                    }
                    chunked = true;
                }
                9 | 15 | 17 if forwarded::is_read(name) => proxied |= 1 << at,
                _ => {}
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
        Ok(Self { keep_alive: connection.keep_alive(http_10), framing, expects_continue, proxied })
    }
}

/// Splits a request target into path and query, and returns them together and apart: `/path?query`, or
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

#[cfg(test)]
mod tests;
