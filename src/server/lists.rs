//! Owns the files of lists: read at the start, and again when they change.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::{Access, Clients, Entries, Hashes, ListError, Rule, Sources, read};
use crate::config::Lists;
use crate::error::ServerError;
use crate::time::{Clock, Timestamp, unix_secs};

/// All lists.
pub(super) struct ListFiles {
    hashes: Kind<Hashes>,
    clients: Kind<Clients>,
    sources: Kind<Sources>,
    torrent_reason: String,
    clock: Clock,
}

impl ListFiles {
    /// Reads all lists.
    pub(super) fn open(lists: &Lists, clock: Clock) -> Result<Self, ServerError> {
        Ok(Self {
            hashes: Kind::open(&lists.allow_hashes, &lists.deny_hashes)?,
            clients: Kind::open(&lists.allow_clients, &lists.deny_clients)?,
            sources: Kind::open(&lists.allow_sources, &lists.deny_sources)?,
            torrent_reason: lists.torrent_reason.clone(),
            clock,
        })
    }

    /// Reads those again that have changed; says whether any did. One that can't be read stays as it was.
    pub(super) fn refresh(&mut self) -> bool {
        // Each of them, not only up to the first that has changed.
        self.hashes.refresh() | self.clients.refresh() | self.sources.refresh()
    }

    /// What they say together.
    pub(super) fn access(&self) -> Arc<Access> {
        let running = self.clock.now().since(Timestamp::default()).as_secs();
        Arc::new(Access {
            hashes: self.hashes.rule(),
            clients: self.clients.rule(),
            sources: self.sources.rule(),
            torrent_reason: self.torrent_reason.clone(),
            started_unix_secs: unix_secs().saturating_sub(running),
        })
    }
}

/// The lists of one kind.
struct Kind<E: Entries> {
    allow: Vec<ListFile<E>>,
    deny: Vec<ListFile<E>>,
}

impl<E: Entries> Kind<E> {
    fn open(allow: &[PathBuf], deny: &[PathBuf]) -> Result<Self, ServerError> {
        let open =
            |paths: &[PathBuf]| paths.iter().map(|path| ListFile::<E>::open(path)).collect::<Result<_, _>>();
        Ok(Self { allow: open(allow)?, deny: open(deny)? })
    }

    fn refresh(&mut self) -> bool {
        let files = self.allow.iter_mut().chain(&mut self.deny);
        files.fold(false, |changed, file| file.refresh() | changed)
    }

    fn rule(&self) -> Rule<E::List> {
        let lists = |files: &[ListFile<E>]| files.iter().map(|file| file.list.clone()).collect();
        Rule { allow: lists(&self.allow), deny: lists(&self.deny) }
    }
}

/// One list, and the file that it was read from.
struct ListFile<E: Entries> {
    path: PathBuf,
    /// The file when it was last looked at; `None` if it could not be.
    version: Option<Version>,
    list: Arc<E::List>,
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
        // The version comes before the content: what changes in between is seen the next time.
        let version = Version::of(path).ok();
        let list =
            read_file::<E>(path).map_err(|source| ServerError::List { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), version, list: Arc::new(list) })
    }

    fn refresh(&mut self) -> bool {
        let version = Version::of(&self.path).ok();
        if version == self.version {
            return false;
        }
        self.version = version;
        match Self::open(&self.path) {
            Ok(Self { list, .. }) => {
                self.list = list;
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

fn read_file<E: Entries>(path: &Path) -> Result<E::List, ListError> {
    read::<E>(BufReader::new(File::open(path)?))
}
