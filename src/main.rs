//! The program `gyre`: the command line, the signals and the log around a [`Tracker`], and the doctor's report.

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
    let log = Log::default();
    let filter = start_log(log.clone(), serve.log());
    let bound = bind(serve);
    // What is left of the log is written when the guard goes, within a second.
    let _guard = log.start();
    match bound.and_then(|bound| run(serve, bound, &log, &filter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("gyre: error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What there is before the first thread: the sockets, and no more rights than serving needs.
struct Ready<M> {
    tracker: Bound,
    admin: Option<Admin<M>>,
    signals: Signals,
    launcher: Option<Launcher>,
}

/// Binds the sockets, or gets them from whoever has them, and gives up the rights, before there is a thread that would
/// keep any.
fn bind(serve: &Serve) -> Result<Ready<impl Middleware + Send + use<>>, ServerError> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR2, libc::SIGXFSZ]).map_err(unwatched)?;
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
        tracing::warn!("there is a socket at {address} that no option names: it is closed");
    }
    let launcher = serve.config().state_dir.map(|_| Launcher::start(arguments_of_successor()));
    let what = "the process that is to start a successor can't be started";
    let launcher = launcher.transpose().map_err(|source| ServerError::System { what, source })?;
    tracker.restrict(&serve.privileges())?;
    Ok(Ready { tracker, admin, signals, launcher })
}

/// Those of this process, and that it takes over.
fn arguments_of_successor() -> Vec<OsString> {
    const TAKE_OVER: &str = "--take-over";
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if !arguments.iter().any(|argument| argument == TAKE_OVER) {
        arguments.push(TAKE_OVER.into());
    }
    arguments
}

fn unwatched(source: std::io::Error) -> ServerError {
    ServerError::System { what: "signals can't be watched", source }
}

/// Writes what is amiss with the machine.
fn examine(doctor: &Doctor) -> ExitCode {
    let findings = doctor::examine(&doctor.serve.config(), &doctor.public_url);
    let mut stdout = std::io::stdout();
    let text =
        if doctor.json { doctor::to_json(&findings) } else { doctor::to_text(&findings, wants_color()) };
    // Whoever stops reading still gets the code.
    let _ = stdout.write_all(text.as_bytes());
    doctor::worst(&findings).exit_code().into()
}

/// Whether standard output is to be coloured.
fn wants_color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows a tracker: for as long as somebody looks, or once where nobody can press a key.
#[cfg(feature = "top")]
fn show(options: &Top) -> ExitCode {
    let interval = Duration::from_secs(options.interval.into());
    let shown = if options.once || !std::io::stdout().is_terminal() {
        top::once(&options.target, interval).map(|frame| {
            let _ = std::io::stdout().write_all(frame.as_bytes()); // whoever reads may stop
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
    let signals = watch(ready.signals).map_err(unwatched)?;
    let mut tracker = ready.tracker.start()?;
    let mut admin = ready.admin.map(|admin| admin.start(&tracker, &config)).transpose()?;
    admin.iter().for_each(|admin| tracker.hand_over_with(admin));
    tracker.succeed()?;
    log.say(&ready_line(&tracker, admin.as_ref()));
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("the service manager can't be told that this is ready: {error}");
    }
    let mut launcher = ready.launcher;
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
            succeed(launcher.as_mut());
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
        tracing::warn!("some workers had requests left that did not finish in time");
    }
    Ok(())
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
            if serve.privileges() != started.privileges() {
                fixed.push("user, --allow-root or --no-sandbox");
            }
            *config = serve.config();
            let _ = filter.reload(EnvFilter::new(serve.log())); // it was read before, and the log is there
            tracing::info!("reloaded");
            fixed.iter().for_each(|option| tracing::warn!("--{option} changes with the next start"));
        }
        Err(error) => tracing::error!("nothing is reloaded: {error}"),
    }
}

/// Has another process take over from this one.
fn succeed(launcher: Option<&mut Launcher>) {
    let Some(launcher) = launcher else {
        return tracing::error!("nobody can take over: that needs a --state-dir");
    };
    if let Err(error) = launcher.launch() {
        tracing::error!("nobody can take over: {error}");
    }
}

/// What signals ask for.
#[derive(Default)]
struct Asked {
    stop: AtomicBool,
    reload: AtomicBool,
    succeed: AtomicBool,
}

/// Notes the first SIGINT or SIGTERM, and each SIGHUP and SIGUSR2; at the second of the former the process is gone. Of
/// SIGXFSZ it would be, if nobody took that.
fn watch(mut signals: Signals) -> std::io::Result<Arc<Asked>> {
    let asked = Arc::new(Asked::default());
    let seen = asked.clone();
    std::thread::Builder::new().name("gyre-signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => seen.reload.store(true, Ordering::Release),
                SIGUSR2 => seen.succeed.store(true, Ordering::Release),
                libc::SIGXFSZ => {} // who writes beyond a limit of file sizes gets an error
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
fn start_log(log: Log, filter: &str) -> Filter {
    let (filter, handle) = filter_reload::Layer::new(EnvFilter::new(filter));
    let lines = fmt::layer().with_target(false).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines.with_writer(move || log.clone())).init();
    handle
}

/// Where lines of the log go. They are written by a thread of their own: whoever reads them, or doesn't, holds nothing
/// up. Until that is started they are kept.
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

    /// A line without the log's time and level.
    fn say(&self, line: &str) {
        // It goes to a queue, which refuses nothing but what is beyond its length.
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
