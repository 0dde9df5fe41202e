//! Owns the checks of the network cards (how many cores their packets can reach, and which) and of the machine's
//! addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cores::Chosen;
use super::machine::{Machine, ReadResult};
use super::sample::real_interfaces;
use super::{Finding, count_of, named, parse};

/// The input of the network card checks.
pub(super) struct Interfaces {
    cards: BTreeMap<String, Card>,
    /// Whether irqbalance is running, which moves interrupts between cores.
    irqbalance: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Card {
    /// The cores that each receive queue distributes packets to (RPS), by queue number. Empty: none.
    queues: BTreeMap<usize, Vec<usize>>,
    /// The cores that each of its receive interrupts can go to.
    interrupts: BTreeMap<u32, Vec<usize>>,
}

impl Interfaces {
    pub(super) fn read(machine: &Machine) -> Self {
        let interrupts = parse::interrupts(&machine.text("/proc/interrupts").unwrap_or_default());
        let card = |name: String| {
            let queues =
                machine.names(&format!("/sys/class/net/{name}/queues")).into_iter().filter_map(|queue| {
                    let number = queue.strip_prefix("rx-")?.parse().ok()?;
                    let mask = machine.line(&format!("/sys/class/net/{name}/queues/{queue}/rps_cpus"));
                    Some((number, parse::core_mask(&mask.unwrap_or_default())))
                });
            // A paravirtual device is a child of the device with the interrupts.
            let of_device = ["device", "device/.."]
                .map(|device| machine.names(&format!("/sys/class/net/{name}/{device}/msi_irqs")));
            let of_device: Vec<u32> =
                of_device.iter().flatten().filter_map(|number| number.parse().ok()).collect();
            let ours = interrupts.iter().filter(|interrupt| {
                let by_name = interrupt.name.split(['-', '.', '@', ':']).any(|part| part == name);
                interrupt.count > 0
                    && receives(&interrupt.name)
                    && (by_name || of_device.contains(&interrupt.number))
            });
            let ours = ours.filter_map(|interrupt| {
                let file = |file: &str| machine.line(&format!("/proc/irq/{}/{file}", interrupt.number));
                let cores = file("effective_affinity_list").ok().filter(|list| !list.is_empty());
                let cores = parse::core_list(&cores.or_else(|| file("smp_affinity_list").ok())?);
                Some((interrupt.number, cores))
            });
            let card = Card { queues: queues.collect(), interrupts: ours.collect() };
            (name, card)
        };
        let processes = machine.names("/proc");
        let processes = processes.iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()));
        let irqbalance = processes
            .map(|process| machine.line(&format!("/proc/{process}/comm")))
            .any(|name| name.as_deref() == Ok("irqbalance"));
        Self { cards: real_interfaces(machine).into_iter().map(card).collect(), irqbalance }
    }

    pub(super) fn judge(&self, chosen: &Chosen) -> Vec<Finding> {
        if self.cards.is_empty() {
            let what = "no network card found (containers can't see it)";
            return ["receive-queues", "queue-affinity"].map(|check| Finding::ok(check, what)).into();
        }
        let cards = || self.cards.iter();
        let mut findings: Vec<_> = cards().map(|(name, card)| queues(name, card, chosen)).collect();
        findings.extend(cards().map(|(name, card)| affinity(name, card, chosen, self.irqbalance)));
        findings
    }
}

/// Returns whether an interrupt is for receiving, by its name. Drivers use other names for sending and configuration.
fn receives(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let last = name.rsplit(['-', ':']).next().unwrap_or_default();
    let both = name.contains("txrx") || name.contains("rx");
    both || !(name.contains("-tx")
        || last.starts_with("output")
        || last.starts_with("config")
        || last.starts_with("control"))
}

fn queues(name: &str, card: &Card, chosen: &Chosen) -> Finding {
    const CHECK: &str = "receive-queues";
    let (queues, cores) = (card.queues.len(), chosen.cores());
    let plural = if queues == 1 { "queue" } else { "queues" };
    let mut handed: Vec<usize> = card.queues.values().flatten().copied().collect();
    handed.sort_unstable();
    handed.dedup();
    let mask = parse::to_mask(cores);
    let spread = format!("`for q in /sys/class/net/{name}/queues/rx-*; do echo {mask} > $q/rps_cpus; done`");
    let elsewhere: Vec<usize> = handed.iter().copied().filter(|core| !cores.contains(core)).collect();
    if !elsewhere.is_empty() {
        return Finding::warn(
            CHECK,
            format!("{name} distributes packets to {} (RPS), which gyre does not use", named(&elsewhere)),
        )
        .costs("for each of these packets, another core is woken to answer it")
        .fix(spread);
    }
    if !handed.is_empty() {
        let what = format!(
            "{name} has {queues} receive {plural} and distributes packets to {} (RPS)",
            named(&handed)
        );
        if handed.len() * 2 >= cores.len() {
            return Finding::ok(CHECK, what);
        }
        return Finding::warn(CHECK, what).costs("these cores receive the packets of all others").fix(spread);
    }
    if queues >= cores.len() {
        return Finding::ok(
            CHECK,
            format!("{name} has {queues} receive {plural} for {}", count_of(cores.len(), "core")),
        );
    }
    Finding::warn(
        CHECK,
        format!(
            "{name} has {queues} receive {plural} for {} cores, and does not distribute packets (RPS)",
            cores.len()
        ),
    )
    .costs(format!(
        "all packets are received by {}; when it is full, packets are lost while other cores idle",
        count_of(queues, "core")
    ))
    .fix(format!(
        "`ethtool -L {name} combined {}` if the card has that many queues (`ethtool -l {name}`), or {spread}",
        cores.len()
    ))
}

fn affinity(name: &str, card: &Card, chosen: &Chosen, irqbalance: bool) -> Finding {
    const CHECK: &str = "queue-affinity";
    let cores = chosen.cores();
    if card.interrupts.is_empty() {
        return Finding::ok(CHECK, format!("not checked: {name} has no receive interrupts of its own"));
    }
    let mut reached: Vec<usize> = card.interrupts.values().flatten().copied().collect();
    reached.sort_unstable();
    reached.dedup();
    let numbers = card.interrupts.keys().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let stop = if irqbalance {
        "`systemctl disable --now irqbalance` (otherwise it moves them again), then "
    } else {
        ""
    };
    let list = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    let fix = format!(
        "{stop}`set -- {list}; for irq in {numbers}; do echo $1 > /proc/irq/$irq/smp_affinity_list; set -- \"$@\" $1; \
         shift; done`"
    );
    let what = format!("{name}'s receive interrupts ({}) go to {}", card.interrupts.len(), named(&reached));
    let handed_on = card.queues.values().any(|cores| !cores.is_empty());
    if !reached.iter().any(|core| cores.contains(core)) {
        if handed_on {
            return Finding::ok(CHECK, format!("{what}, which distribute packets (RPS)"));
        }
        return Finding::warn(CHECK, format!("{what}, which gyre does not use"))
            .costs("each burst is received on one core and answered on another")
            .fix(fix);
    }
    // Each interrupt is on one core, and all are on the same one, so the queues are of no use.
    if reached.len() == 1 && card.interrupts.len() > 1 && cores.len() > 1 && !handed_on {
        return Finding::warn(CHECK, what)
            .costs("one core receives all packets, whatever the number of queues")
            .fix(fix);
    }
    Finding::ok(CHECK, what)
}

/// Returns the machine's own addresses of both families.
pub(super) fn own_addresses(machine: &Machine) -> Vec<IpAddr> {
    let mut addresses = v4_addresses(&machine.text("/proc/net/fib_trie"));
    addresses.extend(v6_addresses(&machine.text("/proc/net/if_inet6")));
    addresses
}

/// Returns the addresses from the routing table: each leaf `/32 host LOCAL` is below its address.
fn v4_addresses(trie: &ReadResult<String>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut last = None;
    for line in trie.as_deref().unwrap_or_default().lines() {
        match line.trim_start().strip_prefix("|-- ") {
            Some(address) => last = address.trim().parse::<Ipv4Addr>().ok(),
            None if line.trim() == "/32 host LOCAL" => found.extend(last.map(IpAddr::from)),
            None => {}
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn v6_addresses(text: &ReadResult<String>) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        u128::from_str_radix(digits, 16)
            .ok()
            .filter(|_| digits.len() == 32)
            .map(|bits| Ipv6Addr::from_bits(bits).into())
    };
    text.as_deref().unwrap_or_default().lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::machine::tests::Scratch;
    use super::*;

    fn card(queues: &[&[usize]], interrupts: &[&[usize]]) -> Card {
        Card {
            queues: queues.iter().map(|cores| cores.to_vec()).enumerate().collect(),
            interrupts: (30..).zip(interrupts.iter().map(|cores| cores.to_vec())).collect(),
        }
    }

    fn levels(card: Card, cores: usize) -> [Level; 2] {
        let interfaces = Interfaces { cards: [("eth0".to_owned(), card)].into(), irqbalance: true };
        let findings = interfaces.judge(&Chosen::these((0..cores).collect()));
        assert_eq!(
            findings.iter().map(|finding| finding.check).collect::<Vec<_>>(),
            ["receive-queues", "queue-affinity"]
        );
        for finding in &findings {
            assert_eq!(finding.fix.is_some(), finding.level > Level::Ok, "{finding:?}");
        }
        [findings[0].level, findings[1].level]
    }

    #[test]
    fn receive_queues_and_affinity() {
        use Level::{Ok, Warn};
        assert_eq!(levels(card(&[&[], &[]], &[&[0], &[1]]), 2), [Ok, Ok]);
        assert_eq!(levels(card(&[&[]], &[&[0]]), 2), [Warn, Ok], "one queue for two cores");
        assert_eq!(levels(card(&[&[0, 1]], &[&[0]]), 2), [Ok, Ok], "which distributes packets");
        assert_eq!(levels(card(&[&[0, 5]], &[&[0]]), 2), [Warn, Ok], "to another core");
        assert_eq!(levels(card(&[&[0]], &[&[0]]), 4), [Warn, Ok], "to one of four");
        assert_eq!(levels(card(&[&[], &[]], &[&[0], &[0]]), 2), [Ok, Warn], "both on one core");
        assert_eq!(levels(card(&[&[], &[]], &[&[2], &[3]]), 2), [Ok, Warn], "elsewhere");
        assert_eq!(levels(card(&[&[0, 1]], &[&[3]]), 2), [Ok, Ok], "elsewhere, but distributed");
        assert_eq!(levels(card(&[&[]], &[]), 1), [Ok, Ok]);
        let none = Interfaces { cards: BTreeMap::new(), irqbalance: false };
        assert!(none.judge(&Chosen::these(vec![0])).iter().all(|finding| finding.level == Ok));
    }

    #[test]
    fn names_of_interrupts() {
        for name in ["eth0-TxRx-0", "virtio3-input.0", "eth0-rx-1", "mlx5_comp0@pci:0000:01:00.0", "eth0"] {
            assert!(receives(name), "{name}");
        }
        for name in ["virtio3-output.0", "virtio3-config", "eth0-tx-1", "virtio0-control"] {
            assert!(!receives(name), "{name}");
        }
    }

    #[test]
    fn a_fake_machine_is_read() {
        let interrupts = "      CPU0 CPU1\n 30: 5 6 PCI-MSI 1-edge virtio2-input.0\n \
                          31: 5 6 PCI-MSI 2-edge virtio2-output.0\n\
                          32: 0 9 PCI-MSI 1-edge eth1-TxRx-0\n 33: 0 9 PCI-MSI 1-edge eth10-TxRx-0\n";
        let scratch = Scratch::new(&[
            ("/proc/interrupts", interrupts),
            ("/proc/irq/30/smp_affinity_list", "0-1\n"),
            ("/proc/irq/30/effective_affinity_list", "1\n"),
            ("/proc/irq/32/smp_affinity_list", "0\n"),
            ("/proc/irq/33/smp_affinity_list", "0\n"),
            ("/proc/12/comm", "irqbalance\n"),
            ("/sys/class/net/eth0/operstate", "up"),
            ("/sys/class/net/eth0/device/vendor", ""),
            ("/sys/class/net/eth0/msi_irqs/30", ""),
            ("/sys/class/net/eth0/msi_irqs/31", ""),
            ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "3\n"),
            ("/sys/class/net/eth0/queues/tx-0/xps_cpus", "3\n"),
            ("/sys/class/net/eth1/operstate", "up"),
            ("/sys/class/net/eth1/device/vendor", ""),
            ("/sys/class/net/eth1/queues/rx-0/rps_cpus", "0\n"),
        ]);
        let seen = Interfaces::read(&scratch.machine());
        assert!(seen.irqbalance);
        let eth0 = Card { queues: [(0, vec![0, 1])].into(), interrupts: [(30, vec![1])].into() };
        let eth1 = Card { queues: [(0, vec![])].into(), interrupts: [(32, vec![0])].into() };
        assert_eq!(seen.cards, [("eth0".to_owned(), eth0), ("eth1".to_owned(), eth1)].into());
    }

    #[test]
    fn addresses_of_the_machine() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n \
                    |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n \
                    |-- x\n        /32 host LOCAL\n";
        let six = "20010db8000000000000000000000001 04 40 00 80     eth0\nfe80 02 40 20 80 eth0\n";
        let scratch = Scratch::new(&[("/proc/net/fib_trie", trie), ("/proc/net/if_inet6", six)]);
        let expected: [IpAddr; 2] = ["192.0.2.2".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(own_addresses(&scratch.machine()), expected);
    }
}
