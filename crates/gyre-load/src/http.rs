//! Owns the HTTP load: one thread with its connections on one ring, persistent or one for each request.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gyre::time::Timestamp;
use gyre::types::{InfoHash, PeerAddr};

use crate::check::{self, CheckedReply, Expected};
use crate::exchange::{Requests, Response};
use crate::measure::{Kind, Meter, ReplyError};
use crate::options::Rate;
use crate::population::Population;
use crate::run::{self, BURST, BusyTime, Loader, Phase, Schedule, Shared, ThreadConfig, ThreadResult};
use crate::tcp_ring::{Outgoing, TcpEvent, TcpRing};

/// Maximum number of completions in a turn.
const TURN_COMPLETIONS: usize = 256;
/// Interval of the checks for timed-out requests.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Pause before a broken connection is established again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How a thread uses connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionOptions {
    /// Whether each request gets a new connection.
    pub(crate) close: bool,
    pub(crate) connections: usize,
    /// Maximum number of requests in flight on each connection.
    pub(crate) pipeline: usize,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct PendingRequest {
    kind: Kind,
    /// When it was due. Latency counts from then.
    due: Timestamp,
    sent: Timestamp,
    /// The port of the announcing peer.
    port: u16,
    num_want: u16,
    info_hash: InfoHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Connecting,
    Open,
    /// Closing: no further requests.
    Ending,
}

/// A connection.
struct Connection {
    state: State,
    pending: VecDeque<PendingRequest>,
    /// The beginning of an incomplete response.
    incoming: Vec<u8>,
    /// A broken connection is not established again before this time. A connection for a single request that has had
    /// its response is closed at this time, if the server has not closed it.
    retry_at: Timestamp,
}

/// The state of the load without the ring.
struct Client<'a> {
    config: &'a ThreadConfig,
    options: ConnectionOptions,
    requests: Requests,
    connections: Vec<Connection>,
    population: Population,
    /// Number of peers of each source that the fill phase has not announced yet.
    to_fill: Vec<usize>,
    in_flight: usize,
    phase: Phase,
    meter: Meter,
}

struct HttpLoader<'a> {
    ring: TcpRing,
    client: Client<'a>,
    busy: BusyTime,
    shared: &'a Shared,
    /// Where the next search for a connection with room starts.
    cursor: usize,
    last_check: Timestamp,
}

/// Runs the load of one thread to its end.
///
/// # Errors
///
/// If the ring can't be created, or the target does not accept all connections.
pub(crate) fn run(
    config: &ThreadConfig,
    options: ConnectionOptions,
    population: Population,
    shared: &Shared,
) -> io::Result<ThreadResult> {
    let connection = || Connection {
        state: State::Free,
        pending: VecDeque::new(),
        incoming: Vec::new(),
        retry_at: Timestamp::default(),
    };
    let sources = config.sources.len().max(1);
    let client = Client {
        config,
        options,
        requests: Requests::new(&config.target.to_string(), options.close),
        connections: (0..options.connections).map(|_| connection()).collect(),
        to_fill: (0..sources).map(|number| (population.len() + sources - 1 - number) / sources).collect(),
        population,
        in_flight: 0,
        phase: Phase::Connect,
        meter: Meter::new(shared.live[config.thread].clone()),
    };
    let loader = HttpLoader {
        ring: TcpRing::new(options.connections)?,
        client,
        busy: BusyTime::default(),
        shared,
        cursor: 0,
        last_check: Timestamp::default(),
    };
    run::drive(loader, shared, config)
}

impl Loader for HttpLoader<'_> {
    fn connect(&mut self) -> io::Result<()> {
        let begin = self.shared.clock.now();
        let is_open = |connection: &&Connection| connection.state == State::Open;
        while !self.client.options.close && !self.client.connections.iter().all(|one| is_open(&one)) {
            let now = self.turn(&mut None)?;
            if now.since(begin) > self.client.config.timeout {
                let open = self.client.connections.iter().filter(is_open).count();
                return Err(io::Error::other(format!(
                    "http://{} accepted only {open} of {} connections",
                    self.client.config.target, self.client.options.connections
                )));
            }
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.client.phase = phase;
    }

    fn pending(&self) -> usize {
        let fills = self.client.phase == Phase::Fill;
        self.client.in_flight + if fills { self.client.to_fill.iter().sum() } else { 0 }
    }

    fn turn(&mut self, schedule: &mut Option<Schedule>) -> io::Result<Timestamp> {
        let now = self.shared.clock.now();
        let client = &mut self.client;
        let taken = self.ring.turn(TURN_COMPLETIONS, |number, event, outgoing| {
            client.handle_event(now, number, event, outgoing);
        })?;
        let mut worked = taken > 0;
        if now.since(self.last_check) >= CHECK_INTERVAL {
            self.last_check = now;
            self.close_overdue(now)?;
        }
        if let Some(schedule) = schedule {
            worked |= self.send_due(now, schedule)?;
        }
        if self.client.phase != Phase::Drain {
            worked |= self.reconnect(now)?;
        }
        self.ring.submit()?;
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

impl HttpLoader<'_> {
    /// Establishes missing connections (all persistent ones, or in a closed loop one for each request) and sends as
    /// many requests as the open ones may have in flight.
    fn reconnect(&mut self, now: Timestamp) -> io::Result<bool> {
        let mut worked = false;
        for number in 0..self.client.connections.len() {
            let connection = &self.client.connections[number];
            let waits = connection.state == State::Free && connection.retry_at <= now;
            if waits && (!self.client.options.close || self.client.needs_request(number)) {
                self.connect(number, now)?;
                worked = true;
            }
            let open = self.client.connections[number].state == State::Open;
            if open && !self.client.options.close && self.client.needs_request(number) {
                let (client, outgoing) = (&mut self.client, self.ring.outgoing(number));
                client.top_up(now, number, outgoing);
                self.ring.flush(number)?;
                worked = true;
            }
        }
        Ok(worked)
    }

    /// Establishes a connection. If it is for a single request, queues the request.
    fn connect(&mut self, number: usize, due: Timestamp) -> io::Result<()> {
        let (config, options) = (self.client.config, self.client.options);
        let source = (!config.sources.is_empty()).then(|| config.sources[number % config.sources.len()]);
        self.ring.connect(number, source, config.target)?;
        self.client.connections[number].state = State::Connecting;
        if options.close && self.client.phase != Phase::Connect {
            let now = self.shared.clock.now();
            let (client, outgoing) = (&mut self.client, self.ring.outgoing(number));
            client.send_request(number, due, now, outgoing);
        }
        Ok(())
    }

    /// Sends the requests that are due, as far as connections have room.
    fn send_due(&mut self, now: Timestamp, schedule: &mut Schedule) -> io::Result<bool> {
        let mut sent = 0;
        while sent < BURST
            && schedule.next() <= now
            && !self.client.meter.is_after_window(schedule.next())
            && let Some(number) = self.with_room(now)
        {
            let due = schedule.next();
            schedule.step();
            match self.client.options.close {
                true => self.connect(number, due)?,
                false => {
                    let (client, outgoing) = (&mut self.client, self.ring.outgoing(number));
                    client.send_request(number, due, now, outgoing);
                    self.ring.flush(number)?;
                }
            }
            sent += 1;
        }
        Ok(sent > 0)
    }

    /// Returns the next connection that has room for a request.
    fn with_room(&mut self, now: Timestamp) -> Option<usize> {
        let count = self.client.connections.len();
        let options = self.client.options;
        let found = (0..count).map(|step| (self.cursor + step) % count).find(|number| {
            let connection = &self.client.connections[*number];
            match options.close {
                true => connection.state == State::Free && connection.retry_at <= now,
                false => connection.state == State::Open && connection.pending.len() < options.pipeline,
            }
        })?;
        self.cursor = (found + 1) % count;
        Some(found)
    }

    /// Closes connections whose oldest request has timed out.
    fn close_overdue(&mut self, now: Timestamp) -> io::Result<()> {
        for number in 0..self.client.connections.len() {
            let connection = &mut self.client.connections[number];
            let is_overdue = match connection.pending.front() {
                Some(oldest) => now.since(oldest.sent) >= self.client.config.timeout,
                None => connection.state == State::Ending && connection.retry_at <= now,
            };
            if is_overdue {
                connection.state = State::Ending;
                self.client.lose_pending(number);
                self.ring.outgoing(number).close = true;
                self.ring.flush(number)?;
            }
        }
        Ok(())
    }
}

impl Client<'_> {
    /// Returns whether a connection should have one more request in flight, in a closed loop.
    fn needs_request(&self, number: usize) -> bool {
        let closed = match self.phase {
            Phase::Fill => self.to_fill[number % self.to_fill.len()] > 0,
            Phase::Load => self.config.rate == Rate::Max,
            Phase::Connect | Phase::Drain => false,
        };
        closed && self.connections[number].pending.len() < self.options.pipeline
    }

    fn top_up(&mut self, now: Timestamp, number: usize, outgoing: &mut Outgoing) {
        while self.needs_request(number) {
            self.send_request(number, now, now, outgoing);
        }
    }

    /// Queues a request behind those in flight.
    fn send_request(&mut self, number: usize, due: Timestamp, now: Timestamp, outgoing: &mut Outgoing) {
        let source = number % self.to_fill.len();
        let fills = self.phase == Phase::Fill;
        self.to_fill[source] -= usize::from(fills);
        let announces = fills || self.population.below(self.config.mix.sum()) < self.config.mix.announce;
        let num_want = if fills { 0 } else { self.config.num_want };
        let request = match announces {
            true => {
                let announce = self.population.next(source);
                self.requests.put_announce(&mut outgoing.send, &announce, num_want);
                PendingRequest {
                    kind: Kind::Announce,
                    due,
                    sent: now,
                    port: announce.port,
                    num_want,
                    info_hash: announce.info_hash,
                }
            }
            false => {
                let info_hash = self.population.torrent(source);
                self.requests.put_scrape(&mut outgoing.send, &info_hash);
                PendingRequest { kind: Kind::Scrape, due, sent: now, port: 0, num_want, info_hash }
            }
        };
        self.meter.count_request(request.kind, due);
        self.connections[number].pending.push_back(request);
        self.in_flight += 1;
    }

    fn handle_event(&mut self, now: Timestamp, number: usize, event: TcpEvent<'_>, outgoing: &mut Outgoing) {
        let connection = &mut self.connections[number];
        match event {
            TcpEvent::Open if connection.state != State::Connecting => {} // timed out before
            TcpEvent::Open => {
                connection.state = State::Open;
                if !self.options.close {
                    self.top_up(now, number, outgoing);
                }
            }
            TcpEvent::Received(_) if outgoing.close => {} // after a malformed response
            TcpEvent::Received(bytes) => {
                let mut incoming = std::mem::take(&mut connection.incoming);
                let taken = if incoming.is_empty() {
                    let taken = self.take_responses(now, number, bytes, false);
                    taken.inspect(|used| incoming.extend_from_slice(&bytes[*used..]))
                } else {
                    incoming.extend_from_slice(bytes);
                    let taken = self.take_responses(now, number, &incoming, false);
                    taken.inspect(|used| _ = incoming.drain(..*used))
                };
                let connection = &mut self.connections[number];
                if taken.is_none() {
                    connection.state = State::Ending;
                    outgoing.close = true;
                    self.lose_pending(number);
                    return;
                }
                connection.incoming = incoming;
                // If the server announces that it closes, it must close first: that side keeps the port in TIME_WAIT.
                if connection.state == State::Open && !self.options.close {
                    self.top_up(now, number, outgoing);
                }
            }
            TcpEvent::Closed(error) => {
                let incoming = std::mem::take(&mut connection.incoming);
                let readable = self.take_responses(now, number, &incoming, true).is_some();
                let connection = &mut self.connections[number];
                let expected = readable && connection.state == State::Ending;
                (connection.state, connection.retry_at) = (State::Free, now);
                if error.is_some() || !expected || !connection.pending.is_empty() {
                    connection.retry_at = now + RETRY_INTERVAL;
                    self.meter.count_broken();
                }
                self.lose_pending(number);
            }
        }
    }

    fn lose_pending(&mut self, number: usize) {
        while let Some(request) = self.connections[number].pending.pop_front() {
            self.in_flight -= 1;
            self.meter.count_lost(request.kind, request.due);
        }
    }

    /// Takes the complete responses and returns their length. Returns `None` after a malformed response, since the
    /// start of the next one is unknown.
    fn take_responses(&mut self, now: Timestamp, number: usize, bytes: &[u8], ended: bool) -> Option<usize> {
        let mut used = 0;
        while used < bytes.len() {
            let response = match Response::parse(&bytes[used..], ended) {
                Ok(None) => break,
                Ok(Some(response)) => response,
                Err(error) => {
                    self.meter.count_error(error);
                    return None;
                }
            };
            used += response.length;
            let connection = &mut self.connections[number];
            if response.closes || self.options.close {
                connection.state = State::Ending;
                connection.retry_at = now + self.config.timeout;
            }
            let Some(request) = connection.pending.pop_front() else {
                self.meter.count_error(ReplyError::Unsolicited);
                continue;
            };
            self.in_flight -= 1;
            let source = self.config.sources.get(number % self.to_fill.len());
            let checked =
                check_reply(&request, source.map(SocketAddr::ip), &response, self.meter.checks_duplicates());
            self.meter.count_reply(request.kind, request.due, now, &checked);
        }
        Some(used)
    }
}

/// Checks a response against its request.
fn check_reply<'a>(
    request: &PendingRequest,
    source: Option<IpAddr>,
    response: &Response<'a>,
    check_duplicates: bool,
) -> CheckedReply<'a> {
    if response.status != 200 {
        return Err(ReplyError::Status);
    }
    if request.kind == Kind::Scrape {
        return check::scrape_body(response.body, &request.info_hash.0);
    }
    let own_address = source.map(|ip| PeerAddr::new(ip, request.port));
    let own_address = own_address.as_ref().map(PeerAddr::as_bytes);
    check::announce_body(
        response.body,
        Expected { own_address, num_want: request.num_want, check_duplicates },
    )
}
