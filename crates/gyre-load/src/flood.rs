//! Owns floods: datagrams as an attacker sends them, from many sources, without waiting for replies. Alone, or beside a
//! load of clients that behave, in the same thread.

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

use crate::measure::{Flooded, Meter};
use crate::options::{FloodKind, Flooding, Mix, Rate};
use crate::population::{Make, Popularity, Population};
use crate::run::{self, BURST, Busy, Loader, Outcome, Part, Phase, Schedule, Shared};

/// What is junk is up to so long: as much as a datagram that is not cut into fragments, and some more.
const JUNK_MAX_BYTES: usize = 1_500;
/// The kernel takes no more in one message.
const MESSAGE_MAX_BYTES: usize = 65_000;
/// Torrents that a flood announces, unless it is aimed at one.
const TORRENTS: u32 = 10_000;
/// Peers of each source, over all.
const PEERS: u32 = 100_000;
/// Its torrents are not those of the clients that behave.
const SEED: u64 = 0xf100d;
/// A source goes on with an id for so long (BEP 15), and asks for another so often.
const ID_LIFE: Duration = Duration::from_secs(60);
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Longer than any reply.
const REPLY_MAX_BYTES: usize = 2_048;

/// An attacker's address.
struct Source {
    socket: UdpSocket,
    connection: Option<(u64, Timestamp)>,
    /// When it last asked for an id.
    asked: Option<Timestamp>,
    /// The length of what the kernel is to cut a message into.
    segment: usize,
}

/// A flood.
pub(crate) struct Flood {
    plan: Flooding,
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
    /// If there are none to have.
    pub(crate) fn open(
        plan: Flooding,
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
            Ok(Source { socket, connection: None, asked: None, segment: 0 })
        };
        let refused = |error| io::Error::other(format!("no sockets for a flood of {target}: {error}"));
        let make = Make {
            seed: seed ^ SEED,
            thread: thread as u32,
            torrents: if plan.kind == FloodKind::Hash { 1 } else { TORRENTS },
            peers: PEERS.max(count),
            sources: count,
            seeders: 0.75,
            vanish: 0.0,
            popularity: Popularity::Uniform,
            one_address: !(target.is_ipv4() && target.ip().is_loopback()),
        };
        Ok(Self {
            plan,
            thread,
            sources: addresses.map(open).collect::<io::Result<_>>().map_err(refused)?,
            next: 0,
            rng: SmallRng::seed_from_u64(seed ^ SEED ^ (thread as u64) << 32),
            population: Population::new(make),
            schedule: None,
            datagram: Vec::new(),
            message: Vec::new(),
        })
    }

    /// It begins, with its part of the rate.
    pub(crate) fn begin(&mut self, shared: &Shared) {
        self.schedule = Schedule::new(self.plan.rate, shared.clock.now(), self.thread, shared);
    }

    /// It is over: takes what has come back to sources whose turn did not come again.
    pub(crate) fn end(&mut self, now: Timestamp, meter: &mut Meter) {
        self.sources.iter_mut().for_each(|source| source.take_replies(now, &mut meter.tally.flood));
    }

    /// Sends what is due, or a burst. Returns whether it sent anything.
    ///
    /// # Errors
    ///
    /// If the kernel can't cut messages.
    pub(crate) fn turn(&mut self, now: Timestamp, meter: &mut Meter) -> io::Result<bool> {
        let (mut sent, mut ignored) = (0, Flooded::default());
        let counts = meter.flood(now).unwrap_or(&mut ignored);
        for _ in 0..BURST {
            if self.schedule.is_some_and(|schedule| schedule.next() > now) || sent >= BURST {
                break;
            }
            let number = self.next;
            self.next = (number + 1) % self.sources.len();
            self.sources[number].take_replies(now, counts);
            if !self.sources[number].has_id(now) && self.plan.kind.needs_id() {
                self.sources[number].ask_id(now);
                continue;
            }
            sent += self.send(number, counts)?;
        }
        Ok(sent > 0)
    }

    /// Sends a message of a source; returns the number of its datagrams.
    fn send(&mut self, number: usize, counts: &mut Flooded) -> io::Result<usize> {
        self.message.clear();
        let junk_bytes = self.rng.random_range(..=JUNK_MAX_BYTES);
        let mut datagrams = 0;
        while datagrams < self.plan.train as usize
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
        if self.plan.train > 1 && segment > 0 && source.segment != segment {
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
        match self.plan.kind {
            FloodKind::Junk => {
                out.resize(junk_bytes, 0);
                self.rng.fill(&mut out[..]);
            }
            FloodKind::BadMagic | FloodKind::Connects => {
                Request::Connect { transaction_id }.encode(out);
                if self.plan.kind == FloodKind::BadMagic {
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
                let mut ask = self.population.next(number);
                if self.plan.kind == FloodKind::Worker {
                    ask.info_hash.0[..4].fill(0); // the owner is a function of these, under a key
                }
                let connection_id =
                    if self.plan.kind == FloodKind::BadIds { self.rng.random() } else { known };
                let announce = Announce {
                    connection_id,
                    transaction_id,
                    info_hash: ask.info_hash,
                    peer_id: ask.peer_id,
                    downloaded: 0,
                    left: ask.left,
                    uploaded: 0,
                    event: if ask.event == Event::Stopped { Event::None } else { ask.event },
                    key: 0,
                    num_want: -1, // as many as it gives
                    port: ask.port,
                    options: &[],
                };
                Request::Announce(announce).encode(out);
            }
        }
    }
}

impl Source {
    fn has_id(&self, now: Timestamp) -> bool {
        let asks = self.asked.is_none_or(|asked| now.since(asked) >= ASK_INTERVAL);
        self.connection.is_some_and(|(_, since)| !(asks && now.since(since) >= ID_LIFE))
    }

    /// Asks for an id, now and then.
    fn ask_id(&mut self, now: Timestamp) {
        if self.asked.is_none_or(|asked| now.since(asked) >= ASK_INTERVAL) {
            self.asked = Some(now);
            let mut connect = Vec::new();
            Request::Connect { transaction_id: 0 }.encode(&mut connect);
            let _ = self.socket.send(&connect); // one that is lost is sent again
        }
    }

    /// Takes all that has come back.
    fn take_replies(&mut self, now: Timestamp, counts: &mut Flooded) {
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

/// Runs one thread's flood to its end, alone.
///
/// # Errors
///
/// As [`Flood::turn`].
pub(crate) fn run(flood: Flood, target: SocketAddr, shared: &Shared) -> io::Result<Outcome> {
    let part = Part {
        target,
        sources: Vec::new(),
        rate: Rate::Max, // the flood has its own
        mix: Mix::default(),
        num_want: 0,
        fill: false,
        timeout: Duration::ZERO,
        thread: flood.thread,
    };
    let meter = Meter::new(shared.live[part.thread].clone());
    run::drive(Alone { flood, meter, busy: Busy::default(), loads: false, shared }, shared, &part)
}

/// A flood and nothing else.
struct Alone<'a> {
    flood: Flood,
    meter: Meter,
    busy: Busy,
    loads: bool,
    shared: &'a Shared,
}

impl Loader for Alone<'_> {
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
