//! Owns the figures from `/proc`: CPU time and memory of the server, and a description of the machine.

use std::fs;

/// Units of CPU time in a second: USER_HZ, the same on all architectures that gyre supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) user_secs: f64,
    pub(crate) system_secs: f64,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Reads the usage of a process. Fails if the process does not exist.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| format!("--pid {pid}: {error}"))
        };
        Self::parse(&read("stat")?, &read("status")?)
            .ok_or_else(|| format!("--pid {pid}: no CPU time or memory in /proc"))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is a name in brackets, which may contain any characters.
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let secs = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib = resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(Self { user_secs: secs(11)?, system_secs: secs(12)?, resident_bytes: kib * 1024 })
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
        assert_eq!(usage, Usage { user_secs: 2.5, system_secs: 0.5, resident_bytes: 2 << 20 });
        assert_eq!(Usage::parse("", ""), None);
        assert!(Usage::of(std::process::id()).unwrap().resident_bytes > 1 << 20);
        assert!(Usage::of(u32::MAX).is_err());
        assert!(machine().contains("Linux"));
    }
}
