//! Owns the metrics for Prometheus: each worker's counters, with labels, in the OpenMetrics text format.
//!
//! `docs/operating.md` explains each metric and the alert that it is for.

use std::fmt::Result;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::counters::{BAD, Counter, DROPS, Histogram, LIMITED, Turns};
use crate::server::{Handle, Status, WorkerState};
use crate::sys;
use crate::time::unix_time;

/// Content type of the metrics.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = [(&'static str, &'static str)];
type Causes = [(&'static str, Counter)];

/// A metric with one or more series for each worker.
struct Metric {
    name: &'static str,
    help: &'static str,
    is_gauge: bool,
    series: &'static [(&'static Labels, Counter)],
}

const fn counter(
    name: &'static str,
    help: &'static str,
    series: &'static [(&'static Labels, Counter)],
) -> Metric {
    Metric { name, help, is_gauge: false, series }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    series: &'static [(&'static Labels, Counter)],
) -> Metric {
    Metric { name, help, is_gauge: true, series }
}

macro_rules! labels {
    ($($name:ident = $value:literal),*) => { &[$((stringify!($name), $value)),*] };
}

/// All metrics but those that have one series for each cause, which are in [`CAUSES`].
const METRICS: [Metric; 18] = [
    counter(
        "requests",
        "Valid requests",
        &[
            (labels!(protocol = "udp", action = "connect", family = "v4"), Counter::UdpConnectV4),
            (labels!(protocol = "udp", action = "connect", family = "v6"), Counter::UdpConnectV6),
            (labels!(protocol = "udp", action = "announce", family = "v4"), Counter::UdpAnnounceV4),
            (labels!(protocol = "udp", action = "announce", family = "v6"), Counter::UdpAnnounceV6),
            (labels!(protocol = "udp", action = "scrape", family = "v4"), Counter::UdpScrapeV4),
            (labels!(protocol = "udp", action = "scrape", family = "v6"), Counter::UdpScrapeV6),
            (labels!(protocol = "http", action = "announce", family = "v4"), Counter::HttpAnnounceV4),
            (labels!(protocol = "http", action = "announce", family = "v6"), Counter::HttpAnnounceV6),
            (labels!(protocol = "http", action = "scrape", family = "v4"), Counter::HttpScrapeV4),
            (labels!(protocol = "http", action = "scrape", family = "v6"), Counter::HttpScrapeV6),
            (labels!(protocol = "http", action = "other", family = "any"), Counter::HttpOther),
        ],
    ),
    counter(
        "responses",
        "Responses, including refusals",
        &[
            (labels!(protocol = "udp", family = "v4"), Counter::UdpRepliesV4),
            (labels!(protocol = "udp", family = "v6"), Counter::UdpRepliesV6),
            (labels!(protocol = "http", family = "v4"), Counter::HttpRepliesV4),
            (labels!(protocol = "http", family = "v6"), Counter::HttpRepliesV6),
        ],
    ),
    counter("refusals", "Requests that the tracker refused with a message", &[(&[], Counter::Refused)]),
    counter("silenced", "Requests that middleware ended without a response", &[(&[], Counter::Silenced)]),
    counter("faults", "Requests that failed because of a fault of the program", &[(&[], Counter::Faults)]),
    counter(
        "denied",
        "Requests denied by an allow or deny list, by kind of list",
        &[
            (labels!(by = "torrent"), Counter::DeniedTorrent),
            (labels!(by = "client"), Counter::DeniedClient),
            (labels!(by = "source"), Counter::DeniedSource),
        ],
    ),
    counter("bans", "Bans of addresses that sent wrong connection ids", &[(&[], Counter::Bans)]),
    counter("mesh_hops", "Messages sent to other workers", &[(&[], Counter::MeshHops)]),
    counter(
        "ring_overflows",
        "Times the ring ran out of buffers or completion entries (nothing is lost)",
        &[(&[], Counter::RingOverflows)],
    ),
    counter("completed", "Completed downloads", &[(&[], Counter::Completed)]),
    counter(
        "removed_peers",
        "Peers removed from their swarms, by cause",
        &[
            (labels!(cause = "expired"), Counter::ExpiredPeers),
            (labels!(cause = "evicted"), Counter::EvictedPeers),
            (labels!(cause = "denied"), Counter::DeniedPeers),
        ],
    ),
    gauge("connections", "Open HTTP connections", &[(&[], Counter::Connections)]),
    counter(
        "evicted_connections",
        "HTTP connections closed while they waited for their client, to make room for new ones",
        &[(&[], Counter::EvictedConnections)],
    ),
    gauge("swarms", "Swarms that have peers", &[(&[], Counter::Swarms)]),
    gauge(
        "peers",
        "Peers, by role",
        &[(labels!(role = "seeder"), Counter::Seeders), (labels!(role = "leecher"), Counter::Leechers)],
    ),
    gauge("ipv6_peers", "Peers with an IPv6 address", &[(&[], Counter::V6Peers)]),
    gauge("table_bytes", "Memory used by the table of swarms", &[(&[], Counter::TableBytes)]),
    gauge(
        "sweep_lag_milliseconds",
        "Longest time that a peer may stay beyond its timeout",
        &[(&[], Counter::SweepLagMs)],
    ),
];

/// Metrics with one series for each cause: name, help and causes.
const CAUSES: [(&str, &str, &Causes); 3] = [
    ("bad_requests", "Invalid requests, by cause", &BAD),
    ("limited", "Requests of sources over their limit, by kind of request", &LIMITED),
    ("drops", "Lost requests and responses, by cause", &DROPS),
];

/// Returns all metrics as text.
pub fn text(handle: &Handle) -> String {
    let mut registry = Registry::with_prefix("gyre");
    registry.register_collector(Box::new(Reading {
        workers: handle.workers(),
        status: handle.status(),
        uptime: handle.uptime(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry).expect("text can be written to a string");
    text
}

/// The values to write.
#[derive(Debug)]
struct Reading {
    workers: Vec<WorkerState>,
    status: Status,
    uptime: Duration,
}

impl Collector for Reading {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result {
        for Metric { name, help, is_gauge, series } in &METRICS {
            let kind = if *is_gauge { MetricType::Gauge } else { MetricType::Counter };
            self.each_worker(&mut to, name, help, kind, series)?;
        }
        for (name, help, causes) in &CAUSES {
            let labels: Vec<_> =
                causes.iter().map(|(cause, counter)| ([("cause", *cause)], *counter)).collect();
            let series: Vec<_> = labels.iter().map(|(labels, counter)| (&labels[..], *counter)).collect();
            self.each_worker(&mut to, name, help, MetricType::Counter, &series)?;
        }
        self.cpu(&mut to)?;
        self.turns(&mut to)?;
        self.process(&mut to)?;
        self.snapshots(&mut to)?;
        self.lists(&mut to)
    }
}

impl Reading {
    fn each_worker(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        kind: MetricType,
        series: &[(&Labels, Counter)],
    ) -> Result {
        let mut metric = to.encode_descriptor(name, help, None, kind)?;
        for (number, worker) in self.workers.iter().enumerate() {
            let number = number.to_string();
            for (labels, counter) in series {
                let labels: Vec<_> = labels.iter().copied().chain([("worker", number.as_str())]).collect();
                let value = worker.counters.get(*counter);
                let mut metric = metric.encode_family(&labels)?;
                match kind {
                    MetricType::Gauge => metric.encode_gauge(&value)?,
                    _ => metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                }
            }
        }
        Ok(())
    }

    fn cpu(&self, to: &mut DescriptorEncoder<'_>) -> Result {
        let mut metric =
            to.encode_descriptor("cpu_seconds", "CPU time used by the worker", None, MetricType::Counter)?;
        for (number, worker) in self.workers.iter().enumerate() {
            let secs = worker.counters.get(Counter::CpuMicros) as f64 / 1e6;
            let labels = [("worker", number.to_string())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&secs, None)?;
        }
        Ok(())
    }

    fn turns(&self, to: &mut DescriptorEncoder<'_>) -> Result {
        let help = "Duration of turns (a datagram that arrives waits for at most one turn)";
        self.histogram(to, "turn_seconds", help, 1e6, Turns::durations)?;
        let help = "Number of datagrams of the turns that took any";
        self.histogram(to, "turn_datagrams", help, 1.0, Turns::datagrams)
    }

    /// Writes a histogram of each worker. Values are divided by `unit`.
    fn histogram<const BUCKETS: usize>(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: f64,
        of: fn(&Turns) -> &Histogram<BUCKETS>,
    ) -> Result {
        let mut metric = to.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (number, worker) in self.workers.iter().enumerate() {
            let histogram = of(&worker.turns);
            let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 / unit);
            let buckets: Vec<_> = histogram.buckets().map(|(below, count)| (bound(below), count)).collect();
            let (sum, count) = (histogram.sum() as f64 / unit, histogram.counts().iter().sum());
            let labels = [("worker", number.to_string())];
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn process(&self, to: &mut DescriptorEncoder<'_>) -> Result {
        to.encode_descriptor("build", "Version of gyre", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        gauge_of(to, "resident_bytes", "Resident memory of the process", &sys::resident_bytes())?;
        let started = unix_time().saturating_sub(self.uptime).as_secs(); // rounded once, so that it does not change
        gauge_of(to, "start_time_seconds", "Start time of the tracker in seconds since 1970", &started)
    }

    fn snapshots(&self, to: &mut DescriptorEncoder<'_>) -> Result {
        if let Some(written) = self.status.snapshot {
            let help = "Time of the last snapshot in seconds since 1970";
            gauge_of(to, "snapshot_time_seconds", help, &written.unix_secs)?;
            let help = "Time taken to write the last snapshot";
            gauge_of(to, "snapshot_duration_seconds", help, &written.took.as_secs_f64())?;
            let help = "Longest time that requests waited for a slice of the last snapshot";
            gauge_of(to, "snapshot_slice_seconds", help, &written.longest_slice.as_secs_f64())?;
            gauge_of(to, "snapshot_bytes", "Size of the last snapshot", &written.bytes)?;
        }
        let help = "Snapshots that could not be written";
        counter_of(to, "snapshot_failures", help, &self.status.failed_snapshots)
    }

    fn lists(&self, to: &mut DescriptorEncoder<'_>) -> Result {
        let mut metric =
            to.encode_descriptor("list_entries", "Number of entries of a list", None, MetricType::Gauge)?;
        for list in &self.status.lists {
            let path = list.path.to_string_lossy();
            let labels = [("list", list.name.as_str()), ("file", &path)];
            metric.encode_family(&labels)?.encode_gauge(&(list.entries as u64))?;
        }
        Ok(())
    }
}

fn gauge_of(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &impl EncodeGaugeValue) -> Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)
}

fn counter_of(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeCounterValue,
) -> Result {
    to.encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_exported_once() {
        let series = METRICS.iter().flat_map(|metric| metric.series.iter().map(|(_, counter)| *counter));
        let causes = CAUSES.iter().flat_map(|(_, _, causes)| causes.iter().map(|(_, counter)| *counter));
        let mut exported: Vec<_> =
            series.chain(causes).chain([Counter::CpuMicros]).map(|counter| counter as usize).collect();
        exported.sort_unstable();
        assert_eq!(exported, (0..Counter::COUNT).collect::<Vec<_>>());
    }
}
