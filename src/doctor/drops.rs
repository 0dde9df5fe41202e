//! Owns the checks of losses between the network card and the tracker, and of the cores that receive the packets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::cores::Chosen;
use super::machine::{ReadError, ReadResult};
use super::parse::{self, Softnet, UdpRow};
use super::sample::Sample;
use super::{Finding, named};
use crate::config::Config;

/// Losses since boot are a warning if more than one in `RARE` packets was lost.
const RARE: u64 = 10_000;
/// Turns that end with packets left are a warning if there are more than one in `RARELY_SQUEEZED` packets.
const RARELY_SQUEEZED: u64 = 1_000;
/// With fewer packets in a sample their balance means nothing. Then the packets since boot are used.
const PACKETS_MIN: u64 = 1_000;

/// A counter in two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    before: u64,
    after: u64,
}

impl Pair {
    fn now(self) -> u64 {
        self.after.saturating_sub(self.before)
    }
}

/// Checks the losses from the card to the socket.
pub(super) fn judge(before: &Sample, after: &Sample, passed: Duration, config: &Config) -> Vec<Finding> {
    let mut findings = vec![card(before, after), softnet(before, after), udp(before, after, passed)];
    if !config.udp.addresses().is_empty() {
        findings.push(sockets(before, after, config));
    }
    findings
}

fn card(before: &Sample, after: &Sample) -> Finding {
    const CHECK: &str = "card-drops";
    if after.interfaces.is_empty() {
        return Finding::ok(CHECK, "no network card found");
    }
    let mut texts = Vec::new();
    for (name, received) in &after.interfaces {
        let earlier = before.interfaces.get(name).map_or(0, |received| received.lost);
        let lost = Pair { before: earlier, after: received.lost };
        let cost = "packets are lost in the card, before the kernel gets them";
        let fix = format!(
            "use a larger ring with `ethtool -G {name} rx N` (`ethtool -g {name}` shows the maximum), and \
             more queues (see receive-queues)"
        );
        if lost.now() > 0 {
            return Finding::fail(
                CHECK,
                format!("{name} is losing packets: {} during the check", lost.now()),
            )
            .costs(cost)
            .fix(fix);
        }
        if is_much(lost.after, received.packets, RARE) {
            let what = format!("{name} has lost {} of {} packets since boot", lost.after, received.packets);
            return Finding::warn(CHECK, what).costs(cost).fix(fix);
        }
        texts.push(format!("{name} has lost {} of {}", lost.after, received.packets));
    }
    Finding::ok(CHECK, format!("{} packets since boot", texts.join(", ")))
}

/// Returns whether `some` is more than one in `rare` of `all`.
fn is_much(some: u64, all: u64, rare: u64) -> bool {
    some > 0 && some.saturating_mul(rare) > all
}

fn softnet(before: &Sample, after: &Sample) -> Finding {
    const CHECK: &str = "softnet";
    let rows = match (&before.softnet, &after.softnet) {
        (Ok(before), Ok(after)) => (parse::softnet(before), parse::softnet(after)),
        (Err(error), _) | (_, Err(error)) => {
            return Finding::unknown(CHECK, "the drops of the cores' backlogs", *error);
        }
    };
    if rows.1.is_empty() {
        return Finding::unknown(CHECK, "the drops of the cores' backlogs", ReadError::Malformed);
    }
    let sum = |rows: &[Softnet], of: fn(&Softnet) -> u64| rows.iter().map(of).fold(0, u64::saturating_add);
    let pair = |of| Pair { before: sum(&rows.0, of), after: sum(&rows.1, of) };
    let (dropped, squeezed) = (pair(|row| row.dropped), pair(|row| row.squeezed));
    let processed = sum(&rows.1, |row| row.processed);
    let dropping = rows.1.iter().filter(|row| row.dropped > 0).map(|row| row.core).collect::<Vec<_>>();
    let cost = "the kernel drops received packets before they reach a socket";
    let fix =
        "`sysctl -w net.core.netdev_max_backlog=10000`; if all drops are on one core, see receive-queues";
    if dropped.now() > 0 {
        return Finding::fail(
            CHECK,
            format!("backlogs are full: {} packets dropped during the check", dropped.now()),
        )
        .costs(cost)
        .fix(fix);
    }
    if is_much(dropped.after, processed, RARE) {
        let cores = named(&dropping);
        return Finding::warn(
            CHECK,
            format!("{} of {processed} packets were dropped since boot, on {cores}", dropped.after),
        )
        .costs(cost)
        .fix(fix);
    }
    let what = format!(
        "since boot, {} of {processed} packets were dropped, and {} polls ended early",
        dropped.after, squeezed.after
    );
    if is_much(squeezed.after, processed, RARELY_SQUEEZED) {
        return Finding::warn(CHECK, what)
            .costs("packets wait in the card for the next poll, and are lost when its ring is full")
            .fix("`sysctl -w net.core.netdev_budget=600 net.core.netdev_budget_usecs=8000`");
    }
    Finding::ok(CHECK, what)
}

fn udp(before: &Sample, after: &Sample, passed: Duration) -> Finding {
    const CHECK: &str = "udp-drops";
    let counts = |sample: &Sample| -> ReadResult<[u64; 3]> {
        let (v4, v6) = (sample.snmp.as_ref().map_err(|error| *error)?, sample.snmp6.as_ref());
        // A machine without IPv6 has no such file.
        let count = |name: &str| {
            let six = v6.ok().and_then(|text| parse::snmp6(text, &format!("Udp6{name}"))).unwrap_or(0);
            parse::snmp(v4, "Udp", name).map(|four| four.saturating_add(six)).ok_or(ReadError::Malformed)
        };
        Ok([count("InDatagrams")?, count("RcvbufErrors")?, count("InErrors")?])
    };
    let (before, after) = match (counts(before), counts(after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => return Finding::unknown(CHECK, "the drops of UDP", error),
    };
    let pair = |at: usize| Pair { before: before[at], after: after[at] };
    let (received, full, errors) = (pair(0), pair(1), pair(2));
    let cost = "requests (or responses to other programs) are lost although they reached the machine";
    let fix =
        "raise --receive-buffer (and net.core.rmem_max), use more --cores, or reduce other load on the cores";
    if full.now() > 0 {
        let rate = full.now() as f64 / passed.as_secs_f64().max(0.001);
        return Finding::fail(
            CHECK,
            format!("receive buffers are full: {rate:.0} datagrams dropped per second"),
        )
        .costs(cost)
        .fix(fix);
    }
    let what = format!(
        "since boot, {} datagrams were received, {} dropped because a receive buffer was full, and {} for \
         other reasons",
        received.after,
        full.after,
        errors.after.saturating_sub(full.after)
    );
    if is_much(full.after, received.after, RARE) {
        return Finding::warn(CHECK, what).costs(cost).fix(fix);
    }
    if is_much(errors.after.saturating_sub(full.after), received.after, RARE) {
        return Finding::warn(CHECK, what)
            .costs(
                "datagrams with wrong checksums, or without kernel memory for them (net.ipv4.udp_mem), \
                 are lost",
            )
            .fix("find the reason with `nstat -az 'Udp*'`; wrong checksums come from the card or the link");
    }
    Finding::ok(CHECK, what)
}

fn sockets(before: &Sample, after: &Sample, config: &Config) -> Finding {
    const CHECK: &str = "socket-drops";
    let ports: Vec<u16> = config.udp.addresses().iter().map(SocketAddr::port).collect();
    let rows = |sample: &Sample| -> ReadResult<Vec<UdpRow>> {
        let mut rows = parse::udp_rows(sample.udp.as_ref().map_err(|error| *error)?);
        rows.extend(sample.udp6.as_deref().map(parse::udp_rows).unwrap_or_default());
        rows.retain(|row| row.port != 0 && ports.contains(&row.port));
        Ok(rows)
    };
    let (before, after) = match (rows(before), rows(after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => {
            return Finding::unknown(CHECK, "the drops of the tracker's sockets", error);
        }
    };
    if after.is_empty() {
        return Finding::ok(CHECK, "not checked: no UDP socket uses the port");
    }
    let drops = |rows: &[UdpRow]| rows.iter().map(|row| row.drops).fold(0, u64::saturating_add);
    let pair = Pair { before: drops(&before), after: drops(&after) };
    let waiting = after.iter().map(|row| row.waiting).fold(0, u64::saturating_add);
    let what = format!(
        "{} sockets use the port; they have dropped {} datagrams since they were opened, and hold \
         {waiting} bytes",
        after.len(),
        pair.after
    );
    let cost = "requests get no response although they reached the machine; clients retry after 15 s or more";
    let fix = "raise --receive-buffer (and net.core.rmem_max), or use more --cores";
    match (pair.now(), pair.after) {
        (0, 0) => Finding::ok(CHECK, what),
        (0, _) => Finding::warn(CHECK, what).costs(cost).fix(fix),
        (now, _) => Finding::fail(CHECK, format!("{what}; {now} datagrams were dropped during the check"))
            .costs(cost)
            .fix(fix),
    }
}

/// Checks whether the cores share the work of receiving packets.
pub(super) fn softirq_balance(before: &Sample, after: &Sample, chosen: &Chosen) -> Vec<Finding> {
    const CHECK: &str = "softirq-balance";
    let rows = match (&before.softirqs, &after.softirqs) {
        (Ok(before), Ok(after)) => (parse::softirqs(before, "NET_RX"), parse::softirqs(after, "NET_RX")),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Finding::unknown(CHECK, "which cores receive packets", *error)];
        }
    };
    let now: BTreeMap<usize, u64> = rows
        .1
        .iter()
        .map(|(core, count)| (*core, count.saturating_sub(rows.0.get(core).copied().unwrap_or(0))))
        .collect();
    let sum = |counts: &BTreeMap<usize, u64>| counts.values().copied().fold(0, u64::saturating_add);
    let (counts, when) =
        if sum(&now) >= PACKETS_MIN { (now, "during the check,") } else { (rows.1, "since boot,") };
    vec![balance(&counts, when, chosen)]
}

fn balance(counts: &BTreeMap<usize, u64>, when: &str, chosen: &Chosen) -> Finding {
    const CHECK: &str = "softirq-balance";
    let cores = chosen.cores();
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.map(u128::from).sum::<u128>();
    let all = sum(&mut counts.values().copied());
    let Some((busiest, most)) = counts.iter().max_by_key(|(_, count)| **count) else {
        return Finding::unknown(CHECK, "which cores receive packets", ReadError::Malformed);
    };
    if all < u128::from(PACKETS_MIN) {
        return Finding::ok(CHECK, format!("not checked: only {all} receive interrupts since boot"));
    }
    let percent = |part: u128| part * 100 / all;
    let others = counts.iter().filter(|(core, _)| !cores.contains(core)).map(|(_, count)| *count);
    let others = percent(sum(&mut { others }));
    let share = percent(u128::from(*most));
    let what = format!(
        "{when} core {busiest} handled {share} % of the receive interrupts, and cores that gyre does not \
         use {others} %"
    );
    let fix = format!("distribute the queues over {}; see receive-queues and queue-affinity", named(cores));
    // Twice the average share is acceptable. Of two cores, one may have nine tenths.
    let workers = cores.len().max(1) as u128;
    if cores.len() > 1 && share > (200 / workers).min(90) {
        return Finding::warn(CHECK, what)
            .costs("that core is full while others idle, and packets that it can't handle are lost")
            .fix(fix);
    }
    if others > 50 && !cores.is_empty() {
        return Finding::warn(CHECK, what)
            .costs(
                "packets are received on one core and answered on another, with a wake-up and cold caches \
                 for each burst",
            )
            .fix(fix);
    }
    Finding::ok(CHECK, what)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::sample::Received;
    use super::*;

    /// A sample without problems: datagrams and packets were received, and nothing was lost.
    fn healthy() -> Sample {
        let udp = "head\n 1: 00000000:1B39 00000000:0000 07 00000000:00000000 00:0 0 0 0 99 2 0 0\n";
        Sample {
            stat: Ok(String::new()),
            softirqs: Ok("CPU0 CPU1\nNET_RX: 6000 5000\n".into()),
            softnet: Ok("00010000 00000000 00000001 0 0 0 0 0 0 0 0 0 00000000\n".into()),
            snmp: Ok("Udp: InDatagrams InErrors RcvbufErrors\nUdp: 100000 0 0\n".into()),
            snmp6: Ok("Udp6InDatagrams 5\n".into()),
            udp: Ok(udp.into()),
            udp6: Err(ReadError::Absent),
            interfaces: [("eth0".to_owned(), Received { packets: 100_000, lost: 0 })].into(),
            tasks: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn level(check: &str, before: impl FnOnce(&mut Sample), after: impl FnOnce(&mut Sample)) -> Level {
        let (mut first, mut second) = (healthy(), healthy());
        before(&mut first);
        after(&mut second);
        let findings = judge(&first, &second, Duration::from_secs(1), &Config::default());
        for finding in &findings {
            assert!(finding.check == check || finding.level == Level::Ok, "{finding:?}");
            assert_eq!(finding.cost.is_some(), finding.level > Level::Ok, "{finding:?}");
        }
        findings.into_iter().find(|finding| finding.check == check).expect("such a check").level
    }

    #[test]
    fn nothing_is_lost() {
        assert_eq!(level("udp-drops", |_| {}, |_| {}), Level::Ok);
    }

    #[test]
    fn losses_of_the_card() {
        let lose = |lost| move |sample: &mut Sample| sample.interfaces.get_mut("eth0").unwrap().lost = lost;
        assert_eq!(level("card-drops", lose(5), lose(5)), Level::Ok, "5 of 100,000");
        assert_eq!(level("card-drops", lose(50), lose(50)), Level::Warn);
        assert_eq!(level("card-drops", lose(5), lose(6)), Level::Fail);
    }

    #[test]
    fn losses_of_the_backlog() {
        let row = |dropped: u32, squeezed: u32| {
            move |sample: &mut Sample| sample.softnet = Ok(format!("00010000 {dropped:08x} {squeezed:08x}\n"))
        };
        assert_eq!(level("softnet", row(2, 0), row(2, 0)), Level::Ok);
        assert_eq!(level("softnet", row(700, 0), row(700, 0)), Level::Warn);
        assert_eq!(level("softnet", row(0, 700), row(0, 700)), Level::Warn);
        assert_eq!(level("softnet", row(2, 0), row(3, 0)), Level::Fail);
        assert_eq!(level("softnet", |_| {}, |sample| sample.softnet = Err(ReadError::Denied)), Level::Warn);
        assert_eq!(level("softnet", |_| {}, |sample| sample.softnet = Ok("x".into())), Level::Warn);
    }

    #[test]
    fn losses_of_udp() {
        let udp = |full: u64, errors: u64| {
            move |sample: &mut Sample| {
                sample.snmp =
                    Ok(format!("Udp: InDatagrams InErrors RcvbufErrors\nUdp: 100000 {errors} {full}\n"));
            }
        };
        assert_eq!(level("udp-drops", udp(3, 3), udp(3, 3)), Level::Ok);
        assert_eq!(level("udp-drops", udp(300, 300), udp(300, 300)), Level::Warn);
        assert_eq!(level("udp-drops", udp(0, 300), udp(0, 300)), Level::Warn);
        assert_eq!(level("udp-drops", udp(3, 3), udp(4, 4)), Level::Fail);
        let six =
            |full: u64| move |sample: &mut Sample| sample.snmp6 = Ok(format!("Udp6RcvbufErrors {full}\n"));
        assert_eq!(level("udp-drops", six(0), six(1)), Level::Fail);
        assert_eq!(level("udp-drops", |_| {}, |sample| sample.snmp = Ok("x".into())), Level::Warn);
    }

    #[test]
    fn losses_of_the_sockets() {
        let row = |port: &'static str, drops: u64| {
            move |sample: &mut Sample| {
                let row =
                    format!("head\n 1: 00000000:{port} 0:0 07 00000000:00000000 00:0 0 0 0 99 2 0 {drops}\n");
                sample.udp6 = Ok(row);
            }
        };
        assert_eq!(level("socket-drops", row("1B39", 0), row("1B39", 0)), Level::Ok);
        assert_eq!(level("socket-drops", row("1B39", 7), row("1B39", 7)), Level::Warn);
        assert_eq!(level("socket-drops", row("1B39", 7), row("1B39", 8)), Level::Fail);
        assert_eq!(
            level("socket-drops", row("0035", 7), row("0035", 8)),
            Level::Ok,
            "the port of another program"
        );
    }

    #[test]
    fn balance_of_the_cores() {
        let chosen = |count: usize| Chosen::these((0..count).collect());
        let level = |counts: &[u64], cores: usize| {
            balance(&counts.iter().copied().enumerate().collect(), "", &chosen(cores)).level
        };
        assert_eq!(level(&[500, 600], 2), Level::Ok);
        assert_eq!(level(&[8_900, 1_100], 2), Level::Ok);
        assert_eq!(level(&[9_900, 100], 2), Level::Warn);
        assert_eq!(level(&[9_900, 100], 1), Level::Ok, "there is only one core");
        assert_eq!(level(&[900, 1_100, 1_000, 1_000], 4), Level::Ok);
        assert_eq!(level(&[6_000, 1_000, 1_000, 1_000], 4), Level::Warn);
        assert_eq!(level(&[100, 9_900], 1), Level::Warn, "a core that gyre does not use handles all");
        assert_eq!(level(&[1, 9], 2), Level::Ok, "too few to judge");
        assert_eq!(level(&[u64::MAX, u64::MAX], 2), Level::Ok);
        assert_eq!(level(&[], 2), Level::Warn);
        // The current values count more than those since boot.
        let (mut first, mut second) = (healthy(), healthy());
        first.softirqs = Ok("CPU0 CPU1\nNET_RX: 100000 100000\n".into());
        second.softirqs = Ok("CPU0 CPU1\nNET_RX: 102000 100001\n".into());
        assert_eq!(softirq_balance(&first, &second, &chosen(2))[0].level, Level::Warn);
        assert_eq!(softirq_balance(&second, &second, &chosen(2))[0].level, Level::Ok);
    }
}
