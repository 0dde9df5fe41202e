//! Owns saving and loading of the table. Saving is a walk over all entries, which can pause and continue.

use super::peers::{LEECHERS, Set};
use super::record::{Body, Few, Swarm};
use super::ticks::Mark;
use super::{Peers, SEEDERS, Shard, linear};
use crate::time::Timestamp;
use crate::types::{Announce, Event, InfoHash, PeerAddr, PeerId};

/// A saved entry of the table. Entries are self-contained, and their order doesn't matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// A swarm.
    Swarm {
        /// The swarm's info-hash.
        info_hash: InfoHash,
        /// Number of completed downloads.
        downloaded: u32,
    },
    /// A peer of a swarm.
    Peer {
        /// The swarm's info-hash.
        info_hash: InfoHash,
        /// The peer's address.
        peer: PeerAddr,
        /// Whether the peer is a seeder.
        seeder: bool,
        /// Seconds since its last announce, rounded down to a tick.
        age_secs: u32,
    },
}

/// The position of a walk, between two buckets of a swarm or between two swarms.
///
/// A walk visits every peer that stays in the table during its pauses, whatever changes around it. It goes from the
/// last swarm to the first, like the sweep and for the same reason: a moved swarm is visited at most twice. Within a
/// swarm the order is that of the reversed peer hashes, in which a bucket is a contiguous range. The peers of a split
/// or merged bucket are therefore visited at most twice too. Leechers come before seeders, because leechers become
/// seeders. Only a seeder that turns into a leecher can be missed, and only in the one swarm in which the walk pauses.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    below: u32,
    /// The position within swarm number `below`, if its info-hash is still this one.
    in_swarm: Option<(InfoHash, SwarmPosition)>,
}

/// The sets of a swarm in the order of a walk: whether the set is IPv4, and its role.
const SETS: [(bool, usize); 4] = [(true, LEECHERS), (true, SEEDERS), (false, LEECHERS), (false, SEEDERS)];

/// The position of a walk within a swarm.
#[derive(Clone, Copy, Debug, Default)]
struct SwarmPosition {
    /// Index in [`SETS`], or their number if the walk is done with the swarm.
    set: usize,
    /// Start of the bucket's range of reversed hashes.
    from: u64,
    /// Index of the peer in the bucket. 0 when a walk pauses.
    at: usize,
}

impl SwarmPosition {
    const END: Self = Self { set: SETS.len(), from: 0, at: 0 };
}

impl Default for Position {
    fn default() -> Self {
        Self { below: u32::MAX, in_swarm: None }
    }
}

impl Position {
    /// Returns the position before the first peer of this swarm.
    pub(super) fn of_swarm(number: u32, info_hash: InfoHash) -> Self {
        Self { below: number, in_swarm: Some((info_hash, SwarmPosition::default())) }
    }
}

/// A walk over all entries of a table.
pub struct TableWalk<'a> {
    shard: &'a Shard,
    position: Position,
}

impl TableWalk<'_> {
    /// Returns the next `at_least` entries, and fewer than [`BUCKET_PEERS_MAX`] more, up to a position where the walk
    /// can pause.
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

    /// Returns the position from which another walk can continue. Call this after a complete [`slice`](Self::slice).
    ///
    /// # Panics
    ///
    /// If the walk is in the middle of a bucket.
    pub fn position(&self) -> Position {
        assert!(self.can_pause(), "a walk can't pause in the middle of a bucket");
        self.position
    }

    fn can_pause(&self) -> bool {
        self.position.in_swarm.is_none_or(|(_, in_swarm)| in_swarm.at == 0)
    }
}

impl Iterator for TableWalk<'_> {
    type Item = Saved;

    fn next(&mut self) -> Option<Saved> {
        let swarms = &self.shard.swarms;
        loop {
            let number = self.position.below;
            let Some((info_hash, in_swarm)) = &mut self.position.in_swarm else {
                self.position.below = swarms.map().taken_below(number)?;
                let Swarm { info_hash, downloaded, .. } = *swarms.get(self.position.below);
                self.position.in_swarm = Some((info_hash, SwarmPosition::default()));
                return Some(Saved::Swarm { info_hash, downloaded });
            };
            let is_here = swarms.map().contains(number) && swarms.get(number).info_hash == *info_hash;
            let next = is_here.then(|| self.shard.peer_at(&swarms.get(number).body, in_swarm)).flatten();
            match next {
                Some((peer, seeder, mark)) => {
                    let age_secs = self.shard.books.ticks.age_secs(mark);
                    return Some(Saved::Peer { info_hash: *info_hash, peer, seeder, age_secs });
                }
                None => self.position.in_swarm = None,
            }
        }
    }
}

impl Shard {
    /// Starts or continues a walk over the shard. The default position is the start. To pause, take a
    /// [slice](TableWalk::slice) and continue later from the walk's [position](TableWalk::position).
    pub fn walk(&self, from: Position) -> TableWalk<'_> {
        TableWalk { shard: self, position: from }
    }

    /// Loads saved entries. Entries that are too old, that find no memory, or for which the table has newer data are
    /// skipped. Returns the number of peers added.
    pub fn load(&mut self, now: Timestamp, saved: impl IntoIterator<Item = Saved>) -> u64 {
        self.enter_saved(now, saved, true)
    }

    /// Like [`load`](Self::load), but faster and only for a shard that has had no announces. If a peer is saved twice,
    /// the last entry counts.
    pub fn restore(&mut self, now: Timestamp, saved: impl IntoIterator<Item = Saved>) -> u64 {
        self.enter_saved(now, saved, false)
    }

    fn enter_saved(
        &mut self,
        now: Timestamp,
        saved: impl IntoIterator<Item = Saved>,
        has_announces: bool,
    ) -> u64 {
        self.advance(now);
        let before = self.totals.seeders + self.totals.leechers;
        let mut last: Option<(InfoHash, u32)> = None;
        for entry in saved {
            let (Saved::Swarm { info_hash, .. } | Saved::Peer { info_hash, .. }) = entry;
            // The entries of a swarm are consecutive, and loading moves no record.
            let found = match last {
                Some((of, number)) if of == info_hash => Some(number),
                _ => self.find(self.index.hash(&info_hash), &info_hash),
            };
            let number = match entry {
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
                    self.load_peer(&announce, found, age_secs, has_announces)
                }
            };
            last = number.map(|number| (info_hash, number));
        }
        self.totals.seeders + self.totals.leechers - before
    }

    /// Loads a swarm. Returns its number, if it exists now.
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

    /// Loads a peer. Returns its swarm's number, if it exists now.
    fn load_peer(
        &mut self,
        announce: &Announce,
        found: Option<u32>,
        age_secs: u32,
        has_announces: bool,
    ) -> Option<u32> {
        let peer_hash = self.peer_hash(&announce.peer);
        let Some(mark) = self.books.ticks.mark_of_age(age_secs) else { return found };
        if has_announces
            && let Some(number) = found
            && let Some((seeder, known)) = self.known(number, peer_hash, &announce.peer)
        {
            let (age, known_age) = (self.books.ticks.age(mark), self.books.ticks.age(known));
            let is_newer = age < known_age || (age == known_age && announce.seeder && !seeder);
            if !is_newer {
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

    /// Looks up a peer. Returns whether it is a seeder, and the mark of its last announce.
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

    /// Returns the peer at a position, or the next one, and advances the position past it.
    fn peer_at(&self, body: &Body, in_swarm: &mut SwarmPosition) -> Option<(PeerAddr, bool, Mark)> {
        let sets = match body {
            Body::Few(_) if in_swarm.set == SETS.len() => return None,
            Body::Few(few) => {
                let peers = few.unpack();
                let peer = *peers.get(in_swarm.at)?;
                in_swarm.at += 1;
                if in_swarm.at == peers.len() {
                    *in_swarm = SwarmPosition::END;
                }
                return Some((peer.addr, peer.seeder, peer.mark));
            }
            Body::Sets(sets) => sets,
        };
        while let Some((is_v4, role)) = SETS.get(in_swarm.set) {
            let found = if *is_v4 {
                let found = self.v4.peer_at(&sets.v4[*role], in_swarm);
                found.map(|(addr, mark)| (PeerAddr::V4(addr), mark))
            } else {
                let found = self.v6.peer_at(&sets.v6[*role], in_swarm);
                found.map(|(addr, mark)| (PeerAddr::V6(addr), mark))
            };
            if let Some((addr, mark)) = found {
                return Some((addr, *role == SEEDERS, mark));
            }
            *in_swarm = SwarmPosition { set: in_swarm.set + 1, ..SwarmPosition::default() };
        }
        None
    }
}

impl<const N: usize> Peers<N> {
    fn peer_at(&self, set: &Set, in_swarm: &mut SwarmPosition) -> Option<([u8; N], Mark)> {
        let view = set.view(&self.directories);
        while in_swarm.from < linear::RANGE_END {
            let number = view.home((in_swarm.from as u32).reverse_bits());
            let bucket = view.buckets[number as usize];
            let found = (in_swarm.at < bucket.len()).then(|| self.blocks.peer(&bucket, in_swarm.at));
            in_swarm.at += 1;
            if in_swarm.at >= bucket.len() {
                (in_swarm.from, in_swarm.at) = (linear::range(number, view.buckets.len() as u32).end, 0);
            }
            if let Some(peer) = found {
                return Some((peer.addr, peer.mark));
            }
        }
        None
    }
}
