//! A simulation of the tracker: several engines with their tables and their mesh, on a simulated clock and network that
//! the seed determines. Each step is compared with a naive model of a tracker.
//!
//! `scripts/simulate.sh` runs thousands of seeds. A failure prints the command that runs its seed alone.

mod bytes;
mod check;
mod client;
mod log;
mod middleware;
mod network;
mod oracle;
mod plan;
mod rules;
mod run;
mod saving;
mod tasks;
mod waits;
mod watch;
mod worker;
mod world;

use run::{Seeds, run_all, run_one};

/// Seeds that once found a bug, each with a description of it.
const REGRESSIONS: [(u64, &str); 2] = [
    (25, "the lag of the sweep was the longer of the present lap and the last one, not the sum of both"),
    (
        520,
        "a snapshot that paused inside a swarm missed peers when a bucket was split or a leecher became a seeder",
    ),
];

#[test]
fn fixed_bugs_stay_fixed() {
    for (seed, what) in REGRESSIONS {
        if let Err(failure) = run_one(seed) {
            panic!("{what}\n{failure}");
        }
    }
}

#[test]
fn all_seeds_pass() {
    let seeds = Seeds::from_env();
    let report = run_all(&seeds).unwrap_or_else(|failure| panic!("{failure}"));
    report.print();
    if seeds.is_full_run() {
        report.assert_complete();
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in 0..3 {
        let [one, other] = [(); 2].map(|()| run_one(seed).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(one, other);
    }
    assert_ne!(run_one(1).expect("the seed passes").hash, run_one(2).expect("the seed passes").hash);
}

/// Shows that the simulation finds bugs: each canary plants one.
#[cfg(feature = "canary")]
#[test]
fn each_planted_bug_is_found() {
    for canary in gyre_core::canary::Canary::ALL {
        let (seeds, failure) = run::find_canary(canary).unwrap_or_else(|| panic!("{canary:?} is not found"));
        eprintln!("{canary:?} is found in {seeds} seeds: {}", failure.lines().next().unwrap_or_default());
    }
}
