//! Owns a naive model of a shard (the oracle), and the step-by-step comparison of the two. The fuzz target `shard` also
//! includes this file. All imports therefore come from `super`.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Announce, Event, InfoHash, Lookahead, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, PeerSink, Position,
    Rng, Saved, Shard, SwarmCounts, Timestamp,
};

/// The peer timeout in seconds: 100, so that a tick is a second.
pub(crate) const TIMEOUT: u32 = 100;

/// Collects peers of both families.
#[derive(Default)]
pub(crate) struct Taken(pub(crate) Vec<PeerAddr>);

impl PeerSink for Taken {
    const BOTH_FAMILIES: bool = true;
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        assert!(ids.is_empty() || ids.len() == peers.len());
        self.0.extend(peers.iter().map(|peer| PeerAddr::V4(*peer)));
    }
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]) {
        assert!(ids.is_empty() || ids.len() == peers.len());
        self.0.extend(peers.iter().map(|peer| PeerAddr::V6(*peer)));
    }
}

/// Like [`Taken`], but only with peers of the client's family.
#[derive(Default)]
pub(crate) struct TakenOfOneFamily(pub(crate) Taken);

impl PeerSink for TakenOfOneFamily {
    const BOTH_FAMILIES: bool = false;
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        self.0.v4(peers, ids);
    }
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]) {
        self.0.v6(peers, ids);
    }
}

/// Returns the address of peer `number`.
pub(crate) fn peer(number: u16, v6: bool) -> PeerAddr {
    let ip = match v6 {
        false => IpAddr::V4(Ipv4Addr::new(192, 0, (number >> 8) as u8, number as u8)),
        true => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number)),
    };
    PeerAddr::new(ip, 6881)
}

/// Returns an announce to swarm number `swarm`.
pub(crate) fn announce(swarm: u8, peer: PeerAddr, event: Event, seeder: bool, num_want: u16) -> Announce {
    let (info_hash, peer_id) = (InfoHash([swarm; 20]), PeerId([7; 20]));
    Announce { info_hash, peer_id, peer, event, seeder, num_want, wants_ids: false }
}

#[derive(Default)]
struct Oracle {
    now: u32,
    swarms: BTreeMap<u8, OracleSwarm>,
}

#[derive(Default)]
struct OracleSwarm {
    /// By packed address: the peer's address, whether it is a seeder, and the time of its last announce.
    peers: BTreeMap<Vec<u8>, (PeerAddr, bool, u32)>,
    downloaded: u32,
    empty_since: u32,
}

impl Oracle {
    fn advance(&mut self, now: u32) -> usize {
        let mut removed = 0;
        if now - std::mem::replace(&mut self.now, now) > TIMEOUT {
            removed = self.swarms.values().map(|swarm| swarm.peers.len()).sum();
            self.swarms.clear();
        }
        removed
    }

    /// Applies an announce. Returns the counts and all peers that may be in the reply.
    fn announce(&mut self, now: u32, announce: &Announce) -> (SwarmCounts, Vec<PeerAddr>) {
        let name = announce.info_hash.0[0];
        let swarm = self.swarms.entry(name).or_default();
        let me = announce.peer.as_bytes().to_vec();
        if announce.event == Event::Stopped {
            if swarm.peers.remove(&me).is_some() && swarm.peers.is_empty() {
                swarm.empty_since = now;
            }
            let counts = swarm.counts();
            self.forget(name);
            return (counts, Vec::new());
        }
        let was = swarm.peers.insert(me.clone(), (announce.peer, announce.seeder, now));
        let was_seeder = was.is_some_and(|(_, seeder, _)| seeder);
        swarm.downloaded += u32::from(announce.event == Event::Completed && announce.seeder && !was_seeder);
        let others = swarm.peers.iter().filter(|(other, (_, seeder, seen))| {
            **other != me && !(announce.seeder && *seeder) && seen + TIMEOUT >= now
        });
        let others = others.map(|(_, (addr, ..))| *addr).collect();
        (swarm.counts(), others)
    }

    fn sweep(&mut self, now: u32) -> usize {
        let mut expired = 0;
        self.swarms.retain(|_, swarm| {
            let before = swarm.peers.len();
            if before == 0 {
                return swarm.empty_since + TIMEOUT >= now;
            }
            swarm.peers.retain(|_, (.., seen)| *seen + TIMEOUT >= now);
            expired += before - swarm.peers.len();
            if swarm.peers.is_empty() {
                swarm.empty_since = now;
            }
            !swarm.peers.is_empty() || swarm.downloaded > 0
        });
        expired
    }

    fn has_overdue(&self, now: u32) -> bool {
        self.swarms.values().flat_map(|swarm| swarm.peers.values()).any(|(.., seen)| seen + TIMEOUT < now)
    }

    fn counts(&self, name: u8) -> SwarmCounts {
        self.swarms.get(&name).map(OracleSwarm::counts).unwrap_or_default()
    }

    /// Removes a swarm without peers and downloads.
    fn forget(&mut self, name: u8) {
        if self.counts(name) == SwarmCounts::default() {
            self.swarms.remove(&name);
        }
    }

    /// Returns the entries to be saved, in any order.
    fn saved(&self) -> Vec<Saved> {
        let mut entries = Vec::new();
        for (name, swarm) in &self.swarms {
            let info_hash = InfoHash([*name; 20]);
            entries.push(Saved::Swarm { info_hash, downloaded: swarm.downloaded });
            entries.extend(swarm.peers.values().map(|&(peer, seeder, seen)| {
                let age_secs = self.now - seen;
                Saved::Peer { info_hash, peer, seeder, age_secs }
            }));
        }
        entries
    }
}

impl OracleSwarm {
    fn counts(&self) -> SwarmCounts {
        let seeders = self.peers.values().filter(|(_, seeder, _)| *seeder).count() as u32;
        SwarmCounts { seeders, leechers: self.peers.len() as u32 - seeders, downloaded: self.downloaded }
    }
}

/// A step that is applied to the shard and the oracle.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `both`: the reply has peers of both families. `ahead`: with lookahead.
    Announce {
        announce: Announce,
        both: bool,
        ahead: bool,
    },
    Scrape(u8),
    Sweep(usize),
    /// Advances the clock by this many seconds.
    Advance(u32),
    /// Walks over the shard in slices of this many entries.
    Save(usize),
    /// Continues with a new shard, restored from the saved entries with `restore`, or with `load` if `beside` is set.
    Restore {
        beside: bool,
    },
}

impl Step {
    /// Returns an announce to one of four swarms, of which one has most of the peers.
    pub(crate) fn announce(
        (swarm, number, v6): (u8, u16, bool),
        event: Event,
        seeder: bool,
        num_want: u16,
        bits: u8,
    ) -> Self {
        let swarm = swarm % 4;
        let peer = peer(number % (5 + 40 * u16::from(swarm).pow(2)), v6);
        let announce = announce(swarm * swarm, peer, event, seeder, num_want);
        let (both, ahead) = (bits & 1 != 0, bits & 2 != 0);
        Self::Announce { announce: Announce { wants_ids: bits == 39, ..announce }, both, ahead }
    }
}

/// A shard and its oracle.
pub(crate) struct Trial {
    pub(crate) shard: Shard,
    oracle: Oracle,
    rng: Rng,
    now: u32,
    swept: u32,
}

impl Trial {
    pub(crate) fn new(seed: u64) -> Self {
        let shard = Shard::new(key(seed), TIMEOUT, usize::MAX);
        Self { shard, oracle: Oracle::default(), rng: Rng::with_seed(seed), now: 50, swept: 50 }
    }

    /// Applies a step to both. Panics if they differ.
    pub(crate) fn step(&mut self, step: Step) {
        // A lap must take less than 155 ticks. If more than a timeout passes at once, all peers expire.
        let step = if self.now - self.swept > TIMEOUT { Step::Sweep(50) } else { step };
        match step {
            Step::Announce { announce, both, ahead } => self.announce(&announce, both, ahead),
            Step::Scrape(swarm) => {
                assert_eq!(self.shard.scrape(&InfoHash([swarm; 20])), self.oracle.counts(swarm));
            }
            Step::Sweep(budget) => self.sweep(budget),
            Step::Advance(secs) => self.now += secs,
            Step::Save(at_once) => {
                assert_eq!(sorted(entries(&self.shard, at_once.max(1))), sorted(self.oracle.saved()));
            }
            Step::Restore { beside } => self.restore(beside),
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_secs(u64::from(self.now))
    }

    fn announce(&mut self, announce: &Announce, both: bool, ahead: bool) {
        let (time, now) = (self.time(), self.now);
        self.oracle.advance(now);
        let mut taken = TakenOfOneFamily::default();
        let counts = match both {
            true => apply_announce(&mut self.shard, time, announce, ahead, &mut self.rng, &mut taken.0),
            false => apply_announce(&mut self.shard, time, announce, ahead, &mut self.rng, &mut taken),
        };
        let (expected, mut others) = self.oracle.announce(now, announce);
        let overdue = self.oracle.has_overdue(now);
        if !both {
            others.retain(|other| other.family() == announce.peer.family());
        }
        assert_eq!(counts, expected);
        let taken = taken.0.0;
        let distinct: HashSet<_> = taken.iter().collect();
        assert_eq!(distinct.len(), taken.len(), "a peer is in the reply twice");
        assert!(taken.iter().all(|peer| others.contains(peer)), "a peer that must not be in the reply");
        // Expired peers that the sweep has not removed count in the shares of the sets, so that a reply may be short.
        let wanted = others.len().min(usize::from(announce.num_want));
        match overdue {
            true => assert!(taken.len() <= wanted),
            false => assert_eq!(taken.len(), wanted),
        }
    }

    /// Sweeps two laps, of which at least one is complete: then no expired peer is left.
    fn sweep(&mut self, budget: usize) {
        let expired_at_once = self.oracle.advance(self.now);
        let time = self.time();
        let expired = lap(&mut self.shard, time, budget + 1) + lap(&mut self.shard, time, budget + 1);
        self.swept = self.now;
        assert_eq!(expired, expired_at_once + self.oracle.sweep(self.now));
    }

    fn restore(&mut self, beside: bool) {
        self.sweep(50);
        let saved = entries(&self.shard, usize::MAX);
        let peers = saved.iter().filter(|entry| matches!(entry, Saved::Peer { .. })).count() as u64;
        let time = self.time();
        self.shard = Shard::new(key(self.rng.u64(..)), TIMEOUT, usize::MAX);
        let entered = match beside {
            true => self.shard.load(time, saved.iter().chain(&saved[..saved.len() / 2]).copied()),
            false => self.shard.restore(time, saved),
        };
        assert_eq!(entered, peers);
        for swarm in self.oracle.swarms.values_mut() {
            swarm.empty_since = self.now; // not saved
        }
    }
}

fn key(seed: u64) -> [u8; 16] {
    (u128::from(seed) << 64 | u128::from(seed)).to_be_bytes()
}

/// Applies an announce to the shard, with or without lookahead.
pub(crate) fn apply_announce<S: PeerSink>(
    shard: &mut Shard,
    now: Timestamp,
    announce: &Announce,
    ahead: bool,
    rng: &mut Rng,
    sink: &mut S,
) -> SwarmCounts {
    if !ahead {
        return shard.announce(now, announce, rng, sink);
    }
    let mut known = [Lookahead::default()];
    shard.look_ahead::<S>(&std::iter::once(announce), rng, &mut known);
    shard.announce_prefetched(now, announce, &known[0], sink)
}

/// Sweeps to the end of a lap. Returns the number of expired peers.
pub(crate) fn lap(shard: &mut Shard, now: Timestamp, budget: usize) -> usize {
    let mut expired = 0;
    loop {
        let swept = shard.sweep(now, budget);
        assert_eq!(swept.evicted, 0);
        expired += swept.expired as usize;
        if swept.lap_ended {
            return expired;
        }
    }
}

/// Returns all entries of a shard, read in slices of at least `at_once` entries.
pub(crate) fn entries(shard: &Shard, at_once: usize) -> Vec<Saved> {
    let (mut all, mut position) = (Vec::new(), Position::default());
    loop {
        let mut walk = shard.walk(position);
        let before = all.len();
        all.extend(walk.slice(at_once));
        if all.len() - before < at_once {
            return all;
        }
        position = walk.position();
    }
}

/// Sorts entries, and drops swarm entries without downloads.
pub(crate) fn sorted(mut entries: Vec<Saved>) -> Vec<String> {
    entries.retain(|entry| !matches!(entry, Saved::Swarm { downloaded: 0, .. }));
    let mut texts: Vec<String> = entries.iter().map(|entry| format!("{entry:?}")).collect();
    texts.sort();
    texts
}
