//! Owns the control thread, which reloads changed lists and writes snapshots when they are due.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, never, select};
use tokio::sync::oneshot;

use super::lists::{KnownList, ListChange, ListChangeError, ListFiles};
use super::orders::{Busy, Orders};
use super::state::StateDirectory;
use crate::access::{Access, ListName};
use crate::engine;
use crate::limits::{CONTROL_COMMANDS, CONTROL_INTERVAL_MS, SNAPSHOT_DEADLINE_S};
use crate::time::{Clock, Timestamp, unix_secs};
use crate::worker::{Order, Written};

/// A command to the control thread.
enum Command {
    /// Use these lists, which have been read already.
    Lists(Box<ListFiles>),
    /// Change one of the tracker's own lists, and send the result.
    Change(ListName, ListChange, oneshot::Sender<Result<(), ListChangeError>>),
    /// Write a snapshot now, and send the result.
    Save(Sender<io::Result<()>>),
    /// Write snapshots at this interval. Zero: only on request.
    Interval(Duration),
    /// Write snapshots only on request.
    Pause,
    /// Write snapshots at the interval again, starting now.
    Resume,
    /// Write no more snapshots: the directory now belongs to another tracker.
    Stop,
}

/// State of the lists and snapshots.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The lists.
    pub lists: Vec<KnownList>,
    /// The last snapshot written since the start, if any.
    pub snapshot: Option<WrittenSnapshot>,
    /// Number of snapshots since the start that could not be written.
    pub failed_snapshots: u64,
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WrittenSnapshot {
    /// Time of the snapshot in seconds since 1970.
    pub unix_secs: u64,
    /// Time taken to write it.
    pub took: Duration,
    /// Size in bytes.
    pub bytes: u64,
    /// Longest time that requests waited for a slice of it.
    pub longest_slice: Duration,
}

/// The control thread. It ends when this is dropped.
pub(super) struct Control {
    commands: Sender<Command>,
    status: Arc<Mutex<Status>>,
    own_lists: Option<PathBuf>,
}

/// What the control thread works with.
pub(super) struct ControlSetup {
    /// The lists, and the version that the workers already have.
    pub(super) lists: ListFiles,
    pub(super) known: Arc<Access>,
    /// Directory of the tracker's own lists, if there is a state directory.
    pub(super) own_lists: Option<PathBuf>,
    /// The state directory, if there is one, and the interval between snapshots.
    pub(super) state: Option<StateDirectory>,
    pub(super) interval: Duration,
    /// Whether snapshots are paused, until the late changes of a predecessor are loaded.
    pub(super) paused: bool,
    pub(super) clock: Clock,
}

impl Control {
    /// Starts the thread. Also returns the state directory, which is unlocked when it is dropped.
    pub(super) fn start(
        name: &str,
        setup: ControlSetup,
        orders: Orders,
    ) -> io::Result<(Self, Option<Arc<StateDirectory>>)> {
        let (sender, commands) = bounded(CONTROL_COMMANDS);
        let due = setup.clock.now() + setup.interval;
        let state = setup.state.map(Arc::new);
        let status = Status { lists: setup.lists.known(), ..Status::default() };
        let status = Arc::new(Mutex::new(status));
        let control = ControlThread {
            commands,
            orders,
            status: status.clone(),
            sent: vec![setup.known.clone()],
            due,
            pending: None,
            waiting: Vec::new(),
            lists: setup.lists,
            state: state.as_ref().map(Arc::downgrade),
            interval: setup.interval,
            paused: setup.paused,
            clock: setup.clock,
        };
        thread::Builder::new().name(format!("{name}-control")).spawn(move || control.run())?;
        Ok((Self { commands: sender, status, own_lists: setup.own_lists }, state))
    }

    pub(super) fn set_lists(&self, lists: ListFiles) {
        self.send(Command::Lists(Box::new(lists)));
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn own_lists(&self) -> Option<&Path> {
        self.own_lists.as_deref()
    }

    /// Changes one of the tracker's own lists in the background. `done` gets the result.
    pub(super) fn change_list(
        &self,
        name: ListName,
        change: ListChange,
        done: oneshot::Sender<Result<(), ListChangeError>>,
    ) -> Result<(), Busy> {
        self.commands.try_send(Command::Change(name, change, done)).map_err(|_| Busy)
    }

    pub(super) fn set_interval(&self, interval: Duration) {
        self.send(Command::Interval(interval));
    }

    /// Writes a snapshot, if there is a state directory. Waits for at most `at_most`.
    pub(super) fn save(&self, at_most: Duration) -> io::Result<()> {
        let (done, result) = bounded(1);
        self.send(Command::Save(done));
        result.recv_timeout(at_most).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::from(io::ErrorKind::TimedOut),
            RecvTimeoutError::Disconnected => io::Error::other("the snapshot was abandoned"),
        })?
    }

    /// Writes snapshots only on request, until they are resumed.
    pub(super) fn pause_snapshots(&self) {
        self.send(Command::Pause);
    }

    pub(super) fn resume_snapshots(&self) {
        self.send(Command::Resume);
    }

    /// Writes no more snapshots.
    pub(super) fn stop_snapshots(&self) {
        self.send(Command::Stop);
    }

    fn send(&self, command: Command) {
        let _ = self.commands.send(command); // the thread runs as long as this exists
    }
}

struct ControlThread {
    commands: Receiver<Command>,
    orders: Orders,
    status: Arc<Mutex<Status>>,
    /// Lists that were sent to the workers. They are kept until no worker uses them, so that their memory is freed
    /// here.
    sent: Vec<Arc<Access>>,
    /// When to begin the next snapshot.
    due: Timestamp,
    pending: Option<PendingSnapshot>,
    /// Callers that wait for the next snapshot.
    waiting: Vec<Sender<io::Result<()>>>,
    lists: ListFiles,
    state: Option<Weak<StateDirectory>>,
    interval: Duration,
    paused: bool,
    clock: Clock,
}

/// A snapshot that is being written.
struct PendingSnapshot {
    results: Receiver<io::Result<Written>>,
    /// Number of workers that are still writing.
    left: usize,
    written: Written,
    started: Timestamp,
    /// Callers that wait for it.
    waiting: Vec<Sender<io::Result<()>>>,
}

impl ControlThread {
    fn run(mut self) {
        loop {
            let results = self.pending.as_ref().map_or_else(never, |pending| pending.results.clone());
            select! {
                recv(self.commands) -> command => match command {
                    Ok(command) => self.handle(command),
                    Err(_) => return,
                },
                recv(results) -> result => {
                    self.add_result(result.unwrap_or_else(|_| Err(io::Error::other("a worker has ended"))));
                }
                default(Duration::from_millis(CONTROL_INTERVAL_MS)) => {}
            }
            if self.lists.refresh() {
                self.send_access();
            }
            self.sent.retain(|access| Arc::strong_count(access) > 1);
            self.check_snapshots();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Lists(lists) => {
                self.lists = *lists;
                self.send_access();
            }
            Command::Change(name, change, done) => {
                let result = self.lists.change(name, &change);
                if result.is_ok() {
                    tracing::info!("the tracker's own list {name} was changed");
                    self.send_access();
                }
                let _ = done.send(result);
            }
            Command::Save(done) if self.state.is_none() => drop(done.send(Ok(()))),
            Command::Save(done) => {
                // A pending snapshot may have passed what has changed since. So the request waits for the next one.
                self.waiting.push(done);
                self.due = self.clock.now();
            }
            Command::Interval(interval) => {
                self.interval = interval;
                if self.waiting.is_empty() {
                    self.due = self.clock.now() + interval;
                }
            }
            Command::Pause => self.paused = true,
            Command::Resume => (self.paused, self.due) = (false, self.clock.now()),
            Command::Stop => self.state = None,
        }
    }

    fn send_access(&mut self) {
        let access = self.lists.access();
        self.orders.send_all(|| engine::Order::Access(access.clone()).into());
        self.sent.push(access);
        self.update(|status| status.lists = self.lists.known());
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Begins a snapshot that is due, and abandons one that takes too long.
    fn check_snapshots(&mut self) {
        let now = self.clock.now();
        match &self.pending {
            Some(pending) if now.since(pending.started) > Duration::from_secs(SNAPSHOT_DEADLINE_S) => {
                self.end(&Err(io::ErrorKind::TimedOut.into()));
            }
            Some(_) => {}
            None => {
                let wanted = !self.waiting.is_empty() || !(self.interval.is_zero() || self.paused);
                if wanted && now >= self.due && self.state.is_some() {
                    self.begin(now);
                }
            }
        }
    }

    /// Returns the state directory, unless the tracker has been dropped.
    fn state(&self) -> Option<Arc<StateDirectory>> {
        self.state.as_ref()?.upgrade()
    }

    fn begin(&mut self, now: Timestamp) {
        self.due = now + self.interval;
        let waiting = std::mem::take(&mut self.waiting);
        let workers = self.orders.workers();
        let Some(state) = self.state() else { return };
        match state.begin(workers) {
            Ok(files) => {
                let (done, results) = bounded(workers);
                let mut files = files.into_iter();
                let mut file = || -> File { files.next().expect("a file for each worker") };
                self.orders.send_all(|| Order::Save { file: file(), done: done.clone() });
                self.pending = Some(PendingSnapshot {
                    results,
                    left: workers,
                    written: Written::default(),
                    started: now,
                    waiting,
                });
            }
            Err(error) => self.report(&waiting, &Err(error)),
        }
    }

    /// Adds the result of one worker to the pending snapshot.
    fn add_result(&mut self, result: io::Result<Written>) {
        let Some(pending) = &mut self.pending else { return };
        match result {
            Ok(Written { bytes, longest_slice }) => {
                pending.written.bytes += bytes;
                pending.written.longest_slice = pending.written.longest_slice.max(longest_slice);
                pending.left -= 1;
                if pending.left == 0
                    && let Some(state) = self.state()
                {
                    self.end(&state.finish(!self.paused));
                }
            }
            Err(error) => self.end(&Err(error)),
        }
    }

    /// Ends the pending snapshot with this result.
    fn end(&mut self, result: &io::Result<()>) {
        let Some(PendingSnapshot { written, started, waiting, .. }) = self.pending.take() else { return };
        if result.is_ok() {
            let took = self.clock.now().since(started);
            let Written { bytes, longest_slice } = written;
            tracing::debug!("wrote a snapshot of {bytes} bytes in {:.1} s", took.as_secs_f64());
            let written = WrittenSnapshot { unix_secs: unix_secs(), took, bytes, longest_slice };
            self.update(|status| status.snapshot = Some(written));
        }
        self.report(&waiting, result);
    }

    /// Reports the result of a snapshot to the callers that wait for it.
    fn report(&self, waiting: &[Sender<io::Result<()>>], result: &io::Result<()>) {
        if let Err(error) = result {
            tracing::error!("can't write a snapshot: {error}; the last one is kept");
            self.state().iter().for_each(|state| state.abandon());
            self.update(|status| status.failed_snapshots += 1);
        }
        for caller in waiting {
            let copy = result.as_ref().copied().map_err(|error| io::Error::other(error.to_string()));
            let _ = caller.send(copy);
        }
    }
}
