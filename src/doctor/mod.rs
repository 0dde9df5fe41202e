//! Owns `gyre doctor`: what is looked at on the machine before and while gyre runs on it, and in which order.
//!
//! Reading and judging are apart. A check's struct holds what was read, as text or numbers; its `judge` makes findings
//! of that alone. So each judgement is tested with machines that are made up.

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
use machine::{Machine, Unread};
use sample::Sample;

pub use public::{PublicUrl, PublicUrlError};
pub use report::{to_json, to_text};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// It costs something, or it could not be seen.
    Warn,
    /// gyre does not start, or requests are lost.
    Fail,
}

impl Level {
    /// What the program returns if this is the worst that it found.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warn => 1,
            Self::Fail => 2,
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which stays the same.
    pub check: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was seen.
    pub what: String,
    /// What that costs.
    pub cost: Option<String>,
    /// What mends it: a command, where there is one.
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

    /// What could not be seen is not well.
    fn unknown(check: &'static str, what: &str, unread: Unread) -> Self {
        Self::warn(check, format!("unknown: {what} ({})", unread.why()))
            .costs("whatever it hides")
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

/// The worst of all findings.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// Examines the machine that this runs on, for a tracker with this configuration that is known by these URLs. Takes
/// some seconds, at most ten.
pub fn examine(config: &Config, urls: &[PublicUrl]) -> Vec<Finding> {
    let machine = Machine::at("/");
    let mut findings = vec![check_options(config)];
    thread::scope(|scope| {
        let ask = || public::ask(config, urls, &machine);
        let answers = thread::Builder::new().name("gyre-doctor-asks".into()).spawn_scoped(scope, ask);
        let pause = || thread::sleep(Duration::from_millis(DOCTOR_SAMPLE_MS));
        let on_the_machine = examine_machine(&machine, config, pause);
        findings.push(system::io_uring(&system::try_ring(), &machine));
        findings.extend(on_the_machine);
        // Where there are no threads to be had it takes a little longer.
        findings.extend(answers.map_or_else(|_| ask(), |answers| answers.join().unwrap_or_default()));
    });
    findings
}

/// Whether `gyre serve` would take the options, and whether the lists of public trackers would.
fn check_options(config: &Config) -> Finding {
    const CHECK: &str = "options";
    if let Err(error) = config.check() {
        return Finding::fail(CHECK, error.to_string()).costs("gyre does not start").fix("other options");
    }
    let (interval, taken) = (config.announce_interval_secs, CHECKERS_INTERVAL_RANGE_S);
    if !taken.contains(&interval) {
        return Finding::warn(
            CHECK,
            format!("--announce-interval {interval} is not in {} to {}", taken.start(), taken.end()),
        )
        .costs("lists of public trackers leave the tracker out")
        .fix("--announce-interval 1800");
    }
    Finding::ok(CHECK, "they go together, and lists of public trackers take the interval")
}

/// What the machine's files tell. The pause lies between two readings of its counters.
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

/// Cores, for a human.
fn named(cores: &[usize]) -> String {
    format!("{} {}", if cores.len() == 1 { "core" } else { "cores" }, server::format_cores(cores))
}

/// So many of something, for a human.
fn count_of(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// The cores that the workers would run on, or how many without a place.
fn choose(cores: &Cores, allowed: &[usize]) -> Result<Vec<Option<usize>>, String> {
    server::choose_cores(cores, allowed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
