//! Owns the fuzzing of requests to a program's own routes, head and body. What the handlers read (query, cookies,
//! session, forms, files, JSON) and the response must not depend on how the request is split. The response must be
//! valid HTTP, and the next request must start where the body ends.

#![no_main]

mod cuts;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use gyre_core::error::{Code, TrackerError};
use gyre_core::wire::chunked::Decoder;
use gyre_core::wire::http::{FieldBuffer, Framing, Head, Request, RequestReader};
use gyre_web::session::{MemoryStore, Sessions};
use gyre_web::{HttpConnection, Served, Site, SiteRequest, transport};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/gyre-web/src/test_transport.rs"]
#[allow(dead_code)] // the library's tests use more of it
mod test_transport;

use test_transport::{TestTransport, run};

static SITE: LazyLock<Arc<Site>> = LazyLock::new(|| {
    let mut site = Site::default();
    site.route(None, "/read/{as}", Arc::new(read)).expect("a route");
    site.route(Some(http::Method::GET), "/{name}/{*rest}", Arc::new(look)).expect("a route");
    let sessions = Sessions::new(Arc::new(MemoryStore::default())).expect("random bytes");
    site.set_sessions(sessions.key(&[7; 64]));
    Arc::new(site)
});

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = FieldBuffer::new();
    let Ok(progress) = RequestReader::default().read(bytes, &mut buffer) else { return };
    let Some(head) = progress.head else { return };
    let (request, body) = (head.request, &bytes[progress.taken..]);
    let whole = serve(&head, body, Vec::new());
    check_response(&whole.written, &request);
    check_rest(&whole, &request, body);
    // Whether `100 Continue` is sent depends on how much of the body has already arrived.
    if request.expects_continue {
        return;
    }
    for pieces in cuts::splits(body) {
        let script = pieces.into_iter().map(<[u8]>::to_vec).collect();
        let cut = serve(&head, b"", script);
        assert_eq!(cut.written.escape_ascii().to_string(), whole.written.escape_ascii().to_string());
        assert_eq!((cut.keep_alive, cut.rest), (whole.keep_alive, whole.rest.clone()));
    }
});

/// The result of a request.
struct Outcome {
    keep_alive: bool,
    /// The response, without the date.
    written: Vec<u8>,
    /// The input left for the next request, if the connection stays open.
    rest: Option<Vec<u8>>,
}

fn serve(head: &Head<'_, '_>, come: &[u8], script: Vec<Vec<u8>>) -> Outcome {
    let transport = TestTransport::new(come, script);
    let ip = [192, 0, 2, 1].into();
    let keep_alive = head.request.keep_alive;
    let request = SiteRequest { head: head.into(), ip, is_https: false, keep_alive };
    let Served { keep_alive, skip_bytes } = run(SITE.serve(transport.clone(), request));
    let written = without_date(&transport.written());
    while run(std::future::poll_fn(|context| transport::Transport::poll_fill(&*transport, context)))
        .expect("no end")
    {}
    let mut rest = transport::Transport::input(&*transport).take();
    rest.drain(..rest.len().min(skip_bytes as usize));
    Outcome { keep_alive, written, rest: keep_alive.then_some(rest) }
}

fn without_date(response: &[u8]) -> Vec<u8> {
    const START: &[u8] = b"\r\nDate: ";
    let Some(at) = response.windows(START.len()).position(|window| window == START) else {
        return response.to_vec();
    };
    let end = at + START.len() + "Sun, 06 Nov 1994 08:49:37 GMT".len();
    [&response[..at], &response[end..]].concat()
}

fn check_response(written: &[u8], request: &Request<'_>) {
    let written = written.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(written);
    if written.is_empty() {
        return; // the client went away
    }
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let head = response.parse(written).expect("HTTP").unwrap();
    let body = &written[head..];
    let status = response.code.expect("a status");
    assert!(status < 500, "{}", written.escape_ascii());
    let length = response.headers.iter().find(|field| field.name == "Content-Length");
    match length.map(|field| str::from_utf8(field.value).expect("digits").parse::<usize>().expect("a number"))
    {
        Some(_) if request.method == gyre_core::wire::http::Method::Head => assert!(body.is_empty()),
        Some(length) => assert_eq!(body.len(), length),
        None => assert!([204, 304].contains(&status) && body.is_empty()),
    }
}

/// If the connection stays open, the input after the body must be left.
fn check_rest(outcome: &Outcome, request: &Request<'_>, body: &[u8]) {
    let Some(rest) = &outcome.rest else { return };
    let expected = match request.framing {
        Framing::Length(bytes) => body.get(bytes as usize..).unwrap_or_default(),
        Framing::Chunked => {
            let (mut decoder, mut left) = (Decoder::default(), body);
            loop {
                let decoded = decoder.decode(left).expect("it has been decoded before");
                left = &left[decoded.taken..];
                if decoded.done {
                    break left;
                }
                assert_ne!(decoded.taken, 0, "the end of the body is missing");
            }
        }
    };
    assert_eq!(rest, expected);
}

/// Describes the head of a request as text.
async fn note(connection: &mut HttpConnection) -> Result<String, TrackerError> {
    let mut seen = format!(
        "{} {} {} {} {} {:?} {:?} {:?}\n",
        connection.method(),
        connection.url(),
        connection.host(),
        connection.hostname(),
        connection.protocol(),
        connection.langs(),
        connection.params().iter().collect::<Vec<_>>(),
        connection.query()?.iter().collect::<Vec<_>>(),
    );
    let cookies: Vec<_> =
        connection.cookies()?.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    let _ = writeln!(seen, "{cookies:?}");
    assert!(connection.session().await?.is_empty(), "the input can't have a valid session");
    Ok(seen)
}

async fn look(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    let seen = note(connection).await?;
    connection.set_header("etag", "\"1\"")?;
    connection.send(seen).await
}

async fn read(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    let mut seen = note(connection).await?;
    let kind = connection.param("as").unwrap_or_default().to_owned();
    let body = connection.body().limit(4_096);
    match kind.as_str() {
        "raw" => seen.push_str(&body.raw().await?.escape_ascii().to_string()),
        "text" => seen.push_str(&body.text().await?),
        "json" => drop(body.json::<serde::de::IgnoredAny>().await?),
        "form" => {
            let form: BTreeMap<String, Vec<String>> = body.form().await?;
            let _ = write!(seen, "{form:?}");
        }
        "multipart" => {
            let mut form = body.multipart().await?;
            while let Some(field) = form.next_field().await? {
                let _ = write!(seen, "{:?} {:?} {:?}", field.name(), field.file_name(), field.content_type());
                let _ = writeln!(seen, " {:?}", field.limit(1_000).bytes().await?);
            }
        }
        "skimmed" => {
            let mut form = body.multipart().await?;
            while let Some(field) = form.next_field().await? {
                let _ = writeln!(seen, "{:?}", field.name());
            }
        }
        "refused" => return Err(TrackerError::new(Code::NotFound, "there is nothing")),
        _ => {}
    }
    connection.send(seen).await
}
