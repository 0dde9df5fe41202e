//! Owns looking ahead: what the requests of one turn will touch is fetched into the cache for all of them at once.
//!
//! A request to a table larger than the cache waits three or four times for memory, each time for what it learned
//! from the last. The waits of different requests don't depend on each other: taken together they cost little more
//! than those of one. So a turn first makes each step of the search for all of its requests and then answers them.

use fastrand::Rng;

use super::index::Hash;
use super::peers::{Peers, Set};
use super::record::Body;
use super::{LEECHERS, PeerSink, SEEDERS, Shard};
use crate::sys::prefetch;
use crate::time::Timestamp;
use crate::types::{Announce, Event, Family, PeerAddr, SwarmCounts};

/// What is known of an announce ahead of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    hash: Hash,
    guess: Option<u32>,
    /// The choice will draw from this.
    seed: u64,
}

impl Shard {
    /// Fetches what these announces will touch, up to as many as there is room for in `ahead`. To be followed by
    /// [`announce_ahead`](Self::announce_ahead) with each.
    pub fn look_ahead<'a, S: PeerSink>(
        &self,
        announces: impl Iterator<Item = &'a Announce> + Clone,
        rng: &mut Rng,
        ahead: &mut [Ahead],
    ) {
        for (ahead, announce) in ahead.iter_mut().zip(announces.clone()) {
            *ahead = Ahead { hash: self.index.hash(&announce.info_hash), guess: None, seed: rng.u64(..) };
            self.index.fetch(ahead.hash);
        }
        for ahead in ahead.iter_mut() {
            ahead.guess = self.index.guess(ahead.hash);
            if let Some(number) = ahead.guess {
                prefetch(self.swarms.one(number));
            }
        }
        for (ahead, announce) in ahead.iter().zip(announces) {
            self.fetch_peers::<S>(ahead, announce);
        }
    }

    /// As [`announce`](Self::announce), with what is known of it.
    #[inline]
    pub fn announce_ahead<S: PeerSink>(
        &mut self,
        now: Timestamp,
        announce: &Announce,
        ahead: &Ahead,
        sink: &mut S,
    ) -> SwarmCounts {
        self.pass(now);
        // Since then others may have moved, dropped or entered the swarm.
        let is_it = |number: u32| {
            self.swarms.contains(number) && self.swarms.one(number).info_hash == announce.info_hash
        };
        let found = ahead
            .guess
            .filter(|number| is_it(*number))
            .or_else(|| self.find(ahead.hash, &announce.info_hash));
        self.announce_to(ahead.hash, found, announce, &mut Rng::with_seed(ahead.seed), sink)
    }

    /// The buckets that the announce's peer and its reply are probably in.
    fn fetch_peers<S: PeerSink>(&self, ahead: &Ahead, announce: &Announce) {
        let Some(number) = ahead.guess else { return };
        let Body::Sets(sets) = &self.swarms.one(number).body else { return };
        let role = if announce.seeder { SEEDERS } else { LEECHERS };
        match announce.peer {
            PeerAddr::V4(addr) => self.v4.fetch(&sets.v4[role], self.v4.home(&sets.v4[role], &addr)),
            PeerAddr::V6(addr) => self.v6.fetch(&sets.v6[role], self.v6.home(&sets.v6[role], &addr)),
        }
        if announce.event == Event::Stopped {
            return;
        }
        let mut rng = Rng::with_seed(ahead.seed);
        let shares = self.shares::<S>(sets, announce, &mut rng);
        let own_family = announce.peer.family();
        for role in [SEEDERS, LEECHERS] {
            if shares[role] > 0 && (S::BOTH_FAMILIES || own_family == Family::V4) {
                self.v4.fetch_choice(&sets.v4[role], &mut rng);
            }
            if shares[2 + role] > 0 && (S::BOTH_FAMILIES || own_family == Family::V6) {
                self.v6.fetch_choice(&sets.v6[role], &mut rng);
            }
        }
    }
}

impl<const N: usize> Peers<N> {
    fn fetch(&self, set: &Set, bucket: u32) {
        self.blocks.fetch(self.bucket(set, bucket));
    }

    /// The two buckets that a choice begins with, if it goes as this random number generator has it.
    fn fetch_choice(&self, set: &Set, rng: &mut Rng) {
        let start = self.start(set, None, rng);
        self.fetch(set, start.bucket);
        if let Some(next) = self.steps(set, start.bucket, rng).next() {
            self.fetch(set, next);
        }
    }
}
