//! Owns the statistics line: rates since the last line, and the current state.

use std::time::Duration;

use crate::counters::{BAD, Counter, Counters, DROPS, LIMITED};

/// Formats statistics lines from the difference between two readings.
#[derive(Default)]
pub struct Reporter {
    last: Counters,
}

impl Reporter {
    /// Returns the line for the time `passed` since the last call (or the start). `workers` are the counters of all
    /// workers since their start. Rates are rounded up, so that rare events do not show as 0.
    pub fn line(&mut self, workers: &[Counters], passed: Duration) -> String {
        let all: Counters = workers.iter().sum();
        let lag_ms = workers.iter().map(|worker| worker.get(Counter::SweepLagMs)).max().unwrap_or(0);
        let secs = passed.as_secs_f64().max(0.001);
        let rate = |counter: Counter| {
            // The kernel's count of drops wraps around; all others only grow.
            let more = all.get(counter).saturating_sub(self.last.get(counter));
            (more as f64 / secs).ceil() as u64
        };
        let mut line = String::new();
        let mut put = |part: String| line.push_str(&part);

        let families = |v4: Counter, v6: Counter| format!("{}+{}", rate(v4), rate(v6));
        put(format!(
            "requests/s (v4+v6): udp connect {}, announce {}, scrape {}; http announce {}, scrape {}, other {}",
            families(Counter::UdpConnectV4, Counter::UdpConnectV6),
            families(Counter::UdpAnnounceV4, Counter::UdpAnnounceV6),
            families(Counter::UdpScrapeV4, Counter::UdpScrapeV6),
            families(Counter::HttpAnnounceV4, Counter::HttpAnnounceV6),
            families(Counter::HttpScrapeV4, Counter::HttpScrapeV6),
            rate(Counter::HttpOther),
        ));
        put(format!(
            " | responses/s: udp {}, http {}, refused {}",
            families(Counter::UdpRepliesV4, Counter::UdpRepliesV6),
            families(Counter::HttpRepliesV4, Counter::HttpRepliesV6),
            rate(Counter::Refused),
        ));
        put(format!(
            " | {} connections, {} swarms, {} seeders, {} leechers, {} IPv6 peers",
            all.get(Counter::Connections),
            all.get(Counter::Swarms),
            all.get(Counter::Seeders),
            all.get(Counter::Leechers),
            all.get(Counter::V6Peers),
        ));
        let causes = |title: &str, causes: &[(&str, Counter)]| {
            let mut text = format!(" | {title}/s:");
            let seen = causes.iter().filter(|(_, counter)| rate(*counter) > 0);
            let before = text.len();
            seen.for_each(|(cause, counter)| text += &format!(" {cause} {}", rate(*counter)));
            if text.len() == before {
                text += " none";
            }
            text
        };
        put(causes("bad", &BAD));
        put(causes("limited", &LIMITED));
        put(causes("drops", &DROPS));
        put(format!(
            " | {} hops/s, {} expired/s, {} evicted/s, {} ring overflows/s, sweep lag {:.1} s",
            rate(Counter::MeshHops),
            rate(Counter::ExpiredPeers),
            rate(Counter::EvictedPeers),
            rate(Counter::RingOverflows),
            lag_ms as f64 / 1_000.0,
        ));
        self.last = all;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_rates_since_the_last_line_and_the_current_state() {
        let mut reporter = Reporter::default();
        let mut workers = [Counters::default(), Counters::default()];
        workers[0].add(Counter::UdpAnnounceV4, 1_000);
        workers[1].add(Counter::UdpAnnounceV4, 500);
        workers[1].set(Counter::Seeders, 7);
        workers[0].set(Counter::Seeders, 3);
        workers[0].set(Counter::SweepLagMs, 1_200);
        workers[1].set(Counter::SweepLagMs, 300);
        workers[0].bump(Counter::BadMagic);
        let line = reporter.line(&workers, Duration::from_secs(10));
        for part in ["announce 150+0", "10 seeders", "bad/s: magic 1 |", "drops/s: none", "sweep lag 1.2 s"] {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
        let line = reporter.line(&workers, Duration::from_secs(10));
        for part in ["announce 0+0", "10 seeders", "bad/s: none"] {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
    }
}
