//! Owns the forms of the kernel's text: what stands in which column of which file. Nothing here fails: a line that is
//! not understood is left out.

use std::collections::BTreeMap;

/// Cores beyond this are taken for nonsense, not for cores.
const CORES: usize = 8_192;

/// Reads a list of cores: `0-3,6`.
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

/// Reads a mask of cores: words of 32 bits in hexadecimal, the highest first.
pub(super) fn core_mask(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for (word, digits) in text.trim().rsplit(',').take(CORES / 32).enumerate() {
        let bits = u32::from_str_radix(digits.trim(), 16).unwrap_or(0);
        cores.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 32 + bit));
    }
    cores
}

/// Writes cores as a mask, as `rps_cpus` takes it.
pub(super) fn to_mask(cores: &[usize]) -> String {
    let mut words = vec![0_u32; cores.iter().max().map_or(1, |most| most / 32 + 1)];
    for core in cores {
        words[core / 32] |= 1 << (core % 32);
    }
    let mut words = words.iter().rev();
    let first = words.next().map(|word| format!("{word:x}")).unwrap_or_default();
    words.fold(first, |text, word| format!("{text},{word:08x}"))
}

/// The numbers of a kernel's release: `6.1.0-13-amd64` is 6, 1, 0.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    Some((major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

/// A limit of `/proc/self/limits`, soft and hard; `None` within is no limit.
pub(super) fn limit(limits: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut columns = rest.split_whitespace().map(|word| match word {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    });
    Some((columns.next()??, columns.next()??))
}

/// What stands behind a name and a colon, in `/proc/self/status` and `/proc/meminfo`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A number of `/proc/meminfo`, in bytes.
pub(super) fn memory_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether `/proc/self/status` shows a capability, by its number in `linux/capability.h`.
pub(super) fn has_capability(status: &str, number: u32) -> bool {
    let mask = field(status, "CapEff").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.unwrap_or(0) >> number & 1 == 1
}

/// A count of `/proc/net/snmp`, where a line of names comes before a line of numbers.
pub(super) fn snmp(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let at = lines.next()?.split_whitespace().position(|found| found == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// A count of `/proc/net/snmp6`, one to a line.
pub(super) fn snmp6(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut words = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.next()?.parse().ok()
}

/// A core's line of `/proc/net/softnet_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Softnet {
    pub(super) core: usize,
    /// Packets that the core took from interfaces.
    pub(super) processed: u64,
    /// Packets that its backlog had no room for.
    pub(super) dropped: u64,
    /// Times that its turn was over with packets left.
    pub(super) squeezed: u64,
}

/// Reads `/proc/net/softnet_stat`, all of it in hexadecimal.
pub(super) fn softnet(text: &str) -> Vec<Softnet> {
    let line = |(row, line): (usize, &str)| {
        let column = |at: usize| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok();
        // The column of the core's number is younger than the file; before it rows were cores.
        let core = column(12).map_or(row, |core| core as usize);
        Some(Softnet { core, processed: column(0)?, dropped: column(1)?, squeezed: column(2)? })
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// The numbers of the columns `CPU0 CPU1 …` that `/proc/softirqs` and `/proc/interrupts` begin with.
fn cores_of_head(text: &str) -> Vec<usize> {
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.strip_prefix("CPU")?.parse().ok()).collect()
}

/// A row of `/proc/softirqs`: how often on which core.
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
    /// How often it came, on all cores.
    pub(super) count: u64,
    /// What its driver calls it.
    pub(super) name: String,
}

/// The numbered rows of `/proc/interrupts`.
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

/// A core's time, in ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CoreTime {
    /// In programs and in the kernel for them.
    pub(super) programs: u64,
    /// In interrupts, for the most part those of the network.
    pub(super) interrupts: u64,
    /// When it was ready, but the hypervisor ran somebody else.
    pub(super) stolen: u64,
    /// All of it.
    pub(super) total: u64,
}

impl CoreTime {
    /// What has passed since an earlier reading.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            programs: self.programs.saturating_sub(before.programs),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            stolen: self.stolen.saturating_sub(before.stolen),
            total: self.total.saturating_sub(before.total),
        }
    }
}

/// The cores' times of `/proc/stat`.
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

/// What `/proc/PID/task/TID/stat` tells of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) name: String,
    /// Time that it has run, in ticks.
    pub(super) ticks: u64,
    /// The core that it ran on last.
    pub(super) core: usize,
}

/// Reads a thread's `stat`. Its name stands in brackets and may hold anything, brackets too.
pub(super) fn task(text: &str) -> Option<Task> {
    let (head, rest) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    // The first word behind the name is field 3 of proc(5).
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.saturating_add(number(15)?);
    Some(Task { name, ticks, core: usize::try_from(number(39)?).ok()? })
}

/// A row of `/proc/net/udp` or `/proc/net/udp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UdpRow {
    pub(super) port: u16,
    /// Bytes that wait to be received.
    pub(super) waiting: u64,
    /// Datagrams that its receive buffer had no room for.
    pub(super) drops: u64,
}

/// Reads `/proc/net/udp` or `/proc/net/udp6`.
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
