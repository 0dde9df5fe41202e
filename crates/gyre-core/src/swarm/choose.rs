//! Owns the choice of peers for a reply.
//!
//! The peers of a set form a circle, and a choice is a range of it that starts at a random peer: consecutive bytes of
//! one bucket or a few. All starts are equally likely, so that all peers are chosen equally often. Which peers are
//! neighbours depends on a keyed hash, which selects the bucket, and on the order in which the choice walks the
//! buckets, which is random as well.

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

/// Consecutive peers of a reply: their addresses, and their ids or an empty slice.
pub(super) type PeerSlices<'a, const N: usize> = (&'a [[u8; N]], &'a [[u8; 20]]);

/// The random numbers of one choice. Each use has a separate stream, so that the lookahead can predict one without the
/// others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    seed: u64,
    /// By role: the start of the choice from the client's family, as predicted by the lookahead. It is used if a
    /// peer other than the client is there.
    pub(super) starts: [Place; 2],
}

/// The random numbers of a choice from one set.
#[derive(Clone, Copy)]
pub(super) struct SetDraw {
    seed: u64,
    predicted: Place,
}

impl SetDraw {
    /// Returns the random numbers for the start.
    #[inline(always)]
    fn places(self) -> Rng {
        Rng::with_seed(self.seed)
    }

    /// Returns the width of the steps from bucket to bucket. These are bits of the seed itself. The start is computed
    /// from a hash of the seed, so the two are independent.
    #[inline(always)]
    fn width(self) -> u32 {
        (self.seed >> 32) as u32 | 1
    }
}

impl Default for Draw {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, starts: [Place::NOWHERE; 2] }
    }

    /// Returns the draw for the set of this role.
    #[inline(always)]
    pub(super) fn role(&self, role: usize) -> SetDraw {
        SetDraw { seed: self.stream(1 + role as u64), predicted: self.starts[role] }
    }

    /// Returns the draw for the other family, whose starts are not predicted.
    fn without_starts(&self) -> Self {
        Self::new(self.seed)
    }

    /// Returns the random numbers for the shares of the roles.
    fn roles(&self) -> Rng {
        Rng::with_seed(self.seed)
    }

    /// Returns the random numbers for the shares of the families.
    fn families(&self) -> Rng {
        Rng::with_seed(self.stream(3))
    }

    fn stream(&self, number: u64) -> u64 {
        self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// The peers still to be chosen.
struct Wanted<'a> {
    left: usize,
    client: Option<Place>,
    ticks: &'a Ticks,
}

/// The order in which a choice visits the buckets. It starts at a random peer and visits all buckets in a random order:
/// steps of an odd width, modulo the next power of two, reach each number once.
pub(super) struct BucketWalk {
    pub(super) start: Place,
    buckets: u32,
    mask: u32,
    number: u32,
    width: u32,
    steps: u32,
}

impl BucketWalk {
    /// Creates the walk for a set with at least one peer other than the client.
    #[inline(always)]
    pub(super) fn new(set: View<'_>, client: Option<Place>, draw: SetDraw) -> Self {
        let predicted = set.buckets.get(draw.predicted.bucket as usize);
        let is_there = predicted.is_some_and(|bucket| usize::from(draw.predicted.at) < bucket.len());
        let start = match is_there && client != Some(draw.predicted) {
            true => draw.predicted,
            false => Self::start(set, client, draw.places()),
        };
        let (buckets, mask) = (set.buckets.len() as u32, set.mask);
        Self {
            start,
            buckets,
            mask,
            number: start.bucket,
            width: draw.width(),
            steps: mask.min(CHOICE_STEPS_MAX),
        }
    }

    /// Draws places in all buckets until one holds a peer, so that each peer has the same probability, not each bucket.
    #[inline(always)]
    fn start(set: View<'_>, client: Option<Place>, mut rng: Rng) -> Place {
        let mut place = Place { bucket: 0, at: 0 };
        for _ in 0..CHOICE_DRAWS_MAX {
            let random = rng.u64(..);
            let bucket = below(random as u32, set.buckets.len() as u32);
            place = Place { bucket, at: below((random >> 32) as u32, u32::from(set.longest)) as u8 };
            let is_there = usize::from(place.at) < set.buckets[bucket as usize].len();
            if is_there && client != Some(place) {
                return place;
            }
        }
        Place { at: 0, ..place } // the set has just lost almost all of its peers
    }

    /// Returns the bucket that a walk tries first, and the one after it.
    #[inline(always)]
    pub(super) fn predict(set: View<'_>, draw: SetDraw) -> [u32; 2] {
        let first = below(draw.places().u64(..) as u32, set.buckets.len() as u32);
        [first, first.wrapping_add(draw.width()) & set.mask]
    }
}

impl Iterator for BucketWalk {
    type Item = u32;

    /// Returns the number of the next bucket.
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
    /// Gives `take` up to `want` peers of the set, without the client and expired peers.
    #[inline(always)]
    pub(super) fn choose(
        &self,
        set: View<'_>,
        want: u32,
        client: Option<Place>,
        ticks: &Ticks,
        draw: SetDraw,
        mut take: impl FnMut(PeerSlices<'_, N>),
    ) {
        let others = set.peers - u32::from(client.is_some());
        let mut wanted = Wanted { left: want.min(others) as usize, client, ticks };
        if wanted.left == 0 {
            return;
        }
        let mut walk = BucketWalk::new(set, client, draw);
        let start = walk.start;
        let (mut number, mut from) = (start.bucket, usize::from(start.at));
        loop {
            let bucket = &set.buckets[number as usize];
            self.take_from(bucket, number, from..bucket.len(), &mut wanted, &mut take);
            if wanted.left == 0 {
                return;
            }
            let Some(next) = walk.next() else { break };
            (number, from) = (next, 0);
        }
        let first = &set.buckets[start.bucket as usize];
        self.take_from(first, start.bucket, 0..usize::from(start.at), &mut wanted, &mut take);
    }

    /// Takes peers from a range of a bucket.
    #[inline(always)]
    fn take_from(
        &self,
        bucket: &Bucket,
        number: u32,
        range: Range<usize>,
        wanted: &mut Wanted<'_>,
        take: &mut impl FnMut(PeerSlices<'_, N>),
    ) {
        let has_client = wanted.client.is_some_and(|client| client.bucket == number);
        if has_client || bucket.has_ids() || wanted.ticks.is_expired(bucket.oldest) {
            return self.take_filtered(bucket, number, range, wanted, take);
        }
        let end = range.end.min(range.start + wanted.left);
        if range.start < end {
            wanted.left -= end - range.start;
            take((&self.addrs(bucket)[range.start..end], &[]));
        }
    }

    /// Like [`take_from`](Self::take_from), for a bucket that may have the client, expired peers or ids.
    fn take_filtered(
        &self,
        bucket: &Bucket,
        number: u32,
        range: Range<usize>,
        wanted: &mut Wanted<'_>,
        take: &mut impl FnMut(PeerSlices<'_, N>),
    ) {
        let columns = self.columns(bucket);
        let mut take_part = |from: usize, to: usize| {
            let to = to.min(from + wanted.left);
            if from < to {
                wanted.left -= to - from;
                take((&columns.addrs[from..to], columns.ids.get(from..to).unwrap_or_default()));
            }
        };
        let client =
            wanted.client.filter(|client| client.bucket == number).map(|client| usize::from(client.at));
        let client = client.filter(|at| range.contains(at)).unwrap_or(range.end);
        for part in [range.start..client, client + 1..range.end] {
            if !wanted.ticks.is_expired(bucket.oldest) {
                take_part(part.start, part.end);
                continue;
            }
            part.filter(|at| !wanted.ticks.is_expired(columns.marks[*at]))
                .for_each(|at| take_part(at, at + 1));
        }
    }
}

/// The request for peers.
#[derive(Clone, Copy)]
struct Request<'a> {
    /// Seeders get only leechers.
    from_seeder: bool,
    ticks: &'a Ticks,
}

/// The peers of one family of a swarm.
struct FamilySets<'a, const N: usize> {
    blocks: &'a Blocks<N>,
    sets: [View<'a>; 2],
    /// The client's place, if it is a leecher of this family.
    client: Option<Place>,
    draw: Draw,
}

impl<const N: usize> FamilySets<'_, N> {
    /// Returns the number of peers that may be chosen, by role.
    #[inline(always)]
    fn eligible(&self, request: &Request<'_>) -> [u32; 2] {
        let seeders = if request.from_seeder { 0 } else { self.sets[SEEDERS].peers };
        [seeders, self.sets[LEECHERS].peers - u32::from(self.client.is_some())]
    }

    #[inline(always)]
    fn choose(&self, want: u32, request: &Request<'_>, mut take: impl FnMut(PeerSlices<'_, N>)) {
        let eligible = self.eligible(request);
        if eligible == [0; 2] {
            return;
        }
        let (ticks, draw) = (request.ticks, &self.draw);
        let [seeders, leechers] = share(want, eligible, draw.roles());
        if seeders > 0 {
            self.blocks.choose(self.sets[SEEDERS], seeders, None, ticks, draw.role(SEEDERS), &mut take);
        }
        if leechers > 0 {
            let set = self.sets[LEECHERS];
            self.blocks.choose(set, leechers, self.client, ticks, draw.role(LEECHERS), &mut take);
        }
    }
}

impl Shard {
    /// Chooses the peers for an announce to a swarm with sets and gives them to the sink. Returns the swarm's counts.
    #[inline(always)]
    pub(super) fn choose<S: PeerSink>(
        &self,
        number: u32,
        announce: &Announce,
        client: Place,
        draw: &Draw,
        sink: &mut S,
    ) -> SwarmCounts {
        let Swarm { downloaded, body: Body::Sets(sets), .. } = self.swarms.get(number) else {
            unreachable!("only a swarm with sets has places");
        };
        let is_v4 = announce.peer.family() == Family::V4;
        let client = (!announce.seeder).then_some(client);
        let v4 = FamilySets {
            blocks: &self.v4.blocks,
            sets: sets.v4.each_ref().map(|set| set.view(&self.v4.directories)),
            client: client.filter(|_| is_v4),
            draw: if is_v4 { *draw } else { draw.without_starts() },
        };
        let v6 = FamilySets {
            blocks: &self.v6.blocks,
            sets: sets.v6.each_ref().map(|set| set.view(&self.v6.directories)),
            client: client.filter(|_| !is_v4),
            draw: if is_v4 { draw.without_starts() } else { *draw },
        };
        let want = u32::from(announce.num_want);
        let request = Request { from_seeder: announce.seeder, ticks: &self.books.ticks };
        let [v4_want, v6_want] = match S::BOTH_FAMILIES {
            true => {
                let all = [v4.eligible(&request), v6.eligible(&request)].map(|[one, other]| one + other);
                share(want, all, draw.families())
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

    /// Chooses the peers for an announce to a small swarm and gives them to the sink.
    #[inline]
    pub(super) fn choose_few<S: PeerSink>(
        &self,
        number: u32,
        announce: &Announce,
        draw: &Draw,
        sink: &mut S,
    ) {
        let Body::Few(few) = &self.swarms.get(number).body else { return };
        let others = few.iter().filter(|peer| {
            let eligible = !(announce.seeder && peer.seeder) && peer.addr != announce.peer;
            let has_family = S::BOTH_FAMILIES || peer.addr.family() == announce.peer.family();
            eligible && has_family && !self.books.ticks.is_expired(peer.mark)
        });
        let mut others: ArrayVec<FewPeer, FEW> = others.collect();
        let mut rng = draw.roles();
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

/// Maps 32 random bits to a number below `bound`.
#[inline]
fn below(random: u32, bound: u32) -> u32 {
    ((u64::from(random) * u64::from(bound)) >> 32) as u32
}

/// Maps 64 random bits to a number below `bound`, which is at most 2^33. The probabilities of two numbers differ by
/// less than one in 2^31, for which no draw has to be rejected.
#[inline]
fn scale(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// Divides `want` between two sets of these sizes. Each share is proportional on average and rounded at random, so that
/// all peers are equally likely.
#[inline(always)]
fn share(want: u32, [one, other]: [u32; 2], mut rng: Rng) -> [u32; 2] {
    let all = u64::from(one) + u64::from(other);
    if all <= u64::from(want) {
        return [one, other];
    }
    let part = match (one, other) {
        (0, _) => 0, // a seeder gets only leechers
        (_, 0) => want,
        _ => ((u64::from(want) * u64::from(one) + scale(rng.u64(..), all)) / all) as u32,
    };
    [part, want - part]
}
