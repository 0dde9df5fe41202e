//! Tests of several engines whose network is a vector: every request is answered once or counted as dropped, whichever
//! engine owns the swarm.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

use super::context::Terms;
use super::*;
use crate::limits::{
    GATHER_DEADLINE_MS, MAX_GATHERS, MAX_SCRAPE_HASHES, TABLE_MIN_BYTES, UDP_REPLY_MAX_BYTES,
};
use crate::throttle::{Rate, SourceLimits};
use crate::types::{Announce, Event, InfoHash, PeerAddr, PeerId};
use crate::wire::query::{AnnounceQuery, ScrapeQuery};
use crate::wire::udp::{self, Request, Response, scrape_counts};

const POLICY: Policy = Policy {
    announce_interval_secs: 1_600,
    min_interval_secs: 900,
    max_peers: 100,
    peer_timeout_secs: 4_000,
    table_bytes: usize::MAX,
};

/// Several engines and what is on the way between them.
struct Net {
    engines: Vec<Engine>,
    mail: Mail,
    replies: Sent,
}

/// Messages on the way; refuses more than `room`.
struct Mail {
    queue: VecDeque<(WorkerId, WorkerId, Message)>,
    room: usize,
    from: WorkerId,
}

impl Post for Mail {
    fn post(&mut self, to: WorkerId, message: Message) -> Result<(), Message> {
        if self.queue.len() >= self.room {
            return Err(message);
        }
        self.queue.push_back((self.from, to, message));
        Ok(())
    }
}

#[derive(Default)]
struct Sent(Vec<(Endpoint, Vec<u8>)>);

impl Replies for Sent {
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize) {
        let mut out = [0; UDP_REPLY_MAX_BYTES];
        let length = write(&mut out);
        self.0.push((*to, out[..length].to_vec()));
    }
}

impl Net {
    fn new(workers: usize) -> Self {
        let owners = Owners::new(workers, [1, 2, 3]);
        let ids = ConnectionIds::new([9; 16], 120, Duration::ZERO);
        let engine = |number: usize| {
            let seeds = Seeds { table: [number as u8; 16], random: number as u64 };
            Engine::new(WorkerId(number as u16), owners, POLICY, ids, seeds)
        };
        let mail = Mail { queue: VecDeque::new(), room: usize::MAX, from: WorkerId(0) };
        Self { engines: (0..workers).map(engine).collect(), mail, replies: Sent::default() }
    }

    /// An announce by HTTP that reaches the first worker.
    fn http_announce(&mut self, ip: IpAddr, query: &AnnounceQuery) -> Outcome {
        self.engines[0].announce(at(0), ip, query, Source::Http, &mut self.mail)
    }

    /// A datagram that reaches this worker; its reply, if it was answered there and then.
    fn datagram(&mut self, worker: usize, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        self.datagram_at(at(0), worker, from, datagram)
    }

    fn datagram_at(
        &mut self,
        now: Timestamp,
        worker: usize,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        self.mail.from = WorkerId(worker as u16);
        let mut out = [0; UDP_REPLY_MAX_BYTES];
        let from = Endpoint { source: from, local: None, socket: 0 };
        let length =
            self.engines[worker].datagram(now, &from, datagram, &mut out, &mut self.mail, &mut Gate::new(()));
        let mut own = Sent::default();
        self.engines[worker].answer_announces(now, &mut own);
        match (length, own.0.pop()) {
            (Some(length), None) => Some(out[..length].to_vec()),
            (None, Some((to, reply))) if own.0.is_empty() => {
                assert_eq!(to, from);
                Some(reply)
            }
            (None, None) => None,
            _ => panic!("answered twice"),
        }
    }

    fn request(&mut self, worker: usize, from: SocketAddr, request: Request<'_>) -> Option<Vec<u8>> {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        self.datagram(worker, from, &datagram)
    }

    /// The same, and then everything that is on the way arrives.
    fn answer(&mut self, worker: usize, from: SocketAddr, request: Request<'_>) -> Option<Vec<u8>> {
        let at_once = self.request(worker, from, request);
        self.deliver();
        match (at_once, self.replies.0.pop()) {
            (Some(reply), None) => Some(reply),
            (None, Some((to, reply))) => {
                assert_eq!(to.source, from);
                Some(reply)
            }
            (None, None) => None,
            (Some(_), Some(_)) => panic!("answered twice"),
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.mail.queue.pop_front() {
            self.mail.from = to;
            self.engines[to.index()].receive(at(0), from, message, &mut self.mail, &mut self.replies);
            self.engines[to.index()].answer_announces(at(0), &mut self.replies);
        }
    }

    fn id(&mut self, from: SocketAddr) -> u64 {
        let reply =
            self.answer(0, from, Request::Connect { transaction_id: 1 }).expect("a connect is answered");
        match Response::parse(&reply) {
            Ok(Response::Connect { connection_id, transaction_id: 1 }) => connection_id,
            other => panic!("{other:?}"),
        }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.engines.iter().map(|engine| engine.counters.get(counter)).sum()
    }

    fn waiting(&self) -> usize {
        self.engines.iter().map(|engine| engine.gathers.len()).sum()
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_micros((1_000_000 + millis) * 1_000)
}

fn client(number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1_000 + number))
}

fn announce(connection_id: u64, info_hash: [u8; 20], left: u64) -> udp::Announce<'static> {
    udp::Announce {
        connection_id,
        transaction_id: 77,
        info_hash: InfoHash(info_hash),
        peer_id: PeerId([1; 20]),
        downloaded: 0,
        left,
        uploaded: 0,
        event: Event::Started,
        key: 0,
        num_want: -1,
        port: 6881,
        options: &[],
    }
}

fn hash(number: u8) -> [u8; 20] {
    let mut hash = [number; 20];
    hash[0] = number.wrapping_mul(37);
    hash
}

#[test]
fn an_announce_is_answered_wherever_it_arrives() {
    for workers in 1..5 {
        let mut net = Net::new(workers);
        for number in 0..60 {
            let from = SocketAddr::from((Ipv4Addr::new(10, 0, 0, number), 5_000));
            let id = net.id(from);
            let request = Request::Announce(announce(id, hash(number % 3), 1));
            let reply = net.answer(usize::from(number) % workers, from, request).expect("an answer");
            let Ok(Response::Announce { transaction_id, interval_secs, leechers, seeders, peers }) =
                Response::parse(&reply)
            else {
                panic!("an announce response");
            };
            assert_eq!((transaction_id, seeders, leechers), (77, 0, u32::from(number / 3) + 1));
            assert!((1_600..=1_700).contains(&interval_secs));
            assert_eq!(peers.len(), 6 * usize::from(number / 3));
            assert!(
                peers.as_chunks::<6>().0.iter().all(|peer| peer[3] % 3 == number % 3 && peer[3] != number)
            );
        }
        assert_eq!(net.count(Counter::MeshHops) > 0, workers > 1);
        assert_eq!(net.count(Counter::UdpAnnounceV4), 60);
        assert_eq!(net.count(Counter::UdpRepliesV4), 120);
    }
}

#[test]
fn invalid_datagrams_are_counted_without_a_response() {
    let mut net = Net::new(1);
    let id = net.id(client(0));
    let connect = |net: &mut Net, from| net.request(0, from, Request::Connect { transaction_id: 1 });
    assert_eq!(connect(&mut net, SocketAddr::from(([192, 0, 2, 1], 0))), None);
    assert_eq!(net.count(Counter::BadSourcePort), 1);
    assert_eq!(net.datagram(0, client(0), &[0; 15]), None);
    assert_eq!(net.count(Counter::BadShort), 1);
    assert_eq!(net.datagram(0, client(0), &[0; 16]), None);
    assert_eq!(net.count(Counter::BadMagic), 1);
    assert_eq!(net.datagram(0, client(0), &[9; 98]), None);
    assert_eq!(net.count(Counter::BadAction), 1);
    let other = SocketAddr::from(([192, 0, 2, 2], 1_000));
    assert_eq!(net.request(0, other, Request::Announce(announce(id, hash(1), 1))), None);
    let info_hashes = &[hash(1)];
    let scrape = udp::Scrape { connection_id: id ^ 2, transaction_id: 1, info_hashes };
    assert_eq!(net.request(0, client(0), Request::Scrape(scrape)), None);
    assert_eq!(net.count(Counter::BadConnectionId), 2);

    let no_port = Request::Announce(udp::Announce { port: 0, ..announce(id, hash(1), 1) });
    let reply = net.request(0, client(0), no_port).expect("an error packet");
    let message = b"invalid parameter: port";
    assert_eq!(Response::parse(&reply), Ok(Response::Error { transaction_id: 77, message }));
    assert_eq!(net.count(Counter::BadAnnouncePort), 1);
    let options = Request::Announce(udp::Announce { options: &[2, 9], ..announce(id, hash(1), 1) });
    assert!(net.request(0, client(0), options).is_some());
    assert_eq!(net.count(Counter::BadOptions), 1);
}

#[test]
fn as_many_peers_as_wanted_allowed_and_fitting() {
    let mut net = Net::new(1);
    let v6 = |number: u16| SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number), 1));
    let v4 = |number: u16| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + u32::from(number)), 1));
    let mut ask = |from: SocketAddr, num_want: i32| {
        let id = net.id(from);
        let reply =
            net.request(0, from, Request::Announce(udp::Announce { num_want, ..announce(id, hash(1), 1) }));
        reply.expect("an answer").len() - 20
    };
    for number in 0..150 {
        ask(v4(number), 0);
        ask(v6(number), 0);
    }
    for (num_want, peers) in
        [(0, 0), (7, 7), (-1, 50), (i32::MIN, 50), (101, 100), (65_536, 100), (i32::MAX, 100)]
    {
        assert_eq!(ask(v4(0), num_want), 6 * peers, "num_want {num_want}");
    }
    // Over IPv6 79 peers are what an Ethernet frame holds.
    for (num_want, peers) in [(-1, 50), (78, 78), (80, 79), (i32::MAX, 79)] {
        assert_eq!(ask(v6(0), num_want), 18 * peers, "num_want {num_want}");
    }
}

#[test]
fn a_scrape_is_gathered_in_the_order_asked() {
    let mut net = Net::new(4);
    let id = net.id(client(0));
    for number in 0..40_u8 {
        for peer in 0..=number % 5 {
            let from = SocketAddr::from((Ipv4Addr::new(10, 0, 0, peer), 1));
            let id = net.id(from);
            net.answer(0, from, Request::Announce(announce(id, hash(number), 0))).expect("an answer");
        }
    }
    let info_hashes: Vec<_> = (0..MAX_SCRAPE_HASHES as u8).rev().map(hash).collect();
    let scrape = udp::Scrape { connection_id: id, transaction_id: 5, info_hashes: &info_hashes };
    for worker in 0..4 {
        let reply = net.answer(worker, client(0), Request::Scrape(scrape)).expect("an answer");
        let Ok(Response::Scrape { transaction_id: 5, entries }) = Response::parse(&reply) else {
            panic!("a scrape")
        };
        let seeders: Vec<_> = entries.iter().map(|entry| scrape_counts(entry).seeders).collect();
        let expected: Vec<_> = (0..MAX_SCRAPE_HASHES as u32)
            .rev()
            .map(|number| if number < 40 { number % 5 + 1 } else { 0 })
            .collect();
        assert_eq!(seeders, expected);
    }
    assert_eq!(net.waiting(), 0);
}

fn http_announce(info_hash: [u8; 20]) -> AnnounceQuery {
    AnnounceQuery {
        info_hash: InfoHash(info_hash),
        peer_id: PeerId([3; 20]),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left: Some(1),
        event: Event::Started,
        num_want: None,
        compact: true,
        no_peer_id: false,
    }
}

/// A hash that worker 0 of two doesn't own.
fn foreign_hash(net: &Net) -> [u8; 20] {
    (0..)
        .map(hash)
        .find(|hash| net.engines[0].owners.of(&InfoHash(*hash)) == WorkerId(1))
        .expect("half of them are")
}

#[test]
fn an_announce_by_http_waits_for_the_owner() {
    let mut net = Net::new(2);
    let foreign = foreign_hash(&net);
    let context = Context::from_waker(Waker::noop());
    for number in 1..=3 {
        net.mail.from = WorkerId(0);
        let (ip, query) = (IpAddr::from([10, 0, 0, number]), http_announce(foreign));
        let Outcome::Waiting(ticket) = net.http_announce(ip, &query) else {
            panic!("the other worker must be asked");
        };
        assert!(net.engines[0].poll(ticket, &context).is_pending());
        net.deliver();
        let answer = net.engines[0].poll(ticket, &context);
        let Poll::Ready(Some(Answer::Announced { counts, peers })) = answer else { panic!("{answer:?}") };
        assert_eq!((counts.leechers, peers.v4.len()), (number.into(), usize::from(number) - 1));
        let mut out = Vec::new();
        net.engines[0].write_announced(&mut out, ip, &query, &Terms::default(), counts, peers);
        assert!(out.starts_with(b"d8:completei0e"));
    }
    assert_eq!(net.waiting(), 0);
}

#[test]
fn a_full_mesh_drops_and_counts_and_leaves_nothing_behind() {
    let mut net = Net::new(2);
    let (id, foreign) = (net.id(client(0)), foreign_hash(&net));
    net.mail.room = 0;
    assert_eq!(net.answer(0, client(0), Request::Announce(announce(id, foreign, 1))), None);
    let info_hashes = &[foreign];
    let scrape = udp::Scrape { connection_id: id, transaction_id: 5, info_hashes };
    assert_eq!(net.answer(0, client(0), Request::Scrape(scrape)), None);
    let query = http_announce(foreign);
    assert!(matches!(net.http_announce(client(0).ip(), &query), Outcome::Busy));
    assert_eq!(net.count(Counter::DropMeshFull), 3);
    assert_eq!(net.waiting(), 0);
}

#[test]
fn a_request_that_waits_too_long_is_given_up_and_a_late_answer_is_dropped() {
    let mut net = Net::new(2);
    let (id, foreign) = (net.id(client(0)), foreign_hash(&net));
    let context = Context::from_waker(Waker::noop());
    let info_hashes = &[foreign, hash(0)];
    let scrape = Request::Scrape(udp::Scrape { connection_id: id, transaction_id: 5, info_hashes });
    assert_eq!(net.request(0, client(0), scrape), None);
    let query = ScrapeQuery { info_hashes: [InfoHash(foreign)].into_iter().collect() };
    let Outcome::Waiting(ticket) = net.engines[0].scrape(at(0), &query, &mut net.mail) else {
        panic!("the other worker must be asked");
    };
    assert_eq!(net.waiting(), 2);
    net.engines[0].expire_gathers(at(GATHER_DEADLINE_MS - 1));
    assert_eq!((net.waiting(), net.count(Counter::DropGatherLate)), (2, 0));
    net.engines[0].expire_gathers(at(GATHER_DEADLINE_MS));
    assert_eq!(net.count(Counter::DropGatherLate), 2);
    // Another request gets a slot of the ones that were given up; the late answers must not touch it.
    net.mail.from = WorkerId(0);
    let (ip, later) = (client(0).ip(), http_announce(foreign));
    let outcome = net.engines[0].announce(at(GATHER_DEADLINE_MS), ip, &later, Source::Http, &mut net.mail);
    let Outcome::Waiting(newer) = outcome else { panic!("{outcome:?}") };
    let (_, _, newest) = net.mail.queue.pop_back().expect("the announce");
    net.deliver();
    assert!(net.replies.0.is_empty(), "the datagram was given up");
    assert!(matches!(net.engines[0].poll(ticket, &context), Poll::Ready(None)));
    assert!(net.engines[0].poll(newer, &context).is_pending());
    net.mail.queue.push_back((WorkerId(0), WorkerId(1), newest));
    net.deliver();
    assert!(matches!(net.engines[0].poll(newer, &context), Poll::Ready(Some(Answer::Announced { .. }))));
    assert_eq!(net.waiting(), 0);
}

#[test]
fn the_number_of_waiting_requests_is_limited() {
    let mut net = Net::new(2);
    let foreign = foreign_hash(&net);
    let (ip, query) = (client(0).ip(), http_announce(foreign));
    let mut tickets = Vec::new();
    for _ in 0..MAX_GATHERS {
        match net.http_announce(ip, &query) {
            Outcome::Waiting(ticket) => tickets.push(ticket),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(net.http_announce(ip, &query), Outcome::Busy));
    assert_eq!(net.count(Counter::DropGatherFull), 1);
    tickets.into_iter().for_each(|ticket| net.engines[0].abandon(ticket));
    assert_eq!(net.waiting(), 0);
    net.deliver();
    // Waits that were opened and settled leave no trace, however many there were before their deadline.
    for _ in 0..3 * MAX_GATHERS {
        net.mail.from = WorkerId(0);
        let outcome = net.http_announce(ip, &query);
        let Outcome::Waiting(ticket) = outcome else { panic!("{outcome:?}") };
        net.deliver();
        assert!(net.engines[0].poll(ticket, &Context::from_waker(Waker::noop())).is_ready());
    }
    assert!(net.engines[0].gathers.tracked_deadlines() <= 2 * MAX_GATHERS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a client sends that has no connection id, it gets no more bytes than it sent.
    #[test]
    fn responses_to_unverified_clients_are_no_longer_than_their_requests(
        mut datagram in proptest::collection::vec(any::<u8>(), 0..200), action in 0..5_u8, magic: bool,
    ) {
        let mut net = Net::new(2);
        if datagram.len() >= 16 {
            datagram[8..12].copy_from_slice(&[0, 0, 0, action]);
            if magic {
                datagram[..8].copy_from_slice(&udp::PROTOCOL_ID.to_be_bytes());
            }
        }
        let reply = net.datagram(0, client(0), &datagram);
        prop_assert!(reply.as_ref().is_none_or(|reply| reply.len() <= datagram.len()));
        prop_assert_eq!(reply.is_some(), datagram.len() >= 16 && action == 0 && magic);
        prop_assert!(net.mail.queue.is_empty() && net.replies.0.is_empty());
    }
}

#[test]
fn a_worker_short_of_memory_counts_the_peers_that_it_drops() {
    let mut net = Net::new(1);
    let policy = Policy { table_bytes: TABLE_MIN_BYTES as usize, ..POLICY };
    let seeds = Seeds { table: [1; 16], random: 1 };
    let ids = ConnectionIds::new([9; 16], 120, Duration::ZERO);
    net.engines[0] = Engine::new(WorkerId(0), Owners::new(1, [1, 2, 3]), policy, ids, seeds);
    for number in 0..80_000_u32 {
        let mut info_hash = InfoHash([7; 20]);
        info_hash.0[..4].copy_from_slice(&number.to_be_bytes());
        let peer = PeerAddr::new([10, 0, 0, 1].into(), 1);
        let (peer_id, event) = (PeerId::UNKNOWN, Event::Started);
        let announce =
            Announce { info_hash, peer_id, peer, event, seeder: false, num_want: 0, wants_ids: false };
        net.engines[0].enter(at(u64::from(number)), &announce);
        if number.is_multiple_of(64) {
            net.engines[0].sweep(at(u64::from(number)));
        }
    }
    net.engines[0].gauge(at(80_000));
    let kept = net.count(Counter::Leechers);
    assert!((20_000..70_000).contains(&kept), "{kept}");
    let (evicted, refused) = (net.count(Counter::EvictedPeers), net.count(Counter::DropTableFull));
    assert_eq!(evicted + refused + kept, 80_000);
    assert!(evicted > 10_000 && refused < 1_000, "{evicted} evicted, {refused} refused");
}

/// How many of ten such requests of this client are answered.
fn answered(net: &mut Net, millis: u64, from: SocketAddr, request: Request<'_>) -> usize {
    let mut datagram = Vec::new();
    request.encode(&mut datagram);
    (0..10).filter(|_| net.datagram_at(at(millis), 0, from, &datagram).is_some()).count()
}

fn limited(limits: &SourceLimits) -> Net {
    let mut net = Net::new(1);
    net.engines[0].set_source_limits(limits);
    net
}

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

#[test]
fn requests_over_the_rate_get_no_response() {
    let mut net = limited(&SourceLimits {
        connects: rate("1/m:4"),
        announces: rate("1/m:3"),
        scrapes: rate("1/m:2"),
        ..SourceLimits::default()
    });
    let [mad, calm] = [1, 2].map(|host| SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), 1_000)));
    let ids = [mad, calm].map(|client| net.id(client));
    let announce = |id| Request::Announce(announce(id, hash(1), 1));
    let info_hashes = &[hash(1)];
    let scrape = |id| Request::Scrape(udp::Scrape { connection_id: id, transaction_id: 1, info_hashes });
    // Datagrams with a forged source address do not count against the rate of that address.
    assert_eq!(answered(&mut net, 0, mad, announce(ids[0] ^ 2)), 0);
    assert_eq!(answered(&mut net, 0, mad, Request::Connect { transaction_id: 1 }), 3, "one was for the id");
    assert_eq!(answered(&mut net, 0, mad, announce(ids[0])), 3);
    assert_eq!(answered(&mut net, 0, mad, scrape(ids[0])), 2);
    assert_eq!(answered(&mut net, 0, calm, announce(ids[1])), 3);
    assert_eq!(answered(&mut net, 61_000, mad, announce(ids[0])), 1, "a minute later");
    let limited = [Counter::LimitedConnect, Counter::LimitedAnnounce, Counter::LimitedScrape];
    assert_eq!(limited.map(|counter| net.count(counter)), [7, 7 + 7 + 9, 8]);
    assert_eq!((net.count(Counter::BadConnectionId), net.count(Counter::Bans)), (10, 0));
    assert_eq!(net.engines[0].shard.scrape(&InfoHash(hash(1))).leechers, 2);

    net.engines[0].set_source_limits(&SourceLimits::default());
    assert_eq!(answered(&mut net, 61_000, mad, announce(ids[0])), 10);
}

#[test]
fn too_many_wrong_ids_ban_an_address_for_a_time() {
    let mut net =
        limited(&SourceLimits { wrong_ids: rate("1/m:14"), ban_secs: 20, ..SourceLimits::default() });
    let [bad, good] = [1, 2].map(|host| SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), 1_000)));
    let ids = [bad, good].map(|client| net.id(client));
    let announce = |id| Request::Announce(announce(id, hash(1), 1));
    answered(&mut net, 0, bad, announce(ids[0] ^ 2));
    assert_eq!(answered(&mut net, 0, bad, announce(ids[0])), 10, "not too many yet");
    answered(&mut net, 0, bad, announce(ids[0] ^ 2)); // the fifth of these is
    assert_eq!((net.count(Counter::BadConnectionId), net.count(Counter::Bans)), (15, 1));
    assert_eq!(answered(&mut net, 19_000, bad, announce(ids[0])), 0);
    assert_eq!(net.count(Counter::LimitedBanned), 5 + 10);
    assert_eq!(answered(&mut net, 19_000, good, announce(ids[1])), 10);
    assert_eq!(answered(&mut net, 19_000, bad, Request::Connect { transaction_id: 1 }), 10);
    assert_eq!(answered(&mut net, 21_000, bad, announce(ids[0])), 10, "the ban is over");
}
