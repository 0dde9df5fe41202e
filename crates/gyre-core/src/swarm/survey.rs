//! Owns the inspection of the table: a list of all swarms with their counts, and the peers of a swarm.

use super::Shard;
use super::save::{Position, Saved};
use crate::types::{InfoHash, PeerAddr, SwarmCounts};

/// A peer of a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The peer's address.
    pub addr: PeerAddr,
    /// Whether the peer is a seeder.
    pub seeder: bool,
    /// Seconds since its last announce, rounded down to a tick.
    pub age_secs: u32,
}

/// The position of a survey. It goes from the last swarm to the first, like the sweep: a swarm that is moved during the
/// survey is visited at most twice.
#[derive(Clone, Copy, Debug)]
pub struct SurveyPosition(u32);

impl Default for SurveyPosition {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Shard {
    /// Returns the next `at_most` swarms of a survey with their counts, and none at its end. Empty swarms that are kept
    /// for their download count are included.
    pub fn survey(&self, position: &mut SurveyPosition, at_most: usize) -> Vec<(InfoHash, SwarmCounts)> {
        let next = || {
            let number = self.swarms.map().taken_below(position.0)?;
            position.0 = number;
            Some((self.swarms.get(number).info_hash, self.counts(number)))
        };
        std::iter::from_fn(next).take(at_most).collect()
    }

    /// Returns up to `at_most` peers of a swarm.
    pub fn peers(&self, info_hash: &InfoHash, at_most: usize) -> Vec<PeerInfo> {
        let Some(number) = self.find(self.index.hash(info_hash), info_hash) else { return Vec::new() };
        let peers = self.walk(Position::of_swarm(number, *info_hash)).map_while(|entry| match entry {
            Saved::Peer { peer, seeder, age_secs, .. } => Some(PeerInfo { addr: peer, seeder, age_secs }),
            Saved::Swarm { .. } => None, // the next swarm
        });
        peers.take(at_most).collect()
    }
}
