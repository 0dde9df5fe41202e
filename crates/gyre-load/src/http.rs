//! Owns the load by HTTP: one thread, its connections on one ring, kept open or made anew for each request.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gyre::time::Timestamp;
use gyre::types::{InfoHash, PeerAddr};

use crate::check::{self, Judgement, Wanted};
use crate::exchange::{Requests, Response};
use crate::measure::{Kind, Meter, Wrong};
use crate::options::Rate;
use crate::population::Population;
use crate::run::{self, BURST, Busy, Loader, Outcome, Part, Phase, Schedule, Shared};
use crate::tcp_ring::{Happened, Orders, TcpRing};

/// Completions taken in a turn.
const TURN_COMPLETIONS: usize = 256;
/// How often connections are looked at for requests whose time is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A connection that broke is made again no sooner.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How a thread uses connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    /// One for each request.
    pub(crate) close: bool,
    pub(crate) connections: usize,
    /// Requests in flight on each, at most.
    pub(crate) pipeline: usize,
}

/// A request that is on its way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    kind: Kind,
    /// When it was to be sent, which latency counts from.
    due: Timestamp,
    sent: Timestamp,
    /// The peer's port, of an announce.
    port: u16,
    num_want: u16,
    info_hash: InfoHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Connecting,
    Open,
    /// It ends: nothing more is asked on it.
    Ending,
}

/// A connection.
struct Connection {
    state: State,
    asked: VecDeque<Asked>,
    /// The begin of a response.
    incoming: Vec<u8>,
    /// A connection that broke is not made again before this; one that was for a single request and has had its
    /// response is closed then, if the server has not done that.
    retry_at: Timestamp,
}

/// All but the ring.
struct Client<'a> {
    part: &'a Part,
    uses: Use,
    requests: Requests,
    connections: Vec<Connection>,
    population: Population,
    /// Peers that are still to be announced for the first time, by source.
    to_fill: Vec<usize>,
    in_flight: usize,
    phase: Phase,
    meter: Meter,
}

struct HttpLoader<'a> {
    ring: TcpRing,
    client: Client<'a>,
    busy: Busy,
    shared: &'a Shared,
    /// Where the search for a connection with room goes on.
    cursor: usize,
    looked: Timestamp,
}

/// Runs one thread's load to its end.
///
/// # Errors
///
/// If there is no ring, or the target takes no connection at all.
pub(crate) fn run(part: &Part, uses: Use, population: Population, shared: &Shared) -> io::Result<Outcome> {
    let connection = || Connection {
        state: State::Free,
        asked: VecDeque::new(),
        incoming: Vec::new(),
        retry_at: Timestamp::default(),
    };
    let sources = part.sources.len().max(1);
    let client = Client {
        part,
        uses,
        requests: Requests::new(&part.target.to_string(), uses.close),
        connections: (0..uses.connections).map(|_| connection()).collect(),
        to_fill: (0..sources).map(|number| (population.len() + sources - 1 - number) / sources).collect(),
        population,
        in_flight: 0,
        phase: Phase::Connect,
        meter: Meter::new(shared.live[part.thread].clone()),
    };
    let loader = HttpLoader {
        ring: TcpRing::new(uses.connections)?,
        client,
        busy: Busy::default(),
        shared,
        cursor: 0,
        looked: Timestamp::default(),
    };
    run::drive(loader, shared, part)
}

impl Loader for HttpLoader<'_> {
    fn connect(&mut self) -> io::Result<()> {
        let begin = self.shared.clock.now();
        let is_open = |connection: &&Connection| connection.state == State::Open;
        while !self.client.uses.close && !self.client.connections.iter().all(|one| is_open(&one)) {
            let now = self.turn(&mut None)?;
            if now.since(begin) > self.client.part.timeout {
                let open = self.client.connections.iter().filter(is_open).count();
                return Err(io::Error::other(format!(
                    "http://{} takes {open} connections of {}",
                    self.client.part.target, self.client.uses.connections
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
        let taken = self.ring.turn(TURN_COMPLETIONS, |number, happened, orders| {
            client.happened(now, number, happened, orders);
        })?;
        let mut worked = taken > 0;
        if now.since(self.looked) >= LOOK_INTERVAL {
            self.looked = now;
            self.give_up(now)?;
        }
        if let Some(schedule) = schedule {
            worked |= self.send_due(now, schedule)?;
        }
        if self.client.phase != Phase::Drain {
            worked |= self.revive(now)?;
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
    /// Makes connections that are not there: all of them if they are to be kept; in a closed loop one for each request;
    /// and gives those that are open as much to do as they may have.
    fn revive(&mut self, now: Timestamp) -> io::Result<bool> {
        let mut worked = false;
        for number in 0..self.client.connections.len() {
            let connection = &self.client.connections[number];
            let waits = connection.state == State::Free && connection.retry_at <= now;
            if waits && (!self.client.uses.close || self.client.tops_up(number)) {
                self.connect(number, now)?;
                worked = true;
            }
            let open = self.client.connections[number].state == State::Open;
            if open && !self.client.uses.close && self.client.tops_up(number) {
                let (client, orders) = (&mut self.client, self.ring.orders(number));
                client.top_up(now, number, orders);
                self.ring.follow(number)?;
                worked = true;
            }
        }
        Ok(worked)
    }

    /// Makes a connection; with one request on its way if it is for that alone.
    fn connect(&mut self, number: usize, due: Timestamp) -> io::Result<()> {
        let (part, uses) = (self.client.part, self.client.uses);
        let source = (!part.sources.is_empty()).then(|| part.sources[number % part.sources.len()]);
        self.ring.connect(number, source, part.target)?;
        self.client.connections[number].state = State::Connecting;
        if uses.close && self.client.phase != Phase::Connect {
            let now = self.shared.clock.now();
            let (client, orders) = (&mut self.client, self.ring.orders(number));
            client.ask(number, due, now, orders);
        }
        Ok(())
    }

    /// Asks what the schedule has for now, as far as there are connections for it.
    fn send_due(&mut self, now: Timestamp, schedule: &mut Schedule) -> io::Result<bool> {
        let mut sent = 0;
        while sent < BURST
            && schedule.next() <= now
            && !self.client.meter.is_behind(schedule.next())
            && let Some(number) = self.with_room(now)
        {
            let due = schedule.next();
            schedule.step();
            match self.client.uses.close {
                true => self.connect(number, due)?,
                false => {
                    let (client, orders) = (&mut self.client, self.ring.orders(number));
                    client.ask(number, due, now, orders);
                    self.ring.follow(number)?;
                }
            }
            sent += 1;
        }
        Ok(sent > 0)
    }

    /// The next connection that one more request can go to.
    fn with_room(&mut self, now: Timestamp) -> Option<usize> {
        let count = self.client.connections.len();
        let uses = self.client.uses;
        let found = (0..count).map(|step| (self.cursor + step) % count).find(|number| {
            let connection = &self.client.connections[*number];
            match uses.close {
                true => connection.state == State::Free && connection.retry_at <= now,
                false => connection.state == State::Open && connection.asked.len() < uses.pipeline,
            }
        })?;
        self.cursor = (found + 1) % count;
        Some(found)
    }

    /// Closes connections whose oldest request has waited too long.
    fn give_up(&mut self, now: Timestamp) -> io::Result<()> {
        for number in 0..self.client.connections.len() {
            let connection = &mut self.client.connections[number];
            let over = match connection.asked.front() {
                Some(oldest) => now.since(oldest.sent) >= self.client.part.timeout,
                None => connection.state == State::Ending && connection.retry_at <= now,
            };
            if over {
                connection.state = State::Ending;
                self.client.lose_all(number);
                self.ring.orders(number).close = true;
                self.ring.follow(number)?;
            }
        }
        Ok(())
    }
}

impl Client<'_> {
    /// Whether a connection is to have one more request in flight, in a closed loop.
    fn tops_up(&self, number: usize) -> bool {
        let closed = match self.phase {
            Phase::Fill => self.to_fill[number % self.to_fill.len()] > 0,
            Phase::Load => self.part.rate == Rate::Max,
            Phase::Connect | Phase::Drain => false,
        };
        closed && self.connections[number].asked.len() < self.uses.pipeline
    }

    fn top_up(&mut self, now: Timestamp, number: usize, orders: &mut Orders) {
        while self.tops_up(number) {
            self.ask(number, now, now, orders);
        }
    }

    /// Puts a request behind those that are on their way.
    fn ask(&mut self, number: usize, due: Timestamp, now: Timestamp, orders: &mut Orders) {
        let source = number % self.to_fill.len();
        let fills = self.phase == Phase::Fill;
        self.to_fill[source] -= usize::from(fills);
        let announces = fills || self.population.below(self.part.mix.sum()) < self.part.mix.announce;
        let num_want = if fills { 0 } else { self.part.num_want };
        let asked = match announces {
            true => {
                let ask = self.population.next(source);
                self.requests.put_announce(&mut orders.send, &ask, num_want);
                Asked {
                    kind: Kind::Announce,
                    due,
                    sent: now,
                    port: ask.port,
                    num_want,
                    info_hash: ask.info_hash,
                }
            }
            false => {
                let info_hash = self.population.torrent(source);
                self.requests.put_scrape(&mut orders.send, &info_hash);
                Asked { kind: Kind::Scrape, due, sent: now, port: 0, num_want, info_hash }
            }
        };
        self.meter.asked(asked.kind, due);
        self.connections[number].asked.push_back(asked);
        self.in_flight += 1;
    }

    fn happened(&mut self, now: Timestamp, number: usize, happened: Happened<'_>, orders: &mut Orders) {
        let connection = &mut self.connections[number];
        match happened {
            Happened::Open if connection.state != State::Connecting => {} // it has been given up
            Happened::Open => {
                connection.state = State::Open;
                if !self.uses.close {
                    self.top_up(now, number, orders);
                }
            }
            Happened::Received(_) if orders.close => {} // what follows nonsense
            Happened::Received(bytes) => {
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
                    orders.close = true;
                    self.lose_all(number);
                    return;
                }
                connection.incoming = incoming;
                // If the server says that it closes it is to be the first: the port waits at that side.
                if connection.state == State::Open && !self.uses.close {
                    self.top_up(now, number, orders);
                }
            }
            Happened::Closed(error) => {
                let incoming = std::mem::take(&mut connection.incoming);
                let readable = self.take_responses(now, number, &incoming, true).is_some();
                let connection = &mut self.connections[number];
                let expected = readable && connection.state == State::Ending;
                (connection.state, connection.retry_at) = (State::Free, now);
                if error.is_some() || !expected || !connection.asked.is_empty() {
                    connection.retry_at = now + RETRY_INTERVAL;
                    self.meter.broken();
                }
                self.lose_all(number);
            }
        }
    }

    fn lose_all(&mut self, number: usize) {
        while let Some(asked) = self.connections[number].asked.pop_front() {
            self.in_flight -= 1;
            self.meter.lost(asked.kind, asked.due);
        }
    }

    /// Takes the responses that are all there; returns their length. `None`: one is nonsense, and where the next one
    /// would begin is not known.
    fn take_responses(&mut self, now: Timestamp, number: usize, bytes: &[u8], ended: bool) -> Option<usize> {
        let mut used = 0;
        while used < bytes.len() {
            let response = match Response::parse(&bytes[used..], ended) {
                Ok(None) => break,
                Ok(Some(response)) => response,
                Err(wrong) => {
                    self.meter.is_wrong(wrong);
                    return None;
                }
            };
            used += response.length;
            let connection = &mut self.connections[number];
            if response.closes || self.uses.close {
                connection.state = State::Ending;
                connection.retry_at = now + self.part.timeout;
            }
            let Some(asked) = connection.asked.pop_front() else {
                self.meter.is_wrong(Wrong::Unasked);
                continue;
            };
            self.in_flight -= 1;
            let source = self.part.sources.get(number % self.to_fill.len());
            let judgement = judge(&asked, source.map(SocketAddr::ip), &response, self.meter.looks_closely());
            self.meter.judged(asked.kind, asked.due, now, &judgement);
        }
        Some(used)
    }
}

/// Whether a response is what was asked for, and what it has.
fn judge<'a>(asked: &Asked, source: Option<IpAddr>, response: &Response<'a>, closely: bool) -> Judgement<'a> {
    if response.status != 200 {
        return Err(Wrong::Status);
    }
    if asked.kind == Kind::Scrape {
        return check::scrape_body(response.body, &asked.info_hash.0);
    }
    let asker = source.map(|ip| PeerAddr::new(ip, asked.port));
    let asker = asker.as_ref().map(PeerAddr::as_bytes);
    check::announce_body(response.body, Wanted { asker, num_want: asked.num_want, closely })
}
