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
use crate::access::Access;
use crate::engine::{Engine, Policy};
use crate::limits::{SURVEY_PAUSE_MS, SURVEY_SLICE};
use crate::swarm::{Saved, SurveyPosition};
use crate::throttle::SourceLimits;
use crate::time::Timestamp;
use crate::types::{InfoHash, SwarmCounts};

/// What a worker is told.
pub enum Order {
    /// Other lists of who may ask.
    Access(Arc<Access>),
    /// Another policy for announces, as far as it can change.
    Policy(Policy),
    /// Other limits of what each source may ask for.
    SourceLimits(Arc<SourceLimits>),
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
    /// Answer a question, at once.
    Ask(Box<dyn FnOnce(&Engine) + Send>),
    /// Tell of all swarms, slice by slice, for as long as somebody listens.
    Survey(mpsc::Sender<Slice>),
    /// Give copies of the descriptors of all sockets.
    Sockets(Sender<io::Result<Vec<OwnedFd>>>),
    /// Enter what was saved, as far as it isn't known better.
    Load(Vec<Saved>),
    /// At the end, when nothing comes in any more, write what is young of the table.
    Leave(Bequest),
}

/// What a worker is to leave behind.
pub struct Bequest {
    /// An empty file.
    pub file: File,
    /// Peers that announced longer ago are left out.
    pub young_secs: u32,
    /// Who is told; there is room.
    pub done: Sender<io::Result<Written>>,
}

/// Some swarms of one worker, with their counts.
pub type Slice = Vec<(InfoHash, SwarmCounts)>;

impl<M> Driver<M> {
    /// Follows the orders that there are; of those to load, one. True if more may wait.
    pub(super) fn obey(&mut self, now: Timestamp) -> bool {
        if self.orders.is_empty() {
            return false;
        }
        let shared = &self.shared;
        let engine = &mut *shared.engine.borrow_mut();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Access(access) => engine.set_access(access),
                Order::Policy(policy) => engine.set_policy(policy),
                Order::SourceLimits(limits) => engine.set_source_limits(&limits),
                Order::Connections(limits) => shared.connections.borrow_mut().set_limits(limits),
                Order::TrustedProxies(networks) => *self.app.trusted_proxies.borrow_mut() = networks,
                Order::Save { file, done } => {
                    let saved = save::save(shared.clone(), file, None);
                    tokio_uring::spawn(async move { drop(done.send(saved.await)) });
                }
                Order::Ask(question) => question(engine),
                Order::Survey(listener) => {
                    tokio_uring::spawn(survey(shared.clone(), listener));
                }
                Order::Sockets(to) => drop(to.send(self.sockets())),
                Order::Load(saved) => {
                    engine.load(now, saved);
                    return true;
                }
                Order::Leave(bequest) => self.bequest = Some(bequest),
            }
        }
        false
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
