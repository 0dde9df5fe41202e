//! Owns the tests of asking a tracker: the judgement by itself, and trackers that are made up.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::super::Level;
use super::*;
use crate::types::SwarmCounts;
use crate::wire::udp::{put_announce_head, put_connect, put_error, put_scrape};

fn target(protocol: Protocol, address: SocketAddr, public: bool) -> Target {
    Target { protocol, address, host: address.to_string(), path: "/announce".into(), public }
}

fn levels(protocol: Protocol, public: bool, asked: &Asked) -> Vec<(&'static str, Level)> {
    let findings = judge(&target(protocol, ([192, 0, 2, 1], 6969).into(), public), asked);
    for finding in &findings {
        assert_eq!(finding.fix.is_some(), finding.level > Level::Ok, "{finding:?}");
    }
    findings.iter().map(|finding| (finding.check, finding.level)).collect()
}

fn told(interval_secs: Option<i64>, peers: Option<usize>) -> Asked {
    let told = Told { took: Duration::from_millis(3), interval_secs, peers };
    Asked { announce: Ok(told), scrape: Some(Ok(())) }
}

#[test]
fn answers_as_a_checker_sees_them() {
    use Level::{Fail, Ok, Warn};
    let of = |interval, peers| levels(Protocol::Http, true, &told(interval, peers));
    let expect = |interval, key, random| {
        vec![
            ("answer", Ok),
            ("interval", interval),
            ("peers-key", key),
            ("random-hash", random),
            ("scrape", Ok),
        ]
    };
    assert_eq!(of(Some(1_800), Some(0)), expect(Ok, Ok, Ok));
    for (interval, level) in
        [(299, Warn), (300, Ok), (10_800, Ok), (10_801, Warn), (-1, Warn), (i64::MAX, Warn)]
    {
        assert_eq!(of(Some(interval), Some(1)), expect(level, Ok, Ok), "{interval}");
    }
    assert_eq!(of(None, Some(0)), expect(Warn, Ok, Ok));
    assert_eq!(of(Some(1_800), None), expect(Ok, Fail, Ok));
    assert_eq!(of(Some(1_800), Some(2)), expect(Ok, Ok, Fail));
    let of_udp = levels(Protocol::Udp, true, &told(Some(1_800), Some(0)));
    assert_eq!(of_udp, [("answer", Ok), ("interval", Ok), ("random-hash", Ok), ("scrape", Ok)]);
    for (scrape, level) in [(None, Ok), (Some(Err("no".to_owned())), Warn)] {
        let asked = Asked { scrape, ..told(Some(1_800), Some(0)) };
        assert_eq!(levels(Protocol::Http, true, &asked).last(), Some(&("scrape", level)));
    }
}

#[test]
fn silence_as_a_checker_sees_it() {
    let of = |silence, public| levels(Protocol::Udp, public, &Asked { announce: Err(silence), scrape: None });
    assert_eq!(of(Silence::Refused, false), [("answer", Level::Ok)], "nothing listens, which is a note");
    assert_eq!(of(Silence::Refused, true), [("answer", Level::Fail)]);
    assert_eq!(of(Silence::late(), false), [("answer", Level::Fail)]);
    assert_eq!(of(Silence::Unreachable, true), [("answer", Level::Warn)], "not seen is not well");
}

/// Runs a tracker by UDP that answers with what this makes of each request.
fn udp_tracker(answer: fn(&Request<'_>, &mut [u8]) -> usize) -> Asked {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let tracker = thread::spawn(move || {
        let (mut request, mut response) = ([0; 2_048], [0; 2_048]);
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let Ok((length, from)) = socket.recv_from(&mut request) else { continue };
            let length = answer(&Request::parse(&request[..length]).expect("a request"), &mut response);
            socket.send_to(&response[..length], from).unwrap();
        }
    });
    let asked = ask(&target(Protocol::Udp, address, true));
    drop(stop);
    tracker.join().unwrap();
    asked
}

#[test]
fn a_tracker_by_udp() {
    let asked = udp_tracker(|request, out| match request {
        Request::Connect { transaction_id } => put_connect(out, *transaction_id, 7),
        Request::Announce(announce) => {
            assert_eq!((announce.connection_id, announce.left), (7, 1));
            put_announce_head(out, announce.transaction_id, 1_800, SwarmCounts::default());
            20 + 12
        }
        Request::Scrape(scrape) => put_scrape(out, scrape.transaction_id, &[SwarmCounts::default()]),
    });
    let told = asked.announce.unwrap();
    assert_eq!((told.interval_secs, told.peers, asked.scrape), (Some(1_800), Some(2), Some(Ok(()))));
}

#[test]
fn trackers_by_udp_that_are_none() {
    let because = |asked: Asked| match asked.announce {
        Err(Silence::Because(why)) => why,
        other => panic!("{other:?}"),
    };
    let refuses = udp_tracker(|_, out| put_error(out, 0, "go away"));
    assert_eq!(because(refuses), "it refuses: go away");
    assert!(because(udp_tracker(|_, _| 3)).contains("3 bytes"));
    let confused = udp_tracker(|_, out| put_scrape(out, 0, &[]));
    assert!(because(confused).contains("another kind"));
    let other_id = udp_tracker(|_, out| put_connect(out, 99, 7));
    assert_eq!(Err(Silence::Because(because(other_id))), Err::<(), _>(Silence::late()));
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(ask(&target(Protocol::Udp, closed, true)).announce, Err(Silence::Refused));
}

/// Runs a tracker by HTTP that gives this body to all announces and scrapes.
fn http_tracker(body: &'static [u8]) -> Asked {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tracker = thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    return;
                }
                request.push(byte[0]);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        }
    });
    let asked = ask(&target(Protocol::Http, address, true));
    // A connection without a request ends it.
    drop(std::net::TcpStream::connect(address).unwrap());
    tracker.join().unwrap();
    asked
}

#[test]
fn trackers_by_http() {
    let asked = http_tracker(b"d8:intervali60e5:peers0:e");
    let told = asked.announce.unwrap();
    assert_eq!((told.interval_secs, told.peers), (Some(60), Some(0)));
    assert!(asked.scrape.unwrap().unwrap_err().contains("files"));
    assert_eq!(http_tracker(b"d8:intervali60ee").announce.unwrap().peers, None);
    for (body, part) in [
        (b"d14:failure reason2:noe".as_slice(), "it refuses: no"),
        (b"<html>", "can't be read"),
        (b"d8:intervali60e5:peers1:xe", "`peers`"),
    ] {
        let Err(Silence::Because(why)) = http_tracker(body).announce else { panic!("an answer") };
        assert!(why.contains(part), "{why}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(ask(&target(Protocol::Http, closed, true)).announce, Err(Silence::Refused));
}
