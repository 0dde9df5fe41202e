//! Owns the load by UDP: one thread, its sockets on one ring, sessions as clients have them (BEP 15): connect, then
//! announces and scrapes with the id that this gave.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use gyre::engine::{Endpoint, Replies};
use gyre::limits::TURN_DATAGRAMS;
use gyre::ring::UdpRing;
use gyre::sys::{self, Doorbell};
use gyre::time::Timestamp;
use gyre::types::{Event, PeerAddr};
use gyre::wire::udp::{self, Response};

use crate::check::{self, Answer, Judgement, Wanted};
use crate::flight::{Flight, Match, Request};
use crate::measure::{Kind, Meter, Tally, Wrong};
use crate::options::{Mix, Rate};
use crate::population::{Ask, Population};
use crate::run::{self, BURST, Busy, Loader, Outcome, Schedule, Shared};

/// A client may use an id for a minute (BEP 15).
const ID_LIFE: Duration = Duration::from_secs(60);
/// First connects that are lost before the target is said not to answer.
const CONNECT_TRIES: u32 = 5;
/// The receive buffer of each socket: what comes in while the generator is not looking must not be lost.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// What a thread is to do.
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// Where its sockets are bound.
    pub(crate) sources: Vec<SocketAddr>,
    pub(crate) rate: Rate,
    pub(crate) mix: Mix,
    pub(crate) pipeline: u32,
    pub(crate) num_want: u16,
    pub(crate) fill: bool,
    pub(crate) timeout: Duration,
    pub(crate) thread: usize,
}

/// A socket's session.
struct Source {
    endpoint: Endpoint,
    /// As the tracker sees it, if nothing is in between.
    ip: IpAddr,
    connection: Option<(u64, Timestamp)>,
    in_flight: u32,
    /// Peers that are still to be announced for the first time, when the table is filled.
    to_fill: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connect,
    Fill,
    Load,
    Drain,
}

/// All but the ring.
struct Client<'a> {
    plan: &'a Plan,
    sources: Vec<Source>,
    population: Population,
    flight: Flight,
    phase: Phase,
    meter: Meter<'a>,
    request: Vec<u8>,
}

/// Runs one thread's load to its end.
///
/// # Errors
///
/// If there is no ring or no socket, or the target doesn't answer at all.
pub(crate) fn run(plan: &Plan, population: Population, shared: &Shared) -> io::Result<Outcome> {
    let mut sources = Vec::new();
    let mut sockets = Vec::new();
    for (number, address) in plan.sources.iter().enumerate() {
        let socket = UdpSocket::bind(address)
            .map_err(|error| io::Error::other(format!("no socket at {address}: {error}")))?;
        sys::set_receive_buffer(&socket, RECEIVE_BUFFER_BYTES)?;
        let connected = socket.connect(plan.target);
        connected.map_err(|error| io::Error::other(format!("udp://{}: {error}", plan.target)))?;
        sources.push(Source {
            endpoint: Endpoint { source: plan.target, local: None, socket: number as u8 },
            ip: socket.local_addr()?.ip(),
            connection: None,
            in_flight: 0,
            to_fill: (population.len() + plan.sources.len() - 1 - number) / plan.sources.len(),
        });
        sockets.push(socket);
    }
    let client = Client {
        plan,
        sources,
        population,
        flight: Flight::new(plan.timeout),
        phase: Phase::Connect,
        meter: Meter::new(&shared.live[plan.thread]),
        request: Vec::new(),
    };
    let ring = UdpRing::connected(sockets, &Doorbell::new()?)?;
    let loader = UdpLoader { ring, client, schedule: None, busy: Busy::default(), shared };
    run::drive(loader, shared, plan.rate, plan.thread)
}

struct UdpLoader<'a> {
    ring: UdpRing,
    client: Client<'a>,
    schedule: Option<Schedule>,
    busy: Busy,
    shared: &'a Shared,
}

impl Loader for UdpLoader<'_> {
    fn get_up(&mut self) -> io::Result<()> {
        self.connect()?;
        if self.client.plan.fill { self.fill() } else { Ok(()) }
    }

    fn load(&mut self, window: [Timestamp; 2], schedule: Option<Schedule>) {
        self.client.meter.window = Some(window);
        self.client.phase = Phase::Load;
        self.schedule = schedule;
    }

    fn stop(&mut self) -> Option<Schedule> {
        self.client.phase = Phase::Drain;
        self.schedule
    }

    fn in_flight(&self) -> usize {
        self.client.flight.len()
    }

    fn turn(&mut self) -> io::Result<Timestamp> {
        let now = self.shared.clock.now();
        let client = &mut self.client;
        let turned = self.ring.turn(TURN_DATAGRAMS, |from, datagram, out| {
            let source = client.received(now, from, datagram)?;
            client.tops_up(source).then(|| client.put_next(source, now, now, out))
        })?;
        let mut worked = turned.completions > 0;
        (0..turned.truncated).for_each(|_| self.client.meter.is_wrong(Wrong::Length));
        while let Some(request) = self.client.flight.expired(now) {
            self.client.sources[usize::from(request.source)].in_flight -= 1;
            self.client.meter.lost(request.kind, request.due);
        }
        match (self.client.phase, &self.schedule) {
            (Phase::Load, Some(_)) => worked |= self.send_due(now),
            (Phase::Load | Phase::Fill, _) => worked |= self.top_up(now),
            _ => {}
        }
        self.ring.submit()?;
        self.busy.turn(now, worked, self.client.meter.window);
        if let Some(time) = self.busy.sleep(now, self.schedule.as_ref()) {
            self.ring.wait(time)?;
        }
        Ok(now)
    }

    fn end(self) -> (Tally, Busy) {
        (self.client.meter.tally, self.busy)
    }
}

impl UdpLoader<'_> {
    /// Gets each source its first connection id.
    fn connect(&mut self) -> io::Result<()> {
        for _ in 0..CONNECT_TRIES {
            for number in 0..self.client.sources.len() {
                if self.client.sources[number].connection.is_none() {
                    self.send(number, self.shared.clock.now());
                }
            }
            while self.client.flight.len() > 0 {
                self.turn()?;
            }
            if self.client.sources.iter().all(|source| source.connection.is_some()) {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("udp://{} doesn't answer a connect request", self.client.plan.target)))
    }

    /// Announces each peer once.
    fn fill(&mut self) -> io::Result<()> {
        self.client.phase = Phase::Fill;
        let (mut replies, mut replied) = (0, self.shared.clock.now());
        while self.client.flight.len() > 0 || self.client.sources.iter().any(|source| source.to_fill > 0) {
            let now = self.turn()?;
            if std::mem::replace(&mut replies, self.client.meter.replies()) != self.client.meter.replies() {
                replied = now;
            }
            self.shared.check_fill(replied, now)?;
        }
        Ok(())
    }

    /// Sends what the schedule has for now.
    fn send_due(&mut self, now: Timestamp) -> bool {
        let mut sent = 0;
        while let Some(schedule) = self.schedule
            && sent < BURST
            && schedule.next() <= now
            && self.client.flight.has_room()
        {
            let due = schedule.next();
            let source = self.client.population.below(self.client.sources.len() as u32) as usize;
            if self.client.meter.window.is_some_and(|[_, to]| due >= to) || !self.send(source, due) {
                break;
            }
            self.schedule.iter_mut().for_each(Schedule::step);
            sent += 1;
        }
        sent > 0
    }

    /// Brings each source up to as many requests in flight as it may have: at the start, and when some were lost.
    fn top_up(&mut self, now: Timestamp) -> bool {
        let mut sent = false;
        for source in 0..self.client.sources.len() {
            while self.client.tops_up(source) && self.send(source, now) {
                sent = true;
            }
        }
        sent
    }

    /// Sends a source's next request; false if the ring takes none at the moment.
    fn send(&mut self, source: usize, due: Timestamp) -> bool {
        let (client, now) = (&mut self.client, self.shared.clock.now());
        let endpoint = client.sources[source].endpoint;
        let mut sent = false;
        self.ring.reply(&endpoint, |out| {
            sent = true;
            client.put_next(source, due, now, out)
        });
        sent
    }
}

impl Client<'_> {
    /// Whether a source is to have one more request in flight, in a closed loop.
    fn tops_up(&self, source: usize) -> bool {
        let source = &self.sources[source];
        let closed = match self.phase {
            Phase::Fill => source.to_fill > 0,
            Phase::Load => self.plan.rate == Rate::Max,
            Phase::Connect | Phase::Drain => false,
        };
        closed && source.in_flight < self.plan.pipeline && self.flight.has_room()
    }

    /// Takes a reply; returns the source that it was for.
    fn received(&mut self, now: Timestamp, from: &Endpoint, datagram: &[u8]) -> Option<usize> {
        let Ok(response) = Response::parse(datagram) else {
            self.meter.is_wrong(Wrong::Malformed);
            return None;
        };
        let request = match self.flight.take(response.transaction_id()) {
            Match::Reply(request) if request.source == from.socket => request,
            Match::Reply(request) => {
                // To another of our sockets: that one has not got it.
                self.sources[usize::from(request.source)].in_flight -= 1;
                self.meter.lost(request.kind, request.due);
                self.meter.is_wrong(Wrong::Unasked);
                return None;
            }
            Match::Late => {
                self.meter.late();
                return None;
            }
            Match::Nothing => {
                self.meter.is_wrong(Wrong::Unasked);
                return None;
            }
        };
        let source = usize::from(request.source);
        self.sources[source].in_flight -= 1;
        let judgement =
            judge(&mut self.sources[source], now, &request, &response, self.meter.looks_closely());
        self.meter.judged(request.kind, request.due, now, &judgement);
        Some(source)
    }

    /// Writes a source's next request and enters it; returns its length.
    fn put_next(&mut self, number: usize, due: Timestamp, now: Timestamp, out: &mut [u8]) -> usize {
        let source = &mut self.sources[number];
        let (connection_id, since) = source.connection.unwrap_or_default();
        let mix = self.plan.mix;
        let kind = if source.connection.is_none() || now.since(since) >= ID_LIFE {
            Kind::Connect
        } else if self.phase == Phase::Fill {
            source.to_fill -= 1;
            Kind::Announce
        } else {
            match self.population.below(mix.sum()) {
                roll if roll < mix.connect => Kind::Connect,
                roll if roll < mix.connect + mix.announce => Kind::Announce,
                _ => Kind::Scrape,
            }
        };
        // Until the new id comes, those that follow go on with the old one.
        source.connection =
            source.connection.map(|(id, at)| (id, if kind == Kind::Connect { now } else { at }));
        let ask = (kind == Kind::Announce).then(|| self.population.next(number));
        let num_want = if self.phase == Phase::Fill { 0 } else { self.plan.num_want };
        let port = ask.map_or(0, |ask| ask.port);
        let request = Request { kind, due, source: number as u8, port, num_want };
        let transaction_id = self.flight.enter(now, request);
        self.sources[number].in_flight += 1;
        self.meter.asked(kind, due);
        match (kind, ask) {
            (Kind::Announce, Some(ask)) => {
                self.encode_announce(connection_id, transaction_id, &ask, num_want);
            }
            (Kind::Scrape, _) => {
                let info_hashes = &[self.population.torrent(number).0];
                udp::Request::Scrape(udp::Scrape { connection_id, transaction_id, info_hashes })
                    .encode(&mut self.request);
            }
            _ => udp::Request::Connect { transaction_id }.encode(&mut self.request),
        }
        out[..self.request.len()].copy_from_slice(&self.request);
        self.request.len()
    }

    fn encode_announce(&mut self, connection_id: u64, transaction_id: u32, ask: &Ask, num_want: u16) {
        let announce = udp::Announce {
            connection_id,
            transaction_id,
            info_hash: ask.info_hash,
            peer_id: ask.peer_id,
            downloaded: 0,
            left: ask.left,
            uploaded: 0,
            event: ask.event,
            key: 0,
            num_want: if ask.event == Event::Stopped { 0 } else { num_want.into() },
            port: ask.port,
            options: &[],
        };
        udp::Request::Announce(announce).encode(&mut self.request);
    }
}

/// Whether a response is what was asked for, and what it has.
fn judge<'a>(
    source: &mut Source,
    now: Timestamp,
    request: &Request,
    response: &Response<'a>,
    closely: bool,
) -> Judgement<'a> {
    match (request.kind, response) {
        (Kind::Connect, Response::Connect { connection_id, .. }) => {
            source.connection = Some((*connection_id, now));
            Ok(Answer::Connection)
        }
        (Kind::Announce, Response::Announce { interval_secs: 0, .. }) => Err(Wrong::Field),
        (Kind::Announce, Response::Announce { peers, .. }) => {
            let asker = PeerAddr::new(source.ip, request.port);
            let asker = match &asker {
                PeerAddr::V4(packed) => &packed[..],
                PeerAddr::V6(packed) => &packed[..],
            };
            let wanted = Wanted { asker: Some(asker), num_want: request.num_want, closely };
            check::peers(peers, asker.len(), wanted).map(Answer::Peers)
        }
        (Kind::Scrape, Response::Scrape { entries, .. }) => match entries.len() {
            1 => Ok(Answer::Swarms(1)),
            _ => Err(Wrong::Length),
        },
        (_, Response::Error { message, .. }) => Ok(Answer::Refused(message)),
        _ => Err(Wrong::Kind),
    }
}
