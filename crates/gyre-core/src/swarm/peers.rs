//! Owns the sets of peers of one address family. A set has one bucket or many and grows and shrinks by one bucket.
//!
//! A set of up to [`BUCKET_LOAD`] peers is one bucket. A larger one has a directory of buckets, and the hash of a
//! peer's address selects its bucket (linear hashing, Litwin 1980). Whenever there are more than [`BUCKET_LOAD`] peers
//! a bucket on average, the set grows by splitting one bucket, in a fixed order. This never moves more than one
//! bucket's peers. Announces only grow a set, and the sweep shrinks it.

use super::bucket::{Announcing, Blocks, Bucket, Peer};
use super::linear;
use super::pool::{Memory, Pool};
use super::ticks::{Census, Mark, Ticks};
use crate::canary::{self, Canary};
use crate::keyed_hash::KeyedHash;
use crate::limits::{BUCKET_LOAD, BUCKET_PEERS_MAX, OVERDUE_SPLITS, TABLE_CHUNK_BYTES};
use crate::types::PeerId;

/// The peers of one family and role of one swarm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Set {
    /// A single bucket.
    One(Bucket),
    /// The number of a directory of buckets.
    Many(u32),
}

const _: () = assert!(size_of::<Set>() == 8, "four sets and a little more make half a cache line");

impl Default for Set {
    fn default() -> Self {
        Self::One(Bucket::default())
    }
}

/// A read-only view of a set.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) buckets: &'a [Bucket],
    pub(super) peers: u32,
    /// Upper bound of the peers in a bucket.
    pub(super) longest: u8,
    /// The [`linear::mask`] of the number of buckets.
    pub(super) mask: u32,
}

impl View<'_> {
    /// Returns the number of the bucket for addresses with this hash.
    #[inline(always)]
    pub(super) fn home(&self, hash: u32) -> u32 {
        linear::bucket_by(hash, self.buckets.len() as u32, self.mask)
    }
}

impl Set {
    #[inline(always)]
    pub(super) fn view<'a>(&'a self, directories: &'a Directories) -> View<'a> {
        match self {
            Set::One(bucket) => View {
                buckets: std::slice::from_ref(bucket),
                peers: bucket.len() as u32,
                longest: bucket.len() as u8,
                mask: 0,
            },
            Set::Many(number) => {
                let Directory { buckets, peers, longest, mask_bits, .. } = directories.get(*number);
                View { buckets, peers: *peers, longest: *longest, mask: (1 << mask_bits) - 1 }
            }
        }
    }
}

/// The buckets of a large set.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) buckets: Vec<Bucket>,
    pub(super) peers: u32,
    /// Upper bound of the peers in a bucket.
    pub(super) longest: u8,
    /// Like `longest`, for the part of the set that the sweep has visited in its current lap.
    pub(super) longest_of_lap: u8,
    /// Number of bits in the [`linear::mask`] of the number of buckets.
    mask_bits: u8,
}

/// The directories of all large sets of a family.
pub(super) type Directories = Pool<Directory, { TABLE_CHUNK_BYTES / size_of::<Directory>() }>;

impl Directory {
    fn note_length(&mut self, len: usize) {
        self.longest = self.longest.max(len as u8);
        self.longest_of_lap = self.longest_of_lap.max(len as u8);
    }

    fn note_count(&mut self) {
        self.mask_bits = linear::mask(self.buckets.len() as u32).count_ones() as u8;
    }

    fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }
}

/// The place of a peer in a set. Valid until the set changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: u32,
    pub(super) at: u8,
}

impl Place {
    /// A place that no set has.
    pub(super) const NOWHERE: Self = Self { bucket: u32::MAX, at: 0 };
}

/// The bookkeeping that each change of the table updates.
pub(super) struct Books {
    pub(super) memory: Memory,
    pub(super) ticks: Ticks,
    pub(super) census: Census,
}

/// The error for a peer that finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The result of entering a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entered {
    pub(super) place: Place,
    /// Whether the peer was a seeder before. `None`: it is new.
    pub(super) was_seeder: Option<bool>,
}

/// All peers of a family.
pub(super) struct Peers<const N: usize> {
    pub(super) blocks: Blocks<N>,
    pub(super) directories: Directories,
    hash: KeyedHash,
}

impl<const N: usize> Peers<N> {
    /// Creates an empty table. The key is secret, so that an attacker can't choose addresses that collide in one
    /// bucket.
    pub(super) fn new(key: [u64; 2]) -> Self {
        Self { blocks: Blocks::new(), directories: Pool::new(), hash: KeyedHash::new(key) }
    }

    /// Returns the hash of an address, which selects its bucket.
    #[inline(always)]
    pub(super) fn hash(&self, addr: &[u8; N]) -> u32 {
        self.hash.of(addr) as u32
    }

    /// Returns the number of peers in a set.
    #[inline(always)]
    pub(super) fn len(&self, set: &Set) -> u32 {
        match set {
            Set::One(bucket) => bucket.len() as u32,
            Set::Many(directory) => self.directories.get(*directory).peers,
        }
    }

    /// Returns the number of buckets of a set.
    pub(super) fn buckets(&self, set: &Set) -> u32 {
        match set {
            Set::One(_) => 1,
            Set::Many(directory) => self.directories.get(*directory).buckets.len() as u32,
        }
    }

    /// Returns a bucket of a set.
    #[inline(always)]
    pub(super) fn bucket(&self, set: &Set, number: u32) -> Bucket {
        match set {
            Set::One(bucket) => *bucket,
            Set::Many(directory) => self.directories.get(*directory).buckets[number as usize],
        }
    }

    /// Writes back a changed bucket of a set and updates the set's number of peers.
    #[inline]
    pub(super) fn put_bucket(&mut self, set: &mut Set, number: u32, bucket: Bucket) {
        match set {
            Set::One(slot) => *slot = bucket,
            Set::Many(directory) => {
                let directory = self.directories.get_mut(*directory);
                let before = std::mem::replace(&mut directory.buckets[number as usize], bucket);
                directory.peers = directory.peers + bucket.len() as u32 - before.len() as u32;
                directory.note_length(bucket.len());
            }
        }
    }

    /// Returns the bucket for addresses with this hash, and its number.
    #[inline(always)]
    fn home(&self, set: &Set, hash: u32) -> (u32, Bucket) {
        let set = set.view(&self.directories);
        let number = set.home(hash);
        (number, set.buckets[number as usize])
    }

    /// Returns the place of an address with this hash.
    #[inline]
    pub(super) fn find(&self, set: &Set, hash: u32, addr: &[u8; N]) -> Option<Place> {
        let (number, bucket) = self.home(set, hash);
        let at = self.blocks.find(&bucket, addr)?;
        Some(Place { bucket: number, at: at as u8 })
    }

    /// Returns the mark of the peer at a place.
    pub(super) fn mark(&self, set: &Set, place: Place) -> Mark {
        self.blocks.columns(&self.bucket(set, place.bucket)).marks[usize::from(place.at)]
    }

    /// Enters or renews a peer in `sets[role]`, and removes it from the other set if it was there.
    ///
    /// # Errors
    ///
    /// If the peer is new to `sets[role]` and there is no room for it.
    #[inline(always)]
    pub(super) fn enter(
        &mut self,
        sets: &mut [Set; 2],
        role: usize,
        hash: u32,
        peer: Announcing<'_, N>,
        books: &mut Books,
    ) -> Result<Entered, Full> {
        if *peer.id != PeerId::UNKNOWN {
            self.add_ids(&mut sets[role], hash, peer.addr, books);
        }
        let set = sets[role].view(&self.directories);
        let number = set.home(hash);
        let Some((at, before)) = self.blocks.renew(&set.buckets[number as usize], peer) else {
            return self.enter_new(sets, role, hash, peer, books);
        };
        books.census.leave(before);
        books.census.enter(peer.mark);
        Ok(Entered { place: Place { bucket: number, at: at as u8 }, was_seeder: Some(role == SEEDERS) })
    }

    /// Adds the column of ids to the bucket that has this address, if it does not have it yet.
    #[inline(never)]
    fn add_ids(&mut self, set: &mut Set, hash: u32, addr: &[u8; N], books: &mut Books) {
        let (number, mut bucket) = self.home(set, hash);
        if !bucket.has_ids() && !books.memory.is_full() && self.blocks.find(&bucket, addr).is_some() {
            self.blocks.set_ids(&mut bucket, true, &mut books.memory);
            self.put_bucket(set, number, bucket);
        }
    }

    /// Enters a peer that is not in `sets[role]`.
    fn enter_new(
        &mut self,
        sets: &mut [Set; 2],
        role: usize,
        hash: u32,
        peer: Announcing<'_, N>,
        books: &mut Books,
    ) -> Result<Entered, Full> {
        let (_, mut bucket) = self.home(&sets[role], hash);
        // A bucket is full only if memory was too short for splits. Other buckets may have to be split before it.
        for _ in 0..OVERDUE_SPLITS {
            if bucket.len() < BUCKET_PEERS_MAX || books.memory.is_full() {
                break;
            }
            self.split(&mut sets[role], books);
            (_, bucket) = self.home(&sets[role], hash);
        }
        if !self.blocks.has_room(&bucket, &books.memory) {
            return Err(Full);
        }
        let left = self.leave(&mut sets[1 - role], hash, peer.addr, books);
        let peer = Peer { addr: *peer.addr, mark: peer.mark, id: *peer.id };
        let place = self.insert(&mut sets[role], hash, &peer, books);
        Ok(Entered { place, was_seeder: left.then_some(role != SEEDERS) })
    }

    /// Removes a peer from a set. Returns whether it was there.
    pub(super) fn leave(&mut self, set: &mut Set, hash: u32, addr: &[u8; N], books: &mut Books) -> bool {
        let Some(Place { bucket: number, at }) = self.find(set, hash, addr) else { return false };
        let mut bucket = self.bucket(set, number);
        let mark = self.blocks.swap_remove(&mut bucket, usize::from(at), &mut books.memory);
        self.put_bucket(set, number, bucket);
        books.census.leave(mark);
        true
    }

    /// Adds a peer that is in neither set, even if this exceeds the memory limit.
    ///
    /// # Panics
    ///
    /// If its bucket is full.
    pub(super) fn insert(&mut self, set: &mut Set, hash: u32, peer: &Peer<N>, books: &mut Books) -> Place {
        let (number, mut bucket) = self.home(set, hash);
        if peer.id != PeerId::UNKNOWN && !books.memory.is_full() {
            self.blocks.set_ids(&mut bucket, true, &mut books.memory);
        }
        self.blocks.push(&mut bucket, peer, &books.ticks, &mut books.memory);
        self.put_bucket(set, number, bucket);
        books.census.enter(peer.mark);
        let place = Place { bucket: number, at: (bucket.len() - 1) as u8 };
        let View { buckets, peers, .. } = set.view(&self.directories);
        let crowded = peers as usize > BUCKET_LOAD * buckets.len();
        if crowded && !books.memory.is_full() && self.split(set, books) == number {
            return self.find(set, hash, &peer.addr).expect("a split keeps all peers");
        }
        place
    }

    /// Adds a bucket and moves its part of the parent bucket to it. Returns the number of the parent.
    fn split(&mut self, set: &mut Set, books: &mut Books) -> u32 {
        let number = match set {
            Set::One(bucket) => {
                let mut directory = Directory::default();
                directory.buckets.push(*bucket);
                directory.peers = bucket.len() as u32;
                directory.note_length(bucket.len());
                books.memory.resized(0, directory.bytes());
                let number = self.directories.insert(directory, &mut books.memory);
                *set = Set::Many(number);
                number
            }
            Set::Many(number) => *number,
        };
        let count = self.directories.get(number).buckets.len() as u32;
        let source = linear::parent(count);
        let mut bucket = self.directories.get(number).buckets[source as usize];
        let (hash, blocks) = (&self.hash, &mut self.blocks);
        let moves = |addr: &[u8; N]| linear::bucket(hash.of(addr) as u32, count + 1) == count;
        let added = blocks.split(&mut bucket, &books.ticks, &mut books.memory, moves);
        let directory = self.directories.get_mut(number);
        let before = directory.bytes();
        directory.buckets[source as usize] = bucket;
        directory.buckets.push(added);
        directory.note_count();
        books.memory.resized(before, directory.bytes());
        source
    }

    /// Removes the peers of a bucket that are at least `age` ticks old.
    pub(super) fn clean(&mut self, set: &mut Set, number: u32, age: u8, books: &mut Books) -> Cleaned {
        let mut cleaned = Cleaned::default();
        let mut bucket = self.bucket(set, number);
        let mut at = 0;
        while at < bucket.len() {
            let mark = self.blocks.columns(&bucket).marks[at];
            if books.ticks.age(mark) < age || (at == 0 && canary::on(Canary::ForgetsOne)) {
                at += 1;
                continue;
            }
            self.blocks.swap_remove(&mut bucket, at, &mut books.memory);
            books.census.leave(mark);
            match books.ticks.is_expired(mark) {
                true => cleaned.expired += 1,
                false => cleaned.evicted += 1,
            }
        }
        bucket.oldest = self.blocks.oldest(&bucket, &books.ticks);
        self.put_bucket(set, number, bucket);
        cleaned
    }

    /// Removes the last bucket of a large set if the set has become too small for it, and moves its peers to the parent
    /// bucket. Returns whether another call may remove one more.
    pub(super) fn merge(&mut self, set: &mut Set, books: &mut Books) -> bool {
        let Set::Many(number) = *set else { return false };
        let directory = self.directories.get_mut(number);
        let count = directory.buckets.len();
        if directory.peers as usize * 2 > BUCKET_LOAD * (count - 1) && count > 1 {
            return false;
        }
        if count == 1 {
            *set = Set::One(directory.buckets[0]);
            let directory = self.directories.remove(number, &mut books.memory);
            books.memory.resized(directory.bytes(), 0);
            return false;
        }
        let target = linear::parent(count as u32 - 1) as usize;
        let (mut last, mut bucket) = (directory.buckets[count - 1], directory.buckets[target]);
        if last.len() + bucket.len() > BUCKET_LOAD * 3 / 2 {
            return false;
        }
        let ids = bucket.has_ids() || last.has_ids();
        self.blocks.set_ids(&mut bucket, ids, &mut books.memory);
        while last.len() > 0 {
            let at = last.len() - 1;
            let peer = self.blocks.peer(&last, at);
            self.blocks.push(&mut bucket, &peer, &books.ticks, &mut books.memory);
            self.blocks.swap_remove(&mut last, at, &mut books.memory);
        }
        let directory = self.directories.get_mut(number);
        let before = directory.bytes();
        directory.buckets.pop();
        directory.note_count();
        directory.buckets[target] = bucket;
        directory.note_length(bucket.len());
        if directory.buckets.len() * 4 < directory.buckets.capacity() {
            directory.buckets.shrink_to(directory.buckets.len() * 2);
        }
        books.memory.resized(before, directory.bytes());
        true
    }

    /// Frees the memory of an empty set.
    pub(super) fn drop_empty(&mut self, set: &mut Set, books: &mut Books) {
        assert_eq!(self.len(set), 0, "only an empty set may be dropped");
        if let Set::Many(number) = *set {
            let directory = self.directories.remove(number, &mut books.memory);
            books.memory.resized(directory.bytes(), 0);
        }
        *set = Set::default();
    }
}

/// Indices in `[seeders, leechers]`, the order of the sets of a family in a swarm.
pub(super) const SEEDERS: usize = 0;
pub(super) const LEECHERS: usize = 1;

/// The number of peers that the sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cleaned {
    pub(super) expired: u32,
    pub(super) evicted: u32,
}
