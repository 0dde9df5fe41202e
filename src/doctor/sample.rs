//! Owns the counters that are read twice, to distinguish what happens now from what has happened since boot.

use std::collections::BTreeMap;

use super::machine::{Machine, ReadResult};
use super::parse::{self, Task};
use crate::limits::DOCTOR_TASKS;

/// One reading of the counters.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) stat: ReadResult<String>,
    pub(super) softirqs: ReadResult<String>,
    pub(super) softnet: ReadResult<String>,
    pub(super) snmp: ReadResult<String>,
    pub(super) snmp6: ReadResult<String>,
    pub(super) udp: ReadResult<String>,
    pub(super) udp6: ReadResult<String>,
    /// Received and lost packets of each real interface.
    pub(super) interfaces: BTreeMap<String, Received>,
    /// All threads, by their id.
    pub(super) tasks: BTreeMap<u32, Task>,
}

/// Received packets of an interface since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) packets: u64,
    /// Packets that were lost because the ring of the card was full or the host was too slow.
    pub(super) lost: u64,
}

impl Sample {
    pub(super) fn read(machine: &Machine) -> Self {
        Self {
            stat: machine.text("/proc/stat"),
            softirqs: machine.text("/proc/softirqs"),
            softnet: machine.text("/proc/net/softnet_stat"),
            snmp: machine.text("/proc/net/snmp"),
            snmp6: machine.text("/proc/net/snmp6"),
            udp: machine.text("/proc/net/udp"),
            udp6: machine.text("/proc/net/udp6"),
            interfaces: real_interfaces(machine)
                .into_iter()
                .map(|name| (name.clone(), received(machine, &name)))
                .collect(),
            tasks: tasks(machine),
        }
    }
}

/// Returns the interfaces that have a device and are not down.
pub(super) fn real_interfaces(machine: &Machine) -> Vec<String> {
    let real = |name: &String| {
        let file = |file: &str| format!("/sys/class/net/{name}/{file}");
        machine.has(&file("device")) && machine.line(&file("operstate")).is_ok_and(|state| state != "down")
    };
    machine.names("/sys/class/net").into_iter().filter(real).collect()
}

fn received(machine: &Machine, interface: &str) -> Received {
    let number =
        |name: &str| machine.number(&format!("/sys/class/net/{interface}/statistics/{name}")).unwrap_or(0);
    // `rx_dropped` is left out: it also counts packets of unknown protocols.
    let lost = ["rx_missed_errors", "rx_fifo_errors", "rx_over_errors"].map(number);
    Received { packets: number("rx_packets"), lost: lost.into_iter().fold(0, u64::saturating_add) }
}

fn tasks(machine: &Machine) -> BTreeMap<u32, Task> {
    let mut found = BTreeMap::new();
    for process in machine.names("/proc").iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    {
        for thread in machine.names(&format!("/proc/{process}/task")) {
            if found.len() >= DOCTOR_TASKS {
                return found;
            }
            let text = machine.text(&format!("/proc/{process}/task/{thread}/stat"));
            if let (Ok(number), Some(task)) = (thread.parse(), text.ok().as_deref().and_then(parse::task)) {
                found.insert(number, task);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::Scratch;
    use super::*;

    #[test]
    fn a_fake_machine_is_read() {
        let task = "7 (gyre-0@1) S 1 77 77 0 -1 4194304 1 0 0 0 30 12 0 0 20 0 1 0 5 6 7 8 9 10 11 12 13 14 15 16 17 \
                    18 19 20 21 1 0 0\n";
        let scratch = Scratch::new(&[
            ("/proc/7/task/7/stat", task),
            ("/proc/7/task/8/stat", "garbage"),
            ("/proc/self/task/9/stat", task),
            ("/sys/class/net/eth0/device/vendor", "1"),
            ("/sys/class/net/eth0/operstate", "up\n"),
            ("/sys/class/net/eth0/statistics/rx_packets", "100\n"),
            ("/sys/class/net/eth0/statistics/rx_missed_errors", "2\n"),
            ("/sys/class/net/eth0/statistics/rx_fifo_errors", "3\n"),
            ("/sys/class/net/eth1/device/vendor", "1"),
            ("/sys/class/net/eth1/operstate", "down\n"),
            ("/sys/class/net/lo/operstate", "unknown\n"),
        ]);
        let sample = Sample::read(&scratch.machine());
        assert_eq!(sample.interfaces, BTreeMap::from([("eth0".into(), Received { packets: 100, lost: 5 })]));
        assert_eq!(sample.tasks.keys().copied().collect::<Vec<_>>(), [7]);
        assert_eq!((sample.tasks[&7].ticks, sample.tasks[&7].core), (42, 1));
    }
}
