//! Owns the TCP listeners of a ring: when they accept, and the connections that were accepted and not taken yet.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};

use super::tag::Tag;
use crate::limits::HTTP_BACKLOG;

struct Listener {
    /// `None` once it is closed.
    socket: Option<TcpListener>,
    accepting: Accepting,
}

/// The accept of a listener that is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    None,
    /// It takes one connection.
    One,
    /// It takes all connections that come.
    All,
    Cancelled,
}

pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// They are closed, each once it accepts no more.
    closes: bool,
    /// Accepted connections that were not taken, with the number of the listener, and failures to accept.
    accepted: VecDeque<io::Result<(OwnedFd, usize)>>,
}

impl Listeners {
    pub(super) fn new(sockets: Vec<TcpListener>) -> Self {
        let listener = |socket| Listener { socket: Some(socket), accepting: Accepting::None };
        Self {
            listeners: sockets.into_iter().map(listener).collect(),
            closes: false,
            accepted: VecDeque::new(),
        }
    }

    /// Takes the completion of an accept. `more`: it goes on.
    pub(super) fn complete(&mut self, number: usize, result: i32, more: bool) {
        let listener = &mut self.listeners[number];
        if !more {
            listener.accepting = Accepting::None;
            listener.socket.take_if(|_| self.closes);
        }
        if result == -libc::ECANCELED {
            return;
        }
        self.accepted.push_back(match result {
            0.. => {
                // SAFETY: the kernel has just made the descriptor for this process.
                Ok((unsafe { OwnedFd::from_raw_fd(result) }, number))
            }
            _ => Err(io::Error::from_raw_os_error(-result)),
        });
    }

    /// Queues an accept for each listener that has none in flight.
    ///
    /// One that takes all connections needs no submission and no failed try for each. But before it can be cancelled,
    /// it takes what waits in the kernel. So it is used only while there are `places` for all that may wait.
    pub(super) fn queue_accepts(&mut self, places: usize, queue: &mut VecDeque<squeue::Entry>) {
        let may_wait = self.listeners.len() * HTTP_BACKLOG as usize;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = &listener.socket else { continue };
            let (socket, tag) = (types::Fd(socket.as_raw_fd()), Tag::Accept(number as u32).encode());
            let entry = match listener.accepting {
                Accepting::None if places >= may_wait + may_wait / 4 => {
                    listener.accepting = Accepting::All;
                    opcode::AcceptMulti::new(socket).flags(libc::SOCK_CLOEXEC).build().user_data(tag)
                }
                Accepting::None => {
                    listener.accepting = Accepting::One;
                    let accept = opcode::Accept::new(socket, std::ptr::null_mut(), std::ptr::null_mut());
                    accept.flags(libc::SOCK_CLOEXEC).build().user_data(tag)
                }
                Accepting::All if places < may_wait => listener.cancel(tag),
                _ => continue,
            };
            queue.push_back(entry);
        }
    }

    /// Queues cancellations of all accepts in flight, and closes the listeners, each once it accepts no more.
    pub(super) fn close(&mut self, queue: &mut VecDeque<squeue::Entry>) {
        self.closes = true;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            match listener.accepting {
                Accepting::None => listener.socket = None,
                Accepting::One | Accepting::All => {
                    queue.push_back(listener.cancel(Tag::Accept(number as u32).encode()));
                }
                Accepting::Cancelled => {}
            }
        }
    }

    /// Whether an accept is in flight.
    pub(super) fn is_accepting(&self) -> bool {
        self.listeners.iter().any(|listener| listener.accepting != Accepting::None)
    }

    /// Returns the next connection or failure.
    pub(super) fn next(&mut self) -> Option<io::Result<(OwnedFd, usize)>> {
        self.accepted.pop_front()
    }

    /// Returns the listeners that are not closed.
    pub(super) fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().filter_map(|listener| listener.socket.as_ref()).map(AsFd::as_fd)
    }
}

impl Listener {
    /// Returns the entry that cancels the accept in flight.
    fn cancel(&mut self, tag: u64) -> squeue::Entry {
        self.accepting = Accepting::Cancelled;
        opcode::AsyncCancel::new(tag).build().user_data(Tag::Cancel.encode())
    }
}
