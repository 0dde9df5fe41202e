//! Owns reading the machine: its files under one root directory, and the commands that know what no file tells.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::limits::{DOCTOR_COMMAND_DEADLINE_MS, DOCTOR_FILE_BYTES, DOCTOR_TASKS};

/// Why something could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It isn't there.
    Absent,
    /// This user may not.
    Denied,
    /// It is there, but it isn't what it should be.
    Garbled,
}

impl Unread {
    /// The reason, for a human.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Absent => "it is not there",
            Self::Denied => "this user may not read it",
            Self::Garbled => "it can't be understood",
        }
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Absent,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::EOPNOTSUPP)) => {
                Self::Absent
            }
            _ => Self::Garbled,
        }
    }
}

/// What was read, or why not.
pub(super) type Seen<T> = Result<T, Unread>;

/// A machine, as its files show it.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine whose `/` is this directory; tests make one up.
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of a file, its first [`DOCTOR_FILE_BYTES`].
    pub(super) fn text(&self, path: &str) -> Seen<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path))?.take(DOCTOR_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file's one line.
    pub(super) fn line(&self, path: &str) -> Seen<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    /// A file's one number.
    pub(super) fn number(&self, path: &str) -> Seen<u64> {
        self.line(path)?.parse().map_err(|_| Unread::Garbled)
    }

    /// The names in a directory, sorted; none if it isn't there.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten().take(DOCTOR_TASKS);
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Whether there is such a file or directory.
    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// What a command prints. A made-up machine has no commands; one that takes long is ended.
    pub(super) fn command(&self, program: &str, arguments: &[&str]) -> Seen<String> {
        if self.root != Path::new("/") {
            return Err(Unread::Absent);
        }
        // Not everybody's path leads to where such commands are.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", path).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or(Unread::Garbled)?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(DOCTOR_FILE_BYTES).read_to_end(&mut bytes);
            let _ = sender.send(read.map(|_| bytes));
        });
        let read = receiver.recv_timeout(Duration::from_millis(DOCTOR_COMMAND_DEADLINE_MS));
        if read.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let bytes = read.map_err(|_| Unread::Garbled)??;
        // Such commands refuse who isn't root; there is hardly another reason.
        if status.success() { Ok(String::from_utf8_lossy(&bytes).into_owned()) } else { Err(Unread::Denied) }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A made-up machine, which is gone when the test is through with it.
    pub(crate) struct Scratch {
        root: PathBuf,
    }

    impl Scratch {
        /// A machine with these files.
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("gyre-doctor-{}-{number}", std::process::id());
            let scratch = Self { root: std::env::temp_dir().join(name) };
            fs::create_dir_all(&scratch.root).unwrap();
            for (path, text) in files {
                scratch.write(path, text);
            }
            scratch
        }

        /// Writes a file, with the directories that lead to it.
        pub(crate) fn write(&self, path: &str, text: &str) {
            let path = self.root.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        pub(crate) fn machine(&self) -> Machine {
            Machine::at(&self.root)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn what_can_not_be_read_says_why() {
        let scratch = Scratch::new(&[("/proc/number", " 12\n"), ("/proc/word", "max\n"), ("/sys/a/b", "x")]);
        let machine = scratch.machine();
        assert_eq!(machine.number("/proc/number"), Ok(12));
        assert_eq!(machine.number("/proc/word"), Err(Unread::Garbled));
        assert_eq!(machine.line("/proc/nothing"), Err(Unread::Absent));
        assert_eq!(machine.line("/proc/word/deeper"), Err(Unread::Absent));
        assert_eq!(machine.text("/proc"), Err(Unread::Garbled), "a directory");
        assert_eq!(machine.names("/"), ["proc", "sys"]);
        assert_eq!(machine.names("/nothing"), [""; 0]);
        assert!(machine.has("/sys/a") && !machine.has("/sys/b"));
        assert_eq!(machine.command("true", &[]), Err(Unread::Absent), "a made-up machine has no commands");
        assert_eq!(Machine::at("/").command("echo", &["a"]), Ok("a\n".to_owned()));
        assert_eq!(Machine::at("/").command("false", &[]), Err(Unread::Denied));
        assert_eq!(Machine::at("/").command("no-such-command", &[]), Err(Unread::Absent));
    }
}
