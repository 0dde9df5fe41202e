//! Owns a simulated tracker with its clients and its network: the clock, the order of events and the faults.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gyre_core::connection_id::ConnectionIds;
use gyre_core::counters::{BAD, DROPS, LIMITED};
use gyre_core::engine::{Endpoint, Engine, Seeds};
use gyre_core::limits::{HOUSEKEEPING_INTERVAL_MS, SWEEP_SLICES_PER_SECOND, WAIT_DEADLINE_MS};
use gyre_core::mesh::{Bell, Mesh};
use gyre_core::owner::Owners;
use gyre_core::time::Timestamp;
use gyre_core::types::{InfoHash, WorkerId};

use crate::bytes::{ClientAnnounce, Datagram};
use crate::check::Check;
use crate::client::{CLIENT_PREFIXES, Client, some_swarm};
use crate::log::Log;
use crate::middleware::{After, Decision, Pause, TestMiddleware};
use crate::network::{Network, Packet, happens};
use crate::oracle::WorkerTable;
use crate::plan::{Plan, Steering, pick};
use crate::rules::Rules;
use crate::saving::{Snapshot, SnapshotPart};
use crate::tasks::HttpRequest;
use crate::worker::{Datagram as Arrived, Order, Worker};

/// Time of day at which the first process starts.
const FIRST_DAY_US: u64 = 1_800_000_077_250_000;
/// Longest sleep of a worker.
const HOUSEKEEPING_US: u64 = HOUSEKEEPING_INTERVAL_MS * 1_000;
/// Largest number of turns of a worker that wakes: the slices of the sweep that it has missed.
const TURNS_TO_CATCH_UP: u64 = SWEEP_SLICES_PER_SECOND * HOUSEKEEPING_INTERVAL_MS / 1_000;
/// Largest number of turns until all requests are finished.
const MAX_TURNS_TO_FINISH: u32 = 20_000;

/// A tracker with its clients and its network.
pub(crate) struct World<M: TestMiddleware> {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    /// Microseconds since the start of the simulation.
    at_us: u64,
    /// When all workers wake next.
    next_wake_us: u64,
    /// When the process was started, in time of the simulation and in Unix time.
    process_started_us: u64,
    started_unix_us: u64,
    /// Sum of the steps of the wall clock since then.
    wall_step_us: i64,
    pub(crate) check: Rc<RefCell<Check>>,
    pub(crate) workers: Vec<Worker<M>>,
    network: Network,
    clients: Vec<Client>,
    swarms: Vec<InfoHash>,
    rules: Rules,
    secret: [u8; 16],
    /// When the snapshot in progress was started.
    snapshot_began_unix_secs: Option<u64>,
    pub(crate) snapshot: Option<Snapshot>,
}

/// A bell that wakes no worker. In the simulation workers wake when the world runs them.
struct SilentBell;

impl Bell for SilentBell {
    fn ring(&self) {}
}

/// Parameters of a new process.
struct ProcessStart {
    started_unix_us: u64,
    owners: Owners,
    secret: [u8; 16],
}

impl<M: TestMiddleware> World<M> {
    pub(crate) fn new(plan: Plan, mut rng: Rng, log: &Log) -> Self {
        let clients = (0..plan.clients).map(Client::new).collect();
        let swarms = (0..plan.swarms).map(|_| InfoHash(std::array::from_fn(|_| rng.u8(..)))).collect();
        let secret = rng.u128(..).to_be_bytes();
        let owners = Owners::new(plan.workers, [rng.u32(..), rng.u32(..), rng.u32(..)]);
        let process = ProcessStart { started_unix_us: FIRST_DAY_US, owners, secret };
        let (check, workers) = Self::create_workers(&plan, &mut rng, &process, log.clone(), None);
        Self {
            network: Network::new(plan.network),
            plan,
            rng,
            at_us: 0,
            next_wake_us: HOUSEKEEPING_US,
            process_started_us: 0,
            started_unix_us: process.started_unix_us,
            wall_step_us: 0,
            check,
            workers,
            clients,
            swarms,
            rules: Rules::default(),
            secret,
            snapshot_began_unix_secs: None,
            snapshot: None,
        }
    }

    /// Creates the workers of a process, which may restore a snapshot.
    fn create_workers(
        plan: &Plan,
        rng: &mut Rng,
        process: &ProcessStart,
        log: Log,
        snapshot: Option<&Snapshot>,
    ) -> (Rc<RefCell<Check>>, Vec<Worker<M>>) {
        let ProcessStart { started_unix_us, owners, secret } = process;
        let mut check = Check::new(*owners, plan.policy, plan.window_secs, *started_unix_us, log);
        let ids = ConnectionIds::new(*secret, plan.window_secs, Duration::from_micros(*started_unix_us));
        let mut engine = |number: usize| {
            let seeds = Seeds { table: rng.u128(..).to_be_bytes(), random: rng.u64(..) };
            let mut engine = Engine::new(WorkerId(number as u16), *owners, plan.policy, ids, seeds);
            engine.set_source_limits(&plan.limits);
            engine
        };
        let mut engines: Vec<_> = (0..owners.workers()).map(&mut engine).collect();
        if let Some(snapshot) = snapshot {
            let peers =
                snapshot.restore(Timestamp::default(), started_unix_us / 1_000_000, &mut engines, &mut check);
            check.log.add("peers restored", peers);
        }
        let doorbells: Vec<_> = engines.iter().map(|_| Arc::new(SilentBell)).collect();
        let check = Rc::new(RefCell::new(check));
        let ends = engines.into_iter().zip(Mesh::connect(&doorbells)).enumerate();
        let workers = ends.map(|(me, (engine, mesh))| Worker::new(me, engine, mesh, check.clone())).collect();
        (check, workers)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.at_us - self.process_started_us)
    }

    fn unix_us(&self) -> u64 {
        (self.started_unix_us + self.at_us - self.process_started_us).saturating_add_signed(self.wall_step_us)
    }

    fn note(&self, kind: &'static str, what: std::fmt::Arguments<'_>) {
        self.check.borrow().log.note(kind, what);
    }

    /// Runs one step.
    pub(crate) fn step(&mut self) {
        self.advance();
        self.deliver();
        match self.rng.u8(..10) {
            0..4 => {
                let worker = self.rng.usize(..self.workers.len());
                self.turn(worker, false);
            }
            _ if happens(&mut self.rng, self.plan.http) => self.send_http(),
            _ => self.send(),
        }
        let faults = self.plan.faults;
        if happens(&mut self.rng, faults.stall) {
            let worker = self.rng.usize(..self.workers.len());
            let until = self.at_us + self.rng.u64(..40 * (self.plan.step_us + 20_000));
            self.workers[worker].stalled_until_us = until;
            self.note("worker stalls", format_args!("worker {worker} until {until}"));
        }
        if happens(&mut self.rng, faults.jump) {
            self.jump();
        }
        if happens(&mut self.rng, faults.burst) {
            self.burst();
        }
        if happens(&mut self.rng, faults.access) {
            self.change_access();
        }
        if happens(&mut self.rng, faults.snapshot) {
            self.begin_snapshot();
        }
        if happens(&mut self.rng, faults.restart) {
            self.restart();
        }
    }

    /// Advances the clock. Workers wake at least once per housekeeping interval, and then run until they have caught
    /// up.
    fn advance(&mut self) {
        let until_us = self.at_us + self.rng.u64(..=self.plan.step_us);
        while self.next_wake_us <= until_us {
            self.at_us = self.at_us.max(self.next_wake_us);
            self.next_wake_us = self.at_us + HOUSEKEEPING_US;
            for worker in 0..self.workers.len() {
                for _ in 0..TURNS_TO_CATCH_UP {
                    self.turn(worker, false);
                    if !self.workers[worker].unfinished {
                        break;
                    }
                }
            }
        }
        self.at_us = until_us;
    }

    /// Delivers datagrams that have arrived to sockets and clients.
    fn deliver(&mut self) {
        while let Some(packet) = self.network.arrived(self.at_us) {
            match packet {
                Packet::ToClient { to, bytes } => {
                    let client = self.clients.iter_mut().find(|client| client.source == to);
                    client.into_iter().for_each(|client| client.receive(&bytes));
                }
                Packet::ToTracker { from, bytes } => {
                    let worker = self.steer(&bytes, from);
                    self.receive(worker, from, bytes);
                }
            }
        }
    }

    fn steer(&mut self, bytes: &[u8], from: SocketAddr) -> usize {
        let head = match Datagram::read(bytes, from.ip()) {
            Datagram::Announce { request, .. } => Some(request.info_hash),
            Datagram::Scrape { info_hashes, .. } => info_hashes.first().copied(),
            _ => None,
        };
        match head.filter(|_| self.plan.steering == Steering::InfoHash) {
            Some(info_hash) => self.check.borrow().owner(&info_hash),
            None => self.rng.usize(..self.workers.len()),
        }
    }

    fn receive(&mut self, worker: usize, from: SocketAddr, bytes: Vec<u8>) {
        if self.workers[worker].socket.len() >= self.plan.socket_room {
            return self.check.borrow().log.add("datagrams dropped by a full socket", 1);
        }
        let socket = self.rng.u8(..2);
        let local = (socket == 1).then(|| IpAddr::from([192, 0, 2, self.rng.u8(..)]));
        let from = Endpoint { source: from, local, socket };
        let decision = self.decision();
        self.workers[worker].socket.push_back(Arrived { from, bytes, decision });
    }

    /// Draws the decision of the middleware on a request.
    fn decision(&mut self) -> Option<Decision> {
        let polls = [0, 1, 3, 30, u8::MAX][self.rng.usize(..5)];
        let then = [After::Pass, After::Pass, After::Stop, After::Refuse][self.rng.usize(..4)];
        let decision = match self.rng.u8(..10) {
            0..6 => Decision::Pass,
            6 => Decision::Stop,
            7 => Decision::Refuse,
            _ => Decision::Wait(Pause { polls, then }),
        };
        self.plan.with_middleware.then_some(decision)
    }

    fn turn(&mut self, worker: usize, always: bool) {
        if !always && self.workers[worker].stalled_until_us > self.at_us {
            return;
        }
        let (now, mut leaving) = (self.now(), Vec::new());
        self.workers[worker].turn(now, &mut leaving);
        self.workers[worker].run_tasks(now, &mut self.rng, !always);
        self.note(
            "turns",
            format_args!("worker {worker} at {} us, {} datagrams out", now.as_micros(), leaving.len()),
        );
        for (to, bytes) in leaving {
            let packet = Packet::ToClient { to: to.source, bytes };
            let log = &self.check.borrow().log;
            self.network.send(self.at_us, packet, &mut self.rng, log);
        }
        self.save_slice(worker);
    }

    fn send(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let (from, bytes) = self.clients[client].datagram(&self.plan, &self.swarms, &mut self.rng);
        let log = &self.check.borrow().log;
        log.note("datagrams", format_args!("{from}: {} bytes, {:02x?}", bytes.len(), bytes.get(8..20)));
        self.network.send(self.at_us, Packet::ToTracker { from, bytes }, &mut self.rng, log);
    }

    fn send_http(&mut self) {
        let worker = self.rng.usize(..self.workers.len());
        let client = &self.clients[self.rng.usize(..self.clients.len())];
        let http_request = match happens(&mut self.rng, self.plan.scrapes) {
            true => {
                let most = pick(&mut self.rng, &[1, 5, 74]);
                let swarms = self.rng.usize(1..=most);
                HttpRequest::Scrape(
                    (0..swarms).map(|_| some_swarm(&self.plan, &self.swarms, &mut self.rng)).collect(),
                )
            }
            false => {
                let request = client.announce(&self.plan, &self.swarms, &mut self.rng);
                HttpRequest::Announce { request, wants_ids: self.rng.u8(..6) == 0 }
            }
        };
        let ip = client.source.ip();
        self.note("HTTP requests", format_args!("worker {worker}: {ip} {http_request:?}"));
        self.deliver_http(worker, ip, http_request);
    }

    /// Hands a request by HTTP to a worker. A stalled worker does not take it, and the request is dropped.
    fn deliver_http(&mut self, worker: usize, ip: IpAddr, http_request: HttpRequest) {
        if self.workers[worker].stalled_until_us > self.at_us {
            return self.check.borrow().log.add("HTTP requests to a stalled worker", 1);
        }
        let (now, decision) = (self.now(), self.decision());
        self.workers[worker].handle_http(now, ip, http_request, decision);
    }

    /// Lets the clock jump, as after a suspend of the machine, or sets the wall clock.
    fn jump(&mut self) {
        if self.rng.bool() {
            let timeout_us = u64::from(self.plan.policy.peer_timeout_secs) * 1_000_000;
            self.at_us += self.rng.u64(..2 * timeout_us);
            self.note("clock jumps", format_args!("to {} us", self.at_us));
            // Workers wake and catch up before the clock can jump again.
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        } else {
            self.wall_step_us += self.rng.i64(-400_000_000..400_000_000);
            self.note("wall clock steps", format_args!("by {} us", self.wall_step_us));
        }
    }

    /// Sends one worker more requests than its queues and lists can hold, while the other workers are stalled.
    fn burst(&mut self) {
        let one = self.rng.usize(..self.workers.len());
        let requests = pick(&mut self.rng, &[1_500, 3_000, 9_000]);
        self.note("bursts", format_args!("{requests} requests to worker {one}"));
        for worker in (0..self.workers.len()).filter(|worker| *worker != one) {
            self.workers[worker].stalled_until_us = self.at_us + 500_000;
        }
        self.workers[one].stalled_until_us = 0;
        for _ in 0..requests {
            let client = self.rng.usize(..self.clients.len());
            let ip = self.clients[client].source.ip();
            let mut request: ClientAnnounce =
                self.clients[client].announce(&self.plan, &self.swarms, &mut self.rng);
            request.info_hash.0[..4].copy_from_slice(&self.rng.u32(..).to_be_bytes());
            self.deliver_http(one, ip, HttpRequest::Announce { request, wants_ids: false });
        }
    }

    /// Changes the access lists. Each worker applies them when it reads its orders.
    fn change_access(&mut self) {
        let sources: Vec<IpAddr> = self.clients.iter().map(|client| client.source.ip()).collect();
        let started = self.started_unix_us / 1_000_000;
        let now_us = self.now().as_micros();
        self.rules = Rules::draw(&mut self.rng, started, now_us, &self.swarms, &CLIENT_PREFIXES, &sources);
        self.note("access list changes", format_args!("{:?}", self.rules));
        for worker in &mut self.workers {
            worker.orders.push_back(Order::Access(self.rules.clone()));
        }
    }

    fn begin_snapshot(&mut self) {
        if self.snapshot_began_unix_secs.is_some() {
            return;
        }
        self.snapshot_began_unix_secs = Some(self.unix_us() / 1_000_000);
        self.note("snapshots started", format_args!("at {} us", self.at_us));
        for (number, worker) in self.workers.iter_mut().enumerate() {
            worker.save = Some(SnapshotPart::begin(number, &self.check.borrow(), None));
        }
    }

    /// Writes a slice of a worker's snapshot. The last slice completes the snapshot.
    fn save_slice(&mut self, number: usize) {
        let unix_secs = self.unix_us() / 1_000_000;
        let worker = &mut self.workers[number];
        if let Some(save) = &mut worker.save {
            let (engine, check) = (worker.shared.engine.borrow(), self.check.borrow());
            save.slice(number, &engine, &check, self.plan.slice, unix_secs);
        }
        let are_done =
            self.workers.iter().all(|worker| worker.save.as_ref().is_some_and(SnapshotPart::is_done));
        if let Some(began_unix_secs) = self.snapshot_began_unix_secs.filter(|_| are_done) {
            let files = self.workers.iter_mut().filter_map(|worker| worker.save.take()).map(|save| save.file);
            self.snapshot = Some(Snapshot { files: files.collect(), began_unix_secs });
            self.snapshot_began_unix_secs = None;
            self.note("snapshots finished", format_args!("of {began_unix_secs}"));
        }
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum ProcessEnd {
    /// It finishes its requests and saves a snapshot.
    Stopped,
    /// It is killed. Only the last snapshot is left.
    Killed,
    /// Another process takes over its sockets, and gets the recent part of its tables later.
    TakenOver,
}

impl<M: TestMiddleware> World<M> {
    /// Ends the process and starts another one, perhaps with another number of workers.
    fn restart(&mut self) {
        let end = [ProcessEnd::Stopped, ProcessEnd::Killed, ProcessEnd::TakenOver][self.rng.usize(..3)];
        let kind = match end {
            ProcessEnd::Stopped => "restarts after a stop",
            ProcessEnd::Killed => "restarts after a kill",
            ProcessEnd::TakenOver => "restarts by a takeover",
        };
        self.note(kind, format_args!("at {} us", self.at_us));
        let mut late = None;
        match end {
            ProcessEnd::Killed => self.damage_snapshot(),
            ProcessEnd::Stopped => {
                self.finish_requests();
                self.snapshot = Some(self.save_all(None));
            }
            ProcessEnd::TakenOver => {
                self.finish_requests();
                let now = self.unix_us() / 1_000_000;
                let since = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.began_unix_secs);
                late = Some(self.save_all(Some(now.saturating_sub(since) as u32 + 60)));
            }
        }
        self.snapshot_began_unix_secs = None;
        self.start_process(late.as_ref());
    }

    fn start_process(&mut self, late: Option<&Snapshot>) {
        self.started_unix_us = self.unix_us();
        (self.wall_step_us, self.process_started_us) = (0, self.at_us);
        if self.rng.bool() {
            self.plan.workers = self.rng.usize(1..=6);
        }
        if !self.plan.keeps_secret {
            self.secret = self.rng.u128(..).to_be_bytes();
        }
        let owners = Owners::new(self.plan.workers, [self.rng.u32(..), self.rng.u32(..), self.rng.u32(..)]);
        let process = ProcessStart { started_unix_us: self.started_unix_us, owners, secret: self.secret };
        self.log_drop_counts();
        self.workers.clear(); // this also drops the requests that still wait
        let (log, issued) = {
            let mut check = self.check.borrow_mut();
            (check.log.clone(), std::mem::take(&mut check.issued))
        };
        let snapshot = self.snapshot.as_ref();
        let (check, workers) = Self::create_workers(&self.plan, &mut self.rng, &process, log, snapshot);
        (self.check, self.workers) = (check, workers);
        if self.plan.keeps_secret {
            self.check.borrow_mut().issued = issued;
        }
        self.rules = self.rules.of_process(process.started_unix_us / 1_000_000);
        for worker in &mut self.workers {
            worker.orders.push_back(Order::Access(self.rules.clone()));
        }
        for (owner, batch) in
            late.map_or(Vec::new(), |late| late.batches(self.started_unix_us / 1_000_000, &owners))
        {
            self.workers[owner].orders.push_back(Order::Load(batch));
        }
    }

    /// Adds the counters of requests without a reply to the log.
    fn log_drop_counts(&self) {
        for worker in &self.workers {
            let engine = worker.shared.engine.borrow();
            for (cause, counter) in DROPS.into_iter().chain(BAD).chain(LIMITED) {
                self.check.borrow().log.add(cause, engine.counters.get(counter));
            }
        }
    }

    /// Damages a file of the snapshot in a third of the calls.
    fn damage_snapshot(&mut self) {
        if let Some(snapshot) = self.snapshot.as_mut().filter(|_| self.rng.u8(..3) == 0) {
            let file = self.rng.usize(..snapshot.files.len());
            let file = &mut snapshot.files[file];
            match self.rng.bool() {
                true => file.truncate(self.rng.usize(..file.len())),
                false => {
                    let at = self.rng.usize(..file.len());
                    file[at] ^= 1 << self.rng.u8(..8);
                }
            }
        }
    }

    /// Saves all tables, or only the peers that announced in the last `max_age_secs`.
    fn save_all(&mut self, max_age_secs: Option<u32>) -> Snapshot {
        let unix_secs = self.unix_us() / 1_000_000;
        let save_one = |(number, worker): (usize, &Worker<M>)| {
            let (engine, check) = (worker.shared.engine.borrow(), self.check.borrow());
            let mut save = SnapshotPart::begin(number, &check, max_age_secs);
            while !save.slice(number, &engine, &check, self.plan.slice, unix_secs) {}
            save.file
        };
        let files = self.workers.iter().enumerate().map(save_one).collect();
        Snapshot { files, began_unix_secs: unix_secs }
    }

    /// Takes no new requests and lets the workers finish. Then no request may wait.
    pub(crate) fn finish_requests(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.stalled_until_us = 0);
        let deadline = self.at_us + (WAIT_DEADLINE_MS + 5_000) * 1_000;
        let mut idle = 0;
        for turn in 0.. {
            assert!(turn < MAX_TURNS_TO_FINISH, "requests do not finish");
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
            idle = if self.workers.iter().all(Worker::is_idle) { idle + 1 } else { 0 };
            if idle > 3 {
                break; // messages of the last turns and their answers have arrived
            }
            // Waits of the middleware are long, so time passes faster later.
            self.at_us +=
                if turn < 300 { 1_000 } else { 100_000 }.min(deadline.saturating_sub(self.at_us).max(1_000));
        }
        for worker in &self.workers {
            self.check.borrow().check_counters(worker.shared.me, &worker.shared.engine.borrow());
        }
        self.check.borrow().check_nothing_pending();
    }

    /// Finishes all requests and lets all peers expire.
    pub(crate) fn end(&mut self) {
        self.finish_requests();
        let timeout_us = u64::from(self.plan.policy.peer_timeout_secs) * 1_000_000;
        let tick_us = (timeout_us / 100).max(1_000_000);
        for step in [timeout_us / 2, timeout_us / 2 + 2 * tick_us] {
            self.at_us += step;
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        }
        for turn in 0.. {
            assert!(turn < MAX_TURNS_TO_FINISH, "peers do not expire");
            let is_empty = |table: &WorkerTable| table.swarms.values().all(|swarm| swarm.peers.is_empty());
            if self.check.borrow().oracle.tables.iter().all(is_empty) {
                break;
            }
            self.at_us += 3_000;
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        }
        self.at_us += 300_000;
        (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        self.log_drop_counts();
    }
}
