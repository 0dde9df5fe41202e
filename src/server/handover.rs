//! Owns the handover to a new tracker, on the side of the old one. The messages are in `passing`.
//!
//! A separate thread waits for the new tracker. It never blocks a worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam::channel::bounded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::control::Control;
use super::orders::Orders;
use super::passing::{Channel, Message, VERSION, Welcome, unexpected};
use super::state::StateDirectory;
use crate::limits::{
    CONTROL_INTERVAL_MS, HANDOVER_ANSWER_MS, HANDOVER_DESCRIPTORS, HANDOVER_HELLO_MS, HANDOVER_PREPARE_S,
    HANDOVER_TABLES_S, TICKS_PER_TIMEOUT,
};
use crate::owner::Owners;
use crate::time::{Clock, Timestamp};
use crate::worker::{LateSnapshot, Order, Shutdown};

const ANSWER: Duration = Duration::from_millis(HANDOVER_ANSWER_MS);
const TABLES: Duration = Duration::from_secs(HANDOVER_TABLES_S);

/// The workers of a tracker, with the means to control them.
#[derive(Clone)]
pub(super) struct WorkerGroup {
    pub(super) orders: Orders,
    pub(super) shutdown: Arc<Shutdown>,
}

impl WorkerGroup {
    /// Tells all workers to end.
    pub(super) fn stop(&self) {
        self.shutdown.stop();
        self.orders.wake();
    }

    /// Returns copies of the descriptors of all sockets, worker by worker.
    fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let (mut waiting, mut sockets) = (Vec::new(), Vec::new());
        self.orders.send_all(|| {
            let (to, from) = bounded(1);
            waiting.push(from);
            Order::Sockets(to)
        });
        for from in waiting {
            sockets
                .extend(from.recv_timeout(ANSWER).map_err(|_| io::Error::other("a worker doesn't answer"))??);
        }
        Ok(sockets)
    }
}

/// What is needed to hand over a tracker.
pub(super) struct Handover {
    pub(super) listener: Socket,
    pub(super) state: Weak<StateDirectory>,
    pub(super) control: Arc<Control>,
    pub(super) owners: Owners,
    /// The workers of the tracker, and of those that are handed over with it.
    pub(super) groups: Arc<Mutex<Vec<WorkerGroup>>>,
    pub(super) clock: Clock,
    /// When the clock was started, on the time scale of the connection ids.
    pub(super) started_unix: Duration,
    pub(super) peer_timeout_secs: u32,
}

impl Handover {
    /// Starts a thread that waits for a new tracker, until this one has ended or was handed over.
    pub(super) fn spawn(self) -> io::Result<()> {
        thread::Builder::new().name("gyre-handover".into()).spawn(move || self.wait()).map(drop)
    }

    fn wait(self) {
        let pause = Timespec { tv_sec: 0, tv_nsec: CONTROL_INTERVAL_MS.min(999) as i64 * 1_000_000 };
        while self.state.strong_count() > 0 {
            let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
            if !poll(&mut listener, Some(&pause)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            let Ok(channel) = Channel::accept(&self.listener) else { continue };
            match self.welcome(&channel) {
                Ok(process) => match self.hand_over(&channel, process) {
                    Ok(()) => return,
                    Err(error) => {
                        self.control.resume_snapshots();
                        tracing::warn!(
                            "process {process} failed to take over: {error}; this process keeps serving"
                        );
                    }
                },
                Err(error) => {
                    let _ = channel.send(&Message::Refused { reason: error.to_string() }, &[]);
                    tracing::warn!("refused a request to take over: {error}");
                }
            }
        }
    }

    /// Checks that the peer may take over, and sends it the sockets. Returns its process id.
    fn welcome(&self, channel: &Channel) -> io::Result<i32> {
        let (process, may) = channel.peer()?;
        if !may {
            return Err(io::Error::other("only root and the user of this tracker may take over"));
        }
        match channel.receive(Duration::from_millis(HANDOVER_HELLO_MS))?.0 {
            Message::Hello { version: VERSION } => {}
            Message::Hello { version } => {
                return Err(io::Error::other(format!(
                    "the handover protocol has version {version} instead of {VERSION}"
                )));
            }
            other => return Err(unexpected(&other)),
        }
        let state = self.state.upgrade().ok_or_else(|| io::Error::other("this tracker is about to end"))?;
        let (lock, groups) = (state.lock()?, self.groups());
        drop(state);
        let sockets: io::Result<Vec<_>> = groups.iter().map(WorkerGroup::sockets).collect();
        let sockets = sockets?.into_iter().flatten();
        let descriptors: Vec<_> =
            [lock.into(), self.listener.try_clone()?.into()].into_iter().chain(sockets).collect();
        let now = self.started_unix + self.clock.now().since(Timestamp::default());
        let welcome = Welcome {
            workers: self.owners.workers(),
            owner_key: self.owners.key(),
            unix_micros: now.as_micros() as u64,
            descriptors: descriptors.len(),
        };
        channel.send(&Message::Welcome(welcome), &[])?;
        for part in descriptors.chunks(HANDOVER_DESCRIPTORS) {
            let part: Vec<BorrowedFd<'_>> = part.iter().map(AsFd::as_fd).collect();
            channel.send(&Message::Descriptors, &part)?;
        }
        Ok(process)
    }

    /// Performs the handover, step by step with the new tracker.
    fn hand_over(&self, channel: &Channel, process: i32) -> io::Result<()> {
        expect(channel, Duration::from_secs(HANDOVER_PREPARE_S), &Message::Save)?;
        let began = self.clock.now();
        self.control.pause_snapshots();
        let saved = self.control.save(TABLES);
        if let Err(error) = saved {
            let _ = channel.send(&Message::Refused { reason: error.to_string() }, &[]);
            return Err(error);
        }
        channel.send(&Message::Saved, &[])?;
        expect(channel, TABLES, &Message::Serving)?;
        // From here on there is no way back, because the new tracker serves.
        tracing::info!("process {process} has taken over; this process ends");
        self.control.stop_snapshots();
        let young_secs = self.clock.now().since(began).as_secs() as u32
            + self.peer_timeout_secs.div_ceil(u32::from(TICKS_PER_TIMEOUT))
            + 2;
        if let Err(error) = self.write_late(young_secs) {
            tracing::error!("can't pass changes since the last snapshot to the new process: {error}");
        }
        Ok(())
    }

    /// Ends the workers, and writes the changes that are not in the snapshot.
    fn write_late(&self, young_secs: u32) -> io::Result<()> {
        let (groups, workers) = (self.groups(), self.owners.workers());
        let (done, written) = bounded(workers);
        let gone = || io::Error::other("the tracker has ended");
        let files = self.state.upgrade().ok_or_else(gone).and_then(|state| state.begin_late(workers));
        let given = files.map(|files| {
            let mut files = files.into_iter();
            groups[0].orders.send_all(|| {
                let file = files.next().expect("a file for each worker");
                Order::SaveLate(LateSnapshot { file, young_secs, done: done.clone() })
            });
        });
        drop(done);
        groups.iter().for_each(WorkerGroup::stop);
        given?;
        for _ in 0..workers {
            written.recv_timeout(TABLES).map_err(|_| io::Error::other("a worker did not end in time"))??;
        }
        Ok(())
    }

    fn groups(&self) -> Vec<WorkerGroup> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn expect(channel: &Channel, within: Duration, expected: &Message) -> io::Result<()> {
    let (message, _) = channel.receive(within)?;
    if message == *expected { Ok(()) } else { Err(unexpected(&message)) }
}
