//! Owns the state that is shown: it computes rates from readings. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::clients;
use crate::admin::stats::{Numbers, Stats, TurnDatagrams};
use crate::admin::swarms::{Client, Swarm};
use crate::limits::TOP_HISTORY;
use crate::text::printable;
use crate::time::Timestamp;

/// The orders that the largest swarms can be listed in.
pub(super) const ORDERS: [&str; 4] = ["peers", "seeders", "leechers", "downloaded"];

/// The statistics, and when they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) at: Timestamp,
    pub(super) stats: Stats,
}

/// An update from the tracker.
#[derive(Clone, Debug)]
pub(super) enum Update {
    Stats(Box<Reading>),
    /// The largest swarms for each of the [`ORDERS`].
    Swarms([Vec<Swarm>; ORDERS.len()]),
    Clients(Vec<Client>),
    /// The tracker does not answer.
    Lost {
        at: Timestamp,
        why: String,
    },
}

/// A value for each protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Protocols<T> {
    pub(super) udp: T,
    pub(super) http: T,
}

/// A bound of the duration of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Micros {
    Below(u64),
    AtLeast(u64),
}

/// What happened to requests that were not served normally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// They were lost.
    Dropped,
    /// Their source was over its limit.
    Limited,
    /// They were invalid.
    Bad,
}

/// A cause, with its counter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cause {
    pub(super) outcome: Outcome,
    pub(super) name: String,
    pub(super) rate: f64,
    pub(super) total: u64,
}

/// Rates of a worker per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkerRates {
    /// Share of the core, from 0 to 1.
    pub(super) cpu: f64,
    pub(super) requests: f64,
    pub(super) hops: f64,
}

/// Rates of all workers per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) requests: Protocols<f64>,
    pub(super) responses: Protocols<f64>,
    pub(super) completed: f64,
    /// Upper bound of the median of the turns.
    pub(super) p50: Option<Micros>,
    /// Upper bound of the 99th percentile of the turns.
    pub(super) p99: Option<Micros>,
    /// Mean number of datagrams of the turns that took any.
    pub(super) datagrams: Option<f64>,
    pub(super) workers: Vec<WorkerRates>,
}

fn requests(numbers: &Numbers) -> Protocols<u64> {
    let (udp, http) = (&numbers.udp, &numbers.http);
    Protocols {
        udp: udp.connects.sum() + udp.announces.sum() + udp.scrapes.sum(),
        http: http.announces.sum() + http.scrapes.sum() + http.others,
    }
}

fn all_requests(numbers: &Numbers) -> u64 {
    let Protocols { udp, http } = requests(numbers);
    udp + http
}

/// The difference between two readings. A counter that went back has a rate of 0.
struct Difference {
    secs: f64,
}

impl Difference {
    fn between(before: &Reading, now: &Reading) -> Self {
        Self { secs: now.at.since(before.at).as_secs_f64().max(0.001) }
    }

    fn rate(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.secs
    }

    fn rates(&self, before: Protocols<u64>, now: Protocols<u64>) -> Protocols<f64> {
        Protocols { udp: self.rate(before.udp, now.udp), http: self.rate(before.http, now.http) }
    }

    fn worker(&self, before: &Numbers, now: &Numbers) -> WorkerRates {
        WorkerRates {
            cpu: self.rate(before.cpu_us, now.cpu_us) / 1e6,
            requests: self.rate(all_requests(before), all_requests(now)),
            hops: self.rate(before.mesh_hops, now.mesh_hops),
        }
    }

    fn causes(&self, outcome: Outcome, before: &Counts, now: &Counts) -> Vec<Cause> {
        let cause = |(name, &total): (&String, &u64)| Cause {
            outcome,
            name: printable(name),
            rate: self.rate(before.get(name).copied().unwrap_or(total), total),
            total,
        };
        let mut causes: Vec<_> = now.iter().filter(|(_, total)| **total > 0).map(cause).collect();
        causes.sort_by(|one, other| other.rate.total_cmp(&one.rate).then(other.total.cmp(&one.total)));
        causes
    }
}

type Counts = BTreeMap<String, u64>;

impl Rates {
    /// Returns the rates between two readings.
    fn between(before: &Reading, now: &Reading) -> Self {
        let difference = Difference::between(before, now);
        let (workers_before, workers) = (&before.stats.workers, &now.stats.workers);
        let (before, now) = (&before.stats.total, &now.stats.total);
        let responses = |numbers: &Numbers| Protocols {
            udp: numbers.udp.responses.sum(),
            http: numbers.http.responses.sum(),
        };
        let turns = counts_between(&before.turns.counts, &now.turns.counts);
        let workers = workers_before.iter().zip(workers);
        Self {
            requests: difference.rates(requests(before), requests(now)),
            responses: difference.rates(responses(before), responses(now)),
            completed: difference.rate(before.completed, now.completed),
            p50: quantile(&turns, 50),
            p99: quantile(&turns, 99),
            datagrams: mean_datagrams(&before.turn_datagrams, &now.turn_datagrams),
            workers: workers.map(|(before, now)| difference.worker(&before.numbers, &now.numbers)).collect(),
        }
    }
}

/// Returns whether the readings are from different processes: the uptime or a counter went back.
fn is_restarted(before: &Stats, now: &Stats) -> bool {
    now.uptime_secs < before.uptime_secs
        || now.workers.len() != before.workers.len()
        || all_requests(&now.total) < all_requests(&before.total)
}

fn counts_between(before: &[u64], now: &[u64]) -> Vec<u64> {
    before.iter().zip(now).map(|(before, now)| now.saturating_sub(*before)).collect()
}

/// Returns the mean number of datagrams of a turn, or `None` if no turn took any.
fn mean_datagrams(before: &TurnDatagrams, now: &TurnDatagrams) -> Option<f64> {
    let turns: u64 = counts_between(&before.counts, &now.counts).iter().sum();
    (turns > 0).then(|| now.sum.saturating_sub(before.sum) as f64 / turns as f64)
}

/// Returns a bound of a percentile of the turns. `counts` are the numbers of turns below 1, 2, 4 ... microseconds; the
/// last one has no bound. `None`: there were no turns.
fn quantile(counts: &[u64], percent: u64) -> Option<Micros> {
    let all: u64 = counts.iter().sum();
    let rank = (all * percent).div_ceil(100);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        rank > 0 && seen >= rank
    })?;
    Some(if bucket + 1 == counts.len() {
        Micros::AtLeast(1 << bucket >> 1)
    } else {
        Micros::Below(1 << bucket)
    })
}

/// Requests per second at one time. `None`: unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    at: Timestamp,
    requests: Option<Protocols<f64>>,
}

/// Everything known about the tracker.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) address: String,
    pub(super) last: Reading,
    /// Rates between the last two readings. `None`: the last one was the first of its process.
    pub(super) rates: Option<Rates>,
    /// Lost requests come first, then by rate.
    pub(super) causes: Vec<Cause>,
    /// Number of restarts of the tracker that were detected.
    pub(super) restarts: u32,
    /// Seconds since the last reading and the reason, if queries fail.
    pub(super) lost: Option<(u64, String)>,
    pub(super) swarms: [Vec<Swarm>; ORDERS.len()],
    pub(super) clients: Vec<Client>,
    history: VecDeque<Sample>,
    /// Number of all samples, including those that were dropped.
    samples: usize,
    is_read: bool,
}

impl Model {
    pub(super) fn new(address: &str) -> Self {
        Self { address: printable(address), ..Self::default() }
    }

    pub(super) fn apply(&mut self, update: Update) {
        match update {
            Update::Stats(reading) => self.apply_reading(*reading),
            Update::Swarms(swarms) => {
                self.swarms = swarms;
                let hashes = self.swarms.iter_mut().flatten().map(|swarm| &mut swarm.info_hash);
                hashes.for_each(|hash| *hash = printable(hash));
            }
            Update::Clients(clients) => {
                self.clients = clients;
                self.clients.iter_mut().for_each(|client| client.id = printable(&client.id));
            }
            Update::Lost { at, why } => {
                self.lost = Some((at.since(self.last.at).as_secs(), printable(&why)));
                self.record(Sample { at, requests: None });
            }
        }
    }

    fn apply_reading(&mut self, mut now: Reading) {
        now.stats.version = printable(&now.stats.version);
        let restarted = self.is_read && is_restarted(&self.last.stats, &now.stats);
        // The counters of another process are unknown before its first reading.
        let before = if self.is_read && !restarted { &self.last } else { &now };
        let difference = Difference::between(before, &now);
        let (was, is) = (&before.stats.total, &now.stats.total);
        self.causes = difference.causes(Outcome::Dropped, &was.drops, &is.drops);
        self.causes.extend(difference.causes(Outcome::Limited, &was.limited, &is.limited));
        self.causes.extend(difference.causes(Outcome::Bad, &was.bad, &is.bad));
        self.rates = (self.is_read && !restarted).then(|| Rates::between(before, &now));
        self.restarts += u32::from(restarted);
        self.record(Sample { at: now.at, requests: self.rates.as_ref().map(|rates| rates.requests) });
        (self.last, self.is_read, self.lost) = (now, true, None);
    }

    fn record(&mut self, sample: Sample) {
        if self.history.len() == TOP_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(sample);
        self.samples += 1;
    }

    /// Returns the time span of the history in seconds.
    pub(super) fn history_secs(&self) -> u64 {
        let ends = self.history.front().zip(self.history.back());
        ends.map_or(0, |(first, last)| last.at.since(first.at).as_secs())
    }

    /// Returns the history in at most `columns` columns, the latest first. Each is the mean of the same number of
    /// samples. The samples of a column stay the same when more samples arrive.
    pub(super) fn history(&self, columns: usize, of: fn(&Protocols<f64>) -> f64) -> Vec<Option<f64>> {
        let each = self.history.len().div_ceil(columns.max(1)).max(1);
        let first = self.samples - self.history.len();
        let mut means: Vec<(usize, f64, f64)> = Vec::new(); // number of the column, sum, count
        for (at, sample) in self.history.iter().enumerate() {
            let column = (first + at) / each;
            if means.last().is_none_or(|(last, ..)| *last != column) {
                means.push((column, 0.0, 0.0));
            }
            if let (Some((_, sum, count)), Some(requests)) = (means.last_mut(), &sample.requests) {
                (*sum, *count) = (*sum + of(requests), *count + 1.0);
            }
        }
        let mean = |(_, sum, count): &(usize, f64, f64)| (*count > 0.0).then(|| sum / count);
        means.iter().rev().take(columns).map(mean).collect()
    }

    /// Returns the clients with their names and shares.
    pub(super) fn client_words(&self) -> impl Iterator<Item = (String, f64)> {
        self.clients.iter().map(|client| {
            let name = clients::name(&client.id).map(|name| format!("{name} ")).unwrap_or_default();
            (format!("{name}{}", client.id), client.share)
        })
    }
}

#[cfg(test)]
mod tests;
