//! Owns the lookahead, which prefetches the memory that the requests of one turn will access.
//!
//! A request to a table larger than the cache waits for memory four or five times, and each access depends on the one
//! before: index, record, directory, bucket, block. The accesses of different requests are independent, so waiting for
//! them together costs little more than waiting for those of one request. A turn therefore performs each step of the
//! search for all of its requests and then answers them. If a prediction is wrong, the request only waits for memory.

use fastrand::Rng;

use super::bucket::Blocks;
use super::choose::{BucketWalk, Draw, SetDraw};
use super::index::Hash;
use super::peers::{LEECHERS, Peers, Place, SEEDERS, Set, View};
use super::record::Body;
use super::{PeerSink, Shard};
use crate::swarm::prefetch::prefetch;
use crate::time::Timestamp;
use crate::types::{Announce, Event, PeerAddr, SwarmCounts};

/// What is known about an announce before it is applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookahead {
    /// Hash of the info-hash.
    pub(super) hash: Hash,
    /// Hash of the peer's address.
    pub(super) peer_hash: u32,
    pub(super) draw: Draw,
    /// The record that probably belongs to the swarm.
    pub(super) guess: Option<u32>,
}

impl Shard {
    /// Prefetches the memory for these announces, up to the length of `ahead`. Call
    /// [`announce_prefetched`](Self::announce_prefetched) with each of them next.
    pub fn look_ahead<'a, S: PeerSink>(
        &self,
        announces: &(impl Iterator<Item = &'a Announce> + Clone),
        rng: &mut Rng,
        ahead: &mut [Lookahead],
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
        ahead: &mut [Lookahead],
        step: Step,
    ) {
        for (ahead, announce) in ahead.iter_mut().zip(announces.clone()) {
            self.fetch::<S>(ahead, announce, step);
        }
    }

    /// Like [`announce`](Self::announce), after [`look_ahead`](Self::look_ahead).
    #[inline]
    pub fn announce_prefetched<S: PeerSink>(
        &mut self,
        now: Timestamp,
        announce: &Announce,
        ahead: &Lookahead,
        sink: &mut S,
    ) -> SwarmCounts {
        self.advance(now);
        // Other requests may have moved, removed or created the swarm since.
        let is_it = |number: u32| {
            let is_equal =
                self.swarms.peek(number).is_some_and(|swarm| swarm.info_hash == announce.info_hash);
            // The info-hash of a free record is zero.
            is_equal && (announce.info_hash.head() != 0 || self.swarms.map().contains(number))
        };
        let found = ahead.guess.filter(|number| is_it(*number));
        let found = found.or_else(|| self.find(ahead.hash, &announce.info_hash));
        self.announce_to(ahead, found, announce, sink)
    }

    /// Returns what is known without reading the table.
    #[inline(always)]
    pub(super) fn begin(&self, announce: &Announce, rng: &mut Rng) -> Lookahead {
        Lookahead {
            hash: self.index.hash(&announce.info_hash),
            peer_hash: self.peer_hash(&announce.peer),
            draw: Draw::new(rng.u64(..)),
            guess: None,
        }
    }

    /// Prefetches the memory of one step, for the peer's own entry and for its reply. The memory of earlier steps must
    /// already be in the cache.
    #[inline(always)]
    pub(super) fn fetch<S: PeerSink>(&self, ahead: &mut Lookahead, announce: &Announce, step: Step) {
        let Some(number) = ahead.guess else { return };
        let Body::Sets(sets) = &self.swarms.get(number).body else { return };
        if S::BOTH_FAMILIES {
            let draw = ahead.draw;
            match announce.peer {
                PeerAddr::V4(_) => self.v6.fetch(&sets.v6, None, &draw, announce, step),
                PeerAddr::V6(_) => self.v4.fetch(&sets.v4, None, &draw, announce, step),
            };
        }
        let home = Some(ahead.peer_hash);
        ahead.draw.starts = match announce.peer {
            PeerAddr::V4(_) => self.v4.fetch(&sets.v4, home, &ahead.draw, announce, step),
            PeerAddr::V6(_) => self.v6.fetch(&sets.v6, home, &ahead.draw, announce, step),
        };
    }
}

/// The parts of a set, in the order in which they are fetched.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Directories,
    Buckets,
    Blocks,
}

impl<const N: usize> Peers<N> {
    /// Prefetches one step for the sets of one family: the bucket of hash `home`, which is that of the client if this
    /// is its family, and the peers that the draw chooses. Returns the start of each choice, as far as it is known.
    #[inline(always)]
    fn fetch(
        &self,
        sets: &[Set; 2],
        home: Option<u32>,
        draw: &Draw,
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
                Step::Blocks => self.blocks.fetch_home(bucket),
                _ => prefetch(bucket),
            }
        }
        if announce.event == Event::Stopped {
            return starts;
        }
        let want = usize::from(announce.num_want);
        starts[LEECHERS] = self.fetch_choice(leechers, want, draw.role(LEECHERS), step);
        if !announce.seeder {
            starts[SEEDERS] = self.fetch_choice(seeders, want, draw.role(SEEDERS), step);
        }
        starts
    }

    /// Prefetches what a draw chooses from a set, at most `want` peers. Computing the set's exact share is not worth
    /// it.
    #[inline(always)]
    fn fetch_choice(&self, set: View<'_>, want: usize, draw: SetDraw, step: Step) -> Place {
        if let Step::Buckets = step {
            let predicted = BucketWalk::predict(set, draw);
            for bucket in predicted.iter().filter_map(|number| set.buckets.get(*number as usize)) {
                prefetch(bucket);
            }
            return Place::NOWHERE;
        }
        if set.peers == 0 {
            return Place::NOWHERE;
        }
        let mut walk = BucketWalk::new(set, None, draw);
        let (first, at) = (&set.buckets[walk.start.bucket as usize], usize::from(walk.start.at));
        let (here, lines) = (want.min(first.len() - at), Blocks::<N>::lines(want));
        self.blocks.fetch(first, at, here, lines);
        let left = want - here;
        if left > 0 {
            let next = walk.next().map_or(first, |number| &set.buckets[number as usize]);
            self.blocks.fetch(next, 0, left.min(next.len()), lines);
        }
        walk.start
    }
}
