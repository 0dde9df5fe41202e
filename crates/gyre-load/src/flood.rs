//! Owns floods: datagrams of an attacker, from many sources, sent without waiting for replies. A flood runs alone, or
//! beside a load of well-behaved clients in the same thread.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use gyre::limits::MAX_SCRAPE_HASHES;
use gyre::sys;
use gyre::time::Timestamp;
use gyre::types::Event;
use gyre::wire::udp::{Announce, Request, Response, Scrape};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::measure::{FloodCounts, Meter};
use crate::options::{FloodConfig, FloodKind, Mix, Rate};
use crate::population::{Popularity, Population, PopulationConfig};
use crate::run::{self, BURST, BusyTime, Loader, Phase, Schedule, Shared, ThreadConfig, ThreadResult};

/// Maximum length of junk: a little more than an unfragmented datagram.
const JUNK_MAX_BYTES: usize = 1_500;
/// Maximum length of a message that the kernel splits into datagrams.
const MESSAGE_MAX_BYTES: usize = 65_000;
/// Number of torrents that a flood announces, unless its kind has a single one.
const TORRENTS: u32 = 10_000;
/// Number of peers of all sources together.
const PEERS: u32 = 100_000;
/// Changes the seed, so that the torrents differ from those of the well-behaved clients.
const SEED: u64 = 0xf100d;
/// Time for which a source uses a connection id (BEP 15).
const ID_LIFE: Duration = Duration::from_secs(60);
/// Minimum interval between two connects of a source.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Size of the receive buffer: longer than any reply.
const REPLY_MAX_BYTES: usize = 2_048;

/// An attacker's address.
struct Source {
    socket: UdpSocket,
    connection: Option<(u64, Timestamp)>,
    /// Time of its last connect request.
    last_connect: Option<Timestamp>,
    /// Length of the datagrams that the kernel splits its messages into.
    segment: usize,
}

/// A flood.
pub(crate) struct Flood {
    config: FloodConfig,
    thread: usize,
    sources: Vec<Source>,
    /// The source whose turn it is.
    next: usize,
    rng: SmallRng,
    population: Population,
    schedule: Option<Schedule>,
    datagram: Vec<u8>,
    message: Vec<u8>,
}

impl Flood {
    /// Opens the sockets of a thread's flood.
    ///
    /// # Errors
    ///
    /// If a socket can't be opened.
    pub(crate) fn open(
        config: FloodConfig,
        seed: u64,
        thread: usize,
        target: SocketAddr,
        addresses: impl ExactSizeIterator<Item = SocketAddr>,
    ) -> io::Result<Self> {
        let count = addresses.len() as u32;
        let open = |address: SocketAddr| {
            let socket = UdpSocket::bind(address)?;
            socket.connect(target)?;
            socket.set_nonblocking(true)?;
            Ok(Source { socket, connection: None, last_connect: None, segment: 0 })
        };
        let refused =
            |error| io::Error::other(format!("cannot open the sockets of a flood against {target}: {error}"));
        let population = PopulationConfig {
            seed: seed ^ SEED,
            thread: thread as u32,
            torrents: if config.kind == FloodKind::Hash { 1 } else { TORRENTS },
            peers: PEERS.max(count),
            sources: count,
            seeders: 0.75,
            vanish: 0.0,
            popularity: Popularity::Uniform,
            one_address: !(target.is_ipv4() && target.ip().is_loopback()),
        };
        Ok(Self {
            config,
            thread,
            sources: addresses.map(open).collect::<io::Result<_>>().map_err(refused)?,
            next: 0,
            rng: SmallRng::seed_from_u64(seed ^ SEED ^ (thread as u64) << 32),
            population: Population::new(population),
            schedule: None,
            datagram: Vec::new(),
            message: Vec::new(),
        })
    }

    /// Starts the flood with this thread's share of the rate.
    pub(crate) fn begin(&mut self, shared: &Shared) {
        self.schedule = Schedule::new(self.config.rate, shared.clock.now(), self.thread, shared);
    }

    /// Ends the flood: takes the remaining replies of all sources.
    pub(crate) fn end(&mut self, now: Timestamp, meter: &mut Meter) {
        self.sources.iter_mut().for_each(|source| source.take_replies(now, &mut meter.tally.flood));
    }

    /// Sends the datagrams that are due, or a burst. Returns whether it sent any.
    ///
    /// # Errors
    ///
    /// If the kernel can't split messages.
    pub(crate) fn turn(&mut self, now: Timestamp, meter: &mut Meter) -> io::Result<bool> {
        let (mut sent, mut ignored) = (0, FloodCounts::default());
        let counts = meter.flood(now).unwrap_or(&mut ignored);
        for _ in 0..BURST {
            if self.schedule.is_some_and(|schedule| schedule.next() > now) || sent >= BURST {
                break;
            }
            let number = self.next;
            self.next = (number + 1) % self.sources.len();
            self.sources[number].take_replies(now, counts);
            if !self.sources[number].has_id(now) && self.config.kind.needs_id() {
                self.sources[number].request_id(now);
                continue;
            }
            sent += self.send(number, counts)?;
        }
        Ok(sent > 0)
    }

    /// Sends a message of a source. Returns the number of its datagrams.
    fn send(&mut self, number: usize, counts: &mut FloodCounts) -> io::Result<usize> {
        self.message.clear();
        let junk_bytes = self.rng.random_range(..=JUNK_MAX_BYTES);
        let mut datagrams = 0;
        while datagrams < self.config.train as usize
            && self.message.len() + self.datagram.len() <= MESSAGE_MAX_BYTES
        {
            self.put(number, junk_bytes);
            self.message.extend_from_slice(&self.datagram);
            datagrams += 1;
            if let Some(schedule) = &mut self.schedule {
                schedule.step();
            }
        }
        let (source, segment) = (&mut self.sources[number], self.datagram.len());
        if self.config.train > 1 && segment > 0 && source.segment != segment {
            sys::send_in_segments(&source.socket, segment)?;
            source.segment = segment;
        }
        match source.socket.send(&self.message) {
            Ok(_) => {
                counts.sent += datagrams as u64;
                counts.sent_bytes += self.message.len() as u64;
            }
            Err(_) => counts.failed += datagrams as u64,
        }
        Ok(datagrams)
    }

    /// Writes a datagram of a source.
    fn put(&mut self, number: usize, junk_bytes: usize) {
        let (known, transaction_id) =
            (self.sources[number].connection.map_or(0, |(id, _)| id), self.rng.random());
        let out = &mut self.datagram;
        match self.config.kind {
            FloodKind::Junk => {
                out.resize(junk_bytes, 0);
                self.rng.fill(&mut out[..]);
            }
            FloodKind::BadMagic | FloodKind::Connects => {
                Request::Connect { transaction_id }.encode(out);
                if self.config.kind == FloodKind::BadMagic {
                    self.rng.fill(&mut out[..8]);
                }
            }
            FloodKind::Scrapes => {
                let mut info_hashes = [[0; 20]; MAX_SCRAPE_HASHES];
                self.rng.fill(info_hashes.as_flattened_mut());
                let scrape = Scrape { connection_id: known, transaction_id, info_hashes: &info_hashes };
                Request::Scrape(scrape).encode(out);
            }
            FloodKind::BadIds | FloodKind::Mad | FloodKind::Hash | FloodKind::Worker => {
                let mut params = self.population.next(number);
                if self.config.kind == FloodKind::Worker {
                    params.info_hash.0[..4].fill(0); // the owner is a keyed function of these bytes
                }
                let connection_id =
                    if self.config.kind == FloodKind::BadIds { self.rng.random() } else { known };
                let announce = Announce {
                    connection_id,
                    transaction_id,
                    info_hash: params.info_hash,
                    peer_id: params.peer_id,
                    downloaded: 0,
                    left: params.left,
                    uploaded: 0,
                    event: if params.event == Event::Stopped { Event::None } else { params.event },
                    key: 0,
                    num_want: -1, // the tracker's default
                    port: params.port,
                    options: &[],
                };
                Request::Announce(announce).encode(out);
            }
        }
    }
}

impl Source {
    fn has_id(&self, now: Timestamp) -> bool {
        let is_due = self.last_connect.is_none_or(|last| now.since(last) >= CONNECT_INTERVAL);
        self.connection.is_some_and(|(_, since)| !(is_due && now.since(since) >= ID_LIFE))
    }

    /// Sends a connect request, at most one per [`CONNECT_INTERVAL`].
    fn request_id(&mut self, now: Timestamp) {
        if self.last_connect.is_none_or(|last| now.since(last) >= CONNECT_INTERVAL) {
            self.last_connect = Some(now);
            let mut connect = Vec::new();
            Request::Connect { transaction_id: 0 }.encode(&mut connect);
            let _ = self.socket.send(&connect); // a lost one is repeated
        }
    }

    /// Takes all received replies.
    fn take_replies(&mut self, now: Timestamp, counts: &mut FloodCounts) {
        let mut reply = [0; REPLY_MAX_BYTES];
        while let Ok(length) = self.socket.recv(&mut reply) {
            counts.replies += 1;
            counts.reply_bytes += length as u64;
            if let Ok(Response::Connect { connection_id, .. }) = Response::parse(&reply[..length]) {
                self.connection = Some((connection_id, now));
            }
        }
    }
}

/// Runs the flood of one thread to its end, without a load.
///
/// # Errors
///
/// As [`Flood::turn`].
pub(crate) fn run(flood: Flood, target: SocketAddr, shared: &Shared) -> io::Result<ThreadResult> {
    let config = ThreadConfig {
        target,
        sources: Vec::new(),
        rate: Rate::Max, // the flood has its own
        mix: Mix::default(),
        num_want: 0,
        fill: false,
        timeout: Duration::ZERO,
        thread: flood.thread,
    };
    let meter = Meter::new(shared.live[config.thread].clone());
    run::drive(FloodOnly { flood, meter, busy: BusyTime::default(), loads: false, shared }, shared, &config)
}

/// A flood without a load.
struct FloodOnly<'a> {
    flood: Flood,
    meter: Meter,
    busy: BusyTime,
    loads: bool,
    shared: &'a Shared,
}

impl Loader for FloodOnly<'_> {
    fn connect(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.loads = phase == Phase::Load;
        match phase {
            Phase::Load => self.flood.begin(self.shared),
            _ => self.flood.end(self.shared.clock.now(), &mut self.meter),
        }
    }

    fn pending(&self) -> usize {
        0
    }

    fn turn(&mut self, _: &mut Option<Schedule>) -> io::Result<Timestamp> {
        let now = self.shared.clock.now();
        let worked = self.loads && self.flood.turn(now, &mut self.meter)?;
        self.busy.turn(now, worked, self.meter.window);
        if let Some(time) = self.busy.sleep(now, self.flood.schedule.as_ref()) {
            std::thread::sleep(time);
        }
        Ok(now)
    }

    fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    fn busy(&self) -> Duration {
        self.busy.sum()
    }
}
