//! Owns the table's way out of the process and back in: a walk over all that it holds, which can stop and go on.

use super::peers::{LEECHERS, Set};
use super::record::{Body, Few, Swarm};
use super::ticks::Mark;
use super::{Peers, SEEDERS, Shard, linear};
use crate::time::Timestamp;
use crate::types::{Announce, Event, InfoHash, PeerAddr, PeerId};

/// A piece of the table, complete in itself; the order of pieces doesn't matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// A swarm.
    Swarm {
        /// Its name.
        info_hash: InfoHash,
        /// Downloads that were completed in it.
        downloaded: u32,
    },
    /// One of its peers.
    Peer {
        /// The swarm's name.
        info_hash: InfoHash,
        /// Where the peer is.
        peer: PeerAddr,
        /// It has everything.
        seeder: bool,
        /// Seconds since its last announce, rounded down to a tick.
        age_secs: u32,
    },
}

/// How far a walk has come; it is between two buckets of a swarm, or between two swarms.
///
/// Whoever stays while a walk pauses is met, however much comes and goes. The walk goes from the last swarm to the
/// first, as the sweep does and for its reason: a swarm that moves is at worst met twice. In a swarm it goes by the
/// hashes of the peers, in an order in which those of a bucket are an unbroken range, so that those of one that is
/// split or merged are at worst met twice too. Leechers come before seeders, as they become seeders; only a seeder
/// that turns into a leecher, in the one swarm that a pause falls into, can be missed.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    below: u32,
    /// In the middle of the swarm with this very number and name.
    within: Option<(InfoHash, Within)>,
}

/// The sets of a swarm as a walk comes by them: of IPv4 and `true`, or of IPv6, and in which role.
const SETS: [(bool, usize); 4] = [(true, LEECHERS), (true, SEEDERS), (false, LEECHERS), (false, SEEDERS)];

/// A place in a swarm.
#[derive(Clone, Copy, Debug, Default)]
struct Within {
    /// Which of [`SETS`]; behind them: the swarm is done.
    set: usize,
    /// Where in the order of hashes the bucket is.
    from: u64,
    /// The peer in it; 0 wherever a walk pauses.
    at: usize,
}

impl Within {
    const END: Self = Self { set: SETS.len(), from: 0, at: 0 };
}

impl Default for Position {
    fn default() -> Self {
        Self { below: u32::MAX, within: None }
    }
}

impl Position {
    /// Where the peers of this swarm begin.
    pub(super) fn of_swarm(number: u32, info_hash: InfoHash) -> Self {
        Self { below: number, within: Some((info_hash, Within::default())) }
    }
}

/// A walk over a table.
pub struct Saving<'a> {
    shard: &'a Shard,
    position: Position,
}

impl Saving<'_> {
    /// The next pieces, so many of them, and as many more (fewer than [`BUCKET_PEERS_MAX`]) as it takes to come to a
    /// place where the walk can pause.
    ///
    /// [`BUCKET_PEERS_MAX`]: crate::limits::BUCKET_PEERS_MAX
    pub fn slice(&mut self, at_least: usize) -> impl Iterator<Item = Saved> {
        let mut left = at_least;
        std::iter::from_fn(move || {
            if left == 0 && self.can_pause() {
                return None;
            }
            left = left.saturating_sub(1);
            self.next()
        })
    }

    /// From where another walk can go on, after a whole [`slice`](Self::slice).
    ///
    /// # Panics
    ///
    /// In the middle of a bucket.
    pub fn position(&self) -> Position {
        assert!(self.can_pause(), "a walk does not pause in the middle of a bucket");
        self.position
    }

    fn can_pause(&self) -> bool {
        self.position.within.is_none_or(|(_, within)| within.at == 0)
    }
}

impl Iterator for Saving<'_> {
    type Item = Saved;

    fn next(&mut self) -> Option<Saved> {
        let swarms = &self.shard.swarms;
        loop {
            let number = self.position.below;
            let Some((info_hash, within)) = &mut self.position.within else {
                self.position.below = swarms.map().taken_below(number)?;
                let Swarm { info_hash, downloaded, .. } = *swarms.get(self.position.below);
                self.position.within = Some((info_hash, Within::default()));
                return Some(Saved::Swarm { info_hash, downloaded });
            };
            let is_here = swarms.map().contains(number) && swarms.get(number).info_hash == *info_hash;
            let next = is_here.then(|| self.shard.peer_at(&swarms.get(number).body, within)).flatten();
            match next {
                Some((peer, seeder, mark)) => {
                    let age_secs = self.shard.books.ticks.age_secs(mark);
                    return Some(Saved::Peer { info_hash: *info_hash, peer, seeder, age_secs });
                }
                None => self.position.within = None,
            }
        }
    }
}

impl Shard {
    /// Walks over what the shard holds, from a position on (the default one: from the start). Take a
    /// [slice](Saving::slice) as large as time allows, and go on later from the walk's [position](Saving::position).
    pub fn save(&self, from: Position) -> Saving<'_> {
        Saving { shard: self, position: from }
    }

    /// Enters what was saved. What is known better already, and what has become too old or finds no memory, is left
    /// out. Returns how many peers were entered.
    pub fn load(&mut self, now: Timestamp, saved: impl IntoIterator<Item = Saved>) -> u64 {
        self.put(now, saved, true)
    }

    /// The same for a shard to which nobody has announced yet, in less time: of a peer that comes twice the last
    /// counts.
    pub fn restore(&mut self, now: Timestamp, saved: impl IntoIterator<Item = Saved>) -> u64 {
        self.put(now, saved, false)
    }

    fn put(&mut self, now: Timestamp, saved: impl IntoIterator<Item = Saved>, others_announced: bool) -> u64 {
        self.pass(now);
        let before = self.totals.seeders + self.totals.leechers;
        let mut last: Option<(InfoHash, u32)> = None;
        for piece in saved {
            let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = piece;
            // The pieces of a swarm come one after the other, and nothing moves a record here.
            let found = match last {
                Some((of, number)) if of == info_hash => Some(number),
                _ => self.find(self.index.hash(&info_hash), &info_hash),
            };
            let number = match piece {
                Saved::Swarm { downloaded, .. } => self.load_swarm(info_hash, found, downloaded),
                Saved::Peer { peer, seeder, age_secs, .. } => {
                    let announce = Announce {
                        info_hash,
                        peer_id: PeerId::UNKNOWN,
                        peer,
                        event: Event::None,
                        seeder,
                        num_want: 0,
                        wants_ids: false,
                    };
                    self.load_peer(&announce, found, age_secs, others_announced)
                }
            };
            last = number.map(|number| (info_hash, number));
        }
        self.totals.seeders + self.totals.leechers - before
    }

    /// Returns the swarm's number, if it is there now.
    fn load_swarm(&mut self, info_hash: InfoHash, found: Option<u32>, downloaded: u32) -> Option<u32> {
        if downloaded == 0 {
            return found;
        }
        let number = found.or_else(|| self.create(self.index.hash(&info_hash), info_hash))?;
        let swarm = self.swarms.get_mut(number);
        swarm.downloaded = swarm.downloaded.max(downloaded);
        if found.is_none() {
            swarm.body = Body::Few(Few::empty(self.books.ticks.mark()));
        }
        Some(number)
    }

    /// Returns the swarm's number, if it is there now.
    fn load_peer(
        &mut self,
        announce: &Announce,
        found: Option<u32>,
        age_secs: u32,
        others_announced: bool,
    ) -> Option<u32> {
        let peer_hash = self.peer_hash(&announce.peer);
        let Some(mark) = self.books.ticks.mark_of_age(age_secs) else { return found };
        if others_announced
            && let Some(number) = found
            && let Some((seeder, known)) = self.known(number, peer_hash, &announce.peer)
        {
            let (age, known_age) = (self.books.ticks.age(mark), self.books.ticks.age(known));
            let is_news = age < known_age || (age == known_age && announce.seeder && !seeder);
            if !is_news {
                return found;
            }
        }
        let info_hash = announce.info_hash;
        let number = found.or_else(|| self.create(self.index.hash(&info_hash), info_hash));
        match number {
            Some(number) if self.enter(number, peer_hash, announce, mark).is_ok() => {}
            _ => self.totals.refused += 1,
        }
        number
    }

    /// What is known of a peer, if anything: whether it is a seeder, and when it announced.
    fn known(&self, number: u32, hash: u32, peer: &PeerAddr) -> Option<(bool, Mark)> {
        fn in_sets<const N: usize>(
            peers: &Peers<N>,
            sets: &[Set; 2],
            hash: u32,
            addr: &[u8; N],
        ) -> Option<(bool, Mark)> {
            let mut found = sets.iter().enumerate();
            found.find_map(|(role, set)| {
                Some((role == SEEDERS, peers.mark(set, peers.find(set, hash, addr)?)))
            })
        }
        match (&self.swarms.get(number).body, peer) {
            (Body::Few(few), _) => {
                let peers = few.unpack();
                let found = peers.iter().find(|other| other.addr == *peer);
                found.map(|found| (found.seeder, found.mark))
            }
            (Body::Sets(sets), PeerAddr::V4(addr)) => in_sets(&self.v4, &sets.v4, hash, addr),
            (Body::Sets(sets), PeerAddr::V6(addr)) => in_sets(&self.v6, &sets.v6, hash, addr),
        }
    }

    /// The peer at a place, or the next one there is; the place moves behind it.
    fn peer_at(&self, body: &Body, within: &mut Within) -> Option<(PeerAddr, bool, Mark)> {
        let sets = match body {
            Body::Few(_) if within.set == SETS.len() => return None,
            Body::Few(few) => {
                let peers = few.unpack();
                let peer = *peers.get(within.at)?;
                within.at += 1;
                if within.at == peers.len() {
                    *within = Within::END;
                }
                return Some((peer.addr, peer.seeder, peer.mark));
            }
            Body::Sets(sets) => sets,
        };
        while let Some((is_v4, role)) = SETS.get(within.set) {
            let found = if *is_v4 {
                let found = self.v4.peer_at(&sets.v4[*role], within);
                found.map(|(addr, mark)| (PeerAddr::V4(addr), mark))
            } else {
                let found = self.v6.peer_at(&sets.v6[*role], within);
                found.map(|(addr, mark)| (PeerAddr::V6(addr), mark))
            };
            if let Some((addr, mark)) = found {
                return Some((addr, *role == SEEDERS, mark));
            }
            *within = Within { set: within.set + 1, ..Within::default() };
        }
        None
    }
}

impl<const N: usize> Peers<N> {
    fn peer_at(&self, set: &Set, within: &mut Within) -> Option<([u8; N], Mark)> {
        let view = set.view(&self.directories);
        while within.from < linear::RANGE_END {
            let number = view.home((within.from as u32).reverse_bits());
            let bucket = view.buckets[number as usize];
            let found = (within.at < bucket.len()).then(|| self.blocks.peer(bucket, within.at));
            within.at += 1;
            if within.at >= bucket.len() {
                (within.from, within.at) = (linear::range(number, view.buckets.len() as u32).end, 0);
            }
            if let Some(peer) = found {
                return Some((peer.addr, peer.mark));
            }
        }
        None
    }
}
