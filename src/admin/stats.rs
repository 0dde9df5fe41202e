//! Owns the statistics as JSON: the workers' counters and the state of the tracker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::counters::{BAD, Counter, Counters, DROPS, LIMITED, Turns};
use crate::server::{Handle, WorkerState};
use crate::sys;
use crate::time::unix_millis;

/// State of the tracker. Counters count from the start: a rate is the difference between two readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Version of gyre.
    pub version: String,
    /// Time of this reading in milliseconds since 1970.
    pub unix_ms: u64,
    /// Seconds since the start.
    pub uptime_secs: u64,
    /// Resident memory of the process in bytes.
    pub resident_bytes: u64,
    /// The last snapshot, if any was written.
    pub snapshot: Option<Snapshot>,
    /// Snapshots that could not be written.
    pub failed_snapshots: u64,
    /// All workers together.
    pub total: Numbers,
    /// Each worker.
    pub workers: Vec<Worker>,
}

/// A snapshot that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Time of the snapshot in seconds since 1970.
    pub unix_secs: u64,
    /// Milliseconds taken to write it.
    pub took_ms: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Longest time in microseconds that requests waited for a slice of it.
    pub longest_slice_us: u64,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// The core that it is pinned to, if any.
    pub core: Option<usize>,
    /// Its counters.
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
    /// Returns the sum of both.
    pub fn sum(self) -> u64 {
        self.v4 + self.v6
    }
}

/// UDP requests and responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Udp {
    /// Connect requests.
    pub connects: Families,
    /// Announces.
    pub announces: Families,
    /// Scrapes.
    pub scrapes: Families,
    /// Responses, error packets included.
    pub responses: Families,
}

/// HTTP requests and responses.
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

/// Requests that lists denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Denied {
    /// Announces of torrents that are not allowed.
    pub torrents: u64,
    /// Announces of clients that are not allowed.
    pub clients: u64,
    /// Requests of addresses that are not allowed.
    pub sources: u64,
}

/// Removed peers, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Their timeout passed.
    pub expired: u64,
    /// Memory was short.
    pub evicted: u64,
    /// Their swarm is denied now.
    pub denied: u64,
}

/// Durations of turns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnTimes {
    /// Sum of all durations in microseconds.
    pub sum_us: u64,
    /// Number of turns by duration: below 1, 2, 4, 8 ... microseconds, each without the ones before. The last number
    /// has no upper bound.
    pub counts: Vec<u64>,
}

/// Datagrams of the turns that took any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnDatagrams {
    /// Number of datagrams.
    pub sum: u64,
    /// Number of turns by their number of datagrams: up to 1, 2, 4, 8 ..., each without the ones before. The last
    /// number has no upper bound.
    pub counts: Vec<u64>,
}

/// Counters of one worker or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// UDP traffic.
    pub udp: Udp,
    /// HTTP traffic.
    pub http: Http,
    /// Requests that the tracker refused with a message.
    pub refused: u64,
    /// Requests that middleware ended without a response.
    pub silenced: u64,
    /// Requests denied by lists.
    pub denied: Denied,
    /// Invalid requests, by cause.
    pub bad: BTreeMap<String, u64>,
    /// Requests of sources over their limit, by kind.
    pub limited: BTreeMap<String, u64>,
    /// Bans of addresses that sent wrong connection ids.
    pub bans: u64,
    /// Lost requests and responses, by cause.
    pub drops: BTreeMap<String, u64>,
    /// Completed downloads.
    pub completed: u64,
    /// Removed peers.
    pub removed: Removed,
    /// Messages sent to other workers.
    pub mesh_hops: u64,
    /// Times the ring ran out of buffers or completion entries.
    pub ring_overflows: u64,
    /// CPU time used, in microseconds.
    pub cpu_us: u64,
    /// Durations of turns.
    pub turns: TurnTimes,
    /// Datagrams of turns.
    pub turn_datagrams: TurnDatagrams,
    /// Open HTTP connections.
    pub connections: u64,
    /// Current number of swarms.
    pub swarms: u64,
    /// Current number of seeders.
    pub seeders: u64,
    /// Current number of leechers.
    pub leechers: u64,
    /// Current number of IPv6 peers.
    pub v6_peers: u64,
    /// Memory used by the tables in bytes.
    pub table_bytes: u64,
    /// Longest time in milliseconds that a peer may stay beyond its timeout. In the total: the largest of all workers.
    pub sweep_lag_ms: u64,
}

impl Stats {
    /// Reads the current statistics.
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
            turns: TurnTimes { sum_us: turns.durations().sum(), counts: turns.durations().counts().to_vec() },
            turn_datagrams: TurnDatagrams {
                sum: turns.datagrams().sum(),
                counts: turns.datagrams().counts().to_vec(),
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
