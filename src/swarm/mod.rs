//! Owns the swarms of one worker: a pure [`Shard`] that is told the time, draws from the randomness it is given, and
//! does no I/O.
//!
//! This is the plain table: a hash index over a dense array of swarms, each with a dense array of peers for each
//! family, seeders in front. Both arrays are dense so that a peer can be chosen by its index and the sweep can stop
//! and go on anywhere.

mod peers;
mod sweep;

use std::hash::Hasher;

use fastrand::Rng;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::time::Timestamp;
use crate::types::{
    Announce, Event, Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, SwarmCounts,
};
use peers::{Eligible, PeerTable};
use sweep::SweepCursor;
pub use sweep::Swept;

/// Takes the peers that answer an announce.
pub trait PeerSink {
    /// Whether both families are answered, or the asker's alone (UDP, BEP 15).
    const BOTH_FAMILIES: bool;

    /// Takes an IPv4 peer.
    fn v4(&mut self, peer: &[u8; PEER_V4_BYTES], id: &PeerId);
    /// Takes an IPv6 peer.
    fn v6(&mut self, peer: &[u8; PEER_V6_BYTES], id: &PeerId);
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Swarms with at least one peer.
    pub swarms: u64,
    /// Seeders of both families.
    pub seeders: u64,
    /// Leechers of both families.
    pub leechers: u64,
    /// IPv6 peers, seeders and leechers.
    pub v6_peers: u64,
    /// Announces since the start of peers that were not entered, because the shard was full.
    pub refused: u64,
}

/// The swarms that one worker owns.
pub struct Shard {
    hash_key: SipHasher13,
    index: HashTable<u32>,
    swarms: Vec<Swarm>,
    peer_timeout_secs: u32,
    most_peers: u64,
    totals: Totals,
    sweep: SweepCursor,
}

struct Swarm {
    info_hash: InfoHash,
    downloaded: u32,
    v4: PeerTable<PEER_V4_BYTES>,
    v6: PeerTable<PEER_V6_BYTES>,
}

impl Swarm {
    fn new(info_hash: InfoHash) -> Self {
        Self { info_hash, downloaded: 0, v4: PeerTable::default(), v6: PeerTable::default() }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// What the shard's totals take from the swarm: its counts, and how many of its peers are IPv6.
    fn tally(&self) -> (SwarmCounts, usize) {
        (self.counts(), self.v6.len())
    }

    fn counts(&self) -> SwarmCounts {
        SwarmCounts {
            seeders: (self.v4.seeders() + self.v6.seeders()) as u32,
            leechers: (self.v4.leechers() + self.v6.leechers()) as u32,
            downloaded: self.downloaded,
        }
    }
}

fn hash(key: SipHasher13, bytes: &[u8]) -> u64 {
    let mut hasher = key;
    hasher.write(bytes);
    hasher.finish()
}

impl Shard {
    /// An empty shard. `hash_key` is secret, so that chosen info-hashes can't build chains; a peer is gone
    /// `peer_timeout_secs` after its last announce; there are never more than `most_peers`, and so no more swarms,
    /// since each has one at least.
    pub fn new(hash_key: [u8; 16], peer_timeout_secs: u32, most_peers: u64) -> Self {
        Self {
            hash_key: SipHasher13::new_with_key(&hash_key),
            index: HashTable::new(),
            swarms: Vec::new(),
            peer_timeout_secs,
            most_peers,
            totals: Totals::default(),
            sweep: SweepCursor::default(),
        }
    }

    /// Does what the announce says (enter, renew, complete, stop) and gives the sink up to `num_want` other peers:
    /// a seeder gets leechers, a leecher gets both, chosen at random; who stops gets none. A peer that finds the shard
    /// full is not entered and gets none, but the counts.
    ///
    /// Returns the swarm's counts after the announce.
    pub fn announce<S: PeerSink>(
        &mut self,
        now: Timestamp,
        announce: &Announce,
        rng: &mut Rng,
        sink: &mut S,
    ) -> SwarmCounts {
        if announce.event == Event::Stopped {
            return self.stop(announce);
        }
        if self.is_full() && !self.contains(announce) {
            self.totals.refused += 1;
            return self.scrape(&announce.info_hash);
        }
        let at = self.find_or_insert(announce.info_hash);
        let swarm = &mut self.swarms[at];
        let before = swarm.tally();
        let now_secs = now.as_secs();
        let oldest_secs = now_secs.saturating_sub(self.peer_timeout_secs);
        let key = self.hash_key;
        let completes = announce.event == Event::Completed && announce.seeder;
        let renewal = match &announce.peer {
            PeerAddr::V4(addr) => swarm.v4.renew(key, addr, announce.seeder, now_secs, announce.peer_id),
            PeerAddr::V6(addr) => swarm.v6.renew(key, addr, announce.seeder, now_secs, announce.peer_id),
        };
        swarm.downloaded += u32::from(completes && !renewal.was_seeder);
        let family = announce.peer.family();
        let (me_v4, me_v6) = match family {
            Family::V4 => (Some(renewal.at), None),
            Family::V6 => (None, Some(renewal.at)),
        };
        let v4 = swarm.v4.eligible(announce.seeder, me_v4);
        let v6 = swarm.v6.eligible(announce.seeder, me_v6);
        let want = usize::from(announce.num_want);
        let (want_v4, want_v6) = match (S::BOTH_FAMILIES, family) {
            (true, _) => share(want, &v4, &v6, rng),
            (false, Family::V4) => (want, 0),
            (false, Family::V6) => (0, want),
        };
        swarm.v4.choose(&v4, want_v4, oldest_secs, rng, |peer, id| sink.v4(peer, id));
        swarm.v6.choose(&v6, want_v6, oldest_secs, rng, |peer, id| sink.v6(peer, id));

        let after = swarm.tally();
        self.totals.change(before, after);
        after.0
    }

    /// The swarm's counts; zeros for one that isn't here.
    pub fn scrape(&self, info_hash: &InfoHash) -> SwarmCounts {
        self.find(info_hash).map(|at| self.swarms[at].counts()).unwrap_or_default()
    }

    /// What the shard holds now. Peers whose time is over count until the sweep has been there.
    pub fn totals(&self) -> Totals {
        Totals { swarms: self.swarms.len() as u64, ..self.totals }
    }

    fn is_full(&self) -> bool {
        self.totals.seeders + self.totals.leechers >= self.most_peers
    }

    fn contains(&self, announce: &Announce) -> bool {
        self.find(&announce.info_hash).is_some_and(|at| match &announce.peer {
            PeerAddr::V4(addr) => self.swarms[at].v4.contains(self.hash_key, addr),
            PeerAddr::V6(addr) => self.swarms[at].v6.contains(self.hash_key, addr),
        })
    }

    fn stop(&mut self, announce: &Announce) -> SwarmCounts {
        let Some(at) = self.find(&announce.info_hash) else {
            return SwarmCounts::default();
        };
        let swarm = &mut self.swarms[at];
        let before = swarm.tally();
        match &announce.peer {
            PeerAddr::V4(addr) => swarm.v4.remove(self.hash_key, addr),
            PeerAddr::V6(addr) => swarm.v6.remove(self.hash_key, addr),
        }
        let after = swarm.tally();
        self.totals.change(before, after);
        if swarm.is_empty() {
            self.drop_swarm(at);
        }
        after.0
    }

    fn find(&self, info_hash: &InfoHash) -> Option<usize> {
        let hash = hash(self.hash_key, &info_hash.0);
        self.index.find(hash, |&at| self.swarms[at as usize].info_hash == *info_hash).map(|&at| at as usize)
    }

    fn find_or_insert(&mut self, info_hash: InfoHash) -> usize {
        if let Some(at) = self.find(&info_hash) {
            return at;
        }
        let at = self.swarms.len();
        self.swarms.push(Swarm::new(info_hash));
        let (key, swarms) = (self.hash_key, &self.swarms);
        self.index.insert_unique(hash(key, &info_hash.0), at as u32, |&at| {
            hash(key, &swarms[at as usize].info_hash.0)
        });
        at
    }

    /// Takes an empty swarm out; the last one takes its place.
    fn drop_swarm(&mut self, at: usize) {
        let gone = self.swarms.swap_remove(at);
        assert!(gone.is_empty(), "only an empty swarm is dropped");
        let entry =
            self.index.find_entry(hash(self.hash_key, &gone.info_hash.0), |&place| place as usize == at);
        entry.expect("every swarm is in the index").remove();
        if let Some(moved) = self.swarms.get(at) {
            let from = self.swarms.len();
            let place =
                self.index.find_mut(hash(self.hash_key, &moved.info_hash.0), |&place| place as usize == from);
            *place.expect("every swarm is in the index") = at as u32;
        }
        // Memory goes back when swarms die, in steps rare enough not to matter.
        if self.swarms.capacity() > 64 && self.swarms.len() < self.swarms.capacity() / 4 {
            self.swarms.shrink_to(self.swarms.capacity() / 2);
            let (key, swarms) = (self.hash_key, &self.swarms);
            self.index.shrink_to(self.swarms.capacity(), |&at| hash(key, &swarms[at as usize].info_hash.0));
        }
    }

    #[cfg(test)]
    fn assert_invariants(&self) {
        let (swarms, refused) = (self.swarms.len() as u64, self.totals.refused);
        let mut totals = Totals { swarms, refused, ..Totals::default() };
        assert_eq!(self.index.len(), self.swarms.len());
        for (at, swarm) in self.swarms.iter().enumerate() {
            assert!(!swarm.is_empty(), "an empty swarm was kept");
            assert_eq!(self.find(&swarm.info_hash), Some(at));
            swarm.v4.assert_invariants(self.hash_key);
            swarm.v6.assert_invariants(self.hash_key);
            let counts = swarm.counts();
            totals.seeders += u64::from(counts.seeders);
            totals.leechers += u64::from(counts.leechers);
            totals.v6_peers += swarm.v6.len() as u64;
        }
        assert_eq!(self.totals(), totals);
    }
}

impl Totals {
    fn change(&mut self, before: (SwarmCounts, usize), after: (SwarmCounts, usize)) {
        let step = |total: &mut u64, from: u64, to: u64| *total = *total + to - from;
        step(&mut self.seeders, u64::from(before.0.seeders), u64::from(after.0.seeders));
        step(&mut self.leechers, u64::from(before.0.leechers), u64::from(after.0.leechers));
        step(&mut self.v6_peers, before.1 as u64, after.1 as u64);
    }
}

/// Deals `want` peers out to the families by how many they have, the rest of the division by chance, so that each peer
/// is as likely as any other.
fn share(want: usize, v4: &Eligible, v6: &Eligible, rng: &mut Rng) -> (usize, usize) {
    let all = v4.len() + v6.len();
    if all <= want {
        return (v4.len(), v6.len());
    }
    let want_v6 = (want * v6.len() + rng.usize(..all)) / all;
    (want - want_v6, want_v6)
}

#[cfg(test)]
mod tests;
