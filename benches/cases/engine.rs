//! Owns the bench cases for complete requests: from the bytes of a request to those of its response, with a filled
//! table, but without the kernel.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gyre_core::access::{Access, Entries, Hashes};
use gyre_core::connection_id::ConnectionIds;
use gyre_core::engine::context::{RequestContext, Terms};
use gyre_core::engine::middleware::{Middleware, Next, Then, from_async};
use gyre_core::engine::route::Route;
use gyre_core::engine::{
    Answer, Endpoint, Engine, Gate, Mailbox, Message, Outcome, Policy, Post, Replies, Seeds, Source, Waiting,
    task,
};
use gyre_core::limits::{LOOK_AHEAD, MAX_SCRAPE_HASHES, UDP_REPLY_MAX_BYTES};
use gyre_core::owner::Owners;
use gyre_core::throttle::SourceLimits;
use gyre_core::time::Timestamp;
use gyre_core::types::{Event, WorkerId};
use gyre_core::wire::http::{FieldBuffer, Persistence, RequestReader, ResponseWriter, Status};
use gyre_core::wire::query::{AnnounceQuery, ScrapeQuery};
use gyre_core::wire::udp::{Announce, Request, Scrape};

use super::{Amount, Meter, samples};

const POLICY: Policy = Policy {
    announce_interval_secs: 1_800,
    min_interval_secs: 900,
    max_peers: 50,
    peer_timeout_secs: 3_825,
    table_bytes: usize::MAX,
};
const NOW: Timestamp = Timestamp::from_secs(12_000);
/// Number of swarms in the table.
const SWARMS: u16 = 10;
/// Number of peers in each swarm. Every fourth is a leecher.
const PEERS: u16 = 1_000;
/// Number of info-hashes in a list, including those of the table.
const LISTED: u32 = 10_000;
/// Number of turns whose announces are drawn before the measurement.
const TURNS: usize = 64;

/// A tracker with one worker, and its response buffer.
struct Tracker<M> {
    worker: OneWorker,
    gate: Gate<M>,
    ids: ConnectionIds,
    out: [u8; UDP_REPLY_MAX_BYTES],
}

/// The mail of a worker that is alone.
struct Alone;

impl Post for Alone {
    fn post(&mut self, _: WorkerId, message: Message) -> Result<(), Message> {
        Err(message)
    }
}

impl Mailbox for Alone {
    fn take(&mut self) -> Option<(WorkerId, Message)> {
        None
    }

    fn flush(&mut self) {}
}

/// The one worker, as its tasks see it.
struct OneWorker {
    engine: RefCell<Engine>,
    mailbox: RefCell<Alone>,
}

impl task::Worker for OneWorker {
    type Mailbox = Alone;

    fn now(&self) -> Timestamp {
        NOW
    }

    fn engine(&self) -> &RefCell<Engine> {
        &self.engine
    }

    fn mailbox(&self) -> &RefCell<Alone> {
        &self.mailbox
    }
}

/// Counts the bytes of responses.
struct Sent<'a> {
    out: &'a mut [u8; UDP_REPLY_MAX_BYTES],
    bytes: usize,
}

impl Replies for Sent<'_> {
    fn reply(&mut self, _: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize) {
        self.bytes += write(black_box(self.out));
    }
}

impl<M: Middleware> Tracker<M> {
    /// Creates a tracker with a filled table.
    fn new(middleware: M) -> Self {
        let ids = ConnectionIds::new([9; 16], 120, Duration::ZERO);
        let seeds = Seeds { table: [7; 16], random: 2 };
        let engine = Engine::new(WorkerId(0), Owners::new(1, [1, 2, 3]), POLICY, ids, seeds);
        let worker = OneWorker { engine: RefCell::new(engine), mailbox: RefCell::new(Alone) };
        let mut tracker = Self { worker, gate: Gate::new(middleware), ids, out: [0; UDP_REPLY_MAX_BYTES] };
        for swarm in 0..SWARMS {
            for peer in 0..PEERS {
                let datagram = tracker.announce(swarm, peer, 0);
                tracker.turn(&[(client(peer), datagram)]);
            }
        }
        tracker
    }

    /// Returns the announce of a client with a valid connection id.
    fn announce(&self, swarm: u16, peer: u16, num_want: i32) -> Vec<u8> {
        samples::datagram(Request::Announce(Announce {
            connection_id: self.ids.issue(NOW, client(peer).source.ip()),
            left: if peer.is_multiple_of(4) { 100_000 } else { 0 },
            event: Event::None,
            num_want,
            ..samples::udp_announce(samples::info_hash(swarm.into()))
        }))
    }

    /// Handles a datagram. Returns the length of an immediate response.
    fn datagram(&mut self, from: &Endpoint, datagram: &[u8]) -> Option<usize> {
        self.worker.engine.get_mut().datagram(
            NOW,
            from,
            datagram,
            black_box(&mut self.out),
            &mut Alone,
            &mut self.gate,
        )
    }

    /// Handles the datagrams of a turn. Returns the bytes of all responses.
    fn turn(&mut self, datagrams: &[(Endpoint, Vec<u8>)]) -> usize {
        let mut bytes = 0;
        for (from, datagram) in datagrams {
            bytes += self.datagram(from, datagram).unwrap_or(0);
        }
        while let Some(waiting) = self.gate.next_waiting() {
            bytes += self.wait(waiting).unwrap_or(0);
        }
        let mut sent = Sent { out: &mut self.out, bytes };
        self.worker.engine.get_mut().answer_announces(NOW, &mut sent);
        sent.bytes
    }

    /// Runs async middleware for a request as a task does, but without a runtime. Returns the response's length.
    fn wait(&mut self, waiting: Waiting) -> Option<usize> {
        let Waiting { mut request, passed, .. } = waiting;
        let middleware = self.gate.middleware().clone();
        let swarms = task::Swarms(&self.worker);
        let mut task = Box::pin(middleware.run(Some(passed), &mut request, &swarms));
        let Poll::Ready(result) = task.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        drop(task);
        self.gate.end_waiting();
        self.worker.engine.get_mut().conclude_udp(&mut request, result, black_box(&mut self.out))
    }

    /// Answers an HTTP request as a connection's task does. `None` if it can't be answered at once.
    fn request(&mut self, ip: IpAddr, input: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut buffer = FieldBuffer::new();
        let request = RequestReader::default().read(input, &mut buffer).ok()?.head?.request;
        let response = ResponseWriter::start(out, Status::Ok, Persistence::Close, false);
        match Route::of(request.path) {
            Route::Announce { .. } => {
                let query = AnnounceQuery::parse(request.query.as_bytes()).ok()?;
                match self.worker.engine.get_mut().announce(NOW, ip, &query, Source::Http, &mut Alone) {
                    Outcome::Ready(Answer::Announced { counts, peers }) => {
                        self.worker.engine.get_mut().write_announced(
                            out,
                            ip,
                            &query,
                            &Terms::default(),
                            counts,
                            peers,
                        );
                    }
                    _ => return None,
                }
            }
            Route::Scrape { .. } => {
                let query = ScrapeQuery::parse(request.query.as_bytes()).ok()?;
                let query = Box::new(query);
                match self.worker.engine.get_mut().scrape(NOW, &query, &mut Alone) {
                    Outcome::Ready(Answer::Scraped(counts)) => {
                        self.worker.engine.get_mut().write_scraped(out, &query, counts);
                    }
                    _ => return None,
                }
            }
            _ => return None,
        }
        response.finish(out);
        Some(())
    }
}

/// Returns the endpoint of client `number`.
fn client(number: u16) -> Endpoint {
    let [high, low] = number.to_be_bytes();
    Endpoint { source: SocketAddr::from(([10, 0, high, low], 50_000)), local: None, socket: 0 }
}

/// Measures datagrams: a connect, the announces of a turn, scrapes, and requests that get no response.
pub(crate) fn datagrams(meter: &mut impl Meter) {
    let mut tracker = Tracker::new(());
    let from = client(7);
    let connection_id = tracker.ids.issue(NOW, from.source.ip());
    let hashes = samples::scraped().map(|info_hash| info_hash.0);
    let scrape = |swarms| {
        let info_hashes = &hashes[..swarms];
        samples::datagram(Request::Scrape(Scrape { connection_id, transaction_id: 7, info_hashes }))
    };
    let connect = samples::datagram(Request::Connect { transaction_id: 7 });
    let mut magicless = connect.clone();
    magicless[0] ^= 1;
    let mut unknown = tracker.announce(1, 7, 30);
    unknown[0] ^= 1;
    for (name, datagram, answer) in [
        ("engine/connect", connect, Some(16)),
        ("engine/scrape of 1", scrape(1), Some(8 + 12)),
        ("engine/scrape of 74", scrape(MAX_SCRAPE_HASHES), Some(8 + 74 * 12)),
        ("engine/unknown connection id", unknown, None),
        ("engine/no magic", magicless, None),
    ] {
        let run = || tracker.datagram(black_box(&from), black_box(&datagram));
        meter.measure(name, Amount::One, answer, run);
    }
    announces(meter, "engine/announce, 30 peers of 1,000", (), |_| ());
}

/// Measures announces and connects of sources within their limits, and an announce of a banned source.
pub(crate) fn limited(meter: &mut impl Meter) {
    let rate = |text: &str| Some(text.parse().expect("a rate"));
    let high = rate("1000000:1000000");
    let limits =
        SourceLimits { connects: high, announces: high, wrong_ids: rate("1"), ..SourceLimits::default() };
    let mut tracker = Tracker::new(());
    tracker.worker.engine.get_mut().set_source_limits(&limits);
    let from = client(7);
    let connect = samples::datagram(Request::Connect { transaction_id: 7 });
    let run = || tracker.datagram(black_box(&from), black_box(&connect));
    meter.measure("engine limited/connect", Amount::One, Some(16), run);
    let mut unknown = tracker.announce(1, 7, 30);
    unknown[0] ^= 1;
    for _ in 0..100 {
        tracker.datagram(&from, &unknown);
    }
    let run = || tracker.datagram(black_box(&from), black_box(&unknown));
    meter.measure("engine limited/announce, banned", Amount::One, None, run);
    announces(meter, "engine limited/announce, 30 peers of 1,000", (), |engine| {
        engine.set_source_limits(&limits);
    });
}

/// Measures announces for torrents on an allow list.
pub(crate) fn listed(meter: &mut impl Meter) {
    let mut hashes = Hashes::default();
    (0..LISTED).for_each(|number| hashes.add(samples::info_hash(number), None));
    let mut access = Access::default();
    access.hashes.allow = vec![Arc::new(hashes.finish())];
    let access = Arc::new(access);
    announces(meter, "engine listed/announce, one list of 10,000", (), |engine| engine.set_access(access));
}

/// Measures announces with a middleware.
pub(crate) fn mediated(meter: &mut impl Meter) {
    let plain = |request: &mut RequestContext<'_>| {
        Ok(if black_box(request.connection().ip()).is_loopback() { Then::Stop } else { Then::Next })
    };
    announces(meter, "engine mediated/announce, one plain function", plain, |_| ());
    let waits = from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| {
        black_box(request.connection().ip());
        next.run(request).await
    });
    announces(meter, "engine mediated/announce, one async function", waits, |_| ());
}

/// Measures the announces of a turn to swarms of [`PEERS`] peers.
fn announces(
    meter: &mut impl Meter,
    name: &str,
    middleware: impl Middleware,
    prepare: impl FnOnce(&mut Engine),
) {
    let mut tracker = Tracker::new(middleware);
    prepare(tracker.worker.engine.get_mut());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut announces = Vec::new();
    for _ in 0..TURNS * LOOK_AHEAD {
        let (swarm, peer) = (rng.u16(..SWARMS), rng.u16(..PEERS));
        announces.push((client(peer), tracker.announce(swarm, peer, 30)));
    }
    let mut turns = announces.chunks(LOOK_AHEAD).cycle();
    let bytes = LOOK_AHEAD * (20 + 30 * 6);
    meter.measure(name, Amount::Each(LOOK_AHEAD), bytes, || tracker.turn(turns.next().expect("a cycle")));
}

/// Measures HTTP requests.
pub(crate) fn requests(meter: &mut impl Meter) {
    let mut tracker = Tracker::new(());
    let ip = IpAddr::from([198, 51, 100, 7]);
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:{length:6}\r\n\r\n"
        )
    };
    // The interval is 1800 to 1912.
    let body = "d8:completei750e10:downloadedi0e11:external ip4:AAAA10:incompletei251e8:intervali1800e\
        12:min intervali900e5:peers300:e"
        .len()
        + 50 * 6;
    let announce = samples::libtorrent_head("/announce", &samples::announce_query(&samples::info_hash(1)));
    answered(
        meter,
        &mut tracker,
        "engine http/announce, 50 peers of 1,000",
        head(body).len() + body,
        |tracker, out| tracker.request(ip, black_box(announce.as_bytes()), out),
    );
    // All but the first ten swarms are unknown. Their counts have 4 digits less.
    let known = "20:HHHHHHHHHHHHHHHHHHHHd8:completei750e10:downloadedi0e10:incompletei250ee".len();
    let body = "d5:filesdee".len() + 74 * (known - 4) + 4 * usize::from(SWARMS);
    let scrape = samples::libtorrent_head("/scrape", &samples::scrape_query(&samples::scraped()));
    answered(meter, &mut tracker, "engine http/scrape of 74", head(body).len() + body, |tracker, out| {
        tracker.request(ip, black_box(scrape.as_bytes()), out)
    });
}

/// Measures a function that answers a request with `bytes` bytes.
fn answered(
    meter: &mut impl Meter,
    tracker: &mut Tracker<()>,
    name: &str,
    bytes: usize,
    mut answer: impl FnMut(&mut Tracker<()>, &mut Vec<u8>) -> Option<()>,
) {
    let mut out = Vec::new();
    meter.measure(name, Amount::One, Some(bytes), || {
        out.clear();
        answer(tracker, black_box(&mut out)).map(|()| out.len())
    });
}
