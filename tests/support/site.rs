//! Owns a site for bad input: routes that read all that a request can have, and what is checked after each request.

use std::io::Write;

use gyre::Tracker as Gyre;
use gyre::counters::Counter;
use gyre::error::TrackerError;
use gyre::limits::HTTP_BODY_SKIP_BYTES;
use gyre::server::Builder;
use gyre::web::HttpConnection;

use super::{Tracker, announce_path, config, connect, info_hash, udp};

/// What a route here reads of a body.
pub(crate) const LIMIT: u64 = 1_000;
/// What a field of a form may have.
pub(crate) const FIELD_LIMIT: u64 = 100;
/// A request that a bad one may smuggle in.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

async fn form(connection: &mut HttpConnection) -> Result<(), TrackerError> {
    let mut form = connection.body().limit(10 * HTTP_BODY_SKIP_BYTES).multipart().await?;
    let mut names = String::new();
    while let Some(field) = form.next_field().await? {
        names.push_str(field.name());
        field.limit(FIELD_LIMIT).bytes().await?;
    }
    connection.send(names).await
}

/// A site that reads all that a request can have.
pub(crate) fn site() -> Builder {
    Gyre::builder()
        .config(config(2))
        .any("/any", async |connection: &mut HttpConnection| connection.send("ok").await)
        .post("/raw", async |connection: &mut HttpConnection| {
            let body = connection.body().limit(LIMIT).raw().await?;
            connection.send(body).await
        })
        .post("/json", async |connection: &mut HttpConnection| {
            let value: serde_json::Value = connection.body().json().await?;
            connection.send(value.to_string()).await
        })
        .post("/form", async |connection: &mut HttpConnection| {
            let fields: Vec<(String, String)> = connection.body().form().await?;
            connection.send(fields.len().to_string()).await
        })
        .post("/multipart", form)
        .get("/query", async |connection: &mut HttpConnection| {
            let pairs = connection.query()?.len();
            connection.send(pairs.to_string()).await
        })
        .get("/cookies", async |connection: &mut HttpConnection| {
            let cookies = connection.cookies()?.len();
            connection.send(cookies.to_string()).await
        })
        .get("/name/{name}", async |connection: &mut HttpConnection| {
            let name = connection.param("name").unwrap_or_default().to_owned();
            connection.send(name).await
        })
}

/// What becomes of a connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It is told to end, and ends; whatever follows the request is not answered.
    Ends,
    /// The next request is answered.
    Stays,
}
pub(crate) use After::{Ends, Stays};

/// Sends a request, which is to be answered with this status.
#[track_caller]
pub(crate) fn check(tracker: &Tracker, request: impl AsRef<[u8]>, status: u16, after: After) {
    let request = request.as_ref();
    let shown = request[..request.len().min(200)].escape_ascii();
    let mut client = connect(tracker);
    let ended = [request, SMUGGLED.as_bytes()].concat();
    // The tracker may have answered and closed before all is sent.
    let _ = client.stream().write_all(if after == Ends { &ended } else { request });
    let response = client.receive();
    assert_eq!(response.status, status, "{shown}");
    match after {
        Ends => {
            assert_eq!(response.field("Connection"), Some("close"), "{shown}");
            let rest = client.rest();
            assert!(rest.is_empty(), "{shown}: {}", rest.escape_ascii());
        }
        Stays => {
            assert_eq!(response.field("Connection"), None, "{shown}");
            assert_eq!(client.get("/any").text(), "ok", "{shown}");
        }
    }
}

/// Others are still answered, and nothing is left of those who were here.
#[track_caller]
pub(crate) fn check_unharmed(tracker: &Tracker) {
    assert_eq!(connect(tracker).get("/any").text(), "ok");
    assert!(connect(tracker).get(&announce_path(info_hash(1), 1, "")).text().contains("8:interval"));
    udp(tracker);
    tracker.await_count(&[Counter::Connections], 0);
}

/// A head of a GET with these fields.
pub(crate) fn with(fields: &str) -> String {
    format!("GET /any HTTP/1.1\r\nHost: t\r\n{fields}\r\n")
}

pub(crate) fn post(path: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

pub(crate) fn typed(path: &str, media_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post(path, &format!("Content-Type: {media_type}\r\n"), body)
}
