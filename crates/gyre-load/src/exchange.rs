//! Owns requests by HTTP as clients write them, and responses as far as the load generator reads them. Pure.

use std::borrow::Cow;

use gyre::types::{Event, InfoHash};
use gyre::wire::http::{BodyLength, FieldBuffer, ResponseBody, ResponseError, ResponseReader};

use crate::measure::ReplyError;
use crate::population::AnnounceParams;

/// Reads responses of at most 1 MiB.
const READER: ResponseReader = ResponseReader { max_bytes: 1 << 20, to_head: false };

/// The parts that all requests to a tracker share.
pub(crate) struct Requests {
    /// What follows the target of a request.
    tail: Vec<u8>,
}

impl Requests {
    /// For the tracker at this host. `close`: each request has its own connection.
    pub(crate) fn new(host: &str, close: bool) -> Self {
        let connection = if close { "Connection: close\r\n" } else { "" };
        let tail = format!(
            " HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gyre-load/{}\r\n{connection}\r\n",
            env!("CARGO_PKG_VERSION")
        );
        Self { tail: tail.into_bytes() }
    }

    pub(crate) fn put_announce(&self, out: &mut Vec<u8>, ask: &AnnounceParams, num_want: u16) {
        let mut digits = itoa::Buffer::new();
        let mut put = |out: &mut Vec<u8>, key: &[u8], number: u64| {
            out.extend_from_slice(key);
            out.extend_from_slice(digits.format(number).as_bytes());
        };
        out.extend_from_slice(b"GET /announce?info_hash=");
        put_escaped(out, &ask.info_hash.0);
        out.extend_from_slice(b"&peer_id=");
        put_escaped(out, &ask.peer_id.0);
        put(out, b"&port=", ask.port.into());
        out.extend_from_slice(b"&uploaded=0&downloaded=0");
        put(out, b"&left=", ask.left);
        put(out, b"&compact=1&numwant=", num_want.into());
        out.extend_from_slice(match ask.event {
            Event::None => b"",
            Event::Started => b"&event=started",
            Event::Completed => b"&event=completed",
            Event::Stopped => b"&event=stopped",
        });
        out.extend_from_slice(&self.tail);
    }

    pub(crate) fn put_scrape(&self, out: &mut Vec<u8>, info_hash: &InfoHash) {
        out.extend_from_slice(b"GET /scrape?info_hash=");
        put_escaped(out, &info_hash.0);
        out.extend_from_slice(&self.tail);
    }
}

/// Escapes all but the unreserved characters of RFC 3986.
fn put_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            _ => {
                let [high, low] = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
                out.extend_from_slice(&[b'%', high, low]);
            }
        }
    }
}

/// A response that is all there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// Number of bytes of head and body.
    pub(crate) length: usize,
    /// The connection ends behind it.
    pub(crate) closes: bool,
}

impl<'a> Response<'a> {
    /// Reads the first response in `bytes`. `None`: it is not all there. `ended`: no more bytes will come.
    pub(crate) fn parse(bytes: &'a [u8], ended: bool) -> Result<Option<Self>, ReplyError> {
        match Self::read(bytes, ended) {
            Ok(response) => Ok(response),
            Err(ResponseError::EndsInHead | ResponseError::EndsInBody) => Ok(None),
            Err(_) => Err(ReplyError::Malformed),
        }
    }

    fn read(bytes: &'a [u8], ended: bool) -> Result<Option<Self>, ResponseError> {
        let mut buffer = FieldBuffer::new();
        let Some(head) = READER.read_head(bytes, ended, &mut buffer)? else { return Ok(None) };
        if head.body == BodyLength::Chunked {
            return Err(ResponseError::TransferCoding); // no tracker does
        }
        let body = READER.read_body(&head, bytes, ended)?;
        let Some(ResponseBody { data: Cow::Borrowed(body), bytes: length }) = body else { return Ok(None) };
        let length = head.bytes + length;
        Ok(Some(Self { status: head.status, body, length, closes: !head.keep_alive }))
    }
}

#[cfg(test)]
mod tests {
    use gyre::types::PeerId;
    use gyre::wire::http::Request;
    use gyre::wire::query::{AnnounceQuery, ScrapeQuery};

    use super::*;

    #[test]
    fn requests_are_read_by_the_tracker_as_they_were_meant() {
        let ask = AnnounceParams {
            info_hash: InfoHash(*b"\x00\xff%&=+ abcdefghi~_-."),
            peer_id: PeerId(*b"-GL0100-\x01\x02\x03\x04\x05\x06\x07\x08...."),
            port: 6_881,
            event: Event::Completed,
            left: 0,
        };
        let requests = Requests::new("tracker:6969", false);
        let mut out = Vec::new();
        requests.put_announce(&mut out, &ask, 30);
        let request = Request::parse(&out).unwrap();
        let query = AnnounceQuery::parse(request.query.as_bytes()).unwrap();
        assert_eq!((query.info_hash, query.peer_id, query.port), (ask.info_hash, ask.peer_id, 6_881));
        assert_eq!((query.num_want, query.event, query.left), (Some(30), Event::Completed, Some(0)));
        out.clear();
        Requests::new("tracker", true).put_scrape(&mut out, &ask.info_hash);
        let request = Request::parse(&out).unwrap();
        assert_eq!(ScrapeQuery::parse(request.query.as_bytes()).unwrap().info_hashes[..], [ask.info_hash]);
    }

    #[test]
    fn responses_are_read() {
        let both = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\nabcHTTP/1.1 404 x\r\nContent-Length: 0\r\n\
            Connection: close\r\n\r\n";
        let first = Response::parse(both, false).unwrap().unwrap();
        assert_eq!((first.status, first.body, first.closes), (200, &b"abc"[..], false));
        let second = Response::parse(&both[first.length..], false).unwrap().unwrap();
        assert_eq!((second.status, second.body, second.closes), (404, &b""[..], true));
        assert_eq!(first.length + second.length, both.len());
        for length in 0..first.length {
            assert_eq!(Response::parse(&both[..length], false), Ok(None));
        }
        let endless = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(Response::parse(endless, false), Ok(None));
        assert_eq!(Response::parse(endless, true).unwrap().unwrap().body, b"abc");
        for wrong in [
            &b"nonsense\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(Response::parse(wrong, false), Err(ReplyError::Malformed), "{}", wrong.escape_ascii());
        }
    }
}
