//! Owns looking ahead: what the requests of one turn will touch is fetched into the cache for all of them at once.
//!
//! A request to a table larger than the cache waits four or five times for memory, each time for what it learned from
//! the last: index, record, directory, bucket, block. The waits of different requests don't depend on each other: taken
//! together they cost little more than those of one. So a turn first makes each step of the search for all of its
//! requests and then answers them. What is foretold may turn out otherwise: then a request waits, no more.

use fastrand::Rng;

use super::choose::{Dice, Throw, Walk};
use super::index::Hash;
use super::peers::{LEECHERS, Peers, Place, SEEDERS, Set, View};
use super::record::Body;
use super::{PeerSink, Shard};
use crate::swarm::prefetch::prefetch;
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
        self.fetch_each::<S>(announces, ahead, Step::Directories);
        self.fetch_each::<S>(announces, ahead, Step::Buckets);
        self.fetch_each::<S>(announces, ahead, Step::Blocks);
    }

    #[inline(always)]
    fn fetch_each<'a, S: PeerSink>(
        &self,
        announces: &(impl Iterator<Item = &'a Announce> + Clone),
        ahead: &mut [Ahead],
        step: Step,
    ) {
        for (ahead, announce) in ahead.iter_mut().zip(announces.clone()) {
            self.fetch::<S>(ahead, announce, step);
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
        self.announce_to(ahead, found, announce, sink)
    }

    /// What is known without a look at the table.
    #[inline(always)]
    pub(super) fn begin(&self, announce: &Announce, rng: &mut Rng) -> Ahead {
        Ahead {
            hash: self.index.hash(&announce.info_hash),
            peer_hash: self.peer_hash(&announce.peer),
            dice: Dice::new(rng.u64(..)),
            guess: None,
        }
    }

    /// Fetches what one step needs, with what those before it have fetched: for the asker's own entry, and for its
    /// reply.
    #[inline(always)]
    pub(super) fn fetch<S: PeerSink>(&self, ahead: &mut Ahead, announce: &Announce, step: Step) {
        let Some(number) = ahead.guess else { return };
        let Body::Sets(sets) = &self.swarms.get(number).body else { return };
        if S::BOTH_FAMILIES {
            let dice = ahead.dice;
            match announce.peer {
                PeerAddr::V4(_) => self.v6.fetch(&sets.v6, None, &dice, announce, step),
                PeerAddr::V6(_) => self.v4.fetch(&sets.v4, None, &dice, announce, step),
            };
        }
        let home = Some(ahead.peer_hash);
        ahead.dice.starts = match announce.peer {
            PeerAddr::V4(_) => self.v4.fetch(&sets.v4, home, &ahead.dice, announce, step),
            PeerAddr::V6(_) => self.v6.fetch(&sets.v6, home, &ahead.dice, announce, step),
        };
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
    /// Of one family's sets: where the asker is, by its hash if this is its family, and what the dice choose. Returns
    /// where the choices begin, as far as that is known yet.
    #[inline(always)]
    fn fetch(
        &self,
        sets: &[Set; 2],
        home: Option<u32>,
        dice: &Dice,
        announce: &Announce,
        step: Step,
    ) -> [Place; 2] {
        let mut starts = [Place::NOWHERE; 2];
        if let Step::Directories = step {
            for set in sets {
                if let Set::Many(number) = set {
                    prefetch(self.directories.get(*number));
                }
            }
            return starts;
        }
        let [seeders, leechers] = sets.each_ref().map(|set| set.view(&self.directories));
        if let Some(hash) = home {
            let set = if announce.seeder { seeders } else { leechers };
            let bucket = &set.buckets[set.home(hash) as usize];
            match step {
                Step::Blocks => self.blocks.fetch_home(*bucket),
                _ => prefetch(bucket),
            }
        }
        if announce.event == Event::Stopped {
            return starts;
        }
        let want = usize::from(announce.num_want);
        starts[LEECHERS] = self.fetch_choice(leechers, want, dice.role(LEECHERS), step);
        if !announce.seeder {
            starts[SEEDERS] = self.fetch_choice(seeders, want, dice.role(SEEDERS), step);
        }
        starts
    }

    /// What a throw chooses from a set, at most `want`. Its share of that isn't worth working out.
    #[inline(always)]
    fn fetch_choice(&self, set: View<'_>, want: usize, throw: Throw, step: Step) -> Place {
        if let Step::Buckets = step {
            let foretold = Walk::foretell(set, throw);
            foretold.iter().filter_map(|number| set.buckets.get(*number as usize)).for_each(prefetch);
            return Place::NOWHERE;
        }
        if set.peers == 0 {
            return Place::NOWHERE;
        }
        let mut walk = Walk::new(set, None, throw);
        let (first, at) = (set.buckets[walk.start.bucket as usize], usize::from(walk.start.at));
        let end = first.len().min(at + want);
        self.blocks.fetch(first, at..end, want);
        let left = at + want - end;
        if left > 0 {
            let next = walk.next().map_or(first, |number| set.buckets[number as usize]);
            self.blocks.fetch(next, 0..next.len().min(left), want);
        }
        walk.start
    }
}
