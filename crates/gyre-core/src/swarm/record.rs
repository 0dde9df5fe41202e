//! Owns the record of a swarm: one cache line, which also holds the peers of a small swarm.

use arrayvec::ArrayVec;

use super::peers::{LEECHERS, SEEDERS, Set};
use super::pool::Pool;
use super::ticks::Mark;
use crate::limits::TABLE_CHUNK_BYTES;
use crate::types::{InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr};

/// A swarm.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Swarm {
    pub(super) info_hash: InfoHash,
    pub(super) downloaded: u32,
    pub(super) body: Body,
}

/// The records of all swarms.
pub(super) type Swarms = Pool<Swarm, { TABLE_CHUNK_BYTES / size_of::<Swarm>() }>;

const _: () = assert!(size_of::<Swarm>() == 64, "a record is one cache line");

impl Default for Swarm {
    fn default() -> Self {
        Self { info_hash: InfoHash([0; 20]), downloaded: 0, body: Body::Few(Few::default()) }
    }
}

/// Where a swarm's peers are.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// In the record.
    Few(Few),
    /// In buckets.
    Sets(Sets),
}

/// The peers of a swarm by family and role.
#[derive(Clone, Copy, Default)]
pub(super) struct Sets {
    /// `[seeders, leechers]` of IPv4.
    pub(super) v4: [Set; 2],
    /// `[seeders, leechers]` of IPv6.
    pub(super) v6: [Set; 2],
    /// Time of the last announce that requested peer ids. Ids are stored until a timeout after it.
    pub(super) ids_wanted: Option<Mark>,
}

/// Bytes for the peers in a record: 3 of IPv4, or 2 of IPv4 and 1 of IPv6, or 2 of IPv6.
const FEW_BYTES: usize = 2 * V6;
/// Maximum number of peers in a record.
pub(super) const FEW: usize = 3;
/// Bytes of an IPv4 address and a mark.
const V4: usize = PEER_V4_BYTES + 1;
/// Bytes of an IPv6 address and a mark.
const V6: usize = PEER_V6_BYTES + 1;

/// Up to three peers, packed.
///
/// ```text
///  bits of `counts`:  IPv6 leechers | IPv6 seeders | IPv4 leechers | IPv4 seeders     (2 each)
///  bytes:  IPv4 seeders, then leechers, 7 each ->    ...    <- IPv6 peers, likewise, 19 each
/// ```
///
/// Without peers, the first byte is the mark of the time at which the last peer was removed.
#[derive(Clone, Copy)]
pub(super) struct Few {
    counts: u8,
    bytes: [u8; FEW_BYTES],
}

/// A peer in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FewPeer {
    pub(super) addr: PeerAddr,
    pub(super) seeder: bool,
    pub(super) mark: Mark,
}

impl Default for Few {
    fn default() -> Self {
        Self { counts: 0, bytes: [0; FEW_BYTES] }
    }
}

impl Few {
    /// Packs peers. `None` if there is no room for all of them.
    pub(super) fn pack(peers: &[FewPeer]) -> Option<Self> {
        let mut few = Self::default();
        let (mut front, mut back) = (0, FEW_BYTES);
        if peers.len() > FEW {
            return None;
        }
        for role in [SEEDERS, LEECHERS] {
            for peer in peers.iter().filter(|peer| peer.seeder == (role == SEEDERS)) {
                let (family, place) = match peer.addr {
                    PeerAddr::V4(_) => (0, front..front + V4),
                    PeerAddr::V6(_) => (1, back.checked_sub(V6)?..back),
                };
                match peer.addr {
                    PeerAddr::V4(_) => front = place.end,
                    PeerAddr::V6(_) => back = place.start,
                }
                if front > back {
                    return None;
                }
                few.counts += 1 << (4 * family + 2 * role);
                let (mark, addr) = few.bytes[place].split_first_mut()?;
                *mark = peer.mark;
                match peer.addr {
                    PeerAddr::V4(packed) => addr.copy_from_slice(&packed),
                    PeerAddr::V6(packed) => addr.copy_from_slice(&packed),
                }
            }
        }
        Some(few)
    }

    /// Returns the peers.
    #[inline]
    pub(super) fn unpack(&self) -> ArrayVec<FewPeer, FEW> {
        self.iter().collect()
    }

    /// Iterates over the peers: first IPv4, then IPv6.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = FewPeer> {
        let v4 = (0..self.count(0) + self.count(1)).map(|number| {
            let [mark, addr @ ..] = self.bytes.as_chunks::<V4>().0[number];
            FewPeer { addr: PeerAddr::V4(addr), seeder: number < self.count(0), mark }
        });
        let v6 = (0..self.count(2) + self.count(3)).map(|number| {
            let [mark, addr @ ..] = self.bytes.as_chunks::<V6>().0[1 - number];
            FewPeer { addr: PeerAddr::V6(addr), seeder: number < self.count(2), mark }
        });
        v4.chain(v6)
    }

    /// Writes the mark of a peer that is already in the record with this role. Returns the previous mark.
    #[inline]
    pub(super) fn renew(&mut self, addr: &PeerAddr, seeder: bool, mark: Mark) -> Option<Mark> {
        let (is_leecher, place) = match addr {
            PeerAddr::V4(addr) => {
                let v4 = &self.bytes.as_chunks::<V4>().0[..self.count(0) + self.count(1)];
                let number = v4.iter().position(|[_, other @ ..]| other == addr)?;
                (number >= self.count(0), number * V4)
            }
            PeerAddr::V6(addr) => {
                let v6 = &self.bytes.as_chunks::<V6>().0[2 - self.count(2) - self.count(3)..];
                let number = v6.iter().rev().position(|[_, other @ ..]| other == addr)?;
                (number >= self.count(2), (1 - number) * V6)
            }
        };
        (is_leecher != seeder).then(|| std::mem::replace(&mut self.bytes[place], mark))
    }

    /// Returns the numbers of peers: `[IPv4 seeders, IPv4 leechers, IPv6 seeders, IPv6 leechers]`.
    pub(super) fn counts(&self) -> [u32; 4] {
        [0, 1, 2, 3].map(|kind| self.count(kind) as u32)
    }

    /// Creates the body of a swarm whose last peer was removed now.
    pub(super) fn empty(now: Mark) -> Self {
        let mut few = Self::default();
        few.bytes[0] = now;
        few
    }

    /// Returns the time at which the last peer was removed, if there are no peers.
    pub(super) fn empty_since(&self) -> Option<Mark> {
        (self.counts == 0).then_some(self.bytes[0])
    }

    fn count(&self, kind: usize) -> usize {
        usize::from(self.counts >> (2 * kind) & 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8, v6: bool, seeder: bool) -> FewPeer {
        let addr = if v6 { PeerAddr::V6([number; 18]) } else { PeerAddr::V4([number; 6]) };
        FewPeer { addr, seeder, mark: number ^ 0xff }
    }

    #[test]
    fn every_mix_that_fits_is_packed_and_unpacked() {
        // Each of three places is empty or holds one of the four kinds.
        for mix in 0..5_u32.pow(3) {
            let kinds = [mix % 5, mix / 5 % 5, mix / 25];
            let peers: Vec<FewPeer> = kinds
                .iter()
                .enumerate()
                .filter_map(|(at, kind)| {
                    kind.checked_sub(1).map(|kind| peer(at as u8 + 1, kind & 1 != 0, kind & 2 != 0))
                })
                .collect();
            let v6 = peers.iter().filter(|peer| matches!(peer.addr, PeerAddr::V6(_))).count();
            let fits = (peers.len() - v6) * V4 + v6 * V6 <= FEW_BYTES;
            let packed = Few::pack(&peers);
            assert_eq!(packed.is_some(), fits, "{peers:?}");
            assert!(fits || peers.len() == 3, "any two peers fit");
            if let Some(packed) = packed {
                let mut back = packed.unpack();
                back.sort_by_key(|peer| peer.mark ^ 0xff);
                assert_eq!(*back, *peers);
                assert_eq!(packed.counts().iter().sum::<u32>() as usize, peers.len());
                for peer in &peers {
                    let mut renewed = packed;
                    assert_eq!(renewed.renew(&peer.addr, !peer.seeder, 7), None);
                    assert_eq!(renewed.renew(&peer.addr, peer.seeder, 7), Some(peer.mark));
                    let marks: Vec<Mark> = renewed.iter().map(|peer| peer.mark).collect();
                    assert_eq!(marks.iter().filter(|mark| **mark == 7).count(), 1);
                    assert_eq!(renewed.renew(&peer.addr, peer.seeder, peer.mark), Some(7));
                    assert_eq!((renewed.counts, renewed.bytes), (packed.counts, packed.bytes));
                }
            }
        }
        assert!(Few::pack(&[peer(1, false, true); 4]).is_none());
        assert_eq!(Few::empty(77).empty_since(), Some(77));
        assert_eq!(Few::pack(&[peer(1, false, true)]).unwrap().empty_since(), None);
    }
}
