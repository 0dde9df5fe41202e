//! Owns the thread that looks after what changes while the workers run, and the orders that they get.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::lists::ListFiles;
use crate::access::Access;
use crate::limits::{ACCESS_WATCH_INTERVAL_MS, WORKER_ORDERS};
use crate::worker::Order;

/// The ways to the workers.
#[derive(Clone)]
pub(super) struct Orders(Vec<Sender<Order>>);

impl Orders {
    /// For so many workers; each gets one of the receivers.
    pub(super) fn new(workers: usize) -> (Self, Vec<Receiver<Order>>) {
        let (senders, receivers) = (0..workers).map(|_| bounded(WORKER_ORDERS)).unzip();
        (Self(senders), receivers)
    }

    /// Gives each worker an order, waiting for one that has not looked at the last ones yet. A worker that has ended
    /// gets none.
    pub(super) fn give(&self, order: impl Fn() -> Order) {
        self.0.iter().for_each(|worker| drop(worker.send(order())));
    }
}

/// The thread; it ends when this goes.
pub(super) struct Control {
    lists: Sender<ListFiles>,
}

impl Control {
    /// Watches the lists, which the workers know already.
    pub(super) fn start(lists: ListFiles, known: Arc<Access>, orders: Orders) -> io::Result<Self> {
        let (sender, others) = bounded(1);
        let watch = Watch { lists, others, orders, given: vec![known] };
        thread::Builder::new().name("gyre-control".into()).spawn(move || watch.run())?;
        Ok(Self { lists: sender })
    }

    /// Takes other lists, which have been read.
    pub(super) fn set_lists(&self, lists: ListFiles) {
        let _ = self.lists.send(lists); // it is there as long as this is
    }
}

struct Watch {
    lists: ListFiles,
    others: Receiver<ListFiles>,
    orders: Orders,
    /// What the workers were given, until the last of them has given it up: so its memory is freed here.
    given: Vec<Arc<Access>>,
}

impl Watch {
    fn run(mut self) {
        loop {
            match self.others.recv_timeout(Duration::from_millis(ACCESS_WATCH_INTERVAL_MS)) {
                Ok(lists) => {
                    self.lists = lists;
                    self.give();
                }
                Err(RecvTimeoutError::Timeout) if self.lists.refresh() => self.give(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.given.retain(|access| Arc::strong_count(access) > 1);
        }
    }

    fn give(&mut self) {
        let access = self.lists.access();
        self.orders.give(|| Order::Access(access.clone()));
        self.given.push(access);
    }
}
