//! Heads split anywhere, fields that contradict each other, and what real clients send.

use std::net::IpAddr;

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

    /// A connection's bytes give the same requests in one piece, in any pieces, and read in the plainest way.
    #[test]
    fn cuts_change_nothing(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    ARIA2, LIBTORRENT, "GET / HTTP/1.1\r\nHost: a\r\n", "\r\n", "\n", "\n\n", "Host: b\r\n",
                    "POST /x HTTP/1.0\r\nContent-Length: 7\r\n\r\n", "HEAD / HTTP/1.0\n", "x",
                    "Transfer-Encoding: chunked\r\n", "Content-Length: 3\r\n", "Expect: 100-continue\r\n",
                    "X-Real-IP: 1.2.3.4\r\n", "Connection: close\r\n",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                proptest::collection::vec(any::<u8>(), 0..6),
            ],
            0..12,
        ),
        cuts in proptest::collection::vec(1..90_usize, 1..9),
    ) {
        let bytes = parts.concat();
        let plain = plainly(&bytes);
        prop_assert_eq!(&read_in_pieces(&bytes, &[bytes.len().max(1)]), &plain);
        prop_assert_eq!(read_in_pieces(&bytes, &cuts), plain);
    }
}

/// The requests of a connection, with names of their methods, and the status that it ends with if there is one.
type Read = (Vec<(String, String, Framing, bool)>, Option<Status>);

fn noted(head: &Head<'_, '_>) -> (String, String, Framing, bool) {
    let Head { request, method, target, .. } = head;
    (String::from(*method), String::from(*target), request.framing, request.keep_alive)
}

/// Reads requests, which come in pieces of these lengths by turns. Bodies are skipped.
fn read_in_pieces(bytes: &[u8], cuts: &[usize]) -> Read {
    let (mut reader, mut requests, mut at, mut come) = (RequestReader::default(), Vec::new(), 0, 0);
    let mut cuts = cuts.iter().cycle();
    while come < bytes.len() {
        come = (come + cuts.next().unwrap()).min(bytes.len());
        loop {
            let mut buffer = FieldBuffer::new();
            let progress = match reader.read(&bytes[at..come], &mut buffer) {
                Ok(progress) => progress,
                Err(status) => {
                    assert_eq!(reader.read(&bytes[at..come], &mut FieldBuffer::new()), Err(status));
                    return (requests, Some(status));
                }
            };
            at += progress.taken;
            let Some(head) = progress.head else { break };
            requests.push(noted(&head));
            match head.request.skippable_bytes() {
                Ok(bytes) => reader.skip(bytes),
                Err(status) => return (requests, Some(status)),
            }
        }
    }
    (requests, None)
}

/// Reads requests in the plainest way: one head after the other, each cut out and parsed.
fn plainly(mut bytes: &[u8]) -> Read {
    let mut requests = Vec::new();
    loop {
        bytes = &bytes[leading_empty_lines(bytes)..];
        match bytes.first() {
            None => return (requests, None),
            Some(first) if !first.is_ascii_alphabetic() => return (requests, Some(Status::BadRequest)),
            Some(_) => {}
        }
        let ends = |end: &usize| bytes[..*end].ends_with(b"\n\n") || bytes[..*end].ends_with(b"\n\r\n");
        let Some(end) = (0..=bytes.len()).find(ends) else { return (requests, None) };
        let (whole, rest) = bytes.split_at(end);
        let mut buffer = FieldBuffer::new();
        match Head::parse(whole, &mut buffer) {
            Ok((length, head)) => {
                assert_eq!(length, end);
                requests.push(noted(&head));
                match head.request.skippable_bytes() {
                    Ok(skip) => bytes = rest.get(skip as usize..).unwrap_or_default(),
                    Err(status) => return (requests, Some(status)),
                }
            }
            Err(status) => return (requests, Some(status)),
        }
    }
}

#[test]
fn a_head_longer_than_the_limit_is_refused() {
    let head = |bytes: usize| {
        let head = with_fields("X: \r\n");
        head.replace("X: ", &format!("X: {}", "y".repeat(bytes - head.len())))
    };
    let read = |text: &str| {
        let mut reader = RequestReader::default();
        reader.read(text.as_bytes(), &mut FieldBuffer::new()).map(|progress| progress.taken)
    };
    let longest = head(HTTP_HEAD_MAX_BYTES);
    assert_eq!(read(&longest), Ok(HTTP_HEAD_MAX_BYTES));
    assert_eq!(read(&format!("{longest}{longest}")), Ok(HTTP_HEAD_MAX_BYTES));
    assert_eq!(read(&longest[..HTTP_HEAD_MAX_BYTES - 1]), Ok(0), "its end may still come");
    let longer = head(HTTP_HEAD_MAX_BYTES + 1);
    assert_eq!(read(&longer), Err(Status::HeadTooLarge));
    assert_eq!(read(&longer[..HTTP_HEAD_MAX_BYTES]), Err(Status::HeadTooLarge), "it would be too long");
}

#[test]
fn bodies_are_skipped() {
    let mut reader = RequestReader::default();
    let post = "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n";
    let taken = |reader: &mut RequestReader, text: &str| {
        let mut buffer = FieldBuffer::new();
        let progress = reader.read(text.as_bytes(), &mut buffer).unwrap();
        (progress.taken, progress.head.is_some())
    };
    assert_eq!(taken(&mut reader, post), (post.len(), true));
    reader.skip(5);
    assert_eq!(taken(&mut reader, "\n\n1"), (3, false), "empty lines of a body are body");
    assert!(reader.is_skipping());
    assert_eq!(taken(&mut reader, &format!("23\r\n{post}")), (4 + post.len(), true));
    assert!(!reader.is_skipping());
}

#[test]
fn the_parts_of_a_head_are_kept() {
    let text = with_fields(
        "X-Forwarded-For: 1.1.1.1\r\nX: y\r\nFORWARDED: for=2.2.2.2\r\nx-real-ip:3.3.3.3\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Foo: 4.4.4.4\r\nX-Forwarded-For: 5.5.5.5\r\n",
    );
    let text = text.replace("GET ", "PROPFIND http://t");
    let mut buffer = FieldBuffer::new();
    let (length, head) = Head::parse(text.as_bytes(), &mut buffer).unwrap();
    assert_eq!((length, head.method, head.target), (text.len(), "PROPFIND", "http://t/announce"));
    assert_eq!(head.fields.iter().len(), 8);
    assert_eq!(head.fields.get("x-FORWARDED-for"), Some(&b"1.1.1.1"[..]));
    assert_eq!(head.fields.get("y"), None);
    let proxied: Vec<_> = head.proxy_fields().map(|(_, value)| value.escape_ascii().to_string()).collect();
    assert_eq!(proxied, ["1.1.1.1", "for=2.2.2.2", "3.3.3.3", "https", "5.5.5.5"]);
    let peer = IpAddr::from([10, 0, 0, 1]);
    let is_trusted = |ip| ip == peer || ip == IpAddr::from([5, 5, 5, 5]);
    let of_all = forwarded::client_ip(peer, head.fields.iter(), is_trusted);
    assert_eq!(forwarded::client_ip(peer, head.proxy_fields(), is_trusted), of_all);
    let last = with_fields(&format!("{}Forwarded: x\r\n", "X: y\r\n".repeat(HTTP_HEADERS_MAX - 2)));
    let mut buffer = FieldBuffer::new();
    let (_, head) = Head::parse(last.as_bytes(), &mut buffer).unwrap();
    assert_eq!(head.proxy_fields().collect::<Vec<_>>(), [("Forwarded", &b"x"[..])]);
}
