//! Owns the load by UDP: one thread, its sockets on one ring, sessions as clients have them (BEP 15): connect, then
//! announces and scrapes with the id that this gave.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gyre::engine::{Endpoint, Replies};
use gyre::limits::TURN_DATAGRAMS;
use gyre::ring::{RingSocket, UdpRing};
use gyre::sys::{self, Doorbell};
use gyre::time::Timestamp;
use gyre::types::{Event, Family, PeerAddr};
use gyre::wire::udp::{self, Response};

use crate::check::{self, Answer, Judgement, Wanted};
use crate::flight::{Flight, Match, Request};
use crate::flood::Flood;
use crate::measure::{Kind, Meter, Wrong};
use crate::options::Rate;
use crate::population::{Ask, Population};
use crate::run::{self, BURST, Busy, Loader, Outcome, Part, Phase, Schedule, Shared};

/// A client may use an id for a minute (BEP 15).
const ID_LIFE: Duration = Duration::from_secs(60);
/// First connects that are lost before the target is said not to answer.
const CONNECT_TRIES: u32 = 5;
/// Sources that have a socket each. More share one, which sends from the address that each datagram names.
pub(crate) const SOCKETS_MAX: usize = 64;
/// The receive buffer of each socket, and of one that sources share: what comes in while the generator is not looking
/// must not be lost.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const SHARED_BUFFER_BYTES: usize = 64 << 20;

/// A session: a client's, that has an address and port of its own.
struct Source {
    endpoint: Endpoint,
    /// As the tracker sees it, if nothing is in between.
    ip: IpAddr,
    connection: Option<(u64, Timestamp)>,
    in_flight: u32,
    /// Peers that are still to be announced for the first time, when the table is filled.
    to_fill: usize,
}

/// All but the ring.
struct Client<'a> {
    part: &'a Part,
    /// Requests in flight at each source, at most, in a closed loop.
    pipeline: u32,
    sources: Vec<Source>,
    population: Population,
    flight: Flight,
    phase: Phase,
    meter: Meter,
    request: Vec<u8>,
}

/// Runs one thread's load to its end.
///
/// # Errors
///
/// If there is no ring or no socket, or the target doesn't answer at all.
pub(crate) fn run(
    part: &Part,
    pipeline: u32,
    population: Population,
    flood: Option<Flood>,
    shared: &Shared,
) -> io::Result<Outcome> {
    let (ring, endpoints) = open(part)?;
    let count = endpoints.len();
    let source = |(number, (endpoint, ip))| Source {
        endpoint,
        ip,
        connection: None,
        in_flight: 0,
        to_fill: (population.len() + count - 1 - number) / count,
    };
    let sources = endpoints.into_iter().enumerate().map(source).collect();
    let client = Client {
        part,
        pipeline,
        sources,
        population,
        flight: Flight::new(part.timeout),
        phase: Phase::Connect,
        meter: Meter::new(shared.live[part.thread].clone()),
        request: Vec::new(),
    };
    let loader = UdpLoader { ring, client, flood, busy: Busy::default(), shared };
    run::drive(loader, shared, part)
}

/// A ring with the sockets of a thread's sources, what each is addressed by there, and its address.
fn open(part: &Part) -> io::Result<(UdpRing, Vec<(Endpoint, IpAddr)>)> {
    let bind = |address: &SocketAddr, buffer_bytes: usize| {
        let socket = UdpSocket::bind(address);
        let socket = socket.map_err(|error| io::Error::other(format!("no socket at {address}: {error}")))?;
        sys::set_receive_buffer(&socket, buffer_bytes).map(|_| socket)
    };
    let (doorbell, target) = (Doorbell::new()?, part.target);
    if part.sources.len() > SOCKETS_MAX {
        let socket = bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), SHARED_BUFFER_BYTES)?;
        sys::deliver_local_address(&socket, Family::V4)?;
        let shared = |address: &SocketAddr| {
            (Endpoint { source: target, local: Some(address.ip()), socket: 0 }, address.ip())
        };
        let ring = UdpRing::new(vec![RingSocket { socket, wildcard: true }], &doorbell)?;
        return Ok((ring, part.sources.iter().map(shared).collect()));
    }
    let (mut sockets, mut endpoints) = (Vec::new(), Vec::new());
    for (number, address) in part.sources.iter().enumerate() {
        let socket = bind(address, RECEIVE_BUFFER_BYTES)?;
        let connected = socket.connect(target);
        connected.map_err(|error| io::Error::other(format!("udp://{target}: {error}")))?;
        let endpoint = Endpoint { source: target, local: None, socket: number as u8 };
        endpoints.push((endpoint, socket.local_addr()?.ip()));
        sockets.push(socket);
    }
    Ok((UdpRing::connected(sockets, &doorbell)?, endpoints))
}

struct UdpLoader<'a> {
    ring: UdpRing,
    client: Client<'a>,
    /// Beside the load, while that is on.
    flood: Option<Flood>,
    busy: Busy,
    shared: &'a Shared,
}

impl Loader for UdpLoader<'_> {
    fn connect(&mut self) -> io::Result<()> {
        for _ in 0..CONNECT_TRIES {
            for number in 0..self.client.sources.len() {
                if self.client.sources[number].connection.is_none() {
                    self.send(number, self.shared.clock.now());
                }
            }
            while self.pending() > 0 {
                self.turn(&mut None)?;
            }
            if self.client.sources.iter().all(|source| source.connection.is_some()) {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("udp://{} doesn't answer a connect request", self.client.part.target)))
    }

    fn enter(&mut self, phase: Phase) {
        self.client.phase = phase;
        if phase == Phase::Drain {
            let dropped = self.ring.sockets().filter_map(|socket| sys::kernel_drops(socket).ok());
            self.client.meter.tally.overrun = dropped.map(u64::from).sum();
        }
        match (&mut self.flood, phase) {
            (Some(flood), Phase::Load) => flood.begin(self.shared),
            (Some(flood), Phase::Drain) => flood.end(self.shared.clock.now(), &mut self.client.meter),
            _ => {}
        }
    }

    fn pending(&self) -> usize {
        let fills = self.client.phase == Phase::Fill;
        let to_fill = self.client.sources.iter().map(|source| if fills { source.to_fill } else { 0 });
        self.client.flight.len() + to_fill.sum::<usize>()
    }

    fn turn(&mut self, schedule: &mut Option<Schedule>) -> io::Result<Timestamp> {
        let now = self.shared.clock.now();
        let client = &mut self.client;
        let turned = self.ring.take(TURN_DATAGRAMS, |from, datagram, out| {
            let source = client.received(now, from, datagram)?;
            client.tops_up(source).then(|| client.put_next(source, now, now, out))
        })?;
        let mut worked = turned.completions > 0;
        (0..turned.truncated).for_each(|_| self.client.meter.is_wrong(Wrong::Length));
        while let Some(request) = self.client.flight.expired(now) {
            self.client.sources[usize::from(request.source)].in_flight -= 1;
            self.client.meter.lost(request.kind, request.due);
        }
        worked |= match schedule {
            Some(schedule) => self.send_due(now, schedule),
            None => self.top_up(now),
        };
        self.ring.submit()?;
        if let (Some(flood), Phase::Load) = (&mut self.flood, self.client.phase) {
            worked |= flood.turn(now, &mut self.client.meter)?;
        }
        self.busy.turn(now, worked, self.client.meter.window);
        if let Some(time) = self.busy.sleep(now, schedule.as_ref()) {
            self.ring.wait(time)?;
        }
        Ok(now)
    }

    fn meter(&mut self) -> &mut Meter {
        &mut self.client.meter
    }

    fn busy(&self) -> Duration {
        self.busy.sum()
    }
}

impl UdpLoader<'_> {
    /// Sends what the schedule has for now.
    fn send_due(&mut self, now: Timestamp, schedule: &mut Schedule) -> bool {
        let mut sent = 0;
        while sent < BURST && schedule.next() <= now && self.client.flight.has_room() {
            let due = schedule.next();
            let source = self.client.population.below(self.client.sources.len() as u32) as usize;
            if self.client.meter.is_behind(due) || !self.send(source, due) {
                break;
            }
            schedule.step();
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
            Phase::Load => self.part.rate == Rate::Max,
            Phase::Connect | Phase::Drain => false,
        };
        closed && source.in_flight < self.pipeline && self.flight.has_room()
    }

    /// Takes a reply; returns the source that it was for.
    fn received(&mut self, now: Timestamp, from: &Endpoint, datagram: &[u8]) -> Option<usize> {
        let Ok(response) = Response::parse(datagram) else {
            self.meter.is_wrong(Wrong::Malformed);
            return None;
        };
        let request = match self.flight.take(response.transaction_id()) {
            Match::Reply(request) if self.is_at(from, &request) => request,
            Match::Reply(request) => {
                // To another of our sources: that one has not got it.
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

    /// Whether what came there was for the source of this request.
    fn is_at(&self, from: &Endpoint, request: &Request) -> bool {
        let asked = &self.sources[usize::from(request.source)].endpoint;
        (asked.socket, asked.local) == (from.socket, from.local)
    }

    /// Writes a source's next request and enters it; returns its length.
    fn put_next(&mut self, number: usize, due: Timestamp, now: Timestamp, out: &mut [u8]) -> usize {
        let source = &mut self.sources[number];
        let (connection_id, since) = source.connection.unwrap_or_default();
        let mix = self.part.mix;
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
        let num_want = if self.phase == Phase::Fill { 0 } else { self.part.num_want };
        let port = ask.map_or(0, |ask| ask.port);
        let request = Request { kind, due, source: number as u16, port, num_want };
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
            let wanted = Wanted { asker: Some(asker.as_bytes()), num_want: request.num_want, closely };
            check::peers(peers, asker.as_bytes().len(), wanted).map(Answer::Peers)
        }
        (Kind::Scrape, Response::Scrape { entries, .. }) => match entries.len() {
            1 => Ok(Answer::Swarms(1)),
            _ => Err(Wrong::Length),
        },
        (_, Response::Error { message, .. }) => Ok(Answer::Refused(message)),
        _ => Err(Wrong::Kind),
    }
}
