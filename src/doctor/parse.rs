//! Owns the formats of the kernel's files. Parsing never fails: lines with an unexpected format are skipped.

use std::collections::BTreeMap;

/// Core numbers from this on are considered invalid.
const CORES: usize = 8_192;

/// Parses a list of cores: `0-3,6`.
pub(super) fn core_list(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
            && last < CORES
            && cores.len() < CORES
        {
            cores.extend(first..=last);
        }
    }
    cores
}

/// Parses a mask of cores: words of 32 bits in hexadecimal, the highest first.
pub(super) fn core_mask(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for (word, digits) in text.trim().rsplit(',').take(CORES / 32).enumerate() {
        let bits = u32::from_str_radix(digits.trim(), 16).unwrap_or(0);
        cores.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 32 + bit));
    }
    cores
}

/// Formats cores as a mask for `rps_cpus`.
pub(super) fn to_mask(cores: &[usize]) -> String {
    let mut words = vec![0_u32; cores.iter().max().map_or(1, |most| most / 32 + 1)];
    for core in cores {
        words[core / 32] |= 1 << (core % 32);
    }
    let mut words = words.iter().rev();
    let first = words.next().map(|word| format!("{word:x}")).unwrap_or_default();
    words.fold(first, |text, word| format!("{text},{word:08x}"))
}

/// Parses a kernel release: `6.1.0-13-amd64` is 6, 1, 0.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    Some((major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

/// Returns a limit of `/proc/self/limits`, soft and hard; `None` within means unlimited.
pub(super) fn limit(limits: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut columns = rest.split_whitespace().map(|word| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((columns.next()??, columns.next()??))
}

/// Returns the text after a name and a colon, in `/proc/self/status` and `/proc/meminfo`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Returns a value of `/proc/meminfo` in bytes.
pub(super) fn memory_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns whether `/proc/self/status` has a capability, by its number in `linux/capability.h`.
pub(super) fn has_capability(status: &str, number: u32) -> bool {
    let mask = field(status, "CapEff").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.unwrap_or(0) >> number & 1 == 1
}

/// Returns a counter of `/proc/net/snmp`, which has a line of names before each line of numbers.
pub(super) fn snmp(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let at = lines.next()?.split_whitespace().position(|found| found == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// Returns a counter of `/proc/net/snmp6`, which has one in each line.
pub(super) fn snmp6(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut words = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.next()?.parse().ok()
}

/// The line of a core in `/proc/net/softnet_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Softnet {
    pub(super) core: usize,
    /// Packets that the core has received from interfaces.
    pub(super) processed: u64,
    /// Packets dropped because its backlog was full.
    pub(super) dropped: u64,
    /// Number of polls that ended with packets left.
    pub(super) squeezed: u64,
}

/// Parses `/proc/net/softnet_stat`, which is in hexadecimal.
pub(super) fn softnet(text: &str) -> Vec<Softnet> {
    let line = |(row, line): (usize, &str)| {
        let column = |at: usize| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok();
        // Older kernels have no column with the core's number. There, the rows are the cores.
        let core = column(12).map_or(row, |core| core as usize);
        Some(Softnet { core, processed: column(0)?, dropped: column(1)?, squeezed: column(2)? })
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// Returns the core numbers of the columns `CPU0 CPU1 …` at the start of `/proc/softirqs` and `/proc/interrupts`.
fn cores_of_head(text: &str) -> Vec<usize> {
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.strip_prefix("CPU")?.parse().ok()).collect()
}

/// Returns the counts of a row of `/proc/softirqs` by core.
pub(super) fn softirqs(text: &str, name: &str) -> BTreeMap<usize, u64> {
    let cores = cores_of_head(text);
    let row = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    let counts = row.unwrap_or_default().split_whitespace().map_while(|count| count.parse().ok());
    cores.into_iter().zip(counts).collect()
}

/// An interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interrupt {
    pub(super) number: u32,
    /// Number of interrupts on all cores.
    pub(super) count: u64,
    /// Name from the driver.
    pub(super) name: String,
}

/// Returns the numbered rows of `/proc/interrupts`.
pub(super) fn interrupts(text: &str) -> Vec<Interrupt> {
    let cores = cores_of_head(text).len();
    let row = |line: &str| {
        let (number, rest) = line.trim_start().split_once(':')?;
        let counts: Vec<u64> =
            rest.split_whitespace().take(cores).map_while(|count| count.parse().ok()).collect();
        let name = rest.split_whitespace().skip(counts.len()).last().unwrap_or_default().to_owned();
        let count = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        Some(Interrupt { number: number.parse().ok()?, count, name })
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Times of a core, in ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CoreTime {
    /// In programs, and in the kernel on their behalf.
    pub(super) programs: u64,
    /// In interrupts, mostly of the network.
    pub(super) interrupts: u64,
    /// Time that the hypervisor gave to another machine although this core had work.
    pub(super) stolen: u64,
    /// Total time.
    pub(super) total: u64,
}

impl CoreTime {
    /// Returns the difference from an earlier reading.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            programs: self.programs.saturating_sub(before.programs),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            stolen: self.stolen.saturating_sub(before.stolen),
            total: self.total.saturating_sub(before.total),
        }
    }
}

/// Returns the times of the cores from `/proc/stat`.
pub(super) fn core_times(text: &str) -> BTreeMap<usize, CoreTime> {
    let line = |line: &str| {
        let (core, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
        let ticks: Vec<u64> = rest.split_whitespace().map_while(|ticks| ticks.parse().ok()).take(8).collect();
        let [user, nice, system, _idle, _wait, irq, softirq, stolen] = ticks[..] else { return None };
        let sum = |ticks: &[u64]| ticks.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
        let time = CoreTime {
            programs: sum(&[user, nice, system]),
            interrupts: sum(&[irq, softirq]),
            stolen,
            total: sum(&ticks),
        };
        Some((core.parse().ok()?, time))
    };
    text.lines().filter_map(line).collect()
}

/// A thread, from `/proc/PID/task/TID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) name: String,
    /// CPU time in ticks.
    pub(super) ticks: u64,
    /// The core that it last ran on.
    pub(super) core: usize,
}

/// Parses the `stat` of a thread. The name is in parentheses and can contain any characters, including parentheses.
pub(super) fn task(text: &str) -> Option<Task> {
    let (head, rest) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    // The first word after the name is field 3 in proc(5).
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.saturating_add(number(15)?);
    Some(Task { name, ticks, core: usize::try_from(number(39)?).ok()? })
}

/// A row of `/proc/net/udp` or `/proc/net/udp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UdpRow {
    pub(super) port: u16,
    /// Bytes in its receive buffer.
    pub(super) waiting: u64,
    /// Datagrams dropped because its receive buffer was full.
    pub(super) drops: u64,
}

/// Parses `/proc/net/udp` or `/proc/net/udp6`.
pub(super) fn udp_rows(text: &str) -> Vec<UdpRow> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = words.get(1)?.rsplit_once(':')?;
        let (_, waiting) = words.get(4)?.split_once(':')?;
        Some(UdpRow {
            port: u16::from_str_radix(port, 16).ok()?,
            waiting: u64::from_str_radix(waiting, 16).ok()?,
            drops: words.get(12)?.parse().ok()?,
        })
    };
    text.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests;
