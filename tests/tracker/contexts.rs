//! Owns the tests of what middleware has in hand of a request, member by member, by UDP and by HTTP: each parameter by
//! itself, and what the swarm and the answer are like if it is changed.

use std::net::{IpAddr, SocketAddr};

use crate::support::note::{Log, fetch, http, tracker};
use crate::support::{
    FAMILIES, Tracker, UdpClient, announce_path, announcement, info_hash, loopback, scrape_path, udp,
};
use gyre::engine::context::{Action, AnnounceRequest, RequestContext};
use gyre::engine::middleware::{Then, on};
use gyre::types::{Event, Family, PeerId, SwarmCounts};
use gyre::wire::udp::Announce;

/// What is the same for each kind of request, and for any.
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
fn requests_say_what_they_want_and_how_they_came() {
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
fn numbers_of_transactions_are_the_clients() {
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

/// All that an announce tells.
#[derive(Clone, Debug, PartialEq)]
struct Told {
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

impl Told {
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

    /// What the plain announces of these tests tell.
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

/// A tracker that notes what announces tell.
fn listener() -> (Tracker, Log<Told>) {
    let log = Log::new();
    let noted = log.clone();
    let tracker = tracker(move |request: &mut RequestContext<'_>| {
        if let Some(announce) = request.as_announce() {
            noted.push(Told::of(announce));
        }
        Ok(Then::Next)
    });
    (tracker, log)
}

#[test]
fn each_parameter_by_udp_is_told_by_itself() {
    let (tracker, log) = listener();
    let mut client = udp(&tracker);
    let path = "/key/announce";
    let options = b"\x02\x0d/key/announce";
    type Ask = fn(&mut Announce<'static>);
    type Tell = fn(&mut Told);
    let changes: [(Ask, Tell); 12] = [
        (|_| {}, |_| {}),
        (|ask| ask.info_hash = info_hash(2), |told| told.info_hash = info_hash(2).0),
        (|ask| ask.peer_id = PeerId([7; 20]), |told| told.peer_id = [7; 20]),
        (|ask| ask.port = 7, |told| (told.port, told.address) = (7, SocketAddr::new(told.ip, 7))),
        (|ask| ask.uploaded = 7, |told| told.uploaded = 7),
        (|ask| ask.downloaded = 7, |told| told.downloaded = 7),
        (|ask| ask.left = 0, |told| told.left = Some(0)),
        (|ask| ask.event = Event::Started, |told| told.event = Event::Started),
        (|ask| ask.event = Event::Completed, |told| told.event = Event::Completed),
        (|ask| ask.event = Event::Stopped, |told| told.event = Event::Stopped),
        (|ask| ask.num_want = 7, |told| told.num_want = Some(7)),
        (|ask| ask.key = !0, |told| told.key = Some(!0)),
    ];
    for (at, (ask, tell)) in changes.into_iter().enumerate() {
        let (mut announce, mut told) = (announcement(info_hash(1), 1), Told::plain(Some(0), ""));
        ask(&mut announce);
        tell(&mut told);
        client.announce(announce);
        assert_eq!(log.take(), [told], "change {at}");
    }
    client.announce(Announce { options, ..announcement(info_hash(1), 1) });
    let told = Told { passkey: Some("key".into()), path: path.into(), ..Told::plain(Some(0), "") };
    assert_eq!(log.take(), [told]);
}

#[test]
fn each_parameter_by_http_is_told_by_itself() {
    let (tracker, log) = listener();
    let plain = announce_path(info_hash(1), 1, "");
    let other_hash = announce_path(info_hash(2), 1, "");
    let (id, port) = ("-GT0001-integration!", "port=1&");
    type Tell = fn(&mut Told);
    let changes: [(String, Tell); 22] = [
        (plain.clone(), |_| {}),
        (other_hash, |told| told.info_hash = info_hash(2).0),
        (plain.replace(id, "%07%00%ff-+abcdefghijklmno"), |told| {
            told.peer_id = *b"\x07\x00\xff-+abcdefghijklmno";
        }),
        (plain.replace(port, "port=7&"), |told| {
            (told.port, told.address) = (7, SocketAddr::new(told.ip, 7));
        }),
        (format!("{plain}&uploaded=7"), |told| told.uploaded = 7),
        (format!("{plain}&downloaded=7"), |told| told.downloaded = 7),
        (plain.replace("left=1", "left=0"), |told| told.left = Some(0)),
        (plain.replace("&left=1", ""), |told| told.left = None),
        (format!("{plain}&event=started"), |told| told.event = Event::Started),
        (format!("{plain}&event=completed"), |told| told.event = Event::Completed),
        (format!("{plain}&event=stopped"), |told| told.event = Event::Stopped),
        (format!("{plain}&event="), |_| {}),
        (format!("{plain}&numwant=7"), |told| told.num_want = Some(7)),
        (format!("{plain}&numwant=-1"), |_| {}),
        (format!("{plain}&key=fEEd"), |told| told.key = Some(0xfeed)),
        (format!("{plain}&trackerid=x%20y"), |told| told.tracker_id = Some("x%20y".into())),
        (format!("{plain}&compact=0"), |told| told.compact = false),
        (format!("{plain}&compact=1"), |_| {}),
        (format!("{plain}&no_peer_id=1"), |told| told.no_peer_id = true),
        (format!("/key{plain}"), |told| told.passkey = Some("key".into())),
        (format!("{plain}&passkey=key"), |told| told.passkey = Some("key".into())),
        (format!("{plain}&ip=192.0.2.1"), |_| {}), // anybody could say so of anybody
    ];
    for (path, tell) in changes {
        let mut told = Told::plain(None, &path);
        tell(&mut told);
        http(&tracker, &path);
        assert_eq!(log.take(), [told], "{path}");
    }
}

/// A swarm as somebody else sees it: its seeders, leechers and downloads, its peers as they are listed, and how many
/// there are in another one.
type Seen = (u32, u32, u32, String, u32);

/// Has a client announce whose request is changed so, by UDP or HTTP; looks at the swarm before and afterwards.
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
    look(); // who asks for ids has them kept
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
fn what_is_changed_is_what_the_swarm_sees() {
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
            |announce| announce.peer_id = PeerId(*b"somebody of my own!!"),
            (0, 2, 0, listed("127.0.0.1", "somebody of my own!!", 7_777), 0),
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
fn what_is_changed_is_what_the_answer_is_like() {
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
fn what_a_scrape_asks_for_can_be_changed() {
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
    let asked = [info_hash(1), info_hash(3)];
    let counts = udp(&tracker).scrape(&asked);
    assert_eq!(counts.iter().map(|counts| counts.leechers).collect::<Vec<_>>(), [1, 0]);
    assert!(http(&tracker, &scrape_path(&asked)).contains("10:incompletei1e"));
    assert_eq!(log.take(), [asked.to_vec(), asked.to_vec()]);
}
