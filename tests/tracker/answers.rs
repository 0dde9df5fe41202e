//! Owns the tests of responses that middleware sends, by UDP and HTTP: connections, responses, data of a request,
//! errors.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::support::note::{Log, fetch, http, tracker};
use crate::support::{
    FAMILIES, Tracker, UdpClient, announce_path, announcement, config, info_hash, loopback, scrape_path, udp,
};
use gyre::Tracker as Gyre;
use gyre::config::Config;
use gyre::engine::context::{
    Action, AnnounceResponse, ConnectResponse, ConnectionContext, RequestContext, Response, ScrapeResponse,
};
use gyre::engine::middleware::{Chain, Flow, Then, on};
use gyre::error::{Code, TrackerError};
use gyre::types::{Family, SwarmCounts};
use gyre::wire::udp::Response as Datagram;

#[test]
fn a_connection_has_the_address_of_its_client() {
    let log = Log::new();
    let noted = log.clone();
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let note = move |request: &mut RequestContext<'_>| {
        noted.push(match request.connection() {
            ConnectionContext::Udp(udp) => {
                assert_eq!((udp.address(), udp.sent()), (SocketAddr::new(udp.ip(), udp.port()), false));
                (udp.ip().to_string(), Some(udp.port()), udp.transaction_id().to_string())
            }
            ConnectionContext::Http(http) => {
                assert!(!http.sent() && !http.aborted());
                (http.ip().to_string(), None, http.url().to_owned())
            }
        });
        Ok(Then::Next)
    };
    let builder = Gyre::builder().config(Config { trusted_proxies: proxies, ..config(1) }).middleware(note);
    let tracker = Tracker::listen(builder);
    for family in FAMILIES {
        let mut client = UdpClient::new(tracker.udp(family));
        client.connect();
        let ip = loopback(family).to_string();
        assert_eq!(log.take(), [(ip, Some(client.port()), "1".to_owned())]);
    }
    let path = announce_path(info_hash(1), 9, "&x=%2F");
    let forwarded = [("X-Forwarded-For", "203.0.113.7")];
    for (family, ip) in [(Family::V4, "203.0.113.7"), (Family::V6, "::1")] {
        fetch(tracker.http(family), &path, &forwarded);
        assert_eq!(
            log.take(),
            [(ip.to_owned(), None, path.clone())],
            "headers of an untrusted proxy are ignored"
        );
    }
    let peers = udp(&tracker).announce(announcement(info_hash(1), 1)).peers;
    assert_eq!(peers, ["203.0.113.7:9".parse().unwrap()]);
}

/// One response of each kind. The bytes are 16, as many as the client of a connect may get.
fn responses() -> Vec<Response> {
    let counts = SwarmCounts { seeders: 5, leechers: 6, downloaded: 7 };
    vec![
        ConnectResponse { connection_id: 99 }.into(),
        AnnounceResponse { counts, interval_secs: 5, ..AnnounceResponse::default() }.into(),
        [counts].into_iter().collect::<ScrapeResponse>().into(),
        TrackerError::new(Code::AccessDenied, "no").into(),
        b"0123456789abcdef".to_vec().into(),
    ]
}

/// A tracker whose middleware sends one of the responses.
struct Sending {
    tracker: Tracker,
    /// Number of the response that is sent. `None`: the request is passed on.
    chosen: Arc<Mutex<Option<usize>>>,
    /// The errors of sending it twice, and whether it counts as sent.
    results: Log<([Option<Code>; 2], bool)>,
}

impl Sending {
    fn start() -> Self {
        let (results, chosen) = (Log::new(), Arc::new(Mutex::new(None)));
        let (noted, choice) = (results.clone(), chosen.clone());
        let tracker = tracker(move |request: &mut RequestContext<'_>| {
            let Some(number) = *choice.lock().unwrap() else { return Ok(Then::Next) };
            let mut response = responses().swap_remove(number);
            let codes = [(); 2].map(|()| request.send(response.clone()).err().map(|error| error.code()));
            let is_there = request.response_mut() == Some(&mut response);
            assert_eq!((request.sent(), request.connection().sent()), (is_there, is_there));
            noted.push((codes, is_there));
            Ok(Then::Next)
        });
        Self { tracker, chosen, results }
    }

    fn by_udp(&self, number: usize, action: Action) -> Vec<u8> {
        *self.chosen.lock().unwrap() = None;
        let mut client = udp(&self.tracker);
        *self.chosen.lock().unwrap() = Some(number);
        let request = match action {
            Action::Connect => client.connect_request(),
            Action::Announce => client.announce_request(announcement(info_hash(1), 1)),
            Action::Scrape => client.scrape_request(&[info_hash(1)]),
        };
        client.send(&request);
        client.receive()
    }
}

#[test]
fn a_response_is_sent_once_and_must_fit_its_request() {
    let sending = Sending::start();
    let announced = "10:incompletei6e8:intervali5e";
    let scraped = "8:completei5e10:downloadedi7e10:incompletei6e";
    let texts = ["", announced, scraped, "d14:failure reason2:no8:retry in5:nevere", "0123456789abcdef"];
    for (number, text) in texts.into_iter().enumerate() {
        for action in [Action::Connect, Action::Announce, Action::Scrape] {
            let shown = format!("{number} to {action:?}");
            let fits = number >= 3 || number == action as usize;
            let codes = match fits {
                true => [None, Some(Code::ResponseAlreadySent)],
                false => [Some(Code::IncorrectResponse); 2],
            };
            let reply = sending.by_udp(number, action);
            assert_eq!(sending.results.take(), [(codes, fits)], "{shown}");
            match number {
                4 => assert_eq!(reply, text.as_bytes(), "{shown}"),
                3 => assert_eq!((reply[3], &reply[8..]), (3, b"no".as_slice()), "{shown}"),
                // A response that doesn't fit is not sent, so the swarm's is.
                _ => assert_eq!(reply[3] as usize, action as usize, "{shown}"),
            }
            match (number, fits) {
                (0, true) => assert_eq!(reply[8..], 99_u64.to_be_bytes()),
                (1, true) => assert_eq!(reply[8..20], [0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 5]),
                (2, true) => assert_eq!(reply[8..20], [0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 6]),
                _ => {}
            }
            let path = match action {
                Action::Connect => continue,
                Action::Announce => announce_path(info_hash(1), 1, ""),
                Action::Scrape => scrape_path(&[info_hash(1)]),
            };
            let body = http(&sending.tracker, &path);
            assert_eq!(sending.results.take(), [(codes, fits)], "{shown}");
            assert_eq!(!text.is_empty() && body.contains(text), fits, "{shown}: {body}");
        }
    }
}

#[test]
fn middleware_chooses_the_http_status() {
    let statuses = [200_u16, 202, 400, 403, 404, 429, 503];
    for status in statuses {
        let tracker = tracker(move |request: &mut RequestContext<'_>| {
            let (action, refusal) = (request.action(), TrackerError::new(Code::Unavailable, "later"));
            let ConnectionContext::Http(http) = request.connection_mut() else { return Ok(Then::Next) };
            let wrong = http.send(ConnectResponse { connection_id: 1 }, action, http::StatusCode::OK);
            assert_eq!(wrong.unwrap_err().code(), Code::IncorrectResponse);
            for bodyless in [100_u16, 204, 304, 600] {
                let wrong = http.send(refusal.clone(), action, bodyless.try_into().expect("a status"));
                assert_eq!(wrong.unwrap_err().code(), Code::IncorrectResponse, "{bodyless}");
            }
            http.send(refusal.clone(), action, status.try_into().expect("a status"))?;
            let again = http.send(refusal, action, http::StatusCode::OK);
            assert_eq!((http.sent(), again.unwrap_err().code()), (true, Code::ResponseAlreadySent));
            Ok(Then::Next)
        });
        for path in [announce_path(info_hash(1), 1, ""), scrape_path(&[info_hash(1)])] {
            let expected = (status, "d14:failure reason5:latere".to_owned());
            assert_eq!(fetch(tracker.http(Family::V4), &path, &[]), expected);
        }
    }
}

#[test]
fn a_response_may_be_long_and_may_be_replaced() {
    let long = 100_000;
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        request.send(vec![b'x'; long])?;
        if request.is_scrape() {
            *request.response_mut().expect("it was sent") = ConnectResponse { connection_id: 1 }.into();
        }
        Ok(Then::Next)
    });
    for _ in 0..2 {
        assert_eq!(http(&tracker, &announce_path(info_hash(1), 1, "")).len(), long);
        let body = http(&tracker, &scrape_path(&[info_hash(1)]));
        assert_eq!(body, "d14:failure reason14:internal errore", "not a valid response to a scrape");
    }
}

#[test]
fn data_are_kept_by_type() {
    #[derive(Debug, PartialEq)]
    struct Name(&'static str);
    #[derive(Debug, PartialEq)]
    struct Age(u32);
    let log = Log::new();
    let noted = log.clone();
    let first = |request: &mut RequestContext<'_>| {
        assert!(request.data().get::<Name>().is_none(), "each request has its own");
        assert_eq!(request.data_mut().insert(Name("a")), None);
        assert_eq!(request.data_mut().insert(Name("b")), Some(Name("a")));
        request.data_mut().insert(Age(1));
        Ok(Then::Next)
    };
    let second = move |request: &mut RequestContext<'_>| {
        request.data_mut().get_mut::<Age>().expect("an age").0 += 1;
        noted.push((request.data_mut().remove::<Name>(), request.data().get::<Age>().map(|age| age.0)));
        assert!(request.data().get::<Name>().is_none());
        Ok(Then::Next)
    };
    let tracker = tracker(Chain::new(first, second));
    udp(&tracker).announce(announcement(info_hash(1), 1));
    http(&tracker, &announce_path(info_hash(1), 1, ""));
    http(&tracker, &scrape_path(&[info_hash(1)]));
    let expected = || (Some(Name("b")), Some(2));
    assert_eq!(log.take(), [expected(), expected(), expected(), expected()]);
}

#[test]
fn middleware_for_an_action_sees_only_that_action() {
    for action in [Action::Connect, Action::Announce, Action::Scrape] {
        let log = Log::new();
        let noted = log.clone();
        let tracker = tracker(on(action, move |request: &mut RequestContext<'_>| -> Flow {
            noted.push((request.action(), request.is_source_http()));
            Ok(Then::Next)
        }));
        let mut client = udp(&tracker);
        client.announce(announcement(info_hash(1), 1));
        client.scrape(&[info_hash(1)]);
        http(&tracker, &announce_path(info_hash(1), 1, ""));
        http(&tracker, &scrape_path(&[info_hash(1)]));
        let by_http = (action != Action::Connect).then_some((action, true));
        assert_eq!(log.take(), [(action, false)].into_iter().chain(by_http).collect::<Vec<_>>());
    }
}

#[test]
fn errors_are_sent_with_their_message() {
    let codes = [
        (Code::IncorrectRequest, 400, true),
        (Code::Unauthorized, 401, true),
        (Code::AccessDenied, 403, true),
        (Code::NotFound, 404, true),
        (Code::MethodNotAllowed, 405, true),
        (Code::RequestTimeout, 408, true),
        (Code::LengthRequired, 411, true),
        (Code::PreconditionFailed, 412, true),
        (Code::ContentTooLarge, 413, true),
        (Code::UnsupportedMediaType, 415, true),
        (Code::RangeNotSatisfiable, 416, true),
        (Code::HeadTooLarge, 431, true),
        (Code::Internal, 500, false),
        (Code::NotImplemented, 501, true),
        (Code::Unavailable, 503, false),
        (Code::ResponseAlreadySent, 500, false),
        (Code::IncorrectResponse, 500, false),
        (Code::ConnectionClosed, 500, true),
    ];
    let chosen = Arc::new(Mutex::new(Code::Internal));
    let choice = chosen.clone();
    let tracker = tracker(on(Action::Announce, move |_: &mut RequestContext<'_>| {
        Err(TrackerError::new(*choice.lock().unwrap(), "its words"))
    }));
    let mut client = udp(&tracker);
    for (code, status, is_final) in codes {
        *chosen.lock().unwrap() = code;
        // The messages of internal errors are not sent.
        let is_fault = status == 500 && code != Code::ConnectionClosed;
        let words = if is_fault { "internal error" } else { "its words" };
        let request = client.announce_request(announcement(info_hash(1), 1));
        let reply = client.exchange(&request);
        let Ok(Datagram::Error { message, .. }) = Datagram::parse(&reply) else { panic!("{reply:?}") };
        assert_eq!(message, words.as_bytes(), "{code:?}");
        let retry = if is_final { "8:retry in5:never" } else { "" };
        let expected = format!("d14:failure reason{}:{words}{retry}e", words.len());
        assert_eq!(http(&tracker, &announce_path(info_hash(1), 1, "")), expected, "{code:?}");
        assert_eq!(code.status(), status, "{code:?}");
    }
    assert_eq!(client.scrape(&[info_hash(1)]), [SwarmCounts::default()], "nothing reached the swarm");
}

#[test]
fn a_plain_function_can_not_wait() {
    let tracker = tracker(on(Action::Announce, |_: &mut RequestContext<'_>| Ok(Then::Wait)));
    let body = http(&tracker, &announce_path(info_hash(1), 1, ""));
    assert_eq!(body, "d14:failure reason14:internal errore");
}
