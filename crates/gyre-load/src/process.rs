//! Owns the figures from `/proc`: CPU time, wake-ups and memory of the server, and a description of the machine.

use std::fs;

/// Units of CPU time in a second: USER_HZ, the same on all architectures that gyre supports.
const TICKS_PER_SECOND: f64 = 100.0;
/// Maximum difference of a CPU time in ticks from the exact one: user time and system time are each rounded to a tick.
const ROUNDING_SECS: f64 = 2.0 / TICKS_PER_SECOND;

/// CPU time, wake-ups and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) user_secs: f64,
    pub(crate) system_secs: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: ThreadUsage,
}

/// Sum over the threads that a process has now. Threads that have ended are not included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ThreadUsage {
    /// CPU time in nanoseconds.
    cpu_nanos: u64,
    /// Number of times that a thread went to sleep.
    sleeps: u64,
}

impl ThreadUsage {
    /// Reads the usage of the threads of a process. What can't be read counts as 0: threads may end meanwhile.
    fn of(pid: u32) -> Self {
        let mut sum = Self::default();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            sum.add(&read("schedstat"), &read("status"));
        }
        sum
    }

    /// Adds a thread, from the texts of its files `schedstat` and `status`.
    fn add(&mut self, schedstat: &str, status: &str) {
        let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        self.cpu_nanos += first_number(schedstat);
        self.sleeps += sleeps.map_or(0, first_number);
    }
}

/// Returns the number that a text starts with, or 0.
fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

impl Usage {
    /// Reads the usage of a process. Fails if the process does not exist.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| format!("--pid {pid}: {error}"))
        };
        let usage = Self::parse(&read("stat")?, &read("status")?)
            .ok_or_else(|| format!("--pid {pid}: no CPU time or memory in /proc"))?;
        Ok(Self { threads: ThreadUsage::of(pid), ..usage })
    }

    /// Returns the CPU time since an earlier reading in seconds: exactly, or in ticks if a thread has ended since then
    /// or the kernel has no `schedstat`.
    pub(crate) fn cpu_secs_since(&self, earlier: &Self) -> f64 {
        let ticks = self.user_secs + self.system_secs - earlier.user_secs - earlier.system_secs;
        let exact = self.threads.cpu_nanos.saturating_sub(earlier.threads.cpu_nanos) as f64 / 1e9;
        if (exact - ticks).abs() <= ROUNDING_SECS { exact } else { ticks }
    }

    /// Returns the number of times that a thread went to sleep since an earlier reading, which is also the number of
    /// wake-ups.
    pub(crate) fn wakes_since(&self, earlier: &Self) -> u64 {
        self.threads.sleeps.saturating_sub(earlier.threads.sleeps)
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is a name in brackets, which may contain any characters.
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let secs = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib = resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(Self {
            user_secs: secs(11)?,
            system_secs: secs(12)?,
            resident_bytes: kib * 1024,
            ..Self::default()
        })
    }
}

/// Describes the machine in one line.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim()).to_owned();
    let cores = cpu_info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_parsed() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 12345 1 2\n";
        let usage = Usage::parse(stat, "Name:\tx\nVmRSS:\t    2048 kB\n").unwrap();
        let threads = ThreadUsage::default();
        assert_eq!(usage, Usage { user_secs: 2.5, system_secs: 0.5, resident_bytes: 2 << 20, threads });
        assert_eq!(Usage::parse("", ""), None);
        assert!(Usage::of(std::process::id()).unwrap().resident_bytes > 1 << 20);
        assert!(Usage::of(u32::MAX).is_err());
        assert!(machine().contains("Linux"));
    }

    #[test]
    fn threads_are_summed() {
        let mut sum = ThreadUsage::default();
        sum.add("1500 20 3\n", "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t90\n");
        sum.add("500 1 1\n", "voluntary_ctxt_switches:\t2\n");
        sum.add("", "");
        assert_eq!(sum, ThreadUsage { cpu_nanos: 2_000, sleeps: 9 });
    }

    #[test]
    fn cpu_time_is_finer_than_ticks_unless_a_thread_ended() {
        let usage = |user_secs, cpu_nanos, sleeps| Usage {
            user_secs,
            threads: ThreadUsage { cpu_nanos, sleeps },
            ..Usage::default()
        };
        let before = usage(1.0, 1_000_000_000, 5);
        let after = usage(1.05, 1_056_000_000, 12);
        assert_eq!((after.cpu_secs_since(&before), after.wakes_since(&before)), (0.056, 7));
        let ended = usage(3.0, 500_000_000, 1);
        assert_eq!((ended.cpu_secs_since(&before), ended.wakes_since(&before)), (2.0, 0));
    }

    #[test]
    fn sleeps_of_this_process_are_counted() {
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.wakes_since(&Usage::default()) >= 3);
    }
}
