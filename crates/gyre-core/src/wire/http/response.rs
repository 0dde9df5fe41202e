//! Owns responses as a client reads them: the doctor's, the load generator's, those of the tests.

use std::borrow::Cow;

use thiserror::Error;

use super::fields::{ConnectionOptions, FieldBuffer, Fields, add_content_length};
use crate::wire::chunked::{Decoder, Malformed};

/// How the end of a response's body is found (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Number of bytes.
    Bytes(u64),
    /// The body ends with its last chunk.
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

/// The head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead<'f, 'a> {
    /// The status code.
    pub status: u16,
    /// The connection stays open after the response.
    pub keep_alive: bool,
    /// The body that follows.
    pub body: BodyLength,
    /// All header fields.
    pub fields: Fields<'f, 'a>,
    /// Number of bytes of the head, with its empty line.
    pub bytes: usize,
}

/// The body of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseBody<'a> {
    /// The body itself, put together if it came in chunks.
    pub data: Cow<'a, [u8]>,
    /// Number of bytes of the body as it came.
    pub bytes: usize,
}

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'f, 'a> {
    /// Its head.
    pub head: ResponseHead<'f, 'a>,
    /// Its body.
    pub body: Cow<'a, [u8]>,
    /// Number of bytes of head and body as they came. What follows is the next response.
    pub bytes: usize,
}

/// Why bytes are not a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// The head can't be parsed.
    #[error("the response is not HTTP: {0}")]
    NotHttp(httparse::Error),
    /// A Content-Length is not a number, or there are different ones.
    #[error("the Content-Length of the response is invalid or contradictory")]
    ContentLength,
    /// Transfer-Encoding is not `chunked`.
    #[error("the transfer coding of the response is not supported")]
    TransferCoding,
    /// The chunks of the body can't be told apart.
    #[error(transparent)]
    Chunks(#[from] Malformed),
    /// The response has more than [`max_bytes`](ResponseReader::max_bytes).
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
    /// The connection was closed before the end of the head.
    #[error("the response ends within the head")]
    EndsInHead,
    /// The connection was closed before the end of the body.
    #[error("the response ends within the body")]
    EndsInBody,
}

/// Reads responses. It keeps nothing: while a response is incomplete it is shown from its start each time.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::wire::http::{FieldBuffer, ResponseReader};
///
/// let reader = ResponseReader { max_bytes: 1_000, to_head: false };
/// let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP";
/// let mut buffer = FieldBuffer::new();
/// let response = reader.read(bytes, false, &mut buffer).unwrap().unwrap();
/// assert_eq!((response.head.status, &*response.body, response.bytes), (200, &b"abc"[..], 41));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ResponseReader {
    /// Largest number of bytes of head and body together, as they come.
    pub max_bytes: usize,
    /// The responses are to HEAD requests: they have no body.
    pub to_head: bool,
}

impl ResponseReader {
    /// Reads the response at the start of `bytes`. `None`: more bytes are needed. `ended`: the connection was closed
    /// behind them.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]. Where the next response begins is not known.
    pub fn read<'f, 'a>(
        &self,
        bytes: &'a [u8],
        ended: bool,
        buffer: &'f mut FieldBuffer<'a>,
    ) -> Result<Option<Response<'f, 'a>>, ResponseError> {
        let Some(head) = self.read_head(bytes, ended, buffer)? else { return Ok(None) };
        let body = self.read_body(&head, bytes, ended)?;
        Ok(body.map(|body| Response { head, body: body.data, bytes: head.bytes + body.bytes }))
    }

    /// Reads the head alone.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_head<'f, 'a>(
        &self,
        bytes: &'a [u8],
        ended: bool,
        buffer: &'f mut FieldBuffer<'a>,
    ) -> Result<Option<ResponseHead<'f, 'a>>, ResponseError> {
        let (bytes, cut) = self.within_limit(bytes);
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut buffer.0);
        let length = match length.map_err(ResponseError::NotHttp)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return self.incomplete(cut, ended, ResponseError::EndsInHead),
        };
        let http_10 = parsed.version == Some(0);
        let mut connection = ConnectionOptions::default();
        let (mut content_length, mut chunked) = (None, false);
        for field in parsed.headers.iter() {
            let (name, value) = (field.name, field.value.trim_ascii());
            if name.eq_ignore_ascii_case("connection") {
                connection.add(value);
            } else if name.eq_ignore_ascii_case("content-length") {
                add_content_length(&mut content_length, value).ok_or(ResponseError::ContentLength)?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(ResponseError::TransferCoding);
                }
                chunked = true;
            }
        }
        let status = parsed.code.unwrap_or_default();
        let body = match content_length {
            _ if self.to_head || matches!(status, 100..200 | 204 | 304) => BodyLength::Bytes(0),
            _ if chunked => BodyLength::Chunked, // it counts before a length
            Some(bytes) => BodyLength::Bytes(bytes),
            None => BodyLength::UntilClose,
        };
        Ok(Some(ResponseHead {
            status,
            keep_alive: connection.keep_alive(http_10) && body != BodyLength::UntilClose,
            body,
            fields: Fields(parsed.headers),
            bytes: length,
        }))
    }

    /// Reads the body that follows `head` in `bytes`, which start with the head.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_body<'a>(
        &self,
        head: &ResponseHead<'_, 'a>,
        bytes: &'a [u8],
        ended: bool,
    ) -> Result<Option<ResponseBody<'a>>, ResponseError> {
        let (bytes, cut) = self.within_limit(bytes);
        let rest = bytes.get(head.bytes..).unwrap_or_default();
        let whole = match head.body {
            BodyLength::Bytes(length) if length > self.max_bytes.saturating_sub(head.bytes) as u64 => {
                return Err(ResponseError::TooLong(self.max_bytes));
            }
            BodyLength::Bytes(length) => rest.get(..length as usize).map(ResponseBody::from),
            BodyLength::Chunked => dechunked(rest)?,
            BodyLength::UntilClose => (ended && !cut).then(|| rest.into()),
        };
        match whole {
            Some(whole) => Ok(Some(whole)),
            None => self.incomplete(cut, ended, ResponseError::EndsInBody),
        }
    }

    /// Returns the bytes that the limit allows, and whether there are more. Because nothing looks at those, a response
    /// is read alike in whatever pieces it comes.
    fn within_limit<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        bytes.get(..self.max_bytes).map_or((bytes, false), |within| (within, bytes.len() > self.max_bytes))
    }

    fn incomplete<T>(&self, cut: bool, ended: bool, end: ResponseError) -> Result<Option<T>, ResponseError> {
        match (cut, ended) {
            (true, _) => Err(ResponseError::TooLong(self.max_bytes)),
            (false, true) => Err(end),
            (false, false) => Ok(None),
        }
    }
}

impl<'a> From<&'a [u8]> for ResponseBody<'a> {
    fn from(data: &'a [u8]) -> Self {
        Self { data: data.into(), bytes: data.len() }
    }
}

/// Puts the chunks of a body together. `None`: the last chunk has not come.
fn dechunked(mut rest: &[u8]) -> Result<Option<ResponseBody<'static>>, Malformed> {
    let (mut decoder, mut data, mut bytes) = (Decoder::default(), Vec::new(), 0);
    loop {
        let decoded = decoder.decode(rest)?;
        data.extend_from_slice(decoded.data);
        bytes += decoded.taken;
        rest = &rest[decoded.taken..];
        if decoded.done {
            return Ok(Some(ResponseBody { data: data.into(), bytes }));
        }
        if decoded.taken == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests;
