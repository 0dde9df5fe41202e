//! Owns the tests of the request that middleware sees, by UDP and HTTP: each parameter on its own, and the effect of
//! changing it on the swarm and the response.

use std::net::{IpAddr, SocketAddr};

use crate::support::note::{Log, fetch, http, tracker};
use crate::support::{
    FAMILIES, Tracker, UdpClient, announce_path, announcement, info_hash, loopback, scrape_path, udp,
};
use gyre::engine::context::{Action, AnnounceRequest, RequestContext};
use gyre::engine::middleware::{Then, on};
use gyre::types::{Event, Family, PeerId, SwarmCounts};
use gyre::wire::udp::Announce;

/// The members that every kind of request has.
#[derive(Clone, Debug, PartialEq)]
struct Shared {
    action: Action,
    is: [bool; 3],
    by_http: bool,
    by_udp: bool,
    has_transaction: bool,
    passkey: Option<String>,
    path: String,
    ip: IpAddr,
    sent: bool,
}

macro_rules! shared {
    ($request:expr) => {
        Shared {
            action: $request.action(),
            is: [$request.is_connect(), $request.is_announce(), $request.is_scrape()],
            by_http: $request.is_source_http(),
            by_udp: $request.is_source_udp(),
            has_transaction: $request.transaction_id().is_some(),
            passkey: $request.passkey().map(std::borrow::Cow::into_owned),
            path: $request.request_path().into_owned(),
            ip: $request.connection().ip(),
            sent: $request.sent(),
        }
    };
}

#[test]
fn a_request_has_its_action_and_its_source() {
    let (log, noted) = (Log::new(), Log::new());
    let (any, each) = (log.clone(), noted.clone());
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        any.push(shared!(request));
        each.push(match request {
            RequestContext::Connect(connect) => shared!(connect),
            RequestContext::Announce(announce) => shared!(announce),
            RequestContext::Scrape(scrape) => shared!(scrape),
        });
        Ok(Then::Next)
    });
    for family in FAMILIES {
        let mut client = UdpClient::connected(tracker.udp(family));
        client.announce(announcement(info_hash(1), 1));
        client.scrape(&[info_hash(1)]);
        let paths = [announce_path(info_hash(1), 2, ""), format!("/key{}", scrape_path(&[info_hash(1)]))];
        paths.iter().for_each(|path| drop(fetch(tracker.http(family), path, &[])));
        let shared = |action: Action, path: Option<&String>| Shared {
            action,
            is: [Action::Connect, Action::Announce, Action::Scrape].map(|other| other == action),
            by_http: path.is_some(),
            by_udp: path.is_none(),
            has_transaction: path.is_none(),
            passkey: path.filter(|path| path.starts_with("/key/")).map(|_| "key".into()),
            path: path.cloned().unwrap_or_default(),
            ip: loopback(family),
            sent: false,
        };
        let expected = [
            shared(Action::Connect, None),
            shared(Action::Announce, None),
            shared(Action::Scrape, None),
            shared(Action::Announce, Some(&paths[0])),
            shared(Action::Scrape, Some(&paths[1])),
        ];
        assert_eq!((log.take(), noted.take()), (expected.to_vec(), expected.to_vec()));
    }
    assert_eq!([Action::Connect, Action::Announce, Action::Scrape].map(|action| action as u32), [0, 1, 2]);
}

#[test]
fn the_transaction_id_is_the_clients() {
    let log = Log::new();
    let noted = log.clone();
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        noted.push(request.transaction_id());
        Ok(Then::Next)
    });
    let mut client = udp(&tracker);
    let announce = client.announce_request(announcement(info_hash(1), 1));
    client.exchange(&announce);
    let number = u32::from_be_bytes(announce[12..16].try_into().unwrap());
    assert_eq!(log.take(), [Some(number - 1), Some(number)]);
}

/// The parameters of an announce.
#[derive(Clone, Debug, PartialEq)]
struct Announced {
    info_hash: [u8; 20],
    peer_id: [u8; 20],
    port: u16,
    uploaded: u64,
    downloaded: u64,
    left: Option<u64>,
    event: Event,
    num_want: Option<u16>,
    ip: IpAddr,
    address: SocketAddr,
    key: Option<u32>,
    tracker_id: Option<String>,
    compact: bool,
    no_peer_id: bool,
    passkey: Option<String>,
    path: String,
}

impl Announced {
    fn of(announce: &AnnounceRequest<'_>) -> Self {
        assert_eq!(announce.event(), announce.query.event);
        Self {
            info_hash: announce.info_hash.0,
            peer_id: announce.peer_id.0,
            port: announce.port,
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            left: announce.left,
            event: announce.event(),
            num_want: announce.num_want,
            ip: announce.ip,
            address: announce.address(),
            key: announce.key(),
            tracker_id: announce.tracker_id().map(str::to_owned),
            compact: announce.is_compact(),
            no_peer_id: announce.no_peer_id(),
            passkey: announce.passkey().map(std::borrow::Cow::into_owned),
            path: announce.request_path().into_owned(),
        }
    }

    /// The parameters of the unchanged announces of these tests.
    fn plain(key: Option<u32>, path: &str) -> Self {
        let ip = loopback(Family::V4);
        Self {
            info_hash: info_hash(1).0,
            peer_id: *b"-GT0001-integration!",
            port: 1,
            uploaded: 0,
            downloaded: 0,
            left: Some(1),
            event: Event::None,
            num_want: None,
            ip,
            address: SocketAddr::new(ip, 1),
            key,
            tracker_id: None,
            compact: true,
            no_peer_id: false,
            passkey: None,
            path: path.into(),
        }
    }
}

/// Starts a tracker that logs the parameters of announces.
fn listener() -> (Tracker, Log<Announced>) {
    let log = Log::new();
    let noted = log.clone();
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        if let Some(announce) = request.as_announce() {
            noted.push(Announced::of(announce));
        }
        Ok(Then::Next)
    });
    (tracker, log)
}

#[test]
fn each_udp_parameter_reaches_middleware() {
    let (tracker, log) = listener();
    let mut client = udp(&tracker);
    let path = "/key/announce";
    let options = b"\x02\x0d/key/announce";
    type Change = fn(&mut Announce<'static>);
    type Apply = fn(&mut Announced);
    let changes: [(Change, Apply); 12] = [
        (|_| {}, |_| {}),
        (|announce| announce.info_hash = info_hash(2), |expected| expected.info_hash = info_hash(2).0),
        (|announce| announce.peer_id = PeerId([7; 20]), |expected| expected.peer_id = [7; 20]),
        (
            |announce| announce.port = 7,
            |expected| (expected.port, expected.address) = (7, SocketAddr::new(expected.ip, 7)),
        ),
        (|announce| announce.uploaded = 7, |expected| expected.uploaded = 7),
        (|announce| announce.downloaded = 7, |expected| expected.downloaded = 7),
        (|announce| announce.left = 0, |expected| expected.left = Some(0)),
        (|announce| announce.event = Event::Started, |expected| expected.event = Event::Started),
        (|announce| announce.event = Event::Completed, |expected| expected.event = Event::Completed),
        (|announce| announce.event = Event::Stopped, |expected| expected.event = Event::Stopped),
        (|announce| announce.num_want = 7, |expected| expected.num_want = Some(7)),
        (|announce| announce.key = !0, |expected| expected.key = Some(!0)),
    ];
    for (at, (change, apply)) in changes.into_iter().enumerate() {
        let (mut announce, mut expected) = (announcement(info_hash(1), 1), Announced::plain(Some(0), ""));
        change(&mut announce);
        apply(&mut expected);
        client.announce(announce);
        assert_eq!(log.take(), [expected], "change {at}");
    }
    client.announce(Announce { options, ..announcement(info_hash(1), 1) });
    let expected =
        Announced { passkey: Some("key".into()), path: path.into(), ..Announced::plain(Some(0), "") };
    assert_eq!(log.take(), [expected]);
}

#[test]
fn each_http_parameter_reaches_middleware() {
    let (tracker, log) = listener();
    let plain = announce_path(info_hash(1), 1, "");
    let other_hash = announce_path(info_hash(2), 1, "");
    let (id, port) = ("-GT0001-integration!", "port=1&");
    type Apply = fn(&mut Announced);
    let changes: [(String, Apply); 22] = [
        (plain.clone(), |_| {}),
        (other_hash, |expected| expected.info_hash = info_hash(2).0),
        (plain.replace(id, "%07%00%ff-+abcdefghijklmno"), |expected| {
            expected.peer_id = *b"\x07\x00\xff-+abcdefghijklmno";
        }),
        (plain.replace(port, "port=7&"), |expected| {
            (expected.port, expected.address) = (7, SocketAddr::new(expected.ip, 7));
        }),
        (format!("{plain}&uploaded=7"), |expected| expected.uploaded = 7),
        (format!("{plain}&downloaded=7"), |expected| expected.downloaded = 7),
        (plain.replace("left=1", "left=0"), |expected| expected.left = Some(0)),
        (plain.replace("&left=1", ""), |expected| expected.left = None),
        (format!("{plain}&event=started"), |expected| expected.event = Event::Started),
        (format!("{plain}&event=completed"), |expected| expected.event = Event::Completed),
        (format!("{plain}&event=stopped"), |expected| expected.event = Event::Stopped),
        (format!("{plain}&event="), |_| {}),
        (format!("{plain}&numwant=7"), |expected| expected.num_want = Some(7)),
        (format!("{plain}&numwant=-1"), |_| {}),
        (format!("{plain}&key=fEEd"), |expected| expected.key = Some(0xfeed)),
        (format!("{plain}&trackerid=x%20y"), |expected| expected.tracker_id = Some("x%20y".into())),
        (format!("{plain}&compact=0"), |expected| expected.compact = false),
        (format!("{plain}&compact=1"), |_| {}),
        (format!("{plain}&no_peer_id=1"), |expected| expected.no_peer_id = true),
        (format!("/key{plain}"), |expected| expected.passkey = Some("key".into())),
        (format!("{plain}&passkey=key"), |expected| expected.passkey = Some("key".into())),
        (format!("{plain}&ip=192.0.2.1"), |_| {}), // ignored, since a client could claim any address
    ];
    for (path, apply) in changes {
        let mut expected = Announced::plain(None, &path);
        apply(&mut expected);
        http(&tracker, &path);
        assert_eq!(log.take(), [expected], "{path}");
    }
}

/// A swarm as another client sees it: seeders, leechers, downloads, the listed peers, and the leechers of a second
/// swarm.
type Seen = (u32, u32, u32, String, u32);

/// Announces by UDP or HTTP with a request that middleware changes. Returns the swarm afterwards.
fn seen_after(by_http: bool, change: fn(&mut AnnounceRequest<'_>)) -> Seen {
    const CHANGED_PORT: u16 = 7_777;
    let tracker = tracker(on(Action::Announce, move |request: &mut RequestContext<'_>| {
        let announce = request.as_announce().expect("an announce");
        if announce.port == CHANGED_PORT {
            change(announce);
        }
        Ok(Then::Next)
    }));
    let look = || http(&tracker, &announce_path(info_hash(1), 1, "&compact=0"));
    look(); // a request for peer ids makes the tracker keep them
    match by_http {
        true => drop(http(&tracker, &announce_path(info_hash(1), CHANGED_PORT, ""))),
        false => drop(udp(&tracker).announce(announcement(info_hash(1), CHANGED_PORT))),
    }
    let text = look();
    let peers = text.split_once("5:peersl").expect("a list").1.replace("-GT0001-integration!", "PEER");
    let counts = udp(&tracker).scrape(&[info_hash(1), info_hash(2)]);
    let SwarmCounts { seeders, leechers, downloaded } = counts[0];
    (seeders, leechers, downloaded, peers.trim_end_matches('e').to_owned(), counts[1].leechers)
}

#[test]
fn changed_parameters_reach_the_swarm() {
    let listed =
        |ip: &str, id: &str, port: u16| format!("d2:ip{}:{ip}7:peer id20:{id}4:porti{port}", ip.len());
    let plain = listed("127.0.0.1", "PEER", 7_777);
    type Change = fn(&mut AnnounceRequest<'_>);
    let changes: [(Change, Seen); 8] = [
        (|_| {}, (0, 2, 0, plain.clone(), 0)),
        (|announce| announce.info_hash = info_hash(2), (0, 1, 0, String::new(), 1)),
        (|announce| announce.port = 8, (0, 2, 0, listed("127.0.0.1", "PEER", 8), 0)),
        (|announce| announce.ip = [192, 0, 2, 7].into(), (0, 2, 0, listed("192.0.2.7", "PEER", 7_777), 0)),
        (
            |announce| announce.peer_id = PeerId(*b"another peer id here"),
            (0, 2, 0, listed("127.0.0.1", "another peer id here", 7_777), 0),
        ),
        (|announce| announce.left = Some(0), (1, 1, 0, plain.clone(), 0)),
        (
            |announce| (announce.left, announce.event) = (Some(0), Event::Completed),
            (1, 1, 1, plain.clone(), 0),
        ),
        (|announce| announce.event = Event::Stopped, (0, 1, 0, String::new(), 0)),
    ];
    for (at, (change, seen)) in changes.into_iter().enumerate() {
        for by_http in [false, true] {
            assert_eq!(seen_after(by_http, change), seen, "change {at}, by HTTP: {by_http}");
        }
    }
}

#[test]
fn changed_parameters_shape_the_response() {
    type Change = fn(&mut AnnounceRequest<'_>);
    let changes: [(Change, &str, usize); 6] = [
        (|_| {}, "5:peers12:", 2),
        (|announce| announce.num_want = Some(1), "5:peers6:", 1),
        (|announce| announce.num_want = Some(0), "5:peers0:", 0),
        (|announce| announce.compact = false, "5:peersld2:ip9:127.0.0.17:peer id20:", 2),
        (
            |announce| (announce.compact, announce.no_peer_id) = (false, true),
            "5:peersld2:ip9:127.0.0.14:porti",
            2,
        ),
        (|announce| announce.terms.interval_secs = Some(9), "8:intervali9e", 2),
    ];
    for (change, text, peers) in changes {
        let tracker = tracker(move |request: &mut RequestContext<'_>| {
            if let Some(announce) = request.as_announce() {
                change(announce);
            }
            Ok(Then::Next)
        });
        for port in [1, 2, 1, 2] {
            http(&tracker, &announce_path(info_hash(1), port, "&compact=0"));
        }
        assert!(http(&tracker, &announce_path(info_hash(1), 3, "")).contains(text), "{text}");
        assert_eq!(udp(&tracker).announce(announcement(info_hash(1), 3)).peers.len(), peers, "{text}");
    }
}

#[test]
fn the_hashes_of_a_scrape_can_be_changed() {
    let log = Log::new();
    let noted = log.clone();
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        if let Some(scrape) = request.as_scrape() {
            noted.push(scrape.info_hashes.to_vec());
            scrape.info_hashes[0] = info_hash(2);
        }
        Ok(Then::Next)
    });
    udp(&tracker).announce(announcement(info_hash(2), 1));
    let hashes = [info_hash(1), info_hash(3)];
    let counts = udp(&tracker).scrape(&hashes);
    assert_eq!(counts.iter().map(|counts| counts.leechers).collect::<Vec<_>>(), [1, 0]);
    assert!(http(&tracker, &scrape_path(&hashes)).contains("10:incompletei1e"));
    assert_eq!(log.take(), [hashes.to_vec(), hashes.to_vec()]);
}
