//! Owns the handle to query a running tracker: its counters, swarms and lists.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::control::{Control, Status};
use super::lists::{ListChange, ListChangeError};
use super::orders::{Busy, Orders};
use crate::access::ListName;
use crate::counters::{Counters, Published, Turns};
use crate::engine;
use crate::engine::Engine;
use crate::engine::clients::CLIENT_BYTES;
use crate::limits::SURVEY_SLICES;
use crate::owner::Owners;
use crate::swarm::PeerInfo;
use crate::time::{Clock, Timestamp};
use crate::types::{InfoHash, SwarmCounts, WorkerId};
use crate::worker::{Order, Slice};

/// A handle to a running tracker, for any thread and any runtime. Clones refer to the same tracker. Workers answer
/// between two requests and never wait for the caller. They publish their counters four times a second.
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
///         println!("core {:?}: {} datagrams", worker.core, worker.turns.datagrams().sum());
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

/// State of a worker. It can be a quarter of a second old.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// The core that it is pinned to, if any.
    pub core: Option<usize>,
    /// Its counters.
    pub counters: Counters,
    /// The statistics of its turns.
    pub turns: Turns,
}

/// State of a swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmState {
    /// The worker that owns it.
    pub worker: WorkerId,
    /// Numbers of its seeders, leechers and downloads.
    pub counts: SwarmCounts,
    /// Some of its peers.
    pub peers: Vec<PeerInfo>,
}

impl Handle {
    /// Returns the state of each worker.
    pub fn workers(&self) -> Vec<WorkerState> {
        let state = |(core, published): &(Option<usize>, Arc<Published>)| WorkerState {
            core: *core,
            counters: published.read(),
            turns: published.read_turns(),
        };
        self.workers.iter().map(state).collect()
    }

    /// Returns the time since the start.
    pub fn uptime(&self) -> Duration {
        self.clock.now().since(Timestamp::default())
    }

    /// Returns a swarm with up to `peers` of its peers. A swarm that does not exist has no peers.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn swarm(&self, info_hash: InfoHash, peers: usize) -> Result<SwarmState, Busy> {
        let worker = self.owners.of(&info_hash);
        let (counts, peers) = self.ask(worker, move |engine| engine.look_at(&info_hash, peers)).await?;
        Ok(SwarmState { worker, counts, peers })
    }

    /// Returns the clients of recent announces: the first bytes of their peer ids, with their frequency in a sample.
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

    /// Returns all swarms with their counts in slices, one worker after the other. This takes a worker some
    /// milliseconds for each ten thousand swarms, between its turns. The survey ends when it is dropped. It may miss
    /// changes that happen meanwhile.
    pub fn survey(&self) -> Survey {
        Survey { handle: self.clone(), worker: 0, slices: None }
    }

    /// Returns the state of the lists and snapshots.
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// Returns the directory of the tracker's own lists, if it has a state directory. The file of a
    /// [`ListChange::Replace`] must be created there.
    pub fn own_lists(&self) -> Option<&Path> {
        self.control.own_lists()
    }

    /// Changes one of the tracker's own lists. The workers apply it within a second.
    ///
    /// # Errors
    ///
    /// [`ListChangeError`]. The list is unchanged then.
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
        self.orders.try_send(worker, engine::Order::Ask(Box::new(ask)).into())?;
        answered.await.map_err(|_| Busy)
    }
}

/// An iteration over all swarms; see [`Handle::survey`].
pub struct Survey {
    handle: Handle,
    /// The worker to query next.
    worker: usize,
    slices: Option<mpsc::Receiver<Slice>>,
}

impl Survey {
    /// Returns the next swarms, or `None` at the end.
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
            self.handle.orders.try_send(worker, Order::Survey(listener))?;
            self.slices = Some(slices);
            self.worker += 1;
        }
    }
}
