//! Owns runs: one seed after the other, on all cores, what they came to, and what a failure tells.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fastrand::Rng;

use crate::log::Log;
use crate::plan::Plan;
use crate::verdict::{Scripted, ScriptedBy};
use crate::world::World;

/// Seeds that are run unless the environment says otherwise: some seconds without optimisation.
const USUAL_SEEDS: u64 = 12;
/// Number of seeds from which on every kind of event must have happened.
const MANY_SEEDS: u64 = 1_000;

/// Maximum number of seeds in which a planted bug must be found.
#[cfg(feature = "canary")]
const CANARY_SEEDS: u64 = 200;

/// What is to have happened in many worlds: without it the simulation has not looked.
const EVENTS: [&str; 58] = [
    "announces",
    "banned",
    "connects",
    "http-requests",
    "scrapes",
    "503",
    "abandoned",
    "action",
    "altered",
    "announce-port",
    "answered after a wait",
    "answered announces",
    "answered announces by HTTP",
    "answered by HTTP after a wait",
    "answered connects",
    "answered scrapes",
    "answered scrapes by HTTP",
    "bursts",
    "changes of lists",
    "connection-id",
    "damaged files",
    "denied",
    "evicted",
    "expired",
    "forwarded announces",
    "gather-full",
    "gather-late",
    "gathered scrapes",
    "leaps of the clock",
    "lost",
    "lost in a full socket",
    "magic",
    "mesh-full",
    "no worker for a connection",
    "options",
    "peers handed out",
    "peers restored",
    "refusals",
    "refused by a full table",
    "rejected",
    "reordered",
    "repeated",
    "requests by HTTP",
    "restarts after a kill",
    "restarts after a stop",
    "restarts by a take-over",
    "short",
    "snapshots begun",
    "snapshots made",
    "source-port",
    "stalls",
    "steps of the time of day",
    "swept as denied",
    "table-full",
    "truncated",
    "wait-late",
    "waited in vain",
    "waited too long",
];

/// The seeds to run.
pub(crate) struct Seeds {
    first: u64,
    count: u64,
}

impl Seeds {
    /// `GYRE_SIM_SEED` names one; `GYRE_SIM_SEEDS` says how many, from `GYRE_SIM_FROM` or 0 on.
    pub(crate) fn asked() -> Self {
        let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        match number("GYRE_SIM_SEED") {
            Some(first) => Self { first, count: 1 },
            None => Self {
                first: number("GYRE_SIM_FROM").unwrap_or(0),
                count: number("GYRE_SIM_SEEDS").unwrap_or(USUAL_SEEDS),
            },
        }
    }

    pub(crate) fn are_many(&self) -> bool {
        self.count >= MANY_SEEDS
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    seeds: u64,
    pub(crate) hash: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.hash ^= other.hash;
        other.counts.iter().for_each(|(kind, count)| *self.counts.entry(kind).or_default() += count);
    }

    pub(crate) fn print(&self) {
        eprintln!("{:>12}  seeds, hash {:016x}", self.seeds, self.hash);
        self.counts.iter().for_each(|(kind, count)| eprintln!("{count:>12}  {kind}"));
    }

    /// Everything has happened that can.
    pub(crate) fn assert_complete(&self) {
        let missing: Vec<_> = EVENTS.iter().filter(|kind| !self.counts.contains_key(**kind)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

/// Runs a world to its end.
fn run_world<M: ScriptedBy>(plan: Plan, rng: Rng, log: &Log) {
    let mut world = World::<M>::new(plan, rng, log);
    for _ in 0..world.plan.steps {
        log.add("steps", 1);
        world.step();
    }
    world.end();
}

/// Runs a seed.
///
/// # Errors
///
/// What has failed, after which events, and how it is run again.
pub(crate) fn run_one(seed: u64) -> Result<Report, String> {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng);
    let log = Log::default();
    let ran = catch_unwind(AssertUnwindSafe(|| match plan.with_middleware {
        true => run_world::<Scripted>(plan.clone(), rng, &log),
        false => run_world::<()>(plan.clone(), rng, &log),
    }));
    let Err(panic) = ran else {
        return Ok(Report { seeds: 1, hash: log.hash(), counts: log.counts() });
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let why = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    Err(format!(
        "seed {seed} fails: {why}\nthe last events:\n{}of {plan:#?}\n\
         again: GYRE_SIM_SEED={seed} cargo test --test simulation many_worlds",
        log.last()
    ))
}

/// Runs all of the seeds, on all cores.
///
/// # Errors
///
/// What [`run_one`] says of the first one that fails.
pub(crate) fn run_all(seeds: &Seeds) -> Result<Report, String> {
    let (next, sum) = (AtomicU64::new(seeds.first), Mutex::new(Ok(Report::default())));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.first + seeds.count || sum.lock().expect("no panic").is_err() {
                return;
            }
            let ran = run_one(seed);
            let mut sum = sum.lock().expect("no panic");
            match (&mut *sum, ran) {
                (Ok(sum), Ok(report)) => sum.add(&report),
                (Ok(_), Err(failure)) => *sum = Err(failure),
                (Err(_), _) => {}
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    sum.into_inner().expect("no panic")
}

/// How many seeds it takes to find a bug that is planted, and what that says.
#[cfg(feature = "canary")]
pub(crate) fn find(canary: gyre_core::canary::Canary) -> Option<(u64, String)> {
    gyre_core::canary::wake(Some(canary));
    let found = (0..CANARY_SEEDS).find_map(|seed| Some((seed + 1, run_one(seed).err()?)));
    gyre_core::canary::wake(None);
    found
}
