//! Owns the sweep: the walk that takes expired peers and empty swarms out, a slice at a time.

use super::Shard;
use crate::time::Timestamp;

/// Where the sweep goes on: a swarm, and a place among its peers (IPv4 first, then IPv6).
#[derive(Default)]
pub(super) struct SweepCursor {
    swarm: usize,
    peer: usize,
    lap_started: Timestamp,
    last_lap: std::time::Duration,
}

/// What a slice of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Peers taken out.
    pub expired: usize,
    /// It came to the end of the table, and the next slice starts over.
    pub lap_ended: bool,
}

impl Shard {
    /// Looks at up to `budget` peers and swarms from where the last slice ended, and takes out peers that have not
    /// announced within the timeout and swarms left without peers. Ends early at the end of the table.
    pub fn sweep(&mut self, now: Timestamp, budget: usize) -> Swept {
        let oldest_secs = now.as_secs().saturating_sub(self.peer_timeout_secs);
        let mut swept = Swept::default();
        for _ in 0..budget {
            let at = self.sweep.swarm;
            let Some(swarm) = self.swarms.get_mut(at) else {
                self.sweep = SweepCursor {
                    swarm: 0,
                    peer: 0,
                    lap_started: now,
                    last_lap: now.since(self.sweep.lap_started),
                };
                return Swept { lap_ended: true, ..swept };
            };
            // Announces and stops between two slices may have moved peers and swarms: then one that was moved to a
            // place behind the cursor waits for the next lap, which is why a lap is much shorter than the timeout.
            let peer = self.sweep.peer;
            let v4_peers = swarm.v4.len();
            if peer >= v4_peers + swarm.v6.len() {
                if swarm.is_empty() {
                    self.drop_swarm(at); // another takes its place
                } else {
                    self.sweep.swarm += 1;
                }
                self.sweep.peer = 0;
                continue;
            }
            let before = swarm.tally();
            let expired = match peer.checked_sub(v4_peers) {
                None => swarm.v4.expire_at(self.hash_key, peer, oldest_secs),
                Some(peer) => swarm.v6.expire_at(self.hash_key, peer, oldest_secs),
            };
            if expired {
                let after = swarm.tally();
                self.totals.change(before, after);
                swept.expired += 1;
                if swarm.is_empty() {
                    self.drop_swarm(at);
                    self.sweep.peer = 0;
                }
            } else {
                self.sweep.peer += 1;
            }
        }
        swept
    }

    /// How long the sweep has been on its present lap, or took for its last one if that was longer: the most by
    /// which a peer outlives its time.
    pub fn sweep_lag(&self, now: Timestamp) -> std::time::Duration {
        self.sweep.last_lap.max(now.since(self.sweep.lap_started))
    }
}
