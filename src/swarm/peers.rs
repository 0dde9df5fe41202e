//! Owns the peers of one swarm and family: a dense array, seeders in front, with an index once it is long.

use fastrand::Rng;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::hash;
use crate::types::PeerId;

/// Up to so many peers are searched one by one; more get an index.
const UNINDEXED_PEERS: usize = 32;

#[derive(Clone, Copy)]
struct Peer<const N: usize> {
    addr: [u8; N],
    id: PeerId,
    seen_secs: u32,
}

/// Peers of `N` bytes of address: `peers[..seeders]` are seeders, the others leechers, no address twice.
pub(super) struct PeerTable<const N: usize> {
    peers: Vec<Peer<N>>,
    seeders: usize,
    index: Option<HashTable<u32>>,
}

impl<const N: usize> Default for PeerTable<N> {
    fn default() -> Self {
        Self { peers: Vec::new(), seeders: 0, index: None }
    }
}

/// Where a peer stands after its announce, and what it was before.
pub(super) struct Renewal {
    pub(super) at: usize,
    pub(super) was_seeder: bool,
}

/// The stretch of the array that may be handed out, and the asker's place in it.
pub(super) struct Eligible {
    from: usize,
    to: usize,
    asker: Option<usize>,
}

impl Eligible {
    /// How many there are beside the asker.
    pub(super) fn len(&self) -> usize {
        self.to - self.from - usize::from(self.asker.is_some())
    }
}

impl<const N: usize> PeerTable<N> {
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn seeders(&self) -> usize {
        self.seeders
    }

    pub(super) fn leechers(&self) -> usize {
        self.peers.len() - self.seeders
    }

    pub(super) fn contains(&self, key: SipHasher13, addr: &[u8; N]) -> bool {
        self.find(key, addr).is_some()
    }

    /// Enters the peer, or notes that it is still there and what it has become.
    pub(super) fn renew(
        &mut self,
        key: SipHasher13,
        addr: &[u8; N],
        seeder: bool,
        now_secs: u32,
        id: PeerId,
    ) -> Renewal {
        let peer = Peer { addr: *addr, id, seen_secs: now_secs };
        let Some(at) = self.find(key, addr) else {
            return Renewal { at: self.insert(key, peer, seeder), was_seeder: false };
        };
        self.peers[at] = peer;
        let was_seeder = at < self.seeders;
        let at = match (was_seeder, seeder) {
            (false, true) => {
                self.swap(key, at, self.seeders);
                self.seeders += 1;
                self.seeders - 1
            }
            (true, false) => {
                self.seeders -= 1;
                self.swap(key, at, self.seeders);
                self.seeders
            }
            _ => at,
        };
        Renewal { at, was_seeder }
    }

    /// Takes the peer out, if it is there.
    pub(super) fn remove(&mut self, key: SipHasher13, addr: &[u8; N]) {
        if let Some(at) = self.find(key, addr) {
            self.remove_at(key, at);
        }
    }

    /// Takes out the peer at `at` if it was last seen before `oldest_secs`. What stands there then is another one.
    pub(super) fn expire_at(&mut self, key: SipHasher13, at: usize, oldest_secs: u32) -> bool {
        let expired = self.peers[at].seen_secs < oldest_secs;
        if expired {
            self.remove_at(key, at);
        }
        expired
    }

    /// Who may be handed out to an asker: leechers to a seeder, all to a leecher, never itself.
    pub(super) fn eligible(&self, to_seeder: bool, asker: Option<usize>) -> Eligible {
        let from = if to_seeder { self.seeders } else { 0 };
        Eligible { from, to: self.peers.len(), asker: asker.filter(|&at| at >= from) }
    }

    /// Gives up to `want` of the eligible peers to `take`: consecutive ones from a random start, so that each is as
    /// likely as any other, without the asker and those whose time is over.
    pub(super) fn choose(
        &self,
        eligible: &Eligible,
        want: usize,
        oldest_secs: u32,
        rng: &mut Rng,
        mut take: impl FnMut(&[u8; N], &PeerId),
    ) {
        let stretch = &self.peers[eligible.from..eligible.to];
        let mut left = want.min(eligible.len());
        if left == 0 {
            return;
        }
        let asker = eligible.asker.map(|at| at - eligible.from);
        let start = rng.usize(..eligible.len());
        let start = start + usize::from(asker.is_some_and(|at| at <= start)); // never at the asker
        for at in (start..stretch.len()).chain(0..start) {
            let peer = &stretch[at];
            if asker == Some(at) || peer.seen_secs < oldest_secs {
                continue;
            }
            take(&peer.addr, &peer.id);
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }

    fn find(&self, key: SipHasher13, addr: &[u8; N]) -> Option<usize> {
        match &self.index {
            None => self.peers.iter().position(|peer| peer.addr == *addr),
            Some(index) => {
                let found = index.find(hash(key, addr), |&at| self.peers[at as usize].addr == *addr);
                found.map(|&at| at as usize)
            }
        }
    }

    fn insert(&mut self, key: SipHasher13, peer: Peer<N>, seeder: bool) -> usize {
        let last = self.peers.len();
        self.peers.push(peer);
        if let Some(index) = &mut self.index {
            let peers = &self.peers;
            index
                .insert_unique(hash(key, &peer.addr), last as u32, |&at| hash(key, &peers[at as usize].addr));
        } else if self.peers.len() > UNINDEXED_PEERS {
            let peers = &self.peers;
            let mut index = HashTable::with_capacity(2 * peers.len());
            for at in 0..peers.len() {
                index.insert_unique(hash(key, &peers[at].addr), at as u32, |&at| {
                    hash(key, &peers[at as usize].addr)
                });
            }
            self.index = Some(index);
        }
        if !seeder {
            return last;
        }
        self.swap(key, last, self.seeders);
        self.seeders += 1;
        self.seeders - 1
    }

    fn remove_at(&mut self, key: SipHasher13, mut at: usize) {
        if at < self.seeders {
            self.seeders -= 1;
            self.swap(key, at, self.seeders);
            at = self.seeders;
        }
        self.swap(key, at, self.peers.len() - 1);
        let last = self.peers.len() - 1;
        let gone = self.peers.pop().expect("a peer is removed from where it stands");
        if let Some(index) = &mut self.index {
            let entry = index.find_entry(hash(key, &gone.addr), |&place| place as usize == last);
            entry.expect("every peer is in the index").remove();
            if self.peers.len() <= UNINDEXED_PEERS / 2 {
                self.index = None;
            }
        }
        if self.peers.is_empty() || self.peers.len() < self.peers.capacity() / 4 {
            self.peers.shrink_to(self.peers.len() * 2);
            let peers = &self.peers;
            if let Some(index) = &mut self.index {
                index.shrink_to(2 * peers.len(), |&at| hash(key, &peers[at as usize].addr));
            }
        }
    }

    fn swap(&mut self, key: SipHasher13, one: usize, other: usize) {
        if one == other {
            return;
        }
        if let Some(index) = &mut self.index {
            // Both are looked up by their places before either is changed, else one could be taken for the other.
            let hash_of = |at: usize| hash(key, &self.peers[at].addr);
            let places =
                [(hash_of(one), one, other), (hash_of(other), other, one)].map(|(hash, from, to)| {
                    let entry = index.find_entry(hash, |&place| place as usize == from);
                    let bucket = entry.expect("every peer is in the index").bucket_index();
                    (bucket, to)
                });
            for (bucket, to) in places {
                *index.get_bucket_mut(bucket).expect("the bucket was found a moment ago") = to as u32;
            }
        }
        self.peers.swap(one, other);
    }

    #[cfg(test)]
    pub(super) fn assert_invariants(&self, key: SipHasher13) {
        assert!(self.seeders <= self.peers.len());
        assert_eq!(self.index.as_ref().map_or(self.peers.len(), HashTable::len), self.peers.len());
        for (at, peer) in self.peers.iter().enumerate() {
            assert_eq!(
                self.find(key, &peer.addr),
                Some(at),
                "a peer is found where it stands, and only there"
            );
        }
    }
}
