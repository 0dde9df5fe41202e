//! Owns the orders of the process to a running worker. The worker checks for orders in each turn. A sender rings the
//! doorbell of the worker.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::sync::mpsc;

use super::save::Written;
use super::{ConnectionLimits, Driver, PanicGuard, Shared, Trusted, save};
use crate::engine;
use crate::limits::{SURVEY_PAUSE_MS, SURVEY_SLICE};
use crate::swarm::SurveyPosition;
use crate::types::{InfoHash, SwarmCounts};

/// An order to a worker.
pub enum Order {
    /// An order for its engine.
    Engine(engine::Order),
    /// Replace the limits of connections. Idle connections beyond them are closed.
    Connections(ConnectionLimits),
    /// Replace the networks of trusted proxies.
    TrustedProxies(Arc<[Trusted]>),
    /// Write the table to this file, and report its length.
    Save {
        /// An empty file.
        file: File,
        /// Where the result is sent. The channel has a free slot.
        done: Sender<io::Result<Written>>,
    },
    /// Send all swarms in slices, until the receiver is closed.
    Survey(mpsc::Sender<Slice>),
    /// Send copies of the descriptors of all sockets.
    Sockets(Sender<io::Result<Vec<OwnedFd>>>),
    /// At the end, after the last request, write the recent announces of the table.
    SaveLate(LateSnapshot),
}

impl From<engine::Order> for Order {
    fn from(order: engine::Order) -> Self {
        Self::Engine(order)
    }
}

/// The changes since the last snapshot, which a worker writes before it ends in a handover.
pub struct LateSnapshot {
    /// An empty file.
    pub file: File,
    /// Peers whose last announce is older than this are left out.
    pub young_secs: u32,
    /// Where the result is sent. The channel has a free slot.
    pub done: Sender<io::Result<Written>>,
}

/// Some swarms of one worker, with their counts.
pub type Slice = Vec<(InfoHash, SwarmCounts)>;

impl<M> Driver<M> {
    /// Follows the orders for the worker itself, up to the next one for its engine.
    pub(super) fn follow_orders(&mut self) -> Option<engine::Order> {
        let shared = &self.app.shared;
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Engine(order) => return Some(order),
                Order::Connections(limits) => shared.connections.borrow_mut().set_limits(limits),
                Order::TrustedProxies(networks) => *self.app.trusted_proxies.borrow_mut() = networks,
                Order::Save { file, done } => {
                    let saved = save::save(shared.clone(), file, None);
                    shared.spawn(async move { drop(done.send(saved.await)) });
                }
                Order::Survey(listener) => {
                    shared.spawn(survey(shared.clone(), listener));
                }
                Order::Sockets(to) => drop(to.send(self.sockets())),
                Order::SaveLate(late) => self.late = Some(late),
            }
        }
        None
    }

    /// Copies of the descriptors of all sockets.
    fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let mut copies: Vec<_> =
            self.ring.sockets().map(|socket| socket.as_fd().try_clone_to_owned()).collect();
        let copy = |listener: BorrowedFd<'_>| copies.push(listener.try_clone_to_owned());
        self.app.shared.streams.for_each_listener(copy);
        copies.into_iter().collect()
    }
}

/// Sends all swarms, one slice at a time between the worker's turns.
async fn survey(shared: Rc<Shared>, listener: mpsc::Sender<Slice>) {
    let _guard = PanicGuard(shared.clone());
    let mut surveyed = SurveyPosition::default();
    loop {
        let slice = shared.engine.borrow().survey(&mut surveyed, SURVEY_SLICE);
        if slice.is_empty() || listener.send(slice).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(SURVEY_PAUSE_MS)).await;
    }
}
