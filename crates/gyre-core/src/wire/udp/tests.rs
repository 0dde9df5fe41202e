//! Owns the tests of the UDP protocol: all lengths, round trips, and packets of real clients.

use proptest::prelude::*;

use super::*;
use crate::limits::{UDP_REPLY_MAX_BYTES, UDP_REQUEST_MAX_BYTES};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

// Recorded on loopback, 2026-11-20, from Debian's packages: libtorrent 2.0.8 and aria2 1.36.0 fetching a torrent of
// 100,000 bytes whose tracker gave them the connection id 0x1122334455667788.
const LIBTORRENT_CONNECT: &str = "0000041727101980000000009309ffee";
const LIBTORRENT_STARTED: &str = "\
    1122334455667788000000018f13dc86a0a3a37521d51b9aedc3cf450d2aa8acd85022a22d4c54323038302d71694f534728582e596a4d62\
    000000000000000000000000000186a000000000000000000000000200000000a26ea3eb000000c841f102092f616e6e6f756e6365";
const LIBTORRENT_STOPPED: &str = "\
    11223344556677880000000154a58c2da0a3a37521d51b9aedc3cf450d2aa8acd85022a22d4c54323038302d71694f534728582e596a4d62\
    000000000000000000000000000186a000000000000000000000000300000000a26ea3eb0000000041f102092f616e6e6f756e6365";
const ARIA2_STARTED: &str = "\
    112233445566778800000001e5fa81644cf10e2ea3036a8fdfa1ea37c4ee115cf91ba45741322d312d33362d302d21641fa2540fb1e6aa07\
    000000000000000000000000000186a000000000000000000000000200000000050d61920000003241f20000";

#[test]
fn packets_of_real_clients_are_parsed() {
    let connect = bytes(LIBTORRENT_CONNECT);
    assert_eq!(Request::parse(&connect), Ok(Request::Connect { transaction_id: 0x9309_ffee }));
    for (recorded, event, num_want, port, peer_id, url) in [
        (LIBTORRENT_STARTED, Event::Started, 200, 16881, b"-LT2080-qiOSG(X.YjMb", b"/announce".as_slice()),
        (LIBTORRENT_STOPPED, Event::Stopped, 0, 16881, b"-LT2080-qiOSG(X.YjMb", b"/announce"),
        (ARIA2_STARTED, Event::Started, 50, 16882, b"A2-1-36-0-!d\x1f\xa2T\x0f\xb1\xe6\xaa\x07", b""),
    ] {
        let datagram = bytes(recorded);
        let Ok(Request::Announce(announce)) = Request::parse(&datagram) else { panic!("an announce") };
        assert_eq!(announce.connection_id, 0x1122_3344_5566_7788);
        assert_eq!(announce.peer_id, PeerId(*peer_id));
        assert_eq!((announce.downloaded, announce.left, announce.uploaded), (0, 100_000, 0));
        assert_eq!((announce.event, announce.num_want, announce.port), (event, num_want, port));
        let options = announce.options();
        assert_eq!((options.url_data.as_slice(), options.malformed), (url, false));
        let mut again = Vec::new();
        Request::Announce(announce).encode(&mut again);
        assert_eq!(again, datagram, "all fields are parsed");
    }
}

#[test]
fn every_length_is_a_request_or_too_short() {
    for length in 0..=2_000 {
        for (action, needed) in [(ACTION_CONNECT, 16), (ACTION_ANNOUNCE, 98), (ACTION_SCRAPE, 36)] {
            let mut datagram = vec![0; length];
            let head = [PROTOCOL_ID.to_be_bytes().as_slice(), &action.to_be_bytes()].concat();
            let written = length.min(head.len());
            datagram[..written].copy_from_slice(&head[..written]);
            match Request::parse(&datagram) {
                Ok(_) => assert!(length >= needed, "action {action} of {length} bytes"),
                Err(error) => {
                    assert!(error == Malformed::Short && length < needed, "action {action}, {length} bytes");
                }
            }
        }
    }
}

#[test]
fn other_magic_and_actions_are_rejected() {
    let mut datagram = bytes(LIBTORRENT_CONNECT);
    datagram[7] ^= 1;
    assert_eq!(Request::parse(&datagram), Err(Malformed::Magic));
    for action in [3, 4, 255, u32::MAX] {
        datagram[8..12].copy_from_slice(&action.to_be_bytes());
        assert_eq!(Request::parse(&datagram), Err(Malformed::Action));
    }
}

#[test]
fn a_scrape_has_all_hashes_up_to_the_limit() {
    for (length, hashes) in [(36, 1), (55, 1), (56, 2), (UDP_REQUEST_MAX_BYTES, 74), (2_000, 74)] {
        let mut datagram = vec![0; length];
        datagram[11] = ACTION_SCRAPE as u8;
        let Ok(Request::Scrape(scrape)) = Request::parse(&datagram) else { panic!("a scrape") };
        assert_eq!(scrape.info_hashes.len(), hashes, "{length} bytes");
    }
}

#[test]
fn options_are_joined_and_unknown_ones_skipped() {
    let parse = |hex: &str| {
        let options = Options::parse(&bytes(hex));
        assert_eq!(Options::are_malformed(&bytes(hex)), options.malformed);
        (String::from_utf8(options.url_data.to_vec()).unwrap(), options.malformed)
    };
    assert_eq!(parse(""), (String::new(), false));
    assert_eq!(parse("00 02 01 61"), (String::new(), false), "options after the end are ignored");
    assert_eq!(parse("01 01 02 02 2f61 09 03 ffffff 02 01 62 00"), ("/ab".into(), false));
    assert_eq!(parse("02 00 02 01 61"), ("a".into(), false));
    for overrun in ["02", "02 02 61", "09 01", "02 01 61 02 ff 62"] {
        assert!(parse(overrun).1, "{overrun}");
    }
    assert_eq!(parse("02 01 61 02 ff 62").0, "a", "the options before stay valid");
    let long = [[2, 255].as_slice(), &[b'x'; 255]].concat().repeat(3);
    let options = Options::parse(&long);
    assert!(options.malformed && Options::are_malformed(&long));
    assert_eq!(options.url_data.len(), 510, "a part that does not fit is dropped as a whole");
}

#[test]
fn long_messages_are_truncated() {
    let mut out = [0; UDP_REPLY_MAX_BYTES];
    assert_eq!(put_error(&mut out, 1, &"x".repeat(2_000)), UDP_REPLY_HEAD_BYTES + MAX_FAILURE_BYTES);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![Just(Event::None), Just(Event::Completed), Just(Event::Started), Just(Event::Stopped)]
}

proptest! {
    #[test]
    fn requests_are_parsed_as_written(
        connection_id: u64, transaction_id: u32, info_hash: [u8; 20], peer_id: [u8; 20], downloaded: u64, left: u64,
        uploaded: u64, event in event(), key: u32, num_want: i32, port: u16,
        options in proptest::collection::vec(any::<u8>(), 0..99),
        info_hashes in proptest::collection::vec(any::<[u8; 20]>(), 1..=MAX_SCRAPE_HASHES),
    ) {
        let mut out = Vec::new();
        for request in [
            Request::Connect { transaction_id },
            Request::Announce(Announce {
                connection_id, transaction_id, info_hash: InfoHash(info_hash), peer_id: PeerId(peer_id), downloaded,
                left, uploaded, event, key, num_want, port, options: &options,
            }),
            Request::Scrape(Scrape { connection_id, transaction_id, info_hashes: &info_hashes }),
        ] {
            request.encode(&mut out);
            prop_assert_eq!(Request::parse(&out), Ok(request));
        }
    }

    #[test]
    fn responses_are_parsed_as_written(
        transaction_id: u32, connection_id: u64, interval_secs: u32, seeders: u32, leechers: u32, downloaded: u32,
        swarms in 0..=MAX_SCRAPE_HASHES, message in "[ -~]{0,120}",
    ) {
        let mut out = [0xaa; UDP_REPLY_MAX_BYTES];
        let length = put_connect(&mut out, transaction_id, connection_id);
        prop_assert_eq!(Response::parse(&out[..length]), Ok(Response::Connect { transaction_id, connection_id }));
        let counts = SwarmCounts { seeders, leechers, downloaded };
        put_announce_head(&mut out, transaction_id, interval_secs, counts);
        let peers = &{ out }[20..32];
        let expected = Response::Announce { transaction_id, interval_secs, leechers, seeders, peers };
        prop_assert_eq!(Response::parse(&out[..32]), Ok(expected));
        let length = put_scrape(&mut out, transaction_id, &vec![counts; swarms]);
        let Ok(Response::Scrape { entries, .. }) = Response::parse(&out[..length]) else { panic!("a scrape") };
        prop_assert_eq!(entries.len(), swarms);
        prop_assert!(entries.iter().all(|entry| scrape_counts(entry) == counts));
        let length = put_error(&mut out, transaction_id, &message);
        let expected = Response::Error { transaction_id, message: message.as_bytes() };
        prop_assert_eq!(Response::parse(&out[..length]), Ok(expected));
    }

    #[test]
    fn no_datagram_panics(mut datagram in proptest::collection::vec(any::<u8>(), 0..2_000), action in 0..5_u8) {
        let _ = Response::parse(&datagram);
        if datagram.len() > 12 {
            datagram[8..12].copy_from_slice(&[0, 0, 0, action]);
        }
        if let Ok(Request::Announce(announce)) = Request::parse(&datagram) {
            prop_assert_eq!(Options::are_malformed(announce.options), announce.options().malformed);
        }
    }
}
