//! Owns the UDP ring of a worker ([`UdpRing`]): multishot receives into provided buffers, replies that leave with the
//! submission, and a shutdown that cancels and drains all operations before it frees their memory.
//!
//! The ring is used by one thread only, its worker's (`SINGLE_ISSUER`), and does its work when that thread enters the
//! kernel (`DEFER_TASKRUN`). While the worker is busy, completions do not notify it. Before it sleeps it turns
//! notifications by its doorbell on ([`UdpRing::fall_asleep`]).
#![allow(unsafe_code)]

mod buffers;
mod recv;
mod send;

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::{IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue, types};

use crate::engine::middleware::Middleware;
use crate::engine::{Datagrams, Endpoint, Intake, Post, Received, Replies};
use crate::limits::{
    COMPLETION_ENTRIES, RECEIVE_FAILURES_MAX, SUBMISSION_ENTRIES, SUBMIT_TRIES, UDP_REPLY_MAX_BYTES,
};
use crate::sys::Doorbell;
pub use buffers::ReceiveBuffers;
use recv::ReceiveLayout;
use send::ReplySlots;

/// Id of the only group of provided buffers.
const BUFFER_GROUP: u16 = 0;

/// A UDP socket of the ring.
#[derive(Debug)]
pub struct RingSocket {
    /// The bound socket.
    pub socket: UdpSocket,
    /// Whether it is bound to a wildcard address and delivers the local address with each datagram.
    pub wildcard: bool,
}

/// A socket as the ring works with it.
struct Listener {
    socket: UdpSocket,
    layout: Box<ReceiveLayout>,
    /// Whether a receive is in flight: the kernel may write into the buffers.
    armed: bool,
    failures: u32,
}

/// The ring.
pub struct UdpRing {
    uring: IoUring,
    listeners: Vec<Listener>,
    replies: ReplySlots,
    /// Whether the sockets are connected, so that datagrams need no destination address.
    connected: bool,
    buffers: ReceiveBuffers,
    received: Received,
    first_armed: usize,
    /// Whether ended receives are started again.
    receiving: bool,
}

/// The operation that a completion belongs to, encoded in its 64 bits of user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Receive(u8),
    Reply,
    Cancel,
}

impl Tag {
    fn encode(self) -> u64 {
        match self {
            Self::Receive(socket) => u64::from(socket),
            Self::Reply => 1 << 8,
            Self::Cancel => 2 << 8,
        }
    }

    fn decode(user_data: u64) -> Self {
        match user_data >> 8 {
            0 => Self::Receive(user_data as u8),
            1 => Self::Reply,
            2 => Self::Cancel,
            _ => unreachable!("user data {user_data:#x} that the ring never submitted"),
        }
    }
}

impl UdpRing {
    /// Sets the ring up for the calling thread, the only one that may use it, and starts to receive.
    ///
    /// # Errors
    ///
    /// `ENOSYS` or `EPERM` without io_uring, `EINVAL` before Linux 6.1, `ENOMEM` if the memlock limit is too low.
    pub fn new(sockets: Vec<RingSocket>, doorbell: &Doorbell) -> io::Result<Self> {
        Self::build(sockets, doorbell, false)
    }

    /// Like [`new`](Self::new), but for a client with connected sockets. A socket sends only to the address it is
    /// connected to, which saves the kernel the route lookup.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn connected(sockets: Vec<UdpSocket>, doorbell: &Doorbell) -> io::Result<Self> {
        let sockets = sockets.into_iter().map(|socket| RingSocket { socket, wildcard: false }).collect();
        Self::build(sockets, doorbell, true)
    }

    fn build(sockets: Vec<RingSocket>, doorbell: &Doorbell, connected: bool) -> io::Result<Self> {
        let mut uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .dontfork()
            .build(SUBMISSION_ENTRIES)?;
        uring.submitter().register_eventfd(doorbell.as_raw_fd())?;
        uring.completion().disable_eventfd();
        let listeners: Vec<_> = sockets
            .into_iter()
            .map(|RingSocket { socket, wildcard }| Listener {
                socket,
                layout: ReceiveLayout::new(wildcard),
                armed: false,
                failures: 0,
            })
            .collect();
        let descriptors: Vec<_> = listeners.iter().map(|listener| listener.socket.as_raw_fd()).collect();
        if !descriptors.is_empty() {
            uring.submitter().register_files(&descriptors)?;
        }
        // SAFETY: `drop` waits for the end of all receives before the buffers go.
        let buffers = unsafe { ReceiveBuffers::register(&uring.submitter(), BUFFER_GROUP) }?;
        let mut ring = Self {
            uring,
            listeners,
            replies: ReplySlots::new(),
            connected,
            buffers,
            received: Received::default(),
            first_armed: 0,
            receiving: true,
        };
        ring.arm_receives();
        match ring.submit() {
            Ok(()) => Ok(ring),
            Err(error) => {
                // No receive has reached the kernel, so there is nothing to drain.
                ring.listeners.clear();
                Err(error)
            }
        }
    }

    /// Takes up to `budget` datagrams and passes each to `answer`, which may write a response and return its length.
    /// The responses leave with the next [`submit`](Self::submit), or earlier if the slots are full.
    ///
    /// # Errors
    ///
    /// If receiving from a socket fails permanently. A kernel without multishot receives fails at the first call.
    pub fn take(
        &mut self,
        budget: usize,
        mut answer: impl FnMut(&Endpoint, &[u8], &mut [u8; UDP_REPLY_MAX_BYTES]) -> Option<usize>,
    ) -> io::Result<Received> {
        let (submitter, mut submissions, mut completions) = self.uring.split();
        completions.sync();
        let mut datagrams = 0;
        // Failed replies don't count against the budget: all are taken, otherwise they would pile up.
        while datagrams < budget
            && let Some(completion) = completions.next()
        {
            self.received.completions += 1;
            let socket = match Tag::decode(completion.user_data()) {
                Tag::Receive(socket) => socket,
                Tag::Reply => {
                    self.received.send_failed += 1; // a successful reply has no completion
                    continue;
                }
                Tag::Cancel => continue,
            };
            datagrams += 1;
            let listener = &mut self.listeners[usize::from(socket)];
            listener.armed = cqueue::more(completion.flags());
            let Some(buffer) = cqueue::buffer_select(completion.flags()) else {
                if !self.receiving {
                    continue; // the cancelled receive has ended
                }
                let error = -completion.result();
                let starved = error == libc::ENOBUFS; // other sockets use all buffers: not a failure of this one
                listener.failures += u32::from(!starved);
                self.received.overflows += 1;
                let unknown = matches!(error, libc::EINVAL | libc::EOPNOTSUPP);
                if unknown || listener.failures > RECEIVE_FAILURES_MAX {
                    return Err(io::Error::from_raw_os_error(error));
                }
                continue;
            };
            listener.failures = 0;
            let length = usize::try_from(completion.result()).unwrap_or(0);
            match listener.layout.read(self.buffers.filled(buffer, length), socket) {
                Some((from, datagram)) => {
                    if self.replies.is_full() {
                        submit(&submitter, &mut submissions, &mut self.replies)?;
                    }
                    match self.replies.next() {
                        Some(slot) => {
                            self.received.datagrams += 1;
                            if let Some(length) = answer(&from, datagram, slot.payload()) {
                                let entry = slot.address(&from, length, self.connected);
                                push(&mut submissions, &entry);
                                self.replies.use_next();
                            }
                        }
                        None => self.received.send_failed += 1, // the kernel accepts nothing: drop the request
                    }
                }
                None => self.received.truncated += 1,
            }
            self.buffers.recycle(buffer);
        }
        drop((submitter, submissions, completions));
        self.buffers.publish();
        if self.receiving {
            self.arm_receives();
        }
        Ok(std::mem::take(&mut self.received))
    }

    /// Stops receiving with the next [`submit`](Self::submit). Datagrams that the kernel has delivered until then must
    /// still be [taken](Self::take). Later ones stay in the sockets, for another process that shares them.
    pub fn stop_receiving(&mut self) {
        self.receiving = false;
        self.cancel_receives();
    }

    /// Returns whether a receive is still in flight.
    pub fn is_receiving(&self) -> bool {
        self.listeners.iter().any(|listener| listener.armed)
    }

    /// Submits the queued entries and lets the kernel do the ring's deferred work.
    ///
    /// # Errors
    ///
    /// If the kernel rejects the submission permanently.
    pub fn submit(&mut self) -> io::Result<()> {
        let (submitter, mut submissions, _) = self.uring.split();
        submit(&submitter, &mut submissions, &mut self.replies)
    }

    /// Sleeps until there is a completion or `at_most` has passed. For a thread without a runtime. Queued entries must
    /// have been [submitted](Self::submit) before.
    ///
    /// # Errors
    ///
    /// As `io_uring_enter(2)`.
    pub fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        wait(&self.uring.submitter(), at_most)
    }

    /// Returns whether completions wait to be taken, or deferred work that will complete when the kernel is entered.
    pub fn has_work(&mut self) -> bool {
        let (_, submissions, completions) = self.uring.split();
        !completions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Makes completions ring the doorbell from now on. Returns false if some are there already: then the worker must
    /// not sleep.
    pub fn fall_asleep(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // This side sets the notification flag, then checks for work. The kernel adds work, then checks the flag.
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.wake_up();
            return false;
        }
        true
    }

    /// Stops completions from ringing the doorbell.
    pub fn wake_up(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// Returns the sockets, in the order of their numbers.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.listeners.iter().map(|listener| &listener.socket)
    }

    /// Starts ended receives again. Each call begins with another socket, so that no socket starves when buffers are
    /// short.
    fn arm_receives(&mut self) {
        let count = self.listeners.len();
        let mut submissions = self.uring.submission();
        for number in (0..count).map(|number| (number + self.first_armed) % count) {
            let listener = &mut self.listeners[number];
            if listener.armed {
                continue;
            }
            let socket = types::Fixed(number as u32);
            let receive = opcode::RecvMsgMulti::new(socket, listener.layout.header(), BUFFER_GROUP).build();
            push(&mut submissions, &receive.user_data(Tag::Receive(number as u8).encode()));
            listener.armed = true;
        }
        self.first_armed = (self.first_armed + 1) % count.max(1);
    }

    /// Queues a cancellation for each receive in flight.
    fn cancel_receives(&mut self) {
        let mut submissions = self.uring.submission();
        for (number, _) in self.listeners.iter().enumerate().filter(|(_, listener)| listener.armed) {
            let receive = Tag::Receive(number as u8).encode();
            push(
                &mut submissions,
                &opcode::AsyncCancel::new(receive).build().user_data(Tag::Cancel.encode()),
            );
        }
    }

    /// Ends all receives and takes their last completions. After that the kernel no longer writes into the buffers.
    fn cancel_and_drain(&mut self) -> io::Result<()> {
        self.cancel_receives();
        while self.is_receiving() {
            match self.uring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for completion in self.uring.completion() {
                if let Tag::Receive(socket) = Tag::decode(completion.user_data()) {
                    self.listeners[usize::from(socket)].armed = cqueue::more(completion.flags());
                }
            }
        }
        Ok(())
    }
}

impl Replies for UdpRing {
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize) {
        if self.replies.is_full() {
            let _ = self.submit(); // the error returns when the turn submits
        }
        match self.replies.next() {
            Some(slot) => {
                let length = write(slot.payload());
                let entry = slot.address(to, length, self.connected);
                push(&mut self.uring.submission(), &entry);
                self.replies.use_next();
            }
            None => self.received.send_failed += 1,
        }
    }
}

impl Datagrams for UdpRing {
    fn receive<M: Middleware, P: Post>(
        &mut self,
        at_most: usize,
        intake: &mut Intake<'_, M, P>,
    ) -> io::Result<Received> {
        self.take(at_most, |from, datagram, out| intake.take(from, datagram, out))
    }

    fn submit(&mut self) -> io::Result<()> {
        UdpRing::submit(self)
    }
}

impl Drop for UdpRing {
    fn drop(&mut self) {
        // If the ring can't be drained, the kernel may still write into the buffers, so they must not be freed.
        if let Err(error) = self.cancel_and_drain() {
            panic!("the UDP ring could not be drained: {error}");
        }
        assert!(!self.is_receiving(), "a receive outlives the ring's memory");
        // The kernel frees a ring some time after it is closed, but the ports must be free at once.
        let _ = self.uring.submitter().unregister_files();
    }
}

/// Queues an entry. There is always room for one reply per slot, and one receive and one cancellation per socket (see
/// `limits`).
fn push(submissions: &mut SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: what an entry points to outlives its operation. A receive's header lives as long as the ring, which
    // drains before it is dropped. A reply's slot is not reused before its entry has left the queue, and the operation
    // is complete by then (`MSG_DONTWAIT`, no asynchronous execution).
    let pushed = unsafe { submissions.push(entry) };
    pushed.expect("the submission queue has room for all slots and sockets");
}

/// Submits, then sleeps until the ring has a completion or `at_most` has passed.
///
/// # Errors
///
/// As `io_uring_enter(2)`.
pub fn wait(submitter: &Submitter<'_>, at_most: Duration) -> io::Result<()> {
    let time = types::Timespec::from(at_most);
    match submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&time)) {
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Enters the kernel until the queue is empty, at most [`SUBMIT_TRIES`] times, and frees the slots of the replies.
fn submit(
    submitter: &Submitter<'_>,
    submissions: &mut SubmissionQueue<'_>,
    replies: &mut ReplySlots,
) -> io::Result<()> {
    submissions.sync();
    for _ in 0..SUBMIT_TRIES {
        if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
            break;
        }
        let submitted = submitter.submit();
        submissions.sync();
        match submitted {
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR) => {} // the rest is retried, now or next turn
                _ => return Err(error),
            },
            Ok(_) if submissions.is_empty() => break,
            Ok(_) => {}
        }
    }
    if submissions.is_empty() {
        replies.free_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
