//! Owns the tests of files below a directory. They use a real one with links, a fifo and a secret next to it.

use std::future::Future;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use std::{env, fs, process};

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

const SECRET: &str = "secret";
/// Length of the name of a link to its own directory, with which a path of any length can lead to a file.
const LINK_BYTES: usize = 200;

/// A directory `root` with files, and a secret next to it. Removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let tree = Self(env::temp_dir().join(format!("gyre-files-{}-{number}", process::id())));
        for folder in ["sub", "bare", "a b", ".hidden", "odd/index.html"] {
            fs::create_dir_all(tree.root().join(folder)).unwrap();
        }
        for (path, text) in [
            ("index.html", "home"),
            ("a.txt", "a"),
            ("a b/\u{fc}.json", "{}"),
            ("sub/index.html", "sub"),
            ("sub/back\\slash", "\\"),
            (".hidden/a.txt", "hidden"),
            (".env", "hidden"),
            ("100%", "percent"),
        ] {
            fs::write(tree.root().join(path), text).unwrap();
        }
        fs::write(tree.0.join(SECRET), SECRET).unwrap();
        symlink("../a.txt", tree.root().join("sub/link")).unwrap();
        symlink("sub", tree.root().join("folder")).unwrap();
        symlink("../secret", tree.root().join("out")).unwrap();
        symlink("..", tree.root().join("up")).unwrap();
        symlink(tree.0.join(SECRET), tree.root().join("absolute")).unwrap();
        symlink("/proc/self/root", tree.root().join("magic")).unwrap();
        symlink(".", tree.root().join("l".repeat(LINK_BYTES))).unwrap();
        mkfifoat(CWD, tree.root().join("fifo"), Mode::RWXU).unwrap();
        tree
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn text(mut found: FoundFile) -> String {
    let mut text = String::new();
    found.file.read_to_string(&mut text).unwrap();
    assert_eq!(found.length, text.len() as u64);
    text
}

/// Returns the text of the file that a path names, `directory`, or the code of the error.
fn find(directory: &Directory, path: &str) -> Result<String, Code> {
    match block_on(directory.find(path)) {
        Ok(Found::File(found)) => Ok(text(found)),
        Ok(Found::Directory) => Ok("directory".into()),
        Err(error) => Err(error.code()),
    }
}

#[test]
fn files_and_indexes_are_found() {
    let tree = Tree::new();
    let directory = Directory::open(tree.root()).unwrap();
    for (path, expected) in [
        ("", "home"),
        ("index.html", "home"),
        ("a.txt", "a"),
        ("%61%2Etxt", "a"),
        ("a%20b/%C3%BC.json", "{}"),
        ("a b/\u{fc}.json", "{}"),
        ("100%25", "percent"),
        ("sub", "directory"),
        ("sub/", "sub"),
        ("folder/", "sub"),
        ("folder", "directory"),
        ("bare", "directory"),
        ("sub/link", "a"),
        ("sub/back\\slash", "\\"),
        ("sub/back%5Cslash", "\\"),
    ] {
        assert_eq!(find(&directory, path), Ok(expected.into()), "{path}");
    }
    // The open directory is served, whatever its name.
    fs::rename(tree.root(), tree.0.join("moved")).unwrap();
    assert_eq!(find(&directory, "a.txt"), Ok("a".into()));
    fs::rename(tree.0.join("moved"), tree.root()).unwrap();
}

#[test]
fn everything_else_is_not_found() {
    let tree = Tree::new();
    let directory = Directory::open(tree.root()).unwrap();
    let plain = "none bare/ a.txt/ a.txt/x odd/ fifo out absolute up up/secret magic/etc/passwd / /a.txt //etc/passwd \
                 sub//link sub// . .. ./a.txt ../secret sub/../a.txt sub/.. sub/. sub/../ ..\\secret ..;/secret \
                 .env .hidden/a.txt sub/.x";
    let encoded = "%2e%2e/secret ..%2fsecret %2e%2e%2fsecret %2fetc%2fpasswd sub%2flink .%2e/secret \
                   %252e%252e/secret ..%5csecret %c0%ae%c0%ae/secret ..%00/secret a.txt%00 %2eenv";
    let link = format!("{}/", "l".repeat(LINK_BYTES));
    let most = WEB_FILE_PATH_MAX_BYTES / link.len();
    assert_eq!(find(&directory, &format!("{}a.txt", link.repeat(most))), Ok("a".into()));
    let long = format!("{}a.txt", link.repeat(most + 1));
    for path in plain.split(' ').chain(encoded.split(' ')).chain([long.as_str()]) {
        assert_eq!(find(&directory, path), Err(Code::NotFound), "{path}");
    }
    for path in ["%", "a.txt%", "%2", "%zz", "%2g/a", "%+1", "sub/%", "%%20", "%u002e"] {
        assert_eq!(find(&directory, path), Err(Code::IncorrectRequest), "{path}");
    }
    assert!(Directory::open(tree.root().join("a.txt")).is_err());
}

#[test]
fn the_program_may_name_any_file() {
    let tree = Tree::new();
    let open = |path: &str| block_on(open_file(&tree.root().join(path)));
    assert_eq!(text(open("out").unwrap()), SECRET);
    for path in ["sub", "fifo", "none"] {
        assert_eq!(open(path).unwrap_err().code(), Code::NotFound, "{path}");
    }
}

#[test]
fn each_state_of_a_file_has_its_own_validators() {
    let tree = Tree::new();
    let directory = Directory::open(tree.root()).unwrap();
    let path = tree.root().join("a.txt");
    let validators = || match block_on(directory.find("a.txt")) {
        Ok(Found::File(found)) => found.validators,
        other => panic!("{other:?}"),
    };
    let set_time = |time| File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let time = UNIX_EPOCH + Duration::new(784_111_777, 5);
    set_time(time);
    let first = validators();
    assert_eq!(first, validators());
    assert_eq!(first.modified, Some(time));
    let mut seen = vec![first.etag.unwrap()];
    let mut see_another = |etag: Option<String>| {
        let etag = etag.unwrap();
        assert!(etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'), "{etag} is not a strong tag");
        assert!(!seen.contains(&etag), "{etag} is repeated: {seen:?}");
        seen.push(etag);
    };
    set_time(time + Duration::from_nanos(1));
    see_another(validators().etag);
    fs::write(&path, "longer").unwrap();
    set_time(time);
    see_another(validators().etag);
    // Another file of the same length and time.
    fs::write(tree.root().join("new"), "longer").unwrap();
    fs::rename(tree.root().join("new"), &path).unwrap();
    set_time(time);
    see_another(validators().etag);
    set_time(UNIX_EPOCH - Duration::from_secs(5));
    assert_eq!(validators().last_modified(), None);
}

#[test]
fn the_extension_gives_the_content_type() {
    for (name, expected) in [
        ("a.html", "text/html; charset=utf-8"),
        ("a.CSS", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.torrent", "application/x-bittorrent"),
        ("html", "application/octet-stream"),
        ("a.unknown", "application/octet-stream"),
    ] {
        assert_eq!(content_type(Path::new(name)), expected, "{name}");
    }
}

#[test]
fn errors_of_the_kernel_have_matching_codes() {
    for (number, code) in [
        (libc::EACCES, Code::AccessDenied),
        (libc::EMFILE, Code::Unavailable),
        (libc::EAGAIN, Code::Unavailable),
        (libc::EIO, Code::Internal),
    ] {
        assert_eq!(refusal(&io::Error::from_raw_os_error(number)).code(), code, "{number}");
    }
    for number in [libc::ENOSYS, libc::EPERM] {
        let error = refusal(&io::Error::from_raw_os_error(number));
        assert!(error.code() == Code::Internal && error.message().contains("openat2"), "{error}");
    }
}

#[test]
fn files_that_are_not_cached_are_opened_on_another_thread() {
    let here = std::thread::current().id();
    let (file, metadata) = block_on(open(move |cached| {
        assert_eq!(cached, std::thread::current().id() == here, "this thread only opens cached files");
        if cached { Err(io::ErrorKind::WouldBlock.into()) } else { File::open("/proc/self/exe") }
    }))
    .unwrap();
    assert_eq!(file.metadata().unwrap().ino(), metadata.ino());
}

/// Returns paths made of pieces that could lead out, plain and encoded.
fn hostile_path() -> impl Strategy<Value = String> {
    const PIECES: &str = ".. . / // %2e %2E %2f %5c \\ %00 %25 %252e %c0%ae secret out up sub folder magic absolute \
                          etc/passwd a.txt link ; ~ % fifo";
    let piece = prop::sample::select(PIECES.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned);
    let piece = prop_oneof![4 => piece, 1 => "[ -~]{0,3}"];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn no_path_gives_a_file_outside() {
    let tree = Tree::new();
    let directory = Directory::open(tree.root()).unwrap();
    let inside = ["home", "a", "{}", "sub", "\\", "percent", "directory"];
    proptest!(|(path in prop_oneof![hostile_path(), ".{0,24}"])| {
        if let Ok(found) = find(&directory, &path) {
            prop_assert!(inside.contains(&found.as_str()), "{} gave {}", path, found);
        }
    });
}
