//! Owns the way to a tracker that runs for whoever looks at it from outside: what it has counted, what its swarms hold,
//! its lists.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::control::{Control, Orders, Status};
use super::lists::{ListChange, ListChangeError};
use crate::access::ListName;
use crate::counters::{Counters, Published, Turns};
use crate::engine::Engine;
use crate::engine::clients::CLIENT_BYTES;
use crate::limits::SURVEY_SLICES;
use crate::owner::Owners;
use crate::swarm::PeerInfo;
use crate::time::{Clock, Timestamp};
use crate::types::{InfoHash, SwarmCounts, WorkerId};
use crate::worker::{Order, Slice};

/// A way to a tracker that runs, for any thread and any runtime; a copy is the same way. Workers answer between two
/// requests, and never wait for who asks. What they count they publish four times a second.
///
/// ```
/// # use gyre::config::{Config, Cores, Listen};
/// # fn main() -> Result<(), gyre::error::ServerError> {
/// # let config = Config {
/// #     udp: Listen::At(vec!["127.0.0.1:0".parse().unwrap()]),
/// #     http: Listen::At(Vec::new()),
/// #     cores: Cores::Floating(1),
/// #     ..Config::default()
/// # };
/// let tracker = gyre::Tracker::builder().config(config).listen()?;
/// let handle = tracker.handle();
/// std::thread::spawn(move || {
///     for worker in handle.workers() {
///         println!("core {:?}: {} us of CPU time", worker.core, worker.turns.sum_us());
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    pub(super) workers: Arc<[(Option<usize>, Arc<Published>)]>,
    pub(super) orders: Orders,
    pub(super) owners: Owners,
    pub(super) control: Arc<Control>,
    pub(super) clock: Clock,
}

/// A worker, as it was a moment ago.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// The core that it is bound to, if it is.
    pub core: Option<usize>,
    /// What it has counted.
    pub counters: Counters,
    /// How long its turns took.
    pub turns: Turns,
}

/// A swarm, as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmState {
    /// Whose it is.
    pub worker: WorkerId,
    /// How many peers it has.
    pub counts: SwarmCounts,
    /// Some of them.
    pub peers: Vec<PeerInfo>,
}

/// The tracker is stopping, or a worker has too many questions before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker is too busy to answer, or is stopping")]
pub struct Busy;

impl Handle {
    /// Its workers, with what they have counted.
    pub fn workers(&self) -> Vec<WorkerState> {
        let state = |(core, published): &(Option<usize>, Arc<Published>)| WorkerState {
            core: *core,
            counters: published.read(),
            turns: published.read_turns(),
        };
        self.workers.iter().map(state).collect()
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.clock.now().since(Timestamp::default())
    }

    /// A swarm, with some of its peers. One that isn't there has none.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn swarm(&self, info_hash: InfoHash, peers: usize) -> Result<SwarmState, Busy> {
        let worker = self.owners.of(&info_hash);
        let (counts, peers) = self.ask(worker, move |engine| engine.look_at(&info_hash, peers)).await?;
        Ok(SwarmState { worker, counts, peers })
    }

    /// Which clients announced lately: the first bytes of their peer ids, each with how often it was met in a sample.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn clients(&self) -> Result<Vec<([u8; CLIENT_BYTES], u32)>, Busy> {
        let mut met = Vec::new();
        for worker in 0..self.workers.len() {
            let worker = WorkerId(worker as u16);
            met.extend(self.ask(worker, |engine| engine.clients().met().collect::<Vec<_>>()).await?);
        }
        Ok(met)
    }

    /// All swarms with their counts, one worker's after the other's, in slices. It takes a worker some milliseconds for
    /// each ten thousand of them, with its turns in between; dropped, it ends. What changes meanwhile may be seen or
    /// not.
    pub fn survey(&self) -> Survey {
        Survey { handle: self.clone(), worker: 0, slices: None }
    }

    /// How its lists and snapshots stand.
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// Where its own lists are kept, if it keeps a state: the file of a [`ListChange::Replace`] is made there.
    pub fn own_lists(&self) -> Option<&Path> {
        self.control.own_lists()
    }

    /// Changes one of its own lists. It is in force with all workers within a second.
    ///
    /// # Errors
    ///
    /// [`ListChangeError`]; the list stays as it was.
    pub async fn change_list(&self, name: ListName, change: ListChange) -> Result<(), ListChangeError> {
        let (done, result) = oneshot::channel();
        let busy = || std::io::Error::other(Busy);
        self.control.change_list(name, change, done).map_err(|Busy| busy())?;
        result.await.map_err(|_| busy())?
    }

    async fn ask<T: Send + 'static>(
        &self,
        worker: WorkerId,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let (answer, answered) = oneshot::channel();
        let ask = move |engine: &Engine| drop(answer.send(question(engine)));
        self.orders.try_give(worker, Order::Ask(Box::new(ask)))?;
        answered.await.map_err(|_| Busy)
    }
}

/// A walk over all swarms; see [`Handle::survey`].
pub struct Survey {
    handle: Handle,
    /// The next one that is asked.
    worker: usize,
    slices: Option<mpsc::Receiver<Slice>>,
}

impl Survey {
    /// The next swarms; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn next(&mut self) -> Result<Option<Slice>, Busy> {
        loop {
            if let Some(slices) = &mut self.slices
                && let Some(slice) = slices.recv().await
            {
                return Ok(Some(slice));
            }
            if self.worker == self.handle.workers.len() {
                return Ok(None);
            }
            let (listener, slices) = mpsc::channel(SURVEY_SLICES);
            let worker = WorkerId(self.worker as u16);
            self.handle.orders.try_give(worker, Order::Survey(listener))?;
            self.slices = Some(slices);
            self.worker += 1;
        }
    }
}
