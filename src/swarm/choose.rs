//! Owns the choice of peers for a reply.
//!
//! A set is thought of as a circle of its peers, and a choice is a stretch of it from a random peer on: consecutive
//! bytes of one bucket or a few. All starts are equally likely, so that each peer is chosen equally often, whatever the
//! others do. Who stands beside whom has been decided by a keyed hash (which bucket) and changes from choice to choice
//! by the order in which the buckets are walked, which is random too.

use std::ops::Range;

use arrayvec::ArrayVec;
use fastrand::Rng;

use super::bucket::Bucket;
use super::peers::{LEECHERS, Peers, Place, SEEDERS, Set};
use super::record::{Body, FEW, FewPeer};
use super::ticks::Ticks;
use super::{PeerSink, Shard};
use crate::limits::{CHOICE_BUCKETS_MAX, CHOICE_DRAWS_MAX};
use crate::types::{Announce, Family, PeerAddr};

/// A stretch of a reply: addresses, and as many ids or none.
pub(super) type Stretch<'a, const N: usize> = (&'a [[u8; N]], &'a [[u8; 20]]);

/// The randomness of one choice. Each of its uses has a stream of its own, so that who looks ahead can foretell one
/// without the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn whole(self) -> Rng {
        Rng::with_seed(self.0)
    }

    /// For the set of this role.
    pub(super) fn role(self, role: usize) -> Dice {
        self.stream(1 + role as u64)
    }

    /// For the families' shares.
    fn families(self) -> Dice {
        self.stream(3)
    }

    fn stream(self, number: u64) -> Dice {
        Dice(self.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// What is still to be chosen.
struct Wanted<'a> {
    left: usize,
    asker: Option<Place>,
    ticks: &'a Ticks,
}

impl<const N: usize> Peers<N> {
    /// Gives `take` up to `want` peers of the set, without the asker and those whose time is over.
    #[inline(always)]
    pub(super) fn choose(
        &self,
        set: &Set,
        want: u32,
        asker: Option<Place>,
        ticks: &Ticks,
        dice: Dice,
        mut take: impl FnMut(Stretch<'_, N>),
    ) {
        let others = self.len(set) - u32::from(asker.is_some());
        let mut wanted = Wanted { left: want.min(others) as usize, asker, ticks };
        if wanted.left == 0 {
            return;
        }
        let (start, steps) = self.walk(set, asker, dice);
        let first = self.bucket(set, start.bucket);
        self.take_from(first, start.bucket, usize::from(start.at)..first.len(), &mut wanted, &mut take);
        if wanted.left == 0 {
            return;
        }
        for number in steps {
            let bucket = self.bucket(set, number);
            self.take_from(bucket, number, 0..bucket.len(), &mut wanted, &mut take);
            if wanted.left == 0 {
                return;
            }
        }
        self.take_from(first, start.bucket, 0..usize::from(start.at), &mut wanted, &mut take);
    }

    /// Where a choice begins and which buckets it goes on to: all of them in a random order, by steps of an odd width
    /// through the next power of two, which come to each number once. There must be somebody beside the asker.
    #[inline(always)]
    pub(super) fn walk(
        &self,
        set: &Set,
        asker: Option<Place>,
        dice: Dice,
    ) -> (Place, impl Iterator<Item = u32>) {
        let mut rng = dice.whole();
        let (start, buckets, width) = match set {
            Set::One(bucket) => (start_in_one(*bucket, asker, &mut rng), 1, 0),
            Set::Many(directory) => {
                let width = rng.u32(..) | 1; // drawn first, so that it can be foretold
                (self.start_in_many(*directory, asker, &mut rng), self.buckets(set), width)
            }
        };
        let mask = buckets.next_power_of_two() - 1;
        let numbers = (1..=mask).map(move |step| start.bucket.wrapping_add(step.wrapping_mul(width)) & mask);
        (start, numbers.filter(move |number| *number < buckets).take(CHOICE_BUCKETS_MAX))
    }

    /// Any place in any bucket, until there is somebody: so each peer has the same chance, not each bucket.
    #[inline]
    fn start_in_many(&self, directory: u32, asker: Option<Place>, rng: &mut Rng) -> Place {
        let directory = self.directories.get(directory);
        let mut place = Place { bucket: 0, at: 0 };
        for _ in 0..CHOICE_DRAWS_MAX {
            let random = rng.u64(..);
            let bucket = below(random as u32, directory.buckets.len() as u32);
            place = Place { bucket, at: below((random >> 32) as u32, u32::from(directory.longest)) as u8 };
            let is_there = usize::from(place.at) < directory.buckets[bucket as usize].len();
            if is_there && asker != Some(place) {
                return place;
            }
        }
        Place { at: 0, ..place } // a set that has just lost nearly all of its peers
    }

    /// The bucket that [`start_in_many`](Self::start_in_many) will try first, and the next on the walk from there.
    #[inline]
    pub(super) fn foretell(&self, directory: u32, dice: Dice) -> [u32; 2] {
        let mut rng = dice.whole();
        let width = rng.u32(..) | 1;
        let buckets = self.directories.get(directory).buckets.len() as u32;
        let first = below(rng.u64(..) as u32, buckets);
        [first, first.wrapping_add(width) & (buckets.next_power_of_two() - 1)]
    }

    /// Takes from a stretch of a bucket.
    #[inline(always)]
    fn take_from(
        &self,
        bucket: Bucket,
        number: u32,
        stretch: Range<usize>,
        wanted: &mut Wanted<'_>,
        take: &mut impl FnMut(Stretch<'_, N>),
    ) {
        let has_asker = wanted.asker.is_some_and(|asker| asker.bucket == number);
        if has_asker || bucket.has_ids() || wanted.ticks.is_over(bucket.oldest) {
            return self.take_with_care(bucket, number, stretch, wanted, take);
        }
        let end = stretch.end.min(stretch.start + wanted.left);
        if stretch.start < end {
            wanted.left -= end - stretch.start;
            take((&self.blocks.addrs(bucket)[stretch.start..end], &[]));
        }
    }

    /// The same where the asker may be, or peers that are over, or ids.
    fn take_with_care(
        &self,
        bucket: Bucket,
        number: u32,
        stretch: Range<usize>,
        wanted: &mut Wanted<'_>,
        take: &mut impl FnMut(Stretch<'_, N>),
    ) {
        let columns = self.blocks.columns(bucket);
        let mut take_part = |from: usize, to: usize| {
            let to = to.min(from + wanted.left);
            if from < to {
                wanted.left -= to - from;
                take((&columns.addrs[from..to], columns.ids.get(from..to).unwrap_or_default()));
            }
        };
        let asker = wanted.asker.filter(|asker| asker.bucket == number).map(|asker| usize::from(asker.at));
        let asker = asker.filter(|at| stretch.contains(at)).unwrap_or(stretch.end);
        for part in [stretch.start..asker, asker + 1..stretch.end] {
            if !wanted.ticks.is_over(bucket.oldest) {
                take_part(part.start, part.end);
                continue;
            }
            part.filter(|at| !wanted.ticks.is_over(columns.marks[*at])).for_each(|at| take_part(at, at + 1));
        }
    }
}

impl<const N: usize> Peers<N> {
    /// How many peers of a family may be handed out, by role: leechers to a seeder, all to a leecher, which is taken to
    /// be in the set where it belongs.
    #[inline(always)]
    fn eligible(&self, sets: &[Set; 2], to_seeder: bool, with_asker: bool) -> [u32; 2] {
        let leechers = self.len(&sets[LEECHERS]);
        match to_seeder {
            true => [0, leechers],
            false => [self.len(&sets[SEEDERS]), leechers.saturating_sub(with_asker.into())],
        }
    }

    /// Chooses so many seeders and leechers.
    #[inline(always)]
    fn choose_both(
        &self,
        sets: &[Set; 2],
        [seeders, leechers]: [u32; 2],
        asker: Option<Place>,
        ticks: &Ticks,
        dice: Dice,
        mut take: impl FnMut(Stretch<'_, N>),
    ) {
        if seeders > 0 {
            self.choose(&sets[SEEDERS], seeders, None, ticks, dice.role(SEEDERS), &mut take);
        }
        if leechers > 0 {
            self.choose(&sets[LEECHERS], leechers, asker, ticks, dice.role(LEECHERS), &mut take);
        }
    }
}

impl Shard {
    /// Gives the sink the peers that an announce in a swarm with sets asks for.
    #[inline]
    pub(super) fn choose<S: PeerSink>(
        &self,
        number: u32,
        announce: &Announce,
        asker: Place,
        dice: Dice,
        sink: &mut S,
    ) {
        let Body::Sets(sets) = &self.swarms.get(number).body else { return };
        let (ticks, want, seeder) = (&self.books.ticks, u32::from(announce.num_want), announce.seeder);
        let is_v4 = announce.peer.family() == Family::V4;
        let asker = (!seeder).then_some(asker);
        let (v4_asker, v6_asker) = if is_v4 { (asker, None) } else { (None, asker) };
        let v4 = if S::BOTH_FAMILIES || is_v4 { self.v4.eligible(&sets.v4, seeder, is_v4) } else { [0; 2] };
        let v6 = if S::BOTH_FAMILIES || !is_v4 { self.v6.eligible(&sets.v6, seeder, !is_v4) } else { [0; 2] };
        let [v4_want, v6_want] = match S::BOTH_FAMILIES {
            true => share(want, [v4[0] + v4[1], v6[0] + v6[1]], dice.families()),
            false => [want, want],
        };
        if v4 != [0; 2] {
            let shares = share(v4_want, v4, dice);
            self.v4.choose_both(&sets.v4, shares, v4_asker, ticks, dice, |(peers, ids)| sink.v4(peers, ids));
        }
        if v6 != [0; 2] {
            let shares = share(v6_want, v6, dice);
            self.v6.choose_both(&sets.v6, shares, v6_asker, ticks, dice, |(peers, ids)| sink.v6(peers, ids));
        }
    }

    /// Gives the sink the peers that an announce in a small swarm asks for.
    #[inline]
    pub(super) fn choose_few<S: PeerSink>(&self, number: u32, announce: &Announce, dice: Dice, sink: &mut S) {
        let Body::Few(few) = &self.swarms.get(number).body else { return };
        let others = few.iter().filter(|peer| {
            let eligible = !(announce.seeder && peer.seeder) && peer.addr != announce.peer;
            let asked = S::BOTH_FAMILIES || peer.addr.family() == announce.peer.family();
            eligible && asked && !self.books.ticks.is_over(peer.mark)
        });
        let mut others: ArrayVec<FewPeer, FEW> = others.collect();
        let mut rng = dice.whole();
        while others.len() > usize::from(announce.num_want) {
            others.swap_remove(rng.usize(..others.len()));
        }
        for peer in others {
            match peer.addr {
                PeerAddr::V4(addr) => sink.v4(&[addr], &[]),
                PeerAddr::V6(addr) => sink.v6(&[addr], &[]),
            }
        }
    }
}

/// A peer of a set of one bucket, drawn at random, which isn't the asker.
#[inline]
fn start_in_one(bucket: Bucket, asker: Option<Place>, rng: &mut Rng) -> Place {
    let others = bucket.len() - usize::from(asker.is_some());
    let at = below(rng.u32(..), others as u32) as u8;
    let behind_asker = asker.is_some_and(|asker| asker.at <= at);
    Place { bucket: 0, at: at + u8::from(behind_asker) }
}

/// A number below `bound`, of 32 random bits.
#[inline]
fn below(random: u32, bound: u32) -> u32 {
    ((u64::from(random) * u64::from(bound)) >> 32) as u32
}

/// Deals `want` out among two sets of these sizes: to each what is its share on average, rounded at random, so that
/// every peer is as likely as any other.
#[inline(always)]
fn share(want: u32, [one, other]: [u32; 2], dice: Dice) -> [u32; 2] {
    let all = u64::from(one) + u64::from(other);
    if all <= u64::from(want) {
        return [one, other];
    }
    let part = match (one, other) {
        (0, _) => 0, // a seeder gets leechers alone
        (_, 0) => want,
        _ => ((u64::from(want) * u64::from(one) + dice.whole().u64(..all)) / all) as u32,
    };
    [part, want - part]
}
