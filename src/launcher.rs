//! Owns the start of a program's successor. A process that has given up its rights can start none: so another one, the
//! launcher, is started before, which waits until it is told to.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The command by which the program is a launcher; what follows it are the successor's arguments.
pub const LAUNCH: &str = "launch";

/// The launcher, as the process sees it that is to have a successor. It ends with that process.
pub struct Launcher {
    process: Child,
    orders: ChildStdin,
}

impl Launcher {
    /// Starts it, for a successor with these arguments. It keeps the rights that the calling process has now.
    ///
    /// # Errors
    ///
    /// The program can't be started.
    pub fn start(arguments: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(LAUNCH).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn()?;
        let orders = process.stdin.take().ok_or_else(|| io::Error::other("it has no standard input"))?;
        Ok(Self { process, orders })
    }

    /// Has a successor started. The launcher says on standard error what becomes of it.
    ///
    /// # Errors
    ///
    /// The launcher has ended.
    pub fn launch(&mut self) -> io::Result<()> {
        match self.process.try_wait()? {
            Some(status) => Err(io::Error::other(format!("the process that starts it has ended ({status})"))),
            None => self.orders.write_all(b"\n"),
        }
    }
}

/// What the launcher does: it starts the program that is at its path then, with these arguments, each time that a byte
/// comes, and ends when no more can come.
///
/// # Errors
///
/// It can't know where the program is, or read.
pub fn run(arguments: &[OsString]) -> io::Result<()> {
    let program = env::current_exe()?; // before another one takes its place
    let is_there = Arc::new(AtomicBool::new(false));
    for order in io::stdin().lock().bytes() {
        order?;
        if is_there.swap(true, Ordering::AcqRel) {
            say("another process is taking over already");
            continue;
        }
        match Command::new(&program).args(arguments).stdin(Stdio::null()).spawn() {
            Ok(successor) => {
                say(&format!("process {} is to take over", successor.id()));
                let is_there = is_there.clone();
                thread::Builder::new().spawn(move || watch(successor, &is_there))?;
            }
            Err(error) => {
                is_there.store(false, Ordering::Release);
                say(&format!("error: nobody can take over: {}: {error}", program.display()));
            }
        }
    }
    Ok(())
}

/// Says if the successor ends while this process is still there, which it is for as long as its parent is.
fn watch(mut successor: Child, is_there: &AtomicBool) {
    let ended = successor.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    is_there.store(false, Ordering::Release);
    say(&format!("error: the process that was to take over has ended ({ended}): the other one goes on"));
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "gyre: {line}"); // whoever reads may have gone
}
