//! The program `gyre`: command line, signals and log of a [`Tracker`], and the output of the doctor.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gyre::admin::{self, Admin};
use gyre::cli::{Cli, CliError, Command, ConfigCommand, Doctor, Serve};
use gyre::config::Config;
use gyre::doctor;
use gyre::engine::middleware::Middleware;
use gyre::error::ServerError;
use gyre::launcher::{self, Launcher};
use gyre::limits::ADMIN_DESCRIPTORS;
use gyre::report::Reporter;
use gyre::server::{Bound, Inherited, Tracker, format_cores};
use gyre::time::Clock;
#[cfg(feature = "top")]
use gyre::{cli::Top, top};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload as filter_reload};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Interval at which the main thread checks for signals.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Workers that have not ended within this time after a signal are abandoned.
const STOP_DEADLINE: Duration = Duration::from_millis(1_800);
/// Time limit for the last snapshot. Service managers must wait longer before they kill the process.
const SAVE_DEADLINE: Duration = Duration::from_secs(60);
/// Maximum number of log lines that wait to be written. Further lines are lost.
const LOG_LINES: usize = 1_024;
/// The exit status that shells report for a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;
/// Exit status of `gyre doctor` for options that are not valid (`EX_USAGE` of `sysexits.h`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    // The exit statuses 0 to 2 of the doctor report what it has found.
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
        Command::Serve(serve) => run_tracker(serve),
        Command::Doctor(doctor) => examine(doctor),
        #[cfg(feature = "top")]
        Command::Top(top) => show(top),
        Command::Config(ConfigCommand::Print(_)) => {
            let _ = std::io::stdout().write_all(cli.config_file().as_bytes());
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Check { file }) => check(file),
        Command::Launch { arguments } => match launcher::run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error),
        },
        Command::Describe(describe) => match describe.run::<Cli>() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error),
        },
    }
}

/// Checks whether a tracker can run with a configuration file.
fn check(file: &Path) -> ExitCode {
    let serve = ["gyre", "serve", "--config"].map(OsString::from);
    match Cli::read(serve.into_iter().chain([file.into()])) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Reports an error on standard error, before the log is started.
fn refuse(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "gyre: error: {error}");
    ExitCode::FAILURE
}

/// Runs the tracker until it is stopped by a signal or an error.
fn run_tracker(serve: &Serve) -> ExitCode {
    let log = Log::default();
    let filter = start_log(log.clone(), serve.log());
    let bound = bind(serve);
    // The rest of the log is written when the guard is dropped, within a second.
    let _guard = log.start();
    match bound.and_then(|bound| run(serve, bound, &log, &filter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("gyre: error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A tracker before its first thread: its sockets are bound, and its privileges dropped.
struct Ready<M> {
    tracker: Bound,
    admin: Option<Admin<M>>,
    signals: Signals,
    launcher: Option<Launcher>,
}

/// Binds or inherits the sockets and drops the privileges, before any thread is started that would keep them.
fn bind(serve: &Serve) -> Result<Ready<impl Middleware + Send + use<>>, ServerError> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR2, libc::SIGXFSZ]).map_err(signal_error)?;
    let mut inherited = Inherited::from_service_manager()?;
    if let Some(state_dir) = serve.take_over() {
        inherited = inherited.take_over(state_dir)?;
    }
    let mut tracker = Tracker::builder()
        .config(serve.config())
        .spare_descriptors(serve.admin().map_or(0, |_| ADMIN_DESCRIPTORS))
        .inherit(inherited)
        .bind()?;
    let mut rest = tracker.rest();
    let admin = serve.admin().map(|admin| admin::bind(&admin, &mut rest)).transpose()?;
    for address in rest.addresses() {
        tracing::warn!("closed the inherited socket {address}, because no option names its address");
    }
    let launcher = serve.config().state_dir.map(|_| Launcher::start(arguments_of_successor()));
    let what = "can't start the launcher process";
    let launcher = launcher.transpose().map_err(|source| ServerError::System { what, source })?;
    tracker.restrict(&serve.privileges())?;
    Ok(Ready { tracker, admin, signals, launcher })
}

/// Returns the arguments of this process, with --take-over.
fn arguments_of_successor() -> Vec<OsString> {
    const TAKE_OVER: &str = "--take-over";
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if !arguments.iter().any(|argument| argument == TAKE_OVER) {
        arguments.push(TAKE_OVER.into());
    }
    arguments
}

fn signal_error(source: std::io::Error) -> ServerError {
    ServerError::System { what: "can't install the signal handlers", source }
}

/// Checks the machine and prints the findings.
fn examine(doctor: &Doctor) -> ExitCode {
    let findings = doctor::examine(&doctor.serve.config(), &doctor.public_url);
    let mut stdout = std::io::stdout();
    let text =
        if doctor.json { doctor::to_json(&findings) } else { doctor::to_text(&findings, wants_color()) };
    // The exit status is the same if standard output is closed.
    let _ = stdout.write_all(text.as_bytes());
    doctor::worst(&findings).exit_code().into()
}

/// Returns whether to use colours on standard output.
fn wants_color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows a tracker until the user quits, or once if standard output is not a terminal.
#[cfg(feature = "top")]
fn show(options: &Top) -> ExitCode {
    let interval = Duration::from_secs(options.interval.into());
    let shown = if options.once || !std::io::stdout().is_terminal() {
        top::once(&options.target, interval).map(|frame| {
            let _ = std::io::stdout().write_all(frame.as_bytes()); // standard output may be closed
        })
    } else {
        top::run(&options.target, interval, wants_color())
    };
    shown.map_or_else(|error| refuse(&error), |()| ExitCode::SUCCESS)
}

fn run<M: Middleware + Send>(
    serve: &Serve,
    ready: Ready<M>,
    log: &Log,
    filter: &Filter,
) -> Result<(), ServerError> {
    let mut config = serve.config();
    let signals = watch(ready.signals).map_err(signal_error)?;
    let mut tracker = ready.tracker.start()?;
    let mut admin = ready.admin.map(|admin| admin.start(&tracker, &config)).transpose()?;
    admin.iter().for_each(|admin| tracker.hand_over_with(admin));
    tracker.succeed()?;
    log.say(&ready_line(&tracker, admin.as_ref()));
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("can't notify the service manager that gyre is ready: {error}");
    }
    let mut launcher = ready.launcher;
    let (clock, mut reporter) = (Clock::start(), Reporter::default());
    let mut reported = clock.now();
    while !signals.stop.load(Ordering::Acquire) {
        if tracker.wait(LOOK_INTERVAL)? {
            return Ok(()); // another process has taken over; a worker that fails returns an error
        }
        if let Some(admin) = &mut admin {
            admin.wait(Duration::ZERO).map_err(ServerError::admin)?;
        }
        if signals.reload.swap(false, Ordering::AcqRel) {
            reload(&mut tracker, serve, &mut config, filter);
        }
        if signals.start_successor.swap(false, Ordering::AcqRel) {
            start_successor(launcher.as_mut());
        }
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
        tracing::warn!("some requests did not finish before the deadline");
    }
    Ok(())
}

/// Reads the command line, the configuration file and the lists again, and applies them. After an error everything
/// stays as it was.
fn reload(tracker: &mut Tracker, started: &Serve, config: &mut Config, filter: &Filter) {
    let serve = match Cli::read(std::env::args_os()) {
        Ok(Cli { command: Command::Serve(serve), .. }) => serve,
        Ok(_) => unreachable!("the arguments are those of the start"),
        Err(error) => return tracing::error!("reload failed, all settings stay as they were: {error}"),
    };
    match tracker.reload(&serve.config()) {
        Ok(mut fixed) => {
            if serve.admin() != started.admin() {
                fixed.push("admin");
            }
            if serve.privileges() != started.privileges() {
                fixed.push("user, --allow-root or --no-sandbox");
            }
            *config = serve.config();
            let _ = filter.reload(EnvFilter::new(serve.log())); // it was parsed before, and the log exists
            tracing::info!("the configuration was reloaded");
            fixed.iter().for_each(|option| {
                tracing::warn!("--{option} has changed; a restart is required to apply it");
            });
        }
        Err(error) => tracing::error!("reload failed, all settings stay as they were: {error}"),
    }
}

/// Starts another process that takes over from this one.
fn start_successor(launcher: Option<&mut Launcher>) {
    let Some(launcher) = launcher else {
        return tracing::error!("can't take over without --state-dir");
    };
    if let Err(error) = launcher.launch() {
        tracing::error!("can't start a new process to take over: {error}");
    }
}

/// Signals that the main thread has to handle.
#[derive(Default)]
struct PendingSignals {
    stop: AtomicBool,
    reload: AtomicBool,
    start_successor: AtomicBool,
}

/// Records SIGINT, SIGTERM, SIGHUP and SIGUSR2. A second SIGINT or SIGTERM ends the process. SIGXFSZ is ignored, since
/// its default action would end the process.
fn watch(mut signals: Signals) -> std::io::Result<Arc<PendingSignals>> {
    let pending = Arc::new(PendingSignals::default());
    let recorded = pending.clone();
    std::thread::Builder::new().name("gyre-signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => recorded.reload.store(true, Ordering::Release),
                SIGUSR2 => recorded.start_successor.store(true, Ordering::Release),
                libc::SIGXFSZ => {} // a write beyond the limit of file sizes returns an error
                _ if recorded.stop.swap(true, Ordering::AcqRel) => std::process::exit(EXIT_INTERRUPTED),
                _ => {}
            }
        }
    })?;
    Ok(pending)
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

/// A handle to change the log filter.
type Filter = filter_reload::Handle<EnvFilter, Registry>;

/// Starts the log on standard error.
fn start_log(log: Log, filter: &str) -> Filter {
    let (filter, handle) = filter_reload::Layer::new(EnvFilter::new(filter));
    let lines = fmt::layer().with_target(false).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines.with_writer(move || log.clone())).init();
    handle
}

/// The output of the log. A separate thread writes the lines, so that a slow or closed standard error delays nothing.
/// Before that thread is started, the lines are kept in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Lines>>);

enum Lines {
    Kept(Vec<u8>),
    Queue(NonBlocking),
}

impl Default for Lines {
    fn default() -> Self {
        Self::Kept(Vec::new())
    }
}

impl Log {
    /// Starts the thread.
    fn start(&self) -> WorkerGuard {
        let (mut queue, guard) = NonBlockingBuilder::default()
            .thread_name("gyre-log")
            .buffered_lines_limit(LOG_LINES)
            .finish(IgnoreErrors(std::io::stderr()));
        let mut lines = self.lines();
        if let Lines::Kept(kept) = &*lines {
            let _ = queue.write_all(kept);
        }
        *lines = Lines::Queue(queue);
        guard
    }

    /// Logs a line without time and level.
    fn say(&self, line: &str) {
        // The queue accepts everything up to its limit.
        let _ = self.clone().write_all(format!("{line}\n").as_bytes());
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().expect("a panic ends the process")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut *self.lines() {
            Lines::Kept(kept) => kept.write(bytes),
            Lines::Queue(queue) => queue.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Standard error; errors are ignored, since it may be closed.
struct IgnoreErrors(std::io::Stderr);

impl Write for IgnoreErrors {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
