//! Owns the sweep: the walk that takes expired peers out, makes room when memory is short, and gives memory back, a
//! slice at a time.
//!
//! It visits swarms from the last to the first, because what it moves it moves to the front: so nobody is ever passed
//! over, at worst visited twice. Within a large set it goes upwards, because a split moves peers to the end.

use std::time::Duration;

use super::peers::{Books, Cleaned, Peers, Set};
use super::record::{Body, FEW, Few, FewPeer, Sets, Swarm};
use super::ticks::Mark;
use super::{LEECHERS, SEEDERS, Shard};
use crate::limits::{SWEEP_CLEANING_COST, SWEEP_FREED_CHUNKS, TABLE_FILL_PERCENT, TABLE_RELIEF_PERCENT};
use crate::time::Timestamp;
use crate::types::{Family, InfoHash, PeerAddr};

/// Where the sweep goes on.
pub(super) struct Cursor {
    /// Swarms with lower numbers are still to come.
    below: u32,
    /// In the middle of the swarm with this very number.
    within: Option<Within>,
    lap_started: Timestamp,
    last_lap: Duration,
    /// Peers that went all at once since the last slice.
    leapt: u64,
    /// Announces that had been refused by the last slice.
    refused: u64,
    /// Peers go until there is room again.
    evicting: bool,
}

#[derive(Clone, Copy, Default)]
struct Within {
    /// IPv4 seeders, IPv4 leechers, IPv6 seeders, IPv6 leechers.
    set: usize,
    bucket: u32,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            below: u32::MAX,
            within: None,
            lap_started: Timestamp::default(),
            last_lap: Duration::ZERO,
            leapt: 0,
            refused: 0,
            evicting: false,
        }
    }
}

impl Cursor {
    /// That of a table which has just lost so many peers at once.
    pub(super) fn after_leap(&self, peers: u64) -> Self {
        let (leapt, refused) = (self.leapt + peers, self.refused);
        Self { leapt, refused, lap_started: self.lap_started, last_lap: self.last_lap, ..Self::default() }
    }
}

/// What a slice of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Peers taken out because their time was over.
    pub expired: u64,
    /// Peers taken out before their time, to make room.
    pub evicted: u64,
    /// Peers taken out because their swarm is not permitted.
    pub denied: u64,
    /// It came to the end of the table, and the next slice starts over.
    pub lap_ended: bool,
    /// More peers are to be evicted: the next slice should come soon.
    pub is_short: bool,
}

/// The work of one slice.
#[derive(Clone, Copy)]
struct Slice {
    left: usize,
    /// Who is as old as this goes ...
    over_age: u8,
    /// ... and when memory is short, who is as old as this.
    spare_age: u8,
    /// Memory is short while more than this is used.
    enough: usize,
}

impl Slice {
    fn is_short(&self, books: &Books) -> bool {
        books.memory.used > self.enough
    }

    /// The age at which a peer goes.
    fn age(&self, books: &Books) -> u8 {
        if self.is_short(books) { self.spare_age } else { self.over_age }
    }

    fn goes(&self, books: &Books, mark: Mark) -> bool {
        books.ticks.age(mark) >= self.age(books)
    }

    fn pay(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
    }
}

impl Shard {
    /// Goes on from where the last slice ended, at a cost of about `budget`: a swarm or a bucket looked at costs one,
    /// one in which something is to be done [`SWEEP_CLEANING_COST`]. Takes out peers that have not announced within
    /// the timeout, swarms that have been empty for as long, and, if memory is short, empty swarms and the oldest
    /// peers. Ends early at the end of the table.
    pub fn sweep(&mut self, now: Timestamp, budget: usize) -> Swept {
        self.sweep_permitted(now, budget, |_| true)
    }

    /// The same, which also takes out whatever is in a swarm that is not permitted: its peers with the first lap, its
    /// memory with the second.
    pub fn sweep_permitted(
        &mut self,
        now: Timestamp,
        budget: usize,
        permits: impl Fn(&InfoHash) -> bool,
    ) -> Swept {
        self.pass(now);
        let mut swept = Swept { expired: std::mem::take(&mut self.cursor.leapt), ..Swept::default() };
        let mut slice = self.slice(budget);
        self.give_back();
        while slice.left > 0 {
            let next = match self.cursor.within {
                Some(_) => Some(self.cursor.below).filter(|number| self.swarms.map().contains(*number)),
                None => self.swarms.map().taken_below(self.cursor.below),
            };
            match next {
                Some(number) if permits(&self.swarms.get(number).info_hash) => {
                    self.visit(number, &mut slice, &mut swept);
                }
                Some(number) => {
                    let mut strict = Slice { over_age: 0, spare_age: 0, ..slice };
                    let mut gone = Swept::default();
                    self.visit(number, &mut strict, &mut gone);
                    slice.left = strict.left;
                    swept.denied += gone.expired + gone.evicted;
                }
                None if self.cursor.within.is_some() => self.cursor.within = None, // it has gone meanwhile
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

    /// How long ago the sweep began the last lap that it has finished: the most by which a peer outlives its time in
    /// the counts. (Who was passed by at the beginning of that lap, just in time, may still be to come in this one.)
    pub fn sweep_lag(&self, now: Timestamp) -> Duration {
        self.cursor.last_lap + now.since(self.cursor.lap_started)
    }

    /// Decides who has to go.
    fn slice(&mut self, budget: usize) -> Slice {
        let Books { memory, ticks, census } = &self.books;
        let over_age = ticks.life() + 1;
        let percent = |percent: usize| (memory.limit / 100).saturating_mul(percent);
        // Once begun it goes on for a while: a lap takes time, in which new peers come.
        self.cursor.evicting = memory.used > percent(TABLE_FILL_PERCENT)
            || self.cursor.evicting && memory.used > percent(TABLE_RELIEF_PERCENT);
        let mut enough =
            percent(if self.cursor.evicting { TABLE_RELIEF_PERCENT } else { TABLE_FILL_PERCENT });
        // Peers are refused though not all memory is used: it lies in blocks of sizes that nobody wants. Some have to
        // go before these come together and are given back.
        let refused = self.totals.refused > std::mem::replace(&mut self.cursor.refused, self.totals.refused);
        if refused && memory.is_full() {
            enough = enough.min(memory.used - memory.used / 128);
        }
        let peers = self.totals.seeders + self.totals.leechers;
        let in_empty_swarms = self.totals.empty_swarms as usize * size_of::<Swarm>(); // which go first
        let spare_age = match memory.used.checked_sub(enough) {
            Some(excess) if peers > 0 && excess > in_empty_swarms => {
                let needed = excess as u64 / (memory.used as u64 / peers).max(1) + 1;
                census.age_of_oldest(ticks, needed)
            }
            _ => over_age,
        };
        Slice { left: budget, over_age, spare_age, enough }
    }

    /// Gives back what the last slices have emptied, not too much at a time.
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
        slice.pay(1);
        self.cursor.below = number;
        let finished = match self.swarms.get(number).body {
            Body::Few(few) => {
                self.visit_few(number, few, slice, swept);
                true
            }
            Body::Sets(sets) => self.visit_sets(number, sets, slice, swept),
        };
        if finished {
            self.cursor.within = None;
            if self.swarms.map().contains(number) && self.swarms.map().is_stray(number) {
                slice.pay(SWEEP_CLEANING_COST);
                self.settle(number);
            }
        }
    }

    fn visit_few(&mut self, number: u32, few: Few, slice: &mut Slice, swept: &mut Swept) {
        if let Some(since) = few.empty_since() {
            if slice.is_short(&self.books) || self.books.ticks.age(since) >= slice.over_age {
                slice.pay(SWEEP_CLEANING_COST);
                self.drop_swarm(self.index.hash(&self.swarms.get(number).info_hash), number);
            }
            return;
        }
        let mut peers = few.unpack();
        if !peers.iter().any(|peer| slice.goes(&self.books, peer.mark)) {
            return;
        }
        slice.pay(SWEEP_CLEANING_COST);
        let age = slice.age(&self.books);
        let (ticks, mut gone) = (&self.books.ticks, peers.clone());
        gone.retain(|peer| ticks.age(peer.mark) >= age);
        peers.retain(|peer| ticks.age(peer.mark) < age);
        for gone in gone {
            self.books.census.leave(gone.mark);
            self.totals.count_gone(gone.seeder, gone.addr.family());
            match self.books.ticks.is_over(gone.mark) {
                true => swept.expired += 1,
                false => swept.evicted += 1,
            }
        }
        self.swarms.get_mut(number).body = Body::Few(Few::pack(&peers).expect("fewer peers need less room"));
        if peers.is_empty() {
            self.vacate(self.index.hash(&self.swarms.get(number).info_hash), number);
        }
    }

    /// False if there is more to do in this swarm.
    fn visit_sets(&mut self, number: u32, mut sets: Sets, slice: &mut Slice, swept: &mut Swept) -> bool {
        let short = slice.is_short(&self.books); // then ids go before peers do
        sets.ids_wanted = sets.ids_wanted.filter(|mark| !short && !self.books.ticks.is_over(*mark));
        let keep_ids = sets.ids_wanted.is_some();
        let mut within = self.cursor.within.unwrap_or_default();
        let mut finished = true;
        while within.set < 4 {
            let role = within.set % 2;
            let (family, (cleaned, done)) = match within.set / 2 {
                0 => (
                    Family::V4,
                    self.v4.sweep(&mut sets.v4[role], &mut within.bucket, keep_ids, slice, &mut self.books),
                ),
                _ => (
                    Family::V6,
                    self.v6.sweep(&mut sets.v6[role], &mut within.bucket, keep_ids, slice, &mut self.books),
                ),
            };
            swept.expired += u64::from(cleaned.expired);
            swept.evicted += u64::from(cleaned.evicted);
            (0..cleaned.expired + cleaned.evicted)
                .for_each(|_| self.totals.count_gone(role == SEEDERS, family));
            if !done {
                finished = false;
                break;
            }
            within = Within { set: within.set + 1, bucket: 0 };
        }
        self.swarms.get_mut(number).body = Body::Sets(sets);
        let counts = self.counts(number);
        if counts.seeders + counts.leechers == 0 {
            self.vacate(self.index.hash(&self.swarms.get(number).info_hash), number);
            return true;
        }
        if !finished {
            self.cursor.within = Some(within);
            return false;
        }
        if ((counts.seeders + counts.leechers) as usize) < FEW && !keep_ids {
            slice.pay(SWEEP_CLEANING_COST);
            self.fold(number, sets);
        }
        true
    }

    /// Puts the peers of a swarm that has become small into its record, if its sets are no larger than a bucket.
    fn fold(&mut self, number: u32, mut sets: Sets) {
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
        let few = Few::pack(&peers).expect("any two peers have room in a record");
        self.swarms.get_mut(number).body = Body::Few(few);
    }

    /// Moves a record to the front.
    fn settle(&mut self, number: u32) {
        let swarm = *self.swarms.get(number);
        let place = self.swarms.insert(swarm, &mut self.books.memory);
        self.swarms.remove(number, &mut self.books.memory);
        self.index.moved(self.index.hash(&swarm.info_hash), number, place);
    }
}

impl<const N: usize> Peers<N> {
    /// Visits the buckets of a set from one on; says whether it came to the last.
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
            if bucket.len() > 0 && slice.goes(books, bucket.oldest) {
                slice.pay(SWEEP_CLEANING_COST);
                let cleaned = self.clean(set, *number, slice.age(books), books);
                sum.expired += cleaned.expired;
                sum.evicted += cleaned.evicted;
                bucket = self.bucket(set, *number);
            }
            if bucket.has_ids() && !keep_ids {
                slice.pay(SWEEP_CLEANING_COST);
                self.blocks.set_ids(&mut bucket, false, &mut books.memory);
            }
            if self.blocks.is_stray(bucket) {
                slice.pay(SWEEP_CLEANING_COST);
                self.blocks.settle(&mut bucket, &mut books.memory);
            }
            self.put_bucket(set, *number, bucket);
            *number += 1;
            slice.pay(1);
            if slice.left == 0 {
                return (sum, false); // after a bucket at least, so that every slice comes forward
            }
        }
        while self.merge(set, books) {
            slice.pay(SWEEP_CLEANING_COST);
            if slice.left == 0 {
                return (sum, false);
            }
        }
        self.end_lap(set, books);
        (sum, true)
    }

    /// The longest bucket is to be known again, as of this lap.
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

    /// Takes the peers out of a set of one bucket, which leaves the census as it is: they go elsewhere.
    fn drain(&mut self, set: &mut Set, books: &mut Books, mut take: impl FnMut([u8; N], Mark)) {
        let mut bucket = self.bucket(set, 0);
        while bucket.len() > 0 {
            let peer = self.blocks.peer(bucket, bucket.len() - 1);
            let last = bucket.len() - 1;
            self.blocks.swap_remove(&mut bucket, last, &mut books.memory);
            take(peer.addr, peer.mark);
        }
        self.put_bucket(set, 0, bucket);
    }
}
