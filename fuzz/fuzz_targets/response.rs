//! Owns the fuzzing of responses by HTTP, as the doctor and the load generator read them: one is the same in whatever
//! pieces it comes, and the same that a second, plain reading finds.

#![no_main]

mod cuts;

use gyre_core::limits::HTTP_HEADERS_MAX;
use gyre_core::wire::chunked::Decoder;
use gyre_core::wire::http::{FieldBuffer, ResponseError, ResponseReader};
use libfuzzer_sys::fuzz_target;

/// Small, so that inputs reach it.
const MAX_BYTES: usize = 512;

/// Status, body, and number of bytes of head and body.
type Read = Result<Option<(u16, Vec<u8>, usize)>, ResponseError>;

fuzz_target!(|bytes: &[u8]| {
    for to_head in [false, true] {
        let reader = ResponseReader { max_bytes: MAX_BYTES, to_head };
        let whole = match read(reader, bytes, false) {
            Ok(None) => read(reader, bytes, true),
            whole => whole,
        };
        if let Ok(Some((_, body, length))) = &whole {
            assert!(body.len() <= *length && *length <= bytes.len().min(MAX_BYTES));
        }
        compare(&whole, bytes, to_head);
        for pieces in cuts::splits(bytes) {
            assert_eq!(read_in(reader, &pieces), whole);
        }
    }
});

fn read(reader: ResponseReader, bytes: &[u8], ended: bool) -> Read {
    let mut buffer = FieldBuffer::new();
    let response = reader.read(bytes, ended, &mut buffer)?;
    Ok(response.map(|response| (response.head.status, response.body.into_owned(), response.bytes)))
}

/// Shows the reader more and more, until it has a response or the connection is closed.
fn read_in(reader: ResponseReader, pieces: &[&[u8]]) -> Read {
    let mut come = Vec::new();
    for piece in pieces {
        come.extend_from_slice(piece);
        match read(reader, &come, false) {
            Ok(None) => {}
            read => return read,
        }
    }
    read(reader, &come, true)
}

/// Compares with what a plain reading of the closed connection finds.
fn compare(whole: &Read, bytes: &[u8], to_head: bool) {
    let within = &bytes[..bytes.len().min(MAX_BYTES)];
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(within) {
        Err(error) => return assert_eq!(*whole, Err(ResponseError::NotHttp(error))),
        Ok(httparse::Status::Partial) if bytes.len() > MAX_BYTES => {
            return assert_eq!(*whole, Err(ResponseError::TooLong(MAX_BYTES)));
        }
        Ok(httparse::Status::Partial) => return assert_eq!(*whole, Err(ResponseError::EndsInHead)),
        Ok(httparse::Status::Complete(length)) => length,
    };
    let values = |name: &str| {
        let fields = parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value.trim_ascii()).collect::<Vec<_>>()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let status = parsed.code.expect("a status");
    let rest = &within[length..];
    let Ok(read) = whole else {
        // Each error has its cause.
        return match whole {
            Err(ResponseError::ContentLength) => assert!(!lengths.is_empty()),
            Err(ResponseError::TransferCoding) => {
                assert!(codings.len() > 1 || !codings[0].eq_ignore_ascii_case(b"chunked"));
            }
            Err(ResponseError::Chunks(_)) => assert!(codings.len() == 1),
            Err(ResponseError::EndsInBody) => assert!(!lengths.is_empty() || !codings.is_empty()),
            Err(ResponseError::TooLong(_)) => assert!(bytes.len() > MAX_BYTES || !lengths.is_empty()),
            other => panic!("{other:?}"),
        };
    };
    let (read_status, body, taken) = read.as_ref().expect("the connection was closed");
    assert_eq!(*read_status, status);
    let expected = if to_head || (100..200).contains(&status) || status == 204 || status == 304 {
        (Vec::new(), length)
    } else if !codings.is_empty() {
        let (mut decoder, mut body, mut at) = (Decoder::default(), Vec::new(), 0);
        loop {
            let decoded = decoder.decode(&rest[at..]).expect("it was read");
            body.extend_from_slice(decoded.data);
            at += decoded.taken;
            if decoded.done {
                break (body, length + at);
            }
            assert_ne!(decoded.taken, 0, "its end was not there");
        }
    } else if let Some(digits) = lengths.first() {
        let bytes: usize = str::from_utf8(digits).expect("digits").parse().expect("a number");
        (rest[..bytes].to_vec(), length + bytes)
    } else {
        (rest.to_vec(), within.len())
    };
    assert_eq!((body, *taken), (&expected.0, expected.1));
}
