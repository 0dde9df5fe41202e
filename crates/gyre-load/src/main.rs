//! The program `gyre-load`, a load generator for BitTorrent trackers. It simulates clients, checks every reply, and
//! reports rates, latencies and errors. See `gyre-load --help`.
//!
//! ```text
//!  options ──► population (simulated peers) ──► udp, http (one thread per core, each with a ring) ──► the tracker
//!                                                 │  run: phases and schedule   in_flight: open UDP requests
//!                                                 ▼
//!                    check (valid reply?) ──► measure ──► report (table, JSON), page (HTML)
//! ```

mod check;
mod compare;
mod exchange;
mod flood;
mod floor;
mod http;
mod in_flight;
mod measure;
mod options;
mod page;
mod population;
mod process;
mod report;
mod run;
mod tcp_ring;
mod udp;
mod watch;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use gyre::config::Cores;
use gyre::sys;

use flood::Flood;
use measure::Tally;
use options::{Cli, Command, CommonOptions, FloodConfig, FloodKind, LoadOptions, Mix, Protocol, Rate};
use population::{Population, PopulationConfig};
use report::{Report, RunInfo};
use run::{Shared, ThreadConfig, ThreadResult};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for an invalid command line.
const EXIT_USAGE: u8 = 2;
/// Number of descriptors in addition to those of connections.
const SPARE_DESCRIPTORS: u64 = 64;
/// Number of loopback addresses for sources, each in a different /24 network. More sources share addresses.
const LOOPBACK_NETWORKS: usize = 250 * 250;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Floor(floor) if floor.silent && floor.protocol == Protocol::Http => {
            Err(usage("--silent is not available for HTTP"))
        }
        Command::Floor(floor) => {
            floor::run(&floor).map(|()| ExitCode::SUCCESS).map_err(|error| (1, error.to_string()))
        }
        Command::Udp(options) => load_udp(&options),
        Command::Flood(options) => flood(&options),
        Command::Http(options) => load_http(&options),
        Command::Compare(options) => {
            compare::table(&options.runs, options.by_rate).map_err(usage).and_then(|table| print(&table))
        }
        Command::Hashes(options) => print_hashes(&options),
        Command::Describe(describe) => {
            describe.run::<Cli>().map(|()| ExitCode::SUCCESS).map_err(|error| (1, error.to_string()))
        }
    };
    result.unwrap_or_else(|(code, error)| {
        let _ = writeln!(io::stderr(), "gyre-load: error: {error}");
        ExitCode::from(code)
    })
}

/// An exit code and a message.
type Failure = (u8, String);

fn usage(error: impl Into<String>) -> Failure {
    (EXIT_USAGE, error.into())
}

/// Prints text to standard output. A closed pipe is not an error.
fn print(text: &str) -> Result<ExitCode, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err((1, error.to_string())),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn print_hashes(options: &options::Hashes) -> Result<ExitCode, Failure> {
    let hashes = (0..options.torrents).map(|torrent| population::info_hash(options.seed, torrent));
    print(&hashes.map(|hash| format!("{hash:?}\n")).collect::<String>())
}

fn load_udp(options: &options::UdpOptions) -> Result<ExitCode, Failure> {
    let target = options.load.common.target().map_err(usage)?;
    let cores = cores(&options.load.common)?;
    let (count, flooding) = (options.sources, options.flood_flags.flooding());
    if count as usize > udp::SOCKETS_MAX && !has_many_addresses(target) {
        let most = udp::SOCKETS_MAX;
        return Err(usage(format!("--sources: more than {most} need an IPv4 loopback target")));
    }
    if let Some(flooding) = flooding {
        allow_sockets(&flooding, cores.len())?;
    }
    let body = |thread: usize, shared: &Shared| {
        let config = thread_config(&options.load, options.mix, target, thread, count as usize);
        let population =
            Population::new(population_config(&options.load, target, thread, cores.len(), count));
        let seed = options.load.common.seed;
        let flood = flooding.map(|flooding| open_flood(flooding, seed, target, thread)).transpose()?;
        udp::run(&config, options.pipeline, population, flood, shared)
    };
    run_load(&options.load.common, "udp", flooding.map(|flooding| flooding.kind), target, &cores, body)
}

fn flood(options: &options::FloodOptions) -> Result<ExitCode, Failure> {
    let common = &options.common;
    let target = common.target().map_err(usage)?;
    let cores = cores(common)?;
    let flooding = options.flooding();
    allow_sockets(&flooding, cores.len())?;
    let body = |thread: usize, shared: &Shared| {
        flood::run(open_flood(flooding, common.seed, target, thread)?, target, shared)
    };
    run_load(common, "udp", Some(flooding.kind), target, &cores, body)
}

/// Opens one thread's flood.
fn open_flood(flooding: FloodConfig, seed: u64, target: SocketAddr, thread: usize) -> io::Result<Flood> {
    let count = if flooding.kind == FloodKind::Mad { 1 } else { flooding.sources as usize };
    let first = LOOPBACK_NETWORKS / 2 + thread * count;
    let addresses = (first..first + count).map(|number| source(target, number));
    Flood::open(flooding, seed, thread, target, addresses)
}

/// Raises the limit of descriptors to what a flood needs.
fn allow_sockets(flooding: &FloodConfig, threads: usize) -> Result<(), Failure> {
    let descriptors = threads as u64 * u64::from(flooding.sources) + SPARE_DESCRIPTORS;
    if sys::raise_descriptor_limit(descriptors) < descriptors {
        return Err(usage(format!(
            "a flood from {} sources needs {descriptors} descriptors; raise the limit (ulimit -n)",
            flooding.sources
        )));
    }
    Ok(())
}

fn load_http(options: &options::HttpOptions) -> Result<ExitCode, Failure> {
    let target = options.load.common.target().map_err(usage)?;
    let cores = cores(&options.load.common)?;
    let descriptors = cores.len() as u64 * u64::from(options.connections) + SPARE_DESCRIPTORS;
    if sys::raise_descriptor_limit(descriptors) < descriptors {
        return Err(usage(format!(
            "--connections: needs {descriptors} descriptors; raise the limit (ulimit -n)"
        )));
    }
    if options.mix.connect > 0 {
        return Err(usage("--mix: HTTP has no connect requests"));
    }
    let connection_options = http::ConnectionOptions {
        close: options.close,
        connections: options.connections as usize,
        pipeline: if options.close { 1 } else { options.pipeline as usize },
    };
    let body = |thread: usize, shared: &Shared| {
        let count = if has_many_addresses(target) { options.sources.min(options.connections) } else { 0 };
        let config = thread_config(&options.load, options.mix, target, thread, count as usize);
        let population =
            Population::new(population_config(&options.load, target, thread, cores.len(), count.max(1)));
        http::run(&config, connection_options, population, shared)
    };
    run_load(&options.load.common, "http", None, target, &cores, body)
}

/// Returns the parameters of one thread.
fn thread_config(
    load: &LoadOptions,
    mix: Mix,
    target: SocketAddr,
    thread: usize,
    sources: usize,
) -> ThreadConfig {
    ThreadConfig {
        target,
        sources: (0..sources).map(|number| source(target, thread * sources + number)).collect(),
        rate: load.common.rate,
        mix,
        num_want: load.numwant,
        fill: load.fill,
        timeout: Duration::from_millis(load.timeout.into()),
        thread,
    }
}

/// Returns the parameters of one thread's population.
fn population_config(
    load: &LoadOptions,
    target: SocketAddr,
    thread: usize,
    threads: usize,
    sources: u32,
) -> PopulationConfig {
    let (threads, number) = (threads as u32, thread as u32);
    PopulationConfig {
        seed: load.common.seed,
        thread: number,
        torrents: load.torrents,
        peers: (load.peers / threads + u32::from(number < load.peers % threads)).max(1),
        sources,
        seeders: load.seeders,
        vanish: load.vanish,
        popularity: load.popularity,
        one_address: !has_many_addresses(target),
    }
}

fn has_many_addresses(target: SocketAddr) -> bool {
    target.is_ipv4() && target.ip().is_loopback()
}

/// Returns the address that a source is bound to: a different one for each source if the target is on loopback.
fn source(target: SocketAddr, number: usize) -> SocketAddr {
    let ip = match target.ip() {
        IpAddr::V4(_) if has_many_addresses(target) => {
            let [high, low] = [number % LOOPBACK_NETWORKS / 250, number % 250].map(|byte| byte as u8);
            IpAddr::V4(Ipv4Addr::new(127, high, low, 1))
        }
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

fn cores(common: &CommonOptions) -> Result<Vec<usize>, Failure> {
    let allowed =
        sys::allowed_cores().map_err(|error| (1, format!("cannot read the available cores: {error}")))?;
    match &common.cores {
        None => Ok(allowed.last().map(|core| vec![*core]).unwrap_or_default()),
        Some(Cores::List(cores)) => match cores.iter().find(|core| !allowed.contains(core)) {
            None => Ok(cores.clone()),
            Some(core) => Err(usage(format!("--cores: core {core} is not available"))),
        },
        Some(_) => Ok(allowed),
    }
}

/// Runs a thread on each core, watches them, and writes the report.
fn run_load(
    common: &CommonOptions,
    protocol: &'static str,
    flood: Option<FloodKind>,
    target: SocketAddr,
    cores: &[usize],
    body: impl Fn(usize, &Shared) -> io::Result<ThreadResult> + Sync,
) -> Result<ExitCode, Failure> {
    if let Some(pid) = common.pid {
        process::Usage::of(pid).map_err(usage)?;
    }
    let shared = Shared::new(common, cores.len());
    let run_one = |thread: usize, core: usize| {
        let outcome = sys::pin(core)
            .map_err(|error| io::Error::other(format!("core {core}: {error}")))
            .and_then(|()| body(thread, &shared));
        outcome.inspect_err(|error| shared.fail(error))
    };
    let (outcomes, watched) = thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .enumerate()
            .map(|(thread, core)| {
                let run_one = &run_one;
                thread::Builder::new()
                    .name(format!("load-{thread}@{core}"))
                    .spawn_scoped(scope, move || run_one(thread, *core))
                    .expect("a thread")
            })
            .collect();
        // The watching thread must not run on the server's core, where it would increase the latencies.
        let _ = sys::pin(cores[0]);
        let watched =
            watch::watch(&shared, common, || threads.iter().all(thread::ScopedJoinHandle::is_finished));
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        (outcomes, watched)
    });
    let mut tally = Tally::default();
    let (mut busy, mut cpu) = (Vec::new(), Vec::new());
    let secs = common.duration.as_secs_f64();
    for outcome in outcomes {
        let outcome =
            outcome.map_err(|error| (1, shared.failure().map_or(error.to_string(), str::to_owned)))?;
        tally.add(&outcome.tally);
        busy.push(outcome.busy.as_secs_f64() / secs);
        cpu.push(outcome.cpu.as_secs_f64() / secs);
    }
    let run = RunInfo {
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        protocol,
        target: target.to_string(),
        rate: match common.rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(rate),
        },
        duration_secs: secs,
        flood,
        busy,
        cpu,
        server: watched.server,
        timeline: watched.timeline,
    };
    write_report(common, &Report::new(run, &tally))
}

/// Writes the report to the requested places. Returns the exit code of the program.
fn write_report(common: &CommonOptions, report: &Report) -> Result<ExitCode, Failure> {
    if !common.quiet {
        let _ = io::stdout().write_all(report.table().as_bytes());
    }
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(report).expect("only numbers and text");
        std::fs::write(path, json + "\n").map_err(|error| (1, format!("{}: {error}", path.display())))?;
    }
    if let Some(path) = &common.report {
        std::fs::write(path, page::page(report))
            .map_err(|error| (1, format!("{}: {error}", path.display())))?;
    }
    match report.passed() {
        true => Ok(ExitCode::SUCCESS),
        false if report.replies == 0 => Err((1, format!("no reply from {}", report.target))),
        false if report.wrong == 0 => Err((1, format!("all replies from {} were errors", report.target))),
        false => Err((1, format!("{} replies were invalid", report.wrong))),
    }
}
