//! Owns how files are opened to be sent: without waiting for their kind, and below a directory that no path leaves.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fcntl_setfl, openat2};

/// Opens a directory as a place to start from. No right to list it is needed.
///
/// # Errors
///
/// As `open(2)`: it isn't there, or no directory.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens for reading what a path names below a directory, whatever it is: that it isn't a file is seen later, and does
/// not block. Symbolic links are followed while they stay below; neither they nor `..` lead out, at any moment. With
/// `cached` the disk is not waited for.
///
/// # Errors
///
/// `EXDEV` where the path leads out, `EAGAIN` where the disk would have to be waited for (or, without `cached`, where
/// something was moved at the same time), `ENOSYS` or `EPERM` where there is no `openat2(2)`; else as that.
pub(crate) fn open_beneath(directory: impl AsFd, path: &Path, cached: bool) -> io::Result<File> {
    open(directory, path, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS, cached)
}

/// Opens for reading what a path names, wherever it leads; else as [`open_beneath`].
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
    // A fifo is waited for by who opens it, unless told not to.
    let file = openat2(directory, path, flags | OFlags::NONBLOCK, Mode::empty(), resolve)?;
    // A ring that reads from a non-blocking file may give up where it would wait for the disk.
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

    /// The error's number, or what the file holds.
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
                let is_left_open = cached && refused == Err(Some(libc::EAGAIN)); // the slow way will tell
                assert!(refused == Err(Some(libc::EXDEV)) || is_left_open, "{path}: {refused:?}");
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
