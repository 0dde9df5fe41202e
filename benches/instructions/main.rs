//! Owns the instruction counts of the hot functions. They are the same on all machines, except where libraries choose
//! code by the processor's features (searching for a byte, parsing HTTP heads).
//!
//! `cargo bench --bench instructions` counts all cases, and `-- table` those with `table` in their name. Valgrind must
//! be installed. With `cargo test` each case runs about a hundred times.
//!
//! Each case is run under callgrind with two different numbers of repetitions. The result is the difference, so that
//! setup and program start cancel out. [`EXPECTED`] has the counts of the last update. A count above [`TOLERANCE`]
//! times that is a failure, since other compilers give other counts. With the same compiler a change is held to
//! [`STRICT`]: `-- --strict` compares with the expected counts, `-- --base=PROGRAM` with this bench of another
//! revision, as scripts/instructions.sh builds it.

#![allow(clippy::print_stdout, reason = "the bench prints a table")]

#[path = "../cases/mod.rs"]
mod cases;
mod table;

use std::fmt::Debug;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use cases::{Amount, Meter};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The cases and their instruction counts with Rust 1.95.
const EXPECTED: [(&str, f64); 42] = [
    ("udp parse/connect", 21.0),
    ("udp parse/announce", 80.0),
    ("udp parse/announce with its options", 177.0),
    ("udp parse/scrape of 74", 37.0),
    ("udp encode/announce, 30 peers", 50.0),
    ("udp encode/scrape of 74", 807.0),
    ("connection id/issue, v4", 186.0),
    ("connection id/verify, v4, of this window", 193.0),
    ("connection id/verify, v6, of this window", 274.0),
    ("http head/libtorrent, 4 fields", 2255.0),
    ("http head/browser, 18 fields", 5794.0),
    ("http query/announce, libtorrent's", 4291.0),
    ("http query/announce, every key, all escaped", 5497.0),
    ("http query/scrape of 1", 1022.0),
    ("http query/scrape of 74", 60415.0),
    ("http answer/announce, compact, 50 peers, with its head", 1132.0),
    ("http answer/announce, listed with ids, 30 peers", 44655.0),
    ("http answer/scrape of 74", 57401.0),
    ("mesh/a look at an empty inbox", 80.0),
    ("mesh/a turn of 128 hops", 338.0),
    ("mesh/refused by a full queue", 217.0),
    ("table/refresh, swarm of 2", 638.0),
    ("table/refresh, swarm of 1,000", 1224.0),
    ("table/refresh ahead, swarm of 1,000", 1357.0),
    ("table/new, new swarm", 1095.0),
    ("table/new, swarm of 1,000", 2043.0),
    ("table/stop, swarm of 1,000", 931.0),
    ("table/complete, swarm of 1,000", 1477.0),
    ("engine/no magic", 69.0),
    ("engine/unknown connection id", 304.0),
    ("engine/connect", 274.0),
    ("engine/announce, 30 peers of 1,000", 1883.0),
    ("engine/scrape of 1", 632.0),
    ("engine/scrape of 74", 13089.0),
    ("engine limited/connect", 444.0),
    ("engine limited/announce, banned", 163.0),
    ("engine limited/announce, 30 peers of 1,000", 2148.0),
    ("engine listed/announce, one list of 10,000", 2158.0),
    ("engine mediated/announce, one plain function", 2183.0),
    ("engine mediated/announce, one async function", 4152.0),
    ("engine http/announce, 50 peers of 1,000", 11164.0),
    ("engine http/scrape of 74", 136927.0),
];
/// Maximum ratio to the expected count. Compilers differ.
const TOLERANCE: f64 = 1.25;
/// Maximum ratio where both were counted with one compiler.
const STRICT: f64 = 1.01;
/// Repetitions in the shorter run, a multiple of the operations in one run of each case.
const FEW: usize = 2_048;
/// Repetitions in the longer run.
const MANY: usize = 12_288;

/// First argument of the program under callgrind.
const RUN: &str = "--run";

/// Runs one case `times` times.
struct Repeat<'a> {
    name: &'a str,
    times: usize,
    found: bool,
}

impl Meter for Repeat<'_> {
    fn measure<T: PartialEq + Debug>(
        &mut self,
        name: &str,
        amount: Amount,
        expected: T,
        mut run: impl FnMut() -> T,
    ) {
        if name != self.name {
            return;
        }
        let given = run();
        assert!(given == expected, "{name} gave {given:?} instead of {expected:?}");
        let each = if let Amount::Each(each) = amount { each } else { 1 };
        assert!(self.times.is_multiple_of(each), "{name} does {each} at once");
        for _ in 0..self.times / each {
            black_box(&run());
        }
        self.found = true;
    }
}

/// Runs a case `times` times. This is the part under callgrind.
fn repeat(name: &str, times: usize) {
    let mut repeat = Repeat { name, times, found: false };
    match name.split_once('/').expect("a group and a case").0 {
        "udp parse" => cases::udp::parse(&mut repeat),
        "udp encode" => cases::udp::encode(&mut repeat),
        "connection id" => cases::connection_id::ids(&mut repeat),
        "http head" => cases::http::heads(&mut repeat),
        "http query" => cases::http::queries(&mut repeat),
        "http answer" => cases::http::answers(&mut repeat),
        "mesh" => cases::mesh::in_one_thread(&mut repeat),
        "engine" => cases::engine::datagrams(&mut repeat),
        "engine limited" => cases::engine::limited(&mut repeat),
        "engine listed" => cases::engine::listed(&mut repeat),
        "engine mediated" => cases::engine::mediated(&mut repeat),
        "engine http" => cases::engine::requests(&mut repeat),
        "table" => repeat.found = table::repeat(name, times),
        _ => {}
    }
    assert!(repeat.found, "there is no case {name}");
}

/// Returns the instructions of a whole run of a program in which a case is run `times` times.
fn count(program: &Path, name: &str, times: usize) -> Result<f64, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = valgrind.args([RUN, name, &times.to_string()]).output();
    let output = output.map_err(|error| format!("can't run valgrind ({error}): is it installed?"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    collected.filter(|_| output.status.success()).ok_or_else(|| format!("no count of {name}: {said}"))
}

/// Returns the instructions of one run of a case in a program.
fn count_each(program: &Path, name: &str) -> Result<f64, String> {
    let (fewer, more) = thread::scope(|scope| {
        let fewer = scope.spawn(|| count(program, name, FEW));
        let more = count(program, name, MANY);
        (fewer.join().expect("a count"), more)
    });
    Ok((more? - fewer?) / (MANY - FEW) as f64)
}

/// The options of `cargo bench --bench instructions -- ...`.
struct Options {
    /// This bench as it was built at another revision.
    base: Option<PathBuf>,
    tolerance: f64,
    /// Parts of the names of the cases; none: all cases.
    cases: Vec<String>,
}

impl Options {
    fn read(arguments: Vec<String>) -> Self {
        let (options, cases): (Vec<_>, _) = arguments.into_iter().partition(|word| word.starts_with("--"));
        let base = options.iter().find_map(|option| Some(PathBuf::from(option.strip_prefix("--base=")?)));
        let is_strict = base.is_some() || options.iter().any(|option| option == "--strict");
        Self { base, tolerance: if is_strict { STRICT } else { TOLERANCE }, cases }
    }

    fn want(&self, name: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|part| name.contains(part.as_str()))
    }

    /// Counts one case and prints the result. False: it takes too many instructions.
    fn compare(&self, name: &str, noted: f64) -> Result<bool, String> {
        let now = count_each(&std::env::current_exe().map_err(|error| error.to_string())?, name)?;
        let (before, slack) = match &self.base {
            None => (noted, 0.5), // it was rounded
            Some(base) => match count_each(base, name) {
                Ok(before) => (before, 0.0),
                Err(error) if error.contains("there is no case") => {
                    println!("{name:<56} {:>11} {now:>11.1} {:>7}", "-", "new");
                    return Ok(true);
                }
                Err(error) => return Err(error),
            },
        };
        let within = now <= before * self.tolerance + slack;
        let verdict = if within { "" } else { "  too many" };
        println!("{name:<56} {before:>11.1} {now:>11.1} {:>7.3}{verdict}", now / before);
        Ok(within)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, name, times] = &arguments[..]
        && option == RUN
    {
        repeat(name, times.parse().expect("a number of times"));
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        EXPECTED.iter().for_each(|(name, _)| repeat(name, 128)); // `cargo test`
        return ExitCode::SUCCESS;
    }
    let options = Options::read(arguments);
    let before = if options.base.is_some() { "before" } else { "noted" };
    println!("{:<56} {before:>11} {:>11} {:>7}", "instructions", "now", "ratio");
    let mut regressed = false;
    for (name, noted) in EXPECTED.into_iter().filter(|(name, _)| options.want(name)) {
        match options.compare(name, noted) {
            Ok(within) => regressed |= !within,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if regressed {
        eprintln!(
            "more than {} times the count before: a regression, or a reason to note the new counts",
            options.tolerance
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
