//! Owns runs: it runs seeds on all cores, adds up their reports and describes failures.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fastrand::Rng;

use crate::log::Log;
use crate::middleware::{ScriptedMiddleware, TestMiddleware};
use crate::plan::Plan;
use crate::world::World;

/// Default number of seeds. They take a few seconds without optimisation.
const DEFAULT_SEEDS: u64 = 12;
/// Number of seeds from which on every kind of event must occur.
const FULL_RUN_SEEDS: u64 = 1_000;

/// Number of seeds within which a planted bug must be found.
#[cfg(feature = "canary")]
const CANARY_SEEDS: u64 = 200;

/// Kinds of events that must occur in a full run. Otherwise the simulation does not test what it should.
const EVENTS: [&str; 58] = [
    "announces",
    "banned",
    "connects",
    "http-requests",
    "scrapes",
    "HTTP responses 503",
    "abandoned waits",
    "action",
    "altered datagrams",
    "announce-port",
    "UDP replies after a wait",
    "UDP announce replies",
    "HTTP announce responses",
    "HTTP responses after a wait",
    "UDP connect replies",
    "UDP scrape replies",
    "HTTP scrape responses",
    "bursts",
    "access list changes",
    "connection-id",
    "damaged snapshot files",
    "denied announces",
    "evicted peers",
    "expired peers",
    "forwarded announces",
    "gather-full",
    "gather-late",
    "gathered scrape replies",
    "clock jumps",
    "lost datagrams",
    "datagrams dropped by a full socket",
    "magic",
    "mesh-full",
    "HTTP requests to a stalled worker",
    "options",
    "peers returned",
    "peers restored",
    "UDP error replies",
    "announces refused by a full table",
    "datagrams without a reply",
    "reordered datagrams",
    "repeated datagrams",
    "HTTP requests",
    "restarts after a kill",
    "restarts after a stop",
    "restarts by a takeover",
    "short",
    "snapshots started",
    "snapshots finished",
    "source-port",
    "worker stalls",
    "wall clock steps",
    "denied peers removed",
    "table-full",
    "truncated datagrams",
    "wait-late",
    "waits that found a busy tracker",
    "middleware timeouts",
];

/// A range of seeds.
pub(crate) struct Seeds {
    first: u64,
    count: u64,
}

impl Seeds {
    /// Reads the seeds from the environment: `GYRE_SIM_SEED` for one seed, or `GYRE_SIM_SEEDS` for the number of seeds
    /// and `GYRE_SIM_FROM` for the first one (default 0).
    pub(crate) fn from_env() -> Self {
        let number =
            |name| std::env::var(name).ok().map(|text| text.parse().expect("the variable is not a number"));
        match number("GYRE_SIM_SEED") {
            Some(first) => Self { first, count: 1 },
            None => Self {
                first: number("GYRE_SIM_FROM").unwrap_or(0),
                count: number("GYRE_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS),
            },
        }
    }

    pub(crate) fn is_full_run(&self) -> bool {
        self.count >= FULL_RUN_SEEDS
    }
}

/// Result of one or more runs.
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

    /// Checks that every kind of event has occurred.
    pub(crate) fn assert_complete(&self) {
        let missing: Vec<_> = EVENTS.iter().filter(|kind| !self.counts.contains_key(**kind)).collect();
        assert!(missing.is_empty(), "kinds of events that never occurred: {missing:?}");
    }
}

/// Runs a simulation to its end.
fn run_world<M: TestMiddleware>(plan: Plan, rng: Rng, log: &Log) {
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
/// The failure, the last events, and the command that runs the seed again.
pub(crate) fn run_one(seed: u64) -> Result<Report, String> {
    let mut rng = Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng);
    let log = Log::default();
    let ran = catch_unwind(AssertUnwindSafe(|| match plan.with_middleware {
        true => run_world::<ScriptedMiddleware>(plan.clone(), rng, &log),
        false => run_world::<()>(plan.clone(), rng, &log),
    }));
    let Err(panic) = ran else {
        return Ok(Report { seeds: 1, hash: log.hash(), counts: log.counts() });
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let why = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
    Err(format!(
        "seed {seed} failed: {why}\nlast events:\n{}plan: {plan:#?}\n\
         run it again: GYRE_SIM_SEED={seed} cargo test -p gyre-core --test simulation all_seeds_pass",
        log.last()
    ))
}

/// Runs all seeds, on all cores.
///
/// # Errors
///
/// The error of [`run_one`] for the first seed that fails.
pub(crate) fn run_all(seeds: &Seeds) -> Result<Report, String> {
    let (next, sum) = (AtomicU64::new(seeds.first), Mutex::new(Ok(Report::default())));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.first + seeds.count || sum.lock().expect("no thread has panicked").is_err() {
                return;
            }
            let ran = run_one(seed);
            let mut sum = sum.lock().expect("no thread has panicked");
            match (&mut *sum, ran) {
                (Ok(sum), Ok(report)) => sum.add(&report),
                (Ok(_), Err(failure)) => *sum = Err(failure),
                (Err(_), _) => {}
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    sum.into_inner().expect("no thread has panicked")
}

/// Returns the number of seeds until a planted bug is found, and the failure.
#[cfg(feature = "canary")]
pub(crate) fn find_canary(canary: gyre_core::canary::Canary) -> Option<(u64, String)> {
    gyre_core::canary::wake(Some(canary));
    let found = (0..CANARY_SEEDS).find_map(|seed| Some((seed + 1, run_one(seed).err()?)));
    gyre_core::canary::wake(None);
    found
}
