//! Owns the figures for programs: what the workers have counted, and how the tracker stands, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::counters::{BAD, Counter, Counters, DROPS, LIMITED, Turns};
use crate::server::{Handle, WorkerState};
use crate::sys;
use crate::time::unix_millis;

/// How the tracker stands. What is counted is counted since its start: a rate is the difference of two readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Of gyre.
    pub version: String,
    /// Milliseconds since 1970 at which this was read.
    pub unix_ms: u64,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// Memory that the process takes.
    pub resident_bytes: u64,
    /// The last snapshot, if one was written.
    pub snapshot: Option<Snapshot>,
    /// Snapshots that could not be written.
    pub failed_snapshots: u64,
    /// All workers together.
    pub total: Numbers,
    /// Each of them.
    pub workers: Vec<Worker>,
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, in seconds since 1970.
    pub unix_secs: u64,
    /// How long that took.
    pub took_ms: u64,
    /// How long it is.
    pub bytes: u64,
    /// For how long requests had to wait for a slice of it, at most.
    pub longest_slice_us: u64,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// The core that it is bound to, if it is.
    pub core: Option<usize>,
    /// What it has counted.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// A count by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Families {
    /// Over IPv4.
    pub v4: u64,
    /// Over IPv6.
    pub v6: u64,
}

impl Families {
    /// Both.
    pub fn sum(self) -> u64 {
        self.v4 + self.v6
    }
}

/// What came and went by UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Udp {
    /// Connect requests.
    pub connects: Families,
    /// Announces.
    pub announces: Families,
    /// Scrapes.
    pub scrapes: Families,
    /// Responses, errors among them.
    pub responses: Families,
}

/// What came and went by HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Announces.
    pub announces: Families,
    /// Scrapes.
    pub scrapes: Families,
    /// Other requests.
    pub others: u64,
    /// Responses.
    pub responses: Families,
}

/// What was denied by lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Denied {
    /// Announces of torrents that are not served.
    pub torrents: u64,
    /// Announces of clients that are not allowed.
    pub clients: u64,
    /// Requests of addresses that are not allowed.
    pub sources: u64,
}

/// Peers that were taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Their time was over.
    pub expired: u64,
    /// Memory was short.
    pub evicted: u64,
    /// Their swarm is not served any more.
    pub denied: u64,
}

/// How long turns took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnTimes {
    /// All together.
    pub sum_us: u64,
    /// How many took less than 1, 2, 4, 8 ... microseconds, each without those before it; the last has no bound.
    pub counts: Vec<u64>,
}

/// What one worker, or all, have counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// By UDP.
    pub udp: Udp,
    /// By HTTP.
    pub http: Http,
    /// Requests refused in the tracker's own words.
    pub refused: u64,
    /// Requests that middleware ended without an answer.
    pub silenced: u64,
    /// By lists.
    pub denied: Denied,
    /// Requests that are none, by what is wrong with them.
    pub bad: BTreeMap<String, u64>,
    /// Requests of sources that asked for more than they may, by what they asked for.
    pub limited: BTreeMap<String, u64>,
    /// Bans of addresses that sent wrong connection ids.
    pub bans: u64,
    /// What was lost, by its cause.
    pub drops: BTreeMap<String, u64>,
    /// Downloads that were completed.
    pub completed: u64,
    /// Peers that were taken out.
    pub removed: Removed,
    /// Messages to other workers.
    pub mesh_hops: u64,
    /// Times the ring ran out of room.
    pub ring_overflows: u64,
    /// CPU time used.
    pub cpu_us: u64,
    /// How long turns took.
    pub turns: TurnTimes,
    /// HTTP connections open now.
    pub connections: u64,
    /// Swarms now.
    pub swarms: u64,
    /// Seeders now.
    pub seeders: u64,
    /// Leechers now.
    pub leechers: u64,
    /// IPv6 peers now.
    pub v6_peers: u64,
    /// Memory of the table.
    pub table_bytes: u64,
    /// By how much a peer may outlive its time; of all workers the longest.
    pub sweep_lag_ms: u64,
}

impl Stats {
    /// Reads them.
    pub fn of(handle: &Handle) -> Self {
        let workers = handle.workers();
        let status = handle.status();
        let counters: Counters = workers.iter().map(|worker| &worker.counters).sum();
        let turns: Turns = workers.iter().map(|worker| &worker.turns).sum();
        let mut total = Numbers::of(&counters, &turns);
        let lag = workers.iter().map(|worker| worker.counters.get(Counter::SweepLagMs)).max();
        total.sweep_lag_ms = lag.unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: unix_millis(),
            uptime_secs: handle.uptime().as_secs(),
            resident_bytes: sys::resident_bytes(),
            snapshot: status.snapshot.map(|written| Snapshot {
                unix_secs: written.unix_secs,
                took_ms: written.took.as_millis() as u64,
                bytes: written.bytes,
                longest_slice_us: written.longest_slice.as_micros() as u64,
            }),
            failed_snapshots: status.failed_snapshots,
            total,
            workers: workers.iter().map(Worker::of).collect(),
        }
    }
}

impl Worker {
    fn of(state: &WorkerState) -> Self {
        Self { core: state.core, numbers: Numbers::of(&state.counters, &state.turns) }
    }
}

impl Numbers {
    fn of(counters: &Counters, turns: &Turns) -> Self {
        let get = |counter| counters.get(counter);
        let families = |v4, v6| Families { v4: get(v4), v6: get(v6) };
        let causes = |causes: &[(&str, Counter)]| {
            causes.iter().map(|(cause, counter)| ((*cause).to_owned(), get(*counter))).collect()
        };
        Self {
            udp: Udp {
                connects: families(Counter::UdpConnectV4, Counter::UdpConnectV6),
                announces: families(Counter::UdpAnnounceV4, Counter::UdpAnnounceV6),
                scrapes: families(Counter::UdpScrapeV4, Counter::UdpScrapeV6),
                responses: families(Counter::UdpRepliesV4, Counter::UdpRepliesV6),
            },
            http: Http {
                announces: families(Counter::HttpAnnounceV4, Counter::HttpAnnounceV6),
                scrapes: families(Counter::HttpScrapeV4, Counter::HttpScrapeV6),
                others: get(Counter::HttpOther),
                responses: families(Counter::HttpRepliesV4, Counter::HttpRepliesV6),
            },
            refused: get(Counter::Refused),
            silenced: get(Counter::Silenced),
            denied: Denied {
                torrents: get(Counter::DeniedTorrent),
                clients: get(Counter::DeniedClient),
                sources: get(Counter::DeniedSource),
            },
            bad: causes(&BAD),
            limited: causes(&LIMITED),
            bans: get(Counter::Bans),
            drops: causes(&DROPS),
            completed: get(Counter::Completed),
            removed: Removed {
                expired: get(Counter::ExpiredPeers),
                evicted: get(Counter::EvictedPeers),
                denied: get(Counter::DeniedPeers),
            },
            mesh_hops: get(Counter::MeshHops),
            ring_overflows: get(Counter::RingOverflows),
            cpu_us: get(Counter::CpuMicros),
            turns: TurnTimes {
                sum_us: turns.sum_us(),
                counts: turns.buckets().map(|(_, count)| count).collect(),
            },
            connections: get(Counter::Connections),
            swarms: get(Counter::Swarms),
            seeders: get(Counter::Seeders),
            leechers: get(Counter::Leechers),
            v6_peers: get(Counter::V6Peers),
            table_bytes: get(Counter::TableBytes),
            sweep_lag_ms: get(Counter::SweepLagMs),
        }
    }
}
