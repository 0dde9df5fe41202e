//! Owns the tests of the privileges that a process drops before it serves: the rights of root, access to other files,
//! unused system calls. Tests with another user need root, and do nothing without it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::process::{ANYWHERE, GYRE, Program};
use crate::support::web::TempDir;
use crate::support::{HttpClient, UdpClient, announcement, config, eventually, info_hash};
use gyre::config::Lists;
use gyre::error::ServerError;
use gyre::server::Privileges;
use rustix::process::Signal;

/// The number of a user other than root. It does not have to exist.
const SOMEBODY: &str = "64321:64322";
/// Environment variable that makes a test process the confined one, with the directory that it may use.
const CONFINED: &str = "GYRE_TEST_CONFINED";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `gyre serve` without permission to serve as root.
fn serve(options: &str) -> Program {
    Program::run(Command::new(GYRE).args(["serve", "--no-admin"]).args(options.split_whitespace()))
}

/// Returns the value of this name in `/proc` for each thread.
fn of_each_thread(pid: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).expect("a thread");
    let value = |text: String| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| *found == name).expect("a line of this name");
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    tasks.map(|task| value(status(task.expect("a thread")))).collect()
}

#[test]
fn started_as_root_it_runs_as_another_user_and_says_so() {
    if !is_root() {
        return;
    }
    let (directory, mut users) = (TempDir::new(), ["gyre", "nobody"].into_iter());
    let (user, uid) = users
        .find_map(|name| nix::unistd::User::from_name(name).unwrap().map(|user| (name, user.uid)))
        .expect("a user of one of these names");
    let state = directory.path().join("state");
    let options = format!("{ANYWHERE} --state-dir {}", state.display());
    for start in ["first", "again, with the state directory of the first"] {
        let mut program = serve(&options);
        let line = program.find_line("started as root").expect("a line that says so");
        assert!(line.contains(&format!("running as user {user}")), "{start}: {line}");
        assert!(line.contains("--user") && line.contains("--allow-root"), "{start}: {line}");
        let (_, http) = program.ready();
        assert_eq!(HttpClient::connect(http).get("/health").status, 200, "{start}");
        let uids = of_each_thread(program.id(), "Uid");
        assert!(
            uids.iter().all(|uids| *uids == [(); 4].map(|()| uid.to_string()).join(" ")),
            "{start}: {uids:?}"
        );
        assert!(of_each_thread(program.id(), "CapEff").iter().all(|rights| *rights == "0".repeat(16)));
        program.signal(Signal::TERM);
        assert_eq!(program.end().code(), Some(0));
    }
    // A directory of root's is not taken over silently.
    let own = directory.path().join("own");
    fs::create_dir(&own).unwrap();
    let said = serve(&format!("{ANYWHERE} --state-dir {}", own.display())).ends_with(1);
    assert!(said.contains(&format!("running as user {user}")) && said.contains("chown"), "{said}");
}

#[test]
fn root_does_not_serve_unless_allowed() {
    if !is_root() {
        return;
    }
    for options in [format!("{ANYWHERE} --user root"), format!("{ANYWHERE} --user 0:1")] {
        let said = serve(&options).ends_with(1);
        assert!(said.contains("--user NAME") && said.contains("--allow-root"), "{options}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for options in ["--user root --allow-root", "--allow-root"] {
        let mut program = serve(&format!("{ANYWHERE} {options}"));
        program.ready();
        assert_eq!(of_each_thread(program.id(), "Uid")[0], "0 0 0 0", "{options}");
        program.signal(Signal::TERM);
        assert_eq!(program.end().code(), Some(0));
    }
}

#[test]
fn errors_name_the_user_that_can_not_be_used() {
    for (user, cure) in
        [("gyre-is-nobody", "no such user"), ("64321", "64321:GROUP"), ("0:gyre-no-group", "no group")]
    {
        let said = serve(&format!("{ANYWHERE} --user {user}")).ends_with(1);
        assert!(said.contains(&format!("--user {user}: ")) && said.contains(cure), "{said}");
    }
    for user in [":", "a:b:c", "a:"] {
        assert!(serve(&format!("{ANYWHERE} --user {user}")).ends_with(2).contains("--user"), "{user}");
    }
}

#[test]
fn every_thread_runs_as_the_user_without_the_rights_of_root() {
    if !is_root() {
        return;
    }
    let directory = TempDir::new();
    let state = directory.path().join("made/state");
    let options =
        format!("{ANYWHERE} --user {SOMEBODY} --state-dir {} --http-connections 3000", state.display());
    let mut program = serve(&options);
    let (udp, http) = program.ready();
    let each = |name| of_each_thread(program.id(), name);
    let threads = each("Uid").len();
    assert!(threads >= gyre::sys::allowed_cores().unwrap().len() + 4, "{threads} threads");
    for (name, value) in [
        ("Uid", "64321 64321 64321 64321"),
        ("Gid", "64322 64322 64322 64322"),
        ("Groups", "64322"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(each(name), vec![value; threads], "{name}");
    }
    UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
    assert_eq!(HttpClient::connect(http).get("/health").status, 200);
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(0));

    // The directory and its files belong to the user, and the next start uses them.
    for path in [state.clone(), state.join("lock"), state.join("secret"), state.join("snapshot")] {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o077),
            (64_321, 64_322, 0),
            "{path:?}"
        );
    }
    let again = serve(&options);
    let reply = UdpClient::connected(again.ready().0).announce(announcement(info_hash(1), 2));
    assert_eq!(reply.peers.len(), 1);
}

#[test]
fn a_state_directory_of_another_user_is_an_error_with_a_fix() {
    if !is_root() {
        return;
    }
    let directory = TempDir::new();
    directory.file("lock", b"");
    let state = directory.path().display();
    let said = serve(&format!("{ANYWHERE} --user {SOMEBODY} --state-dir {state}")).ends_with(1);
    assert!(said.contains("--state-dir: ") && said.contains("chown -R"), "{said}");
}

#[test]
fn paths_that_the_new_user_can_not_reach_are_errors_with_a_fix() {
    if !is_root() {
        return;
    }
    let directory = TempDir::new();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    // The directory is created for the user, but the user can't enter its parent.
    let state = closed.join("state");
    let said = serve(&format!("{ANYWHERE} --user {SOMEBODY} --state-dir {}", state.display())).ends_with(1);
    assert!(said.contains("--state-dir: ") && said.contains("directories above"), "{said}");

    let list = directory.file("deny", b"");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).unwrap();
    let said = serve(&format!("{ANYWHERE} --user {SOMEBODY} --deny-hashes {list}")).ends_with(1);
    assert!(said.contains(&format!("{list}: ")) && said.contains("the user that gyre runs as"), "{said}");
}

#[test]
fn the_sandbox_can_be_disabled() {
    let program = serve(&format!("{ANYWHERE} --allow-root --no-sandbox"));
    program.ready();
    assert!(of_each_thread(program.id(), "Seccomp").iter().all(|seccomp| seccomp == "0"));
    assert!(of_each_thread(program.id(), "NoNewPrivs").iter().all(|given_up| given_up == "1"));
}

#[test]
fn lists_are_read_again_in_the_directories_of_the_start() {
    let (near, far) = (TempDir::new(), TempDir::new());
    let denied = near.file("deny", b"");
    let elsewhere = far.file("deny", b"");
    let write = |lists: &[&str]| {
        near.file("gyre.toml", format!("deny-hashes = {lists:?}\nmax-peers = 7\n").as_bytes())
    };
    let options = write(&[&denied]);
    let program = serve(&format!("{ANYWHERE} --allow-root --config {options}"));
    let mut client = UdpClient::connected(program.ready().0);
    client.announce(announcement(info_hash(1), 1));

    // The file is replaced by renaming, as usual.
    near.file("deny", format!("{:?}\n", info_hash(1)).as_bytes());
    program.find_line("was read again").expect("a list that is read again");
    // Another list in the same directory.
    let more = near.file("more", b"");
    write(&[&denied, &more]);
    program.signal(Signal::HUP);
    program.find_line("reloaded").expect("a list beside the first one");
    // And one in a directory that the sandbox does not allow.
    write(&[&denied, &elsewhere]);
    program.signal(Signal::HUP);
    let line = program.find_line("reload failed").expect("an error");
    assert!(line.contains(&elsewhere) && line.contains("sandbox"), "{line}");
    write(&[&denied]);
    program.signal(Signal::HUP);
    program.find_line("reloaded").expect("a reload");
}

/// Runs this test program again, with only the test that confines itself.
#[test]
fn a_confined_process_can_not_do_other_things() {
    let directory = TempDir::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "privileges::confined", "--ignored", "--nocapture"])
        .env(CONFINED, directory.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
#[ignore = "is run by another test, in its own process"]
fn confined() {
    let Some(directory) = std::env::var_os(CONFINED) else { return };
    let directory = Path::new(&directory);
    let (lists, outside, state) =
        (directory.join("lists"), directory.join("outside"), directory.join("state"));
    for folder in [&lists, &outside] {
        fs::create_dir(folder).and_then(|()| fs::write(folder.join("deny"), "")).unwrap();
    }
    fs::write(directory.join("secret"), "").unwrap();
    let lists_of = |path: &Path| Lists { deny_hashes: vec![path.join("deny")], ..Lists::default() };
    let mut config = config(2);
    (config.lists, config.state_dir) = (lists_of(&lists), Some(state.clone()));

    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bound = gyre::Tracker::builder().config(config.clone()).bind().unwrap();
    bound.restrict(&Privileges { allow_root: true, sandbox: true, ..Privileges::default() }).unwrap();
    let mut tracker = bound.start().unwrap();
    UdpClient::connected(tracker.udp_addresses()[0]).announce(announcement(info_hash(1), 1));

    // Files: only its own ones, through io_uring too.
    assert_eq!(errno(fs::write(state.join("file"), "x")), None);
    assert_eq!(errno(fs::read(lists.join("deny"))), None);
    assert_eq!(errno(fs::write(lists.join("deny"), "x")), Some(libc::EACCES));
    assert_eq!(errno(fs::read(directory.join("secret"))), Some(libc::EACCES));
    assert_eq!(errno(fs::read("/etc/passwd")), Some(libc::EACCES));
    assert_eq!(errno(fs::write(outside.join("new"), "x")), Some(libc::EACCES));
    let by_ring = tokio_uring::start(tokio_uring::fs::File::open("/etc/passwd"));
    assert_eq!(errno(by_ring), Some(libc::EACCES));
    let by_thread = std::thread::spawn(|| errno(fs::read("/etc/passwd")));
    assert_eq!(by_thread.join().unwrap(), Some(libc::EACCES));
    // TCP connections, other programs, information about the machine.
    assert_eq!(errno(TcpStream::connect(elsewhere.local_addr().unwrap())), Some(libc::EACCES));
    assert_eq!(errno(TcpStream::connect(tracker.http_addresses()[0])), None, "the doctor asks there");
    assert_eq!(errno(Command::new("/bin/true").status()), Some(libc::EPERM));
    let denied = rustix::process::chroot("/");
    assert_eq!(denied, Err(rustix::io::Errno::PERM));
    // The tracker still works.
    config.lists = lists_of(&outside);
    assert!(
        matches!(tracker.reload(&config), Err(ServerError::OutOfReach(path)) if path == outside.join("deny"))
    );
    config.lists = lists_of(&lists);
    tracker.reload(&config).unwrap();
    tracker.save(Duration::from_secs(30)).unwrap();
    tracker.stop();
    eventually("its end", || tracker.wait(Duration::from_millis(10)).unwrap());
    let _: Vec<u8> = fs::read("/proc/self/status").unwrap();
}
