//! Owns the counts of instructions of the hot functions. They are the same on every machine, but for what libraries
//! choose by the processor's features (the search for a byte, the reading of HTTP heads).
//!
//! `cargo bench --bench instructions` counts all cases, `-- table` those with `table` in their names; valgrind must be
//! installed. Under `cargo test` each runs a hundred times or so.
//!
//! Each case is run twice under callgrind, once more often, and the difference counts: so what is set up and the start
//! of the program cancel out. [`EXPECTED`] says what the counts were when it was last brought up to date; more than
//! [`TOLERANCE`] above that is a failure.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]

#[path = "../cases/mod.rs"]
mod cases;
mod table;

use std::fmt::Debug;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::thread;

use cases::{Amount, Meter};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is counted, how many instructions it took when this was written, with Rust 1.95.
const EXPECTED: [(&str, f64); 42] = [
    ("udp parse/connect", 21.0),
    ("udp parse/announce", 81.0),
    ("udp parse/announce with its options", 177.0),
    ("udp parse/scrape of 74", 37.0),
    ("udp encode/announce, 30 peers", 50.0),
    ("udp encode/scrape of 74", 808.0),
    ("connection id/issue, v4", 187.0),
    ("connection id/verify, v4, of this window", 193.0),
    ("connection id/verify, v6, of this window", 274.0),
    ("http head/libtorrent, 4 fields", 2255.0),
    ("http head/browser, 18 fields", 5794.0),
    ("http query/announce, libtorrent's", 4291.0),
    ("http query/announce, every key, all escaped", 5497.0),
    ("http query/scrape of 1", 1022.0),
    ("http query/scrape of 74", 60415.0),
    ("http answer/announce, compact, 50 peers, with its head", 1108.0),
    ("http answer/announce, listed with ids, 30 peers", 44650.0),
    ("http answer/scrape of 74", 57394.0),
    ("mesh/a look at an empty inbox", 80.0),
    ("mesh/a turn of 128 hops", 318.0),
    ("mesh/refused by a full queue", 215.0),
    ("table/refresh, swarm of 2", 643.0),
    ("table/refresh, swarm of 1,000", 1520.0),
    ("table/refresh ahead, swarm of 1,000", 1685.0),
    ("table/new, new swarm", 1112.0),
    ("table/new, swarm of 1,000", 2426.0),
    ("table/stop, swarm of 1,000", 1093.0),
    ("table/complete, swarm of 1,000", 1742.0),
    ("engine/no magic", 68.0),
    ("engine/unknown connection id", 302.0),
    ("engine/connect", 273.0),
    ("engine/announce, 30 peers of 1,000", 2240.0),
    ("engine/scrape of 1", 635.0),
    ("engine/scrape of 74", 13649.0),
    ("engine limited/connect", 442.0),
    ("engine limited/announce, banned", 176.0),
    ("engine limited/announce, 30 peers of 1,000", 2498.0),
    ("engine listed/announce, one list of 10,000", 2507.0),
    ("engine mediated/announce, one plain function", 2522.0),
    ("engine mediated/announce, one async function", 4347.0),
    ("engine http/announce, 50 peers of 1,000", 11537.0),
    ("engine http/scrape of 74", 137494.0),
];
/// So much more than expected is too much; compilers differ.
const TOLERANCE: f64 = 1.25;
/// How often each case is run in the shorter run, a multiple of all that a case does at once ...
const FEW: usize = 2_048;
/// ... and in the longer one.
const MANY: usize = 12_288;

/// The first argument of the program that callgrind watches.
const RUN: &str = "--run";

/// Runs one case so often, and no other.
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

/// Does what a case does so often. This is what callgrind watches.
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

/// Instructions of the whole program when a case is run so often.
fn count(name: &str, times: usize) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = valgrind.args([RUN, name, &times.to_string()]).output();
    let output = output.map_err(|error| format!("valgrind can't be run ({error}); is it installed?"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    collected.filter(|_| output.status.success()).ok_or_else(|| format!("no count of {name}: {said}"))
}

/// Counts one case and says what came out. False: it takes too many instructions.
fn compare(name: &str, expected: f64) -> Result<bool, String> {
    let (fewer, more) = thread::scope(|scope| {
        let fewer = scope.spawn(|| count(name, FEW));
        let more = count(name, MANY);
        (fewer.join().expect("a count"), more)
    });
    let each = (more? - fewer?) / (MANY - FEW) as f64;
    println!("{name:<56} {each:>9.0} {expected:>9.0} {:>6.2}", each / expected);
    Ok(each <= expected * TOLERANCE)
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
        EXPECTED.iter().for_each(|(name, _)| repeat(name, 128)); // `cargo test`: that it runs
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    println!("{:<56} {:>9} {:>9} {:>6}", "instructions", "now", "expected", "ratio");
    let mut regressed = false;
    for (name, expected) in EXPECTED.into_iter().filter(|(name, _)| is_wanted(name)) {
        match compare(name, expected) {
            Ok(within) => regressed |= !within,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if regressed {
        eprintln!(
            "more than {TOLERANCE} times what is expected: a regression, or a reason to note the new counts"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
