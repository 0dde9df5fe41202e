//! Owns the start of a successor. A process that has dropped its privileges cannot start programs. So it first starts
//! the launcher, which waits for an order to start the successor.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The command that makes the program a launcher. The arguments of the successor follow it.
pub const LAUNCH: &str = "launch";

/// A running launcher, as seen by the process that started it. The launcher ends with that process.
pub struct Launcher {
    process: Child,
    orders: ChildStdin,
}

impl Launcher {
    /// Starts a launcher for a successor with these arguments. It keeps the privileges that the process has now.
    ///
    /// # Errors
    ///
    /// The program can't be started.
    pub fn start(arguments: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(LAUNCH).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn()?;
        let orders =
            process.stdin.take().ok_or_else(|| io::Error::other("the launcher has no standard input"))?;
        Ok(Self { process, orders })
    }

    /// Starts a successor. The launcher reports the result on standard error.
    ///
    /// # Errors
    ///
    /// The launcher has ended.
    pub fn launch(&mut self) -> io::Result<()> {
        match self.process.try_wait()? {
            Some(status) => Err(io::Error::other(format!("the launcher process has ended ({status})"))),
            None => self.orders.write_all(b"\n"),
        }
    }
}

/// Runs the launcher: for each byte on standard input, starts the program at its own path with these arguments. Ends at
/// the end of the input.
///
/// # Errors
///
/// The path of the program is unknown, or standard input can't be read.
pub fn run(arguments: &[OsString]) -> io::Result<()> {
    let program = env::current_exe()?; // read before the file is replaced by another version
    let is_running = Arc::new(AtomicBool::new(false));
    for order in io::stdin().lock().bytes() {
        order?;
        if is_running.swap(true, Ordering::AcqRel) {
            say("a new process is already taking over");
            continue;
        }
        match Command::new(&program).args(arguments).stdin(Stdio::null()).spawn() {
            Ok(successor) => {
                say(&format!("process {} will take over", successor.id()));
                let is_running = is_running.clone();
                thread::Builder::new().spawn(move || watch(successor, &is_running))?;
            }
            Err(error) => {
                is_running.store(false, Ordering::Release);
                say(&format!("error: can't start a new process: {}: {error}", program.display()));
            }
        }
    }
    Ok(())
}

/// Reports the end of a successor, unless this process has ended before with the tracker that started it.
fn watch(mut successor: Child, is_running: &AtomicBool) {
    let ended = successor.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    is_running.store(false, Ordering::Release);
    say(&format!("error: the new process has ended ({ended}); the old process keeps serving"));
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "gyre: {line}"); // standard error may be closed
}
