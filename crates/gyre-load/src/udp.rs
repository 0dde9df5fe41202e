//! Owns the UDP load: one thread with its sockets on one ring. Its sessions follow BEP 15: a connect, then announces
//! and scrapes with the received connection id.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gyre::engine::{Endpoint, Replies};
use gyre::limits::TURN_DATAGRAMS;
use gyre::ring::{Ring, RingSocket};
use gyre::sys;
use gyre::time::Timestamp;
use gyre::types::{Event, Family, PeerAddr};
use gyre::wire::udp::{self, Response};

use crate::check::{self, Answer, CheckedReply, Expected};
use crate::flood::Flood;
use crate::in_flight::{InFlight, Lookup, Request};
use crate::measure::{Kind, Meter, ReplyError};
use crate::options::Rate;
use crate::population::{AnnounceParams, Population};
use crate::run::{self, BURST, BusyTime, Loader, Phase, Schedule, Shared, ThreadConfig, ThreadResult};

/// Time for which a client may use a connection id (BEP 15).
const ID_LIFE: Duration = Duration::from_secs(60);
/// Attempts to connect at the start before the run fails.
const CONNECT_TRIES: u32 = 5;
/// Maximum number of sources with a socket each. More sources share one socket, which sends from several addresses.
pub(crate) const SOCKETS_MAX: usize = 64;
/// Receive buffer of a source's socket. It must hold all replies that arrive while the generator does something else.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Receive buffer of a socket that sources share.
const SHARED_BUFFER_BYTES: usize = 64 << 20;

/// A client with its address and session.
struct Source {
    endpoint: Endpoint,
    /// Its address as the tracker sees it, without NAT in between.
    ip: IpAddr,
    connection: Option<(u64, Timestamp)>,
    in_flight: u32,
    /// Number of peers that the fill phase has not announced yet.
    to_fill: usize,
}

/// The state of the load without the ring.
struct Client<'a> {
    config: &'a ThreadConfig,
    /// Maximum number of requests in flight of each source, in a closed loop.
    pipeline: u32,
    sources: Vec<Source>,
    population: Population,
    in_flight: InFlight,
    phase: Phase,
    meter: Meter,
    request: Vec<u8>,
}

/// Runs the load of one thread to its end.
///
/// # Errors
///
/// If the ring or a socket can't be opened, or the target does not answer.
pub(crate) fn run(
    config: &ThreadConfig,
    pipeline: u32,
    population: Population,
    flood: Option<Flood>,
    shared: &Shared,
) -> io::Result<ThreadResult> {
    let (ring, endpoints) = open(config)?;
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
        config,
        pipeline,
        sources,
        population,
        in_flight: InFlight::new(config.timeout),
        phase: Phase::Connect,
        meter: Meter::new(shared.live[config.thread].clone()),
        request: Vec::new(),
    };
    let loader = UdpLoader { ring, client, flood, busy: BusyTime::default(), shared };
    run::drive(loader, shared, config)
}

/// Opens a ring with the sockets of a thread's sources. Returns it with the endpoint and the address of each source.
fn open(config: &ThreadConfig) -> io::Result<(Ring, Vec<(Endpoint, IpAddr)>)> {
    let bind = |address: &SocketAddr, buffer_bytes: usize| {
        let socket = UdpSocket::bind(address);
        let socket = socket
            .map_err(|error| io::Error::other(format!("cannot open a socket at {address}: {error}")))?;
        sys::set_receive_buffer(&socket, buffer_bytes).map(|_| socket)
    };
    let target = config.target;
    if config.sources.len() > SOCKETS_MAX {
        let socket = bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), SHARED_BUFFER_BYTES)?;
        sys::deliver_local_address(&socket, Family::V4)?;
        let shared = |address: &SocketAddr| {
            (Endpoint { source: target, local: Some(address.ip()), socket: 0 }, address.ip())
        };
        let ring = Ring::new(vec![RingSocket { socket, wildcard: true }])?;
        return Ok((ring, config.sources.iter().map(shared).collect()));
    }
    let (mut sockets, mut endpoints) = (Vec::new(), Vec::new());
    for (number, address) in config.sources.iter().enumerate() {
        let socket = bind(address, RECEIVE_BUFFER_BYTES)?;
        let connected = socket.connect(target);
        connected.map_err(|error| io::Error::other(format!("udp://{target}: {error}")))?;
        let endpoint = Endpoint { source: target, local: None, socket: number as u8 };
        endpoints.push((endpoint, socket.local_addr()?.ip()));
        sockets.push(socket);
    }
    Ok((Ring::connected(sockets)?, endpoints))
}

struct UdpLoader<'a> {
    ring: Ring,
    client: Client<'a>,
    /// A flood that runs beside the load.
    flood: Option<Flood>,
    busy: BusyTime,
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
        Err(io::Error::other(format!("udp://{} does not answer connect requests", self.client.config.target)))
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
        self.client.in_flight.len() + to_fill.sum::<usize>()
    }

    fn turn(&mut self, schedule: &mut Option<Schedule>) -> io::Result<Timestamp> {
        let now = self.shared.clock.now();
        let client = &mut self.client;
        let turned = self.ring.take(TURN_DATAGRAMS, |from, datagram, out| {
            let source = client.received(now, from, datagram)?;
            client.needs_request(source).then(|| client.put_next(source, now, now, out))
        })?;
        let mut worked = turned.completions > 0;
        (0..turned.truncated).for_each(|_| self.client.meter.count_error(ReplyError::Length));
        while let Some(request) = self.client.in_flight.pop_expired(now) {
            self.client.sources[usize::from(request.source)].in_flight -= 1;
            self.client.meter.count_lost(request.kind, request.due);
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
    /// Sends the requests that are due.
    fn send_due(&mut self, now: Timestamp, schedule: &mut Schedule) -> bool {
        let mut sent = 0;
        while sent < BURST && schedule.next() <= now && self.client.in_flight.has_room() {
            let due = schedule.next();
            let source = self.client.population.below(self.client.sources.len() as u32) as usize;
            if self.client.meter.is_after_window(due) || !self.send(source, due) {
                break;
            }
            schedule.step();
            sent += 1;
        }
        sent > 0
    }

    /// Sends as many requests as each source may have in flight: at the start, and after some were lost.
    fn top_up(&mut self, now: Timestamp) -> bool {
        let mut sent = false;
        for source in 0..self.client.sources.len() {
            while self.client.needs_request(source) && self.send(source, now) {
                sent = true;
            }
        }
        sent
    }

    /// Sends a source's next request. Returns false if the ring has no room.
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
    /// Returns whether a source should have one more request in flight, in a closed loop.
    fn needs_request(&self, source: usize) -> bool {
        let source = &self.sources[source];
        let closed = match self.phase {
            Phase::Fill => source.to_fill > 0,
            Phase::Load => self.config.rate == Rate::Max,
            Phase::Connect | Phase::Drain => false,
        };
        closed && source.in_flight < self.pipeline && self.in_flight.has_room()
    }

    /// Takes a reply. Returns the source whose request it answers.
    fn received(&mut self, now: Timestamp, from: &Endpoint, datagram: &[u8]) -> Option<usize> {
        let Ok(response) = Response::parse(datagram) else {
            self.meter.count_error(ReplyError::Malformed);
            return None;
        };
        let request = match self.in_flight.take(response.transaction_id()) {
            Lookup::Found(request) if self.was_sent_from(from, &request) => request,
            Lookup::Found(request) => {
                // The reply went to another source, so the right one has lost it.
                self.sources[usize::from(request.source)].in_flight -= 1;
                self.meter.count_lost(request.kind, request.due);
                self.meter.count_error(ReplyError::Unsolicited);
                return None;
            }
            Lookup::Late => {
                self.meter.count_late();
                return None;
            }
            Lookup::Unknown => {
                self.meter.count_error(ReplyError::Unsolicited);
                return None;
            }
        };
        let source = usize::from(request.source);
        self.sources[source].in_flight -= 1;
        let checked =
            check_reply(&mut self.sources[source], now, &request, &response, self.meter.checks_duplicates());
        self.meter.count_reply(request.kind, request.due, now, &checked);
        Some(source)
    }

    /// Returns whether the request was sent from the local endpoint at which its reply arrived.
    fn was_sent_from(&self, from: &Endpoint, request: &Request) -> bool {
        let source = &self.sources[usize::from(request.source)].endpoint;
        (source.socket, source.local) == (from.socket, from.local)
    }

    /// Writes and registers a source's next request. Returns its length.
    fn put_next(&mut self, number: usize, due: Timestamp, now: Timestamp, out: &mut [u8]) -> usize {
        let source = &mut self.sources[number];
        let (connection_id, since) = source.connection.unwrap_or_default();
        let mix = self.config.mix;
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
        // Requests use the old id until the new one arrives.
        source.connection =
            source.connection.map(|(id, at)| (id, if kind == Kind::Connect { now } else { at }));
        let params = (kind == Kind::Announce).then(|| self.population.next(number));
        let num_want = if self.phase == Phase::Fill { 0 } else { self.config.num_want };
        let port = params.map_or(0, |params| params.port);
        let request = Request { kind, due, source: number as u16, port, num_want };
        let transaction_id = self.in_flight.insert(now, request);
        self.sources[number].in_flight += 1;
        self.meter.count_request(kind, due);
        match (kind, params) {
            (Kind::Announce, Some(params)) => {
                self.encode_announce(connection_id, transaction_id, &params, num_want);
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

    fn encode_announce(
        &mut self,
        connection_id: u64,
        transaction_id: u32,
        params: &AnnounceParams,
        num_want: u16,
    ) {
        let announce = udp::Announce {
            connection_id,
            transaction_id,
            info_hash: params.info_hash,
            peer_id: params.peer_id,
            downloaded: 0,
            left: params.left,
            uploaded: 0,
            event: params.event,
            key: 0,
            num_want: if params.event == Event::Stopped { 0 } else { num_want.into() },
            port: params.port,
            options: &[],
        };
        udp::Request::Announce(announce).encode(&mut self.request);
    }
}

/// Checks a response against its request, and stores a new connection id.
fn check_reply<'a>(
    source: &mut Source,
    now: Timestamp,
    request: &Request,
    response: &Response<'a>,
    check_duplicates: bool,
) -> CheckedReply<'a> {
    match (request.kind, response) {
        (Kind::Connect, Response::Connect { connection_id, .. }) => {
            source.connection = Some((*connection_id, now));
            Ok(Answer::Connection)
        }
        (Kind::Announce, Response::Announce { interval_secs: 0, .. }) => Err(ReplyError::Field),
        (Kind::Announce, Response::Announce { peers, .. }) => {
            let own_address = PeerAddr::new(source.ip, request.port);
            let expected = Expected {
                own_address: Some(own_address.as_bytes()),
                num_want: request.num_want,
                check_duplicates,
            };
            check::peers(peers, own_address.as_bytes().len(), expected).map(Answer::Peers)
        }
        (Kind::Scrape, Response::Scrape { entries, .. }) => match entries.len() {
            1 => Ok(Answer::Swarms(1)),
            _ => Err(ReplyError::Length),
        },
        (_, Response::Error { message, .. }) => Ok(Answer::Refused(message)),
        _ => Err(ReplyError::Kind),
    }
}
