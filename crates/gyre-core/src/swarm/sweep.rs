//! Owns the sweep, which removes expired peers, evicts peers when memory is short, and frees memory, one slice at a
//! time.
//!
//! The sweep visits swarms from the last to the first, because it moves records to the front: no swarm is skipped, and
//! a moved one is visited at most twice. Within a large set it goes upwards, because a split moves peers to the end.

use std::time::Duration;

use super::peers::{Books, Cleaned, Peers, Set};
use super::record::{Body, FEW, Few, FewPeer, Sets, Swarm};
use super::ticks::Mark;
use super::{LEECHERS, SEEDERS, Shard};
use crate::limits::{SWEEP_CLEANING_COST, SWEEP_FREED_CHUNKS, TABLE_FILL_PERCENT, TABLE_RELIEF_PERCENT};
use crate::time::Timestamp;
use crate::types::{Family, InfoHash, PeerAddr};

/// The state of the sweep between slices.
pub(super) struct Cursor {
    /// Swarms with lower numbers remain in this lap.
    below: u32,
    /// The position within swarm number `below`, if the last slice ended there.
    in_swarm: Option<SetPosition>,
    lap_started: Timestamp,
    last_lap: Duration,
    /// Peers that expired all at once since the last slice.
    expired_at_once: u64,
    /// Value of [`Totals::refused`](super::Totals::refused) at the last slice.
    refused: u64,
    /// Whether peers are being evicted to make room.
    evicting: bool,
}

/// The position of the sweep within a swarm.
#[derive(Clone, Copy, Default)]
struct SetPosition {
    /// 0: IPv4 seeders, 1: IPv4 leechers, 2: IPv6 seeders, 3: IPv6 leechers.
    set: usize,
    bucket: u32,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            below: u32::MAX,
            in_swarm: None,
            lap_started: Timestamp::default(),
            last_lap: Duration::ZERO,
            expired_at_once: 0,
            refused: 0,
            evicting: false,
        }
    }
}

impl Cursor {
    /// Returns the cursor for a table in which `peers` peers have just expired all at once.
    pub(super) fn after_mass_expiry(&self, peers: u64) -> Self {
        let (expired_at_once, refused) = (self.expired_at_once + peers, self.refused);
        Self {
            expired_at_once,
            refused,
            lap_started: self.lap_started,
            last_lap: self.last_lap,
            ..Self::default()
        }
    }
}

/// The result of a sweep slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of expired peers removed.
    pub expired: u64,
    /// Number of peers evicted before their timeout to make room.
    pub evicted: u64,
    /// Number of peers removed because their swarm is not permitted.
    pub denied: u64,
    /// Whether the slice ended at the end of the table. The next slice starts a new lap.
    pub lap_ended: bool,
    /// Whether memory is still short. The next slice should follow soon.
    pub is_short: bool,
}

/// The budget and thresholds of one slice.
#[derive(Clone, Copy)]
struct Slice {
    left: usize,
    /// Peers of this age in ticks are removed.
    expiry_age: u8,
    /// Peers of this age in ticks are removed while memory is short.
    eviction_age: u8,
    /// Memory is short while more than this is used.
    target_bytes: usize,
}

impl Slice {
    fn is_short(&self, books: &Books) -> bool {
        books.memory.used > self.target_bytes
    }

    /// Returns the age at which a peer is removed.
    fn removal_age(&self, books: &Books) -> u8 {
        if self.is_short(books) { self.eviction_age } else { self.expiry_age }
    }

    fn is_due(&self, books: &Books, mark: Mark) -> bool {
        books.ticks.age(mark) >= self.removal_age(books)
    }

    fn charge(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
    }
}

impl Shard {
    /// Runs the next slice of the sweep. Removes peers that have not announced within the timeout and swarms that have
    /// been empty for that time. If memory is short, also removes other empty swarms and the oldest peers.
    ///
    /// `budget` limits the cost. Looking at a swarm or a bucket costs 1, and changing one costs
    /// [`SWEEP_CLEANING_COST`] more. The slice ends early at the end of the table.
    pub fn sweep(&mut self, now: Timestamp, budget: usize) -> Swept {
        self.sweep_permitted(now, budget, |_| true)
    }

    /// Like [`sweep`](Self::sweep), but also removes swarms that are not permitted: their peers in the first lap, and
    /// the swarms in the second.
    pub fn sweep_permitted(
        &mut self,
        now: Timestamp,
        budget: usize,
        permits: impl Fn(&InfoHash) -> bool,
    ) -> Swept {
        self.advance(now);
        let mut swept =
            Swept { expired: std::mem::take(&mut self.cursor.expired_at_once), ..Swept::default() };
        let mut slice = self.slice(budget);
        self.give_back();
        while slice.left > 0 {
            let next = match self.cursor.in_swarm {
                Some(_) => Some(self.cursor.below).filter(|number| self.swarms.map().contains(*number)),
                None => self.swarms.map().taken_below(self.cursor.below),
            };
            match next {
                Some(number) if permits(&self.swarms.get(number).info_hash) => {
                    self.visit(number, &mut slice, &mut swept);
                }
                Some(number) => {
                    let mut strict = Slice { expiry_age: 0, eviction_age: 0, ..slice };
                    let mut removed = Swept::default();
                    self.visit(number, &mut strict, &mut removed);
                    slice.left = strict.left;
                    swept.denied += removed.expired + removed.evicted;
                }
                None if self.cursor.in_swarm.is_some() => self.cursor.in_swarm = None, // the swarm no longer exists
                None => {
                    self.cursor.last_lap = now.since(self.cursor.lap_started);
                    (self.cursor.lap_started, self.cursor.below) = (now, u32::MAX);
                    swept.lap_ended = true;
                    break;
                }
            }
        }
        Swept { is_short: slice.is_short(&self.books), ..swept }
    }

    /// Returns the time since the start of the last completed lap. An expired peer stays in the counts for at most this
    /// long: it may have expired just after its visit in that lap and not yet be visited in the current one.
    pub fn sweep_lag(&self, now: Timestamp) -> Duration {
        self.cursor.last_lap + now.since(self.cursor.lap_started)
    }

    /// Returns whether more than half of the memory is used: the sweep must not pause.
    #[inline]
    pub fn is_filling(&self) -> bool {
        self.books.memory.used > self.books.memory.limit / 2
    }

    /// Determines which peers this slice removes.
    fn slice(&mut self, budget: usize) -> Slice {
        let Books { memory, ticks, census } = &self.books;
        let expiry_age = ticks.lifetime() + 1;
        let percent = |percent: usize| (memory.limit / 100).saturating_mul(percent);
        // Once started, eviction continues to a lower threshold: new peers arrive during the lap.
        self.cursor.evicting = memory.used > percent(TABLE_FILL_PERCENT)
            || self.cursor.evicting && memory.used > percent(TABLE_RELIEF_PERCENT);
        let mut target_bytes =
            percent(if self.cursor.evicting { TABLE_RELIEF_PERCENT } else { TABLE_FILL_PERCENT });
        // If peers are refused although not all memory is used, the free memory is in blocks of the wrong sizes.
        // Evicting some peers lets these blocks be compacted and freed.
        let refused = self.totals.refused > std::mem::replace(&mut self.cursor.refused, self.totals.refused);
        if refused && memory.is_full() {
            target_bytes = target_bytes.min(memory.used - memory.used / 128);
        }
        let peers = self.totals.seeders + self.totals.leechers;
        let in_empty_swarms = self.totals.empty_swarms as usize * size_of::<Swarm>(); // removed first
        let eviction_age = match memory.used.checked_sub(target_bytes) {
            Some(excess) if peers > 0 && excess > in_empty_swarms => {
                let needed = excess as u64 / (memory.used as u64 / peers).max(1) + 1;
                census.age_of_oldest(ticks, needed)
            }
            _ => expiry_age,
        };
        Slice { left: budget, expiry_age, eviction_age, target_bytes }
    }

    /// Frees a limited part of the memory that earlier slices have emptied.
    fn give_back(&mut self) {
        let memory = &mut self.books.memory;
        let mut most = SWEEP_FREED_CHUNKS;
        self.swarms.trim(memory, &mut most);
        self.v4.trim(memory, &mut most);
        self.v6.trim(memory, &mut most);
        for _ in 0..SWEEP_FREED_CHUNKS {
            if !self.index.shrink(|number| self.swarms.get(number).info_hash, memory) {
                break;
            }
        }
    }

    fn visit(&mut self, number: u32, slice: &mut Slice, swept: &mut Swept) {
        slice.charge(1);
        self.cursor.below = number;
        let finished = match self.swarms.get(number).body {
            Body::Few(few) => {
                self.visit_few(number, few, slice, swept);
                true
            }
            Body::Sets(sets) => self.visit_sets(number, sets, slice, swept),
        };
        if finished {
            self.cursor.in_swarm = None;
            if self.swarms.map().contains(number) && self.swarms.map().is_stray(number) {
                slice.charge(SWEEP_CLEANING_COST);
                self.relocate(number);
            }
        }
    }

    fn visit_few(&mut self, number: u32, few: Few, slice: &mut Slice, swept: &mut Swept) {
        if let Some(since) = few.empty_since() {
            if slice.is_short(&self.books) || self.books.ticks.age(since) >= slice.expiry_age {
                slice.charge(SWEEP_CLEANING_COST);
                self.drop_swarm(self.index.hash(&self.swarms.get(number).info_hash), number);
            }
            return;
        }
        let mut peers = few.unpack();
        if !peers.iter().any(|peer| slice.is_due(&self.books, peer.mark)) {
            return;
        }
        slice.charge(SWEEP_CLEANING_COST);
        let age = slice.removal_age(&self.books);
        let (ticks, mut removed) = (&self.books.ticks, peers.clone());
        removed.retain(|peer| ticks.age(peer.mark) >= age);
        peers.retain(|peer| ticks.age(peer.mark) < age);
        for removed in removed {
            self.books.census.leave(removed.mark);
            self.totals.count_removed(removed.seeder, removed.addr.family());
            match self.books.ticks.is_expired(removed.mark) {
                true => swept.expired += 1,
                false => swept.evicted += 1,
            }
        }
        self.swarms.get_mut(number).body = Body::Few(Few::pack(&peers).expect("fewer peers need less room"));
        if peers.is_empty() {
            self.handle_empty(self.index.hash(&self.swarms.get(number).info_hash), number);
        }
    }

    /// Returns false if the swarm is not finished.
    fn visit_sets(&mut self, number: u32, mut sets: Sets, slice: &mut Slice, swept: &mut Swept) -> bool {
        let short = slice.is_short(&self.books); // drop ids before peers
        sets.ids_wanted = sets.ids_wanted.filter(|mark| !short && !self.books.ticks.is_expired(*mark));
        let keep_ids = sets.ids_wanted.is_some();
        let mut in_swarm = self.cursor.in_swarm.unwrap_or_default();
        let mut finished = true;
        while in_swarm.set < 4 {
            let role = in_swarm.set % 2;
            let (family, (cleaned, done)) = match in_swarm.set / 2 {
                0 => (
                    Family::V4,
                    self.v4.sweep(&mut sets.v4[role], &mut in_swarm.bucket, keep_ids, slice, &mut self.books),
                ),
                _ => (
                    Family::V6,
                    self.v6.sweep(&mut sets.v6[role], &mut in_swarm.bucket, keep_ids, slice, &mut self.books),
                ),
            };
            swept.expired += u64::from(cleaned.expired);
            swept.evicted += u64::from(cleaned.evicted);
            (0..cleaned.expired + cleaned.evicted)
                .for_each(|_| self.totals.count_removed(role == SEEDERS, family));
            if !done {
                finished = false;
                break;
            }
            in_swarm = SetPosition { set: in_swarm.set + 1, bucket: 0 };
        }
        self.swarms.get_mut(number).body = Body::Sets(sets);
        let counts = self.counts(number);
        if counts.seeders + counts.leechers == 0 {
            self.handle_empty(self.index.hash(&self.swarms.get(number).info_hash), number);
            return true;
        }
        if !finished {
            self.cursor.in_swarm = Some(in_swarm);
            return false;
        }
        if ((counts.seeders + counts.leechers) as usize) < FEW && !keep_ids {
            slice.charge(SWEEP_CLEANING_COST);
            self.move_to_record(number, sets);
        }
        true
    }

    /// Moves the peers of a swarm that has become small into its record, if each set is a single bucket.
    fn move_to_record(&mut self, number: u32, mut sets: Sets) {
        if sets.v4.iter().chain(&sets.v6).any(|set| matches!(set, Set::Many(_))) {
            return;
        }
        let mut peers = arrayvec::ArrayVec::<FewPeer, FEW>::new();
        for role in [SEEDERS, LEECHERS] {
            let seeder = role == SEEDERS;
            self.v4.drain(&mut sets.v4[role], &mut self.books, |addr, mark| {
                peers.push(FewPeer { addr: PeerAddr::V4(addr), seeder, mark });
            });
            self.v6.drain(&mut sets.v6[role], &mut self.books, |addr, mark| {
                peers.push(FewPeer { addr: PeerAddr::V6(addr), seeder, mark });
            });
        }
        let few = Few::pack(&peers).expect("any two peers fit in a record");
        self.swarms.get_mut(number).body = Body::Few(few);
    }

    /// Moves a record to the lowest free place.
    fn relocate(&mut self, number: u32) {
        let swarm = *self.swarms.get(number);
        let place = self.swarms.insert(swarm, &mut self.books.memory);
        self.swarms.remove(number, &mut self.books.memory);
        self.index.moved(self.index.hash(&swarm.info_hash), number, place);
    }
}

impl<const N: usize> Peers<N> {
    /// Visits the buckets of a set, starting at `number`. Returns whether it finished the set.
    fn sweep(
        &mut self,
        set: &mut Set,
        number: &mut u32,
        keep_ids: bool,
        slice: &mut Slice,
        books: &mut Books,
    ) -> (Cleaned, bool) {
        let mut sum = Cleaned::default();
        if *number == 0 {
            self.begin_lap(set);
        }
        while *number < self.buckets(set) {
            let mut bucket = self.bucket(set, *number);
            if bucket.len() > 0 && slice.is_due(books, bucket.oldest) {
                slice.charge(SWEEP_CLEANING_COST);
                let cleaned = self.clean(set, *number, slice.removal_age(books), books);
                sum.expired += cleaned.expired;
                sum.evicted += cleaned.evicted;
                bucket = self.bucket(set, *number);
            }
            if bucket.has_ids() && !keep_ids {
                slice.charge(SWEEP_CLEANING_COST);
                self.blocks.set_ids(&mut bucket, false, &mut books.memory);
            }
            if self.blocks.is_stray(&bucket) {
                slice.charge(SWEEP_CLEANING_COST);
                self.blocks.relocate(&mut bucket, &mut books.memory);
            }
            self.put_bucket(set, *number, bucket);
            *number += 1;
            slice.charge(1);
            if slice.left == 0 {
                return (sum, false); // after at least one bucket, so that every slice makes progress
            }
        }
        while self.merge(set, books) {
            slice.charge(SWEEP_CLEANING_COST);
            if slice.left == 0 {
                return (sum, false);
            }
        }
        self.end_lap(set, books);
        (sum, true)
    }

    /// Starts to measure the longest bucket anew in this lap.
    fn begin_lap(&mut self, set: &Set) {
        if let Set::Many(number) = set {
            self.directories.get_mut(*number).longest_of_lap = 0;
        }
    }

    fn end_lap(&mut self, set: &mut Set, books: &mut Books) {
        let Set::Many(number) = set else { return };
        let directory = self.directories.get_mut(*number);
        directory.longest = directory.longest_of_lap;
        if self.directories.map().is_stray(*number) {
            let directory = self.directories.remove(*number, &mut books.memory);
            *number = self.directories.insert(directory, &mut books.memory);
        }
    }

    fn trim(&mut self, memory: &mut super::Memory, most: &mut usize) {
        self.blocks.trim(memory, most);
        self.directories.trim(memory, most);
    }

    /// Takes all peers out of a set of one bucket. The census is unchanged, because they are stored elsewhere.
    fn drain(&mut self, set: &mut Set, books: &mut Books, mut take: impl FnMut([u8; N], Mark)) {
        let mut bucket = self.bucket(set, 0);
        while bucket.len() > 0 {
            let peer = self.blocks.peer(&bucket, bucket.len() - 1);
            let last = bucket.len() - 1;
            self.blocks.swap_remove(&mut bucket, last, &mut books.memory);
            take(peer.addr, peer.mark);
        }
        self.put_bucket(set, 0, bucket);
    }
}
