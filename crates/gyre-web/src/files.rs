//! Owns which file a URL path names, and a file's length, validators and content type.

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

/// The file that is served for a directory.
const INDEX: &str = "index.html";

/// A directory whose files are served. It stays the same directory if it is renamed, or another one takes its name.
///
/// No path leads out of it: neither `..`, however encoded, nor a symbolic link, even one that is created at the same
/// time. Links with relative targets within the directory are followed. A link with an absolute target counts as
/// leading out. Names that start with a dot and everything but regular files are not found. Requires `openat2(2)`.
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

/// The result of a search.
#[derive(Debug)]
pub(crate) enum Found {
    /// A file, or the index of a directory whose path ends with a slash.
    File(FoundFile),
    /// A directory whose path does not end with a slash. Relative links in its index would be relative to the parent,
    /// so the client must be redirected to the path with a slash.
    Directory,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(crate) struct FoundFile {
    /// The file. It stays the same one if its path gets another file.
    pub file: File,
    /// Its length in bytes when it was opened.
    pub length: u64,
    /// Its entity tag, a strong one made of modification time in nanoseconds, length and inode, and its modification
    /// time.
    pub validators: Validators,
    /// The value of `Content-Type`, chosen by its extension.
    pub content_type: String,
}

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    ///
    /// As `open(2)`: it does not exist, it is not a directory, or the process has no permission to enter it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self(Arc::new(beneath::open_directory(path.as_ref())?)))
    }

    /// Finds the file for the rest of a URL path, which is still percent-encoded and has no slash at its start.
    ///
    /// # Errors
    ///
    /// [`Code::IncorrectRequest`] for a malformed path; [`Code::NotFound`] if there is no such file, or the path leads
    /// out or is too long; [`Code::AccessDenied`] if the process may not read the file; [`Code::Unavailable`] if file
    /// descriptors or memory are short; otherwise [`Code::Internal`].
    pub(crate) async fn find(&self, path: &str) -> Result<Found, TrackerError> {
        let decoded = decode(path)?;
        let directory = Arc::clone(&self.0);
        let opened = {
            let decoded = decoded.clone();
            move |cached| beneath::open_beneath(&directory, &decoded, cached)
        };
        let (file, metadata) = open(opened).await?;
        // A path that ends with a slash stands for the index. If the index is itself a directory, it is not found.
        let is_redirected = metadata.is_dir() && !path.is_empty() && !path.ends_with('/');
        if is_redirected {
            Ok(Found::Directory)
        } else {
            FoundFile::new(file, &metadata, &decoded).map(Found::File)
        }
    }
}

/// Opens a file that the program names. Links are followed wherever they lead.
///
/// # Errors
///
/// As [`Directory::find`]. For a directory: [`Code::NotFound`].
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

/// Chooses the content type by the file's extension. Text is assumed to be UTF-8.
fn content_type(path: &Path) -> String {
    let guessed = mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream");
    let charset = if guessed.starts_with("text/") { "; charset=utf-8" } else { "" };
    format!("{guessed}{charset}")
}

/// Opens a file at once if the kernel has it cached, and otherwise on a thread that may block.
async fn open(
    open: impl Fn(bool) -> io::Result<File> + Send + 'static,
) -> Result<(File, Metadata), TrackerError> {
    let attempt = move |cached| -> io::Result<(File, Metadata)> {
        let file = open(cached)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let found = match attempt(true) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tokio::task::spawn_blocking(move || attempt(false)).await.map_err(TrackerError::internal)?
        }
        found => found,
    };
    found.map_err(|error| refusal(&error))
}

/// Converts an error of opening a file into the one for the client.
fn refusal(error: &io::Error) -> TrackerError {
    match error.raw_os_error() {
        // XDEV: the path leads out. NXIO, NODEV: a socket, or a device without a driver.
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ELOOP
            | libc::EXDEV
            | libc::ENAMETOOLONG
            | libc::ENXIO
            | libc::ENODEV,
        ) => not_found(),
        Some(libc::EACCES) => TrackerError::new(Code::AccessDenied, "permission to read the file is denied"),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EINTR) => {
            TrackerError::new(Code::Unavailable, "the file can't be opened at the moment")
        }
        Some(libc::ENOSYS | libc::EPERM) => TrackerError::internal(format_args!(
            "openat2 is missing or forbidden, which serving files requires. Use Linux 6.1 or newer, and in a container \
             a seccomp profile that allows the call: {error}"
        )),
        _ => TrackerError::internal(format_args!("a file can't be opened: {error}")),
    }
}

fn not_found() -> TrackerError {
    TrackerError::new(Code::NotFound, "there is no such file")
}

/// Decodes a path below the directory. Each segment is decoded separately and once. So an encoded slash is not a
/// separator (and matches no file, since no name has a slash), and `%252e` is not a dot.
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
            "the path has a % without two hexadecimal digits after it",
        ));
    }
    let name: Vec<u8> = percent_decode_str(segment).collect();
    // Names that start with a dot are hidden, which covers `.` and `..`.
    if name.is_empty() || name.starts_with(b".") || name.contains(&b'/') || name.contains(&0) {
        return Err(not_found());
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
