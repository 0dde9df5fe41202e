//! Owns the fuzzing of HTTP heads. The end of a head must not depend on how the input is split, its framing must agree
//! with a second, simple parser (otherwise a request could be smuggled), and our responses must be valid HTTP.

#![no_main]

use gyre_core::engine::route::Route;
use gyre_core::limits::{HTTP_BODY_SKIP_BYTES, HTTP_PASSKEY_BYTES};
use gyre_core::wire::http::{
    Framing, Method, Persistence, Request, ResponseWriter, Status, head_end, leading_empty_lines, put_status,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let empty = leading_empty_lines(bytes);
    assert!(bytes[..empty].iter().all(|byte| b"\r\n".contains(byte)));
    let bytes = &bytes[empty..];
    let end = check_end(bytes);
    write(bytes);
    let Some(end) = end else { return };
    let head = &bytes[..end];
    match Request::parse(head) {
        Ok(request) => check(head, &request),
        Err(status) => {
            assert!(matches!(status, Status::BadRequest | Status::HeadTooLarge | Status::NotImplemented))
        }
    }
});

/// Finds the end of the head, at once and byte by byte, which must agree.
fn check_end(bytes: &[u8]) -> Option<usize> {
    let ends = |end: &usize| bytes[..*end].ends_with(b"\n\n") || bytes[..*end].ends_with(b"\n\r\n");
    let expected = (0..=bytes.len()).find(ends);
    assert_eq!(head_end(bytes, 0), expected);
    let mut searched = 0;
    for come in 0..=bytes.len() {
        let found = head_end(&bytes[..come], searched);
        assert_eq!(found, expected.filter(|end| *end <= come));
        if found.is_some() {
            break;
        }
        searched = come;
    }
    expected
}

fn check(head: &[u8], request: &Request<'_>) {
    let lines: Vec<&[u8]> =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let values = |name: &str| -> Vec<&[u8]> {
        let fields = lines[1..].iter().filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        });
        fields
            .filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
            .collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match request.framing {
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1 && !request.http_10);
            assert!(codings[0].eq_ignore_ascii_case(b"chunked"));
            assert_eq!(request.skippable_bytes(), Err(Status::NotImplemented));
        }
        Framing::Length(bytes) => {
            assert!(codings.is_empty());
            let read = |value: &[u8]| str::from_utf8(value).ok()?.parse::<u64>().ok();
            assert!(lengths.iter().all(|value| read(value) == Some(bytes)));
            assert!(!lengths.is_empty() || bytes == 0);
            assert_eq!(request.skippable_bytes().is_ok(), bytes <= HTTP_BODY_SKIP_BYTES);
        }
    }
    let hosts = values("host").len();
    assert!(hosts == 1 || (hosts == 0 && request.http_10));
    assert!(!request.http_10 || !request.expects_continue);
    assert!(request.keep_alive || !request.stays_open_unread());
    let says = |option: &str| {
        let options = values("connection").concat();
        options.to_ascii_lowercase().windows(option.len()).any(|window| window == option.as_bytes())
    };
    assert!(says("close") || !request.keep_alive || !request.http_10 || says("keep-alive"));
    assert_eq!(request.method == Method::Get, head.starts_with(b"GET "));
    assert_eq!(request.method == Method::Head, head.starts_with(b"HEAD "));
    check_target(request);
}

fn check_target(request: &Request<'_>) {
    let Request { url, path, query, .. } = *request;
    assert!(path.starts_with('/'));
    assert!(!path.contains('?'));
    // An empty path stands for `/`.
    let rest = url.strip_prefix(path).unwrap_or(url);
    assert!(rest.len() < url.len() || path == "/");
    assert!(rest.strip_prefix('?').unwrap_or(rest) == query && rest.starts_with('?') != rest.is_empty());
    match Route::of(path) {
        Route::Announce { passkey } | Route::Scrape { passkey } => {
            let passkey = passkey.unwrap_or("a");
            assert!((1..=HTTP_PASSKEY_BYTES).contains(&passkey.len()) && !passkey.contains(['/', '%', '.']));
        }
        Route::Health => assert_eq!(path, "/health"),
        Route::NotFound => {}
    }
}

/// Writes a response with this body, which a client must be able to read.
fn write(body: &[u8]) {
    let (status, persistence, head_only) = match body.len() % 7 {
        0 => (Status::Ok, Persistence::KeepAlive, false),
        1 => (Status::BadRequest, Persistence::Close, false),
        2 => (Status::MethodNotAllowed, Persistence::KeepAlive10, true),
        3 => (Status::Unavailable, Persistence::Close, true),
        4 => (Status::Other(http::StatusCode::IM_A_TEAPOT), Persistence::KeepAlive, false),
        5 => (Status::HeadTooLarge, Persistence::Close, false),
        _ => (Status::NotFound, Persistence::KeepAlive, true),
    };
    let mut out = b"what is before it".to_vec();
    let before = out.len();
    let response = ResponseWriter::start(&mut out, status, persistence, head_only);
    out.extend_from_slice(body);
    response.finish(&mut out);
    let (length, sent) = read_response(&out[before..]);
    assert_eq!(length, body.len());
    assert_eq!(sent, if head_only { b"" } else { body });
    out.clear();
    put_status(&mut out, status, persistence, head_only);
    let (length, sent) = read_response(&out);
    assert_eq!(sent.len(), if head_only { 0 } else { length });
}

/// Returns the Content-Length and the body.
fn read_response(bytes: &[u8]) -> (usize, &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 8];
    let mut response = httparse::Response::new(&mut fields);
    let head = response.parse(bytes).expect("HTTP").unwrap();
    let length = response.headers.iter().find(|field| field.name == "Content-Length").expect("a length");
    let length = str::from_utf8(length.value).expect("digits").parse().expect("a number");
    (length, &bytes[head..])
}
