//! Owns the tests of responses that are written in pieces, and of clients that close the connection early.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::web::{Curling, Site, agent, builder, curl};
use crate::support::{eventually, get};
use bytes::Bytes;
use futures_core::Stream;
use gyre::error::{Code, TrackerError};
use gyre::web::{Event, HttpConnection};

type Done = Result<(), TrackerError>;

/// The pieces of a body.
const PIECES: [&str; 3] = ["one\n", "two\n", "three\n"];

/// Writes the pieces one by one.
async fn pieces(connection: &mut HttpConnection) -> Done {
    connection.set_content_type("txt")?;
    let mut response = connection.stream().await?;
    assert!(response.connection().sent());
    for piece in PIECES {
        response.write(piece.as_bytes()).await?;
        response.flush().await?;
    }
    response.finish().await
}

/// Returns the head of a request with additional fields.
fn request(method: &str, path: &str, version: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/{version}\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn a_stream_is_sent_in_chunks_and_the_connection_stays_open() {
    let lazy = async |connection: &mut HttpConnection| {
        let mut response = connection.stream().await?;
        response.write(b"").await?;
        response.write(b"not ").await?;
        response.write(b"flushed").await?;
        response.finish().await
    };
    let site = Site::start(builder().get("/", pieces).get("/lazy", lazy));
    let mut client = site.connect();
    for _ in 0..2 {
        client.send(get("/"));
        let head = client.receive_head();
        assert_eq!((head.status, head.field("Transfer-Encoding")), (200, Some("chunked")));
        assert_eq!((head.field("Content-Length"), head.field("Connection")), (None, None));
        let body = b"4\r\none\n\r\n4\r\ntwo\n\r\n6\r\nthree\n\r\n0\r\n\r\n";
        assert_eq!(
            client.receive_bytes(body.len()).escape_ascii().to_string(),
            body.escape_ascii().to_string()
        );
    }
    client.send(get("/lazy"));
    client.receive_head();
    let body = b"b\r\nnot flushed\r\n0\r\n\r\n";
    assert_eq!(client.receive_bytes(body.len()), body);
    assert_eq!(site.get("/", &[]).told(), (200, &*PIECES.concat()));
}

#[test]
fn an_http_1_0_client_reads_a_stream_until_the_connection_closes() {
    let site = Site::start(builder().get("/", pieces));
    for fields in ["", "Connection: keep-alive\r\n"] {
        let mut client = site.connect();
        client.send(request("GET", "/", "1.0", fields));
        let head = client.receive_head();
        assert_eq!((head.field("Transfer-Encoding"), head.field("Connection")), (None, Some("close")));
        assert_eq!(client.rest(), PIECES.concat().as_bytes());
    }
    let answer = curl(&["-0", &site.url("/")]);
    assert_eq!((answer.code, answer.text()), (0, &*PIECES.concat()));
}

#[test]
fn head_requests_and_204_get_no_body_of_a_stream() {
    let empty = async |connection: &mut HttpConnection| {
        connection.set_status(204)?;
        let mut response = connection.stream().await?;
        response.write(b"this is not sent").await?;
        response.finish().await
    };
    let site = Site::start(builder().get("/", pieces).get("/empty", empty));
    let mut client = site.connect();
    client.send(request("HEAD", "/", "1.1", ""));
    assert_eq!(client.receive_head().field("Transfer-Encoding"), Some("chunked"));
    client.send(get("/empty"));
    let head = client.receive_head();
    assert_eq!((head.status, head.field("Transfer-Encoding"), head.field("Connection")), (204, None, None));
    client.send(request("HEAD", "/", "1.0", ""));
    assert_eq!(client.receive_head().field("Transfer-Encoding"), None);
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_head_request_for_an_endless_stream_lets_the_worker_run() {
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = ended.clone();
    let endless = async move |connection: &mut HttpConnection| {
        connection.set_content_type("txt")?;
        let mut response = connection.stream().await?;
        while response.write(b"again and again").await.is_ok() {}
        seen.fetch_add(1, Ordering::AcqRel);
        Ok(())
    };
    let site = Site::start(builder().get("/endless", endless).get("/", pieces));
    let mut client = site.connect();
    client.send(request("HEAD", "/endless", "1.1", "Accept-Encoding: gzip\r\n"));
    assert_eq!(client.receive_head().field("Content-Encoding"), Some("gzip"));
    assert_eq!(site.get("/", &[]).text(), PIECES.concat());
    drop(client);
    eventually("the handler notices the closed connection", || ended.load(Ordering::Acquire) == 1);
}

#[test]
fn after_a_cancelled_write_nothing_is_written() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let seen = cancelled.clone();
    let site = Site::start(builder().get("/", async move |connection: &mut HttpConnection| {
        let mut response = connection.stream().await?;
        let moment = Duration::from_millis(10);
        while let Ok(written) = tokio::time::timeout(moment, response.write(&[b'x'; 1_000_000])).await {
            written?;
        }
        let late = response.write(&[b'y'; 1_000_000]).await;
        assert_eq!(late.map_err(|error| error.code()), Err(Code::ConnectionClosed));
        seen.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }));
    let client = site.connect();
    client.send(get("/")); // and reads nothing
    eventually("the late write failed", || cancelled.load(Ordering::Acquire) == 1);
}

#[test]
fn flushed_data_can_be_decoded_at_once() {
    let site = Site::start(builder().get("/", async |connection: &mut HttpConnection| {
        connection.set_content_type("txt")?;
        let mut response = connection.stream().await?;
        response.write(b"first\n").await?;
        response.flush().await?;
        response.connection().aborted().await;
        Ok(())
    }));
    for accepted in ["gzip", "zstd"] {
        let mut client = site.connect();
        client.send(request("GET", "/", "1.1", &format!("Accept-Encoding: {accepted}\r\n")));
        assert_eq!(client.receive_head().field("Content-Encoding"), Some(accepted));
    }
    let url = site.url("/");
    let mut curl = Curling::start(&["-N", "--compressed", "-H", "Accept-Encoding: gzip", &url]);
    assert_eq!(curl.line().as_deref(), Some("first"));
    curl.kill();
}

#[test]
fn the_client_sees_that_a_stream_was_cut_off() {
    let site = builder()
        .get("/dropped", async |connection: &mut HttpConnection| {
            let mut response = connection.stream().await?;
            response.write(b"half").await?;
            response.flush().await
        })
        .get("/failed", async |connection: &mut HttpConnection| {
            let mut response = connection.stream().await?;
            response.write(b"half").await?;
            response.flush().await?;
            Err(TrackerError::internal("the other half is missing"))
        });
    let site = Site::start(site);
    for path in ["/dropped", "/failed"] {
        let broken = curl(&[&site.url(path)]);
        assert_eq!((broken.code, broken.text()), (18, "half"), "curl reports a partial file");
        let mut response = agent().get(site.url(path)).call().unwrap();
        assert!(response.body_mut().read_to_vec().is_err());
    }
}

/// Yields these pieces, and then an error if there is one. Counts its polls.
struct Pieces {
    rest: Vec<&'static str>,
    error: Option<&'static str>,
    polls: Arc<AtomicUsize>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, &'static str>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.polls.fetch_add(1, Ordering::AcqRel).is_multiple_of(2) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(match self.rest.is_empty() {
            false => Some(Ok(Bytes::from_static(self.rest.remove(0).as_bytes()))),
            true => self.error.take().map(Err),
        })
    }
}

#[test]
fn any_stream_can_be_drained() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let drained = async move |connection: &mut HttpConnection| {
        let error = connection.query()?.get("fails").map(|_| "the stream fails");
        if connection.query()?.get("typed").is_some() {
            connection.set_content_type("csv")?;
        }
        let pieces = Pieces { rest: PIECES.to_vec(), error, polls: counted.clone() };
        connection.drain_stream(pieces).await
    };
    let site = Site::start(builder().get("/", drained));
    let (plain, typed) = (site.get("/", &[]), site.get("/?typed", &[]));
    assert_eq!(
        (plain.told(), plain.field("content-type")),
        ((200, &*PIECES.concat()), "application/octet-stream")
    );
    assert_eq!((typed.text(), typed.field("content-type")), (&*PIECES.concat(), "text/csv; charset=utf-8"));
    let broken = curl(&[&site.url("/?fails")]);
    assert_eq!((broken.code, broken.text()), (18, &*PIECES.concat()));
    let before = polls.load(Ordering::Acquire);
    let mut client = site.connect();
    client.send(request("HEAD", "/", "1.1", ""));
    assert_eq!(client.receive_head().field("Content-Type"), Some("application/octet-stream"));
    assert_eq!(client.get("/none").status, 404, "the connection stays open");
    assert_eq!(polls.load(Ordering::Acquire), before, "a HEAD request does not poll the stream");
}

#[test]
fn events_are_sent_in_the_format_of_event_streams() {
    let site = Site::start(builder().get("/", async |connection: &mut HttpConnection| {
        let mut events = connection.events().await?;
        assert_eq!(events.connection().path(), "/");
        events.send(&Event::new("a\nb\r\nc\rd").name("news").id("7").retry_ms(2_500)).await?;
        events.ping().await?;
        let bad = events.send(&Event::new("x").name("a\nb")).await;
        assert_eq!(bad.map_err(|error| error.code()), Err(Code::IncorrectResponse));
        events.send(&Event::new("")).await?;
        events.finish().await
    }));
    let answer = site.get("/", &[("Accept-Encoding", "zstd, gzip")]);
    assert_eq!(answer.field("content-encoding"), "", "events are not compressed");
    let text = "event: news\nid: 7\nretry: 2500\ndata: a\ndata: b\ndata: c\ndata: d\n\n:\n\ndata: \n\n";
    assert_eq!(answer.told(), (200, text));
    assert_eq!(answer.field("content-type"), "text/event-stream");
    assert_eq!(answer.field("cache-control"), "no-store");
}

#[test]
fn events_arrive_at_once_until_the_client_leaves_or_the_tracker_stops() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = gone.clone();
    let mut site = Site::start(builder().get("/", async move |connection: &mut HttpConnection| {
        let mut events = connection.events().await?;
        events.send(&Event::new("hello")).await?;
        events.aborted().await;
        let late = events.send(&Event::new("too late")).await;
        assert_eq!(late.map_err(|error| error.code()), Err(Code::ConnectionClosed));
        let late = events.ping().await;
        assert_eq!(late.map_err(|error| error.code()), Err(Code::ConnectionClosed));
        seen.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }));
    let url = site.url("/");
    let [mut leaves, mut stays] = [(); 2].map(|()| Curling::start(&["-N", &url]));
    for curl in [&mut leaves, &mut stays] {
        assert_eq!(curl.line().as_deref(), Some("data: hello"));
    }
    assert_eq!(gone.load(Ordering::Acquire), 0);
    leaves.kill();
    eventually("one client has left", || gone.load(Ordering::Acquire) == 1);
    site.tracker.stop();
    assert_eq!((stays.line().as_deref(), stays.line()), (Some(""), None));
    assert_eq!(stays.end(), 18, "the stream was cut off");
    assert!(site.tracker.wait());
}

#[test]
fn a_closed_connection_is_noticed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (waits, writes, reads) = (seen.clone(), seen.clone(), seen.clone());
    let begun = Arc::new(AtomicUsize::new(0));
    let [first, second, third] = [(); 3].map(|()| begun.clone());
    let site = builder()
        .get("/waits", async move |connection: &mut HttpConnection| {
            assert!(!connection.is_aborted());
            first.fetch_add(1, Ordering::AcqRel);
            connection.aborted().await;
            assert!(connection.is_aborted());
            let sent = connection.send("too late").await;
            waits.lock().unwrap().push(("waits", sent.map_err(|error| error.code())));
            Ok(())
        })
        .get("/writes", async move |connection: &mut HttpConnection| {
            second.fetch_add(1, Ordering::AcqRel);
            let mut response = connection.stream().await?;
            let error = loop {
                if let Err(error) = response.write(&[0; 100_000]).await {
                    break error;
                }
            };
            writes.lock().unwrap().push(("writes", Err(error.code())));
            Err(error)
        })
        .post("/reads", async move |connection: &mut HttpConnection| {
            third.fetch_add(1, Ordering::AcqRel);
            let read = connection.body().raw().await;
            reads.lock().unwrap().push(("reads", read.map(drop).map_err(|error| error.code())));
            Ok(())
        });
    let site = Site::start(site);
    let post = request("POST", "/reads", "1.1", "Content-Length: 4\r\n");
    for (name, request) in [("waits", get("/waits")), ("writes", get("/writes")), ("reads", post)] {
        let client = site.connect();
        let before = begun.load(Ordering::Acquire);
        client.send(request);
        eventually("the handler has begun", || begun.load(Ordering::Acquire) == before + 1);
        drop(client);
        eventually("the handler notices it", || {
            seen.lock().unwrap().pop() == Some((name, Err(Code::ConnectionClosed)))
        });
    }
    assert_eq!(site.connect().get("/none").status, 404, "other clients are served");
}

#[test]
fn a_handler_that_exceeds_its_time_loses_the_connection() {
    let kept = Duration::from_millis(10);
    let site = builder()
        .get("/silent", async move |connection: &mut HttpConnection| {
            connection.keep(kept);
            std::future::pending().await
        })
        .get("/half", async move |connection: &mut HttpConnection| {
            connection.keep(kept);
            let mut response = connection.stream().await?;
            response.write(b"half").await?;
            response.flush().await?;
            std::future::pending().await
        })
        .get("/events", async move |connection: &mut HttpConnection| {
            connection.keep(kept);
            connection.events().await?;
            std::future::pending().await
        })
        .post("/longer", async move |connection: &mut HttpConnection| {
            connection.keep(kept);
            connection.keep(crate::support::DEADLINE);
            let body = connection.body().text().await?;
            connection.send(body).await
        });
    let site = Site::start(site);
    let mut longer = site.connect();
    longer.send(request("POST", "/longer", "1.1", "Content-Length: 7\r\n"));
    for (path, code, text) in [("/silent", 52, ""), ("/half", 18, "half"), ("/events", 18, "")] {
        let ended = curl(&[&site.url(path)]);
        assert_eq!((ended.code, ended.text()), (code, text), "{path}");
    }
    assert_eq!(longer.request("in time").text(), "in time", "its time is longer than that of the others");
}
