//! Owns the tests of routes against bad input, as bytes on the wire: heads, bodies, framing, types, slow and vanishing
//! clients. Each says whether the connection ends or stays usable. What clever content gets at is in `web_intrusion.rs`.

mod support;

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gyre::Tracker as Gyre;
use gyre::config::Config;
use gyre::counters::Counter;
use gyre::engine::context::{Action, RequestContext};
use gyre::engine::middleware::{Next, from_async, on};
use gyre::error::{Code, TrackerError};
use gyre::limits::{
    HTTP_BODY_SKIP_BYTES, HTTP_HEAD_MAX_BYTES, HTTP_HEADERS_MAX, WEB_CHUNK_LINE_BYTES, WEB_COOKIES_MAX,
    WEB_FIELD_HEAD_BYTES, WEB_FORM_FIELDS, WEB_QUERY_PAIRS_MAX, WEB_TRAILERS_BYTES,
};
use gyre::server::Builder;
use gyre::types::Family;
use gyre::web::HttpConnection;
use proptest::prelude::*;
use support::{
    HttpClient, Tracker, UdpClient, announce_path, config, eventually, get, info_hash, scrape_path,
};

/// What a route here reads of a body.
const LIMIT: u64 = 1_000;
/// What a field of a form may have.
const FIELD_LIMIT: u64 = 100;
/// A request that a bad one may smuggle in.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

type Result<T = ()> = std::result::Result<T, TrackerError>;

async fn form(connection: &mut HttpConnection) -> Result {
    let mut form = connection.body().limit(10 * HTTP_BODY_SKIP_BYTES).multipart().await?;
    let mut names = String::new();
    while let Some(field) = form.next_field().await? {
        names.push_str(field.name());
        field.limit(FIELD_LIMIT).bytes().await?;
    }
    connection.send(names).await
}

/// A site that reads all that a request can have.
fn site() -> Builder {
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

fn connect(tracker: &Tracker) -> HttpClient {
    HttpClient::connect(tracker.http(Family::V4))
}

/// What becomes of a connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It is told to end, and ends; whatever follows the request is not answered.
    Ends,
    /// The next request is answered.
    Stays,
}
use After::{Ends, Stays};

/// Sends a request, which is to be answered with this status.
#[track_caller]
fn check(tracker: &Tracker, request: impl AsRef<[u8]>, status: u16, after: After) {
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
fn check_unharmed(tracker: &Tracker) {
    assert_eq!(connect(tracker).get("/any").text(), "ok");
    assert!(connect(tracker).get(&announce_path(info_hash(1), 1, "")).text().contains("8:interval"));
    UdpClient::connected(tracker.udp(Family::V4));
    tracker.await_count(&[Counter::Connections], 0);
}

/// A head of a GET with these fields.
fn with(fields: &str) -> String {
    format!("GET /any HTTP/1.1\r\nHost: t\r\n{fields}\r\n")
}

fn post(path: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn typed(path: &str, media_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post(path, &format!("Content-Type: {media_type}\r\n"), body)
}

#[test]
fn malformed_heads_end_the_connection() {
    let tracker = Tracker::listen(site());
    for head in [
        "GET /any\r\n\r\n",
        "GET  /any HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any http/1.1\r\nHost: t\r\n\r\n",
        "GET /any HTTP/1.2\r\nHost: t\r\n\r\n",
        "GET /any HTTP/3.0\r\nHost: t\r\n\r\n",
        "GET any HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET https://t/any HTTP/1.1\r\nHost: t\r\n\r\n",
        "G{T /any HTTP/1.1\r\nHost: t\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
        "CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any\0 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any\x01 HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /any HTTP/1.1\r\n Host: t\r\n\r\n",
        "GET /any HTTP/1.1\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: t/any\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: a@t\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /any HTTP/1.1\r\nHost: t:port\r\n\r\n",
        "GET http://a@t/any HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET http://t:port/any HTTP/1.1\r\nHost: t\r\n\r\n",
    ] {
        check(&tracker, head, 400, Ends);
    }
    for field in [
        "X : y",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\rb",
        "X: a\0b",
        "X: \x7f",
        ": x",
        "X(: y",
        "\x01: y",
        "X",
    ] {
        check(&tracker, with(&format!("{field}\r\n")), 400, Ends);
    }
    check(&tracker, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, Ends);
    // RFC 9112, section 2.2: line feeds alone, and empty lines before a request, are put up with.
    check(&tracker, "\r\n\n".to_owned() + &with("").replace("\r\n", "\n"), 200, Stays);
    check(&tracker, "GET /any HTTP/1.0\r\n\r\n", 200, Ends);
    check_unharmed(&tracker);
}

#[test]
fn a_head_has_bounds() {
    let tracker = Tracker::listen(site());
    let fields = |count: usize| (0..count).map(|at| format!("X-{at}: y\r\n")).collect::<String>();
    let long = |bytes: usize| format!("X: {}\r\n", "y".repeat(bytes));
    check(&tracker, with(&fields(HTTP_HEADERS_MAX - 1)), 200, Stays);
    check(&tracker, with(&fields(HTTP_HEADERS_MAX)), 431, Ends);
    check(&tracker, with(&long(HTTP_HEAD_MAX_BYTES - 100)), 200, Stays);
    check(&tracker, with(&long(HTTP_HEAD_MAX_BYTES)), 431, Ends);
    check(&tracker, format!("GET /{}", "a".repeat(5 * HTTP_HEAD_MAX_BYTES)), 431, Ends);
    check_unharmed(&tracker);
}

/// RFC 9112, sections 6.1 and 6.3: what two readers could read differently is refused, and what follows not looked at.
#[test]
fn a_body_has_one_length() {
    let tracker = Tracker::listen(site());
    let post = |fields: &str, body: &str| format!("POST /raw HTTP/1.1\r\nHost: t\r\n{fields}\r\n{body}");
    for length in ["x", "-1", "+1", "0x1", "1,1", "1 1", "", "1e0", "1.0", "18446744073709551616"] {
        check(&tracker, post(&format!("Content-Length: {length}\r\n"), "a"), 400, Ends);
    }
    let (chunked, body) = ("Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n");
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2\r\n".to_owned(),
        format!("Content-Length: 11\r\n{chunked}"),
        format!("{chunked}Content-Length: 11\r\n"),
        format!("{chunked}{chunked}"),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\0\r\n".to_owned(),
    ] {
        check(&tracker, post(&fields, body), 400, Ends);
    }
    check(&tracker, post(chunked, body).replace("/1.1", "/1.0"), 400, Ends);
    for coding in
        ["gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", "\"chunked\"", ""]
    {
        check(&tracker, post(&format!("Transfer-Encoding: {coding}\r\n"), body), 501, Ends);
    }
    check(&tracker, post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), 200, Stays);
    check(&tracker, post("Transfer-Encoding: \tChunked \r\n", body), 200, Stays);
    check_unharmed(&tracker);
}

#[test]
fn malformed_chunks_end_the_connection() {
    let tracker = Tracker::listen(site());
    let chunked = |body: &[u8]| {
        let head = b"POST /raw HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head.as_slice(), body].concat()
    };
    let end = "\r\n0\r\n\r\n";
    let long = "x".repeat(WEB_CHUNK_LINE_BYTES.into());
    let trailers = "X: y\r\n".repeat(usize::from(WEB_TRAILERS_BYTES) / 5 + 1);
    for body in [
        "x\r\n",
        "-1\r\na",
        "0x1\r\na",
        "\r\n",
        " 1\r\na",
        "1 a\r\na",
        "1 \r\na",
        "1\na\n0\n\n",
        "1\r\nab\r\n",
        "2\r\na\r\n",
        "1\ra",
        "1;\0\r\na",
        "1;a\nb\r\na",
        "00000000000000001\r\na",
        "10000000000000000\r\na",
    ] {
        check(&tracker, chunked(format!("{body}{end}").as_bytes()), 400, Ends);
    }
    for body in [
        format!("1;{long}\r\na{end}"),
        format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100) + end,
        format!("0\r\n{trailers}\r\n"),
        "0\r\nX y\r\n\r\n".to_owned(),
        "0\r\n: y\r\n\r\n".to_owned(),
        "0\r\nX: y\n\n".to_owned(),
    ] {
        check(&tracker, chunked(body.as_bytes()), 400, Ends);
    }
    let mut client = connect(&tracker);
    for body in ["1;a=\"b;c\"\r\na\r\n0;x\r\n\r\n", "01\r\na\r\n000\r\nContent-Length: 99\r\nHost: u\r\n\r\n"]
    {
        assert_eq!(client.request(chunked(body.as_bytes())).text(), "a", "{body}");
    }
    check_unharmed(&tracker);
}

#[test]
fn bodies_have_a_limit() {
    let tracker = Tracker::listen(site());
    let body = |bytes: u64| "a".repeat(bytes as usize);
    let announced = |bytes: u64| format!("POST /raw HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\n\r\n");
    check(&tracker, post("/raw", "", body(LIMIT)), 200, Stays);
    check(&tracker, post("/raw", "", body(LIMIT + 1)), 413, Stays);
    check(&tracker, post("/raw", "", body(HTTP_BODY_SKIP_BYTES)), 413, Stays);
    check(&tracker, post("/raw", "", body(HTTP_BODY_SKIP_BYTES + 1)), 413, Ends);
    check(&tracker, announced(u64::MAX), 413, Ends);
    check(&tracker, announced(u64::MAX).replace("/raw", "/any"), 200, Ends);
    let chunks = |data: &str| {
        let head = "POST /raw HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("{:x}\r\n{data}\r\n", data.len());
        head.to_owned() + &chunk + &chunk + "0\r\n\r\n"
    };
    check(&tracker, chunks(&body(LIMIT / 2)), 200, Stays);
    check(&tracker, chunks(&body(LIMIT / 2 + 1)), 413, Ends);
    check(&tracker, chunks("a").replace("/raw", "/any"), 200, Ends);
    check(&tracker, chunks("a").replace("/raw", "/nothing"), 404, Ends);
    check_unharmed(&tracker);
}

#[test]
fn content_must_be_what_it_is_said_to_be() {
    let tracker = Tracker::listen(site());
    let (json, urlencoded) = ("application/json", "application/x-www-form-urlencoded");
    for media_type in ["text/plain", "json", "", "/", "application/json; charset=latin1", urlencoded] {
        check(&tracker, typed("/json", media_type, "{}"), 415, Stays);
    }
    let wild =
        [b"POST /json HTTP/1.1\r\nHost: t\r\nContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}".as_slice()];
    check(&tracker, wild.concat(), 415, Stays);
    check(&tracker, post("/json", "", "{}"), 415, Stays);
    check(&tracker, typed("/form", json, "a=b"), 415, Stays);
    check(&tracker, typed("/json", json, "{}"), 200, Stays);
    let deep = "[".repeat(100_000);
    for body in ["", "{", "nul", "{}{}", "{\"a\":1,}", "\"\\ud800\"", "1e999999", &deep] {
        check(&tracker, typed("/json", json, body), 400, Stays);
    }
    check(&tracker, typed("/json", json, b"\"\xff\""), 400, Stays);
    let many = "a&".repeat(WEB_FORM_FIELDS);
    for body in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=a", "a=%c3", &many] {
        check(&tracker, typed("/form", urlencoded, body), 400, Stays);
    }
    check(&tracker, typed("/form", urlencoded, b"a=\xff"), 400, Stays);
    check(&tracker, typed("/form", urlencoded, "a=%00&&=&a"), 200, Stays);
    check_unharmed(&tracker);
}

#[test]
fn forms_of_several_parts_have_bounds() {
    let tracker = Tracker::listen(site());
    let part = |head: &str, body: &str| format!("--b\r\n{head}\r\n\r\n{body}\r\n");
    let named = |body: &str| part("Content-Disposition: form-data; name=\"a\"", body);
    let multipart = "multipart/form-data; boundary=b";
    for media_type in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=b",
        "text/plain; boundary=b",
        &format!("multipart/form-data; boundary={}", "b".repeat(71)),
    ] {
        check(&tracker, typed("/multipart", media_type, named("x") + "--b--\r\n"), 415, Stays);
    }
    for (status, body) in [
        (200, named("x") + "--b--\r\n"),
        (200, named(&"x".repeat(FIELD_LIMIT as usize)) + "--b--"),
        (413, named(&"x".repeat(FIELD_LIMIT as usize + 1)) + "--b--"),
        (200, named("").repeat(WEB_FORM_FIELDS) + "--b--"),
        (400, named("").repeat(WEB_FORM_FIELDS + 1) + "--b--"),
        (400, named("x")),
        (400, String::new()),
        (400, "junk".repeat(100)),
        (400, "--c\r\n\r\n--c--".to_owned()),
        (400, "--b".to_owned()),
        (400, "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n".to_owned()),
        (400, part("Content-Disposition: form-data", "x") + "--b--"),
        (400, part("X: y", "x") + "--b--"),
        (400, part(&format!("X: {}", "y".repeat(2 * WEB_FIELD_HEAD_BYTES)), "x") + "--b--"),
        (400, part("no field at all", "x") + "--b--"),
    ] {
        check(&tracker, typed("/multipart", multipart, &body), status, Stays);
    }
    // A part that never ends is cut off at the form's limit.
    let mut client = connect(&tracker);
    client.send(typed("/multipart", multipart, "").strip_suffix(b"Content-Length: 0\r\n\r\n").unwrap());
    client.send("Transfer-Encoding: chunked\r\n\r\n");
    let endless = format!("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}", "x".repeat(1_000));
    client.send(format!("{:x}\r\n{endless}\r\n", endless.len()));
    assert_eq!(client.receive().status, 413);
    assert!(client.rest().is_empty());
    check_unharmed(&tracker);
}

#[test]
fn malformed_parameters_leave_the_connection_usable() {
    let tracker = Tracker::listen(site());
    let pairs = |count: usize| (0..count).map(|_| "a&").collect::<String>();
    for (path, status) in [
        ("/query?a=%", 400),
        ("/query?a=%2", 400),
        ("/query?%zz", 400),
        ("/query?a=%ff", 400),
        ("/query?a=%c3%28", 400),
        ("/query?&&&=&==", 200),
        ("/query?a=%00%0d%0a", 200),
        (&format!("/query?{}", pairs(WEB_QUERY_PAIRS_MAX)), 200),
        (&format!("/query?{}", pairs(WEB_QUERY_PAIRS_MAX + 1)), 400),
        ("/name/%", 400),
        ("/name/%f", 400),
        ("/name/%ff", 400),
        ("/name/%c0%ae", 400),
        ("/name/%00", 200),
        ("/name/a%2fb", 200),
        ("/name/a/b", 404),
        ("/name/", 404),
        ("//any", 404),
        ("/any/", 404),
        ("/any%", 404),
        ("/%61ny", 404),
        ("/./any", 404),
    ] {
        check(&tracker, get(path), status, Stays);
    }
    check(&tracker, get("/query").replace("GET", "POST"), 405, Stays);
    check(&tracker, get("/query").replace("GET", "get"), 405, Stays);
    check_unharmed(&tracker);
}

#[test]
fn malformed_cookies_are_refused() {
    let tracker = Tracker::listen(site());
    let request =
        |cookie: &[u8]| [b"GET /cookies HTTP/1.1\r\nHost: t\r\nCookie: ", cookie, b"\r\n\r\n"].concat();
    let cookies = |count: usize| "a=b; ".repeat(count).into_bytes();
    for cookie in
        [b"=x".as_slice(), b"name", b"a=\xff", b"a=%ff", b"a=\tb", b"\xff=a", b"a=b; =", b"a=\xc2\x85"]
    {
        check(&tracker, request(cookie), 400, Stays);
    }
    for cookie in [b"".as_slice(), b";;; ;", b"a=", b"a=%", b"a=b=c", b"a=\"", &cookies(WEB_COOKIES_MAX)] {
        check(&tracker, request(cookie), 200, Stays);
    }
    check(&tracker, request(&cookies(WEB_COOKIES_MAX + 1)), 431, Stays);
    check(&tracker, request(&[b"a=", "b".repeat(HTTP_HEAD_MAX_BYTES).as_bytes()].concat()), 431, Ends);
    check_unharmed(&tracker);
}

/// Counts those who are in a handler.
#[derive(Clone, Default)]
struct Inside(Arc<AtomicUsize>);

struct Guard<'a>(&'a AtomicUsize);

impl Inside {
    fn enter(&self) -> Guard<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Guard(&self.0)
    }

    #[track_caller]
    fn eventually(&self, expected: usize) {
        support::eventually_equal("so many in the handler", &expected, || self.0.load(Ordering::Acquire));
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A site with a route `/held` whose handlers end when the gate opens.
fn with_held(site: Builder, inside: &Inside, open: &Arc<AtomicBool>) -> Builder {
    let (inside, open) = (inside.clone(), open.clone());
    site.get("/held", async move |connection: &mut HttpConnection| {
        let _guard = inside.enter();
        while !open.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        connection.send("held").await
    })
}

#[test]
fn a_body_that_trickles_holds_no_handler() {
    let inside = Inside::default();
    let inside_slow = inside.clone();
    let tracker = Tracker::listen(site().post("/slow", async move |connection: &mut HttpConnection| {
        let _guard = inside_slow.enter();
        connection.keep(Duration::from_millis(300));
        let body = connection.body().raw().await?;
        connection.send(body).await
    }));
    for head in ["Content-Length: 900000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nf0000\r\n"] {
        let mut client = connect(&tracker);
        client.send(format!("POST /slow HTTP/1.1\r\nHost: t\r\n{head}"));
        inside.eventually(1);
        // A byte now and then until the tracker has enough of it.
        eventually("the end", || client.stream().write_all(b"x").is_err());
        inside.eventually(0);
        assert!(client.try_request("").is_none(), "an end without a response");
    }
    check_unharmed(&tracker);
}

#[test]
fn who_goes_away_is_noticed_by_the_handler() {
    let (inside, errors) = (Inside::default(), Arc::new(AtomicUsize::new(0)));
    let [waits, reads, writes] = std::array::from_fn(|_| (inside.clone(), errors.clone()));
    let builder = site()
        .get("/waits", async move |connection: &mut HttpConnection| {
            let _guard = waits.0.enter();
            connection.aborted().await;
            assert!(connection.is_aborted());
            let gone = connection.send("too late").await.unwrap_err();
            waits.1.fetch_add(usize::from(gone.code() == Code::ConnectionClosed), Ordering::AcqRel);
            Err(gone)
        })
        .post("/reads", async move |connection: &mut HttpConnection| {
            let _guard = reads.0.enter();
            let gone = connection.body().raw().await.unwrap_err();
            reads.1.fetch_add(usize::from(gone.code() == Code::ConnectionClosed), Ordering::AcqRel);
            Err(gone)
        })
        .get("/writes", async move |connection: &mut HttpConnection| {
            let _guard = writes.0.enter();
            let mut stream = connection.stream().await?;
            let gone = loop {
                if let Err(gone) = stream.write(&[b'x'; 50_000]).await {
                    break gone;
                }
            };
            writes.1.fetch_add(usize::from(gone.code() == Code::ConnectionClosed), Ordering::AcqRel);
            Err(gone)
        });
    let tracker = Tracker::listen(builder);
    for (number, path) in (1..).zip(["GET /waits", "POST /reads", "GET /writes"]) {
        let client = connect(&tracker);
        client.send(format!("{path} HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nx"));
        inside.eventually(1);
        drop(client);
        inside.eventually(0);
        assert_eq!(errors.load(Ordering::Acquire), number, "{path}");
    }
    check_unharmed(&tracker);
}

#[test]
fn handlers_are_as_many_as_connections() {
    let (inside, open) = (Inside::default(), Arc::default());
    let most = 5;
    let config = Config { http_connections: Some(most), ..config(1) };
    let tracker = Tracker::listen(with_held(site().config(config), &inside, &open));
    let mut held: Vec<HttpClient> = (0..most).map(|_| connect(&tracker)).collect();
    held.iter_mut().for_each(|client| client.send(get("/held")));
    inside.eventually(most);
    // What is pipelined behind a handler waits for it, and is no handler of its own.
    held[0].send(get("/held").repeat(3));
    let mut refused = connect(&tracker);
    assert_eq!(refused.receive().status, 503);
    assert!(refused.rest().is_empty());
    assert_eq!(inside.0.load(Ordering::Acquire), most);
    UdpClient::connected(tracker.udp(Family::V4));
    open.store(true, Ordering::Release);
    held.iter_mut().for_each(|client| assert_eq!(client.receive().text(), "held"));
    (0..3).for_each(|_| assert_eq!(held[0].receive().text(), "held"));
    drop(held);
    inside.eventually(0);
    tracker.await_count(&[Counter::Connections], 0);
    check_unharmed(&tracker);
}

#[test]
fn what_comes_while_a_handler_works_has_the_same_bounds() {
    let (inside, open) = (Inside::default(), Arc::<AtomicBool>::default());
    let tracker = Tracker::listen(with_held(site(), &inside, &open));
    let long = format!("X: {}\r\n", "y".repeat(HTTP_HEAD_MAX_BYTES));
    for (behind, status) in
        [(with(&long), 431), (with("X : y\r\n"), 400), ("junk\r\n\r\n".into(), 400), (with(""), 200)]
    {
        open.store(false, Ordering::Release);
        let mut client = connect(&tracker);
        client.send(get("/held"));
        inside.eventually(1);
        client.send(behind);
        open.store(true, Ordering::Release);
        assert_eq!(client.receive().text(), "held");
        assert_eq!(client.receive().status, status);
        inside.eventually(0);
    }
    check_unharmed(&tracker);
}

/// Requests of all kinds, and what their responses start or end with.
fn mixture() -> Vec<(Vec<u8>, u16, &'static str)> {
    let multipart = "--b\r\nContent-Disposition: form-data; name=\"part\"\r\n\r\n\r\n--b--";
    vec![
        (get(&announce_path(info_hash(1), 1, "")).into_bytes(), 200, "d8:complete"),
        (get("/any").into_bytes(), 200, "ok"),
        (get(&scrape_path(&[info_hash(1)])).into_bytes(), 200, "d5:files"),
        (post("/raw", "", "GET /any HTTP/1.1"), 200, "GET /any HTTP/1.1"),
        (get("/nothing").into_bytes(), 404, "404"),
        (get("/health").into_bytes(), 200, "ok\n"),
        (post("/any", "", "unread"), 200, "ok"),
        (get("/name/%zz").into_bytes(), 400, "400"),
        (
            b"POST /raw HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nch\r\n0\r\n\r\n".into(),
            200,
            "ch",
        ),
        (post("/announce", "", "unread"), 405, "405"),
        (typed("/multipart", "multipart/form-data; boundary=b", multipart), 200, "part"),
        (get("/scrape").into_bytes(), 200, "d14:failure reason"),
        (post("/raw", "", "x".repeat(LIMIT as usize + 1)), 413, "413"),
        (get("/held").into_bytes(), 200, "held"),
    ]
}

#[test]
fn pipelined_mixtures_are_answered_in_order() {
    let (inside, open) = (Inside::default(), Arc::new(AtomicBool::new(true)));
    // Announces are waited with, so that each of the ways to take the input over comes before each other.
    let waits = from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| {
        tokio::task::yield_now().await;
        next.run(request).await
    });
    let tracker = Tracker::listen(with_held(site(), &inside, &open).middleware(on(Action::Announce, waits)));
    let requests = mixture();
    let all: Vec<u8> = requests.iter().flat_map(|(request, ..)| request).copied().collect();
    let mut witness = connect(&tracker);
    for size in [1, 7, 61, 640, 997, all.len()] {
        let mut client = connect(&tracker);
        for (at, part) in all.chunks(size).enumerate() {
            client.send(part);
            if at % 16 == 0 {
                witness.get("/any"); // the tracker has had a turn
            }
        }
        for (request, status, start) in &requests {
            let response = client.receive();
            let shown = request.escape_ascii();
            assert_eq!(response.status, *status, "{size} bytes at a time: {shown}");
            assert!(response.text().starts_with(start), "{shown}: {}", response.text());
        }
    }
    check_unharmed(&tracker);
}

/// Takes a response that is as it should be from the start of what came: status line, fields, a body of the length
/// told. `None`: it isn't, or not whole.
fn take_response(mut bytes: &[u8]) -> Option<&[u8]> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).ok()? else { return None };
    bytes = &bytes[length..];
    let status = response.code.filter(|status| (100..600).contains(status))?;
    let mut lengths =
        response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body: usize = match lengths.next() {
        Some(field) => str::from_utf8(field.value).ok()?.trim().parse().ok()?,
        None if matches!(status, 100 | 204 | 304) => 0,
        None => return None,
    };
    if lengths.next().is_some() { None } else { bytes.get(body..) }
}

/// Changes some bytes: other ones, some less, some more, some twice.
fn mutate(mut bytes: Vec<u8>, changes: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
    for (kind, at, byte) in changes {
        let at = at.index(bytes.len().max(1)).min(bytes.len());
        let end = (at + usize::from(*byte)).min(bytes.len());
        match kind % 4 {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, *byte),
            _ => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
        }
    }
    bytes
}

/// Whatever comes there are whole responses, and then the end.
#[test]
fn no_bytes_bring_anything_but_responses_and_the_end() {
    let (inside, open) = (Inside::default(), Arc::new(AtomicBool::new(true)));
    let tracker = Tracker::listen(with_held(site(), &inside, &open));
    let valid: Vec<Vec<u8>> = mixture().into_iter().map(|(request, ..)| request).collect();
    let change = (any::<u8>(), any::<prop::sample::Index>(), any::<u8>());
    let mutated = prop::collection::vec(
        (prop::sample::select(valid), prop::collection::vec(change, 0..4))
            .prop_map(|(request, changes)| mutate(request, &changes)),
        1..5,
    );
    let junk = prop::collection::vec(any::<u8>(), 0..300);
    let field = |name: &'static str| {
        let value = prop::collection::vec(any::<u8>(), 0..100);
        value.prop_map(move |value| {
            [format!("GET /cookies HTTP/1.1\r\nHost: t\r\n{name}: ").as_bytes(), &value, b"\r\n\r\n"].concat()
        })
    };
    let query = "[ -~]{0,80}".prop_map(|query| get(&format!("/query?{query}")).into_bytes());
    let parts = prop::collection::vec(
        prop::sample::select(vec![
            "--b",
            "--",
            "\r\n",
            "\n",
            "\r",
            ":",
            "Content-Disposition: form-data; name=a",
            "x",
            "\0",
            "\r\n\r\n",
            "; name=\"",
        ]),
        0..20,
    );
    let form = parts.prop_map(|parts| typed("/multipart", "multipart/form-data; boundary=b", parts.concat()));
    let requests = prop_oneof![
        4 => mutated.prop_map(|requests| requests.concat()),
        1 => junk,
        1 => field("Cookie"),
        1 => field("Content-Length"),
        1 => query,
        2 => form,
    ];
    proptest!(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() }, |(bytes in requests)| {
        let mut client = connect(&tracker);
        // The tracker may have enough of it before all is sent.
        let _ = client.stream().write_all(&bytes);
        let _ = client.stream().shutdown(Shutdown::Write);
        let came = client.rest();
        let mut rest = came.as_slice();
        while !rest.is_empty() {
            rest = match take_response(rest) {
                Some(rest) => rest,
                None => return Err(TestCaseError::fail(format!("{}", came.escape_ascii()))),
            };
        }
    });
    inside.eventually(0);
    check_unharmed(&tracker);
}
