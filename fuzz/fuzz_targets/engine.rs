//! Owns the fuzzing of complete engines, with any datagrams, HTTP requests and messages in any order. A client with an
//! unverified address must not get more bytes than it sent. No reply may be too long, sent twice, or sent without a
//! request. No request may be left waiting.

#![no_main]

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arbitrary::Arbitrary;
use gyre_core::access::{Access, Clients, Entries, Hashes, Rule, Sources, read};
use gyre_core::connection_id::ConnectionIds;
use gyre_core::engine::context::Terms;
use gyre_core::engine::{
    Answer, Endpoint, Engine, Gate, Message, Outcome, Policy, Post, Replies, Seeds, Source, Ticket,
};
use gyre_core::limits::{
    GATHER_DEADLINE_MS, MAX_SCRAPE_HASHES, UDP_REPLY_MAX_BYTES, UDP_REQUEST_MAX_BYTES, UDP_V4_PAYLOAD_BYTES,
    UDP_V6_PAYLOAD_BYTES,
};
use gyre_core::owner::Owners;
use gyre_core::time::Timestamp;
use gyre_core::types::{Event, InfoHash, PeerId, WorkerId};
use gyre_core::wire::answer::{AnnounceResponse, parse_scrape};
use gyre_core::wire::query::{AnnounceQuery, ScrapeQuery};
use gyre_core::wire::udp::{self, Request, Response};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Raw bytes.
    Datagram {
        worker: u8,
        client: u8,
        bytes: Vec<u8>,
    },
    Connect {
        worker: u8,
        client: u8,
        transaction_id: u8,
    },
    Announce {
        worker: u8,
        client: u8,
        id: Id,
        hash: u8,
        left: u8,
        num_want: i32,
        port: u8,
        options: Vec<u8>,
    },
    Scrape {
        worker: u8,
        client: u8,
        id: Id,
        hashes: Vec<u8>,
    },
    HttpAnnounce {
        worker: u8,
        client: u8,
        hash: u8,
        left: u8,
        num_want: Option<u8>,
        form: u8,
    },
    HttpScrape {
        worker: u8,
        hashes: Vec<u8>,
    },
    /// Ends the turn of a worker.
    Turn(u8),
    Deliver(u8),
    /// Advances the clock by the square of this many milliseconds.
    Advance(u16),
    Sweep(u8),
    Expire(u8),
    /// Sets the capacity of the queues.
    Room(u8),
    /// Denies a hash, clients and networks.
    Deny(Option<(u8, bool, bool)>),
    /// Sets the maximum number of peers and the interval.
    Policy(u8, u16),
}

#[derive(Arbitrary, Debug)]
enum Id {
    Good,
    /// Issued this many seconds ago.
    Old(u16),
    Wrong(u64),
}

const POLICY: Policy = Policy {
    announce_interval_secs: 1_600,
    min_interval_secs: 900,
    max_peers: 200,
    peer_timeout_secs: 4_000,
    table_bytes: usize::MAX,
};

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (workers, steps) = input;
    let mut net = Net::new(usize::from(workers % 4) + 1);
    for step in steps {
        net.step(step);
    }
    net.end();
});

/// The engines, the messages between them, and the waiting HTTP requests.
struct Net {
    engines: Vec<Engine>,
    ids: ConnectionIds,
    now_ms: u64,
    mail: Mail,
    waiting: Vec<(usize, Ticket, HttpRequest)>,
    sent: Sent,
}

/// An HTTP request.
enum HttpRequest {
    Announce(IpAddr, AnnounceQuery),
    Scrape(ScrapeQuery),
}

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

/// Maximum number of outstanding replies, by client, socket and transaction id.
#[derive(Default)]
struct Sent(HashMap<(SocketAddr, u8, u32), usize>);

impl Sent {
    fn expect(&mut self, from: &Endpoint, transaction_id: u32) {
        *self.0.entry((from.source, from.socket, transaction_id)).or_default() += 1;
    }

    fn check(&mut self, to: &Endpoint, reply: &[u8]) {
        let is_v4 = matches!(to.source.ip().to_canonical(), IpAddr::V4(_));
        assert!(reply.len() <= if is_v4 { UDP_V4_PAYLOAD_BYTES } else { UDP_V6_PAYLOAD_BYTES });
        let response = Response::parse(reply).expect("a reply is a response");
        let left = self
            .0
            .get_mut(&(to.source, to.socket, response.transaction_id()))
            .expect("a request for this reply");
        *left = left.checked_sub(1).expect("answered twice");
        if let Response::Announce { peers, .. } = response {
            assert_eq!(peers.len() % if is_v4 { 6 } else { 18 }, 0);
        }
    }
}

impl Replies for Sent {
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize) {
        let mut out = [0; UDP_REPLY_MAX_BYTES];
        let length = write(&mut out);
        self.check(to, &out[..length]);
    }
}

fn endpoint(client: u8) -> Endpoint {
    let ip = match client % 4 {
        0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, client)),
        1 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, client.into())),
        2 => IpAddr::V6(Ipv4Addr::new(192, 0, 2, client).to_ipv6_mapped()),
        _ => IpAddr::V4(Ipv4Addr::new(10, 0, client, 1)),
    };
    Endpoint { source: SocketAddr::new(ip, u16::from(client / 4)), local: None, socket: client % 3 }
}

fn hash(number: u8) -> [u8; 20] {
    let mut hash = [number % 16; 20];
    hash[0] = (number % 16).wrapping_mul(37);
    hash
}

fn event(number: u8) -> Event {
    [Event::None, Event::Started, Event::Stopped, Event::Completed][usize::from(number >> 6)]
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
        let engines = (0..workers).map(engine).collect();
        Self { engines, ids, now_ms: 1_000_000, mail, waiting: Vec::new(), sent: Sent::default() }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now_ms * 1_000)
    }

    /// Selects a worker, which sends all following messages.
    fn worker(&mut self, number: u8) -> usize {
        let worker = usize::from(number) % self.engines.len();
        self.mail.from = WorkerId(worker as u16);
        worker
    }

    fn step(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Datagram { worker, client, bytes } => self.datagram(worker, client, &bytes),
            Step::Connect { worker, client, transaction_id } => {
                self.request(worker, client, Request::Connect { transaction_id: transaction_id.into() });
            }
            Step::Announce { worker, client, id, hash: number, left, num_want, port, options } => {
                let request = udp::Announce {
                    connection_id: self.id(client, &id),
                    transaction_id: u32::from(left),
                    info_hash: InfoHash(hash(number)),
                    peer_id: PeerId([client; 20]),
                    downloaded: 0,
                    left: u64::from(left % 2),
                    uploaded: 0,
                    event: event(left),
                    key: 0,
                    num_want,
                    port: port.into(),
                    options: &options,
                };
                self.request(worker, client, Request::Announce(request));
            }
            Step::Scrape { worker, client, id, hashes } => {
                let info_hashes: Vec<_> = hashes.iter().map(|number| hash(*number)).collect();
                let scrape = udp::Scrape {
                    connection_id: self.id(client, &id),
                    transaction_id: 7,
                    info_hashes: &info_hashes,
                };
                self.request(worker, client, Request::Scrape(scrape));
            }
            Step::HttpAnnounce { worker, client, hash: number, left, num_want, form } => {
                let query = AnnounceQuery {
                    info_hash: InfoHash(hash(number)),
                    peer_id: PeerId([client; 20]),
                    port: u16::from(client) + 1,
                    uploaded: 0,
                    downloaded: 0,
                    left: Some(u64::from(left % 2)),
                    event: event(left),
                    num_want: num_want.map(u16::from),
                    compact: form & 1 != 0,
                    no_peer_id: form & 2 != 0,
                };
                let (worker, ip) = (self.worker(worker), endpoint(client).source.ip());
                let outcome = self.engines[worker].announce(now, ip, &query, Source::Http, &mut self.mail);
                self.wait(worker, outcome, HttpRequest::Announce(ip, query));
            }
            Step::HttpScrape { worker, hashes } => {
                let info_hashes = hashes.iter().map(|number| InfoHash(hash(*number)));
                let query = ScrapeQuery { info_hashes: info_hashes.take(MAX_SCRAPE_HASHES).collect() };
                let worker = self.worker(worker);
                let outcome = self.engines[worker].scrape(now, &query, &mut self.mail);
                self.wait(worker, outcome, HttpRequest::Scrape(query));
            }
            step => self.maintain(step),
        }
    }

    /// Does a step that is not a request.
    fn maintain(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Turn(worker) => self.end_turn(worker),
            Step::Deliver(messages) => self.deliver(messages.into()),
            Step::Advance(millis) => self.now_ms += u64::from(millis) * u64::from(millis),
            Step::Sweep(worker) => {
                let worker = self.worker(worker);
                self.engines[worker].sweep(now);
            }
            Step::Expire(worker) => {
                let worker = self.worker(worker);
                while self.engines[worker].expire_gathers(now) {}
            }
            Step::Room(room) => self.mail.room = room.into(),
            Step::Deny(denied) => {
                let access = Arc::new(denied.map_or_else(Access::default, denying));
                self.engines.iter_mut().for_each(|engine| engine.set_access(access.clone()));
            }
            Step::Policy(max_peers, interval) => {
                let policy = Policy {
                    max_peers: u16::from(max_peers).min(200),
                    announce_interval_secs: u32::from(interval) + 1,
                    ..POLICY
                };
                self.engines.iter_mut().for_each(|engine| engine.set_policy(policy));
            }
            _ => unreachable!("a request"),
        }
    }

    fn id(&self, client: u8, id: &Id) -> u64 {
        let ip = endpoint(client).source.ip();
        match id {
            Id::Good => self.ids.issue(self.now(), ip),
            Id::Old(secs) => {
                let then = self.now_ms.saturating_sub(u64::from(*secs) * 1_000);
                self.ids.issue(Timestamp::from_micros(then * 1_000), ip)
            }
            Id::Wrong(id) => *id,
        }
    }

    fn request(&mut self, worker: u8, client: u8, request: Request<'_>) {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        self.datagram(worker, client, &datagram);
    }

    fn datagram(&mut self, worker: u8, client: u8, datagram: &[u8]) {
        let datagram = &datagram[..datagram.len().min(UDP_REQUEST_MAX_BYTES)];
        let (now, from) = (self.now(), endpoint(client));
        let request = Request::parse(datagram);
        let (id, transaction_id) = match request {
            Ok(Request::Connect { transaction_id }) => (None, Some(transaction_id)),
            Ok(Request::Announce(announce)) => (Some(announce.connection_id), Some(announce.transaction_id)),
            Ok(Request::Scrape(scrape)) => (Some(scrape.connection_id), Some(scrape.transaction_id)),
            Err(_) => (None, None),
        };
        let is_proven = id.is_some_and(|id| self.ids.verify(now, from.source.ip(), id));
        // A request with a wrong id gets no reply.
        if let Some(transaction_id) = transaction_id.filter(|_| id.is_none() || is_proven) {
            self.sent.expect(&from, transaction_id);
        }
        let worker = self.worker(worker);
        let mut out = [0; UDP_REPLY_MAX_BYTES];
        let gate = &mut Gate::new(());
        let length = self.engines[worker].datagram(now, &from, datagram, &mut out, &mut self.mail, gate);
        if let Some(length) = length {
            assert!(is_proven || length <= datagram.len(), "amplified");
            assert_ne!(from.source.port(), 0);
            self.sent.check(&from, &out[..length]);
        }
    }

    fn end_turn(&mut self, worker: u8) {
        let (now, worker) = (self.now(), self.worker(worker));
        self.engines[worker].answer_announces(now, &mut self.sent);
    }

    fn deliver(&mut self, messages: usize) {
        for _ in 0..messages {
            let Some((from, to, message)) = self.mail.queue.pop_front() else { break };
            self.mail.from = to;
            let now = self.now();
            self.engines[to.index()].receive(now, from, message, &mut self.mail, &mut self.sent);
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|(worker, ticket, request)| {
            match self.engines[*worker].poll(*ticket, &Context::from_waker(Waker::noop())) {
                Poll::Pending => true,
                Poll::Ready(answer) => {
                    answer.into_iter().for_each(|answer| self.write(*worker, request, answer));
                    false
                }
            }
        });
        self.waiting = waiting;
    }

    fn wait(&mut self, worker: usize, outcome: Outcome, request: HttpRequest) {
        match outcome {
            Outcome::Ready(answer) => self.write(worker, &request, answer),
            Outcome::Waiting(ticket) => self.waiting.push((worker, ticket, request)),
            Outcome::Busy => {}
        }
    }

    /// Writes an HTTP response, which a strict client must be able to read.
    fn write(&mut self, worker: usize, request: &HttpRequest, answer: Answer) {
        let mut out = Vec::new();
        match (request, answer) {
            (HttpRequest::Announce(ip, query), Answer::Announced { counts, peers }) => {
                let expected = (peers.v4.len(), peers.v6.len());
                let terms = Terms::default();
                self.engines[worker].write_announced(&mut out, *ip, query, &terms, counts, peers);
                match AnnounceResponse::parse(&out) {
                    Ok(AnnounceResponse::Accepted { peers: Some(peers), peers6, .. }) if query.compact => {
                        assert_eq!((peers, peers6.unwrap_or(0)), expected);
                    }
                    Ok(AnnounceResponse::Accepted { peers: Some(peers), .. }) => {
                        assert_eq!(peers, expected.0 + expected.1);
                    }
                    other => panic!("{other:?}"),
                }
            }
            (HttpRequest::Scrape(query), Answer::Scraped(counts)) => {
                let expected = counts.clone();
                self.engines[worker].write_scraped(&mut out, query, counts);
                for (info_hash, counts) in query.info_hashes.iter().zip(*expected) {
                    assert_eq!(parse_scrape(&out, *info_hash), Ok(Some(counts)));
                }
            }
            _ => panic!("the response to another request"),
        }
    }

    /// Delivers all messages and expires all waiting requests. None may be left.
    fn end(&mut self) {
        for _ in 0..3 {
            (0..self.engines.len()).for_each(|worker| self.end_turn(worker as u8));
            self.deliver(usize::MAX);
        }
        self.now_ms += GATHER_DEADLINE_MS + 1;
        let now = self.now();
        for engine in &mut self.engines {
            while engine.expire_gathers(now) {}
        }
        self.deliver(0);
        for engine in &mut self.engines {
            assert!(!engine.is_waiting(), "a slot leaked");
            engine.sweep(now);
            engine.gauge(now);
        }
        assert!(self.waiting.is_empty());
    }
}

fn denying((number, clients, sources): (u8, bool, bool)) -> Access {
    let digits: String = hash(number).iter().map(|byte| format!("{byte:02x}")).collect();
    let clients = if clients { "%00%00\n%04\n" } else { "" };
    let sources = if sources { "10.0.0.0/8\n2001:db8::5\n" } else { "" };
    Access {
        hashes: Rule { deny: list::<Hashes>(&digits), ..Rule::default() },
        clients: Rule { deny: list::<Clients>(clients), ..Rule::default() },
        sources: Rule { deny: list::<Sources>(sources), ..Rule::default() },
        torrent_reason: "no".into(),
        started_unix_secs: 0,
    }
}

fn list<E: Entries>(text: &str) -> Vec<Arc<E::List>> {
    vec![Arc::new(read::<E>(text.as_bytes()).expect("a list").0)]
}
