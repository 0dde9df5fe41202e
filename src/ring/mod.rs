//! Owns the ring of a worker ([`Ring`]): the one place where its thread enters the kernel and sleeps. The ring has the
//! worker's UDP sockets, its TCP connections ([`Streams`]) and its doorbell.
//!
//! ```text
//!  take completions ──► datagrams answered, connections woken ──► enter: submit, and perhaps sleep ──► ...
//! ```
//!
//! The ring is used by one thread only, its worker's (`SINGLE_ISSUER`), and does its work when that thread enters the
//! kernel (`DEFER_TASKRUN`). A shutdown cancels and drains all operations before it frees their memory.
#![allow(unsafe_code)]

mod accept;
mod buffers;
mod recv;
mod send;
mod tag;
mod tcp;
mod udp;

use std::cell::RefCell;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, SubmissionQueue, Submitter, opcode, squeue, types};

use crate::engine::middleware::Middleware;
use crate::engine::{Datagrams, Endpoint, Intake, Post, Received, Replies};
use crate::limits::{
    COMPLETION_ENTRIES, RING_DRAIN_STEP_MS, SUBMISSION_ENTRIES, SUBMIT_TRIES, UDP_REPLY_MAX_BYTES,
};
use crate::sys::{Doorbell, Notifier};
pub use buffers::ReceiveBuffers;
use tag::Tag;
use tcp::Tcp;
pub use tcp::{Accepted, Event, Streams, TcpStream};
use udp::UdpSockets;

/// A UDP socket of the ring.
#[derive(Debug)]
pub struct RingSocket {
    /// The bound socket.
    pub socket: UdpSocket,
    /// Whether it is bound to a wildcard address and delivers the local address with each datagram.
    pub wildcard: bool,
}

/// When the ring receives datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// At once: what the sockets hold is there after the submission.
    Now,
    /// As soon as a socket has a datagram. It ends a sleep.
    WhenReadable,
    /// Not before the next submission. Datagrams come together in the sockets and end no sleep.
    Later,
}

/// The ring.
pub struct Ring {
    uring: IoUring,
    udp: UdpSockets,
    tcp: Option<Rc<RefCell<Tcp>>>,
    bell: Option<Bell>,
    received: Received,
    /// Whether the kernel has taken entries.
    is_used: bool,
}

/// The doorbell as the ring watches it: a read of its counter.
struct Bell {
    doorbell: Arc<Doorbell>,
    /// Where the kernel writes the number of rings.
    count: Box<[u8; 8]>,
    armed: bool,
    /// Whether a read that has completed is followed by another.
    open: bool,
}

impl Ring {
    /// Sets the ring up for the calling thread, the only one that may use it.
    ///
    /// # Errors
    ///
    /// `ENOSYS` or `EPERM` without io_uring, `EINVAL` before Linux 6.1, `ENOMEM` if the memlock limit is too low.
    pub fn new(sockets: Vec<RingSocket>) -> io::Result<Self> {
        Self::build(sockets, false)
    }

    /// Like [`new`](Self::new), but for a client with connected sockets. A socket sends only to the address it is
    /// connected to, which saves the kernel the route lookup.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn connected(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        let sockets = sockets.into_iter().map(|socket| RingSocket { socket, wildcard: false }).collect();
        Self::build(sockets, true)
    }

    fn build(sockets: Vec<RingSocket>, connected: bool) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .dontfork()
            .build(SUBMISSION_ENTRIES)?;
        let udp = UdpSockets::register(&uring.submitter(), sockets, connected)?;
        Ok(Self { uring, udp, tcp: None, bell: None, received: Received::default(), is_used: false })
    }

    /// Makes a ring of the doorbell end a sleep.
    pub fn watch(&mut self, doorbell: Arc<Doorbell>) {
        self.bell = Some(Bell { doorbell, count: Box::default(), armed: false, open: true });
    }

    /// Adds TCP listeners. Connections are accepted once [`Streams::accept`] was called.
    ///
    /// # Errors
    ///
    /// As io_uring_register(2).
    ///
    /// # Panics
    ///
    /// If the ring has listeners already.
    pub fn listen(&mut self, listeners: Vec<TcpListener>) -> io::Result<Streams> {
        assert!(self.tcp.is_none(), "the ring has its listeners");
        let tcp = Rc::new(RefCell::new(Tcp::register(&self.uring.submitter(), listeners)?));
        self.tcp = Some(tcp.clone());
        Ok(Streams::new(tcp))
    }

    /// Takes completions, up to `budget` datagrams. Each datagram is passed to `answer`, which may write a response and
    /// return its length. The responses leave when the kernel is [entered](Self::enter), or earlier if the slots are
    /// full. Tasks that wait for operations of connections are woken.
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
        let all_submitted = submissions.is_empty();
        let received = &mut self.received;
        // Only datagrams count against the budget: all other completions are taken, otherwise they would pile up.
        while received.datagrams < budget
            && let Some(completion) = completions.next()
        {
            match Tag::decode(completion.user_data()) {
                Tag::Datagrams(socket) => {
                    let submission = (&submitter, &mut submissions);
                    self.udp.received(socket, &completion, submission, received, &mut answer)?;
                    continue;
                }
                Tag::Reply => received.send_failed += 1, // a successful reply has no completion
                Tag::Cancel => continue,
                Tag::Bell => self.bell.iter_mut().for_each(|bell| bell.armed = false),
                tag => {
                    let tcp = self.tcp.as_ref().expect("only a ring with listeners has connections");
                    tcp.borrow_mut().complete(tag, completion.result(), completion.flags());
                }
            }
            received.completions += 1;
        }
        let settled = all_submitted && completions.is_empty() && !submissions.cq_overflow();
        drop((submitter, submissions, completions));
        self.udp.publish_buffers();
        if let Some(tcp) = &self.tcp {
            let mut tcp = tcp.borrow_mut();
            tcp.publish_buffers();
            if settled {
                tcp.settle_sends();
            }
        }
        Ok(std::mem::take(&mut self.received))
    }

    /// Submits all queued entries and lets the kernel do the ring's deferred work. `receive`: when datagrams are
    /// received next. `sleep`: how long to sleep at most if there is no completion. `None`: not at all.
    ///
    /// # Errors
    ///
    /// If the kernel rejects the submission permanently.
    pub fn enter(&mut self, receive: Receive, sleep: Option<Duration>) -> io::Result<()> {
        let (submitter, mut submissions, _) = self.uring.split();
        submissions.sync();
        self.udp.queue_receives(receive, &mut submissions);
        if let Some(bell) = &mut self.bell {
            bell.arm(&mut submissions);
        }
        loop {
            let more = match &self.tcp {
                Some(tcp) => tcp.borrow_mut().queue_entries(&mut submissions),
                None => false,
            };
            match sleep.filter(|_| !more) {
                Some(at_most) => {
                    submissions.sync();
                    wait(&submitter, at_most)?;
                    submissions.sync();
                }
                None => submit(&submitter, &mut submissions)?,
            }
            self.is_used = true;
            self.udp.replies.free_if(submissions.is_empty());
            if !more || !submissions.is_empty() {
                return Ok(());
            }
        }
    }

    /// Submits all queued entries. The next datagram is received as soon as it arrives.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    pub fn submit(&mut self) -> io::Result<()> {
        self.enter(Receive::WhenReadable, None)
    }

    /// Submits all queued entries, then sleeps until there is a completion, a datagram for example, or `at_most` has
    /// passed.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    pub fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        self.enter(Receive::WhenReadable, Some(at_most))
    }

    /// Submits all queued entries, and sleeps until there is a completion. At first datagrams come together for
    /// `gather` and do not end the sleep. Then it lasts for `at_most` more.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    pub fn sleep(&mut self, gather: Duration, at_most: Duration) -> io::Result<()> {
        if !gather.is_zero() {
            self.enter(Receive::Later, Some(gather))?;
        }
        if self.has_work() { Ok(()) } else { self.wait(at_most) }
    }

    /// Stops receiving datagrams when the kernel is entered next. Datagrams that it has delivered until then must still
    /// be [taken](Self::take). Later ones stay in the sockets, for another process that shares them.
    pub fn stop_receiving(&mut self) {
        self.udp.stop_receiving(&mut self.uring.submission());
    }

    /// Returns whether a receive of datagrams is still in flight.
    pub fn is_receiving(&self) -> bool {
        self.udp.is_receiving()
    }

    /// Returns whether completions wait to be taken, or deferred work that will complete when the kernel is entered.
    pub fn has_work(&mut self) -> bool {
        let (_, submissions, completions) = self.uring.split();
        let awaits_try = || self.tcp.as_ref().is_some_and(|tcp| tcp.borrow().awaits_try());
        !completions.is_empty() || submissions.taskrun() || submissions.cq_overflow() || awaits_try()
    }

    /// Registers the eventfd that is notified of completions between [`notify`](Self::notify) and
    /// [`be_silent`](Self::be_silent).
    ///
    /// # Errors
    ///
    /// As io_uring_register(2).
    pub fn register_notifier(&mut self, notifier: &Notifier) -> io::Result<()> {
        self.uring.submitter().register_eventfd(notifier.as_raw_fd())?;
        self.be_silent();
        Ok(())
    }

    /// Makes completions notify the eventfd from now on. Returns false if some are there already: then the worker must
    /// not sleep.
    pub fn notify(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // This side sets the notification flag, then checks for work. The kernel adds work, then checks the flag.
        fence(Ordering::SeqCst);
        if self.has_work() {
            self.be_silent();
            return false;
        }
        true
    }

    /// Stops completions from notifying the eventfd.
    pub fn be_silent(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// Returns the UDP sockets, in the order of their numbers.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.udp.iter()
    }

    /// Ends all operations and takes their last completions. After that the kernel uses no memory of the ring.
    fn cancel_and_drain(&mut self) -> io::Result<()> {
        self.stop_receiving();
        if let Some(tcp) = &self.tcp {
            tcp.borrow_mut().close_all();
        }
        if let Some(bell) = &mut self.bell {
            bell.open = false;
            bell.doorbell.ring(); // the read completes
        }
        while self.is_busy() {
            self.enter(Receive::Later, Some(Duration::from_millis(RING_DRAIN_STEP_MS)))?;
            self.take(usize::MAX, |_, _, _| None)?;
        }
        Ok(())
    }

    /// Whether operations are in flight.
    fn is_busy(&self) -> bool {
        self.is_receiving()
            || self.bell.as_ref().is_some_and(|bell| bell.armed)
            || self.tcp.as_ref().is_some_and(|tcp| tcp.borrow().is_busy())
    }
}

impl Bell {
    /// Queues the read that completes when the doorbell rings.
    fn arm(&mut self, submissions: &mut SubmissionQueue<'_>) {
        if self.open && !self.armed {
            self.armed = true;
            let doorbell = types::Fd(self.doorbell.as_raw_fd());
            let read = opcode::Read::new(doorbell, self.count.as_mut_ptr(), self.count.len() as u32);
            push(submissions, &read.build().user_data(Tag::Bell.encode()));
        }
    }
}

impl Replies for Ring {
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize) {
        let (submitter, mut submissions, _) = self.uring.split();
        let replies = &mut self.udp.replies;
        if replies.is_full() {
            let _ = submit(&submitter, &mut submissions); // the error returns when the turn submits
            replies.free_if(submissions.is_empty());
        }
        match replies.next() {
            Some(slot) => {
                let length = write(slot.payload());
                push(&mut submissions, &slot.address(to, length, self.udp.connected));
                replies.use_next();
            }
            None => self.received.send_failed += 1,
        }
    }
}

impl Datagrams for Ring {
    fn receive<M: Middleware, P: Post>(
        &mut self,
        at_most: usize,
        intake: &mut Intake<'_, M, P>,
    ) -> io::Result<Received> {
        self.take(at_most, |from, datagram, out| intake.take(from, datagram, out))
    }

    /// The driver enters the kernel right after the turn, once for the responses and the sleep.
    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // If the ring can't be drained, the kernel may still write into the buffers, so they must not be freed.
        if self.is_used
            && let Err(error) = self.cancel_and_drain()
        {
            panic!("the ring could not be drained: {error}");
        }
        // The kernel frees a ring some time after it is closed, but the ports must be free at once.
        let _ = self.uring.submitter().unregister_files();
    }
}

/// Queues an entry of the UDP sockets or the doorbell, for which there is always room (see `limits`).
fn push(submissions: &mut SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: what an entry points to outlives its operation. A receive's header and the doorbell's count live as long
    // as the ring, which drains before it is dropped. A reply's slot is not reused before its entry has left the queue,
    // and the operation is complete by then (`MSG_DONTWAIT`, no asynchronous execution).
    let pushed = unsafe { submissions.push(entry) };
    pushed.expect("the submission queue has room for all slots and sockets");
}

/// Enters the kernel until the queue is empty, at most [`SUBMIT_TRIES`] times.
fn submit(submitter: &Submitter<'_>, submissions: &mut SubmissionQueue<'_>) -> io::Result<()> {
    submissions.sync();
    for _ in 0..SUBMIT_TRIES {
        if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
            break;
        }
        // The flag makes the kernel do work that this submission defers: a linked receive, for example.
        let (count, flags) = (submissions.len() as u32, EnterFlags::GETEVENTS.bits());
        // SAFETY: no argument is passed.
        let submitted = unsafe { submitter.enter::<libc::sigset_t>(count, 0, flags, None) };
        submissions.sync();
        match submitted {
            Err(error) if !is_passing(&error) => return Err(error), // otherwise the rest is retried, now or next turn
            Ok(_) if submissions.is_empty() => break,
            _ => {}
        }
    }
    Ok(())
}

/// Submits, then sleeps until the ring has a completion or `at_most` has passed.
///
/// # Errors
///
/// As `io_uring_enter(2)`.
pub fn wait(submitter: &Submitter<'_>, at_most: Duration) -> io::Result<()> {
    let time = types::Timespec::from(at_most);
    match submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&time)) {
        Err(error) if error.raw_os_error() != Some(libc::ETIME) && !is_passing(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether the kernel may accept the same submission later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_tcp;
