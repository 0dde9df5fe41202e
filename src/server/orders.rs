//! Owns the queues of orders to the workers, with the doorbells that wake the workers, and the error when a queue is
//! full.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::limits::WORKER_ORDERS;
use crate::sys::Doorbell;
use crate::types::WorkerId;
use crate::worker::Order;

/// The queues of orders to the workers, each with the doorbell that wakes the worker.
#[derive(Clone)]
pub(super) struct Orders(Vec<(Sender<Order>, Arc<Doorbell>)>);

impl Orders {
    /// Creates a queue for the worker of each doorbell. Also returns the receivers.
    pub(super) fn new(doorbells: &[Arc<Doorbell>]) -> (Self, Vec<Receiver<Order>>) {
        let way = |doorbell: &Arc<Doorbell>| {
            let (sender, receiver) = bounded(WORKER_ORDERS);
            ((sender, doorbell.clone()), receiver)
        };
        let (ways, receivers) = doorbells.iter().map(way).unzip();
        (Self(ways), receivers)
    }

    /// Returns the number of workers.
    pub(super) fn workers(&self) -> usize {
        self.0.len()
    }

    /// Sends an order to each worker. Waits for workers whose queue is full, and skips workers that have ended.
    pub(super) fn send_all(&self, mut order: impl FnMut() -> Order) {
        for (worker, doorbell) in &self.0 {
            if worker.send(order()).is_ok() {
                doorbell.ring();
            }
        }
    }

    /// Sends an order to one worker. Waits if its queue is full.
    pub(super) fn send(&self, worker: usize, order: Order) {
        let (worker, doorbell) = &self.0[worker];
        if worker.send(order).is_ok() {
            doorbell.ring();
        }
    }

    /// Wakes all workers.
    pub(super) fn wake(&self) {
        self.0.iter().for_each(|(_, doorbell)| doorbell.ring());
    }

    /// Sends an order to one worker, without waiting.
    pub(super) fn try_send(&self, worker: WorkerId, order: Order) -> Result<(), Busy> {
        let (worker, doorbell) = &self.0[worker.index()];
        worker.try_send(order).map_err(|_| Busy)?;
        doorbell.ring();
        Ok(())
    }
}

/// The tracker is stopping, or the queue of a worker is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker is too busy to answer, or is stopping")]
pub struct Busy;
