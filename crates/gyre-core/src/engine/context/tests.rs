//! Every member of the contexts, for each kind of request and each way it can come.

use super::*;
use crate::engine::PeerList;
use crate::error::Code;
use crate::limits::UDP_ANNOUNCE_BYTES;
use crate::types::{InfoHash, PeerId, SwarmCounts};
use crate::wire::udp::Request;

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn endpoint() -> Endpoint {
    Endpoint { source: SocketAddr::new(IP, 4_001), local: None, socket: 0 }
}

/// A datagram that announces, with these options.
fn datagram(options: &[u8]) -> Vec<u8> {
    let announce = udp::Announce {
        connection_id: 1,
        transaction_id: 77,
        info_hash: InfoHash([1; 20]),
        peer_id: PeerId([2; 20]),
        downloaded: 3,
        left: 4,
        uploaded: 5,
        event: Event::Completed,
        key: 0xfeed,
        num_want: 6,
        port: 6_881,
        options,
    };
    let mut bytes = Vec::new();
    Request::Announce(announce).encode(&mut bytes);
    assert_eq!(bytes.len(), UDP_ANNOUNCE_BYTES + options.len());
    bytes
}

fn by_udp(datagram: &[u8]) -> AnnounceRequest<'_> {
    let Ok(Request::Announce(announce)) = Request::parse(datagram) else { panic!("it is an announce") };
    AnnounceRequest::udp(&endpoint(), &announce)
}

const URL: &str = "/0123456789abcdef/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881\
    &uploaded=5&downloaded=3&left=4&event=completed&numwant=6&compact=0&no_peer_id=1&key=FEED&trackerid=x%20y";

fn by_http(url: &str) -> AnnounceRequest<'_> {
    AnnounceRequest::http(IP, url, AnnounceQuery::parse(query_of(url).as_bytes()).unwrap())
}

#[test]
fn an_announce_by_udp_has_all_its_members() {
    let datagram = datagram(b"\x02\x1f/announce?passkey=0123456789abc");
    let announce = by_udp(&datagram);
    assert_eq!((announce.info_hash, announce.peer_id), (InfoHash([1; 20]), PeerId([2; 20])));
    assert_eq!((announce.downloaded, announce.left, announce.uploaded), (3, Some(4), 5));
    assert_eq!((announce.ip, announce.port, announce.address()), (IP, 6_881, SocketAddr::new(IP, 6_881)));
    assert_eq!(
        (announce.event(), announce.num_want, announce.key()),
        (Event::Completed, Some(6), Some(0xfeed))
    );
    assert_eq!((announce.is_compact(), announce.no_peer_id(), announce.tracker_id()), (true, false, None));
    assert_eq!(announce.request_path(), "/announce?passkey=0123456789abc");
    assert_eq!(announce.passkey().as_deref(), Some("0123456789abc"));
    assert_eq!((announce.action(), announce.transaction_id()), (Action::Announce, Some(77)));
    assert!(announce.is_source_udp() && !announce.is_source_http() && !announce.sent());
    assert!(announce.is_announce() && !announce.is_connect() && !announce.is_scrape());
    let ConnectionContext::Udp(connection) = announce.connection() else { panic!("{announce:?}") };
    assert_eq!((connection.ip(), connection.port(), connection.sent()), (IP, 4_001, false));
    assert_eq!((connection.address(), connection.transaction_id()), (SocketAddr::new(IP, 4_001), 77));
}

#[test]
fn an_announce_by_http_has_all_its_members() {
    let announce = by_http(URL);
    assert_eq!((announce.info_hash, announce.peer_id), (InfoHash([b'a'; 20]), PeerId([b'b'; 20])));
    assert_eq!((announce.downloaded, announce.left, announce.uploaded), (3, Some(4), 5));
    assert_eq!((announce.ip, announce.port, announce.address()), (IP, 6_881, SocketAddr::new(IP, 6_881)));
    assert_eq!(
        (announce.event(), announce.num_want, announce.key()),
        (Event::Completed, Some(6), Some(0xfeed))
    );
    assert_eq!((announce.is_compact(), announce.no_peer_id()), (false, true));
    assert_eq!((announce.tracker_id(), announce.request_path().as_ref()), (Some("x%20y"), URL));
    assert_eq!(announce.passkey().as_deref(), Some("0123456789abcdef"));
    assert_eq!((announce.action(), announce.transaction_id()), (Action::Announce, None));
    assert!(announce.is_source_http() && !announce.is_source_udp());
    let ConnectionContext::Http(connection) = announce.connection() else { panic!("{announce:?}") };
    assert_eq!((connection.ip(), connection.url()), (IP, URL));
    assert!(!connection.sent() && !connection.aborted());
}

#[test]
fn keys_and_paths_of_all_kinds() {
    let key = |text: &str| by_http(&format!("{}&key={text}", URL.split("&key").next().unwrap())).key();
    assert_eq!(
        [key("0"), key("ffffffff"), key("100000000"), key("+1"), key("%41")],
        [Some(0), Some(!0), None, None, None]
    );
    for (options, path) in [
        (b"".as_slice(), ""),
        (b"\x02\x04/a?b", "/a?b"),
        (b"\x02\x02/a\x02\x02?b", "/a?b"),
        (b"\x01\x02\x02/a\x00\x02\x02?b", "/a"),
        (b"\x02\x02\xff\xff", ""),
        (b"\x02\x09short", ""),
    ] {
        assert_eq!(by_udp(&datagram(options)).request_path(), path, "{options:?}");
    }
    for (url, passkey) in [
        ("/k/announce", Some("k")),
        ("/k/announce?passkey=other", Some("k")),
        ("/announce?passkey=k-_9", Some("k-_9")),
        ("/announce?a=b&passkey=", None),
        ("/announce?passkey=%41", None),
        ("/announce", None),
        ("/k/scrape", Some("k")),
        ("/k/other", None),
    ] {
        assert_eq!(passkey_of(url), passkey, "{url}");
    }
}

#[test]
fn connects_and_scrapes_have_theirs() {
    let connect = ConnectRequest::udp(&endpoint(), 9);
    assert_eq!((connect.action(), connect.transaction_id()), (Action::Connect, Some(9)));
    assert!(connect.is_connect() && connect.is_source_udp() && connect.passkey().is_none());
    let url = "/k/scrape?info_hash=aaaaaaaaaaaaaaaaaaaa";
    let query = Box::new(ScrapeQuery::parse(query_of(url).as_bytes()).unwrap());
    let scrape = ScrapeRequest::http(IP, url, query.clone());
    assert_eq!(scrape.info_hashes.as_slice(), [InfoHash([b'a'; 20])]);
    assert_eq!((scrape.passkey().as_deref(), scrape.action()), (Some("k"), Action::Scrape));
    assert!(scrape.is_scrape() && scrape.is_source_http());
    let scrape = ScrapeRequest::udp(&endpoint(), 8, query);
    assert_eq!((scrape.transaction_id(), scrape.is_source_udp()), (Some(8), true));
    let mut any = RequestContext::Scrape(scrape);
    assert!(any.as_scrape().is_some() && any.as_announce().is_none() && any.is_scrape());
    assert_eq!(any.action() as u32, 2);
}

#[test]
fn one_answer_is_sent_and_it_must_fit() {
    let mut announce = by_http(URL);
    let connect = ConnectResponse { connection_id: 1 };
    assert_eq!(announce.send(connect).unwrap_err().code(), Code::IncorrectResponse);
    assert_eq!(announce.send(ScrapeResponse::default()).unwrap_err().code(), Code::IncorrectResponse);
    assert!(!announce.sent());
    let mut peers = Box::<PeerList>::default();
    peers.push(SocketAddr::new(IP, 1), None);
    announce.send(AnnounceResponse { interval_secs: 60, peers, ..Default::default() }).unwrap();
    assert!(announce.sent());
    let error = announce.send(TrackerError::incorrect_request("no")).unwrap_err();
    assert_eq!(error.code(), Code::ResponseAlreadySent);
    let Some(Response::Announce(response)) = announce.response_mut() else { panic!("it was sent") };
    response.peers.clear();
    let mut request = RequestContext::Announce(announce);
    let sent = request.take_sent().expect("it was sent");
    assert!(matches!(sent.response, Response::Announce(response) if response.peers.is_empty()));
    let mut scrape = ScrapeRequest::udp(&endpoint(), 8, Box::default());
    scrape.send([SwarmCounts::default(); 3].into_iter().collect::<ScrapeResponse>()).unwrap();
    assert!(matches!(scrape.response_mut(), Some(Response::Scrape(response)) if response.counts.len() == 3));
    let mut connect_request = ConnectRequest::udp(&endpoint(), 8);
    let ConnectionContext::Udp(udp) = connect_request.connection_mut() else { panic!("by UDP") };
    udp.send(b"raw".to_vec(), Action::Connect).unwrap();
    assert_eq!(udp.send(connect, Action::Connect).unwrap_err().code(), Code::ResponseAlreadySent);
}

#[test]
fn who_has_gone_is_sent_nothing() {
    let mut request = RequestContext::Announce(by_http(URL)).into_owned();
    let gone = Rc::new(Cell::new(false));
    request.watch(gone.clone());
    let aborted = |request: &RequestContext<'_>| match request.connection() {
        ConnectionContext::Http(http) => http.aborted(),
        ConnectionContext::Udp(_) => panic!("by HTTP"),
    };
    assert!(!aborted(&request));
    gone.set(true);
    assert!(aborted(&request));
    let ConnectionContext::Http(http) = request.connection_mut() else { panic!("by HTTP") };
    let refused = http.send(b"x".to_vec(), Action::Announce, http::StatusCode::ACCEPTED);
    assert_eq!(refused.unwrap_err().code(), Code::ConnectionClosed);
    assert_eq!(request.send(b"x".to_vec()).unwrap_err().code(), Code::ConnectionClosed);
}

#[test]
fn what_outlives_its_bytes_is_the_same() {
    let datagram = datagram(b"\x02\x02/k\x02\x09/announce");
    let mut announce = by_udp(&datagram);
    announce.data_mut().insert(5_u8);
    announce.terms.interval_secs = Some(7);
    announce.num_want = Some(1);
    let mut owned = RequestContext::Announce(announce).into_owned();
    drop(datagram);
    assert_eq!((owned.data().get(), owned.transaction_id()), (Some(&5_u8), Some(77)));
    assert_eq!(owned.passkey().as_deref(), Some("k"));
    let announce = owned.as_announce().unwrap();
    assert_eq!(
        (announce.terms.interval_secs, announce.num_want, announce.key()),
        (Some(7), Some(1), Some(0xfeed))
    );
}
