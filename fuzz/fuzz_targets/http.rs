//! Owns the fuzzing of requests by HTTP. The requests of a connection must not depend on how its bytes are split, must
//! be those that a second, simple parser finds (otherwise a request could be smuggled), and our responses must be valid
//! HTTP.

#![no_main]

mod cuts;

use gyre_core::engine::route::Route;
use gyre_core::limits::{HTTP_BODY_SKIP_BYTES, HTTP_HEAD_MAX_BYTES, HTTP_HEADERS_MAX, HTTP_PASSKEY_BYTES};
use gyre_core::wire::http::{
    FieldBuffer, Framing, Head, Method, Persistence, Request, RequestReader, ResponseWriter, Status,
    put_status,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(&[bytes]);
    assert_eq!(whole, read_plainly(bytes));
    for pieces in cuts::splits(bytes) {
        assert_eq!(read(&pieces), whole);
    }
    write(bytes);
});

type Fields = Vec<(String, Vec<u8>)>;

/// What is compared of a head.
#[derive(Debug, PartialEq, Eq)]
struct Noted {
    method: String,
    target: String,
    http_10: bool,
    keep_alive: bool,
    framing: Framing,
    expects_continue: bool,
    fields: Fields,
    /// Those that proxies set.
    proxied: Fields,
}

/// What a connection's bytes hold.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    requests: Vec<Noted>,
    /// What the connection ends with; `None`: more bytes are needed.
    status: Option<Status>,
}

/// Reads the requests of a connection, of which these pieces come one after the other. Bodies are skipped.
fn read(pieces: &[&[u8]]) -> Outcome {
    let (mut reader, mut input, mut requests) = (RequestReader::default(), Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let mut buffer = FieldBuffer::new();
            let progress = match reader.read(&input, &mut buffer) {
                Ok(progress) => progress,
                Err(status) => {
                    assert_eq!(
                        reader.read(&input, &mut FieldBuffer::new()),
                        Err(status),
                        "an error stays one"
                    );
                    return Outcome { requests, status: Some(status) };
                }
            };
            assert!(progress.taken <= input.len());
            let Some(head) = progress.head else {
                input.drain(..progress.taken);
                break;
            };
            check_target(&head.request);
            requests.push(note(&head));
            let taken = progress.taken;
            match head.request.skippable_bytes() {
                Ok(bytes) => reader.skip(bytes),
                Err(status) => return Outcome { requests, status: Some(status) },
            }
            input.drain(..taken);
        }
    }
    Outcome { requests, status: None }
}

fn note(head: &Head<'_, '_>) -> Noted {
    let Head { request, method, target, fields, .. } = head;
    assert_eq!(request.method == Method::Get, *method == "GET");
    assert_eq!(request.method == Method::Head, *method == "HEAD");
    assert!(request.keep_alive || !request.stays_open_unread());
    Noted {
        method: String::from(*method),
        target: String::from(*target),
        http_10: request.http_10,
        keep_alive: request.keep_alive,
        framing: request.framing,
        expects_continue: request.expects_continue,
        fields: owned(fields.iter()),
        proxied: owned(head.proxy_fields()),
    }
}

fn owned<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Fields {
    fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
}

/// Reads the requests in the plainest way: one head after the other is cut out and parsed.
fn read_plainly(mut bytes: &[u8]) -> Outcome {
    let mut requests = Vec::new();
    let status = loop {
        while let [b'\r' | b'\n', rest @ ..] = bytes {
            bytes = rest;
        }
        if bytes.first().is_some_and(|first| !first.is_ascii_alphabetic()) {
            break Some(Status::BadRequest);
        }
        let ends = |end: &usize| bytes[..*end].ends_with(b"\n\n") || bytes[..*end].ends_with(b"\n\r\n");
        let end = (0..=bytes.len()).find(ends);
        if end.unwrap_or(bytes.len() + 1) > HTTP_HEAD_MAX_BYTES {
            break Some(Status::HeadTooLarge);
        }
        let Some(end) = end else { break None };
        match parse(&bytes[..end]) {
            Err(status) => break Some(status),
            Ok(noted) => {
                let framing = noted.framing;
                requests.push(noted);
                match framing {
                    Framing::Length(length) if length <= HTTP_BODY_SKIP_BYTES => {
                        bytes = bytes.get(end + length as usize..).unwrap_or_default();
                    }
                    Framing::Length(_) => break Some(Status::ContentTooLarge),
                    Framing::Chunked => break Some(Status::NotImplemented),
                }
            }
        }
    };
    Outcome { requests, status }
}

/// Parses a head that is all there.
fn parse(head: &[u8]) -> Result<Noted, Status> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(status) => assert_eq!(status, httparse::Status::Complete(head.len())),
        Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
        Err(_) => return Err(Status::BadRequest),
    }
    let fields = owned(parsed.headers.iter().map(|field| (field.name, field.value)));
    let http_10 = parsed.version == Some(0);
    let named = |wanted: &'static str| fields.iter().filter(move |(name, _)| name == wanted);
    let says = |option: &str| {
        let options = named("connection").flat_map(|(_, value)| value.split(|byte| *byte == b','));
        options.map(<[u8]>::trim_ascii).any(|said| said.eq_ignore_ascii_case(option.as_bytes()))
    };
    let (mut length, mut chunked) = (None, false);
    for (name, value) in &fields {
        let text = str::from_utf8(value).unwrap_or_default();
        match name.as_str() {
            "content-length" if text.starts_with('+') => return Err(Status::BadRequest),
            "content-length" => {
                let bytes: u64 = text.parse().map_err(|_| Status::BadRequest)?;
                if length.is_some_and(|other| other != bytes) {
                    return Err(Status::BadRequest);
                }
                length = Some(bytes);
            }
            "transfer-encoding" if http_10 || chunked => return Err(Status::BadRequest),
            "transfer-encoding" if text.trim().eq_ignore_ascii_case("chunked") => chunked = true,
            "transfer-encoding" => return Err(Status::NotImplemented),
            _ => {}
        }
    }
    let hosts = named("host").count();
    if hosts > 1 || (hosts == 0 && !http_10) || (chunked && length.is_some()) {
        return Err(Status::BadRequest);
    }
    let target = parsed.path.expect("a target").to_owned();
    let is_absolute = target.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
    if !target.starts_with('/') && !is_absolute {
        return Err(Status::BadRequest);
    }
    let by_proxies = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip"];
    Ok(Noted {
        method: parsed.method.expect("a method").to_owned(),
        target,
        http_10,
        keep_alive: !says("close") && (!http_10 || says("keep-alive")),
        framing: if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) },
        expects_continue: !http_10 && named("expect").count() > 0,
        proxied: fields.iter().filter(|(name, _)| by_proxies.contains(&name.as_str())).cloned().collect(),
        fields,
    })
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
