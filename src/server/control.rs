//! Owns the thread that looks after what outlasts a turn of the workers: lists that change, snapshots that are due; and
//! the orders that the workers get.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};

use super::handle::Busy;
use super::lists::{KnownList, ListChange, ListChangeError, ListFiles};
use super::state::StateDirectory;
use tokio::sync::oneshot;

use crate::access::{Access, ListName};
use crate::engine;
use crate::limits::{CONTROL_COMMANDS, CONTROL_INTERVAL_MS, SNAPSHOT_DEADLINE_S, WORKER_ORDERS};
use crate::sys::Doorbell;
use crate::time::{Clock, Timestamp, unix_secs};
use crate::types::WorkerId;
use crate::worker::{Order, Written};

/// The ways to the workers: what is for each, and what wakes it.
#[derive(Clone)]
pub(super) struct Orders(Vec<(Sender<Order>, Arc<Doorbell>)>);

impl Orders {
    /// For the workers of these doorbells; each gets one of the receivers.
    pub(super) fn new(doorbells: &[Arc<Doorbell>]) -> (Self, Vec<Receiver<Order>>) {
        let way = |doorbell: &Arc<Doorbell>| {
            let (sender, receiver) = bounded(WORKER_ORDERS);
            ((sender, doorbell.clone()), receiver)
        };
        let (ways, receivers) = doorbells.iter().map(way).unzip();
        (Self(ways), receivers)
    }

    /// Gives each worker an order, waiting for one that has not looked at the last ones yet. A worker that has ended
    /// gets none.
    pub(super) fn give(&self, mut order: impl FnMut() -> Order) {
        for (worker, doorbell) in &self.0 {
            if worker.send(order()).is_ok() {
                doorbell.ring();
            }
        }
    }

    /// The same for one worker, by its number.
    pub(super) fn give_one(&self, worker: usize, order: Order) {
        let (worker, doorbell) = &self.0[worker];
        if worker.send(order).is_ok() {
            doorbell.ring();
        }
    }

    /// Wakes each worker.
    pub(super) fn wake(&self) {
        self.0.iter().for_each(|(_, doorbell)| doorbell.ring());
    }

    /// Gives one worker an order, without waiting.
    pub(super) fn try_give(&self, worker: WorkerId, order: Order) -> Result<(), Busy> {
        let (worker, doorbell) = &self.0[worker.index()];
        worker.try_send(order).map_err(|_| Busy)?;
        doorbell.ring();
        Ok(())
    }
}

/// What the thread is told.
enum Command {
    /// Other lists, which have been read.
    Lists(Box<ListFiles>),
    /// Change one of the tracker's own lists, and say how that ended.
    Change(ListName, ListChange, oneshot::Sender<Result<(), ListChangeError>>),
    /// Write a snapshot now, and say how it ended.
    Save(Sender<io::Result<()>>),
    /// Write snapshots at this interval; zero: only when told to.
    Interval(Duration),
    /// Write no snapshots but those that are asked for.
    Pause,
    /// Write snapshots again, and one now.
    Resume,
    /// Write none any more: the directory is another tracker's.
    Leave,
}

/// How lists and snapshots stand.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The lists.
    pub lists: Vec<KnownList>,
    /// The last snapshot that was written since the start, if any was.
    pub snapshot: Option<WrittenSnapshot>,
    /// Snapshots that could not be written since the start.
    pub failed_snapshots: u64,
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WrittenSnapshot {
    /// When, in seconds since 1970.
    pub unix_secs: u64,
    /// How long it took.
    pub took: Duration,
    /// How long it is.
    pub bytes: u64,
    /// For how long requests had to wait for a slice of it, at most.
    pub longest_slice: Duration,
}

/// The thread; it ends when this goes.
pub(super) struct Control {
    commands: Sender<Command>,
    status: Arc<Mutex<Status>>,
    own_lists: Option<PathBuf>,
}

/// What it looks after.
pub(super) struct Charge {
    /// The lists, and what of them the workers know already.
    pub(super) lists: ListFiles,
    pub(super) known: Arc<Access>,
    /// Where the tracker's own lists are kept, if they are.
    pub(super) own_lists: Option<PathBuf>,
    /// Where snapshots are kept, if they are, and how often one is written.
    pub(super) state: Option<StateDirectory>,
    pub(super) interval: Duration,
    /// None are written before all that there is is entered.
    pub(super) paused: bool,
    pub(super) clock: Clock,
}

impl Control {
    /// Also returns the state directory, which is free when that goes.
    pub(super) fn start(
        name: &str,
        charge: Charge,
        orders: Orders,
    ) -> io::Result<(Self, Option<Arc<StateDirectory>>)> {
        let (sender, commands) = bounded(CONTROL_COMMANDS);
        let due = charge.clock.now() + charge.interval;
        let state = charge.state.map(Arc::new);
        let status = Status { lists: charge.lists.known(), ..Status::default() };
        let status = Arc::new(Mutex::new(status));
        let watch = Watch {
            commands,
            orders,
            status: status.clone(),
            given: vec![charge.known.clone()],
            due,
            saving: None,
            asked: Vec::new(),
            lists: charge.lists,
            state: state.as_ref().map(Arc::downgrade),
            interval: charge.interval,
            paused: charge.paused,
            clock: charge.clock,
        };
        thread::Builder::new().name(format!("{name}-control")).spawn(move || watch.run())?;
        Ok((Self { commands: sender, status, own_lists: charge.own_lists }, state))
    }

    pub(super) fn set_lists(&self, lists: ListFiles) {
        self.tell(Command::Lists(Box::new(lists)));
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn own_lists(&self) -> Option<&Path> {
        self.own_lists.as_deref()
    }

    /// Has one of the tracker's own lists changed, without waiting for it.
    pub(super) fn change_list(
        &self,
        name: ListName,
        change: ListChange,
        done: oneshot::Sender<Result<(), ListChangeError>>,
    ) -> Result<(), Busy> {
        self.commands.try_send(Command::Change(name, change, done)).map_err(|_| Busy)
    }

    pub(super) fn set_interval(&self, interval: Duration) {
        self.tell(Command::Interval(interval));
    }

    /// Has a snapshot written, if they are kept at all.
    pub(super) fn save(&self, at_most: Duration) -> io::Result<()> {
        let (done, result) = bounded(1);
        self.tell(Command::Save(done));
        result.recv_timeout(at_most).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::from(io::ErrorKind::TimedOut),
            RecvTimeoutError::Disconnected => io::Error::other("it was given up"),
        })?
    }

    /// Has no snapshots written but those that are asked for, until they are resumed.
    pub(super) fn pause_snapshots(&self) {
        self.tell(Command::Pause);
    }

    pub(super) fn resume_snapshots(&self) {
        self.tell(Command::Resume);
    }

    /// Has no snapshots written ever again.
    pub(super) fn leave_snapshots(&self) {
        self.tell(Command::Leave);
    }

    fn tell(&self, command: Command) {
        let _ = self.commands.send(command); // the thread is there as long as this is
    }
}

struct Watch {
    commands: Receiver<Command>,
    orders: Orders,
    status: Arc<Mutex<Status>>,
    /// What the workers were given, until the last of them has given it up: so its memory is freed here.
    given: Vec<Arc<Access>>,
    /// When the next snapshot begins.
    due: Timestamp,
    saving: Option<Saving>,
    /// Who waits for the next snapshot.
    asked: Vec<Sender<io::Result<()>>>,
    lists: ListFiles,
    state: Option<Weak<StateDirectory>>,
    interval: Duration,
    paused: bool,
    clock: Clock,
}

/// A snapshot that is being written.
struct Saving {
    results: Receiver<io::Result<Written>>,
    /// Workers that still write.
    left: usize,
    written: Written,
    started: Timestamp,
    /// Who waits for it.
    asked: Vec<Sender<io::Result<()>>>,
}

impl Watch {
    fn run(mut self) {
        loop {
            let results = self.saving.as_ref().map_or_else(never, |saving| saving.results.clone());
            select! {
                recv(self.commands) -> command => match command {
                    Ok(command) => self.obey(command),
                    Err(_) => return,
                },
                recv(results) -> result => {
                    self.note(result.unwrap_or_else(|_| Err(io::Error::other("a worker has ended"))));
                }
                default(Duration::from_millis(CONTROL_INTERVAL_MS)) => {}
            }
            if self.lists.refresh() {
                self.give_access();
            }
            self.given.retain(|access| Arc::strong_count(access) > 1);
            self.look_after_snapshots();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Lists(lists) => {
                self.lists = *lists;
                self.give_access();
            }
            Command::Change(name, change, done) => {
                let result = self.lists.change(name, &change);
                if result.is_ok() {
                    tracing::info!("the tracker's own list {name} was changed");
                    self.give_access();
                }
                let _ = done.send(result);
            }
            Command::Save(done) if self.state.is_none() => drop(done.send(Ok(()))),
            Command::Save(done) => {
                // One that is being written may have passed what has changed since: the next is asked for.
                self.asked.push(done);
                self.due = self.clock.now();
            }
            Command::Interval(interval) => {
                self.interval = interval;
                if self.asked.is_empty() {
                    self.due = self.clock.now() + interval;
                }
            }
            Command::Pause => self.paused = true,
            Command::Resume => (self.paused, self.due) = (false, self.clock.now()),
            Command::Leave => self.state = None,
        }
    }

    fn give_access(&mut self) {
        let access = self.lists.access();
        self.orders.give(|| engine::Order::Access(access.clone()).into());
        self.given.push(access);
        self.update(|status| status.lists = self.lists.known());
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Begins a snapshot that is due, and gives one up that takes too long.
    fn look_after_snapshots(&mut self) {
        let now = self.clock.now();
        match &self.saving {
            Some(saving) if now.since(saving.started) > Duration::from_secs(SNAPSHOT_DEADLINE_S) => {
                self.end(&Err(io::ErrorKind::TimedOut.into()));
            }
            Some(_) => {}
            None => {
                let wanted = !self.asked.is_empty() || !(self.interval.is_zero() || self.paused);
                if wanted && now >= self.due && self.state.is_some() {
                    self.begin(now);
                }
            }
        }
    }

    /// The directory, unless the tracker has gone.
    fn state(&self) -> Option<Arc<StateDirectory>> {
        self.state.as_ref()?.upgrade()
    }

    fn begin(&mut self, now: Timestamp) {
        self.due = now + self.interval;
        let asked = std::mem::take(&mut self.asked);
        let workers = self.orders.0.len();
        let Some(state) = self.state() else { return };
        match state.begin(workers) {
            Ok(files) => {
                let (done, results) = bounded(workers);
                let mut files = files.into_iter();
                let mut file = || -> File { files.next().expect("a file for each worker") };
                self.orders.give(|| Order::Save { file: file(), done: done.clone() });
                self.saving =
                    Some(Saving { results, left: workers, written: Written::default(), started: now, asked });
            }
            Err(error) => self.tell(&asked, &Err(error)),
        }
    }

    /// A worker has written its part.
    fn note(&mut self, result: io::Result<Written>) {
        let Some(saving) = &mut self.saving else { return };
        match result {
            Ok(Written { bytes, longest_slice }) => {
                saving.written.bytes += bytes;
                saving.written.longest_slice = saving.written.longest_slice.max(longest_slice);
                saving.left -= 1;
                if saving.left == 0
                    && let Some(state) = self.state()
                {
                    self.end(&state.finish(!self.paused));
                }
            }
            Err(error) => self.end(&Err(error)),
        }
    }

    /// The snapshot that is being written has come to its end.
    fn end(&mut self, result: &io::Result<()>) {
        let Some(Saving { written, started, asked, .. }) = self.saving.take() else { return };
        if result.is_ok() {
            let took = self.clock.now().since(started);
            let Written { bytes, longest_slice } = written;
            tracing::debug!("a snapshot of {bytes} bytes was written in {:.1} s", took.as_secs_f64());
            let written = WrittenSnapshot { unix_secs: unix_secs(), took, bytes, longest_slice };
            self.update(|status| status.snapshot = Some(written));
        }
        self.tell(&asked, result);
    }

    /// Says how a snapshot ended.
    fn tell(&self, asked: &[Sender<io::Result<()>>], result: &io::Result<()>) {
        if let Err(error) = result {
            tracing::error!("the snapshot could not be written: {error}; the last one is still there");
            self.state().iter().for_each(|state| state.abandon());
            self.update(|status| status.failed_snapshots += 1);
        }
        for asked in asked {
            let copy = result.as_ref().copied().map_err(|error| io::Error::other(error.to_string()));
            let _ = asked.send(copy);
        }
    }
}
