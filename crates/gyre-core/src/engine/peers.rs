//! Owns the peer list of a response, which workers send to each other and middleware can change.

use std::net::SocketAddr;

use arrayvec::ArrayVec;

use crate::limits::MAX_PEERS;
use crate::swarm::PeerSink;
use crate::types::{Family, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, unpack_v4, unpack_v6};

/// The peers of a response: at most [`MAX_PEERS`] of each address family, in compact form.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::PeerList;
///
/// let mut peers = PeerList::default();
/// peers.push("192.0.2.7:6881".parse().unwrap(), None);
/// peers.push("[2001:db8::7]:6881".parse().unwrap(), None);
/// peers.retain(|address| address.is_ipv6());
/// assert_eq!(peers.iter().map(|(address, _)| address.port()).collect::<Vec<_>>(), [6881]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerList {
    /// Compact IPv4 peers.
    pub v4: ArrayVec<[u8; PEER_V4_BYTES], MAX_PEERS>,
    /// Compact IPv6 peers.
    pub v6: ArrayVec<[u8; PEER_V6_BYTES], MAX_PEERS>,
    /// Peer ids of the IPv4 peers: all zeros where they are not known.
    pub v4_ids: ArrayVec<PeerId, MAX_PEERS>,
    /// Peer ids of the IPv6 peers: all zeros where they are not known.
    pub v6_ids: ArrayVec<PeerId, MAX_PEERS>,
}

impl PeerList {
    /// Returns the number of peers.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a peer. Returns false if there are [`MAX_PEERS`] of its family already.
    pub fn push(&mut self, address: SocketAddr, id: Option<PeerId>) -> bool {
        let id = id.unwrap_or(PeerId::UNKNOWN);
        match PeerAddr::new(address.ip(), address.port()) {
            PeerAddr::V4(packed) => self.v4.try_push(packed).is_ok() && self.v4_ids.try_push(id).is_ok(),
            PeerAddr::V6(packed) => self.v6.try_push(packed).is_ok() && self.v6_ids.try_push(id).is_ok(),
        }
    }

    /// Returns the peers, IPv4 first, with their peer ids where they are known.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Option<PeerId>)> {
        let named = |id: &PeerId| (*id != PeerId::UNKNOWN).then_some(*id);
        let v4 = self.v4.iter().zip(&self.v4_ids).map(move |(peer, id)| (unpack_v4(peer), named(id)));
        let v6 = self.v6.iter().zip(&self.v6_ids).map(move |(peer, id)| (unpack_v6(peer), named(id)));
        v4.chain(v6)
    }

    /// Keeps only the peers for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(SocketAddr) -> bool) {
        let mut kept = Self::default();
        for (address, id) in self.iter().filter(|(address, _)| keep(*address)) {
            kept.push(address, id);
        }
        *self = kept;
    }

    /// Removes all peers.
    pub fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
        self.v4_ids.clear();
        self.v6_ids.clear();
    }
}

impl PeerSink for PeerList {
    const BOTH_FAMILIES: bool = true;

    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        self.v4.extend(peers.iter().copied());
        put_ids(&mut self.v4_ids, peers.len(), ids);
    }

    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]) {
        self.v6.extend(peers.iter().copied());
        put_ids(&mut self.v6_ids, peers.len(), ids);
    }
}

fn put_ids(list: &mut ArrayVec<PeerId, MAX_PEERS>, peers: usize, ids: &[[u8; 20]]) {
    list.extend((0..peers).map(|at| ids.get(at).map_or(PeerId::UNKNOWN, |id| PeerId(*id))));
}

/// Fills a list with peers of the client's address family only, as UDP needs it (BEP 15).
pub(super) struct OwnFamily<'a>(pub(super) &'a mut PeerList);

impl PeerSink for OwnFamily<'_> {
    const BOTH_FAMILIES: bool = false;

    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], ids: &[[u8; 20]]) {
        self.0.v4(peers, ids);
    }

    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], ids: &[[u8; 20]]) {
        self.0.v6(peers, ids);
    }
}

impl PeerList {
    /// Returns the compact peers of one address family.
    pub(super) fn packed(&self, family: Family) -> &[u8] {
        match family {
            Family::V4 => self.v4.as_flattened(),
            Family::V6 => self.v6.as_flattened(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushed_peers_come_back_and_the_list_stays_bounded() {
        let mut peers = PeerList::default();
        let (v4, v6) = ("192.0.2.7:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap());
        assert!(peers.is_empty() && peers.push(v6, Some(PeerId([7; 20]))) && peers.push(v4, None));
        assert_eq!(peers.iter().collect::<Vec<_>>(), [(v4, None), (v6, Some(PeerId([7; 20])))]);
        peers.retain(|address| address == v6);
        assert_eq!(peers.iter().collect::<Vec<_>>(), [(v6, Some(PeerId([7; 20])))]);
        for _ in 0..MAX_PEERS {
            peers.push(v4, None);
        }
        assert!(!peers.push(v4, None) && peers.len() == MAX_PEERS + 1);
        peers.clear();
        assert!(peers.is_empty());
    }
}
