//! Owns the report of a run, as a table and as JSON.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::measure::{FloodCounts, Kind, KindTally, ReplyError, Tally};
use crate::options::FloodKind;
use crate::watch::ProcessUsage;

/// A generator that was busy for more than this part of the time counts as the bottleneck.
const BUSY_LIMIT: f64 = 0.95;

/// The results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) machine: String,
    /// Command line of the generator.
    pub(crate) command: String,
    pub(crate) protocol: &'static str,
    pub(crate) target: String,
    /// Requested rate per second. `None`: as fast as replies arrived.
    pub(crate) rate: Option<f64>,
    pub(crate) duration_secs: f64,
    pub(crate) requests: u64,
    /// Replies, valid or not.
    pub(crate) replies: u64,
    pub(crate) replies_per_sec: f64,
    pub(crate) lost: u64,
    /// Requests of an open loop that were due but not sent before the end.
    pub(crate) unsent: u64,
    pub(crate) late: u64,
    /// UDP replies that were dropped because the generator's sockets were full. Some of them are also counted as lost.
    pub(crate) overrun: u64,
    pub(crate) refused: u64,
    pub(crate) first_refusal: Option<String>,
    pub(crate) broken_connections: u64,
    pub(crate) wrong: u64,
    /// Invalid replies by cause.
    pub(crate) wrong_by_cause: Vec<Cause>,
    pub(crate) peers_per_announce: f64,
    pub(crate) latency: Latency,
    pub(crate) kinds: Vec<KindReport>,
    pub(crate) flood: Option<FloodReport>,
    pub(crate) generator: Generator,
    pub(crate) server: Option<Server>,
    pub(crate) timeline: Vec<TimelinePoint>,
    #[serde(skip)]
    pub(crate) histogram: Histogram<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Cause {
    pub(crate) cause: &'static str,
    pub(crate) replies: u64,
}

/// Microseconds from when a request was due (in a closed loop: sent) to its reply.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean_us: f64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            mean_us: histogram.mean(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct KindReport {
    pub(crate) kind: &'static str,
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) requests_per_sec: f64,
    pub(crate) replies_per_sec: f64,
    pub(crate) lost: u64,
    pub(crate) latency: Latency,
}

/// A flood, alone or beside the load.
#[derive(Debug, Serialize)]
pub(crate) struct FloodReport {
    pub(crate) kind: String,
    pub(crate) sent_per_sec: f64,
    #[serde(flatten)]
    pub(crate) counts: FloodCounts,
}

/// The load of the generator.
#[derive(Debug, Serialize)]
pub(crate) struct Generator {
    pub(crate) threads: usize,
    /// Part of the measured time that each thread had work.
    pub(crate) busy: Vec<f64>,
    /// Part of the measured time that each thread used its core, for work and spinning.
    pub(crate) cpu: Vec<f64>,
    /// Whether the generator was the bottleneck, so that the server may be faster than this.
    pub(crate) limits: bool,
}

/// The CPU time, wake-ups and memory of the server.
#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) pid: u32,
    pub(crate) user_us_per_reply: f64,
    pub(crate) system_us_per_reply: f64,
    pub(crate) cpu_us_per_reply: f64,
    /// Number of times that a thread was woken (voluntary context switches).
    pub(crate) wakes_per_reply: f64,
    /// CPU use, as a part of one core.
    pub(crate) cpu: f64,
    pub(crate) resident_bytes: u64,
}

impl Server {
    /// Computes the use per reply at `served_per_sec` replies per second.
    fn of(used: &ProcessUsage, served_per_sec: f64) -> Self {
        let per_reply = |secs: f64| 1e6 * secs / used.secs / served_per_sec;
        Self {
            pid: used.pid,
            user_us_per_reply: per_reply(used.user_secs),
            system_us_per_reply: per_reply(used.system_secs),
            cpu_us_per_reply: per_reply(used.cpu_secs),
            wakes_per_reply: used.wakes as f64 / used.secs / served_per_sec,
            cpu: used.cpu_secs / used.secs,
            resident_bytes: used.resident_bytes,
        }
    }
}

/// An interval of the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TimelinePoint {
    /// End of the interval, since the start of the measured time.
    pub(crate) at_secs: f64,
    pub(crate) requests_per_sec: f64,
    pub(crate) replies_per_sec: f64,
    pub(crate) lost: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// The data of a report in addition to the tally.
pub(crate) struct RunInfo {
    pub(crate) command: String,
    pub(crate) protocol: &'static str,
    pub(crate) target: String,
    pub(crate) rate: Option<f64>,
    pub(crate) duration_secs: f64,
    pub(crate) flood: Option<FloodKind>,
    pub(crate) busy: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
    pub(crate) server: Option<ProcessUsage>,
    pub(crate) timeline: Vec<TimelinePoint>,
}

impl Report {
    pub(crate) fn new(run: RunInfo, tally: &Tally) -> Self {
        let per_sec = |number: u64| number as f64 / run.duration_secs;
        let replies = tally.replies();
        // A flood without a load needs no replies.
        let served = if tally.requests() > 0 { replies } else { tally.flood.sent }.max(1) as f64;
        let kind_report = |(kind, figures): (Kind, &KindTally)| KindReport {
            kind: kind.name(),
            requests: figures.requests,
            replies: figures.replies,
            requests_per_sec: per_sec(figures.requests),
            replies_per_sec: per_sec(figures.replies),
            lost: figures.lost,
            latency: Latency::of(&figures.latency),
        };
        let causes = ReplyError::ALL.into_iter().zip(tally.wrong).filter(|(_, replies)| *replies > 0);
        let histogram = tally.latency();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            machine: crate::process::machine(),
            command: run.command,
            protocol: run.protocol,
            target: run.target,
            rate: run.rate,
            duration_secs: run.duration_secs,
            requests: tally.requests(),
            replies,
            replies_per_sec: per_sec(replies),
            lost: tally.lost(),
            unsent: tally.unsent,
            late: tally.late,
            overrun: tally.overrun,
            refused: tally.refused,
            first_refusal: tally.first_refusal.clone(),
            broken_connections: tally.broken,
            wrong: tally.error_count(),
            wrong_by_cause: causes.map(|(wrong, replies)| Cause { cause: wrong.name(), replies }).collect(),
            peers_per_announce: tally.peers as f64
                / tally.kinds[Kind::Announce as usize].replies.max(1) as f64,
            latency: Latency::of(&histogram),
            kinds: Kind::ALL
                .into_iter()
                .zip(&tally.kinds)
                .filter(|(_, figures)| figures.requests > 0)
                .map(kind_report)
                .collect(),
            flood: run.flood.map(|kind| FloodReport {
                kind: kind.name(),
                sent_per_sec: per_sec(tally.flood.sent),
                counts: tally.flood,
            }),
            generator: Generator {
                threads: run.busy.len(),
                limits: run.busy.iter().all(|busy| *busy > BUSY_LIMIT),
                busy: run.busy,
                cpu: run.cpu,
            },
            server: run.server.map(|used| Server::of(&used, served / run.duration_secs)),
            timeline: run.timeline,
            histogram,
        }
    }

    /// Returns whether the run passed: there were replies, all valid, and not all of them errors. A flood without a
    /// load needs no replies.
    pub(crate) fn passed(&self) -> bool {
        self.replies > self.refused && self.wrong == 0 || self.is_flood_only()
    }

    fn is_flood_only(&self) -> bool {
        self.flood.is_some() && self.requests == 0
    }

    /// Returns the report as text.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |content: String| {
            let _ = writeln!(text, "{content}"); // a String takes everything
        };
        line(format!("{} {}, {:.1} s, {}", self.protocol, self.target, self.duration_secs, self.machine));
        if !self.is_flood_only() {
            line(self.load_lines());
        }
        if let Some(FloodReport { kind, sent_per_sec, counts }) = &self.flood {
            let FloodCounts { sent, sent_bytes, failed, replies, reply_bytes } = counts;
            line(format!(
                "flood ({kind}): {sent} datagrams, {sent_per_sec:.0}/s, {sent_bytes} bytes; failed: {failed}; \
                 received: {replies} datagrams, {reply_bytes} bytes"
            ));
        }
        if let Some(server) = &self.server {
            line(format!(
                "server (process {}): {:.3} us CPU per {} ({:.3} user, {:.3} system), {:.3} wake-ups, \
                 {:.0} % of a core, {:.1} MiB resident",
                server.pid,
                server.cpu_us_per_reply,
                if self.is_flood_only() { "datagram" } else { "reply" },
                server.user_us_per_reply,
                server.system_us_per_reply,
                server.wakes_per_reply,
                100.0 * server.cpu,
                server.resident_bytes as f64 / f64::from(1 << 20)
            ));
        }
        let percent = |parts: &[f64]| {
            parts.iter().map(|part| format!("{:.0} %", 100.0 * part)).collect::<Vec<_>>().join(", ")
        };
        line(format!(
            "generator: busy {} of the time, {} of a core per thread{}",
            percent(&self.generator.busy),
            percent(&self.generator.cpu),
            if self.generator.limits {
                "; THE GENERATOR IS THE BOTTLENECK of this run, not the server"
            } else {
                ""
            }
        ));
        text
    }

    /// Returns the lines about requests and replies.
    fn load_lines(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |content: String| lines.push(content);
        line(format!(
            "{:<10} {:>12} {:>12} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}",
            "", "requests/s", "replies/s", "lost", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"
        ));
        let row = |name: &str, requests: f64, replies: f64, lost: u64, latency: &Latency| {
            let Latency { p50_us, p90_us, p99_us, p999_us, max_us, .. } = latency;
            format!(
                "{name:<10} {requests:>12.0} {replies:>12.0} {lost:>9} {p50_us:>8} {p90_us:>8} {p99_us:>8} \
                 {p999_us:>8} {max_us:>9}"
            )
        };
        for KindReport { kind, requests_per_sec, replies_per_sec, lost, latency, .. } in &self.kinds {
            line(row(kind, *requests_per_sec, *replies_per_sec, *lost, latency));
        }
        let requests_per_sec = self.requests as f64 / self.duration_secs;
        line(row("all", requests_per_sec, self.replies_per_sec, self.lost, &self.latency));
        line(format!(
            "{:.1} peers per announce; lost {} of {} ({:.4} %); late or duplicate replies: {}; error replies: {}",
            self.peers_per_announce,
            self.lost,
            self.requests,
            100.0 * self.lost as f64 / self.requests.max(1) as f64,
            self.late,
            self.refused
        ));
        if let Some(refusal) = &self.first_refusal {
            line(format!("first error reply: {}", refusal.escape_debug()));
        }
        if self.unsent > 0 {
            line(format!("{} requests were due but could not be sent before the end", self.unsent));
        }
        if self.overrun > 0 {
            line(format!(
                "{} replies arrived faster than the generator could take them and were dropped",
                self.overrun
            ));
        }
        if self.broken_connections > 0 {
            line(format!("{} connections failed or broke", self.broken_connections));
        }
        let causes = self.wrong_by_cause.iter().map(|cause| format!(", {}: {}", cause.cause, cause.replies));
        line(format!("invalid replies: {}{}", self.wrong, causes.collect::<String>()));
        lines.join("\n")
    }
}
