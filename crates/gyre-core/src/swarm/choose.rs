//! Owns the choice of peers for a reply.
//!
//! A set is thought of as a circle of its peers, and a choice is a stretch of it from a random peer on: consecutive
//! bytes of one bucket or a few. All starts are equally likely, so that each peer is chosen equally often, whatever the
//! others do. Who stands beside whom has been decided by a keyed hash (which bucket) and changes from choice to choice
//! by the order in which the buckets are walked, which is random too.

use std::ops::Range;

use arrayvec::ArrayVec;
use fastrand::Rng;

use super::bucket::{Blocks, Bucket};
use super::peers::{LEECHERS, Place, SEEDERS, View};
use super::record::{Body, FEW, FewPeer, Swarm};
use super::ticks::Ticks;
use super::{PeerSink, Shard};
use crate::limits::{CHOICE_DRAWS_MAX, CHOICE_STEPS_MAX};
use crate::types::{Announce, Family, PeerAddr, SwarmCounts};

/// A stretch of a reply: addresses, and as many ids or none.
pub(super) type Stretch<'a, const N: usize> = (&'a [[u8; N]], &'a [[u8; 20]]);

/// The randomness of one choice. Each of its uses has a stream of its own, so that who looks ahead can foretell one
/// without the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice {
    seed: u64,
    /// By role: where the choice from the asker's own family begins, as who looked ahead has thrown it. It holds if
    /// there is somebody else than the asker.
    pub(super) starts: [Place; 2],
}

/// The randomness of a choice from one set.
#[derive(Clone, Copy)]
pub(super) struct Throw {
    seed: u64,
    foreseen: Place,
}

impl Default for Dice {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, starts: [Place::NOWHERE; 2] }
    }

    /// For the set of this role.
    #[inline(always)]
    pub(super) fn role(&self, role: usize) -> Throw {
        Throw { seed: self.stream(1 + role as u64), foreseen: self.starts[role] }
    }

    /// For the other family, whose starts are not foreseen.
    fn unforeseen(&self) -> Self {
        Self::new(self.seed)
    }

    /// For the roles' shares.
    fn roles(&self) -> Rng {
        Rng::with_seed(self.seed)
    }

    /// For the families' shares.
    fn families(&self) -> Rng {
        Rng::with_seed(self.stream(3))
    }

    fn stream(&self, number: u64) -> u64 {
        self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// What is still to be chosen.
struct Wanted<'a> {
    left: usize,
    asker: Option<Place>,
    ticks: &'a Ticks,
}

/// The way of a choice: from a random peer on, and to all buckets in a random order, by steps of an odd width through
/// the next power of two, which come to each number once.
pub(super) struct Walk {
    pub(super) start: Place,
    buckets: u32,
    mask: u32,
    number: u32,
    width: u32,
    steps: u32,
}

impl Walk {
    /// In a set that has somebody beside the asker.
    #[inline(always)]
    pub(super) fn new(set: View<'_>, asker: Option<Place>, throw: Throw) -> Self {
        let mut rng = Rng::with_seed(throw.seed);
        let width = rng.u32(..) | 1; // drawn first, so that it can be foretold
        let foreseen = set.buckets.get(throw.foreseen.bucket as usize);
        let is_there = foreseen.is_some_and(|bucket| usize::from(throw.foreseen.at) < bucket.len());
        let start = match is_there && asker != Some(throw.foreseen) {
            true => throw.foreseen,
            false => Self::start(set, asker, &mut rng),
        };
        let (buckets, mask) = (set.buckets.len() as u32, set.mask);
        Self { start, buckets, mask, number: start.bucket, width, steps: mask.min(CHOICE_STEPS_MAX) }
    }

    /// Any place in any bucket, until there is somebody: so each peer has the same chance, not each bucket.
    #[inline(always)]
    fn start(set: View<'_>, asker: Option<Place>, rng: &mut Rng) -> Place {
        let mut place = Place { bucket: 0, at: 0 };
        for _ in 0..CHOICE_DRAWS_MAX {
            let random = rng.u64(..);
            let bucket = below(random as u32, set.buckets.len() as u32);
            place = Place { bucket, at: below((random >> 32) as u32, u32::from(set.longest)) as u8 };
            let is_there = usize::from(place.at) < set.buckets[bucket as usize].len();
            if is_there && asker != Some(place) {
                return place;
            }
        }
        Place { at: 0, ..place } // a set that has just lost nearly all of its peers
    }

    /// The bucket that a walk will try first, and the next from there.
    #[inline(always)]
    pub(super) fn foretell(set: View<'_>, throw: Throw) -> [u32; 2] {
        let mut rng = Rng::with_seed(throw.seed);
        let width = rng.u32(..) | 1;
        let first = below(rng.u64(..) as u32, set.buckets.len() as u32);
        [first, first.wrapping_add(width) & set.mask]
    }
}

impl Iterator for Walk {
    type Item = u32;

    /// The number of the next bucket.
    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        while self.steps > 0 {
            self.steps -= 1;
            self.number = self.number.wrapping_add(self.width) & self.mask;
            if self.number < self.buckets {
                return Some(self.number);
            }
        }
        None
    }
}

impl<const N: usize> Blocks<N> {
    /// Gives `take` up to `want` peers of the set, without the asker and those whose time is over.
    #[inline(always)]
    pub(super) fn choose(
        &self,
        set: View<'_>,
        want: u32,
        asker: Option<Place>,
        ticks: &Ticks,
        throw: Throw,
        mut take: impl FnMut(Stretch<'_, N>),
    ) {
        let others = set.peers - u32::from(asker.is_some());
        let mut wanted = Wanted { left: want.min(others) as usize, asker, ticks };
        if wanted.left == 0 {
            return;
        }
        let walk = Walk::new(set, asker, throw);
        let start = walk.start;
        let first = set.buckets[start.bucket as usize];
        self.take_from(first, start.bucket, usize::from(start.at)..first.len(), &mut wanted, &mut take);
        if wanted.left == 0 {
            return;
        }
        for number in walk {
            let bucket = set.buckets[number as usize];
            self.take_from(bucket, number, 0..bucket.len(), &mut wanted, &mut take);
            if wanted.left == 0 {
                return;
            }
        }
        self.take_from(first, start.bucket, 0..usize::from(start.at), &mut wanted, &mut take);
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
            take((&self.addrs(bucket)[stretch.start..end], &[]));
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
        let columns = self.columns(bucket);
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

/// What one asks for.
#[derive(Clone, Copy)]
struct Request<'a> {
    /// Seeders get leechers alone.
    from_seeder: bool,
    ticks: &'a Ticks,
}

/// The peers of one family of a swarm.
struct Side<'a, const N: usize> {
    blocks: &'a Blocks<N>,
    sets: [View<'a>; 2],
    /// The asker, if it is among the leechers here.
    asker: Option<Place>,
    dice: Dice,
}

impl<const N: usize> Side<'_, N> {
    /// How many peers may be handed out, by role.
    #[inline(always)]
    fn eligible(&self, request: &Request<'_>) -> [u32; 2] {
        let seeders = if request.from_seeder { 0 } else { self.sets[SEEDERS].peers };
        [seeders, self.sets[LEECHERS].peers - u32::from(self.asker.is_some())]
    }

    #[inline(always)]
    fn choose(&self, want: u32, request: &Request<'_>, mut take: impl FnMut(Stretch<'_, N>)) {
        let eligible = self.eligible(request);
        if eligible == [0; 2] {
            return;
        }
        let (ticks, dice) = (request.ticks, &self.dice);
        let [seeders, leechers] = share(want, eligible, dice.roles());
        if seeders > 0 {
            self.blocks.choose(self.sets[SEEDERS], seeders, None, ticks, dice.role(SEEDERS), &mut take);
        }
        if leechers > 0 {
            let set = self.sets[LEECHERS];
            self.blocks.choose(set, leechers, self.asker, ticks, dice.role(LEECHERS), &mut take);
        }
    }
}

impl Shard {
    /// Gives the sink the peers that an announce in a swarm with sets asks for; returns the swarm's counts.
    #[inline(always)]
    pub(super) fn choose<S: PeerSink>(
        &self,
        number: u32,
        announce: &Announce,
        asker: Place,
        dice: &Dice,
        sink: &mut S,
    ) -> SwarmCounts {
        let Swarm { downloaded, body: Body::Sets(sets), .. } = self.swarms.get(number) else {
            unreachable!("a place is in a set");
        };
        let is_v4 = announce.peer.family() == Family::V4;
        let asker = (!announce.seeder).then_some(asker);
        let v4 = Side {
            blocks: &self.v4.blocks,
            sets: sets.v4.each_ref().map(|set| set.view(&self.v4.directories)),
            asker: asker.filter(|_| is_v4),
            dice: if is_v4 { *dice } else { dice.unforeseen() },
        };
        let v6 = Side {
            blocks: &self.v6.blocks,
            sets: sets.v6.each_ref().map(|set| set.view(&self.v6.directories)),
            asker: asker.filter(|_| !is_v4),
            dice: if is_v4 { dice.unforeseen() } else { *dice },
        };
        let want = u32::from(announce.num_want);
        let request = Request { from_seeder: announce.seeder, ticks: &self.books.ticks };
        let [v4_want, v6_want] = match S::BOTH_FAMILIES {
            true => {
                let all = [v4.eligible(&request), v6.eligible(&request)].map(|[one, other]| one + other);
                share(want, all, dice.families())
            }
            false if is_v4 => [want, 0],
            false => [0, want],
        };
        if v4_want > 0 {
            v4.choose(v4_want, &request, |(peers, ids)| sink.v4(peers, ids));
        }
        if v6_want > 0 {
            v6.choose(v6_want, &request, |(peers, ids)| sink.v6(peers, ids));
        }
        SwarmCounts {
            seeders: v4.sets[SEEDERS].peers + v6.sets[SEEDERS].peers,
            leechers: v4.sets[LEECHERS].peers + v6.sets[LEECHERS].peers,
            downloaded: *downloaded,
        }
    }

    /// Gives the sink the peers that an announce in a small swarm asks for.
    #[inline]
    pub(super) fn choose_few<S: PeerSink>(
        &self,
        number: u32,
        announce: &Announce,
        dice: &Dice,
        sink: &mut S,
    ) {
        let Body::Few(few) = &self.swarms.get(number).body else { return };
        let others = few.iter().filter(|peer| {
            let eligible = !(announce.seeder && peer.seeder) && peer.addr != announce.peer;
            let asked = S::BOTH_FAMILIES || peer.addr.family() == announce.peer.family();
            eligible && asked && !self.books.ticks.is_over(peer.mark)
        });
        let mut others: ArrayVec<FewPeer, FEW> = others.collect();
        let mut rng = dice.roles();
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

/// A number below `bound`, of 32 random bits.
#[inline]
fn below(random: u32, bound: u32) -> u32 {
    ((u64::from(random) * u64::from(bound)) >> 32) as u32
}

/// Deals `want` out among two sets of these sizes: to each what is its share on average, rounded at random, so that
/// every peer is as likely as any other.
#[inline(always)]
fn share(want: u32, [one, other]: [u32; 2], mut rng: Rng) -> [u32; 2] {
    let all = u64::from(one) + u64::from(other);
    if all <= u64::from(want) {
        return [one, other];
    }
    let part = match (one, other) {
        (0, _) => 0, // a seeder gets leechers alone
        (_, 0) => want,
        _ => ((u64::from(want) * u64::from(one) + rng.u64(..all)) / all) as u32,
    };
    [part, want - part]
}
