//! Owns the tests of the program `gyre`: its output, its end, and its errors for invalid options.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::process::{ANYWHERE, GYRE, Program, serve};
use crate::support::{HttpClient, STOP_DEADLINE, UdpClient, announcement, eventually, get, info_hash};
use gyre::config::Cores;
use gyre::time::{Clock, Timestamp};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

impl Program {
    /// Runs it with a limit of open files that it can't raise, even as root.
    fn serve_with_files(limit: u32, options: &str) -> Self {
        // A child process inherits the capabilities of the thread. A user who can't drop this capability does not have
        // it.
        let without_it = move || {
            let _ = remove_capability_from_bounding_set(CapabilitySet::SYS_RESOURCE);
            let line = format!("ulimit -n {limit}; exec {GYRE} serve --allow-root --no-admin {options}");
            Self::run(Command::new("sh").args(["-c", &line]))
        };
        thread::scope(|scope| scope.spawn(without_it).join().expect("a program started"))
    }
}

fn first_core() -> usize {
    gyre::sys::allowed_cores().expect("cores")[0]
}

#[test]
fn it_serves_logs_that_it_is_ready_and_ends_at_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let core = first_core();
        let mut program = Program::serve(&format!("{ANYWHERE} --cores {core}"));
        let line = program.find_line("ready").expect("a line");
        let addresses: Vec<_> = line.split(' ').filter(|word| word.starts_with("127.0.0.1:")).collect();
        let [udp, http] = addresses[..] else { panic!("two addresses in {line:?}") };
        assert_eq!(line, format!("gyre: ready: udp {udp} http {http} (1 worker on core {core})"));
        let (udp, http) = (udp.parse().unwrap(), http.parse().unwrap());
        UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
        let mut client = HttpClient::connect(http);
        assert_eq!(client.get("/health").status, 200);

        let clock = Clock::start();
        program.signal(signal);
        assert_eq!(client.rest(), b"", "an idle connection is closed");
        assert_eq!(program.end().code(), Some(0), "after {signal:?}");
        let took = clock.now().since(Timestamp::default());
        assert!(took < STOP_DEADLINE, "{took:?} from {signal:?} to the end");
        assert_eq!(program.find_line(""), None, "no further output");
    }
}

#[test]
fn each_core_has_a_worker() {
    let cores = gyre::sys::allowed_cores().unwrap();
    let line = Program::serve(ANYWHERE).find_line("ready").expect("a program that serves");
    let (_, workers) = line.rsplit_once('(').unwrap();
    assert_eq!(workers.split(' ').next(), Some(cores.len().to_string().as_str()), "{line}");
    let list = workers.trim_end_matches(')').rsplit(' ').next().unwrap();
    assert_eq!(list.parse(), Ok(Cores::List(cores)), "{line}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut program = Program::serve(ANYWHERE);
    let mut client = HttpClient::connect(program.ready().1);
    // Half of a second request: waiting for the other half would delay the end until 1.5 s after the signal.
    let requests = "GET /health HTTP/1.1\r\nHost: t\r\n\r\nGET /";
    assert_eq!(client.request(requests).status, 200);
    program.signal(Signal::TERM);
    program.signal(Signal::INT);
    assert_eq!(program.end().code(), Some(130));
}

#[test]
fn it_can_be_killed_and_started_again_at_the_same_port() {
    let ip = "127.0.0.78"; // no other test uses this address, so the port stays free
    let mut killed = Program::serve(&format!("--udp {ip}:0 --http {ip}:0"));
    let (udp, http) = killed.ready();
    let mut client = HttpClient::connect(http);
    assert_eq!(client.get("/health").status, 200);
    killed.signal(Signal::KILL);
    killed.end();
    let again = Program::serve(&format!("--udp {udp} --http {http}"));
    assert_eq!(again.ready(), (udp, http));
    UdpClient::connected(udp);
    assert_eq!(HttpClient::connect(http).get("/health").status, 200);
}

fn serves_one_protocol(options: &str, with: &str, without: &str) {
    let program = Program::serve(options);
    let line = program.find_line("ready:").expect("a line");
    assert!(line.contains(with) && !line.contains(without), "{options}: {line}");
    program.signal(Signal::TERM);
    assert_eq!(program.ends_with(0), "");
}

#[test]
fn http_can_be_left_out() {
    serves_one_protocol("--udp 127.0.0.1:0 --no-http", " udp ", " http ");
}

#[test]
fn udp_can_be_left_out() {
    serves_one_protocol("--http 127.0.0.1:0 --no-udp", " http ", " udp ");
}

#[test]
fn invalid_options_are_named() {
    for options in [
        "--udp 6969",
        "--udp localhost:6969",
        "--http [::1]",
        "--cores 3-1",
        "--cores x",
        "--steering rss",
        "--busy-poll 1000001",
        "--gather 2001",
        "--announce-interval 0",
        "--announce-interval 604801",
        "--min-interval 604801",
        "--peer-timeout 0",
        "--max-peers 201",
        "--connection-id-window 9",
        "--http-connections 0",
        "--receive-buffer 4095",
        "--stats-interval x",
        "--nonsense",
    ] {
        let said = Program::serve(options).ends_with(2);
        assert!(said.contains(options.split(' ').next().unwrap()), "{options}: {said}");
    }
    assert!(Program::serve("--no-udp --udp 127.0.0.1:0").ends_with(2).contains("--no-udp"));
}

#[test]
fn inconsistent_options_are_named() {
    for (options, names) in [
        ("--no-udp --no-http", vec!["--no-udp", "--no-http"]),
        ("--announce-interval 100 --min-interval 101", vec!["--min-interval 101", "--announce-interval 100"]),
        ("--announce-interval 100 --peer-timeout 106", vec!["--peer-timeout 106"]),
        ("--udp 127.0.0.1:6969 --udp 127.0.0.1:6969", vec!["--udp 127.0.0.1:6969"]),
    ] {
        let said = Program::serve(options).ends_with(1);
        assert!(names.iter().all(|name| said.contains(name)), "{options}: {said}");
    }
}

#[test]
fn a_core_that_is_not_available_is_named() {
    let said = Program::serve(&format!("{ANYWHERE} --cores 4095")).ends_with(1);
    assert!(said.contains("core 4095 is not available"), "{said}");
    let allowed = said.rsplit_once(": ").expect("a list of cores").1;
    assert_eq!(allowed.parse(), Ok(Cores::List(gyre::sys::allowed_cores().unwrap())), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    for (taken, options) in [
        (udp.local_addr().unwrap(), "--http 127.0.0.1:0 --udp"),
        (tcp.local_addr().unwrap(), "--udp 127.0.0.1:0 --http"),
    ] {
        let said = Program::serve(&format!("{options} {taken}")).ends_with(1);
        assert!(said.contains(&taken.to_string()) && said.contains("in use"), "{said}");
    }
}

#[test]
fn too_few_file_descriptors_are_named_if_connections_need_them() {
    let options = format!("{ANYWHERE} --cores {}", first_core());
    for limit in [40, 200] {
        let program = Program::serve_with_files(limit, &format!("{options} --http-connections 1000"));
        let said = program.ends_with(1);
        assert!(said.contains("file descriptors") && said.contains("--http-connections"), "{said}");
    }
    let mut program = Program::serve_with_files(200, &options);
    let (udp, http) = program.ready();
    UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
    // More connections than descriptors: all are answered, and the connections that have idled longest are closed.
    let mut clients = Vec::new();
    for number in 0..300 {
        let mut client = HttpClient::connect(http);
        let status = client.try_request(get("/health")).map(|response| response.status);
        assert_eq!(status, Some(200), "connection {number}");
        clients.push(client);
    }
    let left = clients.iter_mut().filter_map(|client| client.try_request(get("/health"))).count();
    assert!((1..200).contains(&left), "{left} connections");
    drop(clients);
    UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(0));
}

#[test]
fn refused_connections_also_have_descriptors() {
    let options = format!("{ANYWHERE} --cores {} --stats-interval 1", first_core());
    let program = Program::serve_with_files(200, &options);
    let (_, http) = program.ready();
    let mut clients: Vec<_> = (0..220).map(|_| HttpClient::connect(http)).collect();
    clients.iter_mut().for_each(|client| drop(client.try_request(get("/health"))));
    for _ in 0..2 {
        let line = program.find_line("requests/s").expect("a line of statistics");
        assert!(!line.contains(" accept "), "{line}");
    }
}

#[test]
fn a_few_file_descriptors_are_enough_for_a_few_connections() {
    let program = Program::serve_with_files(40, &format!("{ANYWHERE} --cores {}", first_core()));
    assert_eq!(HttpClient::connect(program.ready().1).get("/health").status, 200);
}

/// Returns the paragraph of each option, with runs of white space replaced by one space.
fn options_in_help() -> Vec<(String, String)> {
    let help = Command::new(GYRE).args(["serve", "--help"]).output().expect("a text");
    assert_eq!(help.status.code(), Some(0));
    let mut options: Vec<(String, String)> = Vec::new();
    for line in String::from_utf8(help.stdout).expect("a text").lines() {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let continued = line.starts_with("          ");
        match (words.split(' ').find(|word| word.starts_with("--")), options.last_mut()) {
            (Some(name), _) if !continued => options.push((name.to_owned(), words)),
            (_, Some((_, text))) => *text += &format!(" {words}"),
            _ => {}
        }
    }
    options
}

#[test]
fn the_help_names_each_option_with_its_default_and_its_range() {
    let described = [
        ("--udp", "0.0.0.0:6969 and [::]:6969", "at most 64"),
        ("--http", "0.0.0.0:6969 and [::]:6969", "at most 64"),
        ("--no-udp", "", ""),
        ("--no-http", "", ""),
        ("--cores", "auto", "at most 256"),
        ("--steering", "info-hash", "[possible values: info-hash, cpu, none]"),
        ("--busy-poll", "0", "0 to 1000000"),
        ("--gather", "200", "0 to 2000"),
        ("--announce-interval", "1800", "1 to 604800"),
        ("--min-interval", "900", "0 to --announce-interval"),
        (
            "--peer-timeout",
            "twice that interval",
            "(--announce-interval plus a sixteenth), and at most 2419200",
        ),
        ("--max-peers", "50", "0 to 200"),
        ("--max-memory", "half of the memory", "16M to 1024T"),
        ("--connection-id-window", "120", "10 to 3600"),
        ("--http-connections", "20000", "1 to 10000000"),
        ("--limit-connects", "unlimited", "RATE[/s|/m|/h][:BURST]"),
        ("--limit-announces", "unlimited", ""),
        ("--limit-scrapes", "unlimited", ""),
        ("--limit-http-requests", "unlimited", ""),
        ("--limit-http-connections", "unlimited", ""),
        ("--limit-networks", "16", "0 to 65536"),
        ("--limit-exempt", "none", "at most 256"),
        ("--limit-wrong-ids", "unlimited, no address is banned", ""),
        ("--ban-time", "120", "1 to 86400"),
        ("--trusted-proxy", "none, the peer of each connection is the client", "at most 256"),
        ("--receive-buffer", "8388608", "4096 to 1073741824"),
        ("--stats-interval", "10", "0 to 604800"),
        ("--log", "info", ""),
        ("--config", "", ""),
        ("--allow-hashes", "none, all torrents are allowed", "at most 16"),
        ("--deny-hashes", "none", "at most 16"),
        ("--deny-reason", "\"torrent is not registered with this tracker\"", "At most 120 bytes"),
        ("--allow-clients", "none, all clients are allowed", "at most 16"),
        ("--deny-clients", "none", "at most 16"),
        ("--allow-sources", "none, all addresses are allowed", "at most 16"),
        ("--deny-sources", "none", "at most 16"),
        ("--state-dir", "nothing is kept", ""),
        ("--take-over", "", "same --state-dir"),
        ("--snapshot-interval", "300", "0 to 86400"),
        (
            "--user",
            "if started as root, `gyre` if that user exists, otherwise `nobody`; if not, the current user",
            "",
        ),
        ("--allow-root", "", ""),
        ("--no-sandbox", "", ""),
        ("--admin", "127.0.0.1:6970", ""),
        ("--no-admin", "", ""),
        ("--admin-token-file", "`admin-token` in --state-dir", "16 to 256"),
        ("--help", "", ""),
    ];
    let mut options = options_in_help();
    for (name, default, range) in described {
        let at = options.iter().position(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}"));
        let (_, text) = options.swap_remove(at);
        assert!(default.is_empty() || text.contains(&format!("[default: {default}")), "{default} in {text}");
        assert!(text.contains(range), "{range} in {text}");
    }
    assert_eq!(options, [], "this test knows all options");
}

#[test]
fn statistics_are_logged_at_the_configured_interval() {
    let program = Program::serve(&format!("{ANYWHERE} --stats-interval 1"));
    let (udp, http) = program.ready();
    UdpClient::connected(udp).announce(announcement(info_hash(1), 1));
    let mut client = HttpClient::connect(http);
    client.get("/health");
    let mut lines = String::new();
    for part in ["requests/s", "1 swarms", "1 leechers", "1 connections"] {
        while !lines.contains(part) {
            lines += &program.find_line("requests/s").expect("a line of statistics");
        }
    }
}

#[test]
fn too_little_memory_is_refused_and_the_error_names_the_minimum() {
    let options = format!("{ANYWHERE} --cores {} --max-memory 16M", first_core());
    let said = Program::serve(&options).ends_with(1);
    assert!(said.contains("the memory limit of 16777216 bytes is too low for 1 workers"), "{said}");
    let (_, needed) = said.split_once("raise --max-memory to ").expect("how to fix it");
    let needed = needed.split(',').next().expect("a size");
    let options = format!("{ANYWHERE} --cores {} --max-memory {needed}", first_core());
    Program::serve(&options).ready();
}

/// Makes these system calls fail with this error, for the calling thread and the processes that it starts.
fn forbid(calls: &[i64], errno: i32) {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram =
        SeccompFilter::new(rules, others, these, architecture).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

#[test]
fn io_uring_that_is_missing_or_forbidden_is_named() {
    for (calls, errno, cure) in [
        ([libc::SYS_io_uring_setup].as_slice(), libc::ENOSYS, "Linux 6.1 or newer is needed"),
        (&[libc::SYS_io_uring_setup], libc::EPERM, "kernel.io_uring_disabled"),
        (&[libc::SYS_io_uring_setup], libc::ENOMEM, "ulimit -l"),
        (&[libc::SYS_io_uring_enter], libc::EPERM, "seccomp profile"),
        (&[libc::SYS_io_uring_register], libc::EINVAL, "Linux 6.1 or newer is needed"),
    ] {
        let filtered = thread::spawn(move || {
            forbid(calls, errno);
            Program::serve(&format!("{ANYWHERE} --cores {}", first_core())).ends_with(1)
        });
        let said = filtered.join().unwrap();
        assert!(said.contains("worker 0") && said.contains(cure), "{said}");
        assert_eq!(said.matches("gyre: error: ").count(), 1, "{said}");
    }
}

/// Returns the directory of a thread of the program.
fn thread_of(pid: u32, name: &str) -> Option<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut tasks = tasks.flatten().map(|task| task.path());
    tasks.find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)))
}

/// Returns the number of writes, which only has to change.
fn writes_of_log(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(thread_of(pid, "gyre-log")?.join("io")).ok()?;
    text.lines().find(|line| line.starts_with("syscw")).map(str::to_owned)
}

#[test]
fn a_blocked_log_blocks_nothing() {
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 65_536]).unwrap(); // the capacity of a pipe
    let child = serve(ANYWHERE).stderr(writer).spawn().unwrap();
    let pid = child.id();
    let mut program = Program::unread(child);
    eventually("a worker", || thread_of(pid, "gyre-0").is_some());
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(0));
}

#[test]
fn a_closed_log_does_not_end_the_program() {
    let mut child = serve(&format!("{ANYWHERE} --stats-interval 1")).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut ready = String::new();
    stderr.read_line(&mut ready).unwrap();
    let pid = child.id();
    let before = writes_of_log(pid);
    drop(stderr);
    let mut program = Program::unread(child);
    eventually("a line that is not read", || writes_of_log(pid) != before);
    program.signal(Signal::TERM);
    assert_eq!(program.end().code(), Some(0));
}
