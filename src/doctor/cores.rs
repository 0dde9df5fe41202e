//! Owns the checks of the cores: whether the workers have them to themselves, at full speed and near their memory.

use std::collections::BTreeMap;

use super::machine::{Machine, ReadError, ReadResult};
use super::sample::Sample;
use super::{Finding, count_of, named, parse};
use crate::config::Cores;
use crate::server::format_cores;

/// Share of a core used by other programs, in percent, from which on it is a warning.
const OTHERS_PERCENT: u64 = 20;
/// Share of a core taken by the hypervisor, in percent, from which on it is a warning.
const STOLEN_PERCENT: u64 = 5;
/// Maximum number of threads to name, those with the highest load.
const NAMED: usize = 3;

/// The cores that the workers would run on.
pub(super) struct Chosen {
    cores: Vec<usize>,
    workers: usize,
    refused: Option<String>,
}

impl Chosen {
    /// Applies `--cores` on this machine.
    pub(super) fn of(cores: &Cores, machine: &Machine) -> Self {
        let status = machine.text("/proc/self/status").unwrap_or_default();
        let allowed = parse::core_list(parse::field(&status, "Cpus_allowed_list").unwrap_or_default());
        match super::choose(cores, &allowed) {
            Ok(chosen) if !chosen.is_empty() => {
                let workers = chosen.len();
                let mut chosen: Vec<usize> = chosen.into_iter().flatten().collect();
                chosen.sort_unstable();
                // Workers that are not pinned can run on any core.
                Self { cores: if chosen.is_empty() { allowed } else { chosen }, workers, refused: None }
            }
            Ok(_) => {
                Self { cores: allowed, workers: 1, refused: Some("this process may not use any core".into()) }
            }
            Err(refused) => Self { cores: allowed, workers: 1, refused: Some(refused) },
        }
    }

    #[cfg(test)]
    pub(super) fn these(cores: Vec<usize>) -> Self {
        Self { workers: cores.len(), cores, refused: None }
    }

    /// Returns the cores in ascending order.
    pub(super) fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Returns the number of workers.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    fn list(&self) -> String {
        format_cores(&self.cores)
    }
}

/// The input of the core checks.
pub(super) struct CoreFacts {
    isolated: ReadResult<String>,
    nohz_full: ReadResult<String>,
    online: ReadResult<String>,
    quota: Option<Quota>,
    /// The cores of each NUMA node.
    nodes: BTreeMap<usize, Vec<usize>>,
    /// The NUMA node of each interface that belongs to one.
    interface_nodes: BTreeMap<String, usize>,
    /// The governor of each chosen core that has one.
    governors: BTreeMap<usize, String>,
    /// The cores that share the units of each chosen core, including itself.
    siblings: BTreeMap<usize, Vec<usize>>,
}

/// CPU limit of a control group: `allowed` microseconds of CPU time in each `period` microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Quota {
    file: String,
    allowed: u64,
    period: u64,
}

impl CoreFacts {
    pub(super) fn read(machine: &Machine, chosen: &Chosen) -> Self {
        let nodes = machine.names("/sys/devices/system/node").into_iter().filter_map(|name| {
            let number = name.strip_prefix("node")?.parse().ok()?;
            let cores = machine.line(&format!("/sys/devices/system/node/{name}/cpulist")).ok()?;
            Some((number, parse::core_list(&cores)))
        });
        let interfaces = super::sample::real_interfaces(machine).into_iter().filter_map(|name| {
            // -1 means that the device belongs to no node.
            let node = machine.number(&format!("/sys/class/net/{name}/device/numa_node")).ok()?;
            Some((name, usize::try_from(node).ok()?))
        });
        let of_core =
            |core: usize, file: &str| machine.line(&format!("/sys/devices/system/cpu/cpu{core}/{file}")).ok();
        let cores = || chosen.cores.iter().copied();
        Self {
            isolated: machine.line("/sys/devices/system/cpu/isolated"),
            nohz_full: machine.line("/sys/devices/system/cpu/nohz_full"),
            online: machine.line("/sys/devices/system/cpu/online"),
            quota: quota(machine),
            nodes: nodes.collect(),
            interface_nodes: interfaces.collect(),
            governors: cores()
                .filter_map(|core| Some((core, of_core(core, "cpufreq/scaling_governor")?)))
                .collect(),
            siblings: cores()
                .filter_map(|core| {
                    Some((core, parse::core_list(&of_core(core, "topology/thread_siblings_list")?)))
                })
                .collect(),
        }
    }

    pub(super) fn judge(&self, chosen: &Chosen) -> Vec<Finding> {
        vec![
            self.cores(chosen),
            self.isolation(chosen),
            self.quota(chosen),
            self.numa(chosen),
            self.governor(chosen),
            self.siblings(chosen),
        ]
    }

    fn cores(&self, chosen: &Chosen) -> Finding {
        const CHECK: &str = "cores";
        if let Some(refused) = &chosen.refused {
            return Finding::fail(CHECK, refused.clone()).costs("gyre does not start").fix(format!(
                "set --cores {}, or allow more cores with `taskset`, CPUAffinity= or cpuset",
                chosen.list()
            ));
        }
        Finding::ok(CHECK, format!("{} on {}", count_of(chosen.workers, "worker"), named(&chosen.cores)))
    }

    fn isolation(&self, chosen: &Chosen) -> Finding {
        const CHECK: &str = "isolation";
        let online = match &self.online {
            Ok(online) => parse::core_list(online),
            Err(error) => return Finding::unknown(CHECK, "the online cores", *error),
        };
        let list = |seen: &ReadResult<String>| seen.as_deref().map(parse::core_list).unwrap_or_default();
        let (isolated, tickless) = (list(&self.isolated), list(&self.nohz_full));
        let kept: Vec<usize> = isolated.iter().copied().filter(|core| !chosen.cores.contains(core)).collect();
        if !kept.is_empty() && !isolated.iter().any(|core| chosen.cores.contains(core)) {
            let cores = format_cores(&kept);
            return Finding::warn(
                CHECK,
                format!("cores {cores} are isolated (isolcpus), but gyre does not use them"),
            )
            .costs("gyre shares its cores with all other programs, while the isolated cores idle")
            .fix(format!("set --cores {cores} (`auto` does not include isolated cores)"));
        }
        let ours = |cores: &[usize]| {
            let ours: Vec<usize> = cores.iter().copied().filter(|core| chosen.cores.contains(core)).collect();
            if ours.is_empty() { "none".to_owned() } else { format_cores(&ours) }
        };
        Finding::ok(
            CHECK,
            format!(
                "gyre uses {} of {} cores; isolated cores among them: {}, tickless: {}",
                chosen.cores.len(),
                online.len(),
                ours(&isolated),
                ours(&tickless)
            ),
        )
    }

    fn quota(&self, chosen: &Chosen) -> Finding {
        const CHECK: &str = "cpu-quota";
        let Some(quota) = &self.quota else {
            return Finding::ok(CHECK, "no control group limits the CPU time");
        };
        let hundredths = quota.allowed.saturating_mul(100) / quota.period.max(1);
        let what = format!(
            "{} allows the CPU time of {}.{:02} cores",
            quota.file,
            hundredths / 100,
            hundredths % 100
        );
        if hundredths / 100 >= chosen.workers as u64 {
            return Finding::ok(CHECK, what);
        }
        Finding::warn(CHECK, format!("{what} for {} workers", chosen.workers))
            .costs("under load, all workers pause for the rest of each period, which is tens of milliseconds")
            .fix("raise the quota (CPUQuota= in systemd, --cpus of a container), or use fewer --cores")
    }

    fn numa(&self, chosen: &Chosen) -> Finding {
        const CHECK: &str = "numa";
        if self.nodes.len() < 2 {
            return Finding::ok(CHECK, "the machine has a single NUMA node");
        }
        let has = |cores: &[usize]| cores.iter().any(|core| chosen.cores.contains(core));
        let used: Vec<usize> =
            self.nodes.iter().filter(|(_, cores)| has(cores)).map(|(node, _)| *node).collect();
        if let [first, _, ..] = used[..] {
            let node =
                self.interface_nodes.values().copied().find(|node| used.contains(node)).unwrap_or(first);
            return Finding::warn(
                CHECK,
                format!("the cores are on several NUMA nodes: {}", format_cores(&used)),
            )
            .costs("packets, and messages between workers, cross between the nodes")
            .fix(format!("set --cores {}", format_cores(&self.nodes[&node])));
        }
        let far = |(_, node): &(&String, &usize)| !used.contains(node);
        if let Some((name, node)) = self.interface_nodes.iter().find(far) {
            let cores = self.nodes.get(node).map(|cores| format_cores(cores)).unwrap_or_default();
            return Finding::warn(
                CHECK,
                format!("{name} is on NUMA node {node}, the cores are on node {}", format_cores(&used)),
            )
            .costs("each packet crosses between the nodes, both ways")
            .fix(format!("set --cores {cores}, which are on the node of the card"));
        }
        Finding::ok(CHECK, format!("all cores are on NUMA node {}", format_cores(&used)))
    }

    fn governor(&self, chosen: &Chosen) -> Finding {
        const CHECK: &str = "governor";
        if self.governors.is_empty() {
            return Finding::ok(
                CHECK,
                "not checked: the firmware or a hypervisor controls the frequency, not the kernel",
            );
        }
        let slow: Vec<usize> =
            self.governors.iter().filter(|(_, name)| *name != "performance").map(|(core, _)| *core).collect();
        let Some(first) = slow.first() else {
            return Finding::ok(CHECK, format!("the governor of {} is performance", named(&chosen.cores)));
        };
        let cores = format_cores(&slow);
        Finding::warn(CHECK, format!("the governor of {} is {}", named(&slow), self.governors[first]))
            .costs("a core is slow after it has slept: higher latency, and losses at the start of a burst")
            .fix(format!("`cpupower -c {cores} frequency-set -g performance`"))
    }

    fn siblings(&self, chosen: &Chosen) -> Finding {
        const CHECK: &str = "smt";
        if self.siblings.is_empty() {
            return Finding::unknown(CHECK, "which cores are threads of the same core", ReadError::Absent);
        }
        let taken = |core: usize| chosen.cores.contains(&core);
        let pairs: Vec<String> = self
            .siblings
            .iter()
            .filter(|(core, siblings)| siblings.iter().any(|other| other > core && taken(*other)))
            .map(|(_, siblings)| siblings.iter().map(usize::to_string).collect::<Vec<_>>().join("+"))
            .collect();
        if pairs.is_empty() {
            return Finding::ok(CHECK, "no two of the used cores are threads of the same core");
        }
        let first: Vec<usize> = chosen
            .cores
            .iter()
            .copied()
            .filter(|core| {
                !self
                    .siblings
                    .get(core)
                    .is_some_and(|all| all.iter().any(|other| other < core && taken(*other)))
            })
            .collect();
        let shown = pairs.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let more = if pairs.len() > 4 { " and more" } else { "" };
        Finding::warn(CHECK, format!("gyre uses several threads of the same core: {shown}{more}"))
            .costs(
                "two such workers share the units and caches of one core, and do far less than twice the \
                 work of one",
            )
            .fix(format!("set --cores {}, and leave the others to other programs", format_cores(&first)))
    }
}

/// Returns the lowest quota of the control groups that this process is in.
fn quota(machine: &Machine) -> Option<Quota> {
    let groups = machine.text("/proc/self/cgroup").unwrap_or_default();
    let mut quotas = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let second = controllers.is_empty();
        if !second && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let root = if second { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" };
        let mut path = path.trim_matches('/');
        loop {
            let group = format!("{root}/{path}");
            let group = group.trim_end_matches('/');
            let read = if second {
                let file = format!("{group}/cpu.max");
                machine.line(&file).ok().and_then(|line| {
                    let (allowed, period) = line.split_once(' ')?;
                    Some(Quota { allowed: allowed.parse().ok()?, period: period.parse().ok()?, file })
                })
            } else {
                let file = format!("{group}/cpu.cfs_quota_us");
                let period = machine.number(&format!("{group}/cpu.cfs_period_us"));
                machine.number(&file).ok().zip(period.ok()).map(|(allowed, period)| Quota {
                    file,
                    allowed,
                    period,
                })
            };
            quotas.extend(read);
            match path.rsplit_once('/') {
                Some((above, _)) => path = above,
                None if path.is_empty() => break,
                None => path = "",
            }
        }
    }
    quotas.into_iter().min_by_key(|quota| quota.allowed.saturating_mul(1_000) / quota.period.max(1))
}

/// Checks the load of the cores by others, with two readings of their times.
pub(super) fn busy(before: &Sample, after: &Sample, chosen: &Chosen) -> Vec<Finding> {
    let unknown = |error| {
        vec![
            Finding::unknown("cores-busy", "the load of the cores by other programs", error),
            Finding::unknown("stolen-time", "the time taken by a hypervisor", error),
        ]
    };
    let times = match (&before.stat, &after.stat) {
        (Ok(before), Ok(after)) => (parse::core_times(before), parse::core_times(after)),
        (Err(error), _) | (_, Err(error)) => {
            return unknown(*error);
        }
    };
    let ran = |number: &u32| {
        let (before, after) = (before.tasks.get(number), &after.tasks[number]);
        after.ticks.saturating_sub(before.map_or(after.ticks, |task| task.ticks))
    };
    let (mut others, mut stolen) = (Vec::new(), Vec::new());
    for &core in &chosen.cores {
        let Some(time) =
            times.1.get(&core).map(|time| time.since(times.0.get(&core).copied().unwrap_or_default()))
        else {
            continue;
        };
        // gyre's own workers don't count.
        let own = after.tasks.iter().filter(|(_, task)| task.core == core && task.name.starts_with("gyre"));
        let own = own.map(|(number, _)| ran(number)).fold(0, u64::saturating_add);
        let percent = |ticks: u64| ticks.saturating_mul(100) / time.total.max(1);
        others.push((core, percent(time.programs.saturating_sub(own))));
        stolen.push((core, percent(time.stolen)));
    }
    if others.is_empty() {
        return unknown(ReadError::Malformed);
    }
    vec![
        judge_busy(&others, || {
            let on_chosen =
                |task: &parse::Task| chosen.cores.contains(&task.core) && !task.name.starts_with("gyre");
            let mut tasks: Vec<(u64, &str)> = after
                .tasks
                .iter()
                .filter(|(_, task)| on_chosen(task))
                .map(|(id, task)| (ran(id), task.name.as_str()))
                .collect();
            tasks.sort_unstable_by(|a, b| b.cmp(a));
            tasks
                .iter()
                .take(NAMED)
                .filter(|(ticks, _)| *ticks > 0)
                .map(|(_, name)| (*name).to_owned())
                .collect()
        }),
        judge_stolen(&stolen),
    ]
}

fn shares(cores: &[(usize, u64)]) -> String {
    let shown = cores.iter().take(8).map(|(core, percent)| format!("core {core} {percent} %"));
    let more = if cores.len() > 8 { " and more" } else { "" };
    shown.collect::<Vec<_>>().join(", ") + more
}

fn judge_busy(others: &[(usize, u64)], names: impl FnOnce() -> Vec<String>) -> Finding {
    const CHECK: &str = "cores-busy";
    let busy: Vec<_> = others.iter().copied().filter(|(_, percent)| *percent >= OTHERS_PERCENT).collect();
    if busy.is_empty() {
        return Finding::ok(CHECK, format!("other programs use less than {OTHERS_PERCENT} % of each core"));
    }
    let names = names();
    let by = if names.is_empty() { String::new() } else { format!("; most of it by {}", names.join(", ")) };
    Finding::warn(CHECK, format!("other programs use the cores: {}{by}", shares(&busy)))
        .costs("while they run, the requests of that core wait and its receive buffer fills")
        .fix(
            "keep these programs off the cores with `taskset` or CPUAffinity=, or all programs with \
             isolcpus=; or set other --cores",
        )
}

fn judge_stolen(stolen: &[(usize, u64)]) -> Finding {
    const CHECK: &str = "stolen-time";
    let robbed: Vec<_> = stolen.iter().copied().filter(|(_, percent)| *percent >= STOLEN_PERCENT).collect();
    if robbed.is_empty() {
        return Finding::ok(CHECK, format!("a hypervisor takes less than {STOLEN_PERCENT} % of each core"));
    }
    Finding::warn(CHECK, format!("the hypervisor takes time of the cores: {}", shares(&robbed)))
        .costs("the core pauses for milliseconds at a time, which loses bursts")
        .fix("get dedicated cores from the provider, or use bare metal")
}

#[cfg(test)]
mod tests;
