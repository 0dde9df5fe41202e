//! Owns the list of a worker's HTTP connections and their deadlines.
//!
//! A connection notes in its entry what it waits for and until when: two stores, no timer. A walk over all entries, a
//! slice a turn, shuts the sockets of those that are late, which ends the operation that they wait in.
//!
//! Where there are as many as there may be, one makes room for the next: the one that has idled for longest, or if none
//! idles, the one that has been reading a request for longest. None does on which the tracker has something to do. Who
//! begins to wait goes to the end of a queue; who goes on stays in it, which is seen when its turn has come.

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio_uring::net::TcpStream;

use super::ConnectionLimits;
use super::queues::Queues;
use crate::limits::{
    HTTP_HEAD_DEADLINE_MS, HTTP_IDLE_DEADLINE_MS, HTTP_LINGER_DEADLINE_MS, HTTP_REAP_INTERVAL_MS,
    HTTP_WRITE_DEADLINE_MS, TURN_CONNECTIONS,
};
use crate::time::Timestamp;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request.
    Request,
    /// Other workers, which have a deadline of their own.
    Answer,
    /// A handler or middleware, whose deadline the connection's task looks after.
    Handler,
    /// A handler whose response has no end.
    Endless,
    /// The client, to take the response.
    Write,
    /// The client's end, after an error.
    Linger,
}

impl Phase {
    fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Idle => HTTP_IDLE_DEADLINE_MS,
            Self::Request => HTTP_HEAD_DEADLINE_MS,
            Self::Answer | Self::Handler | Self::Endless => return Duration::MAX,
            Self::Write => HTTP_WRITE_DEADLINE_MS,
            Self::Linger => HTTP_LINGER_DEADLINE_MS,
        })
    }
}

/// The phases in which a connection may have to make room; the first one's go first.
const YIELDING: [Phase; 2] = [Phase::Idle, Phase::Request];

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Stays,
    /// It has missed the deadline of the phase that it was in.
    IsLate,
    /// Another one has got its place.
    MakesRoom,
    /// It never had one: it is told that there are too many.
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
    /// It is one too many: it gets a 503 and no more.
    pub(super) refused: bool,
}

/// The connections that are open.
pub(super) struct Connections {
    entries: Slab<Entry>,
    /// Those that wait for their client, a queue for each yielding phase.
    waiting: Queues<{ YIELDING.len() }>,
    /// Those that make room, and are still there.
    leaving: usize,
    /// Those that are refused, and are still there.
    refused: usize,
    /// Those that ever had to.
    evicted: u64,
    limits: ConnectionLimits,
    next_reap: Timestamp,
    cursor: usize,
}

impl Connections {
    /// None yet, and never more than the limits.
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

    /// Holds to other limits from now on. Those that there are too many of then have to go, if they wait for their
    /// client.
    pub(super) fn set_limits(&mut self, limits: ConnectionLimits) {
        self.limits = limits;
        while self.staying() > limits.open && self.make_room() {}
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many had to make room for others, ever.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn staying(&self) -> usize {
        self.entries.len() - self.leaving - self.refused
    }

    /// Whether there is no room for another one, not even to tell it so, before one that makes room has gone.
    pub(super) fn is_making_room(&self) -> bool {
        self.leaving > 0 && self.entries.len() >= self.limits.open + self.limits.refused
    }

    /// Enters a connection, if only to tell it that there are too many. `None`: there are too many even for that.
    pub(super) fn open(&mut self, now: Timestamp, stream: &Rc<TcpStream>) -> Option<Admission> {
        if self.entries.len() >= self.limits.open + self.limits.refused {
            return None;
        }
        let refused = self.staying() >= self.limits.open && !self.make_room();
        let fate = if refused { Fate::IsRefused } else { Fate::Stays };
        self.refused += usize::from(refused);
        let (phase, deadline) = (Phase::Idle, now + Phase::Idle.lasts());
        let key = self.entries.insert(Entry { stream: stream.clone(), phase, deadline, fate });
        self.wait(key, phase);
        Some(Admission { key, refused })
    }

    /// Has the connection go that can best be spared; false if none can.
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

    /// Goes to the end of the queue of those that wait for this, if there is one.
    fn wait(&mut self, key: usize, phase: Phase) {
        if let Some(queue) = YIELDING.iter().position(|&yielding| yielding == phase) {
            self.waiting.put_last(queue, key);
        }
    }

    /// Notes what a connection waits for. Its time starts when the phase does, not anew with each byte.
    pub(super) fn enter(&mut self, now: Timestamp, key: usize, phase: Phase) {
        let entry = &mut self.entries[key];
        if entry.phase != phase {
            entry.phase = phase;
            entry.deadline = now + phase.lasts();
            self.wait(key, phase);
        }
    }

    /// What is to become of the connection.
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

    /// Looks at a slice of the entries and shuts those that are late. True if there are more to look at.
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

    /// Shuts the connections on which no request is being read, answered or written, or without end.
    pub(super) fn close_idle(&mut self) {
        let idle = |phase| matches!(phase, Phase::Idle | Phase::Linger | Phase::Endless);
        self.entries.iter().filter(|(_, entry)| idle(entry.phase)).for_each(|(_, entry)| entry.shut());
    }

    /// Shuts all.
    pub(super) fn close_all(&mut self) {
        self.entries.iter().for_each(|(_, entry)| {
            let _ = entry.stream.shutdown(Shutdown::Both);
        });
    }
}

impl Entry {
    /// Ends the operation that the connection waits in. A request that is late still gets its 408, and one that comes
    /// just now to a connection that idled its answer, so that only the way in is shut.
    fn shut(&self) {
        let how = match self.phase {
            Phase::Request if self.fate == Fate::MakesRoom => Shutdown::Both,
            Phase::Idle | Phase::Request => Shutdown::Read,
            Phase::Answer | Phase::Handler => return,
            Phase::Write | Phase::Linger | Phase::Endless => Shutdown::Both,
        };
        // If the client has gone already there is nothing to shut.
        let _ = self.stream.shutdown(how);
    }
}
