//! Owns what a worker is told and asked while it runs, by the rest of the process. It looks for some each turn; who
//! has some for it rings its doorbell.

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::sync::mpsc;

use super::{App, ConnectionLimits, Shared, Trusted, save};
use crate::access::Access;
use crate::engine::{Engine, Policy};
use crate::limits::{SURVEY_PAUSE_MS, SURVEY_SLICE};
use crate::swarm::Surveyed;
use crate::types::{InfoHash, SwarmCounts};

/// What a worker is told.
pub enum Order {
    /// Other lists of who may ask.
    Access(Arc<Access>),
    /// Another policy for announces, as far as it can change.
    Policy(Policy),
    /// Another number of connections. Those that are open stay so.
    Connections(ConnectionLimits),
    /// Other networks whose word on a client's address is taken.
    TrustedProxies(Arc<[Trusted]>),
    /// Write the table to this file, and say how long it has become.
    Save {
        /// An empty file.
        file: File,
        /// Who is told; there is room.
        done: Sender<io::Result<u64>>,
    },
    /// Answer a question, at once.
    Ask(Box<dyn FnOnce(&Engine) + Send>),
    /// Tell of all swarms, slice by slice, for as long as somebody listens.
    Survey(mpsc::Sender<Slice>),
}

/// Some swarms of one worker, with their counts.
pub type Slice = Vec<(InfoHash, SwarmCounts)>;

impl<M> App<M> {
    /// Follows an order.
    pub(super) fn obey(&self, order: Order, engine: &mut Engine) {
        match order {
            Order::Access(access) => engine.set_access(access),
            Order::Policy(policy) => engine.set_policy(policy),
            Order::Connections(limits) => self.shared.connections.borrow_mut().set_limits(limits),
            Order::TrustedProxies(networks) => *self.trusted_proxies.borrow_mut() = networks,
            Order::Save { file, done } => {
                let shared = self.shared.clone();
                tokio_uring::spawn(async move { drop(done.send(save::save(shared, file).await)) });
            }
            Order::Ask(question) => question(engine),
            Order::Survey(listener) => {
                tokio_uring::spawn(survey(self.shared.clone(), listener));
            }
        }
    }
}

/// Tells of all swarms, a slice at a time between the worker's turns.
async fn survey(shared: Rc<Shared>, listener: mpsc::Sender<Slice>) {
    let mut surveyed = Surveyed::default();
    loop {
        let slice = shared.engine.borrow().survey(&mut surveyed, SURVEY_SLICE);
        if slice.is_empty() || listener.send(slice).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(SURVEY_PAUSE_MS)).await;
    }
}
