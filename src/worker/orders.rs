//! Owns what a worker is told and asked while it runs, by the rest of the process. It looks for some each turn; who
//! has some for it rings its doorbell.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::sync::mpsc;

use super::save::Written;
use super::{ConnectionLimits, Driver, Shared, Trusted, Witness, save};
use crate::engine;
use crate::limits::{SURVEY_PAUSE_MS, SURVEY_SLICE};
use crate::swarm::SurveyPosition;
use crate::types::{InfoHash, SwarmCounts};

/// What a worker is told.
pub enum Order {
    /// What the engine is told.
    Engine(engine::Order),
    /// Another number of connections. Those beyond it that idle are closed.
    Connections(ConnectionLimits),
    /// Other networks whose word on a client's address is taken.
    TrustedProxies(Arc<[Trusted]>),
    /// Write the table to this file, and say how long it has become.
    Save {
        /// An empty file.
        file: File,
        /// Who is told; there is room.
        done: Sender<io::Result<Written>>,
    },
    /// Tell of all swarms, slice by slice, for as long as somebody listens.
    Survey(mpsc::Sender<Slice>),
    /// Give copies of the descriptors of all sockets.
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
    /// Who is told; there is room.
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
                    tokio_uring::spawn(async move { drop(done.send(saved.await)) });
                }
                Order::Survey(listener) => {
                    tokio_uring::spawn(survey(shared.clone(), listener));
                }
                Order::Sockets(to) => drop(to.send(self.sockets())),
                Order::SaveLate(late) => self.late = Some(late),
            }
        }
        None
    }

    /// Copies of the descriptors of all sockets.
    fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let udp = self.ring.sockets().map(|socket| socket.as_fd().try_clone_to_owned());
        udp.chain(self.doors.iter().map(|door| door.listener.as_fd().try_clone_to_owned())).collect()
    }
}

/// Tells of all swarms, a slice at a time between the worker's turns.
async fn survey(shared: Rc<Shared>, listener: mpsc::Sender<Slice>) {
    let _witness = Witness(shared.clone());
    let mut surveyed = SurveyPosition::default();
    loop {
        let slice = shared.engine.borrow().survey(&mut surveyed, SURVEY_SLICE);
        if slice.is_empty() || listener.send(slice).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(SURVEY_PAUSE_MS)).await;
    }
}
