//! Owns `gyre doctor`: the checks of the machine before and while gyre runs on it, and their order.
//!
//! Reading and judging are separate. The struct of a check holds what was read, as text or numbers. Its `judge` makes
//! findings from that alone, so that each judgement can be tested with fake machines.

mod buffers;
mod conntrack;
mod cores;
mod drops;
mod interfaces;
mod machine;
mod parse;
mod probe;
mod probe_http;
mod public;
mod report;
mod sample;
mod system;

use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::config::{Config, Cores};
use crate::limits::{CHECKERS_INTERVAL_RANGE_S, DOCTOR_SAMPLE_MS};
use crate::server;
use crate::time::Clock;
use machine::{Machine, ReadError};
use sample::Sample;

pub use public::{PublicUrl, PublicUrlError};
pub use report::{to_json, to_text};

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No problem.
    Ok,
    /// It costs performance, or it could not be checked.
    Warn,
    /// gyre does not start, or requests are lost.
    Fail,
}

impl Level {
    /// Returns the exit status of the program if this is the worst level.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warn => 1,
            Self::Fail => 2,
        }
    }
}

/// A finding of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check. It does not change between versions.
    pub check: &'static str,
    /// The result.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What it costs.
    pub cost: Option<String>,
    /// How to fix it: a command, if there is one.
    pub fix: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, what: impl Into<String>) -> Self {
        Self { check, level, what: what.into(), cost: None, fix: None }
    }

    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, what)
    }

    fn warn(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Warn, what)
    }

    fn fail(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Fail, what)
    }

    /// Makes a finding for something that could not be read, which is a warning.
    fn unknown(check: &'static str, what: &str, error: ReadError) -> Self {
        Self::warn(check, format!("can't check {what}: {}", error.reason()))
            .costs("problems in this area go unnoticed")
            .fix("run `gyre doctor` as root, and outside of a container")
    }

    fn costs(mut self, cost: impl Into<String>) -> Self {
        self.cost = Some(cost.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Returns the worst level of all findings.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// Checks this machine for a tracker with this configuration and these public URLs. Takes some seconds, at most ten.
pub fn examine(config: &Config, urls: &[PublicUrl]) -> Vec<Finding> {
    let machine = Machine::at("/");
    let mut findings = vec![check_options(config)];
    thread::scope(|scope| {
        let query = || public::query(config, urls, &machine);
        let answers = thread::Builder::new().name("gyre-doctor-asks".into()).spawn_scoped(scope, query);
        let pause = || thread::sleep(Duration::from_millis(DOCTOR_SAMPLE_MS));
        let on_the_machine = examine_machine(&machine, config, pause);
        findings.push(system::io_uring(&system::try_ring(), &machine));
        findings.extend(on_the_machine);
        // If no thread can be started, the probes run afterwards, which takes a little longer.
        findings.extend(answers.map_or_else(|_| query(), |answers| answers.join().unwrap_or_default()));
    });
    findings
}

/// Checks whether `gyre serve` accepts the options, and whether the lists of public trackers accept the interval.
fn check_options(config: &Config) -> Finding {
    const CHECK: &str = "options";
    if let Err(error) = config.check() {
        return Finding::fail(CHECK, error.to_string())
            .costs("gyre does not start")
            .fix("correct the options");
    }
    let (interval, taken) = (config.announce_interval_secs, CHECKERS_INTERVAL_RANGE_S);
    if !taken.contains(&interval) {
        return Finding::warn(
            CHECK,
            format!("--announce-interval {interval} is out of range: {} to {}", taken.start(), taken.end()),
        )
        .costs("lists of public trackers reject the tracker")
        .fix("--announce-interval 1800");
    }
    Finding::ok(CHECK, "the options are valid, and lists of public trackers accept the interval")
}

/// Runs the checks that read the machine's files. `pause` is called between two readings of its counters.
fn examine_machine(machine: &Machine, config: &Config, pause: impl FnOnce()) -> Vec<Finding> {
    let clock = Clock::start();
    let before = Sample::read(machine);
    pause();
    let after = Sample::read(machine);
    let passed = clock.now().since(crate::time::Timestamp::default());
    let cores = cores::Chosen::of(&config.cores, machine);
    let workers = cores.workers();
    let mut findings = system::System::read(machine).judge(config, workers);
    findings.extend(buffers::Buffers::read(machine).judge(config, workers));
    findings.extend(conntrack::Conntrack::read(machine).judge(config));
    findings.extend(drops::judge(&before, &after, passed, config));
    findings.extend(interfaces::Interfaces::read(machine).judge(&cores));
    findings.extend(drops::softirq_balance(&before, &after, &cores));
    findings.extend(cores::CoreFacts::read(machine, &cores).judge(&cores));
    findings.extend(cores::busy(&before, &after, &cores));
    findings
}

/// Formats cores for a message.
fn named(cores: &[usize]) -> String {
    format!("{} {}", if cores.len() == 1 { "core" } else { "cores" }, server::format_cores(cores))
}

/// Formats a number with a noun for a message.
fn count_of(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Returns the cores that the workers would run on; `None` for workers that are not pinned.
fn choose(cores: &Cores, allowed: &[usize]) -> Result<Vec<Option<usize>>, String> {
    server::choose_cores(cores, allowed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
