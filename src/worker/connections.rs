//! Owns the list of a worker's HTTP connections and their deadlines.
//!
//! A connection notes in its entry what it waits for and until when: two stores, no timer. A walk over all entries, a
//! slice a turn, shuts the sockets of those that are late, which ends the operation that they wait in.

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio_uring::net::TcpStream;

use super::ConnectionLimits;
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

struct Entry {
    stream: Rc<TcpStream>,
    phase: Phase,
    deadline: Timestamp,
    late: bool,
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
    limits: ConnectionLimits,
    next_reap: Timestamp,
    cursor: usize,
}

impl Connections {
    /// None yet, and never more than the limits.
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { entries: Slab::new(), limits, next_reap: Timestamp::default(), cursor: 0 }
    }

    /// Holds to other limits from now on.
    pub(super) fn set_limits(&mut self, limits: ConnectionLimits) {
        self.limits = limits;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Enters a connection, if only to tell it that there are too many. `None`: there are too many even for that.
    pub(super) fn open(&mut self, now: Timestamp, stream: &Rc<TcpStream>) -> Option<Admission> {
        let there = self.entries.len();
        if there >= self.limits.open + self.limits.refused {
            return None;
        }
        let (phase, deadline) = (Phase::Idle, now + Phase::Idle.lasts());
        let key = self.entries.insert(Entry { stream: stream.clone(), phase, deadline, late: false });
        Some(Admission { key, refused: there >= self.limits.open })
    }

    /// Notes what a connection waits for. Its time starts when the phase does, not anew with each byte.
    pub(super) fn enter(&mut self, now: Timestamp, key: usize, phase: Phase) {
        let entry = &mut self.entries[key];
        if entry.phase != phase {
            entry.phase = phase;
            entry.deadline = now + phase.lasts();
        }
    }

    /// Whether the connection missed the deadline of the phase that it is in.
    pub(super) fn is_late(&self, key: usize) -> bool {
        self.entries[key].late
    }

    pub(super) fn close(&mut self, key: usize) {
        self.entries.remove(key);
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
                entry.late = true;
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
    /// Ends the operation that the connection waits in. A request that is late still gets its 408, so that only the
    /// way in is shut.
    fn shut(&self) {
        let how = match self.phase {
            Phase::Idle | Phase::Request => Shutdown::Read,
            Phase::Answer | Phase::Handler => return,
            Phase::Write | Phase::Linger | Phase::Endless => Shutdown::Both,
        };
        // If the client has gone already there is nothing to shut.
        let _ = self.stream.shutdown(how);
    }
}
