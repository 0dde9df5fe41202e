//! The program `gyre-load`: loads a tracker as its clients do, checks every reply, and says how fast and how well it
//! answered. See `gyre-load --help`.
//!
//! ```text
//!  options ──► population (who asks what) ──► udp, http (one thread a core, each with a ring) ──► the tracker
//!                                                │  run: phases and schedule   flight: what is on its way
//!                                                ▼
//!               check (is the reply right?) ──► measure ──► report (table, JSON), page (HTML)
//! ```

mod check;
mod compare;
mod exchange;
mod flight;
mod flood;
mod floor;
mod http;
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
use options::{Cli, Command, Course, FloodKind, Flooding, Load, Mix, Protocol, Rate};
use population::{Make, Population};
use report::{Report, Run};
use run::{Outcome, Part, Shared};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell takes for a wrong call.
const EXIT_USAGE: u8 = 2;
/// Descriptors beside those of connections.
const SPARE_DESCRIPTORS: u64 = 64;
/// Loopback addresses that sources have, at most, before they share: each in a network of its own (/24).
const LOOPBACK_NETWORKS: usize = 250 * 250;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Floor(floor) if floor.silent && floor.protocol == Protocol::Http => {
            Err(usage("--silent: by HTTP each request is answered"))
        }
        Command::Floor(floor) => {
            floor::run(&floor).map(|()| ExitCode::SUCCESS).map_err(|error| (1, error.to_string()))
        }
        Command::Udp(options) => load_udp(&options),
        Command::Flood(options) => flood(&options),
        Command::Http(options) => load_http(&options),
        Command::Compare(options) => {
            compare::table(&options.runs).map_err(usage).and_then(|table| print(&table))
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

/// An exit code, and why.
type Failure = (u8, String);

fn usage(error: impl Into<String>) -> Failure {
    (EXIT_USAGE, error.into())
}

/// Prints what was asked for. Who has heard enough of it may close the pipe.
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

fn load_udp(options: &options::UdpLoad) -> Result<ExitCode, Failure> {
    let target = options.load.course.target().map_err(usage)?;
    let cores = cores(&options.load.course)?;
    let (count, flooding) = (options.sources, options.beside.flooding());
    if count as usize > udp::SOCKETS_MAX && !has_many_addresses(target) {
        let most = udp::SOCKETS_MAX;
        return Err(usage(format!("--sources: more than {most} are there at an IPv4 loopback target alone")));
    }
    if let Some(flooding) = flooding {
        make_room(&flooding, cores.len())?;
    }
    let body = |thread: usize, shared: &Shared| {
        let part = part(&options.load, options.mix, target, thread, count as usize);
        let population = Population::new(make(&options.load, target, thread, cores.len(), count));
        let seed = options.load.course.seed;
        let flood = flooding.map(|flooding| open_flood(flooding, seed, target, thread)).transpose()?;
        udp::run(&part, options.pipeline, population, flood, shared)
    };
    run_load(&options.load.course, "udp", flooding.map(|flooding| flooding.kind), target, &cores, body)
}

fn flood(options: &options::FloodLoad) -> Result<ExitCode, Failure> {
    let course = &options.course;
    let target = course.target().map_err(usage)?;
    let cores = cores(course)?;
    let flooding = options.flooding();
    make_room(&flooding, cores.len())?;
    let body = |thread: usize, shared: &Shared| {
        flood::run(open_flood(flooding, course.seed, target, thread)?, target, shared)
    };
    run_load(course, "udp", Some(flooding.kind), target, &cores, body)
}

/// A thread's part of a flood.
fn open_flood(flooding: Flooding, seed: u64, target: SocketAddr, thread: usize) -> io::Result<Flood> {
    let count = if flooding.kind == FloodKind::Mad { 1 } else { flooding.sources as usize };
    let first = LOOPBACK_NETWORKS / 2 + thread * count;
    let addresses = (first..first + count).map(|number| source(target, number));
    Flood::open(flooding, seed, thread, target, addresses)
}

/// Sees to it that a flood can have its sockets.
fn make_room(flooding: &Flooding, threads: usize) -> Result<(), Failure> {
    let descriptors = threads as u64 * u64::from(flooding.sources) + SPARE_DESCRIPTORS;
    if sys::raise_descriptor_limit(descriptors) < descriptors {
        return Err(usage(format!(
            "a flood from so many sources needs {descriptors} descriptors; see ulimit -n"
        )));
    }
    Ok(())
}

fn load_http(options: &options::HttpLoad) -> Result<ExitCode, Failure> {
    let target = options.load.course.target().map_err(usage)?;
    let cores = cores(&options.load.course)?;
    let descriptors = cores.len() as u64 * u64::from(options.connections) + SPARE_DESCRIPTORS;
    if sys::raise_descriptor_limit(descriptors) < descriptors {
        return Err(usage(format!("--connections: {descriptors} descriptors are needed; see ulimit -n")));
    }
    if options.mix.connect > 0 {
        return Err(usage("--mix: by HTTP nobody asks for a connection id"));
    }
    let uses = http::Use {
        close: options.close,
        connections: options.connections as usize,
        pipeline: if options.close { 1 } else { options.pipeline as usize },
    };
    let body = |thread: usize, shared: &Shared| {
        let count = if has_many_addresses(target) { options.sources.min(options.connections) } else { 0 };
        let part = part(&options.load, options.mix, target, thread, count as usize);
        let population = Population::new(make(&options.load, target, thread, cores.len(), count.max(1)));
        http::run(&part, uses, population, shared)
    };
    run_load(&options.load.course, "http", None, target, &cores, body)
}

/// A thread's part, with so many sources.
fn part(load: &Load, mix: Mix, target: SocketAddr, thread: usize, sources: usize) -> Part {
    Part {
        target,
        sources: (0..sources).map(|number| source(target, thread * sources + number)).collect(),
        rate: load.course.rate,
        mix,
        num_want: load.numwant,
        fill: load.fill,
        timeout: Duration::from_millis(load.timeout.into()),
        thread,
    }
}

/// The population of a thread.
fn make(load: &Load, target: SocketAddr, thread: usize, threads: usize, sources: u32) -> Make {
    let (threads, number) = (threads as u32, thread as u32);
    Make {
        seed: load.course.seed,
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

/// Where the source of this number is bound: each at an address of its own, if there are any to choose from.
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

fn cores(course: &Course) -> Result<Vec<usize>, Failure> {
    let allowed = sys::allowed_cores().map_err(|error| (1, format!("the cores can't be known: {error}")))?;
    match &course.cores {
        None => Ok(allowed.last().map(|core| vec![*core]).unwrap_or_default()),
        Some(Cores::List(cores)) => match cores.iter().find(|core| !allowed.contains(core)) {
            None => Ok(cores.clone()),
            Some(core) => Err(usage(format!("--cores: core {core} is none that this process may use"))),
        },
        Some(_) => Ok(allowed),
    }
}

/// Runs a thread on each core, watches them, and tells what came of it.
fn run_load(
    course: &Course,
    protocol: &'static str,
    flood: Option<FloodKind>,
    target: SocketAddr,
    cores: &[usize],
    body: impl Fn(usize, &Shared) -> io::Result<Outcome> + Sync,
) -> Result<ExitCode, Failure> {
    if let Some(pid) = course.pid {
        process::Usage::of(pid).map_err(usage)?;
    }
    let shared = Shared::new(course, cores.len());
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
        // The watch must not run beside the server: it would show in the latencies.
        let _ = sys::pin(cores[0]);
        let watched =
            watch::watch(&shared, course, || threads.iter().all(thread::ScopedJoinHandle::is_finished));
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        (outcomes, watched)
    });
    let mut tally = Tally::default();
    let (mut busy, mut cpu) = (Vec::new(), Vec::new());
    let secs = course.duration.as_secs_f64();
    for outcome in outcomes {
        let outcome =
            outcome.map_err(|error| (1, shared.failure().map_or(error.to_string(), str::to_owned)))?;
        tally.add(&outcome.tally);
        busy.push(outcome.busy.as_secs_f64() / secs);
        cpu.push(outcome.cpu.as_secs_f64() / secs);
    }
    let run = Run {
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        protocol,
        target: target.to_string(),
        rate: match course.rate {
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
    tell(course, &Report::new(run, &tally))
}

/// Writes the report where it was asked for.
fn tell(course: &Course, report: &Report) -> Result<ExitCode, Failure> {
    if !course.quiet {
        let _ = io::stdout().write_all(report.table().as_bytes());
    }
    if let Some(path) = &course.json {
        let json = serde_json::to_string_pretty(report).expect("plain figures");
        std::fs::write(path, json + "\n").map_err(|error| (1, format!("{}: {error}", path.display())))?;
    }
    if let Some(path) = &course.report {
        std::fs::write(path, page::page(report))
            .map_err(|error| (1, format!("{}: {error}", path.display())))?;
    }
    match report.is_right() {
        true => Ok(ExitCode::SUCCESS),
        false if report.replies == 0 => Err((1, format!("{} did not answer", report.target))),
        false if report.wrong == 0 => Err((1, format!("{} refused everything", report.target))),
        false => Err((1, format!("{} replies were wrong", report.wrong))),
    }
}
