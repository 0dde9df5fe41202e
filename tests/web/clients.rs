//! Owns the tests of routes against bad clients: slow ones, ones that disappear, too many at a time, ones that pipeline
//! mixed requests, and ones that send arbitrary bytes.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::site::{LIMIT, check_unharmed, post, site, typed, with};
use crate::support::{
    HttpClient, RESPONSES, Tracker, UdpClient, announce_path, config, connect, eventually, eventually_equal,
    get, info_hash, scrape_path,
};
use gyre::config::Config;
use gyre::counters::Counter;
use gyre::engine::context::{Action, RequestContext};
use gyre::engine::middleware::{Next, from_async, on};
use gyre::error::Code;
use gyre::limits::{HTTP_HEAD_MAX_BYTES, HTTP_WRITE_BATCH_BYTES, TCP_RECEIVE_BYTES};
use gyre::server::Builder;
use gyre::web::HttpConnection;
use gyre::wire::http::{BodyLength, FieldBuffer};
use proptest::prelude::*;
use socket2::SockRef;

/// Counts the running handlers.
#[derive(Clone, Default)]
struct Running(Arc<AtomicUsize>);

struct Guard<'a>(&'a AtomicUsize);

impl Running {
    fn start(&self) -> Guard<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Guard(&self.0)
    }

    #[track_caller]
    fn eventually(&self, expected: usize) {
        eventually_equal("number of running handlers", &expected, || self.0.load(Ordering::Acquire));
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Adds a route `/held` whose handlers wait until `open` is true.
fn with_held(site: Builder, running: &Running, open: &Arc<AtomicBool>) -> Builder {
    let (running, open) = (running.clone(), open.clone());
    site.get("/held", async move |connection: &mut HttpConnection| {
        let _guard = running.start();
        while !open.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        connection.send("held").await
    })
}

#[test]
fn a_slow_body_does_not_hold_its_handler() {
    let running = Running::default();
    let running_slow = running.clone();
    let tracker = Tracker::listen(site().post("/slow", async move |connection: &mut HttpConnection| {
        let _guard = running_slow.start();
        connection.keep(Duration::from_millis(300));
        let body = connection.body().raw().await?;
        connection.send(body).await
    }));
    for head in ["Content-Length: 900000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nf0000\r\n"] {
        let mut client = connect(&tracker);
        client.send(format!("POST /slow HTTP/1.1\r\nHost: t\r\n{head}"));
        running.eventually(1);
        // Single bytes, until the tracker closes the connection.
        eventually("the end", || client.stream().write_all(b"x").is_err());
        running.eventually(0);
        assert!(client.try_request("").is_none(), "closed without a response");
    }
    check_unharmed(&tracker);
}

#[test]
fn handlers_notice_a_closed_connection() {
    let (running, errors) = (Running::default(), Arc::new(AtomicUsize::new(0)));
    let [waits, reads, writes] = std::array::from_fn(|_| (running.clone(), errors.clone()));
    let builder = site()
        .get("/waits", async move |connection: &mut HttpConnection| {
            let _guard = waits.0.start();
            connection.aborted().await;
            assert!(connection.is_aborted());
            let error = connection.send("too late").await.unwrap_err();
            waits.1.fetch_add(usize::from(error.code() == Code::ConnectionClosed), Ordering::AcqRel);
            Err(error)
        })
        .post("/reads", async move |connection: &mut HttpConnection| {
            let _guard = reads.0.start();
            let error = connection.body().raw().await.unwrap_err();
            reads.1.fetch_add(usize::from(error.code() == Code::ConnectionClosed), Ordering::AcqRel);
            Err(error)
        })
        .get("/writes", async move |connection: &mut HttpConnection| {
            let _guard = writes.0.start();
            let mut stream = connection.stream().await?;
            let error = loop {
                if let Err(error) = stream.write(&[b'x'; 50_000]).await {
                    break error;
                }
            };
            writes.1.fetch_add(usize::from(error.code() == Code::ConnectionClosed), Ordering::AcqRel);
            Err(error)
        });
    let tracker = Tracker::listen(builder);
    for (number, path) in (1..).zip(["GET /waits", "POST /reads", "GET /writes"]) {
        let client = connect(&tracker);
        client.send(format!("{path} HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nx"));
        running.eventually(1);
        drop(client);
        running.eventually(0);
        assert_eq!(errors.load(Ordering::Acquire), number, "{path}");
    }
    check_unharmed(&tracker);
}

#[test]
fn handlers_are_limited_by_the_number_of_connections() {
    let (running, open) = (Running::default(), Arc::default());
    let most = 5;
    let config = Config { http_connections: Some(most), ..config(1) };
    let tracker = Tracker::listen(with_held(site().config(config), &running, &open));
    let mut idle = connect(&tracker);
    assert_eq!(idle.get("/any").status, 200);
    assert_eq!(connect(&tracker).get("/any").status, 200);
    tracker.await_count(&[Counter::HttpOther], 2); // it is idle now, before the others connect
    let mut held: Vec<HttpClient> = (0..most).map(|_| connect(&tracker)).collect();
    held.iter_mut().for_each(|client| client.send(get("/held")));
    running.eventually(most);
    assert!(idle.try_request(get("/any")).is_none(), "an idle connection makes room");
    // Pipelined requests wait for the running handler and start none.
    held[0].send(get("/held").repeat(3));
    for sends in [false, true] {
        let mut refused = connect(&tracker);
        if sends {
            let _ = refused.stream().write_all(get("/any").as_bytes()); // refused before it sends
        }
        let response = refused.receive();
        assert_eq!((response.status, response.field("Connection")), (503, Some("close")));
        assert!(response.field("Retry-After").is_some());
        assert!(refused.rest().is_empty());
    }
    tracker.await_count(&[Counter::DropConnections], 2);
    assert_eq!(running.0.load(Ordering::Acquire), most);
    UdpClient::connected(tracker.udp(gyre::types::Family::V4));
    open.store(true, Ordering::Release);
    held.iter_mut().for_each(|client| assert_eq!(client.receive().text(), "held"));
    (0..3).for_each(|_| assert_eq!(held[0].receive().text(), "held"));
    drop(held);
    running.eventually(0);
    tracker.await_count(&[Counter::Connections], 0);
    check_unharmed(&tracker);
}

#[test]
fn requests_behind_a_running_handler_have_the_same_limits() {
    let (running, open) = (Running::default(), Arc::<AtomicBool>::default());
    let tracker = Tracker::listen(with_held(site(), &running, &open));
    let long = format!("X: {}\r\n", "y".repeat(HTTP_HEAD_MAX_BYTES));
    for (behind, status) in
        [(with(&long), 431), (with("X : y\r\n"), 400), ("junk\r\n\r\n".into(), 400), (with(""), 200)]
    {
        open.store(false, Ordering::Release);
        let mut client = connect(&tracker);
        client.send(get("/held"));
        running.eventually(1);
        client.send(behind);
        open.store(true, Ordering::Release);
        assert_eq!(client.receive().text(), "held");
        assert_eq!(client.receive().status, status);
        running.eventually(0);
    }
    check_unharmed(&tracker);
}

/// Requests of all kinds, each with the status of its response and the start of its body.
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

/// The responses are more than the socket buffers hold. A batch still waits for the client when the handler of the
/// page behind it begins to write.
#[test]
fn pages_behind_batches_of_responses_that_wait_for_the_client_are_sent_after_them() {
    let tracker = Tracker::listen(site());
    let mut client = connect(&tracker);
    (1..=50).for_each(|port| drop(client.get(&announce_path(info_hash(1), port, "&numwant=0&compact=0"))));
    let announce = get(&announce_path(info_hash(1), 1, "&compact=0"));
    let length = client.request(&announce).content_length();
    let batch = HTTP_WRITE_BATCH_BYTES / length + 1;
    let part = announce.repeat(batch) + &get("/any");
    assert!(part.len() <= TCP_RECEIVE_BYTES, "it does not arrive in one receive: this tests nothing");
    SockRef::from(client.stream()).set_recv_buffer_size(65_536).unwrap();
    let parts = 40;
    client.send(part.repeat(parts));
    for _ in 0..parts {
        (0..batch).for_each(|_| assert_eq!(client.receive().content_length(), length));
        assert_eq!(client.receive().text(), "ok");
    }
    drop(client);
    check_unharmed(&tracker);
}

#[test]
fn pipelined_mixtures_are_answered_in_order() {
    let (running, open) = (Running::default(), Arc::new(AtomicBool::new(true)));
    // Announces wait, so that every way of handing over the input precedes every other.
    let waits = from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| {
        tokio::task::yield_now().await;
        next.run(request).await
    });
    let tracker = Tracker::listen(with_held(site(), &running, &open).middleware(on(Action::Announce, waits)));
    let requests = mixture();
    let all: Vec<u8> = requests.iter().flat_map(|(request, ..)| request).copied().collect();
    let mut other = connect(&tracker);
    for size in [1, 7, 61, 640, 997, all.len()] {
        let mut client = connect(&tracker);
        for (at, part) in all.chunks(size).enumerate() {
            client.send(part);
            if at % 16 == 0 {
                other.get("/any"); // the tracker has had a turn
            }
        }
        for (request, status, start) in &requests {
            let response = client.receive();
            let shown = request.escape_ascii();
            assert_eq!(response.status, *status, "{size} bytes at a time: {shown}");
            assert!(response.text().starts_with(start), "{shown}: {}", response.text());
        }
    }
    drop(other);
    check_unharmed(&tracker);
}

/// Takes a complete valid response from the start of the bytes: status line, fields, and a body of the declared length.
/// Returns the rest. `None`: the response is malformed or incomplete.
fn take_response(bytes: &[u8]) -> Option<&[u8]> {
    let mut buffer = FieldBuffer::new();
    let response = RESPONSES.read(bytes, false, &mut buffer).ok()??;
    let lengths = response.head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let framed = matches!(response.head.body, BodyLength::Bytes(_)) && lengths.count() <= 1;
    (framed && (100..600).contains(&response.head.status)).then(|| &bytes[response.bytes..])
}

/// Changes some bytes: replaces, removes, inserts and repeats them.
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

/// The tracker answers any bytes with complete responses and then closes the connection.
#[test]
fn any_bytes_get_only_complete_responses() {
    let (running, open) = (Running::default(), Arc::new(AtomicBool::new(true)));
    let tracker = Tracker::listen(with_held(site(), &running, &open));
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
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in requests)| {
        let mut client = connect(&tracker);
        // The tracker may close the connection before all is sent.
        let _ = client.stream().write_all(&bytes);
        let _ = client.stream().shutdown(Shutdown::Write);
        let received = client.rest();
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            rest = match take_response(rest) {
                Some(rest) => rest,
                None => return Err(TestCaseError::fail(format!("{}", received.escape_ascii()))),
            };
        }
    });
    running.eventually(0);
    check_unharmed(&tracker);
}
