//! Owns the UDP tests of a running tracker: replies in both families and with every steering, and invalid datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use crate::support::{FAMILIES, Tracker, UdpClient, announcement, config, info_hash, listen, loopback};
use fastrand::Rng;
use gyre::config::{Config, Steering};
use gyre::counters::Counter;
use gyre::limits::{MAX_PEERS, MAX_SCRAPE_HASHES, UDP_ANNOUNCE_BYTES, UDP_CONNECT_BYTES, UDP_V6_PEERS};
use gyre::types::{Event, Family, InfoHash, SwarmCounts};
use gyre::wire::udp::{Announce, PROTOCOL_ID, Response};

const STEERINGS: [Steering; 3] = [Steering::InfoHash, Steering::Cpu, Steering::None];
const ANNOUNCES: [Counter; 2] = [Counter::UdpAnnounceV4, Counter::UdpAnnounceV6];
const REPLIES: [Counter; 2] = [Counter::UdpRepliesV4, Counter::UdpRepliesV6];

fn started(steering: Steering, workers: usize) -> Tracker {
    Tracker::start(&Config { steering, ..config(workers) })
}

/// Runs a test with every steering, 2 to 4 workers, and both families.
fn in_every_mode(test: impl Fn(&Tracker, Family)) {
    for steering in STEERINGS {
        for workers in 2..=4 {
            eprintln!("steering {steering}, {workers} workers"); // shown if the test fails
            let tracker = started(steering, workers);
            FAMILIES.into_iter().for_each(|family| test(&tracker, family));
        }
    }
}

fn counts(seeders: u32, downloaded: u32, leechers: u32) -> SwarmCounts {
    SwarmCounts { seeders, leechers, downloaded }
}

/// Announces leechers of a swarm, at these ports.
fn enter(client: &mut UdpClient, info_hash: InfoHash, ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        client.announce(Announce { num_want: 0, ..announcement(info_hash, port) });
    }
}

#[test]
fn peers_find_each_other_in_every_mode() {
    in_every_mode(|tracker, family| {
        let to = tracker.udp(family);
        let mut clients: Vec<_> = (0..3).map(|_| UdpClient::connected(to)).collect();
        let hash = info_hash(1 + family as u64);
        let leecher = |port| announcement(hash, port);
        let seeder = |port| Announce { left: 0, ..announcement(hash, port) };

        let alone = clients[0].announce(Announce { event: Event::Started, ..leecher(1) });
        assert_eq!(
            (alone.seeders, alone.leechers, alone.peers),
            (0, 1, vec![]),
            "a reply excludes the peer itself"
        );
        let second = clients[1].announce(leecher(2));
        assert_eq!(second.peers, [SocketAddr::new(loopback(family), 1)]);
        assert_eq!(clients[0].announce(leecher(1)).ports(), [2]);
        assert_eq!(clients[2].announce(seeder(3)).ports(), [1, 2], "a seeder gets leechers");
        let fourth = clients[1].announce(seeder(4));
        assert_eq!((fourth.ports(), fourth.seeders, fourth.leechers), (vec![1, 2], 2, 2), "only leechers");
        assert_eq!(clients[0].announce(leecher(1)).ports(), [2, 3, 4], "a leecher gets all");

        for _ in 0..2 {
            let completed = clients[1].announce(Announce { event: Event::Completed, ..seeder(2) });
            assert_eq!(completed.ports(), [1]);
        }
        assert_eq!(clients[0].scrape(&[hash]), [counts(3, 1, 1)], "one download, even if announced twice");
        let stopped = clients[0].announce(Announce { event: Event::Stopped, ..leecher(1) });
        assert_eq!((stopped.seeders, stopped.leechers, stopped.peers), (3, 0, vec![]));
        assert_eq!(clients[2].announce(leecher(5)).ports(), [2, 3, 4], "a stopped peer is removed");
    });
}

#[test]
fn intervals_are_spread_and_connection_ids_are_valid_at_all_workers_in_every_mode() {
    in_every_mode(|tracker, family| {
        let to = tracker.udp(family);
        let connection_id = UdpClient::connected(to).connection_id;
        for number in (0..40).map(|number| 100 * family as u64 + number) {
            // A new socket for each, so that the hash of their addresses distributes them over all workers.
            let mut client = UdpClient::new(to);
            client.connection_id = connection_id;
            let announced = client.announce(announcement(info_hash(number), 1));
            let interval = Config::default().announce_interval_secs;
            assert!(
                (interval..=interval + interval / 16).contains(&announced.interval_secs),
                "{announced:?}"
            );
            assert_eq!(client.scrape(&[info_hash(number)]), [counts(0, 0, 1)]);
        }
    });
}

#[test]
fn announces_steered_by_info_hash_reach_their_owner_directly() {
    for (steering, hops) in [(Steering::InfoHash, false), (Steering::Cpu, true), (Steering::None, true)] {
        for workers in 2..=4 {
            let tracker = started(steering, workers);
            let mut number = 0;
            for family in FAMILIES {
                for _ in 0..6 {
                    let mut client = UdpClient::connected(tracker.udp(family));
                    for _ in 0..50 {
                        number += 1;
                        client.announce(announcement(info_hash(number), 1));
                        assert_eq!(client.scrape(&[info_hash(number)]), [counts(0, 0, 1)]);
                    }
                }
            }
            tracker.await_count(&ANNOUNCES, number);
            tracker.await_count(&REPLIES, 2 * number + 12);
            let hopped = tracker.count(&[Counter::MeshHops]);
            assert_eq!(hopped > 0, hops, "{hopped} hops with {workers} workers and steering {steering}");
        }
    }
}

#[test]
fn a_reply_has_as_many_peers_as_wanted_up_to_the_maximum() {
    let tracker = Tracker::start(&Config { max_peers: MAX_PEERS as u16, ..config(2) });
    for (family, most) in [(Family::V4, MAX_PEERS), (Family::V6, UDP_V6_PEERS)] {
        let mut client = UdpClient::connected(tracker.udp(family));
        let hash = info_hash(1 + family as u64);
        enter(&mut client, hash, 1..=250);
        let wanted = [(-1, 50), (0, 0), (1, 1), (60, 60), (201, most), (i32::MAX, most), (i32::MIN, 50)];
        for (num_want, expected) in wanted {
            let mut peers = client.announce(Announce { num_want, ..announcement(hash, 1) }).peers;
            peers.dedup();
            assert_eq!(peers.len(), expected, "{num_want} wanted");
            assert!(
                !peers.contains(&SocketAddr::new(loopback(family), 1)),
                "a reply excludes the peer itself"
            );
        }
    }
    let tracker = Tracker::start(&Config { max_peers: 7, ..config(2) });
    let mut client = UdpClient::connected(tracker.udp(Family::V4));
    enter(&mut client, info_hash(1), 1..=20);
    for num_want in [-1, 8, i32::MAX] {
        let announced = client.announce(Announce { num_want, ..announcement(info_hash(1), 1) });
        assert_eq!(announced.peers.len(), 7, "the configured maximum applies");
    }
}

#[test]
fn the_address_of_a_peer_is_the_source_of_its_datagram() {
    let tracker = started(Steering::InfoHash, 2);
    let ips: [IpAddr; 4] = ["127.0.0.9", "127.1.2.3", "127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
    for ip in ips {
        let to = tracker.udp(Family::of(ip));
        let mut peer = UdpClient::at(ip, to);
        peer.connect();
        let mut request = peer.announce_request(announcement(info_hash(1), 1));
        request[84..88].copy_from_slice(&[8, 8, 8, 8]); // the deprecated ip field
        peer.exchange(&request);
        let announced = UdpClient::connected(to).announce(announcement(info_hash(1), 2));
        assert!(announced.peers.contains(&SocketAddr::new(ip, 1)), "{ip} in {announced:?}");
        assert!(!announced.peers.iter().any(|peer| peer.ip() == IpAddr::from([8, 8, 8, 8])), "{announced:?}");
    }
}

#[test]
fn families_share_a_swarm_but_not_their_peers() {
    let tracker = started(Steering::InfoHash, 3);
    let [mut v4, mut v6] = FAMILIES.map(|family| UdpClient::connected(tracker.udp(family)));
    let hash = info_hash(1);
    enter(&mut v4, hash, [1, 2]);
    enter(&mut v6, hash, [3, 4]);
    v6.announce(Announce { left: 0, ..announcement(hash, 5) });
    let to_v4 = v4.announce(announcement(hash, 1));
    let to_v6 = v6.announce(announcement(hash, 3));
    assert_eq!((to_v4.ports(), to_v4.seeders, to_v4.leechers), (vec![2], 1, 4));
    assert_eq!((to_v6.ports(), to_v6.seeders, to_v6.leechers), (vec![4, 5], 1, 4));
    assert_eq!(v4.scrape(&[hash]), v6.scrape(&[hash]));
    tracker.await_count(&[Counter::Swarms], 1);
    tracker.await_count(&[Counter::V6Peers], 3);
}

#[test]
fn scrape_replies_keep_the_order_of_the_request_in_every_mode() {
    in_every_mode(|tracker, family| {
        let mut client = UdpClient::connected(tracker.udp(family));
        // Every third swarm exists, with one to three leechers. Each family has different hashes.
        let hashes: Vec<_> = (0..74).map(|number| info_hash(1_000 * family as u64 + number)).collect();
        let mut expected = vec![SwarmCounts::default(); hashes.len()];
        for (at, leechers) in (0..hashes.len()).step_by(3).zip((1..4).cycle()) {
            enter(&mut client, hashes[at], 1..=leechers);
            client.announce(Announce { left: 0, event: Event::Completed, ..announcement(hashes[at], 9) });
            expected[at] = counts(1, 1, leechers.into());
        }
        assert_eq!(hashes.len(), MAX_SCRAPE_HASHES);
        assert_eq!(client.scrape(&hashes), expected);
        let backwards: Vec<_> = hashes.iter().rev().copied().collect();
        expected.reverse();
        assert_eq!(client.scrape(&backwards), expected);
        assert_eq!(client.scrape(&backwards[73..]), expected[73..], "a scrape of one");
        assert_eq!(client.scrape(&[hashes[0]; 3]), [expected[73]; 3], "three times the same hash");
        assert_eq!(client.scrape(&[info_hash(77_777)]), [counts(0, 0, 0)]);
    });
}

#[test]
fn a_scrape_of_too_many_is_dropped_and_counted() {
    let tracker = started(Steering::InfoHash, 3);
    let mut client = UdpClient::connected(tracker.udp(Family::V4));
    client.connect();
    let hashes: Vec<_> = (0..75).map(info_hash).collect();
    let request = client.scrape_request(&hashes);
    client.send(&request);
    tracker.await_count(&[Counter::BadTruncated], 1);
    assert!(!client.has_mail());
    assert_eq!(client.scrape(&hashes[..MAX_SCRAPE_HASHES]), [SwarmCounts::default(); MAX_SCRAPE_HASHES]);
}

#[test]
fn replies_of_a_wildcard_socket_leave_from_the_requested_address() {
    for steering in STEERINGS {
        let wildcards = listen(&[Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]);
        let tracker = Tracker::start(&Config { udp: wildcards, steering, ..config(3) });
        for ip in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.200.1.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let port = tracker.udp(Family::of(ip)).port();
            // The client's socket is connected, so only datagrams from that address reach it.
            let mut client = UdpClient::connected(SocketAddr::new(ip, port));
            for number in 0..20 {
                client.announce(announcement(info_hash(number), 1)); // some go through another worker
            }
            let hashes: Vec<_> = (0..20).map(info_hash).collect();
            client.scrape(&hashes).iter().for_each(|counts| assert_ne!(counts.leechers, 0));
            let error = client.announce_request(announcement(info_hash(0), 0));
            assert!(matches!(Response::parse(&client.exchange(&error)), Ok(Response::Error { .. })));
        }
    }
}

/// Datagrams that are dropped without a reply, by the counter of their cause.
fn bad_datagrams(client: &mut UdpClient) -> Vec<(Counter, Vec<Vec<u8>>)> {
    let connect = client.connect_request();
    let announce = client.announce_request(announcement(info_hash(1), 1));
    let scrape = client.scrape_request(&[info_hash(1)]);
    let changed = |request: &[u8], at: usize, bytes: &[u8]| {
        let mut request = request.to_vec();
        request[at..at + bytes.len()].copy_from_slice(bytes);
        request
    };
    let cut = |request: &[u8], lengths: &[usize]| -> Vec<_> {
        lengths.iter().map(|&length| request[..length].to_vec()).collect()
    };
    let lengthened = |request: &[u8], by| [request, &vec![0; by]].concat();
    let short = [
        cut(&connect, &[0, 1, 8, 12, 15]),
        cut(&announce, &[16, 36, UDP_ANNOUNCE_BYTES - 1]),
        cut(&scrape, &[16, 17, 35]),
    ];
    let with_action = |action: u32| changed(&announce, 8, &action.to_be_bytes());
    let wrong_id = (client.connection_id ^ 1).to_be_bytes();
    let ids = [[0; 8], wrong_id, PROTOCOL_ID.to_be_bytes()];
    let with_ids = |request: &[u8]| ids.map(|id| changed(request, 0, &id)).to_vec();
    let too_long = [(&connect, 3_000), (&announce, 3_000), (&scrape, 60_000)];
    vec![
        (Counter::BadShort, short.concat()),
        (Counter::BadMagic, vec![changed(&connect, 7, &[0]), changed(&connect, 0, &[0; 8])]),
        (Counter::BadAction, [3, 4, 255, 256, u32::MAX].map(with_action).to_vec()),
        (Counter::BadConnectionId, [with_ids(&announce), with_ids(&scrape)].concat()),
        (Counter::BadTruncated, too_long.map(|(request, by)| lengthened(request, by)).to_vec()),
    ]
}

#[test]
fn invalid_datagrams_get_no_reply_and_are_counted_by_cause() {
    for workers in [1, 3] {
        let tracker = started(Steering::InfoHash, workers);
        for family in FAMILIES {
            let mut client = UdpClient::connected(tracker.udp(family));
            for (cause, datagrams) in bad_datagrams(&mut client) {
                let before = tracker.count(&[cause]);
                for datagram in &datagrams {
                    client.send(datagram);
                    // With one worker this reply would come after a reply to the invalid datagram.
                    client.connect();
                    client.announce(announcement(info_hash(1), 1));
                }
                tracker.await_count(&[cause], before + datagrams.len() as u64);
                assert!(!client.has_mail(), "{cause:?} was answered");
            }
        }
    }
}

#[test]
fn an_announce_of_port_0_gets_an_error() {
    let tracker = started(Steering::InfoHash, 2);
    for family in FAMILIES {
        let mut client = UdpClient::connected(tracker.udp(family));
        let request = client.announce_request(announcement(info_hash(1), 0));
        let reply = client.exchange(&request);
        let Ok(Response::Error { message, .. }) = Response::parse(&reply) else { panic!("{reply:?}") };
        assert!(String::from_utf8_lossy(message).contains("port"), "{}", message.escape_ascii());
        assert_eq!(client.scrape(&[info_hash(1)]), [counts(0, 0, 0)]);
    }
    tracker.await_count(&[Counter::BadAnnouncePort], 2);
    tracker.await_count(&[Counter::Refused], 2);
}

/// Returns a datagram of random bytes, some with the length, protocol id or action of a request.
fn junk(random: &mut Rng) -> Vec<u8> {
    let lengths = [random.usize(..40), UDP_CONNECT_BYTES, UDP_ANNOUNCE_BYTES, random.usize(..1_600)];
    let mut datagram = vec![0; *random.choice(&lengths).unwrap()];
    random.fill(&mut datagram);
    let magic = PROTOCOL_ID.to_be_bytes();
    let action = [0, 0, 0, random.u8(..5)];
    for (at, bytes) in [(0, magic.as_slice()), (8, &action)] {
        if random.bool() && datagram.len() >= at + bytes.len() {
            datagram[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
    datagram
}

#[test]
fn a_client_without_a_connection_id_gets_no_more_bytes_than_it_sent() {
    let tracker = started(Steering::InfoHash, 1); // a single worker replies in the order of the requests
    let mut random = Rng::with_seed(15);
    for family in FAMILIES {
        let mut client = UdpClient::new(tracker.udp(family));
        let mut answered = 0;
        for _ in 0..100 {
            let batch: Vec<_> = (0..30).map(|_| junk(&mut random)).collect();
            batch.iter().for_each(|datagram| client.send(datagram));
            let last = client.connect_request();
            client.send(&last);
            let request_of =
                |reply: &[u8]| batch.iter().find(|datagram| datagram.get(12..16) == Some(&reply[4..8]));
            loop {
                let reply = client.receive();
                if reply[4..8] == last[12..16] {
                    break;
                }
                let request = request_of(&reply).expect("a response to one of these");
                assert!(reply.len() <= request.len(), "{} bytes for {}", reply.len(), request.len());
                assert!(matches!(Response::parse(&reply), Ok(Response::Connect { .. })), "{reply:?}");
                answered += 1;
            }
        }
        assert!(answered > 0, "some junk is a valid connect request");
    }
    tracker.await_count(&[Counter::Swarms], 0);
}

#[test]
fn options_of_an_announce_are_accepted_or_ignored() {
    let tracker = started(Steering::InfoHash, 2);
    let good: [&[u8]; 8] = [
        b"\x00",
        b"\x01\x01\x01",
        b"\x02\x09/announce",
        b"\x02\x0e/0aB9/announce\x00",
        b"\x01\x02\x05/anno\x01\x02\x04unce\x00ignored",
        b"\x02\x00",
        b"\x63\x03abc\x02\x09/announce",
        &[1; 900],
    ];
    let malformed: [&[u8]; 5] = [b"\x02", b"\x02\x09/ann", b"\xff", b"\x63\xff", b"\x02\x03\xff\xfe\xfd\x02"];
    for family in FAMILIES {
        let mut client = UdpClient::connected(tracker.udp(family));
        for (port, options) in (1..).zip(good.into_iter().chain(malformed)) {
            let announced =
                client.announce(Announce { options, ..announcement(info_hash(family as u64), port) });
            assert_eq!(announced.leechers, u32::from(port), "after {}", options.escape_ascii());
        }
    }
    tracker.await_count(&[Counter::BadOptions], 2 * malformed.len() as u64);
}

/// Announces 5,000 peers, 10 at a time, and checks that each gets a reply.
fn announce_many(mut client: UdpClient, first_port: u16, hashes: &[InfoHash]) {
    let ports = first_port..first_port + 100;
    for port in ports {
        for hashes in hashes.chunks(10) {
            for hash in hashes {
                let request = client.announce_request(Announce { num_want: 5, ..announcement(*hash, port) });
                client.send(&request);
            }
            for _ in hashes {
                assert!(client.read_announced(&client.receive()).peers.len() <= 5);
            }
        }
    }
}

#[test]
fn every_request_of_a_burst_is_answered() {
    for steering in STEERINGS {
        let tracker = started(steering, 3);
        let hashes: Vec<_> = (0..50).map(info_hash).collect();
        thread::scope(|scope| {
            for (first_port, family) in
                (1..).step_by(100).zip([Family::V4, Family::V6, Family::V4, Family::V6])
            {
                let (client, hashes) = (UdpClient::connected(tracker.udp(family)), &hashes);
                scope.spawn(move || announce_many(client, first_port, hashes));
            }
        });
        let mut client = UdpClient::connected(tracker.udp(Family::V4));
        assert_eq!(client.scrape(&hashes), vec![counts(0, 0, 400); hashes.len()]);
        tracker.await_count(&[Counter::Leechers], 20_000);
        tracker.await_count(&[Counter::V6Peers], 10_000);
        tracker.await_count(&[Counter::Swarms], 50);
        tracker.await_count(&ANNOUNCES, 20_000);
    }
}
