//! Owns the measured tables: gyre's shard, and a simple baseline.

use foldhash::fast::FixedState;
use gyre_core::limits::{LOOK_AHEAD, TURN_SWEEP, UDP_ANNOUNCE_REPLY_BYTES, UDP_REPLY_MAX_BYTES};
use gyre_core::swarm::{Lookahead, PeerSink, Shard};
use gyre_core::time::Timestamp;
use gyre_core::types::{Announce, Event, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, SwarmCounts};
use hashbrown::HashMap;
use indexmap::IndexMap;

/// Number of announces that a busy worker prefetches together.
pub(crate) const TURN: usize = LOOK_AHEAD;
/// The peer timeout in seconds.
pub(crate) const PEER_TIMEOUT_SECS: u32 = 3_825;

/// The reply to an announce, written as the engine does for UDP.
pub(crate) struct Reply {
    out: [u8; UDP_REPLY_MAX_BYTES],
    length: usize,
}

impl Reply {
    pub(crate) fn new() -> Self {
        Self { out: [0; UDP_REPLY_MAX_BYTES], length: UDP_ANNOUNCE_REPLY_BYTES }
    }

    /// Clears the reply for the next announce.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.length = UDP_ANNOUNCE_REPLY_BYTES;
    }

    /// Returns the packed peers.
    pub(crate) fn peers(&self) -> &[u8] {
        &self.out[UDP_ANNOUNCE_REPLY_BYTES..self.length]
    }

    #[inline]
    fn put(&mut self, peers: &[u8]) {
        self.out[self.length..self.length + peers.len()].copy_from_slice(peers);
        self.length += peers.len();
    }
}

impl PeerSink for Reply {
    const BOTH_FAMILIES: bool = false;

    #[inline]
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], _: &[[u8; 20]]) {
        self.put(peers.as_flattened());
    }

    #[inline]
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], _: &[[u8; 20]]) {
        self.put(peers.as_flattened());
    }
}

/// The result of a sweep slice.
pub(crate) struct Slice {
    pub(crate) expired: u64,
    pub(crate) lap_ended: bool,
}

/// Numbers of seeders and leechers in a table.
pub(crate) type Held = [u64; 2];

/// A table of swarms.
pub(crate) trait Table {
    /// Whether the table has a lookahead.
    const LOOKS_AHEAD: bool;
    /// Whether the sweep has short slices, which run between announces.
    const SLICED: bool;

    fn new() -> Self;
    fn announce(&mut self, now: Timestamp, announce: &Announce, reply: &mut Reply) -> SwarmCounts;
    fn look_ahead(&mut self, announces: &[Announce]);
    /// Applies announce number `at` of the last lookahead.
    fn announce_prefetched(
        &mut self,
        now: Timestamp,
        at: usize,
        announce: &Announce,
        reply: &mut Reply,
    ) -> SwarmCounts;
    fn sweep(&mut self, now: Timestamp) -> Slice;
    fn held(&self) -> Held;
    /// Returns the bytes allocated and used, or zeros if the table does not count them.
    fn memory(&self) -> [usize; 2];
}

/// gyre's shard, with the state that a worker keeps for it.
pub(crate) struct Gyre {
    shard: Shard,
    ahead: [Lookahead; TURN],
    rng: fastrand::Rng,
}

impl Table for Gyre {
    const LOOKS_AHEAD: bool = true;
    const SLICED: bool = true;

    fn new() -> Self {
        let shard = Shard::new(*b"the table's key.", PEER_TIMEOUT_SECS, usize::MAX);
        Self { shard, ahead: [Lookahead::default(); TURN], rng: fastrand::Rng::with_seed(1) }
    }

    #[inline]
    fn announce(&mut self, now: Timestamp, announce: &Announce, reply: &mut Reply) -> SwarmCounts {
        self.shard.announce(now, announce, &mut self.rng, reply)
    }

    #[inline]
    fn look_ahead(&mut self, announces: &[Announce]) {
        self.shard.look_ahead::<Reply>(&announces.iter(), &mut self.rng, &mut self.ahead);
    }

    #[inline]
    fn announce_prefetched(
        &mut self,
        now: Timestamp,
        at: usize,
        announce: &Announce,
        reply: &mut Reply,
    ) -> SwarmCounts {
        self.shard.announce_prefetched(now, announce, &self.ahead[at], reply)
    }

    fn sweep(&mut self, now: Timestamp) -> Slice {
        let swept = self.shard.sweep(now, TURN_SWEEP);
        assert_eq!(swept.evicted, 0, "memory is not limited");
        Slice { expired: swept.expired, lap_ended: swept.lap_ended }
    }

    fn held(&self) -> Held {
        let totals = self.shard.totals();
        [totals.seeders, totals.leechers]
    }

    fn memory(&self) -> [usize; 2] {
        let memory = self.shard.memory();
        [memory.allocated, memory.used]
    }
}

/// The obvious table: a map of maps. The inner map stores its peers contiguously, so that a reply is a range that
/// starts at a random peer. Both maps hash with foldhash, hashbrown's default.
pub(crate) struct Baseline {
    swarms: HashMap<InfoHash, BaselineSwarm, FixedState>,
    rng: fastrand::Rng,
}

#[derive(Default)]
struct BaselineSwarm {
    peers: IndexMap<[u8; PEER_V4_BYTES], Seen, FixedState>,
    seeders: u32,
    downloaded: u32,
}

#[derive(Clone, Copy)]
struct Seen {
    second: u32,
    seeder: bool,
}

/// Size of an entry of the inner map. The map adds the hash (8) and a slot in its table (9, at most 7/8 full).
const _: () = assert!(size_of::<([u8; PEER_V4_BYTES], Seen)>() == 16);

impl BaselineSwarm {
    fn counts(&self) -> SwarmCounts {
        let leechers = self.peers.len() as u32 - self.seeders;
        SwarmCounts { seeders: self.seeders, leechers, downloaded: self.downloaded }
    }

    fn choose(&self, second: u32, announce: &Announce, rng: &mut fastrand::Rng, reply: &mut Reply) {
        let peers = self.peers.as_slice();
        let start = if peers.len() > usize::from(announce.num_want) { rng.usize(..peers.len()) } else { 0 };
        let mut left = announce.num_want;
        let PeerAddr::V4(me) = announce.peer else { unreachable!("the crowd has IPv4") };
        for (addr, seen) in peers[start..].iter().chain(&peers[..start]) {
            if left == 0 {
                break;
            }
            let eligible = !(announce.seeder && seen.seeder) && seen.second + PEER_TIMEOUT_SECS >= second;
            if eligible && *addr != me {
                reply.put(addr);
                left -= 1;
            }
        }
    }
}

impl Table for Baseline {
    const LOOKS_AHEAD: bool = false;
    const SLICED: bool = false;

    fn new() -> Self {
        Self { swarms: HashMap::default(), rng: fastrand::Rng::with_seed(1) }
    }

    #[inline]
    fn announce(&mut self, now: Timestamp, announce: &Announce, reply: &mut Reply) -> SwarmCounts {
        let PeerAddr::V4(addr) = announce.peer else { unreachable!("the crowd has IPv4") };
        if announce.event == Event::Stopped {
            let Some(swarm) = self.swarms.get_mut(&announce.info_hash) else { return SwarmCounts::default() };
            if let Some(seen) = swarm.peers.swap_remove(&addr) {
                swarm.seeders -= u32::from(seen.seeder);
            }
            let counts = swarm.counts();
            if swarm.peers.is_empty() && swarm.downloaded == 0 {
                self.swarms.remove(&announce.info_hash);
            }
            return counts;
        }
        let (second, seeder) = (now.as_secs(), announce.seeder);
        let swarm = self.swarms.entry(announce.info_hash).or_default();
        let before = swarm.peers.insert(addr, Seen { second, seeder });
        let was_seeder = before.is_some_and(|seen| seen.seeder);
        swarm.seeders = swarm.seeders + u32::from(seeder) - u32::from(was_seeder);
        swarm.downloaded += u32::from(announce.event == Event::Completed && seeder && !was_seeder);
        swarm.choose(second, announce, &mut self.rng, reply);
        swarm.counts()
    }

    fn look_ahead(&mut self, _: &[Announce]) {}

    fn announce_prefetched(
        &mut self,
        now: Timestamp,
        _: usize,
        announce: &Announce,
        reply: &mut Reply,
    ) -> SwarmCounts {
        self.announce(now, announce, reply)
    }

    /// Sweeps the whole table.
    fn sweep(&mut self, now: Timestamp) -> Slice {
        let (second, mut expired) = (now.as_secs(), 0);
        self.swarms.retain(|_, swarm| {
            let (before, mut seeders) = (swarm.peers.len(), 0);
            swarm.peers.retain(|_, seen| {
                let stays = seen.second + PEER_TIMEOUT_SECS >= second;
                seeders += u32::from(stays && seen.seeder);
                stays
            });
            expired += (before - swarm.peers.len()) as u64;
            swarm.seeders = seeders;
            if swarm.peers.len() < swarm.peers.capacity() / 2 {
                swarm.peers.shrink_to_fit();
            }
            !swarm.peers.is_empty()
        });
        Slice { expired, lap_ended: true }
    }

    fn held(&self) -> Held {
        let seeders = self.swarms.values().map(|swarm| u64::from(swarm.seeders)).sum();
        let peers: u64 = self.swarms.values().map(|swarm| swarm.peers.len() as u64).sum();
        [seeders, peers - seeders]
    }

    fn memory(&self) -> [usize; 2] {
        [0; 2]
    }
}
