//! Owns the reading of a request's body from its connection: its framing, its limit and `100 Continue`.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use crate::transport::Transport;
use gyre_core::error::{Code, TrackerError};
use gyre_core::limits::HTTP_BODY_SKIP_BYTES;
use gyre_core::wire::chunked::{Decoder, Malformed};
use gyre_core::wire::http::Framing;

/// The response that a client with `Expect: 100-continue` awaits before it sends its body (RFC 9110, section 10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The rest of a body.
#[derive(Clone, Copy)]
enum Rest {
    Bytes(u64),
    Chunks(Decoder),
}

/// The body of one request. Each piece is returned once. After an error every call returns it again.
pub(crate) struct Incoming {
    transport: Rc<dyn Transport>,
    rest: Rest,
    /// Number of bytes of the body that were returned.
    read_bytes: u64,
    /// The client waits for `100 Continue` and has not begun to send the body.
    awaits_continue: bool,
}

impl Incoming {
    /// Creates the body that starts at the first byte of the transport's input. `expects_continue`: this is an HTTP/1.1
    /// request with `Expect: 100-continue`.
    pub(crate) fn new(transport: Rc<dyn Transport>, framing: Framing, expects_continue: bool) -> Self {
        let rest = match framing {
            Framing::Length(bytes) => Rest::Bytes(bytes),
            Framing::Chunked => Rest::Chunks(Decoder::default()),
        };
        Self { transport, rest, read_bytes: 0, awaits_continue: expects_continue }
    }

    /// Returns all of the body that has arrived since the last call. Waits if nothing has. `None` at its end.
    ///
    /// # Errors
    ///
    /// The body is malformed, ends too early, or has more than `limit` bytes in all. If its declared length exceeds the
    /// limit, it is refused before a `100 Continue`.
    pub(crate) async fn next(&mut self, limit: u64) -> Result<Option<Bytes>, TrackerError> {
        loop {
            let piece = self.take(limit)?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
            if self.is_read() {
                return Ok(None);
            }
            if mem::take(&mut self.awaits_continue) {
                let (result, _) = self.transport.write(CONTINUE.to_vec()).await;
                result.map_err(|error| connection_error(&error))?;
                continue; // the body may have arrived in the meantime
            }
            self.wait().await?;
        }
    }

    /// Returns whether all of it was returned.
    pub(crate) fn is_read(&self) -> bool {
        self.unread() == Some(0)
    }

    /// Returns the number of bytes that were not returned yet. `None`: it is unknown.
    pub(crate) fn unread(&self) -> Option<u64> {
        match self.rest {
            Rest::Bytes(bytes) => Some(bytes),
            Rest::Chunks(_) => None,
        }
    }

    /// Returns whether the connection must be closed after a response that begins now. This is so if the unread rest of
    /// the body is longer than the server skips, or its length is unknown. It is also so if the client still waits for
    /// `100 Continue`: after the response it may leave the body out or send it, so the next bytes could be the body or
    /// another request.
    pub(crate) fn must_close(&self) -> bool {
        let is_long = self.unread().is_none_or(|bytes| bytes > HTTP_BODY_SKIP_BYTES);
        let may_follow =
            self.awaits_continue && !self.is_read() && self.transport.input().borrow().is_empty();
        is_long || may_follow
    }

    /// Takes what has arrived, if it is within the limit.
    fn take(&mut self, limit: u64) -> Result<Bytes, TrackerError> {
        let mut input = self.transport.input().borrow_mut();
        let room = limit.saturating_sub(self.read_bytes);
        let (piece, taken, rest) = match self.rest {
            Rest::Bytes(left) if left > room => return Err(too_large(limit)),
            Rest::Bytes(left) => {
                let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                (Bytes::copy_from_slice(&input[..taken]), taken, Rest::Bytes(left - taken as u64))
            }
            Rest::Chunks(decoder) => join_chunks(decoder, &input).map_err(incorrect)?,
        };
        if piece.len() as u64 > room {
            return Err(too_large(limit));
        }
        self.awaits_continue &= input.is_empty();
        input.drain(..taken);
        self.read_bytes += piece.len() as u64;
        self.rest = rest;
        Ok(piece)
    }

    /// Waits until input has arrived.
    async fn wait(&self) -> Result<(), TrackerError> {
        let filled = poll_fn(|context| {
            // The check for a closed connection may have read it.
            let has_input = !self.transport.input().borrow().is_empty();
            if has_input { Poll::Ready(Ok(true)) } else { self.transport.poll_fill(context) }
        });
        match filled.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(TrackerError::new(
                Code::ConnectionClosed,
                "the client closed the connection before the end of the body",
            )),
            Err(error) => Err(connection_error(&error)),
        }
    }
}

/// Returns the data of all chunks that have arrived, the number of input bytes that they take, and the rest of the
/// body.
fn join_chunks(mut decoder: Decoder, input: &[u8]) -> Result<(Bytes, usize, Rest), Malformed> {
    let (mut data, mut taken) = (Vec::new(), 0);
    loop {
        let decoded = decoder.decode(&input[taken..])?;
        data.extend_from_slice(decoded.data);
        taken += decoded.taken;
        if decoded.done {
            return Ok((data.into(), taken, Rest::Bytes(0)));
        }
        if decoded.taken == 0 {
            return Ok((data.into(), taken, Rest::Chunks(decoder)));
        }
    }
}

fn incorrect(malformed: Malformed) -> TrackerError {
    TrackerError::incorrect_request(malformed.to_string())
}

fn too_large(limit: u64) -> TrackerError {
    TrackerError::new(Code::ContentTooLarge, format!("the body is longer than {limit} bytes"))
}

fn connection_error(error: &io::Error) -> TrackerError {
    TrackerError::new(Code::ConnectionClosed, format!("connection error: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_transport::{TestTransport, run};
    use gyre_core::wire::chunked::{LAST_CHUNK, put_chunk};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const NO_LIMIT: u64 = u64::MAX;

    fn incoming(transport: &Rc<TestTransport>, framing: Framing, expects_continue: bool) -> Incoming {
        Incoming::new(Rc::<TestTransport>::clone(transport), framing, expects_continue)
    }

    fn read(incoming: &mut Incoming, limit: u64) -> Result<Vec<u8>, TrackerError> {
        let mut body = Vec::new();
        while let Some(piece) = run(incoming.next(limit))? {
            assert!(!piece.is_empty());
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn code<T>(result: Result<T, TrackerError>) -> Option<Code> {
        result.err().map(|error| error.code())
    }

    fn chunked(chunks: &[&[u8]]) -> Vec<u8> {
        let mut wire = Vec::new();
        chunks.iter().for_each(|chunk| put_chunk(&mut wire, chunk));
        wire.extend_from_slice(LAST_CHUNK);
        wire
    }

    #[test]
    fn a_client_that_expects_100_gets_it_before_its_body_is_awaited() {
        let transport = TestTransport::new(b"", [b"bo".to_vec(), b"dy".to_vec()]);
        let mut body = incoming(&transport, Framing::Length(4), true);
        assert!(body.must_close());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        {
            let mut next = std::pin::pin!(body.next(4));
            assert!(next.as_mut().poll(&mut context).is_pending());
            assert_eq!(transport.written(), CONTINUE);
        }
        assert!(!body.must_close());
        assert_eq!(read(&mut body, 4).unwrap(), b"body");
        assert_eq!(transport.written(), CONTINUE, "100 Continue is sent once");
    }

    #[test]
    fn a_client_that_has_begun_its_body_gets_no_100() {
        for (framing, wire) in
            [(Framing::Length(4), b"body".to_vec()), (Framing::Chunked, chunked(&[b"bo", b"dy"]))]
        {
            let transport = TestTransport::new(&wire[..1], [wire[1..].to_vec()]);
            let mut body = incoming(&transport, framing, true);
            assert_eq!(body.must_close(), framing == Framing::Chunked, "the length of chunks is unknown");
            assert_eq!(read(&mut body, 4).unwrap(), b"body");
            assert_eq!((transport.written(), body.must_close()), (Vec::new(), false));
        }
    }

    #[test]
    fn a_body_that_is_too_long_to_skip_closes_the_connection() {
        for (bytes, closes) in [(HTTP_BODY_SKIP_BYTES, false), (HTTP_BODY_SKIP_BYTES + 1, true)] {
            let body = incoming(&TestTransport::new(b"", []), Framing::Length(bytes), false);
            assert_eq!(body.must_close(), closes);
        }
    }

    #[test]
    fn an_empty_body_ends_without_input_and_without_100() {
        let transport = TestTransport::new(b"GET /", []);
        let mut body = incoming(&transport, Framing::Length(0), true);
        assert!(body.is_read() && !body.must_close());
        assert_eq!(read(&mut body, 0).unwrap(), b"");
        assert_eq!((transport.written(), transport.input().take()), (Vec::new(), b"GET /".to_vec()));
        assert!(!incoming(&TestTransport::new(b"", []), Framing::Length(0), true).must_close());
    }

    #[test]
    fn the_limit_applies_to_the_whole_body() {
        let transport = TestTransport::new(b"", [b"hello".to_vec()]);
        let mut body = incoming(&transport, Framing::Length(5), true);
        for _ in 0..2 {
            assert_eq!(code(run(body.next(4))), Some(Code::ContentTooLarge));
        }
        assert_eq!((transport.written(), body.unread(), body.must_close()), (Vec::new(), Some(5), true));
        assert_eq!(read(&mut body, 5).unwrap(), b"hello");

        let wire = chunked(&[b"hel", b"lo"]);
        let transport = TestTransport::new(&wire[..8], [wire[8..].to_vec()]);
        let mut body = incoming(&transport, Framing::Chunked, false);
        assert_eq!(run(body.next(4)).unwrap().unwrap(), "hel");
        for _ in 0..2 {
            assert_eq!(code(run(body.next(4))), Some(Code::ContentTooLarge));
        }
        assert_eq!((body.unread(), body.is_read()), (None, false));
        assert_eq!(read(&mut body, 5).unwrap(), b"lo");
        assert!(body.is_read());
    }

    #[test]
    fn a_truncated_body_is_an_error() {
        for framing in [Framing::Length(4), Framing::Chunked] {
            let transport = TestTransport::new(b"3\r\n", []);
            let mut body = incoming(&transport, framing, false);
            for _ in 0..2 {
                assert_eq!(code(read(&mut body, NO_LIMIT)), Some(Code::ConnectionClosed));
            }
            assert!(!body.is_read());
            let broken = TestTransport::new(b"3\r\n", []);
            broken.break_off();
            assert_eq!(
                code(read(&mut incoming(&broken, framing, false), NO_LIMIT)),
                Some(Code::ConnectionClosed)
            );
        }
    }

    #[test]
    fn malformed_chunks_fail_again_and_again() {
        let transport = TestTransport::new(b"2\r\nok\r\nno", []);
        let mut body = incoming(&transport, Framing::Chunked, false);
        for _ in 0..2 {
            assert_eq!(code(run(body.next(NO_LIMIT))), Some(Code::IncorrectRequest));
        }
        assert_eq!((body.unread(), body.is_read(), body.must_close()), (None, false, true));
    }

    #[test]
    fn chunks_that_arrive_together_are_one_piece() {
        let wire = chunked(&[b"a".as_slice(); 1_000]);
        let mut body = incoming(&TestTransport::new(&wire, []), Framing::Chunked, false);
        assert_eq!(run(body.next(NO_LIMIT)).unwrap().unwrap().len(), 1_000);
        assert!(body.is_read());
    }

    proptest! {
        #[test]
        fn any_body_is_read_however_it_is_cut(
            chunks in vec(vec(any::<u8>(), 1..100), 0..8),
            is_chunked: bool,
            expects_continue: bool,
            arrived in 0..50_usize,
            cut in 1..50_usize,
            behind: Vec<u8>,
        ) {
            let expected = chunks.concat();
            let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let (framing, mut wire) = if is_chunked {
                (Framing::Chunked, chunked(&slices))
            } else {
                (Framing::Length(expected.len() as u64), expected.clone())
            };
            let awaited = expects_continue && !wire.is_empty() && arrived == 0;
            wire.extend_from_slice(&behind);
            let (arrived, rest) = wire.split_at(arrived.min(wire.len()));
            let transport = TestTransport::new(arrived, rest.chunks(cut).map(<[u8]>::to_vec));
            let mut body = incoming(&transport, framing, expects_continue);
            prop_assert_eq!(read(&mut body, expected.len() as u64), Ok(expected));
            prop_assert_eq!((body.unread(), body.must_close()), (Some(0), false));
            prop_assert_eq!(run(body.next(0)), Ok(None));
            prop_assert_eq!(transport.written(), if awaited { CONTINUE } else { b"" });
            // The bytes after the body are untouched: the next request, and all that follows.
            while run(poll_fn(|context| transport.poll_fill(context))).unwrap() {}
            prop_assert_eq!(transport.input().take(), behind);
        }

        #[test]
        fn junk_never_exceeds_the_limit(
            pieces in vec(vec(prop::sample::select(b"0123;\r\nx".to_vec()), 1..20), 0..20),
            framing in prop_oneof![Just(Framing::Chunked), (0..40_u64).prop_map(Framing::Length)],
            limit in 0..20_u64,
        ) {
            let transport = TestTransport::new(b"", pieces);
            if let Ok(body) = read(&mut incoming(&transport, framing, false), limit) {
                prop_assert!(body.len() as u64 <= limit);
            }
        }
    }
}
