//! Owns the limits, the memory and CPU figures, and the source of randomness of the process.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Returns the CPU time that the calling thread has used.
pub fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Raises the limit of open descriptors to `wanted`, or as far as allowed. Returns `wanted` if the limit is at least
/// that, otherwise the limit.
pub fn raise_descriptor_limit(wanted: u64) -> u64 {
    raise_limit(Resource::Nofile, wanted)
}

/// Like [`raise_descriptor_limit`], but for the bytes of locked memory, which includes rings.
pub fn raise_locked_limit(wanted: u64) -> u64 {
    raise_limit(Resource::Memlock, wanted)
}

fn raise_limit(resource: Resource, wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    let Some(current) = current.filter(|&current| current < wanted) else {
        return wanted;
    };
    // With CAP_SYS_RESOURCE the hard limit can be raised too. Otherwise the soft limit is raised up to it.
    let hard = maximum.unwrap_or(u64::MAX);
    for (soft, hard) in [(wanted, hard.max(wanted)), (hard.min(wanted), hard)] {
        let limit = Rlimit { current: Some(soft), maximum: Some(hard).filter(|_| maximum.is_some()) };
        if setrlimit(resource, limit).is_ok() {
            return soft;
        }
    }
    current
}

/// Returns the resident memory of the process, or 0 if it can't be read.
pub fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    resident.unwrap_or_default() * rustix::param::page_size() as u64
}

/// Returns unpredictable random bytes.
///
/// # Errors
///
/// As `getrandom(2)`.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// Returns the memory available to the process: the machine's, or the lowest limit of its cgroups (version 2).
pub fn memory_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.saturating_mul(u64::from(machine.mem_unit));
    let line = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = line.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let groups = root.join(own);
    let limits = groups.ancestors().take_while(|group| group.starts_with(root)).filter_map(|group| {
        let limit: PathBuf = group.join("memory.max");
        fs::read_to_string(limit).ok()?.trim().parse::<u64>().ok()
    });
    limits.fold(machine, u64::min)
}
