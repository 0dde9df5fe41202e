//! Owns the TCP connections of a ring: the receives, sends and the close of each.
//!
//! An operation is queued here and submitted when the worker enters the kernel at the end of its turn. Its completion
//! wakes the task that waits for it. Nothing blocks, and no operation costs a system call of its own.
//!
//! Bytes are received into buffers that all connections share, and copied into a vector at once, so an idle connection
//! holds no buffer. A send is tried during the submission, without a completion if it succeeds. Only if the client has
//! not made room for all of it is it submitted again, to wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{SubmissionQueue, Submitter, cqueue, opcode, squeue, types};
use slab::Slab;
use socket2::SockRef;

use super::accept::Listeners;
use super::buffers::ReceiveBuffers;
use super::tag::Tag;
use crate::limits::{
    HTTP_POOLED_BUFFER_BYTES, HTTP_POOLED_BUFFERS, TCP_BUFFERS, TCP_RECEIVE_BYTES, UDP_RESERVED_ENTRIES,
};

/// Id of the group of provided buffers for bytes of connections.
const BUFFER_GROUP: u16 = 1;
/// `IORING_RECVSEND_POLL_FIRST`: wait for bytes before the first try.
const POLL_FIRST: u16 = 1;
/// A send is tried during the submission. If only a part of it fits, it counts as failed, so that it has a completion.
const TRY_FLAGS: i32 = libc::MSG_DONTWAIT | WAIT_FLAGS;
/// A send that waits sends all of it. A failure raises no signal.
const WAIT_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// The client's address.
    pub peer: SocketAddr,
    /// The number of the listener.
    pub listener: usize,
}

/// The last receive of a connection.
#[derive(Debug)]
enum Receiving {
    Idle,
    InFlight,
    Done(io::Result<Vec<u8>>),
}

/// The last send of a connection.
#[derive(Debug)]
enum Sending {
    Idle,
    /// It is tried with the next submission. The memory must not change meanwhile.
    Tried(Vec<u8>),
    /// It waits for the client. The number of bytes that are sent already.
    Waits(Vec<u8>, usize),
    Done(io::Result<()>, Vec<u8>),
}

#[derive(Debug)]
struct Connection {
    /// `None` once the kernel has closed it.
    socket: Option<OwnedFd>,
    receiving: Receiving,
    sending: Sending,
    /// The kernel closes the connection when the send is complete.
    closes: bool,
    /// The handle is gone.
    dropped: bool,
    /// Bytes have been received. The next ones come later, so a receive need not try before it waits for them.
    has_received: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

/// The connections of a ring and their operations.
pub(super) struct Tcp {
    listeners: Listeners,
    connections: Slab<Connection>,
    /// Entries that are not in the submission queue yet.
    queued: VecDeque<squeue::Entry>,
    /// Connections with a send to try that is among the queued entries.
    to_try: Vec<u32>,
    /// Connections with a send to try that has left the queue.
    tried: Vec<u32>,
    buffers: ReceiveBuffers,
    /// Empty vectors for received bytes and responses.
    pool: Vec<Vec<u8>>,
}

impl Tcp {
    /// Registers the buffers of a ring.
    pub(super) fn register(submitter: &Submitter<'_>, listeners: Vec<TcpListener>) -> io::Result<Self> {
        // SAFETY: `Ring::drop` waits for the end of all receives before the buffers go.
        let buffers =
            unsafe { ReceiveBuffers::register(submitter, BUFFER_GROUP, TCP_BUFFERS, TCP_RECEIVE_BYTES) }?;
        Ok(Self {
            listeners: Listeners::new(listeners),
            connections: Slab::new(),
            queued: VecDeque::new(),
            to_try: Vec::new(),
            tried: Vec::new(),
            buffers,
            pool: Vec::new(),
        })
    }

    /// Moves queued entries to the submission queue, as many as it has room for beside those of UDP. Returns true if
    /// there are more.
    pub(super) fn queue_entries(&mut self, submissions: &mut SubmissionQueue<'_>) -> bool {
        let most = submissions.capacity() - UDP_RESERVED_ENTRIES;
        while submissions.len() < most
            && let Some(entry) = self.queued.pop_front()
        {
            // SAFETY: what an entry points to, the bytes of a send, stays unchanged until the operation has completed.
            // The ring drains before it drops them.
            let pushed = unsafe { submissions.push(&entry) };
            pushed.expect("the length was checked");
        }
        if self.queued.is_empty() {
            self.tried.append(&mut self.to_try);
        }
        !self.queued.is_empty()
    }

    /// Takes a completion.
    pub(super) fn complete(&mut self, tag: Tag, result: i32, flags: u32) {
        match tag {
            Tag::Accept(number) => self.listeners.complete(number as usize, result, cqueue::more(flags)),
            Tag::Receive(number) => self.received(number, result, flags),
            Tag::Send(number) => self.sent(number, result),
            Tag::Close => {} // it failed, and the descriptor is gone all the same
            _ => unreachable!("{tag:?} is not an operation of a connection"),
        }
    }

    fn received(&mut self, number: u32, result: i32, flags: u32) {
        let mut bytes = Vec::new();
        if let Some(buffer) = cqueue::buffer_select(flags) {
            bytes = self.pool.pop().unwrap_or_default();
            bytes.extend_from_slice(self.buffers.filled(buffer, usize::try_from(result).unwrap_or(0)));
            self.buffers.recycle(buffer);
        } else if result == -libc::ENOBUFS {
            self.queue_receive(number); // by the next submission there are buffers
            return;
        }
        let connection = &mut self.connections[number as usize];
        connection.has_received = true;
        connection.receiving = Receiving::Done(match result {
            0.. => Ok(bytes),
            _ => Err(io::Error::from_raw_os_error(-result)),
        });
        wake(&mut connection.receiver);
        self.release(number);
    }

    /// Takes the completion of a send: the try did not send all, or one that waited has ended.
    fn sent(&mut self, number: u32, result: i32) {
        let connection = &mut self.connections[number as usize];
        let (bytes, from) = match std::mem::replace(&mut connection.sending, Sending::Idle) {
            Sending::Tried(bytes) => (bytes, 0),
            Sending::Waits(bytes, from) => (bytes, from),
            _ => unreachable!("a completion without a send"),
        };
        let from = from + usize::try_from(result).unwrap_or(0);
        let goes_on = (result > 0 && from < bytes.len()) || result == -libc::EAGAIN;
        if goes_on && !connection.dropped {
            let rest = &bytes[from..];
            let socket = types::Fd(connection.socket.as_ref().expect("it is open").as_raw_fd());
            let send = opcode::Send::new(socket, rest.as_ptr(), rest.len() as u32).flags(WAIT_FLAGS);
            self.queued.push_back(send.build().user_data(Tag::Send(number).encode()));
            connection.sending = Sending::Waits(bytes, from);
            wake(&mut connection.sender);
            wake(&mut connection.receiver); // it gets `Event::Blocked`
            return;
        }
        let result = match result {
            0.. if from == bytes.len() => Ok(()),
            0.. => Err(io::ErrorKind::WriteZero.into()),
            _ => Err(io::Error::from_raw_os_error(-result)),
        };
        self.end_send(number, result, bytes);
    }

    /// Notes which of the tried sends are complete: all those without a completion. The submission queue must have been
    /// empty since they were tried, and all completions taken.
    pub(super) fn settle_sends(&mut self) {
        let mut tried = std::mem::take(&mut self.tried);
        for number in tried.drain(..) {
            let connection = &mut self.connections[number as usize];
            let Sending::Tried(bytes) = &mut connection.sending else { continue };
            let bytes = std::mem::take(bytes);
            if connection.closes {
                connection.socket.take().map(IntoRawFd::into_raw_fd); // the kernel has closed it
            }
            self.end_send(number, Ok(()), bytes);
        }
        self.tried = tried;
    }

    fn end_send(&mut self, number: u32, result: io::Result<()>, mut bytes: Vec<u8>) {
        let connection = &mut self.connections[number as usize];
        let is_awaited = connection.sender.is_some() || result.is_err();
        bytes.clear();
        if is_awaited {
            connection.sending = Sending::Done(result, bytes);
            wake(&mut connection.sender);
        } else {
            connection.sending = Sending::Idle;
            self.give(bytes);
        }
        self.release(number);
    }

    fn queue_receive(&mut self, number: u32) {
        let connection = &mut self.connections[number as usize];
        let Some(socket) = &connection.socket else {
            connection.receiving = Receiving::Done(Ok(Vec::new()));
            return;
        };
        connection.receiving = Receiving::InFlight;
        let receive = opcode::Recv::new(types::Fd(socket.as_raw_fd()), std::ptr::null_mut(), 0);
        let receive = receive.ioprio(if connection.has_received { POLL_FIRST } else { 0 });
        let entry = receive.buf_group(BUFFER_GROUP).build().flags(squeue::Flags::BUFFER_SELECT);
        self.queued.push_back(entry.user_data(Tag::Receive(number).encode()));
    }

    /// Queues a send that is tried during the submission. If it `closes`, the connection is closed right after it.
    fn queue_send(&mut self, number: u32, bytes: Vec<u8>, closes: bool) {
        let connection = &mut self.connections[number as usize];
        assert!(!connection.is_sending(), "a connection has one send at a time");
        let socket = connection.socket.as_ref().expect("it is open").as_raw_fd();
        let send = opcode::Send::new(types::Fd(socket), bytes.as_ptr(), bytes.len() as u32);
        // The last bytes wait for the close, so that they share a segment with its FIN.
        let send = send.flags(if closes { TRY_FLAGS | libc::MSG_MORE } else { TRY_FLAGS });
        let send = send.build().flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::Send(number).encode());
        connection.sending = Sending::Tried(bytes);
        connection.closes = closes;
        self.to_try.push(number);
        if closes {
            self.queued.push_back(send.flags(squeue::Flags::IO_LINK));
            self.queued.push_back(close(socket));
        } else {
            self.queued.push_back(send);
        }
    }

    /// Gives the buffers of received bytes back to the kernel.
    pub(super) fn publish_buffers(&mut self) {
        self.buffers.publish();
    }

    /// Ends the operations of all connections, and all accepts.
    pub(super) fn close_all(&mut self) {
        self.listeners.close(&mut self.queued);
        while self.listeners.next().is_some() {}
        let numbers: Vec<_> = self.connections.iter().map(|(number, _)| number).collect();
        for number in numbers {
            self.connections[number].dropped = true;
            self.release(number as u32);
        }
    }

    /// Whether a task waits for a send that is tried. No completion tells that it has succeeded, so the worker must
    /// take completions without a sleep.
    pub(super) fn awaits_try(&self) -> bool {
        let mut tried =
            self.to_try.iter().chain(&self.tried).map(|number| &self.connections[*number as usize]);
        tried.any(|connection| connection.sender.is_some() && !connection.closes)
    }

    /// Whether operations are in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.listeners.is_accepting() || !self.connections.is_empty() || !self.queued.is_empty()
    }

    /// Ends the operations of a connection whose handle is gone, closes it, and removes it once the kernel has no
    /// operation of it.
    fn release(&mut self, number: u32) {
        let connection = &mut self.connections[number as usize];
        if !connection.dropped {
            return;
        }
        match (&connection.sending, connection.is_receiving()) {
            (Sending::Tried(_), true) => return, // it comes here again after the send
            (Sending::Tried(_), _) if connection.closes => return,
            (Sending::Waits(..), _) | (_, true) => return connection.shutdown(Shutdown::Both),
            _ => {}
        }
        // The entry that closes it stands behind the one that tries the send.
        let socket = connection.socket.take();
        if !connection.is_sending() {
            self.connections.remove(number as usize);
        }
        if let Some(socket) = socket {
            self.queued.push_back(close(socket.into_raw_fd()));
        }
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        if self.pool.len() < HTTP_POOLED_BUFFERS
            && (1..=HTTP_POOLED_BUFFER_BYTES).contains(&buffer.capacity())
        {
            buffer.clear();
            self.pool.push(buffer);
        }
    }
}

impl Connection {
    fn is_receiving(&self) -> bool {
        matches!(self.receiving, Receiving::InFlight)
    }

    fn is_sending(&self) -> bool {
        matches!(self.sending, Sending::Tried(_) | Sending::Waits(..))
    }

    fn shutdown(&self, how: Shutdown) {
        // A connection that closes after a send that was submitted may be closed already, and its descriptor another's.
        let may_be_closed = self.closes && matches!(self.sending, Sending::Tried(_));
        if let Some(socket) = self.socket.as_ref().filter(|_| !may_be_closed) {
            let _ = SockRef::from(socket).shutdown(how); // if the client has closed it already there is nothing to do
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The entry that closes a descriptor.
fn close(socket: i32) -> squeue::Entry {
    let close = opcode::Close::new(types::Fd(socket)).build();
    close.flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::Close.encode())
}

/// The TCP listeners and connections of a ring, for the tasks of its thread.
#[derive(Clone)]
pub struct Streams(Rc<RefCell<Tcp>>);

impl Streams {
    pub(super) fn new(tcp: Rc<RefCell<Tcp>>) -> Self {
        Self(tcp)
    }

    /// Accepts more connections at each listener: one or, if there are `places` for all that may wait in the kernel,
    /// all that come. To be called again after connections were taken or closed.
    pub fn accept(&self, places: usize) {
        let tcp = &mut *self.0.borrow_mut();
        tcp.listeners.queue_accepts(places, &mut tcp.queued);
    }

    /// Stops accepting and closes the listeners. Connections that the kernel has accepted until then still come. Later
    /// ones are left to other processes that share the listeners.
    pub fn close_listeners(&self) {
        let tcp = &mut *self.0.borrow_mut();
        tcp.listeners.close(&mut tcp.queued);
    }

    /// Whether an accept is in flight.
    pub fn is_accepting(&self) -> bool {
        self.0.borrow().listeners.is_accepting()
    }

    /// Returns the next accepted connection. `None`: there is none.
    ///
    /// # Errors
    ///
    /// As `accept(2)` and `getpeername(2)`.
    pub fn next(&self) -> Option<io::Result<Accepted>> {
        let mut tcp = self.0.borrow_mut();
        let (socket, listener) = match tcp.listeners.next()? {
            Ok(accepted) => accepted,
            Err(error) => return Some(Err(error)),
        };
        let peer = match SockRef::from(&socket).peer_addr().map(|peer| peer.as_socket()) {
            Ok(Some(peer)) => peer,
            Ok(None) => return Some(Err(io::ErrorKind::AddrNotAvailable.into())),
            Err(error) => return Some(Err(error)),
        };
        let connection = Connection {
            socket: Some(socket),
            receiving: Receiving::Idle,
            sending: Sending::Idle,
            closes: false,
            dropped: false,
            has_received: false,
            receiver: None,
            sender: None,
        };
        let number = tcp.connections.insert(connection) as u32;
        Some(Ok(Accepted { stream: TcpStream { tcp: self.0.clone(), number }, peer, listener }))
    }

    /// Whether operations are queued for the next submission.
    pub fn has_queued(&self) -> bool {
        !self.0.borrow().queued.is_empty()
    }

    /// Returns an empty buffer, perhaps a used one.
    pub fn take_buffer(&self) -> Vec<u8> {
        self.0.borrow_mut().pool.pop().unwrap_or_default()
    }

    /// Gives a buffer back, to be used again.
    pub fn give_buffer(&self, buffer: Vec<u8>) {
        self.0.borrow_mut().give(buffer);
    }

    /// Calls `visit` for each listener that is not closed.
    pub fn for_each_listener(&self, visit: impl FnMut(BorrowedFd<'_>)) {
        self.0.borrow().listeners.iter().for_each(visit);
    }
}

/// A TCP connection of a ring. It is closed when this is dropped.
pub struct TcpStream {
    tcp: Rc<RefCell<Tcp>>,
    number: u32,
}

/// What happened first on a connection.
#[derive(Debug)]
pub enum Event {
    /// Bytes have come. None: the client sends no more.
    Received(io::Result<Vec<u8>>),
    /// The last send waits for the client to make room.
    Blocked,
}

impl TcpStream {
    /// Waits for bytes, and submits a receive if none is in flight. One that was begun goes on if it is given up.
    pub fn poll_receive(&self, context: &Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let mut tcp = self.tcp.borrow_mut();
        let connection = &mut tcp.connections[self.number as usize];
        if let Receiving::Done(_) = connection.receiving
            && let Receiving::Done(result) = std::mem::replace(&mut connection.receiving, Receiving::Idle)
        {
            return Poll::Ready(result);
        }
        connection.receiver = Some(context.waker().clone());
        if let Receiving::Idle = connection.receiving {
            tcp.queue_receive(self.number);
        }
        Poll::Pending
    }

    /// Waits for bytes or until a send is found to wait for the client.
    pub async fn next(&self) -> Event {
        poll_fn(|context| {
            if let Sending::Waits(..) = self.tcp.borrow().connections[self.number as usize].sending {
                return Poll::Ready(Event::Blocked);
            }
            self.poll_receive(context).map(Event::Received)
        })
        .await
    }

    /// Queues bytes to send. The kernel takes them with the next submission, or when the client makes room.
    ///
    /// # Panics
    ///
    /// If a send is not complete: see [`sent`](Self::sent).
    pub fn send(&self, bytes: Vec<u8>) {
        self.tcp.borrow_mut().queue_send(self.number, bytes, false);
    }

    /// Like [`send`](Self::send), and closes the connection after it.
    ///
    /// # Panics
    ///
    /// As [`send`](Self::send).
    pub fn send_last(&self, bytes: Vec<u8>) {
        let closes = !self.tcp.borrow().connections[self.number as usize].is_receiving();
        self.tcp.borrow_mut().queue_send(self.number, bytes, closes);
    }

    /// Waits until the last send is complete. Returns its buffer, empty.
    pub async fn sent(&self) -> (io::Result<()>, Vec<u8>) {
        poll_fn(|context| self.poll_sent(context)).await
    }

    fn poll_sent(&self, context: &Context<'_>) -> Poll<(io::Result<()>, Vec<u8>)> {
        let mut tcp = self.tcp.borrow_mut();
        let connection = &mut tcp.connections[self.number as usize];
        match std::mem::replace(&mut connection.sending, Sending::Idle) {
            Sending::Idle => Poll::Ready((Ok(()), Vec::new())),
            Sending::Done(result, bytes) => Poll::Ready((result, bytes)),
            sending => {
                connection.sending = sending;
                connection.sender = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether a send is not known to be complete.
    pub fn is_sending(&self) -> bool {
        self.tcp.borrow().connections[self.number as usize].is_sending()
    }

    /// Shuts one or both directions, as `shutdown(2)`.
    pub fn shutdown(&self, how: Shutdown) {
        self.tcp.borrow().connections[self.number as usize].shutdown(how);
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let mut tcp = self.tcp.borrow_mut();
        let Some(connection) = tcp.connections.get_mut(self.number as usize) else { return }; // the ring is gone
        connection.dropped = true;
        tcp.release(self.number);
    }
}

impl std::fmt::Debug for TcpStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TcpStream({})", self.number)
    }
}
