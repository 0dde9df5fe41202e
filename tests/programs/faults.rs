//! Owns the tests of faults around a running tracker, and of features that are missing at its start: descriptors, the
//! disk, features of the kernel, the process itself. Tests that take longer are in `scripts/faults.sh`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::examples::example;
use crate::support::process::{ANYWHERE, GYRE, Program, serve};
use crate::support::web::TempDir;
use crate::support::{HttpClient, UdpClient, announce_path, announcement, eventually, get, info_hash};
use gyre::time::{Clock, Timestamp};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Environment variable that tells a test process which feature must be missing.
const FAULT: &str = "GYRE_TEST_FAULT";
/// Environment variable with the options of its tracker.
const OPTIONS: &str = "GYRE_TEST_OPTIONS";

/// Returns the command that runs one test in its own process, so that it does not affect other tests.
fn alone(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", &format!("faults::{test}"), "--ignored", "--nocapture"]);
    command
}

/// A tracker that runs as a program, with its admin listener.
struct Watched {
    program: Program,
    udp: SocketAddr,
    http: SocketAddr,
    admin: HttpClient,
}

impl Watched {
    fn serve(options: &str) -> Self {
        Self::run(&mut serve(&watched(options)))
    }

    fn run(command: &mut Command) -> Self {
        let program = Program::run(command);
        let line = program.find_line("gyre: ready: ").expect("a program that serves");
        let words: Vec<_> = line.split(' ').collect();
        let address = |name: &str| -> SocketAddr {
            let at = words.iter().position(|word| *word == name).expect("an address of this name");
            words[at + 1].parse().expect("an address")
        };
        let admin = HttpClient::connect(address("admin"));
        Self { udp: address("udp"), http: address("http"), admin, program }
    }

    /// Returns the sum of the metrics whose names begin like this.
    fn metric(&mut self, name: &str) -> f64 {
        let text = self.admin.get("/metrics").text();
        let values = text.lines().filter(|line| line.starts_with(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.program.id()).into()
    }

    /// Returns the state of the process, and the CPU time that it has used.
    fn state(&self) -> (String, Duration) {
        let stat = fs::read_to_string(self.proc("stat")).expect("a process");
        let fields: Vec<_> = stat.rsplit_once(") ").expect("fields").1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        let micros = ticks * 1_000_000 / rustix::param::clock_ticks_per_second();
        (fields[0].to_owned(), Duration::from_micros(micros))
    }
}

/// Returns the options of a watched tracker.
fn watched(options: &str) -> String {
    format!("{ANYWHERE} --admin 127.0.0.1:0 --stats-interval 0 {options}")
}

#[test]
fn without_descriptors_open_connections_are_served_and_new_ones_wait() {
    let mut tracker = Watched::serve("--http-connections 500");
    let mut open = HttpClient::connect(tracker.http);
    assert_eq!(open.get("/health").status, 200);
    assert_eq!(tracker.metric("gyre_build"), 1.0); // so that this connection is accepted before the limit
    let limit_files = |tracker: &Watched, current: u64| {
        let limit = Rlimit { current: Some(current), maximum: Some(4_096) };
        prlimit(Pid::from_raw(tracker.program.id() as i32), Resource::Nofile, limit).expect("a limit");
    };
    let files = fs::read_dir(tracker.proc("fd")).expect("a process").count() as u64;
    limit_files(&tracker, files);
    let waiting: Vec<_> = (0..5).map(|_| HttpClient::connect(tracker.http)).collect();
    waiting.iter().for_each(|client| client.send(get("/health")));

    let (clock, (_, before)) = (Clock::start(), tracker.state());
    eventually("failed tries", || tracker.metric("gyre_drops_total{cause=\"accept\"") >= 10.0);
    let (passed, used) = (clock.now().since(Timestamp::default()), tracker.state().1 - before);
    assert!(used < passed / 2, "{used:?} of CPU time in {passed:?}: the worker spins");
    assert_eq!(open.get(&announce_path(info_hash(1), 1, "")).status, 200);
    UdpClient::connected(tracker.udp).announce(announcement(info_hash(1), 2));

    limit_files(&tracker, 1_000);
    for mut client in waiting {
        assert_eq!(client.receive().status, 200);
    }
}

/// Identifies a snapshot directory: each snapshot is written to a new one.
fn inode(directory: &Path) -> Option<u64> {
    fs::metadata(directory).ok().map(|metadata| metadata.ino())
}

#[track_caller]
fn await_snapshots(directory: &Path, count: usize) {
    for _ in 0..count {
        let last = inode(directory);
        eventually("a snapshot", || inode(directory).is_some_and(|new| Some(new) != last));
    }
}

/// A tracker that can't write to its state directory for a while logs it, keeps serving and keeps the last snapshot.
fn does_without_its_disk(tracker: &mut Watched, state: &Path, breaks: impl FnOnce(), mends: impl FnOnce()) {
    const FAILURES: &str = "gyre_snapshot_failures_total";
    let snapshot = state.join("snapshot");
    UdpClient::connected(tracker.udp).announce(announcement(info_hash(1), 1));
    await_snapshots(&snapshot, 2); // the first one may have begun before
    assert_eq!(tracker.metric(FAILURES), 0.0);
    breaks();
    eventually("failures", || tracker.metric(FAILURES) >= 2.0);
    let said = tracker.program.find_line("can't write a snapshot").expect("a line of the log");
    assert!(said.contains("os error") && said.contains("the last one is kept"), "{said}");
    let kept = fs::read_dir(&snapshot).expect("the last snapshot").map(|file| file.expect("a file"));
    assert!(kept.map(|file| file.metadata().expect("a file").len()).sum::<u64>() > 0);
    UdpClient::connected(tracker.udp).announce(announcement(info_hash(1), 2));
    assert!(tracker.metric("gyre_snapshot_time_seconds") > 0.0);
    mends();
    await_snapshots(&snapshot, 1);
}

#[test]
fn a_full_disk_only_costs_the_snapshots_of_that_time() {
    let directory = TempDir::new();
    let path = directory.path().display();
    // A small disk that only this process can see.
    let line = format!("mount -t tmpfs -o size=512k none {path} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &line, "sh", GYRE]);
    command.args(serve(&watched(&format!("--state-dir {path} --snapshot-interval 1"))).get_args());
    let can_mount = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        return; // this requires root
    }
    let mut tracker = Watched::run(&mut command);
    let state = tracker.proc("root").join(path.to_string().trim_start_matches('/'));
    let filler = state.join("filler");
    let fill = || {
        let result = fs::write(&filler, vec![1; 1 << 20]);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    };
    does_without_its_disk(&mut tracker, &state, fill, || fs::remove_file(&filler).expect("a file less"));
}

#[test]
fn a_read_only_state_directory_only_costs_the_snapshots_of_that_time() {
    if !rustix::process::geteuid().is_root() {
        return; // root can write to it anyway
    }
    let directory = TempDir::new();
    let state = directory.path().join("state");
    let options = format!("--user 64324:64324 --state-dir {} --snapshot-interval 1", state.display());
    let mut tracker = Watched::serve(&options);
    let set_mode = |mode| fs::set_permissions(&state, fs::Permissions::from_mode(mode)).expect("a mode");
    does_without_its_disk(&mut tracker, &state, || set_mode(0o500), || set_mode(0o700));
}

#[test]
fn a_limit_of_file_sizes_only_costs_the_snapshots_of_that_time() {
    let directory = TempDir::new();
    let options = format!("--state-dir {} --snapshot-interval 1", directory.path().display());
    let mut tracker = Watched::serve(&options);
    let pid = Pid::from_raw(tracker.program.id() as i32);
    let limit = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(pid, Resource::Fsize, limit).expect("a limit");
    };
    // Whether the writer also gets a signal depends on the file system, which may write in a thread of the kernel.
    rustix::process::kill_process(pid.expect("a process"), Signal::XFSZ).expect("a signal");
    does_without_its_disk(&mut tracker, directory.path(), || limit(Some(10)), || limit(None));
}

#[test]
fn a_complete_snapshot_survives_a_kill() {
    let directory = TempDir::new();
    let options = format!("{ANYWHERE} --state-dir {} --snapshot-interval 1", directory.path().display());
    let mut promised = 0;
    for round in 1..=3 {
        let mut program = Program::serve(&options);
        let mut client = UdpClient::connected(program.ready().0);
        for number in 0..promised {
            assert_eq!(client.scrape(&[info_hash(number)])[0].leechers, 1, "{number} in round {round}");
        }
        assert!(!directory.path().join("damaged").exists());
        if round == 3 {
            break;
        }
        for number in promised..promised + 300 {
            client.announce(announcement(info_hash(number), 1));
        }
        promised += 300;
        await_snapshots(&directory.path().join("snapshot"), 2); // the first one may have begun before
        (0..100 * round).for_each(|port| drop(client.announce(announcement(info_hash(u64::MAX), 1 + port))));
        program.signal(Signal::KILL);
        program.end();
    }
}

#[test]
fn a_stopped_process_later_answers_the_requests_that_arrived_meanwhile() {
    let mut tracker = Watched::serve("");
    let mut udp = UdpClient::connected(tracker.udp);
    udp.announce(announcement(info_hash(1), 1));
    let mut begun = HttpClient::connect(tracker.http);
    assert_eq!(begun.request(get("/health") + "GET /hea").status, 200);
    tracker.program.signal(Signal::STOP);
    eventually("a process that stands still", || tracker.state().0 == "T");
    let announces: Vec<_> =
        (2..50).map(|port| udp.announce_request(announcement(info_hash(1), port))).collect();
    announces.iter().for_each(|request| udp.send(request));
    begun.send("lth HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut late = HttpClient::connect(tracker.http);
    late.send(get("/health"));
    assert!(!udp.has_mail());
    tracker.program.signal(Signal::CONT);
    for _ in announces {
        udp.receive();
    }
    assert_eq!((begun.receive().status, late.receive().status), (200, 200));
    assert_eq!(udp.scrape(&[info_hash(1)])[0].leechers, 49);
    assert_eq!(tracker.metric("gyre_removed_peers_total"), 0.0);
}

#[test]
fn a_worker_that_panics_ends_the_process_and_is_named() {
    let output = example("panicking").output().expect("a program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for words in ["thread 'gyre-0'", "a fault of the program", "worker 0 ended: it panicked"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// A system call that fails: its number, the error, and the argument values by their index for which it fails.
type Missing = (i64, i32, &'static [(u8, u64)]);

const OPTION_LEVEL: (u8, u64) = (1, libc::SOL_SOCKET as u64);

/// Features that a kernel or the filter of a container may lack, and the words of the error or warning. Without the
/// first ones the tracker does not start.
const MISSING: [(&str, Missing, &str); 12] = [
    ("ring, forbidden", (libc::SYS_io_uring_setup, libc::EPERM, &[]), "kernel.io_uring_disabled=0"),
    ("ring, not built", (libc::SYS_io_uring_setup, libc::ENOSYS, &[]), "CONFIG_IO_URING"),
    ("ring, too old", (libc::SYS_io_uring_setup, libc::EINVAL, &[]), "Linux 6.1 or newer"),
    ("ring, no memory", (libc::SYS_io_uring_setup, libc::ENOMEM, &[]), "LimitMEMLOCK"),
    ("provided buffers", (libc::SYS_io_uring_register, libc::EINVAL, &[(1, 22)]), "Linux 6.1 or newer"),
    (
        "steering",
        (libc::SYS_setsockopt, libc::EPERM, &[OPTION_LEVEL, (2, 51)]),
        "can't set up --steering info-hash",
    ),
    ("receive buffer", (libc::SYS_setsockopt, libc::EPERM, &[OPTION_LEVEL, (2, 33)]), ""),
    ("drops", (libc::SYS_getsockopt, libc::ENOPROTOOPT, &[OPTION_LEVEL, (2, 55)]), ""),
    ("Landlock", (libc::SYS_landlock_create_ruleset, libc::ENOSYS, &[]), "this kernel has no Landlock"),
    ("seccomp", (libc::SYS_seccomp, libc::EINVAL, &[]), "system calls are not confined"),
    ("exchanged names", (libc::SYS_renameat2, libc::EINVAL, &[(4, 2)]), ""),
    ("openat2", (libc::SYS_openat2, libc::ENOSYS, &[]), ""),
];
const NEEDED: usize = 5;

#[test]
fn missing_kernel_features_are_named_or_not_used() {
    for (number, (name, _, words)) in MISSING.iter().enumerate() {
        let directory = TempDir::new();
        let options = watched(&format!("--state-dir {} --snapshot-interval 1", directory.path().display()));
        let mut command = alone("lacking");
        command.env(FAULT, name).env(OPTIONS, &options);
        if number < NEEDED {
            let said = Program::run(&mut command).ends_with(1);
            assert!(said.contains(words), "{name}: {said}");
            continue;
        }
        let program = Program::run(&mut command);
        if !words.is_empty() {
            program.find_line(words).unwrap_or_else(|| panic!("{name}: no line with {words}"));
        }
        let (udp, http) = program.ready();
        UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
        assert_eq!(HttpClient::connect(http).get(&announce_path(info_hash(1), 2, "")).status, 200, "{name}");
        if *name == "exchanged names" {
            await_snapshots(&directory.path().join("snapshot"), 3);
        }
    }
}

#[test]
#[ignore = "is run by another test, in its own process"]
fn lacking() {
    let Ok(fault) = std::env::var(FAULT) else { return };
    let (_, (call, error, arguments), _) = MISSING.iter().find(|(name, ..)| *name == fault).expect("a fault");
    let condition = |(number, value): &(u8, u64)| {
        SeccompCondition::new(*number, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)
            .expect("a condition")
    };
    let conditions: Vec<_> = arguments.iter().map(condition).collect();
    let rules = match conditions.is_empty() {
        true => Vec::new(),
        false => vec![SeccompRule::new(conditions).expect("a rule")],
    };
    let (others, this) = (SeccompAction::Allow, SeccompAction::Errno(*error as u32));
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture");
    let filter = SeccompFilter::new([(*call, rules)].into(), others, this, architecture).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("a kernel with seccomp");
    let options = std::env::var(OPTIONS).expect("options");
    panic!("{}", serve(&options).exec());
}
