//! Owns a simulated tracker with its clients and its network: the clock, what happens next, and what goes wrong.

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
use crate::client::{Client, NAMES, some_swarm};
use crate::log::Log;
use crate::network::{Network, Packet, happens};
use crate::oracle::Part;
use crate::plan::{Plan, Steering, one as one_of};
use crate::rules::Rules;
use crate::saving::{Save, Snapshot};
use crate::tasks::Asking;
use crate::verdict::{After, Pause, ScriptedBy, Verdict};
use crate::worker::{Datagram as Arrived, Order, Worker};

/// Time of day at which the first process starts.
const FIRST_DAY_US: u64 = 1_800_000_077_250_000;
/// Workers sleep for no longer.
const HOUSEKEEPING_US: u64 = HOUSEKEEPING_INTERVAL_MS * 1_000;
/// Turns of a worker that wakes, at most: slices of the sweep that it has slept through.
const TURNS_TO_CATCH_UP: u64 = SWEEP_SLICES_PER_SECOND * HOUSEKEEPING_INTERVAL_MS / 1_000;
/// Turns that a tracker gets to come to rest.
const TURNS_TO_REST: u32 = 20_000;

/// A tracker, and everything around it.
pub(crate) struct World<M: ScriptedBy> {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    /// Microseconds since the world began.
    at_us: u64,
    /// When the workers wake next, whatever comes.
    next_wake_us: u64,
    /// When the process was started, in the world's time and in that of day.
    began_us: u64,
    started_unix_us: u64,
    /// Steps of the time of day since then.
    wall_step_us: i64,
    pub(crate) check: Rc<RefCell<Check>>,
    pub(crate) workers: Vec<Worker<M>>,
    network: Network,
    clients: Vec<Client>,
    swarms: Vec<InfoHash>,
    rules: Rules,
    secret: [u8; 16],
    /// When the snapshot was begun that is being written.
    saving_since: Option<u64>,
    pub(crate) snapshot: Option<Snapshot>,
}

/// Wakes no worker: here workers wake when the world decides.
struct Silent;

impl Bell for Silent {
    fn ring(&self) {}
}

/// What a process starts with.
struct ProcessStart {
    started_unix_us: u64,
    owners: Owners,
    secret: [u8; 16],
}

impl<M: ScriptedBy> World<M> {
    pub(crate) fn new(plan: Plan, mut rng: Rng, log: &Log) -> Self {
        let clients = (0..plan.clients).map(Client::new).collect();
        let swarms = (0..plan.swarms).map(|_| InfoHash(std::array::from_fn(|_| rng.u8(..)))).collect();
        let secret = rng.u128(..).to_be_bytes();
        let owners = Owners::new(plan.workers, [rng.u32(..), rng.u32(..), rng.u32(..)]);
        let start = ProcessStart { started_unix_us: FIRST_DAY_US, owners, secret };
        let (check, workers) = Self::start(&plan, &mut rng, &start, log.clone(), None);
        Self {
            network: Network::new(plan.network),
            plan,
            rng,
            at_us: 0,
            next_wake_us: HOUSEKEEPING_US,
            began_us: 0,
            started_unix_us: start.started_unix_us,
            wall_step_us: 0,
            check,
            workers,
            clients,
            swarms,
            rules: Rules::default(),
            secret,
            saving_since: None,
            snapshot: None,
        }
    }

    /// Starts a process, perhaps with what another one has left.
    fn start(
        plan: &Plan,
        rng: &mut Rng,
        start: &ProcessStart,
        log: Log,
        snapshot: Option<&Snapshot>,
    ) -> (Rc<RefCell<Check>>, Vec<Worker<M>>) {
        let ProcessStart { started_unix_us, owners, secret } = start;
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
        let doorbells: Vec<_> = engines.iter().map(|_| Arc::new(Silent)).collect();
        let check = Rc::new(RefCell::new(check));
        let ends = engines.into_iter().zip(Mesh::connect(&doorbells)).enumerate();
        let workers = ends.map(|(me, (engine, mesh))| Worker::new(me, engine, mesh, check.clone())).collect();
        (check, workers)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.at_us - self.began_us)
    }

    fn unix_us(&self) -> u64 {
        (self.started_unix_us + self.at_us - self.began_us).saturating_add_signed(self.wall_step_us)
    }

    fn note(&self, kind: &'static str, what: std::fmt::Arguments<'_>) {
        self.check.borrow().log.note(kind, what);
    }

    /// Lets the world go on for a step.
    pub(crate) fn step(&mut self) {
        self.pass();
        self.deliver();
        match self.rng.u8(..10) {
            0..4 => {
                let worker = self.rng.usize(..self.workers.len());
                self.turn(worker, false);
            }
            _ if happens(&mut self.rng, self.plan.http) => self.ask_by_http(),
            _ => self.send(),
        }
        let faults = self.plan.faults;
        if happens(&mut self.rng, faults.stall) {
            let worker = self.rng.usize(..self.workers.len());
            let until = self.at_us + self.rng.u64(..40 * (self.plan.step_us + 20_000));
            self.workers[worker].stalled_until_us = until;
            self.note("stalls", format_args!("worker {worker} until {until}"));
        }
        if happens(&mut self.rng, faults.jump) {
            self.jump();
        }
        if happens(&mut self.rng, faults.burst) {
            self.burst();
        }
        if happens(&mut self.rng, faults.access) {
            self.change_rules();
        }
        if happens(&mut self.rng, faults.snapshot) {
            self.begin_snapshot();
        }
        if happens(&mut self.rng, faults.restart) {
            self.restart();
        }
    }

    /// Time passes. However little there is to do, workers wake now and then, and go on until they have caught up.
    fn pass(&mut self) {
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

    /// What has arrived goes to sockets and clients.
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
            Datagram::Announce { wish, .. } => Some(wish.info_hash),
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
            return self.check.borrow().log.add("lost in a full socket", 1);
        }
        let socket = self.rng.u8(..2);
        let local = (socket == 1).then(|| IpAddr::from([192, 0, 2, self.rng.u8(..)]));
        let from = Endpoint { source: from, local, socket };
        let verdict = self.verdict();
        self.workers[worker].socket.push_back(Arrived { from, bytes, verdict });
    }

    /// What the middleware will think of a request.
    fn verdict(&mut self) -> Option<Verdict> {
        let looks = [0, 1, 3, 30, u8::MAX][self.rng.usize(..5)];
        let then = [After::Pass, After::Pass, After::Stop, After::Refuse][self.rng.usize(..4)];
        let verdict = match self.rng.u8(..10) {
            0..6 => Verdict::Pass,
            6 => Verdict::Stop,
            7 => Verdict::Refuse,
            _ => Verdict::Wait(Pause { looks, then }),
        };
        self.plan.with_middleware.then_some(verdict)
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

    fn ask_by_http(&mut self) {
        let worker = self.rng.usize(..self.workers.len());
        let client = &self.clients[self.rng.usize(..self.clients.len())];
        let asking = match happens(&mut self.rng, self.plan.scrapes) {
            true => {
                let most = one_of(&mut self.rng, &[1, 5, 74]);
                let swarms = self.rng.usize(1..=most);
                Asking::Scrape(
                    (0..swarms).map(|_| some_swarm(&self.plan, &self.swarms, &mut self.rng)).collect(),
                )
            }
            false => {
                let wish = client.wish(&self.plan, &self.swarms, &mut self.rng);
                Asking::Announce { wish, wants_ids: self.rng.u8(..6) == 0 }
            }
        };
        let ip = client.source.ip();
        self.note("requests by HTTP", format_args!("worker {worker}: {ip} {asking:?}"));
        self.ask(worker, ip, asking);
    }

    /// A request by HTTP reaches a worker; one that is stalled takes it later, as the kernel keeps it.
    fn ask(&mut self, worker: usize, ip: IpAddr, asking: Asking) {
        if self.workers[worker].stalled_until_us > self.at_us {
            return self.check.borrow().log.add("no worker for a connection", 1);
        }
        let (now, verdict) = (self.now(), self.verdict());
        self.workers[worker].ask(now, ip, asking, verdict);
    }

    /// Time leaps, as it does for a machine that was asleep, or the time of day is set.
    fn jump(&mut self) {
        if self.rng.bool() {
            let timeout_us = u64::from(self.plan.policy.peer_timeout_secs) * 1_000_000;
            self.at_us += self.rng.u64(..2 * timeout_us);
            self.note("leaps of the clock", format_args!("to {} us", self.at_us));
            // Sleeping workers wake and catch up before the next leap.
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        } else {
            self.wall_step_us += self.rng.i64(-400_000_000..400_000_000);
            self.note("steps of the time of day", format_args!("by {} us", self.wall_step_us));
        }
    }

    /// More than a queue or a list has room for, all at once, to workers that stand still.
    fn burst(&mut self) {
        let one = self.rng.usize(..self.workers.len());
        let asks = one_of(&mut self.rng, &[1_500, 3_000, 9_000]);
        self.note("bursts", format_args!("{asks} requests to worker {one}"));
        for worker in (0..self.workers.len()).filter(|worker| *worker != one) {
            self.workers[worker].stalled_until_us = self.at_us + 500_000;
        }
        self.workers[one].stalled_until_us = 0;
        for _ in 0..asks {
            let client = self.rng.usize(..self.clients.len());
            let ip = self.clients[client].source.ip();
            let mut wish: ClientAnnounce = self.clients[client].wish(&self.plan, &self.swarms, &mut self.rng);
            wish.info_hash.0[..4].copy_from_slice(&self.rng.u32(..).to_be_bytes());
            self.ask(one, ip, Asking::Announce { wish, wants_ids: false });
        }
    }

    /// Other lists, of which each worker learns when it comes to it.
    fn change_rules(&mut self) {
        let sources: Vec<IpAddr> = self.clients.iter().map(|client| client.source.ip()).collect();
        let started = self.started_unix_us / 1_000_000;
        let now_us = self.now().as_micros();
        self.rules = Rules::draw(&mut self.rng, started, now_us, &self.swarms, &NAMES, &sources);
        self.note("changes of lists", format_args!("{:?}", self.rules));
        for worker in &mut self.workers {
            worker.orders.push_back(Order::Access(self.rules.clone()));
        }
    }

    fn begin_snapshot(&mut self) {
        if self.saving_since.is_some() {
            return;
        }
        self.saving_since = Some(self.unix_us() / 1_000_000);
        self.note("snapshots begun", format_args!("at {} us", self.at_us));
        for (number, worker) in self.workers.iter_mut().enumerate() {
            worker.save = Some(Save::begin(number, &self.check.borrow(), None));
        }
    }

    /// Writes a slice of what a worker saves; the last one makes the snapshot.
    fn save_slice(&mut self, number: usize) {
        let unix_secs = self.unix_us() / 1_000_000;
        let worker = &mut self.workers[number];
        if let Some(save) = &mut worker.save {
            let (engine, check) = (worker.shared.engine.borrow(), self.check.borrow());
            save.slice(number, &engine, &check, self.plan.slice, unix_secs);
        }
        let are_done = self.workers.iter().all(|worker| worker.save.as_ref().is_some_and(Save::is_done));
        if let Some(began_unix_secs) = self.saving_since.filter(|_| are_done) {
            let files = self.workers.iter_mut().filter_map(|worker| worker.save.take()).map(|save| save.file);
            self.snapshot = Some(Snapshot { files: files.collect(), began_unix_secs });
            self.saving_since = None;
            self.note("snapshots made", format_args!("of {began_unix_secs}"));
        }
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It has finished, and left everything.
    Stopped,
    /// It is dead; the last snapshot is left.
    Killed,
    /// Another took its sockets over while it finished, and gets what it knows of late.
    TakenOver,
}

impl<M: ScriptedBy> World<M> {
    /// The process ends, and another one begins, with another number of workers.
    fn restart(&mut self) {
        let end = [End::Stopped, End::Killed, End::TakenOver][self.rng.usize(..3)];
        let kind = match end {
            End::Stopped => "restarts after a stop",
            End::Killed => "restarts after a kill",
            End::TakenOver => "restarts by a take-over",
        };
        self.note(kind, format_args!("at {} us", self.at_us));
        let mut late = None;
        match end {
            End::Killed => self.spoil(),
            End::Stopped => {
                self.rest();
                self.snapshot = Some(self.save_all(None));
            }
            End::TakenOver => {
                self.rest();
                let now = self.unix_us() / 1_000_000;
                let since = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.began_unix_secs);
                late = Some(self.save_all(Some(now.saturating_sub(since) as u32 + 60)));
            }
        }
        self.saving_since = None;
        self.begin(late.as_ref());
    }

    fn begin(&mut self, late: Option<&Snapshot>) {
        self.started_unix_us = self.unix_us();
        (self.wall_step_us, self.began_us) = (0, self.at_us);
        if self.rng.bool() {
            self.plan.workers = self.rng.usize(1..=6);
        }
        if !self.plan.keeps_secret {
            self.secret = self.rng.u128(..).to_be_bytes();
        }
        let owners = Owners::new(self.plan.workers, [self.rng.u32(..), self.rng.u32(..), self.rng.u32(..)]);
        let start = ProcessStart { started_unix_us: self.started_unix_us, owners, secret: self.secret };
        self.tally();
        self.workers.clear(); // their waiting tasks are dropped
        let (log, issued) = {
            let mut check = self.check.borrow_mut();
            (check.log.clone(), std::mem::take(&mut check.issued))
        };
        let snapshot = self.snapshot.as_ref();
        let (check, workers) = Self::start(&self.plan, &mut self.rng, &start, log, snapshot);
        (self.check, self.workers) = (check, workers);
        if self.plan.keeps_secret {
            self.check.borrow_mut().issued = issued;
        }
        self.rules = self.rules.of_process(start.started_unix_us / 1_000_000);
        for worker in &mut self.workers {
            worker.orders.push_back(Order::Access(self.rules.clone()));
        }
        for (owner, hand) in
            late.map_or(Vec::new(), |late| late.hands(self.started_unix_us / 1_000_000, &owners))
        {
            self.workers[owner].orders.push_back(Order::Load(hand));
        }
    }

    /// Notes what a process has counted of what it did not answer.
    fn tally(&self) {
        for worker in &self.workers {
            let engine = worker.shared.engine.borrow();
            for (cause, counter) in DROPS.into_iter().chain(BAD).chain(LIMITED) {
                self.check.borrow().log.add(cause, engine.counters.get(counter));
            }
        }
    }

    /// Some of a file is not what was written.
    fn spoil(&mut self) {
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

    /// All tables as they stand, or what is young of them.
    fn save_all(&mut self, young_secs: Option<u32>) -> Snapshot {
        let unix_secs = self.unix_us() / 1_000_000;
        let save_one = |(number, worker): (usize, &Worker<M>)| {
            let (engine, check) = (worker.shared.engine.borrow(), self.check.borrow());
            let mut save = Save::begin(number, &check, young_secs);
            while !save.slice(number, &engine, &check, self.plan.slice, unix_secs) {}
            save.file
        };
        let files = self.workers.iter().enumerate().map(save_one).collect();
        Snapshot { files, began_unix_secs: unix_secs }
    }

    /// Takes no more requests, and lets the workers finish. No request may be left waiting.
    pub(crate) fn rest(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.stalled_until_us = 0);
        let deadline = self.at_us + (WAIT_DEADLINE_MS + 5_000) * 1_000;
        let mut idle = 0;
        for turn in 0.. {
            assert!(turn < TURNS_TO_REST, "the workers do not come to rest");
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
            idle = if self.workers.iter().all(Worker::is_idle) { idle + 1 } else { 0 };
            if idle > 3 {
                break; // what the last turns have posted has come, too, and its answers
            }
            // Those who wait for the middleware wait for long.
            self.at_us +=
                if turn < 300 { 1_000 } else { 100_000 }.min(deadline.saturating_sub(self.at_us).max(1_000));
        }
        for worker in &self.workers {
            self.check.borrow().check_counters(worker.shared.me, &worker.shared.engine.borrow());
        }
        self.check.borrow().check_quiet();
    }

    /// Comes to rest, and then lets all peers expire: no peer may be left.
    pub(crate) fn end(&mut self) {
        self.rest();
        let timeout_us = u64::from(self.plan.policy.peer_timeout_secs) * 1_000_000;
        let tick_us = (timeout_us / 100).max(1_000_000);
        for step in [timeout_us / 2, timeout_us / 2 + 2 * tick_us] {
            self.at_us += step;
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        }
        for turn in 0.. {
            assert!(turn < TURNS_TO_REST, "some have outlived their time");
            let is_empty = |part: &Part| part.swarms.values().all(|swarm| swarm.peers.is_empty());
            if self.check.borrow().oracle.parts.iter().all(is_empty) {
                break;
            }
            self.at_us += 3_000;
            (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        }
        self.at_us += 300_000;
        (0..self.workers.len()).for_each(|worker| self.turn(worker, true));
        self.tally();
    }
}
