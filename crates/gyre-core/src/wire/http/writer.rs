//! Owns responses as they are written.

use super::Status;

/// How a response treats its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, which is the default of HTTP/1.1.
    KeepAlive,
    /// It stays open, which HTTP/1.0 must be told.
    KeepAlive10,
    /// It is closed after the response.
    Close,
}

/// A response being written at the end of a buffer: the head with room for the length, then the body, then
/// [`finish`](ResponseWriter::finish).
#[derive(Debug)]
#[must_use = "a response without its length is invalid"]
pub struct ResponseWriter {
    length_at: usize,
    body_at: usize,
    head_only: bool,
}

/// Room for the body's length. Blanks before a field's value are optional white space (RFC 9110, section 5.5).
const LENGTH_ROOM: &[u8] = b"      ";
/// Number of digits that fit, behind one blank. No body that the tracker writes itself needs more.
const LENGTH_DIGITS: usize = LENGTH_ROOM.len() - 1;

impl ResponseWriter {
    /// Writes the head. With `head_only` (the response to HEAD) the body is measured and then left out.
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

    /// Fills in the length of the body, which is what was written since the head.
    pub fn finish(self, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        let digits = number.format(out.len() - self.body_at).as_bytes();
        let room_end = self.length_at + LENGTH_ROOM.len();
        // A body from a middleware may be longer than any of the tracker's own.
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

/// Writes a whole response whose body is its status.
pub fn put_status(out: &mut Vec<u8>, status: Status, persistence: Persistence, head_only: bool) {
    let response = ResponseWriter::start(out, status, persistence, head_only);
    status.put(out);
    out.push(b'\n');
    response.finish(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn responses_carry_their_length() {
        let mut out = b"before".to_vec();
        let response = ResponseWriter::start(&mut out, Status::Ok, Persistence::KeepAlive, false);
        out.extend_from_slice(b"hello");
        response.finish(&mut out);
        assert_eq!(
            out,
            b"beforeHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length:     5\r\n\r\nhello"
        );
        // What a middleware answers with may be longer than anything of the tracker's.
        for (length, head_only) in [(99_999, false), (100_000, false), (12_345_678, false), (100_000, true)] {
            let mut out = b"before".to_vec();
            let response = ResponseWriter::start(&mut out, Status::Ok, Persistence::KeepAlive, head_only);
            let body = vec![b'x'; length];
            out.extend_from_slice(&body);
            response.finish(&mut out);
            let head = format!(
                "beforeHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
            );
            assert!(out == [head.as_bytes(), if head_only { &[] } else { &body }].concat(), "{length}");
        }
        let mut out = Vec::new();
        put_status(&mut out, Status::MethodNotAllowed, Persistence::Close, true);
        let head = "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nConnection: close\r\n\
                    Allow: GET, HEAD\r\nContent-Length:    23\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), head);
    }
}
