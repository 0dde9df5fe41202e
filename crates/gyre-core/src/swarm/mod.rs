//! Owns the swarms of one worker: a pure [`Shard`] that is told the time, draws from the randomness it is given, and
//! does no I/O.
//!
//! # How it lies in memory
//!
//! ```text
//!  index: lines of 64 bytes, by the keyed hash of the info-hash, added one at a time
//!  ┌──────────────────────────┬──────────────┬─────┬─────────┐   8 swarms a line on average; the few that find
//!  │ 12 numbers of records    │ 12 tags      │ len │ spilled │   no room in theirs are in a hashbrown table
//!  └───────────┬──────────────┴──────────────┴─────┴─────────┘
//!              ▼
//!  swarm: a record of 64 bytes, one cache line
//!  ┌──────────────┬────────────┬───────────────────────────────────────────────┐
//!  │ info-hash 20 │ downloaded │ up to 3 peers of IPv4, or 2 and 1 of IPv6, or │   no block of its own
//!  │              │          4 │ 2 of IPv6: address and mark (6 + 1, 18 + 1)   │
//!  └──────────────┴────────────┴───────────────────────────────────────────────┘
//!    or, with more peers, four sets of 8 bytes:
//!  ┌──────────────┬────────────┬──────────────┬──────────────┬──────────────┬──────────────┬────────────┐
//!  │ info-hash 20 │ downloaded │ IPv4 seeders │ IPv4 leechers│ IPv6 seeders │ IPv6 leechers│ ids wanted │
//!  └──────────────┴────────────┴───────┬──────┴───────┬──────┴──────────────┴──────────────┴────────────┘
//!                                      │              ▼
//!                                      │       up to 48 peers: one bucket
//!                                      ▼       ┌──────────────────────┬─────┬────────┬──────┐
//!                    more: a directory         │ number of the block  │ len │ oldest │ ids? │   8 bytes
//!                    ┌────────┬────────┬──     └───────────┬──────────┴─────┴────────┴──────┘
//!                    │ bucket │ bucket │ ...               ▼
//!                    └────────┴────────┴──     block: columns of 4, 8, 12 ... 160 places
//!                     by the keyed hash of     ┌──────────────┬─────────────────────────┬──────────────────┐
//!                     the address; added       │ marks 1 each │ addresses 6 or 18 each  │ peer ids 20 each │
//!                     one at a time            └──────────────┴─────────────────────────┴── where wanted ──┘
//! ```
//!
//! Records, directories and blocks lie in pools: chunks of 16 KiB of equal pieces, the lowest free one taken first.
//!
//! # Why
//!
//! - **Most swarms have a peer or two**: they cost their record and an eighth of a line, 72 bytes with everything.
//! - **Most peers are in large swarms**: they cost address and mark (7 bytes) and a share of the block's slack and the
//!   bucket's 8 bytes. There is no index of peers: an address is searched in the one bucket where its hash says that it
//!   is, a few cache lines.
//! - **No table is rehashed, no block doubled.** The index and the sets grow by linear hashing: each new bucket takes
//!   its part of one other. What is copied at once as it grows are lists of numbers: a directory has 8 bytes for 48
//!   peers, 33 KB for 200,000; the list of a pool's chunks 16 to 48 bytes for 16 KiB; the table of what has spilled 8
//!   bytes for one swarm in twenty. Announces only grow things; merging, moving together and giving back is the
//!   sweep's.
//! - **Replies are copied, not collected**: seeders get leechers only, so the two are apart, and a reply is a stretch
//!   of one or two buckets from a random peer on.
//! - **A mark is the low byte of a tick** (a hundredth of the timeout). Each bucket knows its oldest mark, so that the
//!   sweep passes a bucket by without looking into it, and a reply need not look at marks as long as nobody in the
//!   bucket is over. Who is over is not handed out, swept or not.
//! - **Peer ids** are read by old HTTP clients alone (`compact=0`). A swarm keeps them from the moment that one asks
//!   until none has for a timeout: the blocks of its buckets then have a third column, filled as peers announce. All
//!   other swarms pay two bytes in the record, which there was room for.
//! - **Memory is counted as it is taken.** Above 90 % of the limit the sweep takes the oldest out until it is down to
//!   80 %: a census of peers by mark says how old those are. New peers get no chunk beyond the limit.

mod ahead;
mod bucket;
mod choose;
mod index;
mod linear;
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

pub use ahead::Ahead;
use ahead::Step;
use bucket::Peer;
use index::{Hash, Index};
use peers::{Books, Entered, Full, LEECHERS, Peers, Place, SEEDERS};
pub use pool::Memory;
use pool::Pool;
use record::{Body, Few, FewPeer, Sets, Swarm, Swarms};
pub use save::{Position, Saved, Saving};
pub use survey::{SeenPeer, Surveyed};
use sweep::Cursor;
pub use sweep::Swept;
use ticks::{Census, Mark, Ticks};

use crate::canary::{self, Canary};
use crate::limits::{TABLE_CHUNK_BYTES, TABLE_MAX_BYTES};
use crate::time::Timestamp;
use crate::types::{
    Announce, Event, Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, SwarmCounts,
};

/// Takes the peers that answer an announce, a few at a time.
pub trait PeerSink {
    /// Whether both families are answered, or the asker's alone (UDP, BEP 15).
    const BOTH_FAMILIES: bool;

    /// Takes IPv4 peers; `ids` has one for each, all zeros where it isn't known, or is empty.
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]);
    /// Takes IPv6 peers; `ids` as with IPv4.
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]);
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Swarms with at least one peer.
    pub swarms: u64,
    /// Swarms that have lost all peers, and are kept for a while for the sake of their count of downloads.
    pub empty_swarms: u64,
    /// Seeders of both families.
    pub seeders: u64,
    /// Leechers of both families.
    pub leechers: u64,
    /// IPv6 peers, seeders and leechers.
    pub v6_peers: u64,
    /// Downloads since the start that were completed.
    pub completed: u64,
    /// Announces since the start of peers that were not entered, because there was no memory.
    pub refused: u64,
}

impl Totals {
    /// Counts a peer that was entered, and its download for the swarm.
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

    /// Counts a peer that has gone.
    fn count_gone(&mut self, seeder: bool, family: Family) {
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

/// Where an announce has put its peer.
enum Entry {
    Record,
    Set(Place),
}

impl Shard {
    /// An empty shard. `hash_key` is secret, so that chosen info-hashes can't build chains; a peer is gone
    /// `peer_timeout_secs` after its last announce, or up to a hundredth of that (a second at least) later; new peers
    /// take no memory beyond `memory_bytes`, and the oldest go before it comes to that.
    pub fn new(hash_key: [u8; 16], peer_timeout_secs: u32, memory_bytes: usize) -> Self {
        let derived = |number: u64| {
            let mut hasher = SipHasher13::new_with_key(&hash_key);
            hasher.write_u64(number);
            hasher.finish()
        };
        let memory_bytes = memory_bytes.min(TABLE_MAX_BYTES);
        // To take peers out, and to move them together, may take a chunk for smaller blocks first.
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

    /// Does what the announce says (enter, renew, complete, stop) and gives the sink up to `num_want` other peers:
    /// a seeder gets leechers, a leecher gets both, chosen at random; who stops gets none. A peer that finds no memory
    /// left is not entered and gets none, but the counts.
    ///
    /// Returns the swarm's counts after the announce.
    pub fn announce<S: PeerSink>(
        &mut self,
        now: Timestamp,
        announce: &Announce,
        rng: &mut Rng,
        sink: &mut S,
    ) -> SwarmCounts {
        self.pass(now);
        let mut ahead = self.begin(announce, rng);
        ahead.guess = self.find(ahead.hash, &announce.info_hash);
        self.fetch::<S>(&mut ahead, announce, Step::Blocks); // own entry and reply wait for memory together
        self.announce_to(&ahead, ahead.guess, announce, sink)
    }

    /// The swarm's counts; zeros for one that isn't here.
    pub fn scrape(&self, info_hash: &InfoHash) -> SwarmCounts {
        let found = self.find(self.index.hash(info_hash), info_hash);
        found.map(|number| self.counts(number)).unwrap_or_default()
    }

    /// What the shard holds now. Peers whose time is over count until the sweep has been there.
    pub fn totals(&self) -> Totals {
        Totals { swarms: self.swarms.map().len() as u64 - self.totals.empty_swarms, ..self.totals }
    }

    /// The memory that the table takes.
    pub fn memory(&self) -> Memory {
        self.books.memory
    }

    /// Notes the time. If all peers are over since the last time, they are gone at once.
    fn pass(&mut self, now: Timestamp) {
        if self.books.ticks.pass(now) && self.swarms.map().len() > 0 {
            let Settings { hash_key, peer_timeout_secs, memory_bytes } = self.settings;
            let mut empty = Self::new(hash_key, peer_timeout_secs, memory_bytes);
            empty.books.ticks.pass(now);
            let Totals { completed, refused, .. } = self.totals;
            empty.totals = Totals { completed, refused, ..empty.totals };
            empty.cursor = self.cursor.after_leap(self.totals.seeders + self.totals.leechers);
            *self = empty;
        }
    }

    fn find(&self, hash: Hash, info_hash: &InfoHash) -> Option<u32> {
        self.index.find(hash, |number| self.swarms.get(number).info_hash == *info_hash)
    }

    #[inline(always)]
    fn announce_to<S: PeerSink>(
        &mut self,
        ahead: &Ahead,
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
            Ok(Entry::Set(place)) => return self.choose(number, announce, place, &ahead.dice, sink),
            Ok(Entry::Record) => self.choose_few(number, announce, &ahead.dice, sink),
            Err(Full) => self.totals.refused += 1,
        }
        self.counts(number)
    }

    /// The hash of an address among those of its family.
    #[inline(always)]
    fn peer_hash(&self, peer: &PeerAddr) -> u32 {
        match peer {
            PeerAddr::V4(addr) => self.v4.hash(addr),
            PeerAddr::V6(addr) => self.v6.hash(addr),
        }
    }

    /// Enters a peer into a swarm, or renews it.
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
            self.unfold(number, few);
        }
        self.enter_sets(number, peer_hash, announce, mark).map(Entry::Set)
    }

    /// A new swarm, empty; `None` if there is no memory for it.
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

    /// Enters a peer into a record; false if there isn't room for it.
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
    fn unfold(&mut self, number: u32, few: Few) {
        let mut sets = Sets::default();
        for FewPeer { addr, seeder, mark } in few.unpack() {
            let (role, hash) = (if seeder { SEEDERS } else { LEECHERS }, self.peer_hash(&addr));
            self.books.census.leave(mark); // it is entered again
            let (v4, v6, id, books) = (&mut self.v4, &mut self.v6, PeerId::UNKNOWN, &mut self.books);
            match addr {
                PeerAddr::V4(addr) => v4.insert(&mut sets.v4[role], hash, &Peer { addr, mark, id }, books),
                PeerAddr::V6(addr) => v6.insert(&mut sets.v6[role], hash, &Peer { addr, mark, id }, books),
            };
        }
        self.totals.empty_swarms -= u64::from(few.empty_since().is_some());
        self.swarms.get_mut(number).body = Body::Sets(sets);
    }

    /// Enters a peer into a swarm's sets.
    #[inline(always)]
    fn enter_sets(&mut self, number: u32, hash: u32, announce: &Announce, mark: Mark) -> Result<Place, Full> {
        let Swarm { downloaded, body: Body::Sets(sets), .. } = self.swarms.get_mut(number) else {
            unreachable!("a swarm that isn't few has sets");
        };
        if announce.wants_ids && !self.books.memory.is_full() {
            sets.ids_wanted = Some(mark);
        }
        let id = if sets.ids_wanted.is_some() { announce.peer_id } else { PeerId::UNKNOWN };
        let role = if announce.seeder { SEEDERS } else { LEECHERS };
        let (v4, v6, books) = (&mut self.v4, &mut self.v6, &mut self.books);
        let entered = match announce.peer {
            PeerAddr::V4(addr) => v4.enter(&mut sets.v4, role, hash, &Peer { addr, mark, id }, books),
            PeerAddr::V6(addr) => v6.enter(&mut sets.v6, role, hash, &Peer { addr, mark, id }, books),
        };
        let Entered { place, was_seeder } = entered?;
        self.totals.count_entered(downloaded, announce, was_seeder);
        Ok(place)
    }

    fn stop(&mut self, ahead: &Ahead, number: u32, announce: &Announce) -> SwarmCounts {
        let gone = match &mut self.swarms.get_mut(number).body {
            Body::Few(few) => {
                let mut peers = few.unpack();
                peers.iter().position(|peer| peer.addr == announce.peer).map(|at| {
                    let gone = peers.remove(at);
                    *few = Few::pack(&peers).expect("fewer peers need less room");
                    self.books.census.leave(gone.mark);
                    gone.seeder
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
        let Some(was_seeder) = gone else { return self.counts(number) };
        self.totals.count_gone(was_seeder, announce.peer.family());
        let counts = self.counts(number);
        if counts.seeders + counts.leechers == 0 {
            self.vacate(ahead.hash, number);
        }
        counts
    }

    /// What to do with a swarm whose last peer has just gone: it is kept for a while if it has downloads to count.
    fn vacate(&mut self, hash: Hash, number: u32) {
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

    /// Takes an empty swarm out.
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
