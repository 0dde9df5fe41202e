//! Owns the [`Engine`], which processes the requests of one worker and the messages between workers.
//!
//! It uses no sockets and no clock. A worker's thread or a simulation passes the input and the time to it. Output goes
//! through the traits [`Post`] (messages to another worker) and [`Replies`] (responses by UDP).
//!
//! | step | file |
//! |---|---|
//! | the order of all steps, and the limit of each in a turn | `turn` |
//! | a datagram or a message is parsed | `receive` |
//! | connection id, access lists and rates are checked, the middleware runs | `admit`, `gate`, [`middleware`] |
//! | the swarm is updated and read, here or at the worker that owns it | `announce`, `scrape`, `gather` |
//! | the response is written | `reply` |
//! | a request that must wait continues in a task | `task` |

mod admit;
mod announce;
pub mod clients;
pub mod context;
mod gate;
mod gather;
mod message;
pub mod middleware;
mod pace;
mod peers;
mod receive;
mod reply;
pub mod route;
mod save;
mod scrape;
pub mod task;
mod turn;

use std::sync::Arc;

use fastrand::Rng;

use crate::access::Access;
use crate::connection_id::ConnectionIds;
use crate::counters::{Counter, Counters};
use crate::error::TrackerError;
use crate::limits::{DEFAULT_PEERS, INTERVAL_SPREAD_DIVISOR, SHORT_SLICES, TURN_DATAGRAMS, TURN_SWEEP};
use crate::owner::Owners;
use crate::swarm::{PeerInfo, Position, Saved, Shard, SurveyPosition, Swept, TableWalk};
use crate::throttle::Throttle;
use crate::time::Timestamp;
use crate::types::{InfoHash, SwarmCounts, WorkerId};
use crate::wire::query::ScrapeQuery;
use clients::Clients;
pub use gate::{Gate, Verdict, Waiting};
use gather::{Gathers, Pool};
pub use message::{
    Answer, Endpoint, Mailbox, Message, Post, Replies, ScrapeCounts, ScrapeJob, Source, Ticket, UdpAnnounce,
};
pub use pace::Pace;
pub use peers::PeerList;
pub use reply::ReplyBuffer;
pub use save::SnapshotWriter;
pub use task::Outcome;
pub use turn::{Datagrams, Host, Intake, Order, Received, Turned};

/// Settings for announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Seconds between announces that clients are asked for, before the random spread.
    pub announce_interval_secs: u32,
    /// Minimum seconds between announces (sent over HTTP only).
    pub min_interval_secs: u32,
    /// Maximum number of peers in a response.
    pub max_peers: u16,
    /// Seconds after its last announce at which a peer expires.
    pub peer_timeout_secs: u32,
    /// Memory limit of the worker's table in bytes.
    pub table_bytes: usize,
}

impl Policy {
    /// Returns the number of peers for a request that asks for `asked`, or for the default.
    fn num_want(&self, asked: Option<u16>) -> u16 {
        asked.unwrap_or(DEFAULT_PEERS as u16).min(self.max_peers)
    }
}

/// The secrets of one worker's engine. The key of the connection ids is not among them: it is the same for all workers,
/// so that each accepts the ids of the others.
#[derive(Clone, Copy)]
pub struct Seeds {
    /// Keys the hash tables.
    pub table: [u8; 16],
    /// Seeds the choice of peers and the spread of intervals.
    pub random: u64,
}

/// One worker's part of the tracker.
pub struct Engine {
    me: WorkerId,
    owners: Owners,
    policy: Policy,
    ids: ConnectionIds,
    shard: Shard,
    rng: Rng,
    /// Access lists. `None`: every client is allowed.
    access: Option<Arc<Access>>,
    /// Rate limits. `None`: no limits.
    throttle: Option<Box<Throttle>>,
    /// Whether there are lists or limits.
    is_guarded: bool,
    /// The key of [`Seeds::table`].
    table_key: [u8; 16],
    gathers: Gathers,
    /// Announces by UDP for swarms of this worker's own that this turn has not answered yet.
    announces: Vec<UdpAnnounce>,
    /// Boxes for the info-hashes of scrapes that pass the middleware.
    queries: Pool<ScrapeQuery>,
    clients: Clients,
    /// When the next slice of the sweep is due.
    next_sweep: Timestamp,
    /// End of the pause of the sweep between two laps. A table that fills up has none.
    next_lap: Timestamp,
    /// When the counters are published next.
    next_publish: Timestamp,
    /// The last internal error of a request, until it is logged.
    fault: Option<TrackerError>,
    /// The counters of this worker.
    pub counters: Counters,
}

impl Engine {
    /// Creates an engine without any swarm.
    pub fn new(me: WorkerId, owners: Owners, policy: Policy, ids: ConnectionIds, seeds: Seeds) -> Self {
        Self {
            me,
            owners,
            policy,
            ids,
            shard: Shard::new(seeds.table, policy.peer_timeout_secs, policy.table_bytes),
            rng: Rng::with_seed(seeds.random),
            access: None,
            throttle: None,
            is_guarded: false,
            table_key: seeds.table,
            gathers: Gathers::default(),
            announces: Vec::with_capacity(TURN_DATAGRAMS),
            queries: Pool::default(),
            clients: Clients::default(),
            next_sweep: Timestamp::default(),
            next_lap: Timestamp::default(),
            next_publish: Timestamp::default(),
            fault: None,
            counters: Counters::default(),
        }
    }

    /// Replaces the policy except for the peer timeout and the memory limit, which are fixed when the table is created.
    pub fn set_policy(&mut self, policy: Policy) {
        let Policy { peer_timeout_secs, table_bytes, .. } = self.policy;
        self.policy = Policy { peer_timeout_secs, table_bytes, ..policy };
    }

    /// Does a slice of the sweep, or up to [`SHORT_SLICES`] while memory is short.
    pub fn sweep(&mut self, now: Timestamp) -> Swept {
        let mut swept = Swept::default();
        for _ in 0..SHORT_SLICES {
            swept = match &self.access {
                Some(access) => {
                    let permits = |info_hash: &InfoHash| access.permits_torrent(now, info_hash);
                    self.shard.sweep_permitted(now, TURN_SWEEP, permits)
                }
                None => self.shard.sweep(now, TURN_SWEEP),
            };
            self.counters.add(Counter::DeniedPeers, swept.denied);
            self.counters.add(Counter::ExpiredPeers, swept.expired);
            self.counters.add(Counter::EvictedPeers, swept.evicted);
            if !swept.is_short {
                break;
            }
        }
        swept
    }

    /// Returns a walk over the table from a position on.
    pub fn save(&self, from: Position) -> TableWalk<'_> {
        self.shard.walk(from)
    }

    /// Enters saved swarms and peers beside those in the table. Returns the number of peers entered.
    pub fn load(&mut self, now: Timestamp, saved: Vec<Saved>) -> u64 {
        self.shard.load(now, saved)
    }

    /// Like [`load`](Self::load), but for a table without any announce, which is faster.
    pub fn restore(&mut self, now: Timestamp, saved: Vec<Saved>) -> u64 {
        self.shard.restore(now, saved)
    }

    /// Returns the next swarms of a survey of the table with their counts, at most `at_most`. Empty at the end.
    pub fn survey(&self, surveyed: &mut SurveyPosition, at_most: usize) -> Vec<(InfoHash, SwarmCounts)> {
        self.shard.survey(surveyed, at_most)
    }

    /// Returns the counts of a swarm of this worker's own, and at most `peers` of its peers.
    pub fn look_at(&self, info_hash: &InfoHash, peers: usize) -> (SwarmCounts, Vec<PeerInfo>) {
        (self.shard.scrape(info_hash), self.shard.peers(info_hash, peers))
    }

    /// Returns the statistics of clients.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Updates the gauges among the counters.
    pub fn gauge(&mut self, now: Timestamp) {
        let totals = self.shard.totals();
        self.counters.set(Counter::Swarms, totals.swarms);
        self.counters.set(Counter::Seeders, totals.seeders);
        self.counters.set(Counter::Leechers, totals.leechers);
        self.counters.set(Counter::V6Peers, totals.v6_peers);
        self.counters.set(Counter::Completed, totals.completed);
        self.counters.set(Counter::DropTableFull, totals.refused);
        self.counters.set(Counter::TableBytes, self.shard.memory().allocated as u64);
        self.clients.fade(now);
        self.counters.set(Counter::SweepLagMs, self.shard.sweep_lag(now).as_millis() as u64);
    }

    /// Enters a peer as an announce does, without a response.
    #[cfg(test)]
    pub(crate) fn enter(&mut self, now: Timestamp, announce: &crate::types::Announce) {
        self.shard.announce(now, announce, &mut self.rng, &mut PeerList::default());
    }

    /// Returns the interval for one response: up to a sixteenth longer than configured, so that clients do not
    /// synchronise.
    #[inline]
    fn interval_secs(&mut self) -> u32 {
        let interval = self.policy.announce_interval_secs;
        // All intervals are equally likely, to within one in 2^32.
        let spread = u64::from(interval / INTERVAL_SPREAD_DIVISOR) + 1;
        interval + ((u64::from(self.rng.u32(..)) * spread) >> 32) as u32
    }
}

#[cfg(test)]
mod tests;
