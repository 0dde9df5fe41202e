//! Owns the files of lists: read at the start, and again when they change; and those among them that are the tracker's
//! own, which it changes itself.

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
    /// Where the tracker's own are, one of each name at most, if it has a place for them.
    own: Option<PathBuf>,
    clock: Clock,
    /// When that was started, by the wall clock: entries end by it.
    started_unix_secs: u64,
}

/// What is done to one of the tracker's own lists.
#[derive(Clone, Debug)]
pub enum ListChange {
    /// It becomes what this file holds, which goes.
    Replace(PathBuf),
    /// It gets these lines too, and is made if it isn't there.
    Add(String),
    /// It loses this entry, however it is written.
    Remove(String),
    /// There is none any more.
    Delete,
}

/// Why a list can't be changed. It stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ListChangeError {
    /// The tracker keeps nothing.
    #[error("lists of the tracker's own are kept in its state directory: start it with --state-dir")]
    NoDirectory,
    /// There is no such list, or no such entry in it.
    #[error("the tracker's own list has no such entry")]
    NotThere,
    /// It is no list.
    #[error("{0}")]
    Wrong(ListError),
    /// It can't be written.
    #[error("the list can't be written: {0}")]
    Io(#[from] io::Error),
}

/// A list, as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownList {
    /// What it is of, and what it does.
    pub name: ListName,
    /// Its file.
    pub path: PathBuf,
    /// How many entries that has.
    pub entries: usize,
    /// Whether it is the tracker's own.
    pub is_own: bool,
}

impl ListFiles {
    /// Reads all lists: those that are named, and those of the tracker's own that are in this directory.
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

    /// Reads those again that have changed; says whether they say anything else now. One that can't be read stays as it
    /// was.
    pub(super) fn refresh(&mut self) -> bool {
        // Each of them, not only up to the first that has changed.
        self.hashes.refresh()
            | self.clients.refresh()
            | self.sources.refresh()
            | self.sees_step(unix_secs(), self.clock.now())
    }

    /// Whether the wall clock has been set since this was asked last, so that entries end at other moments.
    fn sees_step(&mut self, unix_secs: u64, now: Timestamp) -> bool {
        let started = started(unix_secs, now);
        let stepped = started.abs_diff(self.started_unix_secs) > 1; // the two are rounded
        if stepped {
            self.started_unix_secs = started;
        }
        stepped
    }

    /// What they say together.
    pub(super) fn access(&self) -> Arc<Access> {
        Arc::new(Access {
            hashes: self.hashes.rule(),
            clients: self.clients.rule(),
            sources: self.sources.rule(),
            torrent_reason: self.torrent_reason.clone(),
            started_unix_secs: self.started_unix_secs,
        })
    }

    /// All of them.
    pub(super) fn known(&self) -> Vec<KnownList> {
        let known = self.hashes.known(ListOf::Hashes).chain(self.clients.known(ListOf::Clients));
        known.chain(self.sources.known(ListOf::Sources)).collect()
    }

    /// Changes one of the tracker's own lists, on the disk and here.
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

/// When the clock was started, by a wall clock that says this now.
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

/// Those of them that allow, or that deny.
struct Side<E: Entries> {
    /// By the operator.
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

/// Writes a file that is to take this one's place, from what this one holds; returns where it is.
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

/// One list, and the file that it was read from.
struct ListFile<E: Entries> {
    path: PathBuf,
    /// The file when it was last looked at; `None` if it could not be.
    version: Option<Version>,
    list: Arc<E::List>,
    entries: usize,
}

/// What tells a changed file: another file, another length, another time.
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
        // The version comes before the content: what changes in between is seen the next time.
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
                tracing::info!("{} was read again", self.path.display());
                true
            }
            Err(error) => {
                tracing::error!("{error}; what was read before stays in force");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_seen_once() {
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
