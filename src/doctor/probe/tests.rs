//! Owns the tests of queries to a tracker: the judgement alone, and queries to fake trackers.

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

fn levels(protocol: Protocol, public: bool, answers: &Answers) -> Vec<(&'static str, Level)> {
    let findings = judge(&target(protocol, ([192, 0, 2, 1], 6969).into(), public), answers);
    for finding in &findings {
        assert_eq!(finding.fix.is_some(), finding.level > Level::Ok, "{finding:?}");
    }
    findings.iter().map(|finding| (finding.check, finding.level)).collect()
}

fn answer(interval_secs: Option<i64>, peers: Option<usize>) -> Answers {
    let answer = AnnounceAnswer { took: Duration::from_millis(3), interval_secs, peers };
    Answers { announce: Ok(answer), scrape: Some(Ok(())) }
}

#[test]
fn answers_as_a_checker_sees_them() {
    use Level::{Fail, Ok, Warn};
    let of = |interval, peers| levels(Protocol::Http, true, &answer(interval, peers));
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
    let of_udp = levels(Protocol::Udp, true, &answer(Some(1_800), Some(0)));
    assert_eq!(of_udp, [("answer", Ok), ("interval", Ok), ("random-hash", Ok), ("scrape", Ok)]);
    for (scrape, level) in [(None, Ok), (Some(Err("no".to_owned())), Warn)] {
        let answers = Answers { scrape, ..answer(Some(1_800), Some(0)) };
        assert_eq!(levels(Protocol::Http, true, &answers).last(), Some(&("scrape", level)));
    }
}

#[test]
fn missing_answers_as_a_checker_sees_them() {
    let of = |no_answer, public| {
        levels(Protocol::Udp, public, &Answers { announce: Err(no_answer), scrape: None })
    };
    assert_eq!(
        of(NoAnswer::Refused, false),
        [("answer", Level::Ok)],
        "nothing listens, which is not a problem"
    );
    assert_eq!(of(NoAnswer::Refused, true), [("answer", Level::Fail)]);
    assert_eq!(of(NoAnswer::timeout(), false), [("answer", Level::Fail)]);
    assert_eq!(
        of(NoAnswer::Unreachable, true),
        [("answer", Level::Warn)],
        "an unreachable tracker is a warning"
    );
}

/// Queries a fake UDP tracker that responds with the result of `answer`.
fn udp_tracker(answer: fn(&Request<'_>, &mut [u8]) -> usize) -> Answers {
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
    let answers = query(&target(Protocol::Udp, address, true));
    drop(stop);
    tracker.join().unwrap();
    answers
}

#[test]
fn a_udp_tracker() {
    let answers = udp_tracker(|request, out| match request {
        Request::Connect { transaction_id } => put_connect(out, *transaction_id, 7),
        Request::Announce(announce) => {
            assert_eq!((announce.connection_id, announce.left), (7, 1));
            put_announce_head(out, announce.transaction_id, 1_800, SwarmCounts::default());
            20 + 12
        }
        Request::Scrape(scrape) => put_scrape(out, scrape.transaction_id, &[SwarmCounts::default()]),
    });
    let answer = answers.announce.unwrap();
    assert_eq!((answer.interval_secs, answer.peers, answers.scrape), (Some(1_800), Some(2), Some(Ok(()))));
}

#[test]
fn udp_trackers_with_invalid_responses() {
    let because = |answers: Answers| match answers.announce {
        Err(NoAnswer::Because(why)) => why,
        other => panic!("{other:?}"),
    };
    let refuses = udp_tracker(|_, out| put_error(out, 0, "go away"));
    assert_eq!(because(refuses), "the tracker refuses: go away");
    assert!(because(udp_tracker(|_, _| 3)).contains("3 bytes"));
    let confused = udp_tracker(|_, out| put_scrape(out, 0, &[]));
    assert!(because(confused).contains("another action"));
    let other_id = udp_tracker(|_, out| put_connect(out, 99, 7));
    assert_eq!(Err(NoAnswer::Because(because(other_id))), Err::<(), _>(NoAnswer::timeout()));
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(query(&target(Protocol::Udp, closed, true)).announce, Err(NoAnswer::Refused));
}

/// Queries a fake HTTP tracker that responds with this body to all announces and scrapes.
fn http_tracker(body: &'static [u8]) -> Answers {
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
    let answers = query(&target(Protocol::Http, address, true));
    // A connection without a request stops the tracker.
    drop(std::net::TcpStream::connect(address).unwrap());
    tracker.join().unwrap();
    answers
}

#[test]
fn http_trackers() {
    let answers = http_tracker(b"d8:intervali60e5:peers0:e");
    let answer = answers.announce.unwrap();
    assert_eq!((answer.interval_secs, answer.peers), (Some(60), Some(0)));
    assert!(answers.scrape.unwrap().unwrap_err().contains("files"));
    assert_eq!(http_tracker(b"d8:intervali60ee").announce.unwrap().peers, None);
    for (body, part) in [
        (b"d14:failure reason2:noe".as_slice(), "the tracker refuses: no"),
        (b"<html>", "can't parse the response"),
        (b"d8:intervali60e5:peers1:xe", "`peers`"),
    ] {
        let Err(NoAnswer::Because(why)) = http_tracker(body).announce else { panic!("an answer") };
        assert!(why.contains(part), "{why}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(query(&target(Protocol::Http, closed, true)).announce, Err(NoAnswer::Refused));
}
