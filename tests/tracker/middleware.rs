//! Owns the tests of middleware on a running tracker: it sees, changes, answers and refuses requests, at once or after
//! a wait, by UDP and HTTP.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{
    Tracker, UdpClient, announce_path, announcement, config, connect, error_of, eventually, get, info_hash,
    loopback, scrape_path, udp,
};
use gyre::Tracker as Gyre;
use gyre::config::Steering;
use gyre::counters::Counter;
use gyre::engine::PeerList;
use gyre::engine::context::{
    Action, AnnounceResponse, ConnectResponse, ConnectionContext, RequestContext, Response as Sent,
    ScrapeResponse,
};
use gyre::engine::middleware::{Flow, Middleware, Next, Then, from_async, on};
use gyre::error::{Code, TrackerError};
use gyre::limits::{MAX_WAITING, UDP_CONNECT_REPLY_BYTES};
use gyre::types::{Family, InfoHash, SwarmCounts};

/// Starts a tracker with this middleware and two workers, between which requests must travel.
fn tracker(middleware: impl Middleware + Send) -> Tracker {
    let config = gyre::config::Config { steering: Steering::None, ..config(2) };
    Tracker::listen(Gyre::builder().config(config).middleware(middleware))
}

fn refused() -> TrackerError {
    TrackerError::new(Code::AccessDenied, "not for you")
}

/// Info-hashes of which each worker owns some.
fn hashes() -> impl Iterator<Item = InfoHash> {
    (0..8).map(info_hash)
}

#[test]
fn a_plain_function_sees_every_request_and_passes_it_on() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        let line = (request.action(), request.is_source_http(), request.connection().ip());
        log.lock().unwrap().push(line);
        Ok(Then::Next)
    });
    let (mut udp, mut http) = (udp(&tracker), connect(&tracker));
    assert_eq!(udp.announce(announcement(info_hash(1), 1)).leechers, 1);
    assert_eq!(udp.scrape(&[info_hash(1), info_hash(2)])[0].leechers, 1);
    assert!(http.get(&announce_path(info_hash(1), 2, "")).text().contains("10:incompletei2e"));
    assert!(http.get(&scrape_path(&[info_hash(1)])).text().contains("10:incompletei2e"));
    let ip = loopback(Family::V4);
    let expected = [
        (Action::Connect, false, ip),
        (Action::Announce, false, ip),
        (Action::Scrape, false, ip),
        (Action::Announce, true, ip),
        (Action::Scrape, true, ip),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn middleware_changes_requests_and_responses() {
    let tracker = tracker(|request: &mut RequestContext<'_>| {
        if let Some(announce) = request.as_announce() {
            announce.info_hash = info_hash(9);
            announce.num_want = Some(1);
            announce.terms.interval_secs = Some(77);
            announce.terms.min_interval_secs = Some(66);
            announce.terms.warning = Some("slow down".into());
        }
        if let Some(scrape) = request.as_scrape() {
            scrape.info_hashes.truncate(1);
        }
        Ok(Then::Next)
    });
    let (mut udp, mut http) = (udp(&tracker), connect(&tracker));
    for (port, hash) in (1..).zip(hashes()) {
        let announced = udp.announce(announcement(hash, port));
        assert_eq!((announced.interval_secs, announced.leechers), (77, port.into()));
        assert_eq!(announced.peers.len(), usize::from(port > 1));
    }
    assert_eq!(
        udp.scrape(&[info_hash(9), info_hash(1)]),
        [SwarmCounts { leechers: 8, ..Default::default() }]
    );
    let text = http.get(&announce_path(info_hash(1), 20, "")).text();
    for part in ["8:intervali77e", "12:min intervali66e", "15:warning message9:slow down", "5:peers6:"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(http.get(&scrape_path(&[info_hash(9), info_hash(1)])).text().matches("20:").count(), 1);
}

/// Middleware that answers every request.
fn answers(request: &mut RequestContext<'_>) -> Flow {
    let counts = SwarmCounts { seeders: 5, leechers: 6, downloaded: 7 };
    let response: Sent = match request {
        RequestContext::Connect(_) => ConnectResponse { connection_id: 99 }.into(),
        RequestContext::Announce(_) => {
            let mut peers = Box::<PeerList>::default();
            peers.push("192.0.2.1:80".parse().unwrap(), None);
            peers.push("[2001:db8::1]:80".parse().unwrap(), None);
            AnnounceResponse { counts, interval_secs: 5, peers, ..Default::default() }.into()
        }
        RequestContext::Scrape(_) => [counts].into_iter().collect::<ScrapeResponse>().into(),
    };
    request.send(response)?;
    assert_eq!(request.send(refused()).unwrap_err().code(), Code::ResponseAlreadySent);
    Ok(Then::Next)
}

#[test]
fn middleware_answers_requests() {
    let tracker = tracker(on(Action::Announce, answers));
    let mut client = udp(&tracker);
    let announced = client.announce(announcement(info_hash(1), 1));
    assert_eq!((announced.interval_secs, announced.seeders, announced.leechers), (5, 5, 6));
    assert_eq!(announced.peers, ["192.0.2.1:80".parse().unwrap()], "only peers of the client's family");
    let text = connect(&tracker).get(&announce_path(info_hash(1), 2, "")).text();
    assert!(
        text.contains("5:peers6:") && text.contains("6:peers618:") && text.contains("8:intervali5e"),
        "{text}"
    );
    assert_eq!(
        client.scrape(&[info_hash(1)]),
        [SwarmCounts::default()],
        "the announce did not reach the swarm"
    );

    let tracker = self::tracker(on(Action::Scrape, answers));
    let counts = SwarmCounts { seeders: 5, leechers: 6, downloaded: 7 };
    assert_eq!(udp(&tracker).scrape(&[info_hash(1)]), [counts]);
    assert!(connect(&tracker).get(&scrape_path(&[info_hash(1)])).text().contains("10:downloadedi7e"));

    let tracker = self::tracker(on(Action::Connect, answers));
    assert_eq!(udp(&tracker).connection_id, 99);
}

#[test]
fn middleware_chooses_bytes_and_status_of_a_response() {
    let tracker = tracker(|request: &mut RequestContext<'_>| {
        let action = request.action();
        match request.connection_mut() {
            ConnectionContext::Http(http) => {
                http.send(b"try again".to_vec(), action, http::StatusCode::TOO_MANY_REQUESTS)?;
                assert!(http.sent() && http.url().starts_with("/announce?"));
            }
            ConnectionContext::Udp(udp) => udp.send(b"0123456789abcdefXXXX".to_vec(), action)?,
        }
        assert!(request.sent());
        Ok(Then::Stop)
    });
    let mut http = connect(&tracker);
    let response = http.get(&announce_path(info_hash(1), 2, ""));
    assert_eq!((response.status, response.text().as_str()), (429, "try again"));
    assert_eq!(http.get(&announce_path(info_hash(1), 2, "")).status, 429, "the connection stays usable");
    let mut client = UdpClient::new(tracker.udp(Family::V4));
    let connect = client.connect_request();
    client.send(&connect);
    assert_eq!(client.receive(), b"0123456789abcdef", "no more bytes than the client sent");
}

#[test]
fn middleware_refuses_requests_with_a_message() {
    let tracker = tracker(|request: &mut RequestContext<'_>| match request.passkey().as_deref() {
        _ if request.is_connect() => Ok(Then::Next),
        Some("secret") => Ok(Then::Next),
        _ => Err(refused()),
    });
    let (mut udp, mut http) = (udp(&tracker), connect(&tracker));
    for (path, passes) in
        [("/secret/announce", true), ("/announce?passkey=secret", true), ("/announce", false)]
    {
        let options = [&[2, path.len() as u8], path.as_bytes()].concat();
        let request = udp.announce_request(gyre::wire::udp::Announce {
            options: &options,
            ..announcement(info_hash(1), 1)
        });
        let reply = udp.exchange(&request);
        match passes {
            true => assert_eq!(udp.read_announced(&reply).leechers, 1),
            false => assert_eq!(error_of(&reply), "not for you"),
        }
    }
    let path = announce_path(info_hash(1), 2, "");
    assert_eq!(http.get(&path).text(), "d14:failure reason11:not for you8:retry in5:nevere");
    assert!(http.get(&format!("/secret{path}")).text().contains("10:incompletei2e"));
    tracker.await_count(&[Counter::Refused], 2);

    let tracker = self::tracker(|_: &mut RequestContext<'_>| Err(TrackerError::internal("a secret cause")));
    let mut client = UdpClient::new(tracker.udp(Family::V4));
    let connect = client.connect_request();
    let reply = client.exchange(&connect);
    assert!(reply.len() <= UDP_CONNECT_REPLY_BYTES && error_of(&reply) == "internal", "{reply:?}");
    let text = crate::support::connect(&tracker).get(&path).text();
    assert_eq!(
        text, "d14:failure reason14:internal errore",
        "internal errors are not shown, and the client may retry"
    );
}

#[test]
fn middleware_stops_requests_without_a_response() {
    let tracker = tracker(on(Action::Announce, |_: &mut RequestContext<'_>| Ok(Then::Stop)));
    let mut client = udp(&tracker);
    let request = client.announce_request(announcement(info_hash(1), 1));
    client.send(&request);
    assert_eq!(client.scrape(&[info_hash(1)]), [SwarmCounts::default()]);
    assert!(!client.has_mail());
    assert_eq!(connect(&tracker).get(&announce_path(info_hash(1), 2, "")).status, 403);
    tracker.await_count(&[Counter::Silenced], 2);
}

#[test]
fn a_chain_runs_in_order_and_shares_data() {
    #[derive(Debug, PartialEq)]
    struct Order(String);
    let note = |name: char| {
        move |request: &mut RequestContext<'_>| {
            if request.data().get::<Order>().is_none() {
                request.data_mut().insert(Order(String::new()));
            }
            request.data_mut().get_mut::<Order>().unwrap().0.push(name);
            Ok(Then::Next)
        }
    };
    let around = |name: char| {
        from_async(async move |request: &mut RequestContext<'_>, next: Next<'_>| {
            request.data_mut().get_mut::<Order>().unwrap().0.push(name);
            next.run(request).await?;
            request.data_mut().get_mut::<Order>().unwrap().0.push(name.to_ascii_uppercase());
            Ok(())
        })
    };
    let orders = Arc::new(Mutex::new(Vec::new()));
    let log = orders.clone();
    let builder = Gyre::builder()
        .config(config(2))
        .middleware(on(
            Action::Announce,
            from_async(async move |request: &mut RequestContext<'_>, next: Next<'_>| {
                request.data_mut().insert(Order(String::new()));
                next.run(request).await?;
                assert!(matches!(request.response_mut(), Some(Sent::Announce(_))));
                log.lock().unwrap().push(request.data_mut().remove::<Order>().unwrap().0);
                Ok(())
            }),
        ))
        .middleware(note('a'))
        .middleware(on(Action::Announce, around('b')))
        .middleware(note('c'))
        .middleware(on(Action::Announce, around('d')))
        .middleware(note('e'));
    let tracker = Tracker::listen(builder);
    let mut client = udp(&tracker);
    for (port, hash) in (1..).zip(hashes()) {
        assert_eq!(client.announce(announcement(hash, port)).leechers, 1);
        assert!(connect(&tracker).get(&announce_path(hash, port, "")).text().contains("10:incompletei1e"));
    }
    assert_eq!(*orders.lock().unwrap(), ["abcdeDB"; 16]);
}

#[test]
fn async_middleware_changes_the_response_of_the_swarm() {
    let tracker = tracker(on(
        Action::Announce,
        from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| {
            assert!(!request.sent() && request.response_mut().is_none());
            next.run(request).await?;
            assert!(request.sent());
            let Some(Sent::Announce(response)) = request.response_mut() else { panic!("an announce's") };
            response.peers.retain(|address| address.port() != 3);
            response.interval_secs = 99;
            response.warning = Some("hm".into());
            Ok(())
        }),
    ));
    let mut client = udp(&tracker);
    for hash in hashes() {
        for port in 1..=4 {
            let announced = client.announce(announcement(hash, port));
            let others: Vec<u16> = (1..port).filter(|port| *port != 3).collect();
            assert_eq!((announced.ports(), announced.interval_secs), (others, 99));
        }
        let text = connect(&tracker).get(&announce_path(hash, 5, "")).text();
        assert!(text.contains("5:peers18:") && text.contains("15:warning message2:hm"), "{text}");
    }
}

/// Middleware whose announces wait until `open` is set. Counts waiting requests, and those whose client has gone away.
#[derive(Clone, Default)]
struct Waits {
    open: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    aborted: Arc<AtomicUsize>,
}

impl Middleware for Waits {
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        Ok(if request.is_announce() { Then::Wait } else { Then::Next })
    }

    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while !self.open.load(Ordering::Acquire) {
            if let ConnectionContext::Http(http) = request.connection()
                && http.aborted()
            {
                assert_eq!(request.send(refused()).unwrap_err().code(), Code::ConnectionClosed);
                self.aborted.fetch_add(1, Ordering::AcqRel);
                return Err(refused());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        next.run(request).await
    }
}

#[test]
fn a_waiting_request_does_not_delay_others_and_is_answered_before_the_end() {
    let waits = Waits::default();
    let mut tracker = tracker(waits.clone());
    let (mut waiting, mut other) = (udp(&tracker), udp(&tracker));
    let request = waiting.announce_request(announcement(info_hash(1), 1));
    waiting.send(&request);
    let mut by_http = connect(&tracker);
    by_http.send(get(&announce_path(info_hash(1), 2, "")));
    by_http.send(get("/health"));
    eventually("both wait", || waits.waiting.load(Ordering::Acquire) == 2);
    assert_eq!(other.scrape(&[info_hash(1)]), [SwarmCounts::default()]);
    assert_eq!(connect(&tracker).get("/health").status, 200);
    assert!(!waiting.has_mail());
    tracker.stop();
    waits.open.store(true, Ordering::Release);
    let counts = waiting.read_announced(&waiting.receive());
    let text = by_http.receive().text();
    assert!(counts.leechers + u32::from(text.contains("incompletei2e")) >= 1, "{counts:?} {text}");
    assert!(text.contains("8:interval"), "{text}");
    assert!(tracker.wait(), "waiting requests are answered before the end");
}

/// Middleware that waits at the first announce of each swarm and remembers the swarm.
#[derive(Clone, Default)]
struct Remembers {
    /// The swarms of this clone. Clones do not share it.
    known: RefCell<Vec<InfoHash>>,
    waited: Arc<AtomicUsize>,
}

impl Middleware for Remembers {
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        let Some(announce) = request.as_announce() else { return Ok(Then::Next) };
        Ok(if self.known.borrow().contains(&announce.info_hash) { Then::Next } else { Then::Wait })
    }

    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        let announce = request.as_announce().expect("an announce");
        self.known.borrow_mut().push(announce.info_hash);
        self.waited.fetch_add(1, Ordering::AcqRel);
        next.run(request).await
    }
}

#[test]
fn state_that_middleware_sets_while_it_waits_is_kept_by_the_worker() {
    let remembers = Remembers::default();
    let tracker = Tracker::listen(Gyre::builder().config(config(1)).middleware(remembers.clone()));
    let (mut udp, mut http) = (udp(&tracker), connect(&tracker));
    for (hashes, hash) in (1..).zip(hashes()) {
        for port in [1, 2] {
            udp.announce(announcement(hash, port));
            http.get(&announce_path(hash, port, ""));
        }
        assert_eq!(remembers.waited.load(Ordering::Acquire), hashes, "one wait for each swarm");
    }
    assert!(remembers.known.borrow().is_empty(), "the worker has its own clone");
}

#[test]
fn a_waiting_request_notices_at_once_that_its_client_has_gone() {
    let waits = Waits::default();
    let tracker = tracker(waits.clone());
    let client = connect(&tracker);
    client.send(get(&announce_path(info_hash(1), 2, "")));
    eventually("the request waits", || waits.waiting.load(Ordering::Acquire) == 1);
    assert_eq!(waits.aborted.load(Ordering::Acquire), 0);
    drop(client);
    eventually("the request is aborted", || waits.aborted.load(Ordering::Acquire) == 1);
}

#[test]
fn the_number_of_waiting_requests_is_limited() {
    let waits = Waits::default();
    let config = gyre::config::Config { steering: Steering::None, ..config(1) };
    let tracker = Tracker::listen(Gyre::builder().config(config).middleware(waits.clone()));
    let mut client = udp(&tracker);
    const MORE: usize = 10;
    for sent in 1..=MAX_WAITING + MORE {
        let request = client.announce_request(announcement(info_hash(1), 1));
        client.send(&request);
        if sent % 64 == 0 {
            eventually("the requests wait", || {
                waits.waiting.load(Ordering::Acquire) >= sent.min(MAX_WAITING)
            });
        }
    }
    tracker.await_count(&[Counter::DropWaitFull], MORE as u64);
    assert_eq!(waits.waiting.load(Ordering::Acquire), MAX_WAITING);
    assert_eq!(connect(&tracker).get(&announce_path(info_hash(1), 2, "")).status, 503);
    assert_eq!(client.scrape(&[info_hash(1)]), [SwarmCounts::default()], "other requests are answered");
    waits.open.store(true, Ordering::Release);
    // Replies to a connect, a scrape and all waiting requests. That is more than the client's socket holds.
    tracker.await_count(&[Counter::UdpRepliesV4, Counter::DropSendFailed], MAX_WAITING as u64 + 2);
    assert!(connect(&tracker).get(&announce_path(info_hash(1), 2, "")).text().contains("10:incompletei2e"));
}
