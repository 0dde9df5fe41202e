//! Owns sessions in the memory of the process: their maximum number, and which are dropped first.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{SessionId, SessionStore, StoreFuture, StoredSession, Values};
use crate::limits::{WEB_SESSION_PART_MIN, WEB_SESSION_PARTS_MAX, WEB_SESSIONS_MAX, WEB_SESSIONS_SWEPT};
use gyre_core::error::TrackerError;
use gyre_core::time::Timestamp;

/// Keeps sessions in memory until the process ends. When the store is full, a new session replaces an expired one, or
/// else the least recently used one.
///
/// A large store has several parts, each with an equal share of the capacity. A hash assigns sessions to parts.
///
/// ```
/// # use gyre_web::testing as gyre;
/// let store = gyre::web::session::MemoryStore::with_capacity(1_000);
/// assert!(store.is_empty());
/// ```
pub struct MemoryStore {
    parts: Box<[Mutex<Part>]>,
    hasher: RandomState,
}

impl MemoryStore {
    /// Creates a store for [`WEB_SESSIONS_MAX`] sessions.
    pub fn new() -> Self {
        Self::with_capacity(WEB_SESSIONS_MAX)
    }

    /// Creates a store for at most `max_sessions` sessions, and at least one. Each takes up to
    /// [`WEB_SESSION_MAX_BYTES`](crate::limits::WEB_SESSION_MAX_BYTES) and about 300 more.
    pub fn with_capacity(max_sessions: usize) -> Self {
        let parts = (max_sessions / WEB_SESSION_PART_MIN).clamp(1, WEB_SESSION_PARTS_MAX);
        let capacity = (max_sessions / parts).max(1);
        let part = || Mutex::new(Part { capacity, ..Part::default() });
        Self { parts: (0..parts).map(|_| part()).collect(), hasher: RandomState::new() }
    }

    /// Returns the number of sessions, including expired ones that were not swept yet.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).sessions.len()).sum()
    }

    /// Returns whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the lists of each part are consistent.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        self.parts.iter().all(|part| {
            let part = lock(part);
            let is_listed = |(id, entry): (&SessionId, &Entry)| {
                part.by_use.get(&entry.used) == Some(id) && part.by_end.contains(&(entry.end, entry.used))
            };
            let count = part.sessions.len();
            part.sessions.iter().all(is_listed) && part.by_use.len() == count && part.by_end.len() == count
        })
    }

    /// Returns whether it has a session. Does not count as a use.
    #[cfg(test)]
    pub(super) fn has(&self, id: &SessionId) -> bool {
        self.part(id).sessions.contains_key(id)
    }

    fn part(&self, id: &SessionId) -> MutexGuard<'_, Part> {
        let number = self.hasher.hash_one(id) as usize % self.parts.len();
        lock(&self.parts[number])
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionStore for MemoryStore {
    fn load(&self, id: SessionId, now: Timestamp) -> StoreFuture<'_, Option<StoredSession>> {
        let found = self.part(&id).use_now(&id, now);
        let read = |(text, remaining): (Arc<[u8]>, _)| {
            let values = serde_json::from_slice(&text).map_err(TrackerError::internal)?;
            Ok(StoredSession { values, remaining })
        };
        Box::pin(future::ready(found.map(read).transpose()))
    }

    fn save(&self, id: SessionId, values: Values, now: Timestamp, lifetime: Duration) -> StoreFuture<'_, ()> {
        Box::pin(future::ready(json(&values).map(|text| {
            let mut part = self.part(&id);
            part.make_room(now);
            part.put(id, text, now + lifetime);
        })))
    }

    fn replace(
        &self,
        id: SessionId,
        values: Values,
        now: Timestamp,
        lifetime: Duration,
    ) -> StoreFuture<'_, bool> {
        Box::pin(future::ready(json(&values).map(|text| {
            let mut part = self.part(&id);
            let is_there = part.use_now(&id, now).is_some();
            if is_there {
                part.put(id, text, now + lifetime);
            }
            is_there
        })))
    }

    fn remove(&self, id: SessionId) -> StoreFuture<'_, ()> {
        self.part(&id).take(&id);
        Box::pin(future::ready(Ok(())))
    }
}

/// Writes values as JSON text. Sessions are kept as text because its size is known, unlike that of a tree of values.
fn json(values: &Values) -> Result<Arc<[u8]>, TrackerError> {
    serde_json::to_vec(values).map(Arc::from).map_err(TrackerError::internal)
}

/// The part of a store that is under one lock.
#[derive(Default)]
struct Part {
    sessions: HashMap<SessionId, Entry>,
    /// Sessions by the number of their last use.
    by_use: BTreeMap<u64, SessionId>,
    /// Time of expiry and number of the last use of each session, in the order of expiry.
    by_end: BTreeSet<(Timestamp, u64)>,
    /// Number of uses so far.
    uses: u64,
    capacity: usize,
}

struct Entry {
    text: Arc<[u8]>,
    end: Timestamp,
    used: u64,
}

impl Part {
    /// Returns the text of a session and its remaining lifetime. This counts as a use.
    fn use_now(&mut self, id: &SessionId, now: Timestamp) -> Option<(Arc<[u8]>, Duration)> {
        let Entry { text, end, .. } = self.take(id)?;
        let remaining = end.since(now);
        if remaining.is_zero() {
            return None;
        }
        self.put(id.clone(), Arc::clone(&text), end);
        Some((text, remaining))
    }

    fn put(&mut self, id: SessionId, text: Arc<[u8]>, end: Timestamp) {
        self.take(&id);
        let used = self.uses;
        self.uses += 1;
        self.by_use.insert(used, id.clone());
        self.by_end.insert((end, used));
        self.sessions.insert(id, Entry { text, end, used });
    }

    fn take(&mut self, id: &SessionId) -> Option<Entry> {
        let entry = self.sessions.remove(id)?;
        self.by_use.remove(&entry.used);
        self.by_end.remove(&(entry.end, entry.used));
        Some(entry)
    }

    /// Drops up to [`WEB_SESSIONS_SWEPT`] expired sessions. If the part is still full, drops the least recently used
    /// one.
    fn make_room(&mut self, now: Timestamp) {
        for _ in 0..WEB_SESSIONS_SWEPT {
            let first = self.by_end.first().filter(|(end, _)| *end <= now);
            let Some(id) = first.and_then(|(_, used)| self.by_use.get(used)).cloned() else { break };
            self.take(&id);
        }
        if self.sessions.len() >= self.capacity
            && let Some((_, id)) = self.by_use.first_key_value()
        {
            let id = id.clone();
            self.take(&id);
        }
    }
}
