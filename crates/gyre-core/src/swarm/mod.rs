//! Owns the swarms of one worker: a [`Shard`], which takes the time and the random numbers as arguments and does no
//! I/O.
//!
//! # Memory layout
//!
//! ```text
//!  index: lines of 64 bytes, by the keyed hash of the info-hash, added one at a time
//!  ┌──────────────────────────┬──────────────┬─────┬─────────┐   8 swarms a line on average; swarms without
//!  │ 12 record numbers        │ 12 tags      │ len │ spilled │   a slot in their line are in a hashbrown table
//!  └───────────┬──────────────┴──────────────┴─────┴─────────┘
//!              ▼
//!  swarm: a record of 64 bytes, one cache line
//!  ┌──────────────┬────────────┬───────────────────────────────────────────────┐
//!  │ info-hash 20 │ downloaded │ up to 3 peers of IPv4, or 2 and 1 of IPv6, or │   no separate block
//!  │              │          4 │ 2 of IPv6: address and mark (6 + 1, 18 + 1)   │
//!  └──────────────┴────────────┴───────────────────────────────────────────────┘
//!    or, with more peers, four sets of 8 bytes each:
//!  ┌──────────────┬────────────┬──────────────┬──────────────┬──────────────┬──────────────┬────────────┐
//!  │ info-hash 20 │ downloaded │ IPv4 seeders │ IPv4 leechers│ IPv6 seeders │ IPv6 leechers│ ids wanted │
//!  └──────────────┴────────────┴───────┬──────┴───────┬──────┴──────────────┴──────────────┴────────────┘
//!                                      │              ▼
//!                                      │       up to 48 peers: one bucket
//!                                      ▼       ┌──────────────┬─────┬────────┬──────┬──────┐
//!                    more: a directory         │ block number │ len │ oldest │ ids? │ pool │   8 bytes
//!                    ┌────────┬────────┬──     └───────────┬──┴─────┴────────┴──────┴──────┘
//!                    │ bucket │ bucket │ ...               ▼
//!                    └────────┴────────┴──     block: columns of 4, 8, 12 ... 160 places
//!                     by the keyed hash of     ┌──────────────┬─────────────────────────┬──────────────────┐
//!                     the address; added       │ marks 1 each │ addresses 6 or 18 each  │ peer ids 20 each │
//!                     one at a time            └──────────────┴─────────────────────────┴──── if wanted ───┘
//! ```
//!
//! Records, directories and blocks are stored in pools: 16 KiB chunks of equal blocks. The lowest free block is always
//! allocated first.
//!
//! # Design
//!
//! - **Most swarms have one or two peers.** Such a swarm costs its record and an eighth of an index line: 72 bytes.
//! - **Most peers are in large swarms.** Such a peer costs its address and mark (7 bytes) and a share of the block's
//!   slack and of the bucket's 8 bytes. There is no index of peers. The hash of an address selects one bucket, which is
//!   searched linearly: a few cache lines.
//! - **No table is rehashed and no block is doubled.** The index and the sets grow by linear hashing: each new bucket
//!   takes its part of one other bucket. Only lists of numbers are copied when they grow: a directory has 8 bytes for
//!   48 peers, 33 KB for 200,000. A pool's list of chunks has 16 to 48 bytes for 16 KiB. The spill table has 8 bytes
//!   for one swarm in twenty. Announces only grow the table. The sweep merges, compacts and frees.
//! - **Replies are copied from consecutive memory.** Seeders get only leechers, so the two are stored apart. A reply is
//!   a range of one or two buckets that starts at a random peer.
//! - **A mark is the low byte of a tick** (a hundredth of the timeout). A bucket stores its oldest mark. The sweep
//!   skips a bucket without expired peers, and a reply reads marks only if the bucket has expired peers. An expired
//!   peer is never in a reply, even before the sweep removes it.
//! - **Peer ids** are only used by old HTTP clients (`compact=0`). A swarm stores ids from the first such request until
//!   there has been none for a timeout. During that time the blocks of its buckets have a third column, which is filled
//!   as peers announce. For other swarms this costs two bytes in the record, which had room for them.
//! - **Memory is counted when it is allocated.** Above 90 % of the limit the sweep evicts the oldest peers until 80 %
//!   is used. A census of peers by mark gives their age. New peers get no chunk beyond the limit.

mod bucket;
mod choose;
mod index;
mod linear;
mod lookahead;
mod peers;
mod pool;
mod prefetch;
mod record;
mod save;
mod survey;
mod sweep;
mod ticks;

use std::hash::Hasher;

use fastrand::Rng;
use siphasher::sip::SipHasher13;

use bucket::{Announcing, Peer};
use index::{Hash, Index};
pub use lookahead::Lookahead;
use lookahead::Step;
use peers::{Books, Entered, Full, LEECHERS, Peers, Place, SEEDERS};
pub use pool::Memory;
use pool::Pool;
use record::{Body, Few, FewPeer, Sets, Swarm, Swarms};
pub use save::{Position, Saved, TableWalk};
pub use survey::{PeerInfo, SurveyPosition};
use sweep::Cursor;
pub use sweep::Swept;
use ticks::{Census, Mark, Ticks};

use crate::canary::{self, Canary};
use crate::limits::{TABLE_CHUNK_BYTES, TABLE_MAX_BYTES};
use crate::time::Timestamp;
use crate::types::{
    Announce, Event, Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, SwarmCounts,
};

/// Receives the peers of a reply, a few at a time.
pub trait PeerSink {
    /// Whether the reply has peers of both families. UDP replies only have the client's family (BEP 15).
    const BOTH_FAMILIES: bool;

    /// Receives IPv4 peers. `ids` is empty or has an id for each peer, all zeros if it is unknown.
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]);
    /// Receives IPv6 peers, with `ids` as in [`v4`](Self::v4).
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]);
}

/// The totals of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of swarms with at least one peer.
    pub swarms: u64,
    /// Number of swarms without peers, which are kept for a while to preserve their download count.
    pub empty_swarms: u64,
    /// Number of seeders of both families.
    pub seeders: u64,
    /// Number of leechers of both families.
    pub leechers: u64,
    /// Number of IPv6 peers, seeders and leechers.
    pub v6_peers: u64,
    /// Downloads completed since the start.
    pub completed: u64,
    /// Announces since the start whose peer was not entered for lack of memory.
    pub refused: u64,
}

impl Totals {
    /// Counts an entered or renewed peer, and its download for the swarm if it has completed one.
    #[inline(always)]
    fn count_entered(&mut self, downloaded: &mut u32, announce: &Announce, was_seeder: Option<bool>) {
        if was_seeder == Some(announce.seeder) {
            return;
        }
        match was_seeder {
            Some(true) => self.seeders -= 1,
            Some(false) if canary::on(Canary::CountsTwice) => {}
            Some(false) => self.leechers -= 1,
            None => self.v6_peers += u64::from(announce.peer.family() == Family::V6),
        }
        match announce.seeder {
            true => self.seeders += 1,
            false => self.leechers += 1,
        }
        if announce.event == Event::Completed && announce.seeder {
            *downloaded = downloaded.saturating_add(1);
            self.completed += 1;
        }
    }

    /// Counts a removed peer.
    fn count_removed(&mut self, seeder: bool, family: Family) {
        match seeder {
            true => self.seeders -= 1,
            false => self.leechers -= 1,
        }
        self.v6_peers -= u64::from(family == Family::V6);
    }
}

/// The swarms that one worker owns.
pub struct Shard {
    settings: Settings,
    index: Index,
    swarms: Swarms,
    v4: Peers<PEER_V4_BYTES>,
    v6: Peers<PEER_V6_BYTES>,
    books: Books,
    totals: Totals,
    cursor: Cursor,
}

#[derive(Clone, Copy)]
struct Settings {
    hash_key: [u8; 16],
    peer_timeout_secs: u32,
    memory_bytes: usize,
}

/// Where an announce has entered its peer.
enum Entry {
    Record,
    Set(Place),
}

impl Shard {
    /// Creates an empty shard.
    ///
    /// `hash_key` is secret, so that an attacker can't choose info-hashes that collide. A peer expires
    /// `peer_timeout_secs` after its last announce, or up to a hundredth of that (at least a second) later. New peers
    /// take no memory beyond `memory_bytes`. The oldest peers are evicted before that limit is reached.
    pub fn new(hash_key: [u8; 16], peer_timeout_secs: u32, memory_bytes: usize) -> Self {
        let derived = |number: u64| {
            let mut hasher = SipHasher13::new_with_key(&hash_key);
            hasher.write_u64(number);
            hasher.finish()
        };
        let memory_bytes = memory_bytes.min(TABLE_MAX_BYTES);
        // Removing and compacting peers may first need a chunk for smaller blocks.
        let spare = (memory_bytes / 4).min(bucket::KINDS * TABLE_CHUNK_BYTES);
        let memory = Memory { limit: memory_bytes - spare, ..Memory::default() };
        Self {
            settings: Settings { hash_key, peer_timeout_secs, memory_bytes },
            index: Index::new([derived(4), derived(5)]),
            swarms: Pool::new(),
            v4: Peers::new([derived(0), derived(1)]),
            v6: Peers::new([derived(2), derived(3)]),
            books: Books { memory, ticks: Ticks::new(peer_timeout_secs), census: Census::new() },
            totals: Totals::default(),
            cursor: Cursor::default(),
        }
    }

    /// Applies an announce (enter, renew, complete, stop) and gives the sink up to `num_want` other peers, chosen at
    /// random. A seeder gets leechers, a leecher gets both, and a stopped peer gets none. If there is no memory left, a
    /// new peer is not entered and gets no peers.
    ///
    /// Returns the swarm's counts after the announce.
    pub fn announce<S: PeerSink>(
        &mut self,
        now: Timestamp,
        announce: &Announce,
        rng: &mut Rng,
        sink: &mut S,
    ) -> SwarmCounts {
        self.advance(now);
        let mut ahead = self.begin(announce, rng);
        ahead.guess = self.find(ahead.hash, &announce.info_hash);
        self.fetch::<S>(&mut ahead, announce, Step::Blocks); // the peer's entry and its reply are fetched together
        self.announce_to(&ahead, ahead.guess, announce, sink)
    }

    /// Returns the counts of a swarm, or zeros if it does not exist.
    pub fn scrape(&self, info_hash: &InfoHash) -> SwarmCounts {
        let found = self.find(self.index.hash(info_hash), info_hash);
        found.map(|number| self.counts(number)).unwrap_or_default()
    }

    /// Returns the shard's totals. Expired peers count until the sweep removes them.
    pub fn totals(&self) -> Totals {
        Totals { swarms: self.swarms.map().len() as u64 - self.totals.empty_swarms, ..self.totals }
    }

    /// Returns the memory usage of the table.
    pub fn memory(&self) -> Memory {
        self.books.memory
    }

    /// Advances the clock. If all peers have expired since the last call, removes them at once.
    fn advance(&mut self, now: Timestamp) {
        if self.books.ticks.advance(now) && self.swarms.map().len() > 0 {
            let Settings { hash_key, peer_timeout_secs, memory_bytes } = self.settings;
            let mut empty = Self::new(hash_key, peer_timeout_secs, memory_bytes);
            empty.books.ticks.advance(now);
            let Totals { completed, refused, .. } = self.totals;
            empty.totals = Totals { completed, refused, ..empty.totals };
            empty.cursor = self.cursor.after_mass_expiry(self.totals.seeders + self.totals.leechers);
            *self = empty;
        }
    }

    fn find(&self, hash: Hash, info_hash: &InfoHash) -> Option<u32> {
        self.index.find(hash, |number| self.swarms.get(number).info_hash == *info_hash)
    }

    #[inline(always)]
    fn announce_to<S: PeerSink>(
        &mut self,
        ahead: &Lookahead,
        found: Option<u32>,
        announce: &Announce,
        sink: &mut S,
    ) -> SwarmCounts {
        if announce.event == Event::Stopped {
            return found.map(|number| self.stop(ahead, number, announce)).unwrap_or_default();
        }
        let Some(number) = found.or_else(|| self.create(ahead.hash, announce.info_hash)) else {
            self.totals.refused += 1;
            return SwarmCounts::default();
        };
        match self.enter(number, ahead.peer_hash, announce, self.books.ticks.mark()) {
            Ok(Entry::Set(place)) => return self.choose(number, announce, place, &ahead.draw, sink),
            Ok(Entry::Record) => self.choose_few(number, announce, &ahead.draw, sink),
            Err(Full) => self.totals.refused += 1,
        }
        self.counts(number)
    }

    /// Returns the hash of a peer address under the key of its family.
    #[inline(always)]
    fn peer_hash(&self, peer: &PeerAddr) -> u32 {
        match peer {
            PeerAddr::V4(addr) => self.v4.hash(addr),
            PeerAddr::V6(addr) => self.v6.hash(addr),
        }
    }

    /// Enters or renews a peer in a swarm.
    #[inline(always)]
    fn enter(&mut self, number: u32, peer_hash: u32, announce: &Announce, mark: Mark) -> Result<Entry, Full> {
        if let Body::Few(few) = self.swarms.get(number).body {
            if (!announce.wants_ids || self.books.memory.is_full())
                && self.enter_few(number, few, announce, mark)
            {
                return Ok(Entry::Record);
            }
            if self.books.memory.is_full() {
                return Err(Full);
            }
            self.move_to_sets(number, few);
        }
        self.enter_sets(number, peer_hash, announce, mark).map(Entry::Set)
    }

    /// Creates an empty swarm. `None` if there is no memory for it.
    fn create(&mut self, hash: Hash, info_hash: InfoHash) -> Option<u32> {
        if self.books.memory.is_full() && !self.swarms.map().has_room() {
            return None;
        }
        let swarm = Swarm { info_hash, ..Swarm::default() };
        let number = self.swarms.insert(swarm, &mut self.books.memory);
        let (index, swarms) = (&mut self.index, &self.swarms);
        index.insert(hash, number, |number| swarms.get(number).info_hash, &mut self.books.memory);
        self.totals.empty_swarms += 1;
        Some(number)
    }

    /// Enters or renews a peer in a record. Returns false if the record has no room for it.
    #[inline]
    fn enter_few(&mut self, number: u32, mut few: Few, announce: &Announce, mark: Mark) -> bool {
        if let Some(before) = few.renew(&announce.peer, announce.seeder, mark) {
            self.swarms.get_mut(number).body = Body::Few(few);
            self.books.census.leave(before);
            self.books.census.enter(mark);
            return true;
        }
        let mut peers = few.unpack();
        let peer = FewPeer { addr: announce.peer, seeder: announce.seeder, mark };
        let before = match peers.iter_mut().find(|other| other.addr == announce.peer) {
            Some(slot) => Some(std::mem::replace(slot, peer)),
            None => {
                if peers.try_push(peer).is_err() {
                    return false;
                }
                None
            }
        };
        let Some(packed) = Few::pack(&peers) else { return false };
        let Swarm { downloaded, body, .. } = self.swarms.get_mut(number);
        *body = Body::Few(packed);
        if let Some(before) = before {
            self.books.census.leave(before.mark);
        }
        self.books.census.enter(mark);
        self.totals.empty_swarms -= u64::from(few.empty_since().is_some());
        self.totals.count_entered(downloaded, announce, before.map(|before| before.seeder));
        true
    }

    /// Moves the peers of a small swarm into sets.
    fn move_to_sets(&mut self, number: u32, few: Few) {
        let mut sets = Sets::default();
        for FewPeer { addr, seeder, mark } in few.unpack() {
            let (role, hash) = (if seeder { SEEDERS } else { LEECHERS }, self.peer_hash(&addr));
            self.books.census.leave(mark); // `insert` enters it again
            let (v4, v6, id, books) = (&mut self.v4, &mut self.v6, PeerId::UNKNOWN, &mut self.books);
            match addr {
                PeerAddr::V4(addr) => v4.insert(&mut sets.v4[role], hash, &Peer { addr, mark, id }, books),
                PeerAddr::V6(addr) => v6.insert(&mut sets.v6[role], hash, &Peer { addr, mark, id }, books),
            };
        }
        self.totals.empty_swarms -= u64::from(few.empty_since().is_some());
        self.swarms.get_mut(number).body = Body::Sets(sets);
    }

    /// Enters or renews a peer in a swarm's sets.
    #[inline(always)]
    fn enter_sets(&mut self, number: u32, hash: u32, announce: &Announce, mark: Mark) -> Result<Place, Full> {
        let Swarm { downloaded, body: Body::Sets(sets), .. } = self.swarms.get_mut(number) else {
            unreachable!("the caller has moved the peers to sets");
        };
        if announce.wants_ids && !self.books.memory.is_full() {
            sets.ids_wanted = Some(mark);
        }
        let id = if sets.ids_wanted.is_some() { &announce.peer_id } else { &PeerId::UNKNOWN };
        let role = if announce.seeder { SEEDERS } else { LEECHERS };
        let (v4, v6, books) = (&mut self.v4, &mut self.v6, &mut self.books);
        let entered = match &announce.peer {
            PeerAddr::V4(addr) => v4.enter(&mut sets.v4, role, hash, Announcing { addr, mark, id }, books),
            PeerAddr::V6(addr) => v6.enter(&mut sets.v6, role, hash, Announcing { addr, mark, id }, books),
        };
        let Entered { place, was_seeder } = entered?;
        self.totals.count_entered(downloaded, announce, was_seeder);
        Ok(place)
    }

    fn stop(&mut self, ahead: &Lookahead, number: u32, announce: &Announce) -> SwarmCounts {
        let removed = match &mut self.swarms.get_mut(number).body {
            Body::Few(few) => {
                let mut peers = few.unpack();
                peers.iter().position(|peer| peer.addr == announce.peer).map(|at| {
                    let removed = peers.remove(at);
                    *few = Few::pack(&peers).expect("fewer peers need less room");
                    self.books.census.leave(removed.mark);
                    removed.seeder
                })
            }
            Body::Sets(sets) => [SEEDERS, LEECHERS].into_iter().find_map(|role| {
                let (hash, books) = (ahead.peer_hash, &mut self.books);
                let was_there = match announce.peer {
                    PeerAddr::V4(addr) => self.v4.leave(&mut sets.v4[role], hash, &addr, books),
                    PeerAddr::V6(addr) => self.v6.leave(&mut sets.v6[role], hash, &addr, books),
                };
                was_there.then_some(role == SEEDERS)
            }),
        };
        let Some(was_seeder) = removed else { return self.counts(number) };
        self.totals.count_removed(was_seeder, announce.peer.family());
        let counts = self.counts(number);
        if counts.seeders + counts.leechers == 0 {
            self.handle_empty(ahead.hash, number);
        }
        counts
    }

    /// Handles a swarm whose last peer was just removed. The swarm is kept for a while if it has completed downloads.
    fn handle_empty(&mut self, hash: Hash, number: u32) {
        let swarm = self.swarms.get_mut(number);
        if let Body::Sets(sets) = &mut swarm.body {
            sets.v4.iter_mut().for_each(|set| self.v4.drop_empty(set, &mut self.books));
            sets.v6.iter_mut().for_each(|set| self.v6.drop_empty(set, &mut self.books));
        }
        swarm.body = Body::Few(Few::empty(self.books.ticks.mark()));
        self.totals.empty_swarms += 1;
        if swarm.downloaded == 0 {
            self.drop_swarm(hash, number);
        }
    }

    /// Removes an empty swarm.
    fn drop_swarm(&mut self, hash: Hash, number: u32) {
        self.index.remove(hash, number);
        self.swarms.remove(number, &mut self.books.memory);
        self.totals.empty_swarms -= 1;
    }

    #[inline]
    fn counts(&self, number: u32) -> SwarmCounts {
        let Swarm { downloaded, body, .. } = self.swarms.get(number);
        let [v4_seeders, v4_leechers, v6_seeders, v6_leechers] = match body {
            Body::Few(few) => few.counts(),
            Body::Sets(sets) => {
                let (v4, v6) = (sets.v4.map(|set| self.v4.len(&set)), sets.v6.map(|set| self.v6.len(&set)));
                [v4[SEEDERS], v4[LEECHERS], v6[SEEDERS], v6[LEECHERS]]
            }
        };
        SwarmCounts {
            seeders: v4_seeders + v6_seeders,
            leechers: v4_leechers + v6_leechers,
            downloaded: *downloaded,
        }
    }
}

#[cfg(test)]
mod tests;
