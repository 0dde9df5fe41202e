//! Owns looking ahead: what the requests of one turn will touch is fetched into the cache for all of them at once.
//!
//! A request to a table larger than the cache waits four or five times for memory, each time for what it learned from
//! the last: index, record, directory, bucket, block. The waits of different requests don't depend on each other: taken
//! together they cost little more than those of one. So a turn first makes each step of the search for all of its
//! requests and then answers them. What is foretold may turn out otherwise: then a request waits, no more.

use fastrand::Rng;

use super::choose::{Dice, Walk};
use super::index::Hash;
use super::peers::{LEECHERS, Peers, SEEDERS, Set, View};
use super::record::Body;
use super::{PeerSink, Shard};
use crate::sys::prefetch;
use crate::time::Timestamp;
use crate::types::{Announce, Event, PeerAddr, SwarmCounts};

/// What is known of an announce ahead of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    /// Of the info-hash.
    pub(super) hash: Hash,
    /// Of the peer's address.
    pub(super) peer_hash: u32,
    pub(super) dice: Dice,
    /// The record that is probably the swarm's.
    pub(super) guess: Option<u32>,
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
            *ahead = self.begin(announce, rng);
            self.index.fetch(ahead.hash);
        }
        for ahead in ahead.iter_mut() {
            ahead.guess = self.index.guess(ahead.hash);
            if let Some(number) = ahead.guess {
                prefetch(self.swarms.get(number));
            }
        }
        let each = || ahead.iter().zip(announces.clone());
        each().for_each(|(ahead, announce)| self.fetch::<S>(ahead, announce, Step::Directories));
        each().for_each(|(ahead, announce)| self.fetch::<S>(ahead, announce, Step::Buckets));
        each().for_each(|(ahead, announce)| self.fetch::<S>(ahead, announce, Step::Blocks));
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
        self.announce_to(ahead, found, announce, sink)
    }

    /// What is known without a look at the table.
    #[inline(always)]
    pub(super) fn begin(&self, announce: &Announce, rng: &mut Rng) -> Ahead {
        Ahead {
            hash: self.index.hash(&announce.info_hash),
            peer_hash: self.peer_hash(&announce.peer),
            dice: Dice(rng.u64(..)),
            guess: None,
        }
    }

    /// Fetches what one step needs, with what those before it have fetched: for the asker's own entry, and for its
    /// reply.
    #[inline(always)]
    pub(super) fn fetch<S: PeerSink>(&self, ahead: &Ahead, announce: &Announce, step: Step) {
        let Some(number) = ahead.guess else { return };
        let Body::Sets(sets) = &self.swarms.get(number).body else { return };
        match announce.peer {
            PeerAddr::V4(_) => self.v4.fetch(&sets.v4, true, ahead, announce, step),
            PeerAddr::V6(_) => self.v6.fetch(&sets.v6, true, ahead, announce, step),
        }
        if S::BOTH_FAMILIES {
            match announce.peer {
                PeerAddr::V4(_) => self.v6.fetch(&sets.v6, false, ahead, announce, step),
                PeerAddr::V6(_) => self.v4.fetch(&sets.v4, false, ahead, announce, step),
            }
        }
    }
}

/// What is fetched of a set, one after the other.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Directories,
    Buckets,
    Blocks,
}

impl<const N: usize> Peers<N> {
    /// Of one family's sets: where the asker is, if it `is_home`, and what the dice choose.
    #[inline(always)]
    fn fetch(&self, sets: &[Set; 2], is_home: bool, ahead: &Ahead, announce: &Announce, step: Step) {
        if let Step::Directories = step {
            for set in sets {
                if let Set::Many(number) = set {
                    prefetch(self.directories.get(*number));
                }
            }
            return;
        }
        let [seeders, leechers] = sets.each_ref().map(|set| set.view(&self.directories));
        if is_home {
            let home = if announce.seeder { seeders } else { leechers };
            let bucket = &home.buckets[home.home(ahead.peer_hash) as usize];
            match step {
                Step::Blocks => self.blocks.fetch_home(*bucket),
                _ => prefetch(bucket),
            }
        }
        if announce.event == Event::Stopped {
            return;
        }
        let want = usize::from(announce.num_want);
        self.fetch_choice(leechers, want, ahead.dice.role(LEECHERS), step);
        if !announce.seeder {
            self.fetch_choice(seeders, want, ahead.dice.role(SEEDERS), step);
        }
    }

    /// What the dice choose from a set, at most `want`. Its share of that isn't worth working out.
    #[inline(always)]
    fn fetch_choice(&self, set: View<'_>, want: usize, dice: Dice, step: Step) {
        if let Step::Buckets = step {
            let foretold = Walk::foretell(set, dice);
            return foretold.iter().filter_map(|number| set.buckets.get(*number as usize)).for_each(prefetch);
        }
        if set.peers == 0 {
            return;
        }
        let mut walk = Walk::new(set, None, dice);
        let (first, at) = (set.buckets[walk.start.bucket as usize], usize::from(walk.start.at));
        let end = first.len().min(at + want);
        self.blocks.fetch(first, at..end);
        let left = at + want - end;
        if left > 0 {
            let next = walk.next().map_or(first, |number| set.buckets[number as usize]);
            self.blocks.fetch(next, 0..next.len().min(left));
        }
    }
}
