//! Heads split anywhere, fields that contradict each other, and what real clients send.

use proptest::prelude::*;

use super::*;

/// Heads recorded on loopback, 2026-11-20, from Debian's packages: aria2 1.36.0, libtorrent 2.0.8; queries shortened.
const ARIA2: &str = "GET /announce?info_hash=L%F1&port=16882 HTTP/1.1\r\nUser-Agent: aria2/1.36.0\r\nAccept: */*\r\n\
    Host: 127.0.0.1:9124\r\nWant-Digest: SHA-512;q=1, SHA-256;q=1, SHA;q=0.1\r\n\r\n";
const LIBTORRENT: &str = "GET /announce?info_hash=%a0&port=16891 HTTP/1.1\r\nHost: 127.0.0.1:9124\r\n\
    User-Agent: libtorrent/2.0.8.0\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";

fn parse(head: &str) -> Result<Request<'_>, Status> {
    Request::parse(head.as_bytes())
}

fn with_fields(fields: &str) -> String {
    format!("GET /announce HTTP/1.1\r\nHost: t\r\n{fields}\r\n")
}

#[test]
fn reads_what_clients_send() {
    let expected = Request {
        method: Method::Get,
        url: "/announce?info_hash=L%F1&port=16882",
        path: "/announce",
        query: "info_hash=L%F1&port=16882",
        http_10: false,
        keep_alive: true,
        framing: Framing::Length(0),
        expects_continue: false,
    };
    assert_eq!(parse(ARIA2), Ok(expected));
    assert!(!parse(LIBTORRENT).unwrap().keep_alive);
    let old = parse("GET /scrape HTTP/1.0\r\n\r\n").unwrap();
    assert!(old.http_10 && !old.keep_alive);
    assert!(parse("GET /scrape HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
    assert_eq!(parse("HEAD /health HTTP/1.0\n\n").unwrap().method, Method::Head);
    assert_eq!(parse("POST /health HTTP/1.0\r\n\r\n").unwrap().method, Method::Other);
    let proxied = parse("GET http://tracker:6969/announce?a=b?c HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((proxied.path, proxied.query), ("/announce", "a=b?c"));
    assert_eq!(parse("GET http://tracker HTTP/1.0\r\n\r\n").unwrap().path, "/");
    let bare = parse("GET HTTP://tracker?a=b HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((bare.path, bare.query), ("/", "a=b"));
}

#[test]
fn refuses_what_it_cannot_frame() {
    for head in [
        "\x16\x03\x01\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET announce HTTP/1.0\r\n\r\n",
        "* * *\r\n\r\n",
    ] {
        assert_eq!(parse(head), Err(Status::BadRequest), "{head:?}");
    }
    assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(Status::BadRequest), "no Host");
    for (fields, status) in [
        ("Host: u\r\n", Status::BadRequest),
        ("Content-Length: x\r\n", Status::BadRequest),
        ("Content-Length: -1\r\n", Status::BadRequest),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", Status::BadRequest),
        ("Transfer-Encoding: gzip, chunked\r\n", Status::NotImplemented),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Status::BadRequest),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Status::BadRequest),
        ("no colon\r\n", Status::BadRequest),
    ] {
        assert_eq!(parse(&with_fields(fields)), Err(status), "{fields:?}");
    }
    assert_eq!(parse(&with_fields(&"X: y\r\n".repeat(HTTP_HEADERS_MAX - 1))).map(|_| ()), Ok(()));
    assert_eq!(parse(&with_fields(&"X: y\r\n".repeat(HTTP_HEADERS_MAX))), Err(Status::HeadTooLarge));
}

#[test]
fn knows_what_follows_the_head() {
    let request = |fields: &str| {
        let head = with_fields(fields);
        let request = parse(&head).unwrap();
        (request.skippable_bytes(), request.stays_open_unread())
    };
    assert_eq!(request("Content-Length: 16384\r\nContent-Length: 16384\r\n"), (Ok(16384), true));
    assert_eq!(request("Content-Length: 16385\r\n"), (Err(Status::ContentTooLarge), true));
    assert_eq!(request("Transfer-Encoding: Chunked\r\n"), (Err(Status::NotImplemented), true));
    assert_eq!(request("Content-Length: 9\r\nExpect: 100-continue\r\n"), (Ok(9), false));
    assert_eq!(request("Expect: 100-continue\r\n"), (Ok(0), true));
    assert_eq!(request("Connection: upgrade, CLOSE\r\n"), (Ok(0), false));
    let old = "POST / HTTP/1.0\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(parse(old).map(|request| request.expects_continue), Ok(false));
    assert_eq!(parse("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Status::BadRequest));
}

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
        let head =
            format!("beforeHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        assert!(out == [head.as_bytes(), if head_only { &[] } else { &body }].concat(), "{length}");
    }
    let mut out = Vec::new();
    put_status(&mut out, Status::MethodNotAllowed, Persistence::Close, true);
    let head = "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nConnection: close\r\n\
                Allow: GET, HEAD\r\nContent-Length:    23\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), head);
}

proptest! {
    /// However a head comes in parts, its end is found in the part that brings it.
    #[test]
    fn the_end_is_found_at_every_split(split in 0..=ARIA2.len(), lf_alone: bool, more in "[a-z\r\n]{0,9}") {
        let head = if lf_alone { ARIA2.replace("\r\n", "\n") } else { ARIA2.to_owned() };
        let bytes = [head.as_bytes(), more.as_bytes()].concat();
        let split = split.min(head.len());
        let first = head_end(&bytes[..split], 0);
        prop_assert_eq!(first, (split == head.len()).then_some(head.len()));
        prop_assert_eq!(head_end(&bytes, split.min(head.len() - 1)), Some(head.len()));
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = Request::parse(&bytes);
        let _ = head_end(&bytes, bytes.len() / 2);
    }
}
