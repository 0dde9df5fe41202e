//! Owns looking ahead: what the requests of one turn will touch is fetched into the cache for all of them at once.
//!
//! A request to a table larger than the cache waits four or five times for memory, each time for what it learned from
//! the last: index, record, directory, bucket, block. The waits of different requests don't depend on each other: taken
//! together they cost little more than those of one. So a turn first makes each step of the search for all of its
//! requests and then answers them. What is foretold may turn out otherwise: then a request waits, no more.

use fastrand::Rng;

use super::choose::Dice;
use super::index::Hash;
use super::peers::{LEECHERS, Peers, SEEDERS, Set};
use super::record::Body;
use super::{PeerSink, Shard};
use crate::sys::prefetch;
use crate::time::Timestamp;
use crate::types::{Announce, Event, Family, PeerAddr, SwarmCounts};

/// What is known of an announce ahead of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    pub(super) hash: Hash,
    /// The record that is probably the swarm's.
    guess: Option<u32>,
    pub(super) dice: Dice,
}

impl Shard {
    /// Fetches what these announces will touch, as many as there is room for in `ahead`. To be followed by
    /// [`announce_ahead`](Self::announce_ahead) with each.
    pub fn look_ahead<'a, S: PeerSink>(
        &self,
        announces: &(impl Iterator<Item = &'a Announce> + Clone),
        rng: &mut Rng,
        ahead: &mut [Ahead],
    ) {
        for (ahead, announce) in ahead.iter_mut().zip(announces.clone()) {
            *ahead =
                Ahead { hash: self.index.hash(&announce.info_hash), guess: None, dice: Dice(rng.u64(..)) };
            self.index.fetch(ahead.hash);
        }
        for ahead in ahead.iter_mut() {
            ahead.guess = self.index.guess(ahead.hash);
            if let Some(number) = ahead.guess {
                prefetch(self.swarms.get(number));
            }
        }
        for step in [Step::Directories, Step::Buckets, Step::Blocks] {
            for (ahead, announce) in ahead.iter().zip(announces.clone()) {
                self.fetch::<S>(ahead, announce, step);
            }
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
            self.swarms.map().contains(number) && self.swarms.get(number).info_hash == announce.info_hash
        };
        let found = ahead.guess.filter(|number| is_it(*number));
        let found = found.or_else(|| self.find(ahead.hash, &announce.info_hash));
        self.announce_to(ahead.hash, found, announce, ahead.dice, sink)
    }

    /// Fetches the peers that an announce will touch: its own entry and its reply wait for memory together.
    #[inline]
    pub(super) fn fetch_blocks<S: PeerSink>(&self, found: Option<u32>, announce: &Announce, dice: Dice) {
        self.fetch::<S>(&Ahead { hash: Hash::default(), guess: found, dice }, announce, Step::Blocks);
    }

    /// Fetches what one step needs, with what those before it have fetched: first for the asker's own entry, then for
    /// its reply.
    #[inline]
    fn fetch<S: PeerSink>(&self, ahead: &Ahead, announce: &Announce, step: Step) {
        let Some(number) = ahead.guess else { return };
        let Body::Sets(sets) = &self.swarms.get(number).body else { return };
        let role = if announce.seeder { SEEDERS } else { LEECHERS };
        match announce.peer {
            PeerAddr::V4(addr) => self.v4.fetch_home(&sets.v4[role], &addr, step),
            PeerAddr::V6(addr) => self.v6.fetch_home(&sets.v6[role], &addr, step),
        }
        if announce.event == Event::Stopped || announce.num_want == 0 {
            return;
        }
        let is_v4 = announce.peer.family() == Family::V4;
        let want = usize::from(announce.num_want);
        for role in if announce.seeder { LEECHERS..LEECHERS + 1 } else { SEEDERS..LEECHERS + 1 } {
            if S::BOTH_FAMILIES || is_v4 {
                self.v4.fetch_choice(&sets.v4[role], want, ahead.dice.role(role), step);
            }
            if S::BOTH_FAMILIES || !is_v4 {
                self.v6.fetch_choice(&sets.v6[role], want, ahead.dice.role(role), step);
            }
        }
    }
}

/// What is fetched of a set, one after the other.
#[derive(Clone, Copy)]
enum Step {
    Directories,
    Buckets,
    Blocks,
}

impl<const N: usize> Peers<N> {
    /// Towards where an address is.
    #[inline]
    fn fetch_home(&self, set: &Set, addr: &[u8; N], step: Step) {
        match (set, step) {
            (Set::Many(number), Step::Directories) => prefetch(self.directories.get(*number)),
            (Set::Many(number), Step::Buckets) => prefetch(self.home_entry(*number, addr).1),
            (_, Step::Blocks) => {
                self.blocks.fetch_home(self.home(set, addr).1);
            }
            _ => {}
        }
    }

    /// Towards the peers that these dice choose, at most `want`; the set's share of that isn't worth working out.
    #[inline]
    fn fetch_choice(&self, set: &Set, want: usize, dice: Dice, step: Step) {
        match (set, step) {
            (Set::Many(number), Step::Directories) => prefetch(self.directories.get(*number)),
            (Set::Many(number), Step::Buckets) => {
                let buckets = &self.directories.get(*number).buckets;
                let foretold = self.foretell(*number, dice);
                foretold.iter().filter_map(|number| buckets.get(*number as usize)).for_each(prefetch);
            }
            (_, Step::Blocks) => {
                let (start, mut steps) = self.walk(set, None, dice);
                let (first, at) = (self.bucket(set, start.bucket), usize::from(start.at));
                let end = first.len().min(at + want);
                self.blocks.fetch(first, at..end);
                let left = at + want - end;
                if left > 0 {
                    let next = steps.next().map_or(first, |number| self.bucket(set, number));
                    self.blocks.fetch(next, 0..next.len().min(left));
                }
            }
            _ => {}
        }
    }
}
