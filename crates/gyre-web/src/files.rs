//! Owns which file a URL's path names, and what is told of a file before its bytes.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::beneath;
use crate::conditional::Validators;
use crate::limits::WEB_FILE_PATH_MAX_BYTES;
use gyre_core::error::{Code, TrackerError};

/// What stands for a directory.
const INDEX: &str = "index.html";

/// A directory whose files are served. It stays the same one if it is renamed, or another takes its name.
///
/// No path leads out of it: neither by `..`, however encoded, nor by a symbolic link, even one that is made this
/// moment. Links whose targets are relative and stay within are followed; a link with an absolute target counts as
/// leading out. Names that start with a dot are hidden, and what is no regular file is not there. Needs `openat2(2)`.
///
/// ```
/// # use gyre_web::testing as gyre;
/// use gyre::web::Directory;
///
/// let pages = Directory::open(std::env::temp_dir())?;
/// assert!(Directory::open("/no/such/directory").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Directory(Arc<OwnedFd>);

/// What a path names.
#[derive(Debug)]
pub(crate) enum Found {
    /// A file, or the index of a directory whose path ends with a slash.
    File(FoundFile),
    /// A directory, by a path without the slash at its end: links in it would be relative to the one above. The client
    /// is to be sent to the path with a slash.
    Directory,
}

/// A regular file, open to be read.
#[derive(Debug)]
pub(crate) struct FoundFile {
    /// The file itself. It reads as it was opened, even if it is replaced by another.
    pub file: File,
    /// Its length in bytes when it was opened.
    pub length: u64,
    /// Its entity tag, which is strong (time of change to the nanosecond, length, inode), and its time.
    pub validators: Validators,
    /// The value of `Content-Type`, by its extension.
    pub content_type: String,
}

impl Directory {
    /// The directory of this path.
    ///
    /// # Errors
    ///
    /// As `open(2)`: it isn't there, it is no directory, or the process may not enter it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self(Arc::new(beneath::open_directory(path.as_ref())?)))
    }

    /// What the rest of a URL's path names, still percent-encoded and without a slash at its start.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectRequest`] for a path that is badly encoded; [`Code::NotFound`] where there is no file, or the
    /// path leads out or is too long; [`Code::AccessDenied`] to a file that the process may not read;
    /// [`Code::Unavailable`] if descriptors or memory are short; else [`Code::Internal`].
    pub(crate) async fn find(&self, path: &str) -> Result<Found, TrackerError> {
        let decoded = decode(path)?;
        let directory = Arc::clone(&self.0);
        let opened = {
            let decoded = decoded.clone();
            move |cached| beneath::open_beneath(&directory, &decoded, cached)
        };
        let (file, metadata) = open(opened).await?;
        // A path that ends with a slash names an index here; if that is a directory, there is none.
        let is_redirected = metadata.is_dir() && !path.is_empty() && !path.ends_with('/');
        if is_redirected {
            Ok(Found::Directory)
        } else {
            FoundFile::new(file, &metadata, &decoded).map(Found::File)
        }
    }
}

/// Opens a file that the program itself names. Links are followed wherever they lead.
///
/// # Errors
///
/// As [`Directory::find`]; a directory is not found.
pub(crate) async fn open_file(path: &Path) -> Result<FoundFile, TrackerError> {
    let named = path.to_owned();
    let (file, metadata) = open(move |cached| beneath::open_to_read(&named, cached)).await?;
    FoundFile::new(file, &metadata, path)
}

impl FoundFile {
    fn new(file: File, metadata: &Metadata, path: &Path) -> Result<Self, TrackerError> {
        if !metadata.is_file() {
            return Err(not_found());
        }
        let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        let etag = format!("\"{seconds:x}.{nanos:x}-{:x}-{:x}\"", metadata.len(), metadata.ino());
        let validators = Validators { etag: Some(etag), modified: metadata.modified().ok() };
        Ok(Self { file, length: metadata.len(), validators, content_type: content_type(path) })
    }
}

/// What a file of this name is sent as. Text is taken to be UTF-8.
fn content_type(path: &Path) -> String {
    let guessed = mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream");
    let charset = if guessed.starts_with("text/") { "; charset=utf-8" } else { "" };
    format!("{guessed}{charset}")
}

/// Opens at once what the kernel has at hand, and what it would wait for on a thread that may wait.
async fn open(
    open: impl Fn(bool) -> io::Result<File> + Send + 'static,
) -> Result<(File, Metadata), TrackerError> {
    let look = move |cached| -> io::Result<(File, Metadata)> {
        let file = open(cached)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let found = match look(true) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tokio::task::spawn_blocking(move || look(false)).await.map_err(TrackerError::internal)?
        }
        found => found,
    };
    found.map_err(|error| refusal(&error))
}

/// What a client is told where a file can't be opened.
fn refusal(error: &io::Error) -> TrackerError {
    match error.raw_os_error() {
        // XDEV: it leads out. NXIO, NODEV: a socket, or a device without a driver.
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ELOOP
            | libc::EXDEV
            | libc::ENAMETOOLONG
            | libc::ENXIO
            | libc::ENODEV,
        ) => not_found(),
        Some(libc::EACCES) => TrackerError::new(Code::AccessDenied, "this file may not be read"),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EINTR) => {
            TrackerError::new(Code::Unavailable, "the file can't be opened at the moment")
        }
        Some(libc::ENOSYS | libc::EPERM) => TrackerError::internal(format_args!(
            "openat2 is not there or forbidden, without which no file is served: Linux 6.1 or newer is needed, and in \
             a container its seccomp profile must allow the call: {error}"
        )),
        _ => TrackerError::internal(format_args!("a file can't be opened: {error}")),
    }
}

fn not_found() -> TrackerError {
    TrackerError::new(Code::NotFound, "there is no such file")
}

/// The path below the directory. Each segment is decoded by itself and once, so that an encoded slash separates
/// nothing (and names nothing, since no file has one in its name), and `%252e` is no dot.
fn decode(path: &str) -> Result<PathBuf, TrackerError> {
    let mut decoded = PathBuf::new();
    let (parents, last) = path.rsplit_once('/').map_or((None, path), |(parents, last)| (Some(parents), last));
    for segment in parents.into_iter().flat_map(|parents| parents.split('/')) {
        decoded.push(OsStr::from_bytes(&decode_segment(segment)?));
    }
    if last.is_empty() {
        decoded.push(INDEX);
    } else {
        decoded.push(OsStr::from_bytes(&decode_segment(last)?));
    }
    if decoded.as_os_str().len() > WEB_FILE_PATH_MAX_BYTES {
        return Err(not_found());
    }
    Ok(decoded)
}

fn decode_segment(segment: &str) -> Result<Vec<u8>, TrackerError> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !segment.split('%').skip(1).all(is_escape) {
        return Err(TrackerError::incorrect_request(
            "the path has a % that two hexadecimal digits don't follow",
        ));
    }
    let name: Vec<u8> = percent_decode_str(segment).collect();
    // A name that starts with a dot is hidden, and `.` and `..` are such names.
    if name.is_empty() || name.starts_with(b".") || name.contains(&b'/') || name.contains(&0) {
        return Err(not_found());
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
