//! Owns a ring of TCP client connections: connects, sends and multishot receives of many connections on one thread,
//! with one system call per turn.
//!
//! ```text
//!  free ──connect──► connecting ──► open ──┬──► shut down (sends and receives end) ──► free
//!                         └── refused ─────┘
//! ```
//!
//! A connection's number is not reused while the kernel has an operation of it in flight.
#![allow(unsafe_code)]

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::types::CancelBuilder;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use gyre::limits::{RECEIVE_BUFFERS, SUBMIT_TRIES};
use gyre::ring::{ReceiveBuffers, wait};
use gyre::sys;

/// Entries of the submission queue. When it is full it is submitted before the turn ends.
const SUBMISSION_ENTRIES: u32 = 1024;
/// Size of a buffer for received bytes.
const RECEIVE_BYTES: usize = 1_728;
/// Id of the only group of provided buffers.
const BUFFER_GROUP: u16 = 0;

/// An event of a connection.
#[derive(Debug)]
pub(crate) enum TcpEvent<'a> {
    /// The connection is established.
    Open,
    /// Bytes have arrived.
    Received(&'a [u8]),
    /// The connection was closed by either side or failed. Its number is free.
    Closed(Option<io::Error>),
}

/// What the user of a connection wants to send.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Bytes to send after those that are being sent.
    pub(crate) send: Vec<u8>,
    /// Whether to close the connection, even if bytes are left to send.
    pub(crate) close: bool,
}

/// A connection and its operations in flight.
struct Connection {
    socket: Option<OwnedFd>,
    target: Box<SockAddr>,
    outgoing: Outgoing,
    /// Bytes that are being sent. Not changed until the operation has completed.
    sending: Vec<u8>,
    /// Number of bytes of `sending` that have been sent.
    sent: usize,
    connecting: bool,
    is_sending: bool,
    receiving: bool,
    open: bool,
    error: Option<io::Error>,
}

/// The ring.
pub(crate) struct TcpRing {
    uring: IoUring,
    connections: Vec<Connection>,
    buffers: ReceiveBuffers,
    in_flight: usize,
}

/// The operation that a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Connect,
    Send,
    Receive,
}

impl Operation {
    fn of(self, connection: usize) -> u64 {
        (self as u64) << 32 | connection as u64
    }

    fn read(user_data: u64) -> (Self, usize) {
        let operation = match user_data >> 32 {
            0 => Self::Connect,
            1 => Self::Send,
            2 => Self::Receive,
            _ => unreachable!("user data {user_data:#x} that the ring never submitted"),
        };
        (operation, user_data as u32 as usize)
    }
}

impl TcpRing {
    /// Creates a ring for up to `connections` connections, for the calling thread only.
    ///
    /// # Errors
    ///
    /// `ENOSYS` or `EPERM` without io_uring, `EINVAL` before Linux 6.1, `ENOMEM` if the memlock limit is too low.
    pub(crate) fn new(connections: usize) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .dontfork()
            .build(SUBMISSION_ENTRIES)?;
        // SAFETY: `drop` waits for the end of all receives before the buffers are freed.
        let buffers = unsafe {
            ReceiveBuffers::register(&uring.submitter(), BUFFER_GROUP, RECEIVE_BUFFERS, RECEIVE_BYTES)
        }?;
        let empty = || Connection {
            socket: None,
            target: Box::new(SockAddr::from(SocketAddr::from(([0; 4], 0)))),
            outgoing: Outgoing::default(),
            sending: Vec::new(),
            sent: 0,
            connecting: false,
            is_sending: false,
            receiving: false,
            open: false,
            error: None,
        };
        let connections = (0..connections).map(|_| empty()).collect();
        Ok(Self { uring, connections, buffers, in_flight: 0 })
    }

    /// Starts to connect, from `local` if that is given. Bytes that are queued meanwhile are sent when the connection
    /// is established.
    ///
    /// # Errors
    ///
    /// If no socket can be opened, or it can't be bound to `local`.
    ///
    /// # Panics
    ///
    /// If the number is in use.
    pub(crate) fn connect(
        &mut self,
        number: usize,
        local: Option<SocketAddr>,
        target: SocketAddr,
    ) -> io::Result<()> {
        let connection = &mut self.connections[number];
        assert!(connection.socket.is_none(), "connection {number} is in use");
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(local) = local {
            sys::choose_port_late(&socket)?;
            socket.bind(&local.into())?;
        }
        *connection.target = target.into();
        connection.connecting = true;
        let connect = opcode::Connect::new(
            types::Fd(socket.as_raw_fd()),
            connection.target.as_ptr().cast(),
            connection.target.len(),
        );
        connection.socket = Some(socket.into());
        self.push(&connect.build().user_data(Operation::Connect.of(number)))
    }

    /// Returns what a connection will send. Call [`flush`](Self::flush) after a change.
    pub(crate) fn outgoing(&mut self, number: usize) -> &mut Outgoing {
        &mut self.connections[number].outgoing
    }

    /// Starts to send a connection's outgoing bytes, or to close it.
    ///
    /// # Errors
    ///
    /// If the kernel accepts no submissions.
    pub(crate) fn flush(&mut self, number: usize) -> io::Result<()> {
        let connection = &mut self.connections[number];
        if !connection.open {
            return Ok(()); // sent when it is open
        }
        let socket = connection.socket.as_ref().expect("an open connection has a socket");
        if connection.outgoing.close {
            connection.open = false;
            if connection.receiving || connection.is_sending {
                // This ends them. (Through the ring another thread would do it, on any core.)
                let _ = SockRef::from(socket).shutdown(Shutdown::Both);
            }
            return Ok(());
        }
        if connection.is_sending {
            return Ok(()); // sent when the current send has completed
        }
        let socket = types::Fd(socket.as_raw_fd());
        if connection.sent == connection.sending.len() {
            connection.sending.clear();
            connection.sent = 0;
            std::mem::swap(&mut connection.sending, &mut connection.outgoing.send);
        }
        let left = &connection.sending[connection.sent..];
        if left.is_empty() {
            return Ok(());
        }
        connection.is_sending = true;
        let send = opcode::Send::new(socket, left.as_ptr(), left.len() as u32).flags(libc::MSG_NOSIGNAL);
        self.push(&send.build().user_data(Operation::Send.of(number)))
    }

    /// Takes up to `budget` completions and passes their events to `handle`, which may add outgoing bytes. Returns the
    /// number of completions.
    ///
    /// # Errors
    ///
    /// If the kernel accepts no submissions.
    pub(crate) fn turn(
        &mut self,
        budget: usize,
        mut handle: impl FnMut(usize, TcpEvent<'_>, &mut Outgoing),
    ) -> io::Result<usize> {
        for taken in 0..budget {
            let Some(completion) = self.uring.completion().next() else {
                self.buffers.publish();
                return Ok(taken);
            };
            let (operation, number) = Operation::read(completion.user_data());
            if !cqueue::more(completion.flags()) {
                self.in_flight -= 1;
            }
            self.complete(operation, number, &completion, &mut handle)?;
        }
        self.buffers.publish();
        Ok(budget)
    }

    fn complete(
        &mut self,
        operation: Operation,
        number: usize,
        completion: &cqueue::Entry,
        handle: &mut impl FnMut(usize, TcpEvent<'_>, &mut Outgoing),
    ) -> io::Result<()> {
        let connection = &mut self.connections[number];
        let result = match completion.result() {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            length => Ok(length as usize),
        };
        match operation {
            Operation::Connect => {
                connection.connecting = false;
                match result {
                    Ok(_) => {
                        connection.open = true;
                        handle(number, TcpEvent::Open, &mut connection.outgoing);
                        self.receive(number)?;
                        self.flush(number)?;
                    }
                    Err(error) => connection.error = Some(error),
                }
            }
            Operation::Send => {
                connection.is_sending = false;
                match result {
                    Ok(length) => connection.sent += length,
                    Err(error) => {
                        connection.error.get_or_insert(error);
                        connection.outgoing.close = true;
                    }
                }
                self.flush(number)?;
            }
            Operation::Receive => {
                connection.receiving = cqueue::more(completion.flags());
                if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                    let bytes = self.buffers.filled(buffer, *result.as_ref().unwrap_or(&0));
                    if !bytes.is_empty() && connection.open {
                        handle(number, TcpEvent::Received(bytes), &mut connection.outgoing);
                    }
                    self.buffers.recycle(buffer);
                }
                let starved = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ENOBUFS));
                let goes_on = starved || matches!(result, Ok(1..));
                if let Err(error) = result
                    && !starved
                {
                    connection.error.get_or_insert(error);
                }
                if !goes_on {
                    connection.outgoing.close = true; // the other side has closed
                } else if !connection.receiving && connection.open {
                    self.receive(number)?;
                }
                self.flush(number)?;
            }
        }
        self.free(number, handle);
        Ok(())
    }

    /// Frees a connection's number if no operation of it is in flight.
    fn free(&mut self, number: usize, handle: &mut impl FnMut(usize, TcpEvent<'_>, &mut Outgoing)) {
        let connection = &mut self.connections[number];
        let busy = connection.open || connection.connecting || connection.is_sending || connection.receiving;
        if busy || connection.socket.take().is_none() {
            return;
        }
        connection.outgoing.close = false;
        connection.outgoing.send.clear();
        connection.sending.clear();
        connection.sent = 0;
        let error = connection.error.take();
        handle(number, TcpEvent::Closed(error), &mut connection.outgoing);
    }

    fn receive(&mut self, number: usize) -> io::Result<()> {
        let connection = &mut self.connections[number];
        let socket =
            types::Fd(connection.socket.as_ref().expect("an open connection has a socket").as_raw_fd());
        connection.receiving = true;
        let receive = opcode::RecvMulti::new(socket, BUFFER_GROUP).build();
        self.push(&receive.user_data(Operation::Receive.of(number)))
    }

    /// Queues an entry. Submits first if the queue is full.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for _ in 0..SUBMIT_TRIES {
            // SAFETY: what an entry points to outlives its operation. The address is boxed, and neither it nor the
            // bytes being sent change until the operation has completed. The ring drains before it drops them.
            let pushed = unsafe { self.uring.submission().push(entry) };
            if pushed.is_ok() {
                self.in_flight += 1;
                return Ok(());
            }
            self.submit()?;
        }
        Err(io::Error::other("the kernel accepts no submissions"))
    }

    /// Submits the queued entries and lets the kernel do the ring's deferred work.
    ///
    /// # Errors
    ///
    /// If the kernel rejects the submission permanently.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        let (submitter, mut submissions, _) = self.uring.split();
        submissions.sync();
        if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
            return Ok(());
        }
        match submitter.submit() {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Sleeps until there is a completion or `at_most` has passed.
    ///
    /// # Errors
    ///
    /// As `io_uring_enter(2)`.
    pub(crate) fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        wait(&self.uring.submitter(), at_most)
    }

    fn cancel_and_drain(&mut self) -> io::Result<()> {
        self.submit()?;
        while self.in_flight > 0 {
            // ENOENT: the operations have ended by themselves.
            match self.uring.submitter().register_sync_cancel(None, CancelBuilder::any()) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
            self.wait(Duration::from_millis(1))?;
            let ended =
                self.uring.completion().filter(|completion| !cqueue::more(completion.flags())).count();
            self.in_flight -= ended;
        }
        Ok(())
    }
}

impl Drop for TcpRing {
    fn drop(&mut self) {
        // If the ring can't be drained, the kernel may still write into the buffers, so they must not be freed.
        if let Err(error) = self.cancel_and_drain() {
            panic!("the ring of connections could not be drained: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Runs turns until `handle` returns true.
    fn run(ring: &mut TcpRing, mut handle: impl FnMut(usize, TcpEvent<'_>, &mut Outgoing) -> bool) {
        let mut done = false;
        while !done {
            ring.turn(16, |number, event, outgoing| done |= handle(number, event, outgoing)).unwrap();
            ring.submit().unwrap();
            ring.wait(Duration::from_millis(10)).unwrap();
        }
    }

    #[test]
    fn a_connection_sends_and_receives_and_its_number_can_be_reused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = [0; 5];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes.map(|byte| byte.to_ascii_uppercase())).unwrap();
            }
        });
        let mut ring = TcpRing::new(1).unwrap();
        for local in [None, Some("127.0.0.9:0".parse().unwrap())] {
            ring.connect(0, local, address).unwrap();
            ring.outgoing(0).send.extend_from_slice(b"hello");
            let mut received = Vec::new();
            run(&mut ring, |number, event, _| {
                assert_eq!(number, 0);
                match event {
                    TcpEvent::Open => {}
                    TcpEvent::Received(bytes) => received.extend_from_slice(bytes),
                    TcpEvent::Closed(error) => {
                        assert!(error.is_none(), "{error:?}");
                        return true;
                    }
                }
                false
            });
            assert_eq!(received, b"HELLO");
        }
        assert_eq!(ring.in_flight, 0);
        server.join().unwrap();
    }

    #[test]
    fn a_refused_connection_reports_the_error() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut ring = TcpRing::new(1).unwrap();
        ring.connect(0, None, address).unwrap();
        let mut kind = None;
        run(&mut ring, |_, event, _| match event {
            TcpEvent::Closed(error) => {
                kind = error.map(|error| error.kind());
                true
            }
            _ => false,
        });
        assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused));
    }

    #[test]
    fn a_connection_closes_on_demand_and_a_ring_with_open_ones_can_be_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut ring = TcpRing::new(2).unwrap();
        ring.connect(0, None, address).unwrap();
        ring.connect(1, None, address).unwrap();
        let mut opened = 0;
        run(&mut ring, |number, event, outgoing| {
            if let TcpEvent::Open = event {
                outgoing.close = number == 0;
                opened += 1;
            }
            opened == 2 && matches!(event, TcpEvent::Closed(_)) || {
                assert!(!matches!(event, TcpEvent::Closed(_)) || number == 0);
                false
            }
        });
        let (mut streams, mut ends) = (Vec::new(), 0);
        for _ in 0..2 {
            streams.push(listener.accept().unwrap().0);
        }
        drop(ring); // with a receive in flight
        for mut stream in streams {
            ends += usize::from(matches!(stream.read(&mut [0]), Ok(0)));
        }
        assert_eq!(ends, 2);
    }
}
