//! Owns the rings. [`UdpRing`] is a worker's: multishot receives into provided buffers, replies that leave with the
//! submission, and the end in which everything is cancelled, drained and only then freed.
//!
//! The ring is used by one thread, its worker's (`SINGLE_ISSUER`), and does its work when that thread enters the kernel
//! (`DEFER_TASKRUN`). While the worker is busy it is not told of new completions; before it sleeps it asks to be
//! ([`UdpRing::fall_asleep`]), by its doorbell.
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

/// The group of the provided buffers; there is one.
const BUFFER_GROUP: u16 = 0;
/// A UDP socket of the ring.
#[derive(Debug)]
pub struct RingSocket {
    /// The socket, bound.
    pub socket: UdpSocket,
    /// It is bound to a wildcard and delivers the local address with each datagram.
    pub wildcard: bool,
}

/// A socket as the ring works with it.
struct Listener {
    socket: UdpSocket,
    layout: Box<ReceiveLayout>,
    /// A receive is in flight: the kernel may write into our buffers.
    armed: bool,
    failures: u32,
}

/// The ring.
pub struct UdpRing {
    uring: IoUring,
    listeners: Vec<Listener>,
    replies: ReplySlots,
    /// All sockets are connected: what they send goes there.
    connected: bool,
    buffers: ReceiveBuffers,
    received: Received,
    first_armed: usize,
    /// Datagrams are wanted.
    receiving: bool,
}

/// What a completion is about, in its 64 bits of user data.
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
    /// Sets the ring up for the calling thread, which is the only one to use it, and begins to receive.
    ///
    /// # Errors
    ///
    /// What the kernel says: `ENOSYS` or `EPERM` without io_uring, `EINVAL` before Linux 6.1, `ENOMEM` by memlock.
    pub fn new(sockets: Vec<RingSocket>, doorbell: &Doorbell) -> io::Result<Self> {
        Self::build(sockets, doorbell, false)
    }

    /// The same for a client, whose sockets are connected: what is sent from a socket goes where that is connected to,
    /// which spares the kernel the search for a route.
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
                // The kernel has seen none of the receives: there is nothing to drain.
                ring.listeners.clear();
                Err(error)
            }
        }
    }

    /// Takes up to `budget` datagrams and gives each to `answer`, which may write a response and return its
    /// length. The responses leave with the next [`submit`](Self::submit), or before if there are many.
    ///
    /// # Errors
    ///
    /// If a socket can't be received from (any more); on a kernel without multishot receives the first turn says so.
    pub fn take(
        &mut self,
        budget: usize,
        mut answer: impl FnMut(&Endpoint, &[u8], &mut [u8; UDP_REPLY_MAX_BYTES]) -> Option<usize>,
    ) -> io::Result<Received> {
        let (submitter, mut submissions, mut completions) = self.uring.split();
        completions.sync();
        let mut datagrams = 0;
        // Replies that failed don't count: all of them are taken, or they would pile up.
        while datagrams < budget
            && let Some(completion) = completions.next()
        {
            self.received.completions += 1;
            let socket = match Tag::decode(completion.user_data()) {
                Tag::Receive(socket) => socket,
                Tag::Reply => {
                    self.received.send_failed += 1; // those that succeed are silent
                    continue;
                }
                Tag::Cancel => continue,
            };
            datagrams += 1;
            let listener = &mut self.listeners[usize::from(socket)];
            listener.armed = cqueue::more(completion.flags());
            let Some(buffer) = cqueue::buffer_select(completion.flags()) else {
                if !self.receiving {
                    continue; // this was its end, or would have been
                }
                let error = -completion.result();
                let starved = error == libc::ENOBUFS; // other sockets have taken all buffers: no failure of this one
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
                            if let Some(length) = answer(&from, datagram, slot.payload()) {
                                let entry = slot.address(&from, length, self.connected);
                                push(&mut submissions, &entry);
                                self.replies.use_next();
                            }
                        }
                        None => self.received.send_failed += 1, // the kernel takes nothing: better not to answer at all
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

    /// Takes no more in. What the kernel has given us until it hears of that with the next [`submit`](Self::submit) is
    /// still to be [taken](Self::turn); what comes later stays in the sockets, for others who have them too.
    pub fn stop_receiving(&mut self) {
        self.receiving = false;
        self.cancel_receives();
    }

    /// The kernel may still have something for us.
    pub fn is_receiving(&self) -> bool {
        self.listeners.iter().any(|listener| listener.armed)
    }

    /// Hands the kernel what has been queued, and lets it do the ring's deferred work.
    ///
    /// # Errors
    ///
    /// If the kernel takes nothing and never will.
    pub fn submit(&mut self) -> io::Result<()> {
        let (submitter, mut submissions, _) = self.uring.split();
        submit(&submitter, &mut submissions, &mut self.replies)
    }

    /// Sleeps until there is something to take, or for so long. For a thread that has nothing but the ring; what is
    /// queued must have been [submitted](Self::submit).
    ///
    /// # Errors
    ///
    /// As `io_uring_enter(2)`.
    pub fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        wait(&self.uring.submitter(), at_most)
    }

    /// Has completions that wait to be taken, or work that becomes such when the kernel is entered.
    pub fn has_work(&mut self) -> bool {
        let (_, submissions, completions) = self.uring.split();
        !completions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// From now on completions ring the doorbell. False if there are some already: then the worker must not sleep.
    pub fn fall_asleep(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // Ours: "ring the doorbell", then look for work. The kernel's: add work, then look whether to ring.
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.wake_up();
            return false;
        }
        true
    }

    /// From now on completions ring no doorbell.
    pub fn wake_up(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// The sockets, in their order.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.listeners.iter().map(|listener| &listener.socket)
    }

    /// Begins to receive where that has ended. Each time another socket is the first, so that none starves when buffers
    /// are short.
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

    /// Has the receives that are in flight end.
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

    /// Ends all receives and takes their last completions, so that the kernel writes no more into our memory.
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
            let _ = self.submit(); // an error comes back when the turn submits
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
        // If the ring can't be drained the kernel may still write into the buffers: they must not be freed.
        if let Err(error) = self.cancel_and_drain() {
            panic!("the UDP ring could not be drained: {error}");
        }
        assert!(!self.is_receiving(), "a receive outlives the ring's memory");
        // The kernel takes a ring apart some time after it is closed. The ports are to be free at once.
        let _ = self.uring.submitter().unregister_files();
    }
}

/// Queues an entry. There is always room: for as many replies as there are slots, and for each socket a receive and a
/// cancel (see `limits`).
fn push(submissions: &mut SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: what an entry points to outlives its operation. A receive's header lives as long as the ring, which
    // drains before it goes; a reply's slot is not used again before its entry has left the queue, and a reply is over
    // when it leaves (`MSG_DONTWAIT`, no asynchronous execution).
    let pushed = unsafe { submissions.push(entry) };
    pushed.expect("the submission queue has room for all slots and sockets");
}

/// Submits, and sleeps until a ring has a completion, or until `at_most` has passed.
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

/// Enters the kernel until the queue is empty, and frees the slots of the replies that were in it.
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
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR) => {} // what is left is tried again, now or next turn
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
