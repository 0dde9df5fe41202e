//! Owns the list of a worker's HTTP connections and their deadlines.
//!
//! A connection notes in its entry what it waits for and until when: two stores, no timer. A walk over all entries, a
//! slice each turn, shuts the sockets of late connections, which ends the operation that they wait in.
//!
//! At the limit, an old connection makes room for a new one: the one that has been idle for longest or, if none is
//! idle, the one that has been reading a request for longest. A connection on which the tracker is working never does.
//! A connection that starts to wait goes to the end of a queue. One that stops waiting stays in the queue; it is passed
//! over when it comes first.

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::ConnectionLimits;
use super::queues::Queues;
use crate::limits::{
    HTTP_HEAD_DEADLINE_MS, HTTP_IDLE_DEADLINE_MS, HTTP_LINGER_DEADLINE_MS, HTTP_REAP_INTERVAL_MS,
    HTTP_WRITE_DEADLINE_MS, TURN_CONNECTIONS,
};
use crate::ring::TcpStream;
use crate::time::Timestamp;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request.
    Request,
    /// Other workers, which have their own deadline.
    Answer,
    /// A handler or middleware. The connection's task checks its deadline.
    Handler,
    /// A handler with an endless response.
    Endless,
    /// The client, to take the response.
    Write,
    /// The client's end, after an error.
    Linger,
}

impl Phase {
    fn timeout(self) -> Duration {
        Duration::from_millis(match self {
            Self::Idle => HTTP_IDLE_DEADLINE_MS,
            Self::Request => HTTP_HEAD_DEADLINE_MS,
            Self::Answer | Self::Handler | Self::Endless => return Duration::MAX,
            Self::Write => HTTP_WRITE_DEADLINE_MS,
            Self::Linger => HTTP_LINGER_DEADLINE_MS,
        })
    }
}

/// The phases in which a connection may be closed for a new one. Connections in the first phase are closed first.
const YIELDING: [Phase; 2] = [Phase::Idle, Phase::Request];

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Stays,
    /// It missed the deadline of its phase.
    IsLate,
    /// It is closed for a new one.
    MakesRoom,
    /// There was no place for it: it gets a 503.
    IsRefused,
}

struct Entry {
    stream: Rc<TcpStream>,
    phase: Phase,
    deadline: Timestamp,
    fate: Fate,
}

/// A connection's place in the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub(super) key: usize,
    /// There was no place for it: it gets a 503 and is closed.
    pub(super) refused: bool,
}

/// The open connections.
pub(super) struct Connections {
    entries: Slab<Entry>,
    /// Connections that wait for their client, one queue for each yielding phase.
    waiting: Queues<{ YIELDING.len() }>,
    /// Number of connections that make room and are still open.
    leaving: usize,
    /// Number of refused connections that are still open.
    refused: usize,
    /// Number of connections that ever made room.
    evicted: u64,
    limits: ConnectionLimits,
    next_reap: Timestamp,
    cursor: usize,
}

impl Connections {
    /// Returns an empty list with these limits.
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self {
            entries: Slab::new(),
            waiting: Queues::new(),
            leaving: 0,
            refused: 0,
            evicted: 0,
            limits,
            next_reap: Timestamp::default(),
            cursor: 0,
        }
    }

    /// Changes the limits. Connections over the new limit are closed if they wait for their client.
    pub(super) fn set_limits(&mut self, limits: ConnectionLimits) {
        self.limits = limits;
        while self.staying() > limits.open && self.make_room() {}
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of connections that ever made room for others.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn staying(&self) -> usize {
        self.entries.len() - self.leaving - self.refused
    }

    /// Whether a new connection, even one to refuse, must wait until one that makes room is closed.
    pub(super) fn is_making_room(&self) -> bool {
        self.leaving > 0 && self.entries.len() >= self.limits.open + self.limits.refused
    }

    /// Returns the number of further connections that there is a place for, even if only to refuse them.
    pub(super) fn places(&self) -> usize {
        (self.limits.open + self.limits.refused).saturating_sub(self.entries.len())
    }

    /// Adds a connection, perhaps only to refuse it. `None`: there are too many even for that.
    pub(super) fn open(&mut self, now: Timestamp, stream: &Rc<TcpStream>) -> Option<Admission> {
        if self.entries.len() >= self.limits.open + self.limits.refused {
            return None;
        }
        let refused = self.staying() >= self.limits.open && !self.make_room();
        let fate = if refused { Fate::IsRefused } else { Fate::Stays };
        self.refused += usize::from(refused);
        let (phase, deadline) = (Phase::Idle, now + Phase::Idle.timeout());
        let key = self.entries.insert(Entry { stream: stream.clone(), phase, deadline, fate });
        self.wait(key, phase);
        Some(Admission { key, refused })
    }

    /// Closes the connection that can best be spared. False: none can.
    fn make_room(&mut self) -> bool {
        for (queue, phase) in YIELDING.into_iter().enumerate() {
            while let Some(key) = self.waiting.first(queue) {
                self.waiting.leave(key);
                let entry = &mut self.entries[key];
                if entry.phase == phase && entry.fate == Fate::Stays {
                    entry.fate = Fate::MakesRoom;
                    entry.shut();
                    self.leaving += 1;
                    self.evicted += 1;
                    return true;
                }
            }
        }
        false
    }

    /// Puts the connection at the end of the phase's queue, if it has one.
    fn wait(&mut self, key: usize, phase: Phase) {
        if let Some(queue) = YIELDING.iter().position(|&yielding| yielding == phase) {
            self.waiting.put_last(queue, key);
        }
    }

    /// Notes what a connection waits for. Its deadline starts with the phase, not anew with each byte.
    pub(super) fn enter(&mut self, now: Timestamp, key: usize, phase: Phase) {
        let entry = &mut self.entries[key];
        if entry.phase != phase {
            entry.phase = phase;
            entry.deadline = now + phase.timeout();
            self.wait(key, phase);
        }
    }

    /// Returns what happens to the connection.
    pub(super) fn fate(&self, key: usize) -> Fate {
        self.entries[key].fate
    }

    pub(super) fn close(&mut self, key: usize) {
        self.waiting.leave(key);
        let entry = self.entries.remove(key);
        self.leaving -= usize::from(entry.fate == Fate::MakesRoom);
        self.refused -= usize::from(entry.fate == Fate::IsRefused);
    }

    #[cfg(test)]
    pub(super) fn has_one_in(&self, phase: Phase) -> bool {
        self.entries.iter().any(|(_, entry)| entry.phase == phase)
    }

    /// Checks a slice of the entries and shuts late connections. True: there are more entries to check.
    pub(super) fn reap(&mut self, now: Timestamp) -> bool {
        if now < self.next_reap {
            return false;
        }
        let end = (self.cursor + TURN_CONNECTIONS).min(self.entries.capacity());
        for key in self.cursor..end {
            if let Some(entry) = self.entries.get_mut(key)
                && entry.deadline <= now
            {
                if entry.fate == Fate::Stays {
                    entry.fate = Fate::IsLate;
                }
                entry.shut();
            }
        }
        let more = end < self.entries.capacity();
        self.cursor = if more { end } else { 0 };
        if !more {
            self.next_reap = now + Duration::from_millis(HTTP_REAP_INTERVAL_MS);
        }
        more
    }

    /// Shuts the connections on which no request is being read, answered or written, and those with endless responses.
    pub(super) fn close_idle(&mut self) {
        let idle = |phase| matches!(phase, Phase::Idle | Phase::Linger | Phase::Endless);
        self.entries.iter().filter(|(_, entry)| idle(entry.phase)).for_each(|(_, entry)| entry.shut());
    }

    /// Shuts all connections.
    pub(super) fn close_all(&mut self) {
        self.entries.iter().for_each(|(_, entry)| entry.stream.shutdown(Shutdown::Both));
    }
}

impl Entry {
    /// Ends the operation that the connection waits in. Only reading is shut where a response may still be written: a
    /// late request gets its 408, and a request that reaches an idle connection just now gets its response.
    fn shut(&self) {
        let how = match self.phase {
            Phase::Request if self.fate == Fate::MakesRoom => Shutdown::Both,
            Phase::Idle | Phase::Request => Shutdown::Read,
            Phase::Answer | Phase::Handler => return,
            Phase::Write | Phase::Linger | Phase::Endless => Shutdown::Both,
        };
        self.stream.shutdown(how);
    }
}
