//! Owns the crowd: the swarms, their peers, and the sequence of announces. Everything is derived from numbers by a
//! mixing function, so that all runs and tables get the same.

use fastrand::Rng;
use gyre_core::types::{Announce, Event, InfoHash, PEER_V4_BYTES, PeerAddr, PeerId};

/// Of 100 announces, 90 renew a peer, 6 enter a new one, 3 stop, and 1 completes.
const REFRESHES: u32 = 90;
const UP_TO_ENTERS: u32 = REFRESHES + 6;
const UP_TO_STOPS: u32 = UP_TO_ENTERS + 3;
/// One of this many new peers creates a swarm. The others join the swarm of a random peer.
const NEW_SWARM: u32 = 32;
/// Number of seeders in four peers.
const SEEDERS_OF_FOUR: u64 = 3;

/// The sizes of the swarms at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SwarmSizes {
    /// A realistic distribution.
    Lifelike { swarms: u32 },
    /// Swarms of equal size.
    Even { swarms: u32, peers: u32 },
}

impl SwarmSizes {
    /// Returns the size of each swarm.
    pub(crate) fn sizes(self) -> Vec<u32> {
        match self {
            Self::Lifelike { swarms } => (1..=swarms).map(|rank| lifelike(rank, swarms)).collect(),
            Self::Even { swarms, peers } => vec![peers; swarms as usize],
        }
    }
}

/// Returns the size of the swarm with this rank. Rank 1 is the most popular swarm.
///
/// A generalized gamma density with a faster falling tail, fitted to three points: 2,300 peers at the top, 192 at 1 %,
/// and 2.45 at 10 %. Swarms beyond that have 2 peers, and the last half of all swarms 1.
fn lifelike(rank: u32, swarms: u32) -> u32 {
    const SCALE: f64 = 53.11;
    const POWER: f64 = 0.287_16;
    const TAIL: f64 = 0.051_725;
    const LARGEST: u32 = 2_300;
    let part = f64::from(rank) / f64::from(swarms);
    let size = SCALE * part.powf(-POWER) * (-(part / TAIL).powi(2)).exp();
    let smallest = if part <= 0.5 { 2 } else { 1 };
    (size.round() as u32).clamp(smallest, LARGEST)
}

/// Checks that the distribution for half a million swarms matches real trackers.
pub(crate) fn check_sizes() {
    const SWARMS: usize = 500_000;
    let sizes = SwarmSizes::Lifelike { swarms: SWARMS as u32 }.sizes();
    assert!(sizes.is_sorted_by(|a, b| a >= b));
    assert!(
        sizes[SWARMS / 2..].iter().all(|size| *size == 1) && sizes[SWARMS / 2 - 1] == 2,
        "half have 1 peer"
    );
    assert!(
        sizes[SWARMS / 10..].iter().all(|size| *size <= 2) && sizes[SWARMS / 20] > 2,
        "90 % have at most 2"
    );
    assert!((2_200..=2_300).contains(&sizes[0]), "the largest has {}", sizes[0]);
    assert!(
        (190..200).contains(&sizes[SWARMS / 100 - 1]),
        "the last of the top 1 % has {}",
        sizes[SWARMS / 100 - 1]
    );
    let between = &sizes[SWARMS / 100 - 1..];
    assert!(between.windows(2).all(|pair| pair[0] - pair[1] <= 1), "all smaller sizes occur");
    let mean = sizes.iter().map(|size| f64::from(*size)).sum::<f64>() / SWARMS as f64;
    assert!((9.0..11.0).contains(&mean), "{mean} peers in a swarm on average");
}

/// A peer.
#[derive(Clone, Copy, Default)]
struct Member {
    swarm: u32,
    number: u32,
    /// Time of its last announce in seconds.
    seen: u32,
    seeder: bool,
}

impl Member {
    fn new(swarm: u32, number: u32, seen: u32) -> Self {
        let seeder = mix(!((u64::from(swarm) << 32) | u64::from(number))) % 4 < SEEDERS_OF_FOUR;
        Self { swarm, number, seen, seeder }
    }

    fn announce(&self, event: Event, num_want: u16) -> Announce {
        let random = mix((u64::from(self.swarm) << 32) | u64::from(self.number)).to_be_bytes();
        let mut addr = [0; PEER_V4_BYTES];
        addr.copy_from_slice(&random[..PEER_V4_BYTES]);
        let mut id = *b"-GY0001-swarmbench..";
        id[12..].copy_from_slice(&random);
        Announce {
            info_hash: info_hash(self.swarm),
            peer_id: PeerId(id),
            peer: PeerAddr::V4(addr),
            event,
            seeder: self.seeder,
            num_want,
            wants_ids: false,
        }
    }
}

/// All peers in the table, and the generator of announces.
pub(crate) struct Crowd {
    members: Vec<Member>,
    swarms: u32,
    /// Number of the next new peer.
    next_number: u32,
    num_want: u16,
    rng: Rng,
}

impl Crowd {
    /// Creates a crowd that has not announced yet, with room for the new peers of `announces` later announces.
    /// Allocates all its memory at once.
    pub(crate) fn new(sizes: SwarmSizes, announces: usize, num_want: u16) -> Self {
        let sizes = sizes.sizes();
        let peers: usize = sizes.iter().map(|size| *size as usize).sum();
        let room = peers + announces / 10;
        let mut members = vec![Member { seen: 1, ..Member::default() }; room]; // not zeros, which would not be resident
        members.clear();
        for (swarm, size) in (0..).zip(&sizes) {
            members.extend((0..*size).map(|number| Member::new(swarm, number, 0)));
        }
        let mut rng = Rng::with_seed(7);
        rng.shuffle(&mut members);
        Self { members, swarms: sizes.len() as u32, next_number: 1 << 30, num_want, rng }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn swarms(&self) -> u32 {
        self.swarms
    }

    /// Returns the number of seeders.
    pub(crate) fn seeders(&self) -> usize {
        self.members.iter().filter(|member| member.seeder).count()
    }

    /// Returns the first announce of peer `at`, which requests no peers.
    pub(crate) fn arrive(&mut self, at: usize, second: u32) -> Announce {
        self.members[at].seen = second;
        self.members[at].announce(Event::Started, 0)
    }

    /// Returns the next announce, at this time in seconds.
    pub(crate) fn next(&mut self, second: u32) -> Announce {
        let at = self.rng.usize(..self.members.len());
        let num_want = self.num_want;
        let kind = self.rng.u32(..100);
        if (REFRESHES..UP_TO_ENTERS).contains(&kind) {
            return self.enter(self.members[at].swarm, second);
        }
        if (UP_TO_ENTERS..UP_TO_STOPS).contains(&kind) {
            return self.members.swap_remove(at).announce(Event::Stopped, num_want);
        }
        let member = &mut self.members[at];
        member.seen = second;
        if kind >= UP_TO_STOPS && !member.seeder {
            member.seeder = true;
            return member.announce(Event::Completed, num_want);
        }
        member.announce(Event::None, num_want)
    }

    fn enter(&mut self, other: u32, second: u32) -> Announce {
        let swarm = match self.rng.u32(..NEW_SWARM) {
            0 => {
                self.swarms += 1;
                self.swarms - 1
            }
            _ => other,
        };
        let member = Member::new(swarm, self.next_number, second);
        self.next_number += 1;
        self.members.push(member);
        member.announce(Event::Started, self.num_want)
    }

    /// Returns the time in seconds before which this part of all peers made its last announce.
    pub(crate) fn quantile_of_seen(&self, part: f64) -> u32 {
        let mut seen: Vec<u32> = self.members.iter().map(|member| member.seen).collect();
        let at = (seen.len() as f64 * part) as usize;
        *seen.select_nth_unstable(at).1
    }
}

/// Returns 20 bytes that look like a SHA-1.
fn info_hash(swarm: u32) -> InfoHash {
    let mut bytes = [0; 24];
    for (part, chunk) in (1..).zip(bytes.as_chunks_mut::<8>().0) {
        *chunk = mix((part << 48) | u64::from(swarm)).to_be_bytes();
    }
    InfoHash(bytes[..20].try_into().expect("twenty bytes"))
}

/// The mixer of SplitMix64: a permutation in which each bit depends on all bits.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
