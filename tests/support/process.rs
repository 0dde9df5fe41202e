//! Owns the programs that tests run as processes of their own: what they write to standard error, and how they end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use gyre::time::{Clock, Timestamp};
use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, eventually};

pub(crate) const GYRE: &str = env!("CARGO_BIN_EXE_gyre");
/// Both protocols, each at a port of its own.
pub(crate) const ANYWHERE: &str = "--udp 127.0.0.1:0 --http 127.0.0.1:0";

/// `gyre serve`, as whoever runs the tests, without the admin listener unless its address is among the options.
pub(crate) fn serve(options: &str) -> Command {
    let no_admin = (!options.contains("--admin ")).then_some("--no-admin");
    let mut command = Command::new(GYRE);
    command.args(["serve", "--allow-root"]).args(options.split_whitespace()).args(no_admin);
    command
}

/// A program that is killed when the test is through with it.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// Runs [`serve`].
    pub(crate) fn serve(options: &str) -> Self {
        Self::run(&mut serve(options))
    }

    pub(crate) fn run(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// Runs it with the standard input and output that the command says.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let stderr = child.stderr.take().expect("its standard error");
        Self { child, lines: read_lines(stderr) }
    }

    /// One that runs, and whose standard error is not read here.
    pub(crate) fn unread(child: Child) -> Self {
        Self { child, lines: channel().1 }
    }

    /// The next line of standard error with these words. `None`: there are no more lines.
    pub(crate) fn find_line(&self, words: &str) -> Option<String> {
        let clock = Clock::start();
        loop {
            let left = DEADLINE.saturating_sub(clock.now().since(Timestamp::default()));
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return Some(line),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until it serves; returns its addresses.
    #[track_caller]
    pub(crate) fn ready(&self) -> (SocketAddr, SocketAddr) {
        let line = self.find_line("gyre: ready: ").expect("a program that serves");
        let after = |word: &str| {
            let mut words = line.split(' ').skip_while(|found| *found != word);
            words.nth(1).and_then(|address| address.parse().ok())
        };
        (after("udp").expect("an address"), after("http").expect("an address"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a program that runs");
    }

    /// Waits until it ends.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program's end", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Waits until it ends, as it should with this code; returns all that it said.
    #[track_caller]
    pub(crate) fn ends_with(mut self, code: i32) -> String {
        let status = self.end();
        let said: Vec<_> = self.lines.iter().collect();
        assert_eq!(status.code(), Some(code), "{said:?}");
        said.join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended already, unless the test failed
        let _ = self.child.wait();
    }
}

fn read_lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}
