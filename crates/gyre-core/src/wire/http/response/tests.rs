//! Responses of every kind, in one piece and in many.

use proptest::prelude::*;

use super::*;

const READER: ResponseReader = ResponseReader { max_bytes: 200, to_head: false };

/// Status, body, length and keep-alive of the first response.
type Read = Result<Option<(u16, Vec<u8>, usize, bool)>, ResponseError>;

fn read_with(reader: ResponseReader, bytes: &[u8], ended: bool) -> Read {
    let mut buffer = FieldBuffer::new();
    let read = reader.read(bytes, ended, &mut buffer)?;
    Ok(read.map(|read| (read.head.status, read.body.into_owned(), read.bytes, read.head.keep_alive)))
}

fn read(text: &str, ended: bool) -> Read {
    read_with(READER, text.as_bytes(), ended)
}

/// Shows a reader more and more of the bytes.
fn read_in_pieces(reader: ResponseReader, bytes: &[u8], cuts: &[usize]) -> Read {
    let mut cuts = cuts.iter().cycle();
    let mut come = 0;
    while come < bytes.len() {
        come = (come + cuts.next().map_or(bytes.len(), |cut| *cut)).min(bytes.len());
        match read_with(reader, &bytes[..come], false) {
            Ok(None) => {}
            read => return read,
        }
    }
    read_with(reader, bytes, true)
}

#[test]
fn reads_bodies_of_every_kind() {
    for (text, body, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde", "de", true),
        ("HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\nContent-Length: 2\r\n\r\nde", "de", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", "", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nd", "d", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: Keep-Alive\r\n\r\nd", "d", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nd\r\n1;x\r\ne\r\n0\r\n\r\n", "de", true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n",
            "de",
            true,
        ),
        ("HTTP/1.1 100 Continue\r\n\r\n", "", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "", true),
    ] {
        let status = text[9..12].parse().unwrap();
        let expected = Ok(Some((status, body.as_bytes().to_vec(), text.len(), keep_alive)));
        assert_eq!(read(text, false), expected, "{text}");
        assert_eq!(read(text, true), expected, "{text}");
        assert_eq!(read(&format!("{text}HTTP/1.1"), false), expected, "{text}");
        for end in 0..text.len() {
            assert_eq!(read(&text[..end], false), Ok(None), "{text}");
            let error = read(&text[..end], true).unwrap_err();
            assert!(matches!(error, ResponseError::EndsInHead | ResponseError::EndsInBody), "{text}");
        }
    }
    let endless = "HTTP/1.1 200 OK\r\n\r\nde";
    assert_eq!(read(endless, false), Ok(None));
    assert_eq!(read(endless, true), Ok(Some((200, b"de".to_vec(), endless.len(), false))));
    let to_head = ResponseReader { to_head: true, ..READER };
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(read_with(to_head, text.as_bytes(), false), Ok(Some((200, vec![], text.len(), true))));
}

#[test]
fn refuses_what_it_cannot_frame() {
    let with = |fields: &str| read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), false);
    for value in ["", "x", "-1", "+1", "1, 1", "18446744073709551616"] {
        assert_eq!(
            with(&format!("Content-Length: {value}\r\n")),
            Err(ResponseError::ContentLength),
            "{value}"
        );
    }
    let differing = with("Content-Length: 1\r\nContent-Length: 2\r\n");
    assert_eq!(differing, Err(ResponseError::ContentLength));
    assert_eq!(with("Transfer-Encoding: gzip\r\n"), Err(ResponseError::TransferCoding));
    assert_eq!(with("Transfer-Encoding: gzip, chunked\r\n"), Err(ResponseError::TransferCoding));
    assert!(matches!(read("SSH-2.0\r\n", false), Err(ResponseError::NotHttp(_))));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    assert!(matches!(read(chunked, false), Err(ResponseError::Chunks(_))));
}

#[test]
fn no_more_than_the_limit_is_read() {
    let too_long = Err(ResponseError::TooLong(READER.max_bytes));
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 156\r\n\r\n";
    let fits = format!("{head}{}", "x".repeat(200 - head.len()));
    assert!(matches!(read(&fits.replace("156", "160"), false), Ok(Some((200, _, 200, _)))), "{}", head.len());
    assert_eq!(read(&head.replace("156", "161"), false), too_long);
    assert_eq!(read(&head.replace("156", "18446744073709551615"), false), too_long);
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(200 - 19));
    assert!(matches!(read(&endless, true), Ok(Some((200, _, 200, _)))));
    assert_eq!(read(&format!("{endless}x"), true), too_long);
    assert_eq!(read(&format!("{endless}x"), false), too_long);
    assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(40)), false), too_long);
    let chunks = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", "1\r\nx\r\n".repeat(40));
    assert_eq!(read(&chunks, true), too_long);
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        parts in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "HTTP/1.1 200 OK\r\n", "HTTP/1.0 404 N\r\n", "HTTP/1.1 204 x\r\n", "\r\n", "\r\n\r\n",
                    "Content-Length: 3\r\n", "Content-Length: 300\r\n", "Transfer-Encoding: chunked\r\n",
                    "Connection: close\r\n", "X: y\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "abc",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..60),
            ],
            0..12,
        ),
        cuts in prop::collection::vec(1..50_usize, 1..9),
        to_head: bool,
    ) {
        let bytes = parts.concat();
        let reader = ResponseReader { to_head, ..READER };
        let whole = match read_with(reader, &bytes, false) {
            Ok(None) => read_with(reader, &bytes, true),
            whole => whole,
        };
        prop_assert_eq!(read_in_pieces(reader, &bytes, &cuts), whole);
    }

    /// Any body in any framing comes out as it went in.
    #[test]
    fn bodies_survive(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..90), 0..5)) {
        let body = chunks.concat();
        let reader = ResponseReader { max_bytes: 10_000, to_head: false };
        let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        chunks.iter().for_each(|chunk| crate::wire::chunked::put_chunk(&mut chunked, chunk));
        chunked.extend_from_slice(crate::wire::chunked::LAST_CHUNK);
        let long = [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n", &body[..]].concat();
        for wire in [chunked, long, endless] {
            let (_, read, bytes, _) = read_in_pieces(reader, &wire, &[7]).unwrap().unwrap();
            prop_assert_eq!((&read, bytes), (&body, wire.len()));
        }
    }
}
