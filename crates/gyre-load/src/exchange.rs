//! Owns what goes over an HTTP connection: requests as clients write them, responses as they are read. Pure.

use gyre::types::{Event, InfoHash};

use crate::measure::ReplyError;
use crate::population::AnnounceParams;

/// Headers of a response, at most.
const HEADERS_MAX: usize = 32;
/// A response is not longer than this.
const RESPONSE_MAX_BYTES: usize = 1 << 20;

/// What is the same in all requests to a tracker.
pub(crate) struct Requests {
    /// What follows the target of a request.
    tail: Vec<u8>,
}

impl Requests {
    /// To the tracker at this host, each on a connection of its own or not.
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

/// Escapes all but what RFC 3986 leaves alone everywhere.
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
    /// Head and body.
    pub(crate) length: usize,
    /// The connection ends behind it.
    pub(crate) closes: bool,
}

impl<'a> Response<'a> {
    /// Reads the first response in `bytes`; `None`: it isn't all there yet. `ended`: no more bytes will come.
    pub(crate) fn parse(bytes: &'a [u8], ended: bool) -> Result<Option<Self>, ReplyError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_length) = head.parse(bytes).map_err(|_| ReplyError::Malformed)?
        else {
            return if bytes.len() > RESPONSE_MAX_BYTES { Err(ReplyError::Malformed) } else { Ok(None) };
        };
        let value = |name: &str| {
            let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.map(|header| header.value.trim_ascii())
        };
        let connection = value("connection").unwrap_or_default();
        let persists = match head.version {
            Some(1) => !connection.eq_ignore_ascii_case(b"close"),
            _ => connection.eq_ignore_ascii_case(b"keep-alive"),
        };
        let body_length = match value("content-length") {
            Some(digits) => {
                let digits = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                digits.filter(|length| *length <= RESPONSE_MAX_BYTES).ok_or(ReplyError::Malformed)?
            }
            None if value("transfer-encoding").is_some() => return Err(ReplyError::Malformed), // no tracker does
            None if ended => bytes.len() - head_length,
            None => return Ok(None), // it ends with the connection
        };
        let length = head_length + body_length;
        let Some(body) = bytes.get(head_length..length) else { return Ok(None) };
        Ok(Some(Self { status: head.code.unwrap_or_default(), body, length, closes: !persists }))
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
