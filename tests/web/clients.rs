//! Owns the tests of routes against bad clients: slow ones, vanishing ones, too many, those that pile up requests of
//! all kinds, and those that send whatever bytes there are.

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
use gyre::limits::HTTP_HEAD_MAX_BYTES;
use gyre::server::Builder;
use gyre::web::HttpConnection;
use gyre::wire::http::{BodyLength, FieldBuffer};
use proptest::prelude::*;

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
        eventually_equal("so many in the handler", &expected, || self.0.load(Ordering::Acquire));
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
    let mut idler = connect(&tracker);
    assert_eq!(idler.get("/any").status, 200);
    assert_eq!(connect(&tracker).get("/any").status, 200);
    tracker.await_count(&[Counter::HttpOther], 2); // it idles by now, before any of those that follow
    let mut held: Vec<HttpClient> = (0..most).map(|_| connect(&tracker)).collect();
    held.iter_mut().for_each(|client| client.send(get("/held")));
    inside.eventually(most);
    assert!(idler.try_request(get("/any")).is_none(), "who idles makes room");
    // What is pipelined behind a handler waits for it, and is no handler of its own.
    held[0].send(get("/held").repeat(3));
    for asks in [false, true] {
        let mut refused = connect(&tracker);
        if asks {
            let _ = refused.stream().write_all(get("/any").as_bytes()); // refused before it has asked
        }
        let response = refused.receive();
        assert_eq!((response.status, response.field("Connection")), (503, Some("close")));
        assert!(response.field("Retry-After").is_some());
        assert!(refused.rest().is_empty());
    }
    tracker.await_count(&[Counter::DropConnections], 2);
    assert_eq!(inside.0.load(Ordering::Acquire), most);
    UdpClient::connected(tracker.udp(gyre::types::Family::V4));
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
    drop(witness);
    check_unharmed(&tracker);
}

/// Takes a response that is as it should be from the start of what came: status line, fields, a body of the length
/// told. `None`: it isn't, or not whole.
fn take_response(bytes: &[u8]) -> Option<&[u8]> {
    let mut buffer = FieldBuffer::new();
    let response = RESPONSES.read(bytes, false, &mut buffer).ok()??;
    let lengths = response.head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let framed = matches!(response.head.body, BodyLength::Bytes(_)) && lengths.count() <= 1;
    (framed && (100..600).contains(&response.head.status)).then(|| &bytes[response.bytes..])
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
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in requests)| {
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
