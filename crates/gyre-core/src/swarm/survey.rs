//! Owns what can be seen of the table as it stands: all swarms with their counts, and the peers of one.

use super::Shard;
use super::save::{Position, Saved};
use crate::types::{InfoHash, PeerAddr, SwarmCounts};

/// A peer, as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPeer {
    /// Where it is.
    pub addr: PeerAddr,
    /// It has everything.
    pub seeder: bool,
    /// Seconds since its last announce, rounded down to a tick.
    pub age_secs: u32,
}

/// How far a survey has come. It goes from the last swarm to the first, as the sweep does: a swarm that moves meanwhile
/// is at worst met twice.
#[derive(Clone, Copy, Debug)]
pub struct Surveyed(u32);

impl Default for Surveyed {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Shard {
    /// The next swarms of a survey, so many of them, with their counts; none at its end. Those that are kept for their
    /// downloads alone are among them.
    pub fn survey(&self, surveyed: &mut Surveyed, at_most: usize) -> Vec<(InfoHash, SwarmCounts)> {
        let next = || {
            let number = self.swarms.map().taken_below(surveyed.0)?;
            surveyed.0 = number;
            Some((self.swarms.get(number).info_hash, self.counts(number)))
        };
        std::iter::from_fn(next).take(at_most).collect()
    }

    /// The peers of a swarm, so many of them.
    pub fn peers(&self, info_hash: &InfoHash, at_most: usize) -> Vec<SeenPeer> {
        let Some(number) = self.find(self.index.hash(info_hash), info_hash) else { return Vec::new() };
        let peers = self.save(Position::of_swarm(number, *info_hash)).map_while(|piece| match piece {
            Saved::Peer { peer, seeder, age_secs, .. } => Some(SeenPeer { addr: peer, seeder, age_secs }),
            Saved::Swarm { .. } => None, // the next one
        });
        peers.take(at_most).collect()
    }
}
