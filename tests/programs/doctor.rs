//! Owns the tests of the program `gyre doctor`: its output and exit status, and its findings on running trackers.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::{FAMILIES, Tracker, config};
use gyre::config::Config;
use gyre::time::{Clock, Timestamp};
use gyre::types::Family;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;

const GYRE: &str = env!("CARGO_BIN_EXE_gyre");
/// Time limit of the program.
const PATIENCE: Duration = Duration::from_secs(10);
/// Both protocols at free ports, so that no other program is queried.
const ANYWHERE: &str = "--udp 127.0.0.1:0 --http 127.0.0.1:0";
/// The checks that are made on each machine, with any options.
const CHECKS: [&str; 32] = [
    "options",
    "kernel",
    "io-uring",
    "memlock",
    "open-files",
    "memory",
    "huge-pages",
    "clock-source",
    "receive-buffer",
    "udp-memory",
    "send-buffer",
    "listen-backlog",
    "conntrack-table",
    "card-drops",
    "softnet",
    "udp-drops",
    "socket-drops",
    "receive-queues",
    "queue-affinity",
    "softirq-balance",
    "cores",
    "isolation",
    "cpu-quota",
    "numa",
    "governor",
    "smt",
    "cores-busy",
    "stolen-time",
    "families",
    "listen-address",
    "public-url",
    "conntrack-port",
];

fn run(options: &str) -> Output {
    let clock = Clock::start();
    let output =
        Command::new(GYRE).arg("doctor").args(options.split_whitespace()).output().expect("the program");
    let took = clock.now().since(Timestamp::default());
    assert!(took < PATIENCE, "{options}: {took:?}");
    output
}

/// Returns the findings of `--json`, which must match the exit status.
#[track_caller]
fn findings(options: &str) -> Vec<Value> {
    let output = run(&format!("--json {options}"));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings").clone();
    let code = |level: &Value| ["ok", "warn", "fail"].iter().position(|name| level == name).expect("a level");
    let worst = findings.iter().map(|finding| code(&finding["level"])).max().expect("a finding");
    assert_eq!(output.status.code(), Some(worst as i32), "{report:#}");
    assert_eq!(code(&report["level"]), worst);
    for finding in &findings {
        let mut keys: Vec<_> = finding.as_object().expect("an object").keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["check", "cost", "fix", "level", "what"]);
        assert!(finding["what"].as_str().is_some_and(|what| !what.is_empty()), "{finding}");
        let amiss = finding["level"] != "ok";
        assert_eq!((finding["cost"].is_string(), finding["fix"].is_string()), (amiss, amiss), "{finding}");
    }
    findings
}

/// Returns the levels of the findings of this check that contain these words.
fn levels<'a>(findings: &'a [Value], check: &str, words: &str) -> Vec<&'a str> {
    let about = |finding: &&Value| {
        finding["check"] == check && finding["what"].as_str().is_some_and(|what| what.contains(words))
    };
    findings.iter().filter(about).filter_map(|finding| finding["level"].as_str()).collect()
}

#[test]
fn all_checks_are_made_and_the_exit_status_matches() {
    let found = findings("--udp 127.0.0.1:0 --udp 127.0.0.79:6969 --http 127.0.0.1:0");
    for check in CHECKS {
        assert!(found.iter().any(|finding| finding["check"] == check), "{check}");
    }
    assert_eq!(levels(&found, "io-uring", ""), ["ok"], "the tests need io_uring");
    assert_eq!(levels(&found, "answer", ""), [""; 0], "no tracker was queried");
}

#[test]
fn the_text_has_a_line_for_each_finding() {
    let output = run(ANYWHERE);
    let text = String::from_utf8(output.stdout).expect("a text");
    assert!(!text.contains('\x1b'), "colors only on a terminal: {text}");
    let lines =
        text.lines().filter(|line| ["ok  ", "warn", "FAIL"].iter().any(|word| line.starts_with(word)));
    assert!(lines.count() >= CHECKS.len() - 1, "{text}");
    let amiss = text.lines().filter(|line| line.starts_with("warn") || line.starts_with("FAIL")).count();
    for part in ["cost: ", "fix: "] {
        let below = text.lines().filter(|line| line.trim_start().starts_with(part)).count();
        assert_eq!(below, amiss, "{text}");
    }
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains("findings: ") && last.contains("failure"), "{last}");
}

/// Returns the URLs of a tracker, and the options with its listening addresses.
fn urls(tracker: &Tracker) -> (String, String) {
    let (mut urls, mut listens) = (String::new(), String::new());
    for family in FAMILIES {
        let (udp, http) = (tracker.udp(family), tracker.http(family));
        urls += &format!("--public-url udp://{udp}/announce --public-url http://{http}/announce ");
        listens += &format!("--udp {udp} --http {http} ");
    }
    (urls, listens)
}

#[test]
fn a_running_tracker_passes_at_all_its_addresses() {
    let tracker = Tracker::start(&config(2));
    let (urls, listens) = urls(&tracker);
    for (options, ways) in [(format!("{ANYWHERE} {urls}"), 4), (listens.clone(), 4)] {
        let found = findings(&options);
        for (check, number) in [("answer", ways), ("interval", ways), ("random-hash", ways), ("scrape", ways)]
        {
            assert_eq!(levels(&found, check, ""), vec!["ok"; number], "{check}: {found:#?}");
        }
        assert_eq!(levels(&found, "peers-key", ""), ["ok"; 2]);
    }
    let found = findings(&listens);
    assert_eq!(levels(&found, "listen-address", "something listens"), ["ok"; 4]);
    assert_eq!(levels(&found, "socket-drops", "sockets use the port"), ["ok"]);
}

#[test]
fn an_address_has_one_family() {
    let tracker = Tracker::start(&config(1));
    let udp = tracker.udp(Family::V4);
    let found = findings(&format!("{ANYWHERE} --public-url udp://{udp}"));
    assert_eq!(levels(&found, "public-url", "AAAA none"), ["warn"]);
    assert_eq!(levels(&found, "answer", &udp.to_string()), ["ok"]);
}

#[test]
fn an_interval_that_public_lists_reject_is_a_warning() {
    let short =
        Config { announce_interval_secs: 60, min_interval_secs: 30, peer_timeout_secs: 120, ..config(1) };
    let tracker = Tracker::start(&short);
    let (urls, _) = urls(&tracker);
    let found = findings(&format!("{ANYWHERE} {urls}"));
    assert_eq!(levels(&found, "interval", "out of range: 300 to 10800"), ["warn"; 4]);
    assert_eq!(levels(&found, "options", ""), ["ok"], "the options of this command have another interval");
    let found = findings(&format!("{ANYWHERE} --announce-interval 60 --min-interval 30"));
    assert_eq!(levels(&found, "options", ""), ["warn"]);
}

#[test]
fn a_missing_tracker_fails_at_its_public_url_only() {
    let udp: SocketAddr = UdpSocket::bind("127.0.0.80:0").unwrap().local_addr().unwrap();
    let http: SocketAddr = TcpListener::bind("127.0.0.80:0").unwrap().local_addr().unwrap();
    let found = findings(&format!("--udp {udp} --http {http}"));
    assert_eq!(levels(&found, "listen-address", "is free"), ["ok"; 2]);
    assert_eq!(levels(&found, "answer", ""), [""; 0]);
    let urls = format!("--public-url udp://{udp} --public-url http://{http}/announce");
    let found = findings(&format!("{ANYWHERE} {urls} --public-url udp://tracker.invalid:6969"));
    assert_eq!(levels(&found, "answer", "nothing listens on the port"), ["fail"; 2]);
    assert_eq!(levels(&found, "public-url", "can't resolve tracker.invalid"), ["fail"]);
}

#[test]
fn another_program_at_the_port_is_a_failure() {
    // They accept everything and never answer.
    let (udp, http) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (udp, http) = ((udp.local_addr().unwrap(), udp), (http.local_addr().unwrap(), http));
    let found = findings(&format!("--udp {} --http {}", udp.0, http.0));
    assert_eq!(levels(&found, "answer", "no answer within"), ["fail"; 2], "{found:#?}");
}

#[test]
fn options_that_serve_rejects_are_failures() {
    let found = findings(&format!("{ANYWHERE} --min-interval 9999"));
    assert_eq!(levels(&found, "options", "--min-interval 9999"), ["fail"]);
    let found = findings(&format!("{ANYWHERE} --cores 4095"));
    assert_eq!(levels(&found, "cores", "core 4095"), ["fail"]);
    let found = findings(&format!("{ANYWHERE} --cores 0 --max-memory 16M"));
    assert_eq!(levels(&found, "memory", "--max-memory"), ["fail"]);
    let found = findings("--udp 192.0.2.77:6969 --no-http");
    assert_eq!(levels(&found, "listen-address", "192.0.2.77"), ["fail"]);
}

#[test]
fn io_uring_that_is_forbidden_is_a_failure_with_its_cause() {
    for (call, errno, cure) in [
        (libc::SYS_io_uring_setup, libc::EPERM, "seccomp"),
        (libc::SYS_io_uring_enter, libc::EPERM, "seccomp"),
        (libc::SYS_io_uring_setup, libc::ENOSYS, "CONFIG_IO_URING"),
        (libc::SYS_io_uring_setup, libc::ENOMEM, "ulimit -l"),
    ] {
        let filtered = thread::spawn(move || {
            // A child process has the filter of the thread that starts it.
            let architecture = std::env::consts::ARCH.try_into().unwrap();
            let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
            let filter = SeccompFilter::new([(call, vec![])].into(), others, these, architecture).unwrap();
            let filter: BpfProgram = filter.try_into().unwrap();
            seccompiler::apply_filter(&filter).unwrap();
            findings(ANYWHERE)
        });
        let found = filtered.join().unwrap();
        let ring = found.iter().find(|finding| finding["check"] == "io-uring").expect("such a check");
        assert_eq!(ring["level"], "fail", "{ring}");
        assert!(ring["fix"].as_str().is_some_and(|fix| fix.contains(cure)), "{ring}");
    }
}

#[test]
fn invalid_options_have_their_own_exit_status() {
    for options in
        ["--nonsense", "--cores x", "--public-url tracker.example", "--public-url https://a.example/announce"]
    {
        let output = run(options);
        assert_eq!(output.status.code(), Some(64), "{options}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout.is_empty() && said.contains(options.split(' ').next().unwrap()), "{said}");
    }
    let help = run("--help");
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "--public-url <URL>",
        "--json",
        "[default: none",
        "--receive-buffer",
        "2 with failures",
        "64 if the options",
    ] {
        assert!(words.contains(part), "{part} in {help}");
    }
}
