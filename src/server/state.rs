//! Owns the state directory: the secret of the connection ids, and snapshots of the tables.
//!
//! ```text
//!  secret         key of the connection ids, 32 hexadecimal digits, readable by its owner only
//!  lock           locked while a tracker runs
//!  snapshot/      the last snapshot, one file for each worker that wrote it
//!  snapshot.new/  the next snapshot while it is written; then it replaces snapshot/ atomically
//!  snapshot.old/  the last snapshot for a moment, if the file system can't exchange the two
//!  late/          changes that a tracker received between the last snapshot of a handover and its end
//!  lists/         the tracker's own lists, which it changes on request
//!  damaged/       files that could not be read
//!  handover       the socket at which another tracker asks to take over
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam::channel::bounded;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use socket2::Socket;

use super::orders::Orders;
use super::passing::Channel;
use crate::engine;
use crate::engine::Engine;
use crate::error::ServerError;
use crate::limits::LOAD_BATCHES;
use crate::owner::Owners;
use crate::snapshot::{self, Damage};
use crate::swarm::Saved;
use crate::sys;
use crate::time::{Timestamp, unix_secs};
use crate::types::WorkerId;

const SECRET: &str = "secret";
const LOCK: &str = "lock";
const SNAPSHOT: &str = "snapshot";
const NEW_SNAPSHOT: &str = "snapshot.new";
const OLD_SNAPSHOT: &str = "snapshot.old";
const LATE: &str = "late";
const LISTS: &str = "lists";
const DAMAGED: &str = "damaged";
pub(super) const HANDOVER: &str = "handover";

/// A state directory, locked by this process.
pub(super) struct StateDirectory {
    path: PathBuf,
    /// Unlocked when the process ends, however it ends.
    lock: File,
    /// The socket at which another tracker asks to take over.
    listener: Option<Socket>,
}

impl StateDirectory {
    /// Opens and locks the directory. Creates it if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Self, ServerError> {
        let failed = |source| ServerError::State { path: path.to_owned(), source };
        sys::make_directory(path, None).map_err(failed)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK));
        let lock = lock.map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => failed(io::Error::other(
                "another tracker is using it; use --take-over to take over from that tracker",
            )),
            other => failed(other.into()),
        })?;
        let listener = Channel::listen(&path.join(HANDOVER));
        if let Err(error) = &listener {
            let path = path.display();
            tracing::warn!("other trackers can't take over from this one: {path}/{HANDOVER}: {error}");
        }
        Ok(Self { path: path.to_owned(), lock, listener: listener.ok() })
    }

    /// Returns the directory as another tracker hands it over, which also uses it until it ends.
    pub(super) fn inherited(path: &Path, lock: File, listener: Socket) -> Self {
        Self { path: path.to_owned(), lock, listener: Some(listener) }
    }

    /// Returns another descriptor of the lock. Each of them keeps the directory locked.
    pub(super) fn lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Returns the socket at which another tracker asks to take over.
    pub(super) fn listener(&self) -> Option<&Socket> {
        self.listener.as_ref()
    }

    /// Returns the path of the tracker's own lists in a state directory.
    pub(super) fn own_lists(path: &Path) -> PathBuf {
        path.join(LISTS)
    }

    /// Returns the key of the connection ids, and creates it if it does not exist. It keeps ids valid over a restart.
    pub(super) fn secret(&self) -> Result<[u8; 16], ServerError> {
        let path = self.path.join(SECRET);
        let failed = |source| ServerError::State { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => {
                let digits = text.trim();
                let key = (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok()).flatten();
                let wrong = || {
                    failed(io::Error::other(
                        "not 32 hexadecimal digits; remove the file to create a new secret",
                    ))
                };
                key.map(u128::to_be_bytes).ok_or_else(wrong)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key: [u8; 16] = sys::random().map_err(failed)?;
                let new = self.path.join("secret.new");
                let write = || {
                    let mut file =
                        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
                    writeln!(file, "{:032x}", u128::from_be_bytes(key))?;
                    file.sync_all()?;
                    fs::rename(&new, &path)?;
                    File::open(&self.path)?.sync_all()
                };
                write().map_err(failed)?;
                Ok(key)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Begins a snapshot. Returns a file for each worker.
    pub(super) fn begin(&self, workers: usize) -> io::Result<Vec<File>> {
        self.files(NEW_SNAPSHOT, workers)
    }

    /// Begins the late changes for the tracker that takes over. Returns a file for each worker.
    pub(super) fn begin_late(&self, workers: usize) -> io::Result<Vec<File>> {
        self.files(LATE, workers)
    }

    fn files(&self, name: &str, workers: usize) -> io::Result<Vec<File>> {
        let directory = self.path.join(name);
        remove(&directory)?;
        sys::make_directory(&directory, None)?;
        (0..workers).map(|worker| File::create_new(directory.join(format!("worker-{worker}")))).collect()
    }

    /// Replaces the last snapshot with the one that was written. With `with_late` it also contains the late changes,
    /// which are removed.
    pub(super) fn finish(&self, with_late: bool) -> io::Result<()> {
        let (new, last) = (self.path.join(NEW_SNAPSHOT), self.path.join(SNAPSHOT));
        File::open(&new)?.sync_all()?;
        match renameat_with(CWD, &new, CWD, &last, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => fs::rename(&new, &last)?, // the first snapshot
            Err(Errno::INVAL | Errno::NOSYS) => match fs::rename(&last, self.path.join(OLD_SNAPSHOT)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::rename(&new, &last)?,
            },
            done => done?,
        }
        File::open(&self.path)?.sync_all()?;
        if with_late {
            remove(&self.path.join(LATE))?;
        }
        remove(&self.path.join(OLD_SNAPSHOT))?;
        remove(&new)
    }

    /// Abandons a snapshot.
    pub(super) fn abandon(&self) {
        let _ = remove(&self.path.join(NEW_SNAPSHOT));
    }

    /// Loads the last snapshot into the tables of the workers, whatever their number. A damaged file is set aside,
    /// after its valid part was loaded.
    pub(super) fn load(
        &self,
        now: Timestamp,
        owners: &Owners,
        engines: &mut [Engine],
    ) -> Result<Loaded, ServerError> {
        let failed = |source| ServerError::State { path: self.path.clone(), source };
        let _ = remove(&self.path.join(NEW_SNAPSHOT));
        self.keep_old_snapshot().map_err(failed)?;
        let mut paths = entries(&self.path.join(SNAPSHOT)).map_err(failed)?;
        let late = entries(&self.path.join(LATE)).map_err(failed)?;
        // A peer can be both in the snapshot and in the late changes, and these are read in parallel.
        let enter = if late.is_empty() { Engine::restore } else { Engine::load };
        paths.extend(late);
        let now_unix_secs = unix_secs();
        let mut loaded = Loaded { files: paths.len(), ..Loaded::default() };
        let mut damaged = Vec::new();
        thread::scope(|scope| {
            let (senders, receivers): (Vec<_>, Vec<_>) =
                engines.iter().map(|_| bounded(LOAD_BATCHES)).unzip();
            let readers: Vec<_> = paths
                .iter()
                .map(|path| {
                    let senders = senders.clone();
                    let give = move |owner: WorkerId, hand| drop(senders[owner.index()].send(hand));
                    scope.spawn(move || deal(path, now_unix_secs, owners, give))
                })
                .collect();
            drop(senders);
            let loaders: Vec<_> = engines
                .iter_mut()
                .zip(receivers)
                .map(|(engine, batches)| {
                    scope
                        .spawn(move || -> u64 { batches.iter().map(|batch| enter(engine, now, batch)).sum() })
                })
                .collect();
            for (path, reader) in paths.iter().zip(readers) {
                if let Err(damage) = reader.join().expect("a panic ends the process") {
                    damaged.push((path, damage));
                }
            }
            loaded.peers =
                loaders.into_iter().map(|loader| loader.join().expect("a panic ends the process")).sum();
        });
        for (path, damage) in damaged {
            self.set_aside(path, &damage, now_unix_secs).map_err(failed)?;
        }
        Ok(loaded)
    }

    /// Loads the late changes of the previous tracker into workers that already serve. Returns the number of files.
    pub(super) fn load_late(&self, owners: &Owners, orders: &Orders) -> io::Result<usize> {
        let (paths, unix_secs) = (entries(&self.path.join(LATE))?, unix_secs());
        for path in &paths {
            let give = |owner: WorkerId, hand| orders.send(owner.index(), engine::Order::Load(hand).into());
            if let Err(damage) = deal(path, unix_secs, owners, give) {
                self.set_aside(path, &damage, unix_secs)?;
            }
        }
        Ok(paths.len())
    }

    /// Restores the old snapshot if it was moved away but not replaced.
    fn keep_old_snapshot(&self) -> io::Result<()> {
        let (old, last) = (self.path.join(OLD_SNAPSHOT), self.path.join(SNAPSHOT));
        if old.exists() && !last.exists() { fs::rename(&old, &last) } else { remove(&old) }
    }

    fn set_aside(&self, path: &Path, damage: &Damage, unix_secs: u64) -> io::Result<()> {
        let directory = self.path.join(DAMAGED);
        sys::make_directory(&directory, None)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = directory.join(format!("{name}-{unix_secs}"));
        fs::rename(path, &aside)?;
        let (path, aside) = (path.display(), aside.display());
        tracing::error!("{path} is damaged: {damage}; it is kept as {aside}, and its valid part was loaded");
        Ok(())
    }
}

/// Returns the entries of a directory; none if it does not exist.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Result of loading a snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loaded {
    pub(super) files: usize,
    /// Number of peers that were loaded because they have not expired.
    pub(super) peers: u64,
}

/// Distributes the blocks of a file to the owners of their swarms.
fn deal(
    path: &Path,
    unix_secs: u64,
    owners: &Owners,
    give: impl Fn(WorkerId, Vec<Saved>),
) -> Result<(), Damage> {
    snapshot::distribute(BufReader::new(File::open(path)?), unix_secs, owners, give)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
