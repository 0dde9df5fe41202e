//! The program `gyre`: the command line, the signals and the log around a [`Tracker`], and the doctor's report.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gyre::admin;
use gyre::cli::{Cli, CliError, Command, ConfigCommand, Doctor, Serve};
use gyre::config::Config;
use gyre::doctor;
use gyre::error::ServerError;
use gyre::limits::ADMIN_DESCRIPTORS;
use gyre::report::Reporter;
use gyre::server::{Inherited, Tracker, format_cores};
use gyre::time::Clock;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload as filter_reload};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the main thread looks whether it has been told to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Workers that have not ended so long after a signal are left behind.
const STOP_DEADLINE: Duration = Duration::from_millis(1_800);
/// The last snapshot may take so long. Whoever stops the process should wait for longer.
const SAVE_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of the log that wait for whoever reads it; more are lost.
const LOG_LINES: usize = 1_024;
/// What a shell reports for a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;
/// What `gyre doctor` returns for options that can't be understood (`EX_USAGE` of `sysexits.h`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    // The doctor's own codes stand for what it has found.
    let of_doctor = std::env::args_os().nth(1).is_some_and(|command| command == "doctor");
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(CliError::Usage(error)) => {
            let _ = error.print();
            return if error.use_stderr() && of_doctor { EXIT_USAGE } else { error.exit_code() as u8 }.into();
        }
        Err(CliError::File(error)) => {
            let code = refuse(&error);
            return if of_doctor { EXIT_USAGE.into() } else { code };
        }
    };
    match &cli.command {
        Command::Serve(serve) => serve_until_told(serve),
        Command::Doctor(doctor) => examine(doctor),
        Command::Config(ConfigCommand::Print(_)) => {
            let _ = std::io::stdout().write_all(cli.config_file().as_bytes());
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Check { file }) => check(file),
    }
}

/// Says whether a tracker can be run with a file of options.
fn check(file: &Path) -> ExitCode {
    let serve = ["gyre", "serve", "--config"].map(OsString::from);
    match Cli::read(serve.into_iter().chain([file.into()])) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Says what is wrong with the options, before there is a log.
fn refuse(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "gyre: error: {error}");
    ExitCode::FAILURE
}

/// Runs the tracker until a signal or an error ends it.
fn serve_until_told(serve: &Serve) -> ExitCode {
    // Lines are written by a thread of their own: whoever reads them, or doesn't, holds nothing up. What is left is
    // written when the guard goes, within a second.
    let (log, _guard) = NonBlockingBuilder::default()
        .thread_name("gyre-log")
        .buffered_lines_limit(LOG_LINES)
        .finish(IgnoreErrors(std::io::stderr()));
    let filter = start_log(log.clone(), serve.log());
    match run(serve, &log, &filter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&log, &format!("gyre: error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes what is amiss with the machine.
fn examine(doctor: &Doctor) -> ExitCode {
    let findings = doctor::examine(&doctor.serve.config(), &doctor.public_url);
    let mut stdout = std::io::stdout();
    let color = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = if doctor.json { doctor::to_json(&findings) } else { doctor::to_text(&findings, color) };
    // Whoever stops reading still gets the code.
    let _ = stdout.write_all(text.as_bytes());
    doctor::worst(&findings).exit_code().into()
}

fn run(serve: &Serve, log: &NonBlocking, filter: &Filter) -> Result<(), ServerError> {
    let signals =
        watch_signals().map_err(|source| ServerError::System { what: "signals can't be watched", source })?;
    let mut successor = Successor::prepare(serve);
    let mut config = serve.config();
    let (mut tracker, mut admin) = start(serve)?;
    say(log, &ready_line(&tracker, admin.as_ref()));
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("the service manager can't be told that this is ready: {error}");
    }
    let (clock, mut reporter) = (Clock::start(), Reporter::default());
    let mut reported = clock.now();
    while !signals.stop.load(Ordering::Acquire) {
        if tracker.wait(LOOK_INTERVAL)? {
            return Ok(()); // it was handed over: workers that end by themselves say why
        }
        if let Some(admin) = &mut admin {
            admin.wait(Duration::ZERO).map_err(ServerError::admin)?;
        }
        if signals.reload.swap(false, Ordering::AcqRel) {
            reload(&mut tracker, serve, &mut config, filter);
        }
        if signals.succeed.swap(false, Ordering::AcqRel) {
            successor.start();
        }
        successor.look_after();
        let now = clock.now();
        let interval = Duration::from_secs(config.stats_interval_secs.into());
        if !interval.is_zero() && now.since(reported) >= interval {
            tracing::info!("{}", reporter.line(&tracker.counters(), now.since(reported)));
            reported = now;
        }
    }
    if config.state_dir.is_some()
        && let Err(error) = tracker.save(SAVE_DEADLINE)
    {
        tracing::error!("{error}");
    }
    tracker.stop();
    if !tracker.wait(STOP_DEADLINE)? {
        tracing::warn!("some workers had requests left that did not finish in time");
    }
    Ok(())
}

/// Binds all sockets, or gets them from whoever has them, and starts the tracker and its admin listener. Only then a
/// tracker that runs ends, if this one takes over.
fn start(serve: &Serve) -> Result<(Tracker, Option<Tracker>), ServerError> {
    let config = serve.config();
    let mut inherited = Inherited::from_service_manager()?;
    if let Some(state_dir) = serve.take_over() {
        inherited = inherited.take_over(state_dir)?;
    }
    let mut bound = Tracker::builder()
        .config(config.clone())
        .spare_descriptors(serve.admin().map_or(0, |_| ADMIN_DESCRIPTORS))
        .inherit(inherited)
        .bind()?;
    let mut rest = bound.rest();
    let admin = serve.admin().map(|admin| admin::bind(&admin, &mut rest)).transpose()?;
    for address in rest.addresses() {
        tracing::warn!("there is a socket at {address} that no option names: it is closed");
    }
    let mut tracker = bound.start()?;
    let admin = admin.map(|admin| admin.start(&tracker, &config)).transpose()?;
    admin.iter().for_each(|admin| tracker.hand_over_with(admin));
    tracker.succeed()?;
    Ok((tracker, admin))
}

/// Reads the options again, their file and the lists, and lets the tracker follow. If anything is wrong with them all
/// stays as it was.
fn reload(tracker: &mut Tracker, started: &Serve, config: &mut Config, filter: &Filter) {
    let serve = match Cli::read(std::env::args_os()) {
        Ok(Cli { command: Command::Serve(serve), .. }) => serve,
        Ok(_) => unreachable!("the arguments are those that it was started with"),
        Err(error) => return tracing::error!("nothing is reloaded: {error}"),
    };
    match tracker.reload(&serve.config()) {
        Ok(mut fixed) => {
            if serve.admin() != started.admin() {
                fixed.push("admin");
            }
            *config = serve.config();
            let _ = filter.reload(EnvFilter::new(serve.log())); // it was read before, and the log is there
            tracing::info!("reloaded");
            fixed.iter().for_each(|option| tracing::warn!("--{option} changes with the next start"));
        }
        Err(error) => tracing::error!("nothing is reloaded: {error}"),
    }
}

/// A process of the same program, as it is installed now, that takes over from this one.
struct Successor {
    /// Where the program is; a later one may have taken its place.
    program: std::io::Result<PathBuf>,
    keeps_state: bool,
    process: Option<Child>,
}

impl Successor {
    fn prepare(serve: &Serve) -> Self {
        let keeps_state = serve.config().state_dir.is_some();
        Self { program: std::env::current_exe(), keeps_state, process: None }
    }

    /// Starts it with the arguments of this one.
    fn start(&mut self) {
        const TAKE_OVER: &str = "--take-over";
        if !self.keeps_state {
            return tracing::error!("nobody can take over: that needs a --state-dir");
        }
        if self.process.is_some() {
            return tracing::warn!("another process is taking over already");
        }
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == TAKE_OVER) {
            arguments.push(TAKE_OVER.into());
        }
        let program = self.program.as_ref().map_err(ToString::to_string);
        let started = program.and_then(|program| {
            let started = std::process::Command::new(program).args(arguments).spawn();
            started.map_err(|error| format!("{}: {error}", program.display()))
        });
        match started {
            Ok(process) => {
                tracing::info!("process {} is to take over", process.id());
                self.process = Some(process);
            }
            Err(error) => tracing::error!("nobody can take over: {error}"),
        }
    }

    /// Notes if it ends, which it should not before this one.
    fn look_after(&mut self) {
        if let Some(Ok(Some(status))) = self.process.as_mut().map(Child::try_wait) {
            tracing::error!("the process that was to take over has ended ({status}): this one goes on");
            self.process = None;
        }
    }
}

/// What signals ask for.
#[derive(Default)]
struct Asked {
    stop: AtomicBool,
    reload: AtomicBool,
    succeed: AtomicBool,
}

/// Notes the first SIGINT or SIGTERM, and each SIGHUP and SIGUSR2; at the second of the former the process is gone.
fn watch_signals() -> std::io::Result<Arc<Asked>> {
    let asked = Arc::new(Asked::default());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR2])?;
    let seen = asked.clone();
    std::thread::Builder::new().name("gyre-signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => seen.reload.store(true, Ordering::Release),
                SIGUSR2 => seen.succeed.store(true, Ordering::Release),
                _ if seen.stop.swap(true, Ordering::AcqRel) => std::process::exit(EXIT_INTERRUPTED),
                _ => {}
            }
        }
    })?;
    Ok(asked)
}

fn ready_line(server: &Tracker, admin: Option<&Tracker>) -> String {
    let list = |protocol: &'static str, addresses: &[SocketAddr]| {
        addresses.iter().map(|address| format!("{protocol} {address} ")).collect::<String>()
    };
    let workers = server.cores().len();
    let plural = if workers == 1 { "" } else { "s" };
    let cores: Vec<usize> = server.cores().iter().flatten().copied().collect();
    format!(
        "gyre: ready: {}{}{}({workers} worker{plural} on {} {})",
        list("udp", server.udp_addresses()),
        list("http", server.http_addresses()),
        list("admin", admin.map(Tracker::http_addresses).unwrap_or_default()),
        if cores.len() == 1 { "core" } else { "cores" },
        format_cores(&cores),
    )
}

/// What is logged, to be changed.
type Filter = filter_reload::Handle<EnvFilter, Registry>;

/// The log goes to standard error.
fn start_log(log: NonBlocking, filter: &str) -> Filter {
    let (filter, handle) = filter_reload::Layer::new(EnvFilter::new(filter));
    let lines = fmt::layer().with_target(false).with_ansi(std::io::stderr().is_terminal()).with_writer(log);
    tracing_subscriber::registry().with(filter).with(lines).init();
    handle
}

/// Standard error, even if nobody reads it any more.
struct IgnoreErrors(std::io::Stderr);

impl Write for IgnoreErrors {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A line on standard error, without the log's time and level.
fn say(log: &NonBlocking, line: &str) {
    // It goes to a queue, which refuses nothing but what is beyond its length.
    let _ = log.clone().write_all(format!("{line}\n").as_bytes());
}
