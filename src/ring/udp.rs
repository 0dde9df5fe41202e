//! Owns the UDP sockets of a ring: when they receive, and what leaves from them.
//!
//! A receive is one submission that takes the datagrams that a socket holds. It ends when the socket holds no more, or
//! when a turn is full. Nothing watches a socket between two receives, so a datagram that arrives meanwhile costs no
//! wake-up. Before a sleep that a datagram must end, a poll of the socket is submitted, and the receive is linked
//! behind it.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use io_uring::{SubmissionQueue, Submitter, cqueue, opcode, squeue, types};

use super::buffers::ReceiveBuffers;
use super::recv::{RECEIVE_BYTES, ReceiveLayout};
use super::send::ReplySlots;
use super::tag::Tag;
use super::{Receive, RingSocket, push, submit};
use crate::engine::{Endpoint, Received};
use crate::limits::{RECEIVE_BUFFERS, RECEIVE_FAILURES_MAX, UDP_REPLY_MAX_BYTES};

/// Id of the group of provided buffers for datagrams.
const BUFFER_GROUP: u16 = 0;

/// A socket as the ring works with it.
struct Socket {
    socket: UdpSocket,
    layout: Box<ReceiveLayout>,
    /// Whether a receive is in flight: the kernel may write into the buffers.
    receiving: bool,
    failures: u32,
}

pub(super) struct UdpSockets {
    sockets: Vec<Socket>,
    pub(super) replies: ReplySlots,
    /// Whether the sockets are connected, so that datagrams need no destination address.
    pub(super) connected: bool,
    buffers: ReceiveBuffers,
    /// The socket whose receive is submitted first.
    first: usize,
    /// Whether ended receives are started again.
    open: bool,
}

impl UdpSockets {
    /// Registers the sockets and the buffers of a ring.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        sockets: Vec<RingSocket>,
        connected: bool,
    ) -> io::Result<Self> {
        let sockets: Vec<_> = sockets
            .into_iter()
            .map(|RingSocket { socket, wildcard }| Socket {
                socket,
                layout: ReceiveLayout::new(wildcard),
                receiving: false,
                failures: 0,
            })
            .collect();
        let descriptors: Vec<_> = sockets.iter().map(|socket| socket.socket.as_raw_fd()).collect();
        if !descriptors.is_empty() {
            submitter.register_files(&descriptors)?;
        }
        // SAFETY: `Ring::drop` waits for the end of all receives before the buffers go.
        let buffers =
            unsafe { ReceiveBuffers::register(submitter, BUFFER_GROUP, RECEIVE_BUFFERS, RECEIVE_BYTES) }?;
        Ok(Self { sockets, replies: ReplySlots::new(), connected, buffers, first: 0, open: true })
    }

    /// Takes the completion of a receive: passes its datagram to `answer` and queues the response, or notes that the
    /// receive has ended.
    #[inline]
    pub(super) fn received(
        &mut self,
        number: u32,
        completion: &cqueue::Entry,
        (submitter, submissions): (&Submitter<'_>, &mut SubmissionQueue<'_>),
        received: &mut Received,
        answer: &mut impl FnMut(&Endpoint, &[u8], &mut [u8; UDP_REPLY_MAX_BYTES]) -> Option<usize>,
    ) -> io::Result<()> {
        let socket = &mut self.sockets[number as usize];
        socket.receiving = cqueue::more(completion.flags());
        let Some(buffer) = cqueue::buffer_select(completion.flags()) else {
            return if self.open { socket.ended(-completion.result(), received) } else { Ok(()) };
        };
        socket.failures = 0;
        received.completions += 1;
        received.datagrams += 1;
        let length = usize::try_from(completion.result()).unwrap_or(0);
        match socket.layout.read(self.buffers.filled(buffer, length), number as u8) {
            Some((from, datagram)) => {
                if self.replies.is_full() {
                    submit(submitter, submissions)?;
                    self.replies.free_if(submissions.is_empty());
                }
                match self.replies.next() {
                    Some(slot) => {
                        if let Some(length) = answer(&from, datagram, slot.payload()) {
                            push(submissions, &slot.address(&from, length, self.connected));
                            self.replies.use_next();
                        }
                    }
                    None => received.send_failed += 1, // the kernel accepts nothing: drop the request
                }
            }
            None => received.truncated += 1,
        }
        self.buffers.recycle(buffer);
        Ok(())
    }

    /// Gives the buffers of taken datagrams back to the kernel.
    pub(super) fn publish_buffers(&mut self) {
        self.buffers.publish();
    }

    /// Queues a receive for each socket that has none in flight. Each call begins with another socket, so that no
    /// socket starves when buffers are short.
    pub(super) fn queue_receives(&mut self, when: Receive, submissions: &mut SubmissionQueue<'_>) {
        let count = self.sockets.len();
        if when == Receive::Later || !self.open {
            return;
        }
        for number in (0..count).map(|number| (number + self.first) % count) {
            let socket = &mut self.sockets[number];
            if socket.receiving {
                continue;
            }
            socket.receiving = true;
            let (fixed, tag) = (types::Fixed(number as u32), Tag::Datagrams(number as u32).encode());
            if when == Receive::WhenReadable {
                // One completion tells the end of both: that of the poll if it fails, else that of the receive.
                let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                let poll = opcode::PollAdd::new(fixed, libc::POLLIN as u32).build();
                push(submissions, &poll.flags(flags).user_data(tag));
            }
            let receive = opcode::RecvMsgMulti::new(fixed, socket.layout.header(), BUFFER_GROUP);
            // It does not wait for more: the completion after the last datagram is EAGAIN.
            push(submissions, &receive.flags(libc::MSG_DONTWAIT as u32).build().user_data(tag));
        }
        self.first = (self.first + 1) % count.max(1);
    }

    /// Starts no more receives, and queues a cancellation for each one in flight.
    pub(super) fn stop_receiving(&mut self, submissions: &mut SubmissionQueue<'_>) {
        self.open = false;
        for (number, _) in self.sockets.iter().enumerate().filter(|(_, socket)| socket.receiving) {
            let receive = Tag::Datagrams(number as u32).encode();
            push(submissions, &opcode::AsyncCancel::new(receive).build().user_data(Tag::Cancel.encode()));
        }
    }

    /// Whether a receive is in flight.
    pub(super) fn is_receiving(&self) -> bool {
        self.sockets.iter().any(|socket| socket.receiving)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().map(|socket| &socket.socket)
    }
}

impl Socket {
    /// Judges the end of a receive.
    fn ended(&mut self, error: i32, received: &mut Received) -> io::Result<()> {
        if error == libc::EAGAIN {
            return Ok(()); // the socket is empty
        }
        let starved = error == libc::ENOBUFS; // other sockets use all buffers: not a failure of this one
        self.failures += u32::from(!starved);
        received.overflows += 1;
        let unknown = matches!(error, libc::EINVAL | libc::EOPNOTSUPP);
        if unknown || self.failures > RECEIVE_FAILURES_MAX {
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(())
    }
}
