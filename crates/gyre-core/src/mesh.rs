//! Owns the queues between workers: a bounded lock-free queue for each ordered pair, and the wake-up of sleeping
//! workers.
//!
//! A queue has one sender and one receiver. At the end of a turn, one [`flush`](Mailbox::flush) signals all messages
//! sent in it: the sender sets its bit in the inbox of each receiver and rings the receiver's bell if the receiver
//! sleeps. Either the sender sees that the receiver sleeps and rings, or the receiver sees the bit and stays awake.
//! Both sides use sequentially consistent operations on the two words, so no wake-up is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::engine::{Mailbox, Message, Post};
use crate::limits::{MAX_WORKERS, MESH_INBOX_BYTES, MESH_QUEUE_MAX, MESH_QUEUE_MIN};
use crate::types::WorkerId;

/// Wakes a sleeping worker. It is rung only while the worker sleeps.
pub trait Bell: Send + Sync {
    /// Wakes the worker, now or as soon as it tries to sleep.
    fn ring(&self);
}

/// A set of workers, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct WorkerSet([u64; SET_WORDS]);

const SET_WORDS: usize = MAX_WORKERS / 64;
const _: () = assert!(MAX_WORKERS.is_multiple_of(64));

impl WorkerSet {
    fn insert(&mut self, worker: usize) {
        self.0[worker / 64] |= 1 << (worker % 64);
    }

    fn remove(&mut self, worker: usize) {
        self.0[worker / 64] &= !(1 << (worker % 64));
    }

    /// Returns the first member at or after `start`, wrapping around at the end.
    fn next_from(&self, start: usize) -> Option<usize> {
        let (first, below) = (start / 64, (1 << (start % 64)) - 1);
        // The first word is read twice: first the bits from `start` on, at the end those below it.
        (0..=SET_WORDS).find_map(|step| {
            let word = (first + step) % SET_WORDS;
            let mask = match step {
                0 => !below,
                SET_WORDS => below,
                _ => u64::MAX,
            };
            let members = self.0[word] & mask;
            (members != 0).then(|| word * 64 + members.trailing_zeros() as usize)
        })
    }
}

/// The shared state of a receiving worker.
struct Inbox {
    /// Senders with new messages since the worker last checked.
    mail: [AtomicU64; SET_WORDS],
    sleeping: AtomicBool,
    bell: Arc<dyn Bell>,
}

/// One worker's end of the mesh.
pub struct Mesh {
    me: WorkerId,
    inboxes: Arc<[CachePadded<Inbox>]>,
    /// Queues by receiver. A worker has none to itself.
    to: Vec<Option<Arc<ArrayQueue<Message>>>>,
    /// Queues by sender. A worker has none from itself.
    from: Vec<Option<Arc<ArrayQueue<Message>>>>,
    /// Receivers of messages sent since the last flush.
    unflushed: WorkerSet,
    /// Senders that have signalled messages and whose queue has not been found empty since.
    unread: WorkerSet,
    /// The sender to read from next.
    next: usize,
}

impl Mesh {
    /// Connects all pairs of workers. There is one bell for each worker.
    ///
    /// # Panics
    ///
    /// If there are no bells or more than [`MAX_WORKERS`].
    pub fn connect<B: Bell + 'static>(bells: &[Arc<B>]) -> Vec<Self> {
        let workers = bells.len();
        assert!((1..=MAX_WORKERS).contains(&workers), "1 to {MAX_WORKERS} workers, not {workers}");
        let capacity = queue_capacity(workers);
        let inbox = |bell: &Arc<B>| {
            let mail = [const { AtomicU64::new(0) }; SET_WORDS];
            CachePadded::new(Inbox { mail, sleeping: AtomicBool::new(false), bell: bell.clone() })
        };
        let inboxes: Arc<[_]> = bells.iter().map(inbox).collect();
        // queues[sender][receiver]
        let queue = |sender, receiver| (sender != receiver).then(|| Arc::new(ArrayQueue::new(capacity)));
        let queues: Vec<Vec<_>> = (0..workers)
            .map(|sender| (0..workers).map(|receiver| queue(sender, receiver)).collect())
            .collect();
        (0..workers)
            .map(|me| Self {
                me: WorkerId(me as u16),
                inboxes: inboxes.clone(),
                to: queues[me].clone(),
                from: queues.iter().map(|to| to[me].clone()).collect(),
                unflushed: WorkerSet::default(),
                unread: WorkerSet::default(),
                next: 0,
            })
            .collect()
    }

    /// Marks this worker as asleep. Returns false, and leaves it awake, if there are messages to read.
    pub fn fall_asleep(&self) -> bool {
        let inbox = &self.inboxes[self.me.index()];
        inbox.sleeping.store(true, Ordering::SeqCst);
        let mail = inbox.mail.iter().any(|mail| mail.load(Ordering::SeqCst) != 0);
        if mail || self.unread != WorkerSet::default() {
            self.wake_up();
            return false;
        }
        true
    }

    /// Marks this worker as awake.
    pub fn wake_up(&self) {
        self.inboxes[self.me.index()].sleeping.store(false, Ordering::Relaxed);
    }
}

impl Post for Mesh {
    fn post(&mut self, to: WorkerId, message: Message) -> Result<(), Message> {
        self.to[to.index()].as_ref().expect("a worker does not send to itself").push(message)?;
        self.unflushed.insert(to.index());
        Ok(())
    }
}

impl Mailbox for Mesh {
    fn take(&mut self) -> Option<(WorkerId, Message)> {
        let mail = &self.inboxes[self.me.index()].mail;
        for (unread, mail) in self.unread.0.iter_mut().zip(mail) {
            if mail.load(Ordering::Relaxed) != 0 {
                *unread |= mail.swap(0, Ordering::SeqCst);
            }
        }
        while let Some(sender) = self.unread.next_from(self.next) {
            let queue = self.from[sender].as_ref().expect("a worker does not send to itself");
            match queue.pop() {
                Some(message) => {
                    self.next = (sender + 1) % MAX_WORKERS;
                    return Some((WorkerId(sender as u16), message));
                }
                None => self.unread.remove(sender),
            }
        }
        None
    }

    fn flush(&mut self) {
        let me = self.me.index();
        while let Some(receiver) = self.unflushed.next_from(0) {
            self.unflushed.remove(receiver);
            let inbox = &self.inboxes[receiver];
            inbox.mail[me / 64].fetch_or(1 << (me % 64), Ordering::SeqCst);
            if inbox.sleeping.load(Ordering::SeqCst) && inbox.sleeping.swap(false, Ordering::SeqCst) {
                inbox.bell.ring();
            }
        }
    }
}

/// Returns the capacity of each queue such that all queues to one worker take [`MESH_INBOX_BYTES`].
fn queue_capacity(workers: usize) -> usize {
    let senders = (workers - 1).max(1);
    (MESH_INBOX_BYTES / size_of::<Message>() / senders).clamp(MESH_QUEUE_MIN, MESH_QUEUE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use crate::engine::{Endpoint, UdpAnnounce};
    use crate::types::{Announce, Event, InfoHash, PeerAddr, PeerId};

    fn message(number: u32) -> Message {
        let announce = Announce {
            info_hash: InfoHash([0; 20]),
            peer_id: PeerId([0; 20]),
            peer: PeerAddr::V4([0; 6]),
            event: Event::None,
            seeder: false,
            num_want: 0,
            wants_ids: false,
        };
        let to = Endpoint { source: ([127, 0, 0, 1], 1).into(), local: None, socket: 0 };
        Message::UdpAnnounce(UdpAnnounce { announce, transaction_id: number, interval_secs: 1, to })
    }

    fn number(message: Message) -> u32 {
        match message {
            Message::UdpAnnounce(UdpAnnounce { transaction_id, .. }) => transaction_id,
            other => panic!("{other:?}"),
        }
    }

    /// Counts its rings.
    #[derive(Default)]
    struct TestBell {
        rung: Mutex<u64>,
        ringing: Condvar,
    }

    impl Bell for TestBell {
        fn ring(&self) {
            *self.rung.lock().unwrap() += 1;
            self.ringing.notify_one();
        }
    }

    impl TestBell {
        /// Returns the number of rings since the last call.
        fn rung(&self) -> u64 {
            std::mem::take(&mut self.rung.lock().unwrap())
        }

        /// Blocks until it is rung.
        fn wait(&self) {
            let (rung, minute) = (self.rung.lock().unwrap(), Duration::from_secs(60));
            let (mut rung, late) = self.ringing.wait_timeout_while(rung, minute, |rung| *rung == 0).unwrap();
            assert!(!late.timed_out(), "no ring for a minute");
            *rung = 0;
        }
    }

    fn connect(workers: usize) -> (Vec<Arc<TestBell>>, Vec<Mesh>) {
        let bells: Vec<_> = (0..workers).map(|_| Arc::new(TestBell::default())).collect();
        let meshes = Mesh::connect(&bells);
        (bells, meshes)
    }

    #[test]
    fn messages_of_each_sender_arrive_in_order() {
        let (_, mut meshes) = connect(130); // more than two words of a set
        for sender in [0, 63, 64, 129] {
            for number in 0..3 {
                meshes[sender].post(WorkerId(5), message(number)).unwrap();
            }
        }
        assert!(meshes[5].take().is_none(), "nothing is flushed yet");
        for sender in [129, 64, 63, 0] {
            meshes[sender].flush();
        }
        for expected in 0..3 {
            for sender in [0, 63, 64, 129] {
                let (from, message) = meshes[5].take().unwrap();
                assert_eq!((from.index(), number(message)), (sender, expected), "senders take turns");
            }
        }
        assert!(meshes[5].take().is_none());
    }

    #[test]
    fn a_search_in_a_set_wraps_around() {
        let mut set = WorkerSet::default();
        assert_eq!(set.next_from(70), None);
        [0, 5, 64, 255].into_iter().for_each(|worker| set.insert(worker));
        for (start, next) in [(0, 0), (1, 5), (5, 5), (6, 64), (64, 64), (65, 255), (255, 255)] {
            assert_eq!(set.next_from(start), Some(next), "from {start}");
        }
        set.remove(255);
        assert_eq!(set.next_from(65), Some(0));
        [0, 64].into_iter().for_each(|worker| set.remove(worker));
        assert_eq!((set.next_from(5), set.next_from(6)), (Some(5), Some(5)));
    }

    #[test]
    fn a_full_queue_returns_the_message() {
        let (_, mut meshes) = connect(2);
        for sent in 0..MESH_QUEUE_MAX as u32 {
            meshes[0].post(WorkerId(1), message(sent)).unwrap();
        }
        assert_eq!(number(meshes[0].post(WorkerId(1), message(77)).unwrap_err()), 77);
        meshes[0].flush();
        assert_eq!(number(meshes[1].take().unwrap().1), 0);
        meshes[0].post(WorkerId(1), message(78)).unwrap();
    }

    #[test]
    fn the_bell_rings_once_and_only_for_a_sleeping_worker() {
        let (bells, mut meshes) = connect(2);
        let send = |meshes: &mut Vec<Mesh>| {
            meshes[0].post(WorkerId(1), message(0)).unwrap();
            meshes[0].flush();
        };
        send(&mut meshes);
        assert_eq!(bells[1].rung(), 0, "it was awake");
        assert!(!meshes[1].fall_asleep(), "it has mail");
        assert!(meshes[1].take().is_some() && meshes[1].take().is_none());
        assert!(meshes[1].fall_asleep());
        send(&mut meshes);
        send(&mut meshes);
        assert_eq!(bells[1].rung(), 1);
    }

    /// Two threads sleep whenever they can. A lost wake-up would block the test.
    #[test]
    fn no_wake_up_is_lost() {
        const MESSAGES: u32 = 20_000;
        let (bells, meshes) = connect(2);
        std::thread::scope(|scope| {
            for (mut mesh, bell) in meshes.into_iter().zip(&bells) {
                scope.spawn(move || {
                    let other = WorkerId(1 - mesh.me.0);
                    let (mut sent, mut received) = (0, 0);
                    while received < MESSAGES {
                        // Ping-pong, so that each side often runs out of messages.
                        if sent <= received && sent < MESSAGES && mesh.post(other, message(sent)).is_ok() {
                            sent += 1;
                            mesh.flush();
                        }
                        match mesh.take() {
                            Some((_, message)) => {
                                assert_eq!(number(message), received);
                                received += 1;
                            }
                            None if mesh.fall_asleep() => {
                                bell.wait();
                                mesh.wake_up();
                            }
                            None => {}
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn the_queues_to_a_worker_share_their_memory() {
        assert_eq!(queue_capacity(2), MESH_QUEUE_MAX);
        for workers in 1..=MAX_WORKERS {
            let capacity = queue_capacity(workers);
            assert!(capacity * (workers - 1) * size_of::<Message>() <= MESH_INBOX_BYTES);
        }
    }
}
