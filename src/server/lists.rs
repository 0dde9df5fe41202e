//! Owns the list files: reads them at the start and again when they change. Also changes the tracker's own lists.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::{
    Access, Clients, Entries, Hashes, ListError, ListName, ListOf, Rule, Sources, copy_without, read,
};
use crate::config::Lists;
use crate::error::ServerError;
use crate::sys;
use crate::time::{Clock, Timestamp, unix_secs};

/// All lists.
pub(super) struct ListFiles {
    hashes: Kind<Hashes>,
    clients: Kind<Clients>,
    sources: Kind<Sources>,
    torrent_reason: String,
    /// Directory of the tracker's own lists (at most one for each name), if there is a state directory.
    own: Option<PathBuf>,
    clock: Clock,
    /// When the clock was started, by the wall clock. Entries expire by it.
    started_unix_secs: u64,
}

/// A change of one of the tracker's own lists.
#[derive(Clone, Debug)]
pub enum ListChange {
    /// Replaces the list with this file, which is moved.
    Replace(PathBuf),
    /// Adds these lines, and creates the list if it does not exist.
    Add(String),
    /// Removes this entry, whichever way it is written.
    Remove(String),
    /// Deletes the list.
    Delete,
}

/// Why a list was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ListChangeError {
    /// There is no state directory.
    #[error("the tracker has no state directory to store its own lists in; start it with --state-dir")]
    NoDirectory,
    /// The list or the entry does not exist.
    #[error("not found in the tracker's own list")]
    NotThere,
    /// The new content is not a valid list.
    #[error("{0}")]
    Wrong(ListError),
    /// The list can't be written.
    #[error("can't write the list: {0}")]
    Io(#[from] io::Error),
}

/// A list in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownList {
    /// The name of the list.
    pub name: ListName,
    /// Its file.
    pub path: PathBuf,
    /// Number of entries.
    pub entries: usize,
    /// Whether it is one of the tracker's own lists.
    pub is_own: bool,
}

impl ListFiles {
    /// Reads all lists: the files of the operator, and the tracker's own lists in the directory `own`.
    pub(super) fn open(lists: &Lists, own: Option<PathBuf>, clock: Clock) -> Result<Self, ServerError> {
        Ok(Self {
            hashes: Kind::open(lists, ListOf::Hashes, own.as_deref())?,
            clients: Kind::open(lists, ListOf::Clients, own.as_deref())?,
            sources: Kind::open(lists, ListOf::Sources, own.as_deref())?,
            torrent_reason: lists.torrent_reason.clone(),
            own,
            clock,
            started_unix_secs: started(unix_secs(), clock.now()),
        })
    }

    /// Reads the files that have changed. Returns whether the rules have changed. If a file can't be read, its last
    /// content stays in use.
    pub(super) fn refresh(&mut self) -> bool {
        // All of them must be checked, not only up to the first that has changed.
        self.hashes.refresh()
            | self.clients.refresh()
            | self.sources.refresh()
            | self.sees_step(unix_secs(), self.clock.now())
    }

    /// Returns whether the wall clock has been set since the last call, so that the expiry of entries changes.
    fn sees_step(&mut self, unix_secs: u64, now: Timestamp) -> bool {
        let started = started(unix_secs, now);
        let stepped = started.abs_diff(self.started_unix_secs) > 1; // both are rounded
        if stepped {
            self.started_unix_secs = started;
        }
        stepped
    }

    /// Returns the rules of all lists.
    pub(super) fn access(&self) -> Arc<Access> {
        Arc::new(Access {
            hashes: self.hashes.rule(),
            clients: self.clients.rule(),
            sources: self.sources.rule(),
            torrent_reason: self.torrent_reason.clone(),
            started_unix_secs: self.started_unix_secs,
        })
    }

    /// Returns all lists in use.
    pub(super) fn known(&self) -> Vec<KnownList> {
        let known = self.hashes.known(ListOf::Hashes).chain(self.clients.known(ListOf::Clients));
        known.chain(self.sources.known(ListOf::Sources)).collect()
    }

    /// Changes one of the tracker's own lists, on disk and in memory.
    pub(super) fn change(&mut self, name: ListName, change: &ListChange) -> Result<(), ListChangeError> {
        let directory = self.own.as_deref().ok_or(ListChangeError::NoDirectory)?;
        sys::make_directory(directory, None)?;
        let path = directory.join(name.as_str());
        match name.of {
            ListOf::Hashes => self.hashes.side(name).change(&path, change),
            ListOf::Clients => self.clients.side(name).change(&path, change),
            ListOf::Sources => self.sources.side(name).change(&path, change),
        }
    }
}

/// Returns when the clock was started, by a wall clock that is now at `unix_secs`.
fn started(unix_secs: u64, now: Timestamp) -> u64 {
    unix_secs.saturating_sub(now.as_secs().into())
}

/// The lists of one kind.
struct Kind<E: Entries> {
    allow: Side<E>,
    deny: Side<E>,
}

impl<E: Entries> Kind<E> {
    fn open(lists: &Lists, of: ListOf, own: Option<&Path>) -> Result<Self, ServerError> {
        let side = |allows| {
            let name = ListName { of, allows };
            let named: Result<_, ServerError> =
                lists.files(name).iter().map(|path| ListFile::open(path)).collect();
            let own = own.map(|directory| directory.join(name.as_str())).filter(|path| path.exists());
            Ok::<_, ServerError>(Side {
                named: named?,
                own: own.map(|path| ListFile::open(&path)).transpose()?,
            })
        };
        Ok(Self { allow: side(true)?, deny: side(false)? })
    }

    fn refresh(&mut self) -> bool {
        let files = self.allow.files_mut().chain(self.deny.files_mut());
        files.fold(false, |changed, file| file.refresh() | changed)
    }

    fn rule(&self) -> Rule<E::List> {
        let lists = |side: &Side<E>| side.files().map(|file| file.list.clone()).collect();
        Rule { allow: lists(&self.allow), deny: lists(&self.deny) }
    }

    fn side(&mut self, name: ListName) -> &mut Side<E> {
        if name.allows { &mut self.allow } else { &mut self.deny }
    }

    fn known(&self, of: ListOf) -> impl Iterator<Item = KnownList> {
        let sides = [(true, &self.allow), (false, &self.deny)];
        sides.into_iter().flat_map(move |(allows, side)| {
            side.files().enumerate().map(move |(at, file)| KnownList {
                name: ListName { of, allows },
                path: file.path.clone(),
                entries: file.entries,
                is_own: at == side.named.len(),
            })
        })
    }
}

/// The allow lists or the deny lists of one kind.
struct Side<E: Entries> {
    /// The files of the operator.
    named: Vec<ListFile<E>>,
    own: Option<ListFile<E>>,
}

impl<E: Entries> Side<E> {
    fn files(&self) -> impl Iterator<Item = &ListFile<E>> {
        self.named.iter().chain(&self.own)
    }

    fn files_mut(&mut self) -> impl Iterator<Item = &mut ListFile<E>> {
        self.named.iter_mut().chain(&mut self.own)
    }

    fn change(&mut self, path: &Path, change: &ListChange) -> Result<(), ListChangeError> {
        let new = match change {
            ListChange::Replace(new) => new.clone(),
            ListChange::Add(lines) => {
                read::<E>(lines.as_bytes()).map_err(ListChangeError::Wrong)?;
                rewrite(path, |from, to| Ok(copy_and_add(from, to, lines)?))?
            }
            ListChange::Remove(entry) => {
                let key = E::key(entry.as_bytes()).ok_or(ListChangeError::NotThere)?;
                rewrite(path, |from, to| match copy_without::<E>(from, to, &key)? {
                    0 => Err(ListChangeError::NotThere),
                    _ => Ok(()),
                })?
            }
            ListChange::Delete => {
                self.own.take().ok_or(ListChangeError::NotThere)?;
                return Ok(fs::remove_file(path)?);
            }
        };
        let put = || {
            let list = ListFile::<E>::read(&new).map_err(ListChangeError::Wrong)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, path)?;
            File::open(path.parent().unwrap_or(path))?.sync_all()?;
            Ok(ListFile { path: path.to_owned(), ..list })
        };
        self.own = Some(put().inspect_err(|_: &ListChangeError| drop(fs::remove_file(&new)))?);
        Ok(())
    }
}

/// Writes a new version of a file, based on its content. Returns the path of the new file.
fn rewrite(
    path: &Path,
    fill: impl FnOnce(&mut dyn BufRead, &mut BufWriter<File>) -> Result<(), ListChangeError>,
) -> Result<PathBuf, ListChangeError> {
    let mut from: Box<dyn BufRead> = match File::open(path) {
        Ok(file) => Box::new(BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Box::new(io::empty()),
        Err(error) => return Err(error.into()),
    };
    let new = path.with_extension("new");
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    let mut to = BufWriter::new(file);
    let filled = fill(&mut from, &mut to).and_then(|()| Ok(to.flush()?));
    filled.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(new)
}

fn copy_and_add(from: &mut dyn BufRead, to: &mut impl Write, lines: &str) -> io::Result<()> {
    let mut last = b'\n';
    loop {
        let piece = from.fill_buf()?;
        let Some(&end) = piece.last() else { break };
        to.write_all(piece)?;
        last = end;
        let length = piece.len();
        from.consume(length);
    }
    if last != b'\n' {
        to.write_all(b"\n")?;
    }
    to.write_all(lines.as_bytes())
}

/// A list, and the file that it was read from.
struct ListFile<E: Entries> {
    path: PathBuf,
    /// Version of the file at the last check. `None` if it could not be checked.
    version: Option<Version>,
    list: Arc<E::List>,
    entries: usize,
}

/// Identifies a version of a file: inode, length and modification time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl<E: Entries> ListFile<E> {
    fn open(path: &Path) -> Result<Self, ServerError> {
        Self::read(path).map_err(|source| ServerError::List { path: path.to_owned(), source })
    }

    fn read(path: &Path) -> Result<Self, ListError> {
        // The version is read before the content, so that a change in between is detected by the next check.
        let version = Version::of(path).ok();
        let (list, entries) = read::<E>(BufReader::new(File::open(path)?))?;
        Ok(Self { path: path.to_owned(), version, list: Arc::new(list), entries })
    }

    fn refresh(&mut self) -> bool {
        let version = Version::of(&self.path).ok();
        if version == self.version {
            return false;
        }
        self.version = version;
        match Self::open(&self.path) {
            Ok(new) => {
                *self = new;
                tracing::info!("{} has changed and was read again", self.path.display());
                true
            }
            Err(error) => {
                tracing::error!("{error}; the old content stays in use");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_detected_once() {
        let mut lists = ListFiles::open(&Lists::default(), None, Clock::start()).unwrap();
        lists.started_unix_secs = 1_000;
        let now = Timestamp::from_micros(50_900_000);
        for (unix_secs, steps) in [(1_050, false), (1_051, false), (4_651, true), (4_651, false), (50, true)]
        {
            assert_eq!(lists.sees_step(unix_secs, now), steps, "{unix_secs}");
            assert_eq!(
                lists.access().started_unix_secs,
                if steps { unix_secs - 50 } else { lists.started_unix_secs }
            );
        }
    }
}
