//! Owns the checks of the kernel and the limits of the process: version, io_uring, limits, memory, clock.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::machine::{Machine, ReadError, ReadResult};
use super::{Finding, parse};
use crate::config::Config;
use crate::error::ring_cure;
use crate::limits::{DEFAULT_HTTP_CONNECTIONS, TURN_DATAGRAMS, WORKER_RING_BYTES};
use crate::ring::{Ring, RingSocket};
use crate::server::{default_memory_bytes, descriptors_needed, table_bytes};
use crate::text::size;

/// The oldest kernel with all io_uring features that the ring uses.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// A kernel's version: major, minor, patch.
type Version = (u32, u32, u32);
/// Ranges of faulty kernels, first and last version, with the problem.
const KERNEL_TROUBLE: [(Version, Version, &str); 1] = [
    // github.com/axboe/liburing/issues/778
    (
        (6, 1, 7),
        (6, 1, 7),
        "multishot receives run out of buffers under load, so that datagrams are delayed or lost",
    ),
];
/// From `linux/capability.h`.
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_RESOURCE: u32 = 24;

/// The input of the system checks.
pub(super) struct System {
    release: ReadResult<String>,
    limits: ReadResult<String>,
    status: ReadResult<String>,
    nr_open: ReadResult<u64>,
    meminfo: ReadResult<String>,
    huge_pages: ReadResult<String>,
    clock_source: ReadResult<String>,
    architecture: &'static str,
}

impl System {
    pub(super) fn read(machine: &Machine) -> Self {
        Self {
            release: machine.line("/proc/sys/kernel/osrelease"),
            limits: machine.text("/proc/self/limits"),
            status: machine.text("/proc/self/status"),
            nr_open: machine.number("/proc/sys/fs/nr_open"),
            meminfo: machine.text("/proc/meminfo"),
            huge_pages: machine.line("/sys/kernel/mm/transparent_hugepage/enabled"),
            clock_source: machine.line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            architecture: std::env::consts::ARCH,
        }
    }

    /// Runs all checks for this number of workers.
    pub(super) fn judge(&self, config: &Config, workers: usize) -> Vec<Finding> {
        vec![
            self.kernel(),
            self.locked_memory(workers),
            self.open_files(config, workers),
            self.memory(config, workers),
            self.huge_pages(),
            self.clock_source(),
        ]
    }

    fn may(&self, capability: u32) -> bool {
        self.status.as_ref().is_ok_and(|status| parse::has_capability(status, capability))
    }

    fn kernel(&self) -> Finding {
        const CHECK: &str = "kernel";
        let release = match &self.release {
            Ok(release) => release,
            Err(error) => return Finding::unknown(CHECK, "the kernel's version", *error),
        };
        let Some(version) = parse::kernel_version(release) else {
            return Finding::unknown(CHECK, "the kernel's version", ReadError::Malformed);
        };
        if (version.0, version.1) < KERNEL_MIN {
            return Finding::fail(CHECK, format!("Linux {release} is too old; 6.1 or newer is needed"))
                .costs("gyre does not start, because the kernel lacks io_uring features")
                .fix("install a kernel of 6.1 or newer with your distribution's packages, and reboot");
        }
        for (first, last, trouble) in KERNEL_TROUBLE {
            if (first..=last).contains(&version) {
                return Finding::warn(CHECK, format!("Linux {release} has a known bug in io_uring"))
                    .costs(trouble)
                    .fix("install the newest kernel of its series with your distribution's packages, and reboot");
            }
        }
        Finding::ok(CHECK, format!("Linux {release}"))
    }

    fn locked_memory(&self, workers: usize) -> Finding {
        const CHECK: &str = "memlock";
        let limit = self.limits.as_ref().map_err(|error| *error);
        let limit =
            limit.and_then(|text| parse::limit(text, "Max locked memory").ok_or(ReadError::Malformed));
        let (soft, _) = match limit {
            Ok(limit) => limit,
            Err(error) => return Finding::unknown(CHECK, "the limit of locked memory", error),
        };
        let needed = workers as u64 * WORKER_RING_BYTES;
        match soft {
            None => Finding::ok(CHECK, "locked memory is not limited"),
            Some(soft) if soft >= needed => Finding::ok(
                CHECK,
                format!("the limit of locked memory is {}; the rings need {}", size(soft), size(needed)),
            ),
            Some(soft) if self.may(CAP_IPC_LOCK) => Finding::ok(
                CHECK,
                format!(
                    "CAP_IPC_LOCK overrides the limit of locked memory of {}; as another user, gyre is \
                     limited by it",
                    size(soft)
                ),
            ),
            Some(soft) => Finding::warn(
                CHECK,
                format!("the limit of locked memory is {}; the rings need {}", size(soft), size(needed)),
            )
            .costs("gyre does not start on a kernel that counts rings as locked memory")
            .fix("`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit"),
        }
    }

    fn open_files(&self, config: &Config, workers: usize) -> Finding {
        const CHECK: &str = "open-files";
        let limit = self.limits.as_ref().map_err(|error| *error);
        let limit = limit.and_then(|text| parse::limit(text, "Max open files").ok_or(ReadError::Malformed));
        let (_, hard) = match limit {
            Ok(limit) => limit,
            Err(error) => return Finding::unknown(CHECK, "the limit of open files", error),
        };
        let needed = descriptors_needed(config, workers, 0);
        let all = needed.own + needed.connections;
        let most = self.nr_open.unwrap_or(u64::MAX);
        let limit = if self.may(CAP_SYS_RESOURCE) { most } else { hard.unwrap_or(most).min(most) };
        let fix = if most < all {
            format!(
                "`sysctl fs.nr_open={all}`, then `ulimit -n {all}` (LimitNOFILE={all} in the systemd unit)"
            )
        } else {
            format!("`ulimit -n {all}` (LimitNOFILE={all} in the systemd unit), or reduce --http-connections")
        };
        if limit >= all {
            let by = if hard.is_some_and(|hard| hard < all) { ", thanks to CAP_SYS_RESOURCE" } else { "" };
            return Finding::ok(CHECK, format!("the limit of open files is {limit}{by}; gyre needs {all}"));
        }
        let what = format!("the limit of open files is {limit}; gyre needs {all}");
        let minimum = needed.own + u64::from(needed.connections > 0) * 2;
        if limit < minimum || config.http_connections.is_some() {
            return Finding::fail(CHECK, what).costs("gyre does not start").fix(fix);
        }
        let left = limit - needed.own;
        Finding::warn(CHECK, what)
            .costs(format!(
                "about {left} HTTP connections instead of {DEFAULT_HTTP_CONNECTIONS}; others get a 503"
            ))
            .fix(fix)
    }

    fn memory(&self, config: &Config, workers: usize) -> Finding {
        const CHECK: &str = "memory";
        if let Err(error) = table_bytes(config, workers) {
            return Finding::fail(CHECK, error.to_string())
                .costs("gyre does not start")
                .fix("raise --max-memory, or use fewer --cores");
        }
        let most = config.max_memory_bytes.unwrap_or_else(default_memory_bytes);
        let meminfo = match &self.meminfo {
            Ok(meminfo) => meminfo,
            Err(error) => return Finding::unknown(CHECK, "the machine's memory", *error),
        };
        let number = |name| parse::memory_bytes(meminfo, name);
        let (Some(total), Some(available)) = (number("MemTotal"), number("MemAvailable")) else {
            return Finding::unknown(CHECK, "the machine's memory", ReadError::Malformed);
        };
        let what = format!(
            "the memory limit of gyre is {}; {} of {} are available",
            size(most),
            size(available),
            size(total)
        );
        if most > total {
            return Finding::fail(CHECK, what)
                .costs("when swarms grow, the kernel kills gyre or swaps it out")
                .fix(format!("set --max-memory {}M", (total / 2) >> 20));
        }
        // A tracker that is already running uses part of the memory that would be available to this one.
        if most > available {
            return Finding::warn(CHECK, what)
                .costs(
                    "when swarms grow, the machine swaps or the kernel kills gyre (unless a running gyre \
                     already uses that memory)",
                )
                .fix(format!(
                    "set --max-memory {}M, or stop other programs that use the memory",
                    (available / 2) >> 20
                ));
        }
        Finding::ok(CHECK, what)
    }

    fn huge_pages(&self) -> Finding {
        const CHECK: &str = "huge-pages";
        const COST: &str = "lookups in a large table have more TLB misses";
        match self.huge_pages.as_deref() {
            Ok(text) if text.contains("[madvise]") || text.contains("[always]") => {
                Finding::ok(CHECK, format!("transparent huge pages are enabled ({text})"))
            }
            Ok(text) => Finding::warn(CHECK, format!("transparent huge pages are disabled ({text})"))
                .costs(COST)
                .fix("`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`"),
            Err(ReadError::Absent) => Finding::warn(CHECK, "the kernel has no transparent huge pages")
                .costs(COST)
                .fix("use a kernel with CONFIG_TRANSPARENT_HUGEPAGE"),
            Err(error) => Finding::unknown(CHECK, "transparent huge pages", *error),
        }
    }

    fn clock_source(&self) -> Finding {
        const CHECK: &str = "clock-source";
        let vdso =
            ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource"];
        match self.clock_source.as_deref() {
            Ok(source) if vdso.contains(&source) => {
                Finding::ok(CHECK, format!("the clock source is {source}"))
            }
            Ok(source) => {
                let fix = match self.architecture {
                    "x86_64" => {
                        "`echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource`; if the kernel \
                         considers it unstable (`dmesg | grep -i tsc`), boot with tsc=reliable once you know \
                         that it is stable"
                    }
                    _ => {
                        "use a clock source that the vDSO can read; see \
                         /sys/devices/system/clocksource/clocksource0/available_clocksource"
                    }
                };
                Finding::warn(CHECK, format!("the clock source is {source}"))
                    .costs(
                        "each reading of the clock (one per turn) is a system call or slower, instead of \
                         about 25 ns",
                    )
                    .fix(fix)
            }
            Err(error) => Finding::unknown(CHECK, "the clock source", *error),
        }
    }
}

/// Sets up a ring like a worker's, and receives a datagram with it.
pub(super) fn try_ring() -> io::Result<()> {
    let receive = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, sender) = (socket.local_addr()?, socket.try_clone()?);
        let mut ring = Ring::new(vec![RingSocket { socket, wildcard: false }])?;
        sender.send_to(b"doctor", address)?;
        for _ in 0..100 {
            ring.submit()?;
            let mut received = false;
            ring.take(TURN_DATAGRAMS, |_, datagram, _| {
                received |= datagram == b"doctor";
                None
            })?;
            if received {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the ring received nothing"))
    };
    // A ring can only be used by the thread that created it.
    let receiver = thread::Builder::new().name("gyre-doctor-ring".into()).spawn(receive)?;
    receiver.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
}

/// Judges the result of [`try_ring`].
pub(super) fn io_uring(tried: &io::Result<()>, machine: &Machine) -> Finding {
    const CHECK: &str = "io-uring";
    let Err(error) = tried else {
        return Finding::ok(CHECK, "io_uring works");
    };
    let disabled = machine.line("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let fix = match (error.raw_os_error(), disabled.as_str()) {
        (Some(libc::EPERM), "1") => {
            "`sysctl kernel.io_uring_disabled=0`, or set kernel.io_uring_group to the group of the user, \
             or use CAP_SYS_ADMIN"
        }
        (Some(libc::EPERM), "2") => "`sysctl kernel.io_uring_disabled=0`",
        (Some(libc::EPERM), _) => {
            "the sysctl permits it, so a seccomp filter forbids it: allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's profile (or SystemCallFilter= of the systemd unit)"
        }
        _ => ring_cure(error).trim_start_matches("; "),
    };
    let fix = if fix.is_empty() { "`dmesg` may show the reason" } else { fix };
    Finding::fail(CHECK, format!("can't set up the io_uring of a worker: {error}"))
        .costs("gyre does not start")
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn healthy() -> System {
        let limits = "Max open files            1024                 524288               files     \n\
                      Max locked memory         8388608              8388608              bytes     \n";
        System {
            release: Ok("6.12.3".into()),
            limits: Ok(limits.into()),
            status: Ok("CapEff:\t0000000000000000\n".into()),
            nr_open: Ok(1 << 20),
            meminfo: Ok("MemTotal: 1000000000 kB\nMemAvailable: 900000000 kB\n".into()),
            huge_pages: Ok("always [madvise] never".into()),
            clock_source: Ok("tsc".into()),
            architecture: "x86_64",
        }
    }

    fn config() -> Config {
        Config { max_memory_bytes: Some(1 << 30), ..Config::default() }
    }

    /// Returns the only finding that is not ok.
    #[track_caller]
    fn the_problem(change: impl FnOnce(&mut System, &mut Config)) -> Finding {
        let (mut system, mut config) = (healthy(), config());
        change(&mut system, &mut config);
        let findings = system.judge(&config, 2);
        let mut problems: Vec<_> = findings.into_iter().filter(|finding| finding.level > Level::Ok).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let finding = problems.remove(0);
        assert!(finding.cost.is_some() && finding.fix.is_some(), "{finding:?}");
        finding
    }

    #[test]
    fn a_healthy_system_passes() {
        let findings = healthy().judge(&config(), 2);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    }

    #[test]
    fn old_and_faulty_kernels() {
        for (release, level) in [
            ("5.15.0-91-generic", Level::Fail),
            ("6.0.19", Level::Fail),
            ("6.1.7-1", Level::Warn),
            ("unknown", Level::Warn),
        ] {
            assert_eq!(
                the_problem(|system, _| system.release = Ok(release.into())).level,
                level,
                "{release}"
            );
        }
        let fine = System { release: Ok("6.1.0-13-amd64".into()), ..healthy() };
        assert_eq!(fine.kernel().level, Level::Ok);
        assert!(
            the_problem(|system, _| system.release = Err(ReadError::Absent)).what.starts_with("can't check")
        );
    }

    #[test]
    fn limits_that_are_too_low() {
        let limits = |files: u64, locked: u64| {
            Ok(format!("Max open files  {files} {files} files\nMax locked memory  {locked} {locked} bytes\n"))
        };
        let found = the_problem(|system, _| system.limits = limits(1 << 20, 65_536));
        assert_eq!((found.check, found.level), ("memlock", Level::Warn));
        let found = the_problem(|system, _| system.limits = limits(1_024, 8 << 20));
        assert_eq!((found.check, found.level), ("open-files", Level::Warn));
        assert!(found.cost.unwrap().contains("HTTP connections"));
        let found = the_problem(|system, config| {
            system.limits = limits(1_024, 8 << 20);
            config.http_connections = Some(5_000);
        });
        assert_eq!((found.check, found.level), ("open-files", Level::Fail), "serve would refuse");
        let found = the_problem(|system, _| system.limits = limits(20, 8 << 20));
        assert_eq!(found.level, Level::Fail);
        let found = the_problem(|system, config| {
            system.nr_open = Ok(1_000);
            config.http_connections = Some(5_000);
        });
        assert!(found.fix.unwrap().contains("fs.nr_open"));
        let capable =
            System { limits: limits(64, 64), status: Ok("CapEff:\t000001ffffffffff\n".into()), ..healthy() };
        assert!(capable.judge(&config(), 2).iter().all(|finding| finding.level == Level::Ok));
    }

    #[test]
    fn memory_limits_beyond_the_machine() {
        let little = |total: u64, available: u64| {
            Ok(format!("MemTotal: {} kB\nMemAvailable: {} kB\n", total >> 10, available >> 10))
        };
        assert_eq!(the_problem(|system, _| system.meminfo = little(1 << 29, 1 << 28)).level, Level::Fail);
        assert_eq!(the_problem(|system, _| system.meminfo = little(1 << 31, 1 << 28)).level, Level::Warn);
        let found = the_problem(|_, config| config.max_memory_bytes = Some(16 << 20));
        assert!(found.level == Level::Fail && found.what.contains("--max-memory"), "{found:?}");
        assert_eq!(the_problem(|system, _| system.meminfo = Ok("x".into())).level, Level::Warn);
    }

    #[test]
    fn pages_and_clocks() {
        let found = the_problem(|system, _| system.huge_pages = Ok("always madvise [never]".into()));
        assert_eq!(found.check, "huge-pages");
        assert_eq!(the_problem(|system, _| system.huge_pages = Err(ReadError::Absent)).check, "huge-pages");
        let found = the_problem(|system, _| system.clock_source = Ok("hpet".into()));
        assert!(found.check == "clock-source" && found.fix.unwrap().contains("tsc"));
    }

    #[test]
    fn errors_of_the_ring_are_explained() {
        use super::super::machine::tests::Scratch;
        let forbidden = Scratch::new(&[("/proc/sys/kernel/io_uring_disabled", "2\n")]);
        let allowed = Scratch::new(&[("/proc/sys/kernel/io_uring_disabled", "0\n")]);
        let fix = |errno: i32, scratch: &Scratch| {
            let found = io_uring(&Err(io::Error::from_raw_os_error(errno)), &scratch.machine());
            assert_eq!(found.level, Level::Fail);
            found.fix.unwrap()
        };
        assert!(fix(libc::EPERM, &forbidden).contains("io_uring_disabled=0"));
        assert!(fix(libc::EPERM, &allowed).contains("seccomp"));
        assert!(fix(libc::ENOSYS, &allowed).contains("CONFIG_IO_URING"));
        assert!(fix(libc::ENOMEM, &allowed).contains("ulimit -l"));
        assert!(fix(libc::EIO, &allowed).contains("dmesg"));
        assert_eq!(io_uring(&Ok(()), &allowed.machine()).level, Level::Ok);
        try_ring().expect("the tests need io_uring");
    }
}
