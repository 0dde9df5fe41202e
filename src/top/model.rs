//! Owns what is shown: readings become rates. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::clients;
use crate::admin::stats::{Numbers, Stats, TurnTimes};
use crate::admin::swarms::{Client, Swarm};
use crate::limits::TOP_HISTORY;
use crate::text::printable;
use crate::time::Timestamp;

/// By what the largest swarms can be found.
pub(super) const ORDERS: [&str; 4] = ["peers", "seeders", "leechers", "downloaded"];

/// The figures, and when they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) at: Timestamp,
    pub(super) stats: Stats,
}

/// What is heard of the tracker.
#[derive(Clone, Debug)]
pub(super) enum News {
    Stats(Box<Reading>),
    /// By each of the [`ORDERS`].
    Swarms([Vec<Swarm>; ORDERS.len()]),
    Clients(Vec<Client>),
    /// It doesn't answer.
    Lost {
        at: Timestamp,
        why: String,
    },
}

/// Of each protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Protocols<T> {
    pub(super) udp: T,
    pub(super) http: T,
}

/// How long a part of the turns took, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Micros {
    Below(u64),
    AtLeast(u64),
}

/// What became of requests that were not answered as they wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They were lost.
    Dropped,
    /// Their source asked for more than it may.
    Limited,
    /// They are none.
    Bad,
}

/// Why that was so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cause {
    pub(super) fate: Fate,
    pub(super) name: String,
    pub(super) rate: f64,
    pub(super) total: u64,
}

/// What a worker does, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkerRates {
    /// Of the core, from 0 to 1.
    pub(super) cpu: f64,
    pub(super) requests: f64,
    pub(super) hops: f64,
}

/// What all do, a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) requests: Protocols<f64>,
    pub(super) responses: Protocols<f64>,
    pub(super) completed: f64,
    /// Half of the turns took so long at most ...
    pub(super) p50: Option<Micros>,
    /// ... and all but one in a hundred.
    pub(super) p99: Option<Micros>,
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

/// The numbers of now less those of before, by seconds. A count that was set back has counted nothing.
struct Since {
    secs: f64,
}

impl Since {
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

    fn causes(&self, fate: Fate, before: &Counts, now: &Counts) -> Vec<Cause> {
        let cause = |(name, &total): (&String, &u64)| Cause {
            fate,
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
    /// What was done between two readings.
    fn between(before: &Reading, now: &Reading) -> Self {
        let since = Since::between(before, now);
        let (workers_before, workers) = (&before.stats.workers, &now.stats.workers);
        let (before, now) = (&before.stats.total, &now.stats.total);
        let responses = |numbers: &Numbers| Protocols {
            udp: numbers.udp.responses.sum(),
            http: numbers.http.responses.sum(),
        };
        let turns = turns_between(&before.turns, &now.turns);
        let workers = workers_before.iter().zip(workers);
        Self {
            requests: since.rates(requests(before), requests(now)),
            responses: since.rates(responses(before), responses(now)),
            completed: since.rate(before.completed, now.completed),
            p50: quantile(&turns, 50),
            p99: quantile(&turns, 99),
            workers: workers.map(|(before, now)| since.worker(&before.numbers, &now.numbers)).collect(),
        }
    }
}

/// Whether another process was read: it is younger than the one before, or has counted less.
fn is_restarted(before: &Stats, now: &Stats) -> bool {
    now.uptime_secs < before.uptime_secs
        || now.workers.len() != before.workers.len()
        || all_requests(&now.total) < all_requests(&before.total)
}

fn turns_between(before: &TurnTimes, now: &TurnTimes) -> Vec<u64> {
    before.counts.iter().zip(&now.counts).map(|(before, now)| now.saturating_sub(*before)).collect()
}

/// What so many percent of the turns took at most, given how many took less than 1, 2, 4 ... microseconds, the last
/// without a bound. `None`: there were none.
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

/// Requests a second at a time; `None`: nobody knows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    at: Timestamp,
    requests: Option<Protocols<f64>>,
}

/// All that is known of the tracker.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) address: String,
    pub(super) last: Reading,
    /// From the reading before the last to that; `None`: that one was the first, or the first of another process.
    pub(super) rates: Option<Rates>,
    /// What is lost comes first, then by rate.
    pub(super) causes: Vec<Cause>,
    /// How often another process was found.
    pub(super) restarts: u32,
    /// Why there is no newer reading, and for how many seconds.
    pub(super) lost: Option<(u64, String)>,
    pub(super) swarms: [Vec<Swarm>; ORDERS.len()],
    pub(super) clients: Vec<Client>,
    history: VecDeque<Sample>,
    /// All samples, those that are not kept any more among them.
    samples: usize,
    is_read: bool,
}

impl Model {
    pub(super) fn new(address: &str) -> Self {
        Self { address: printable(address), ..Self::default() }
    }

    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Stats(reading) => self.take_reading(*reading),
            News::Swarms(swarms) => {
                self.swarms = swarms;
                let hashes = self.swarms.iter_mut().flatten().map(|swarm| &mut swarm.info_hash);
                hashes.for_each(|hash| *hash = printable(hash));
            }
            News::Clients(clients) => {
                self.clients = clients;
                self.clients.iter_mut().for_each(|client| client.id = printable(&client.id));
            }
            News::Lost { at, why } => {
                self.lost = Some((at.since(self.last.at).as_secs(), printable(&why)));
                self.note(Sample { at, requests: None });
            }
        }
    }

    fn take_reading(&mut self, mut now: Reading) {
        now.stats.version = printable(&now.stats.version);
        let restarted = self.is_read && is_restarted(&self.last.stats, &now.stats);
        // Nothing is known of what another process had counted before.
        let before = if self.is_read && !restarted { &self.last } else { &now };
        let since = Since::between(before, &now);
        let (was, is) = (&before.stats.total, &now.stats.total);
        self.causes = since.causes(Fate::Dropped, &was.drops, &is.drops);
        self.causes.extend(since.causes(Fate::Limited, &was.limited, &is.limited));
        self.causes.extend(since.causes(Fate::Bad, &was.bad, &is.bad));
        self.rates = (self.is_read && !restarted).then(|| Rates::between(before, &now));
        self.restarts += u32::from(restarted);
        self.note(Sample { at: now.at, requests: self.rates.as_ref().map(|rates| rates.requests) });
        (self.last, self.is_read, self.lost) = (now, true, None);
    }

    fn note(&mut self, sample: Sample) {
        if self.history.len() == TOP_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(sample);
        self.samples += 1;
    }

    /// Seconds that the history spans.
    pub(super) fn history_secs(&self) -> u64 {
        let ends = self.history.front().zip(self.history.back());
        ends.map_or(0, |(first, last)| last.at.since(first.at).as_secs())
    }

    /// The history in at most so many columns, the latest first, each the mean of as many samples. Columns keep their
    /// samples while more come.
    pub(super) fn history(&self, columns: usize, of: fn(&Protocols<f64>) -> f64) -> Vec<Option<f64>> {
        let each = self.history.len().div_ceil(columns.max(1)).max(1);
        let first = self.samples - self.history.len();
        let mut means: Vec<(usize, f64, f64)> = Vec::new(); // the column's number, its sum, how many are in it
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

    /// The clients as words, each with its part.
    pub(super) fn client_words(&self) -> impl Iterator<Item = (String, f64)> {
        self.clients.iter().map(|client| {
            let name = clients::name(&client.id).map(|name| format!("{name} ")).unwrap_or_default();
            (format!("{name}{}", client.id), client.share)
        })
    }
}

#[cfg(test)]
mod tests;
