//! Owns sessions in the memory of the process: how many there are at most, and which go first.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Answer, SessionId, SessionStore, Stored, Values};
use crate::limits::{WEB_SESSION_PART_MIN, WEB_SESSION_PARTS_MAX, WEB_SESSIONS_MAX, WEB_SESSIONS_SWEPT};
use gyre_core::error::TrackerError;
use gyre_core::time::Timestamp;

/// Sessions in memory: they are gone when the process ends. A new one that there is no room for takes the place of one
/// that has expired, or else of the one that was unused for longest.
///
/// A large store consists of parts, among which sessions are shared out by chance; each has its share of the room.
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
    /// A store for [`WEB_SESSIONS_MAX`] sessions.
    pub fn new() -> Self {
        Self::with_capacity(WEB_SESSIONS_MAX)
    }

    /// A store for at most so many sessions, and at least one. Each takes up to
    /// [`WEB_SESSION_MAX_BYTES`](crate::limits::WEB_SESSION_MAX_BYTES) and some 300 more.
    pub fn with_capacity(max_sessions: usize) -> Self {
        let parts = (max_sessions / WEB_SESSION_PART_MIN).clamp(1, WEB_SESSION_PARTS_MAX);
        let capacity = (max_sessions / parts).max(1);
        let part = || Mutex::new(Part { capacity, ..Part::default() });
        Self { parts: (0..parts).map(|_| part()).collect(), hasher: RandomState::new() }
    }

    /// How many sessions there are, with those that have expired and were not swept yet.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).sessions.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its lists agree with each other.
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

    /// Whether it has a session. To look is no use.
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
    fn load(&self, id: SessionId, now: Timestamp) -> Answer<'_, Option<Stored>> {
        let found = self.part(&id).use_now(&id, now);
        let read = |(text, left): (Arc<[u8]>, _)| {
            let values = serde_json::from_slice(&text).map_err(TrackerError::internal)?;
            Ok(Stored { values, left })
        };
        Box::pin(future::ready(found.map(read).transpose()))
    }

    fn save(&self, id: SessionId, values: Values, now: Timestamp, lifetime: Duration) -> Answer<'_, ()> {
        Box::pin(future::ready(json(&values).map(|text| {
            let mut part = self.part(&id);
            part.make_room(now);
            part.put(id, text, now + lifetime);
        })))
    }

    fn replace(&self, id: SessionId, values: Values, now: Timestamp, lifetime: Duration) -> Answer<'_, bool> {
        Box::pin(future::ready(json(&values).map(|text| {
            let mut part = self.part(&id);
            let is_there = part.use_now(&id, now).is_some();
            if is_there {
                part.put(id, text, now + lifetime);
            }
            is_there
        })))
    }

    fn remove(&self, id: SessionId) -> Answer<'_, ()> {
        self.part(&id).take(&id);
        Box::pin(future::ready(Ok(())))
    }
}

/// Sessions are kept as text: so their memory is known, which that of a tree of values is not.
fn json(values: &Values) -> Result<Arc<[u8]>, TrackerError> {
    serde_json::to_vec(values).map(Arc::from).map_err(TrackerError::internal)
}

/// The sessions under one lock.
#[derive(Default)]
struct Part {
    sessions: HashMap<SessionId, Entry>,
    /// Each by the number of its last use ...
    by_use: BTreeMap<u64, SessionId>,
    /// ... and these by their end.
    by_end: BTreeSet<(Timestamp, u64)>,
    /// Uses so far.
    uses: u64,
    capacity: usize,
}

struct Entry {
    text: Arc<[u8]>,
    end: Timestamp,
    used: u64,
}

impl Part {
    /// What is kept of a session, and for how much longer. That counts as a use.
    fn use_now(&mut self, id: &SessionId, now: Timestamp) -> Option<(Arc<[u8]>, Duration)> {
        let Entry { text, end, .. } = self.take(id)?;
        let left = end.since(now);
        if left.is_zero() {
            return None;
        }
        self.put(id.clone(), Arc::clone(&text), end);
        Some((text, left))
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

    /// Drops some that have expired, and if it is full nevertheless the one that was unused for longest.
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
