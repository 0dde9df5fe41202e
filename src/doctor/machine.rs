//! Owns access to the machine: files below a root directory, and the output of commands.

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
pub(super) enum ReadError {
    /// It does not exist.
    Absent,
    /// The user has no permission.
    Denied,
    /// It exists, but has an unexpected format.
    Malformed,
}

impl ReadError {
    /// Returns the reason for a message.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Absent => "it does not exist",
            Self::Denied => "permission denied",
            Self::Malformed => "it has an unexpected format",
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Absent,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::EOPNOTSUPP)) => {
                Self::Absent
            }
            _ => Self::Malformed,
        }
    }
}

/// The result of a reading.
pub(super) type ReadResult<T> = Result<T, ReadError>;

/// A machine, represented by its files.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// Returns the machine whose `/` is this directory. Tests use a fake one.
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the text of a file, up to [`DOCTOR_FILE_BYTES`].
    pub(super) fn text(&self, path: &str) -> ReadResult<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path))?.take(DOCTOR_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns the only line of a file.
    pub(super) fn line(&self, path: &str) -> ReadResult<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    /// Returns the only number of a file.
    pub(super) fn number(&self, path: &str) -> ReadResult<u64> {
        self.line(path)?.parse().map_err(|_| ReadError::Malformed)
    }

    /// Returns the sorted names in a directory; none if it does not exist.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten().take(DOCTOR_TASKS);
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Returns whether a file or directory exists.
    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Returns the output of a command, which is stopped if it takes too long. A fake machine has no commands.
    pub(super) fn command(&self, program: &str, arguments: &[&str]) -> ReadResult<String> {
        if self.root != Path::new("/") {
            return Err(ReadError::Absent);
        }
        // The PATH of some users does not include the directories of these commands.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", path).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or(ReadError::Malformed)?;
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
        let bytes = read.map_err(|_| ReadError::Malformed)??;
        // These commands fail for users other than root; other reasons are rare.
        if status.success() {
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        } else {
            Err(ReadError::Denied)
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A fake machine, which is deleted when it is dropped.
    pub(crate) struct Scratch {
        root: PathBuf,
    }

    impl Scratch {
        /// Creates a machine with these files.
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

        /// Writes a file, and creates its directories.
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
    fn errors_have_the_reason() {
        let scratch = Scratch::new(&[("/proc/number", " 12\n"), ("/proc/word", "max\n"), ("/sys/a/b", "x")]);
        let machine = scratch.machine();
        assert_eq!(machine.number("/proc/number"), Ok(12));
        assert_eq!(machine.number("/proc/word"), Err(ReadError::Malformed));
        assert_eq!(machine.line("/proc/nothing"), Err(ReadError::Absent));
        assert_eq!(machine.line("/proc/word/deeper"), Err(ReadError::Absent));
        assert_eq!(machine.text("/proc"), Err(ReadError::Malformed), "a directory");
        assert_eq!(machine.names("/"), ["proc", "sys"]);
        assert_eq!(machine.names("/nothing"), [""; 0]);
        assert!(machine.has("/sys/a") && !machine.has("/sys/b"));
        assert_eq!(machine.command("true", &[]), Err(ReadError::Absent), "a fake machine has no commands");
        assert_eq!(Machine::at("/").command("echo", &["a"]), Ok("a\n".to_owned()));
        assert_eq!(Machine::at("/").command("false", &[]), Err(ReadError::Denied));
        assert_eq!(Machine::at("/").command("no-such-command", &[]), Err(ReadError::Absent));
    }
}
