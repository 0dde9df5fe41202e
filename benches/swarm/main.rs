//! Owns the benchmark of the swarm table: time per announce, memory per peer, and the sweep. gyre's table is compared
//! with a simple baseline. Each run has a separate process, so that no run reuses the memory of another.
//!
//! `cargo bench --bench swarm` runs all scenarios, and `-- 5m 30` only those with this name and num_want. With
//! `cargo test` the scenarios have a few thousand peers, and the benchmark checks that both tables hold and return the
//! right number of peers.

mod crowd;
mod run;
mod table;
mod timer;

use std::collections::HashMap;
use std::env;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use gyre_core::limits::SWEEP_SLICES_PER_SECOND;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::crowd::SwarmSizes;
use crate::run::Extent;
use crate::table::{Baseline, Gyre};
use crate::timer::Timer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A scenario, in a small and a large version.
struct Scenario {
    name: &'static str,
    small: SwarmSizes,
    large: SwarmSizes,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "5m",
        small: SwarmSizes::Lifelike { swarms: 400 },
        large: SwarmSizes::Lifelike { swarms: 537_500 },
    },
    Scenario {
        name: "10m",
        small: SwarmSizes::Lifelike { swarms: 800 },
        large: SwarmSizes::Lifelike { swarms: 1_075_000 },
    },
    Scenario {
        name: "200k",
        small: SwarmSizes::Even { swarms: 2, peers: 2_000 },
        large: SwarmSizes::Even { swarms: 5, peers: 200_000 },
    },
];
const NUM_WANT: [u16; 2] = [30, 50];
const TABLES: [&str; 2] = ["gyre", "baseline"];

const SMALL: Extent = Extent { rounds: 1, announces: 1_000, calibration_ms: 1 };
const LARGE: Extent = Extent { rounds: 4, announces: 250_000, calibration_ms: 200 };

/// First argument of the process that does a run.
const RUN: &str = "--run";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, size, table, scenario, num_want] = &arguments[..]
        && first == RUN
    {
        do_run(size, table, scenario, num_want.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    let size = if arguments.iter().any(|argument| argument == "--bench") { "large" } else { "small" };
    crowd::check_sizes();
    say_memory_ns(if size == "large" { 128 << 20 } else { 1 << 20 });
    let wanted = |name: &str, of_its_kind: &[&str]| {
        let named = |argument: &String| of_its_kind.contains(&argument.as_str());
        !arguments.iter().any(named) || arguments.iter().any(|argument| argument == name)
    };
    let (names, numbers) =
        (SCENARIOS.map(|scenario| scenario.name), NUM_WANT.map(|number| number.to_string()));
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let mut results = Vec::new();
    for scenario in names.iter().filter(|name| wanted(name, &names)) {
        for num_want in numbers.iter().filter(|number| wanted(number, &numbers)) {
            let tables = TABLES.map(|table| have_run(size, table, scenario, num_want));
            results.push(Outcome { scenario, num_want, tables });
        }
    }
    print_announces(&results);
    print_memory(&results);
    print_sweeps(&results);
    if size == "large" {
        results.iter().for_each(print_targets);
    }
    let mut right = true;
    for Outcome { scenario, num_want, tables } in &results {
        let [gyre, baseline] = tables.each_ref().map(|figures| figures["peers_given"]);
        if gyre != baseline {
            say(&format!(
                "wrong: {scenario}, {num_want} wanted: gyre returned {gyre} peers, the baseline {baseline}"
            ));
            right = false;
        }
    }
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    eprintln!("{line}");
}

/// Pins this thread to the core on which everything is measured.
fn pin() {
    let allowed = sched_getaffinity(None).expect("the cores of this process");
    let last = (0..CpuSet::MAX_CPU).rfind(|core| allowed.is_set(*core)).expect("a core");
    let mut cores = CpuSet::new();
    cores.set(last);
    sched_setaffinity(None, &cores).expect("a core");
}

/// Prints the memory latency of this machine. Measures in a separate thread, which is pinned and whose memory is freed.
fn say_memory_ns(bytes: usize) {
    let measure = || {
        pin();
        timer::memory_ns(bytes, &Timer::calibrate(20))
    };
    let [waiting, independent] = thread::scope(|scope| scope.spawn(measure).join().expect("two figures"));
    say(&format!(
        "a read from {} MiB of memory: {waiting:.0} ns if it depends on the previous one, else {independent:.0} ns",
        bytes >> 20
    ));
}

/// The results of a run, by name.
type Figures = HashMap<String, f64>;

/// The results of both tables.
struct Outcome<'a> {
    scenario: &'a str,
    num_want: &'a str,
    tables: [Figures; 2],
}

/// Does a run and prints its results.
fn do_run(size: &str, table: &str, scenario: &str, num_want: u16) {
    pin();
    let scenario = SCENARIOS.iter().find(|other| other.name == scenario).expect("a scenario");
    let (sizes, extent) = match size {
        "large" => (scenario.large, LARGE),
        _ => (scenario.small, SMALL),
    };
    let figures = match table {
        "gyre" => run::run::<Gyre>(sizes, num_want, extent),
        _ => run::run::<Baseline>(sizes, num_want, extent),
    };
    let words: Vec<String> = figures.iter().map(|(name, figure)| format!("{name}={figure}")).collect();
    writeln!(std::io::stdout(), "{}", words.join(" ")).expect("an open pipe");
}

/// Starts a process for a run. Returns its results.
fn have_run(size: &str, table: &str, scenario: &str, num_want: &str) -> Figures {
    let output = Command::new(env::current_exe().expect("this program"))
        .args([RUN, size, table, scenario, num_want])
        .stderr(Stdio::inherit())
        .output()
        .expect("another process");
    assert!(output.status.success(), "{table}, {scenario}, {num_want} wanted: {}", output.status);
    let words = String::from_utf8(output.stdout).expect("words");
    let figure = |word: &str| {
        let (name, figure) = word.split_once('=')?;
        Some((name.to_owned(), figure.parse().ok()?))
    };
    words.split_whitespace().map(|word| figure(word).expect("a figure")).collect()
}

fn print_announces(results: &[Outcome<'_>]) {
    let timer_ns = results.first().map_or(0.0, |result| result.tables[0]["timer_ns"]);
    say(&format!(
        "\nns per announce, less {timer_ns:.1} for reading the timer, except in `mean`, which times many"
    ));
    say("announces together; `full`: median of the announces that got as many peers as they wanted");
    say(
        "scenario want table    mode       median     full      p99   p99.99       max     mean  peers  checksum",
    );
    for Outcome { scenario, num_want, tables } in results {
        let [gyre, baseline] = tables;
        for (table, figures, mode, prefix) in [
            ("gyre", gyre, "singly", "one"),
            ("gyre", gyre, "in turns", "turn"),
            ("baseline", baseline, "singly", "one"),
        ] {
            let figure = |name: &str| figures[&format!("{prefix}_{name}")];
            say(&format!(
                "{scenario:8} {num_want:>4} {table:8} {mode:8} {:8.0} {:8.0} {:8.0} {:8.0} {:9.0} {:8.1} \
                 {:6.2}  {:08x}",
                figure("median"),
                figure("full_median"),
                figure("p99"),
                figure("p9999"),
                figure("max"),
                figure("mean"),
                figures["peers_per_reply"],
                figures["checksum"] as u64,
            ));
        }
    }
}

fn print_memory(results: &[Outcome<'_>]) {
    say(
        "\nbytes per peer: resident growth after filling and after the announces; the table's own accounting",
    );
    say("scenario want table       peers   swarms  filled     end  allocated    used");
    for Outcome { scenario, num_want, tables } in results {
        for (table, figures) in TABLES.iter().zip(tables) {
            say(&format!(
                "{scenario:8} {num_want:>4} {table:8} {:8} {:8} {:7.2} {:7.2} {:10.2} {:7.2}",
                figures["peers"],
                figures["swarms"],
                figures["bytes"],
                figures["bytes_after"],
                figures["bytes_allocated"],
                figures["bytes_used"],
            ));
        }
    }
}

fn print_sweeps(results: &[Outcome<'_>]) {
    say(&format!(
        "\nthe sweep, us per slice: between announces, in a lap without expired peers, in a lap with a tenth expired\n\
         `cycle`: time of the lap at {SWEEP_SLICES_PER_SECOND} slices a second; `core`: CPU time of the lap divided \
         by that (the baseline does a lap in one slice, and none between announces)"
    ));
    say(
        "scenario want table    lap          median    p99.99       max   slices  cycle s    CPU ms  core %  expired",
    );
    for Outcome { scenario, num_want, tables } in results {
        for (table, figures) in TABLES.iter().zip(tables) {
            let figure = |name: &str| figures.get(name).copied();
            let us = |name: &str| cell(figure(name).map(|ns| ns / 1e3), 9, 1);
            let head = format!("{scenario:8} {num_want:>4} {table:8}");
            if *table == "gyre" {
                let [median, p9999, max] = ["slice_median", "slice_p9999", "slice_max"].map(us);
                say(&format!("{head} between   {median} {p9999} {max}"));
            }
            for (lap, name) in [("lap", "nothing"), ("old_lap", "a tenth")] {
                let part = |part: &str| format!("{lap}_{part}");
                let [median, p9999, max] = ["median", "p9999", "max"].map(|name| us(&part(name)));
                let slices = figure(&part("slices"));
                let cycle = slices.filter(|_| *table == "gyre").map(cycle_secs);
                let cpu_ns = figure(&part("cpu_ns"));
                let core = cycle.zip(cpu_ns).map(|(cycle, cpu_ns)| cpu_ns / 1e7 / cycle);
                let [slices, cycle] = [cell(slices, 8, 0), cell(cycle, 8, 2)];
                let [cpu, core] = [cell(cpu_ns.map(|ns| ns / 1e6), 9, 2), cell(core, 7, 2)];
                let expired = cell(figure(&part("expired")), 8, 0);
                say(&format!(
                    "{head} {name:9} {median} {p9999} {max} {slices} {cycle} {cpu} {core} {expired}"
                ));
            }
        }
    }
}

/// Formats a figure, or a dash if there is none.
fn cell(figure: Option<f64>, width: usize, decimals: usize) -> String {
    match figure {
        Some(figure) => format!("{figure:width$.decimals$}"),
        None => format!("{:>width$}", "-"),
    }
}

/// Returns the duration of this many slices in seconds.
fn cycle_secs(slices: f64) -> f64 {
    slices / SWEEP_SLICES_PER_SECOND as f64
}

/// Prints the targets and the results.
fn print_targets(result: &Outcome<'_>) {
    let [gyre, baseline] = &result.tables;
    say(&format!("\n{}, {} wanted:", result.scenario, result.num_want));
    let line = |aim: &str, figures: String| say(&format!("    {aim:45} {figures}"));
    line("at most 20 bytes resident per peer", format!("{:.2}", gyre["bytes"]));
    line(
        "at most 150 ns per announce with a full reply",
        format!(
            "median {:.0} singly, {:.0} in turns ({:.0} of them for the lookahead)",
            gyre["one_full_median"], gyre["turn_full_median"], gyre["ahead_median"]
        ),
    );
    line(
        "at most 50 us per announce at p99.99",
        format!("{:.1} singly, {:.1} in turns", gyre["one_p9999"] / 1e3, gyre["turn_p9999"] / 1e3),
    );
    let times = |name: &str, baseline_name: &str| baseline[baseline_name] / gyre[name];
    line(
        "at least 3 times the baseline's speed",
        format!(
            "medians {:.2} singly, {:.2} in turns; means {:.2}, {:.2}; p99 {:.2}, {:.2}",
            times("one_median", "one_median"),
            times("turn_median", "one_median"),
            times("one_mean", "one_mean"),
            times("turn_mean", "one_mean"),
            times("one_p99", "one_p99"),
            times("turn_p99", "one_p99"),
        ),
    );
    let cycles = ["lap", "old_lap"].map(|lap| {
        let (slices, cpu_ns) = (gyre[&format!("{lap}_slices")], gyre[&format!("{lap}_cpu_ns")]);
        (cycle_secs(slices), cpu_ns / 1e7 / cycle_secs(slices))
    });
    line(
        "a cycle of the sweep under 60 s at 2 % of a core",
        format!(
            "{:.2} s at {:.2} %; with a tenth expired {:.2} s at {:.2} %",
            cycles[0].0, cycles[0].1, cycles[1].0, cycles[1].1
        ),
    );
}
