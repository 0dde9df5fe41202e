//! Owns how files are opened for sending: without blocking on special files, and below a directory that no path leaves.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_setfl, openat2};

/// Opens a directory as a starting point for paths. Permission to list it is not needed.
///
/// # Errors
///
/// As `open(2)`: it does not exist, or is not a directory.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a path below a directory for reading. It may name anything; opening a special file does not block. Symbolic
/// links are followed while they stay below the directory. Neither they nor `..` lead out, even if a link is changed at
/// the same time. With `cached` the call does not wait for the disk.
///
/// # Errors
///
/// As `openat2(2)`: `EXDEV` if the path leads out, `EAGAIN` if the call would wait for the disk (or, without `cached`,
/// if something was moved at the same time), `ENOSYS` or `EPERM` if `openat2(2)` is missing or forbidden.
pub(crate) fn open_beneath(directory: impl AsFd, path: &Path, cached: bool) -> io::Result<File> {
    open(directory, path, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS, cached)
}

/// Opens any path for reading, wherever it leads, otherwise like [`open_beneath`].
///
/// # Errors
///
/// As [`open_beneath`].
pub(crate) fn open_to_read(path: &Path, cached: bool) -> io::Result<File> {
    open(CWD, path, ResolveFlags::empty(), cached)
}

fn open(directory: impl AsFd, path: &Path, mut resolve: ResolveFlags, cached: bool) -> io::Result<File> {
    resolve.set(ResolveFlags::CACHED, cached);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    // Without NONBLOCK, opening a fifo waits for a writer.
    let file = openat2(directory, path, flags | OFlags::NONBLOCK, Mode::empty(), resolve)?;
    // A ring's read from a non-blocking file may fail where it would wait for the disk.
    fcntl_setfl(&file, flags)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, fcntl_getfl, mkfifoat};
    use std::io::Read;
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::fs::symlink;
    use std::{env, fs, process};

    /// Returns the content of a file, or the number of the error.
    fn read(found: io::Result<File>) -> Result<String, Option<i32>> {
        let mut text = String::new();
        let mut file = found.map_err(|error| error.raw_os_error())?;
        file.read_to_string(&mut text).map_err(|error| error.raw_os_error())?;
        Ok(text)
    }

    #[test]
    fn no_path_leaves_the_directory() {
        let outer = env::temp_dir().join(format!("gyre-beneath-{}", process::id()));
        let root = outer.join("root");
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::write(root.join("a"), "inside").unwrap();
        fs::write(outer.join("secret"), "outside").unwrap();
        symlink("../a", root.join("inner/up")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink(outer.join("secret"), root.join("absolute")).unwrap();
        symlink("/proc/self/cwd", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        mkfifoat(CWD, root.join("fifo"), Mode::RWXU).unwrap();
        let directory = open_directory(&root).unwrap();
        for cached in [false, true] {
            let open = |path: &str| open_beneath(&directory, Path::new(path), cached);
            assert_eq!(read(open("a")), Ok("inside".into()));
            assert_eq!(read(open("inner/up")), Ok("inside".into()));
            for path in ["../secret", "out", "absolute", "magic", "inner/../../secret", "/etc/passwd"] {
                let refused = read(open(path));
                let is_undecided = cached && refused == Err(Some(libc::EAGAIN)); // the call that waits decides
                assert!(refused == Err(Some(libc::EXDEV)) || is_undecided, "{path}: {refused:?}");
            }
            assert_eq!(read(open("loop")), Err(Some(libc::ELOOP)));
            assert_eq!(read(open("none")), Err(Some(libc::ENOENT)));
            assert_eq!(read(open("nul\0")), Err(Some(libc::EINVAL)));
            assert!(
                open("fifo").unwrap().metadata().unwrap().file_type().is_fifo(),
                "opened without a writer"
            );
            assert!(!fcntl_getfl(open("a").unwrap()).unwrap().contains(OFlags::NONBLOCK));
            assert_eq!(read(open_to_read(&root.join("out"), cached)), Ok("outside".into()));
        }
        assert!(FileType::from_raw_mode(rustix::fs::fstat(&directory).unwrap().st_mode).is_dir());
        assert!(open_directory(&root.join("a")).is_err());
        fs::remove_dir_all(outer).unwrap();
    }
}
