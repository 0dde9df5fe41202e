//! Owns the tests of all checks together, on fake machines.

use super::machine::tests::Scratch;
use super::*;

const CHECKS: [&str; 27] = [
    "kernel",
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
    "conntrack-port",
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
];

fn config() -> Config {
    Config { max_memory_bytes: Some(1 << 30), ..Config::default() }
}

/// A machine with one core and no problems.
fn healthy() -> Scratch {
    Scratch::new(&[
        ("/proc/sys/kernel/osrelease", "6.12.9\n"),
        (
            "/proc/self/limits",
            "Max open files  1048576 1048576 files\nMax locked memory  8388608 8388608 bytes\n",
        ),
        ("/proc/self/status", "CapEff:\t0\nCpus_allowed_list:\t0\n"),
        ("/proc/sys/fs/nr_open", "1048576\n"),
        ("/proc/meminfo", "MemTotal: 32000000 kB\nMemAvailable: 30000000 kB\n"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ("/proc/sys/net/core/rmem_max", "8388608\n"),
        ("/proc/sys/net/core/wmem_default", "212992\n"),
        ("/proc/sys/net/ipv4/udp_mem", "300000 400000 600000\n"),
        ("/proc/sys/net/core/somaxconn", "4096\n"),
        ("/proc/net/snmp", "Udp: InDatagrams InErrors RcvbufErrors\nUdp: 100000 0 0\n"),
        ("/proc/net/softnet_stat", "00010000 00000000 00000000\n"),
        ("/proc/net/udp", "head\n"),
        ("/proc/softirqs", "CPU0\nNET_RX: 10000\n"),
        ("/proc/stat", "cpu0 1 1 1 100 0 0 0 0 0 0\n"),
        ("/sys/devices/system/cpu/online", "0\n"),
        ("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ])
}

#[test]
fn a_healthy_machine_passes_all_checks() {
    let findings = examine_machine(&healthy().machine(), &config(), || {});
    assert_eq!(worst(&findings), Level::Ok, "{findings:#?}");
    let found: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(found, CHECKS);
}

#[test]
fn a_machine_without_readable_files_does_not_pass() {
    let findings = examine_machine(&Scratch::new(&[]).machine(), &config(), || {});
    for finding in &findings {
        // Features that are not loaded or do not exist are no problem. The rest is unknown.
        let may_be_absent = [
            "conntrack-table",
            "conntrack-port",
            "card-drops",
            "receive-queues",
            "queue-affinity",
            "cpu-quota",
            "numa",
            "governor",
        ];
        assert_eq!(finding.level == Level::Ok, may_be_absent.contains(&finding.check), "{finding:?}");
        assert_eq!(finding.cost.is_some() && finding.fix.is_some(), finding.level > Level::Ok, "{finding:?}");
    }
    assert_eq!(findings.len(), CHECKS.len());
}

#[test]
fn changes_between_the_readings_are_detected() {
    let scratch = healthy();
    let change =
        || scratch.write("/proc/net/snmp", "Udp: InDatagrams InErrors RcvbufErrors\nUdp: 100900 5 5\n");
    let findings = examine_machine(&scratch.machine(), &config(), change);
    let problems: Vec<_> = findings.iter().filter(|finding| finding.level > Level::Ok).collect();
    assert!(
        problems.len() == 1 && problems[0].check == "udp-drops" && problems[0].level == Level::Fail,
        "{problems:?}"
    );
}

#[test]
fn malformed_files_are_tolerated() {
    let scratch = healthy();
    let paths = [
        "/proc/sys/kernel/osrelease",
        "/proc/self/limits",
        "/proc/self/status",
        "/proc/meminfo",
        "/proc/net/snmp",
        "/proc/net/softnet_stat",
        "/proc/net/udp",
        "/proc/softirqs",
        "/proc/stat",
        "/proc/sys/net/ipv4/udp_mem",
        "/sys/devices/system/cpu/online",
        "/proc/self/cgroup",
        "/proc/interrupts",
        "/proc/sys/net/core/rmem_max",
    ];
    for text in
        ["", "\u{0}\u{ffff}", "18446744073709551615 18446744073709551615\n", "cpu0 : : :\nCPU0\n", "-1"]
    {
        paths.iter().for_each(|path| scratch.write(path, text));
        let findings = examine_machine(&scratch.machine(), &config(), || {});
        assert!(worst(&findings) > Level::Ok, "{text:?}");
        to_text(&findings, true);
        to_json(&findings);
    }
}

#[test]
fn options_that_serve_rejects_are_a_failure() {
    assert_eq!(check_options(&config()).level, Level::Ok);
    assert_eq!(
        check_options(&Config { announce_interval_secs: 120, min_interval_secs: 60, ..config() }).level,
        Level::Warn
    );
    assert_eq!(check_options(&Config { min_interval_secs: 9_999, ..config() }).level, Level::Fail);
    assert_eq!([Level::Ok, Level::Warn, Level::Fail].map(Level::exit_code), [0, 1, 2]);
}
