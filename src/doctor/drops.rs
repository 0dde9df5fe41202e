//! Owns the judgement on what is lost between the card and the tracker, and on which cores take it in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::cores::Chosen;
use super::machine::{Seen, Unread};
use super::parse::{self, Softnet, UdpRow};
use super::sample::Sample;
use super::{Finding, named};
use crate::config::Config;

/// Losses since boot are worth a warning from one in so many on.
const RARE: u64 = 10_000;
/// Turns of a core that end with packets left are worth a warning from one in so many packets on.
const RARELY_SQUEEZED: u64 = 1_000;
/// So few packets in a sample say nothing of their balance; then those since boot are looked at.
const PACKETS_MIN: u64 = 1_000;

/// A count, in two readings.
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

/// Judges the losses, from the card to the socket.
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
        return Finding::ok(CHECK, "no interface with a device behind it");
    }
    let mut told = Vec::new();
    for (name, received) in &after.interfaces {
        let earlier = before.interfaces.get(name).map_or(0, |received| received.lost);
        let lost = Pair { before: earlier, after: received.lost };
        let cost = "packets that the card could not hand over are gone before the kernel sees them";
        let fix = format!(
            "`ethtool -g {name}` shows the longest ring: `ethtool -G {name} rx N`; and more queues (see receive-queues)"
        );
        if lost.now() > 0 {
            return Finding::fail(
                CHECK,
                format!("{name} loses packets right now: {} in this moment", lost.now()),
            )
            .costs(cost)
            .fix(fix);
        }
        if is_much(lost.after, received.packets, RARE) {
            let what = format!("{name} has lost {} of {} packets since boot", lost.after, received.packets);
            return Finding::warn(CHECK, what).costs(cost).fix(fix);
        }
        told.push(format!("{name} has lost {} of {}", lost.after, received.packets));
    }
    Finding::ok(CHECK, format!("{} packets", told.join(", ")))
}

/// Whether so many of all are more than one in `rare`.
fn is_much(some: u64, all: u64, rare: u64) -> bool {
    some > 0 && some.saturating_mul(rare) > all
}

fn softnet(before: &Sample, after: &Sample) -> Finding {
    const CHECK: &str = "softnet";
    let rows = match (&before.softnet, &after.softnet) {
        (Ok(before), Ok(after)) => (parse::softnet(before), parse::softnet(after)),
        (Err(unread), _) | (_, Err(unread)) => {
            return Finding::unknown(CHECK, "what the cores' backlogs drop", *unread);
        }
    };
    if rows.1.is_empty() {
        return Finding::unknown(CHECK, "what the cores' backlogs drop", Unread::Garbled);
    }
    let sum = |rows: &[Softnet], of: fn(&Softnet) -> u64| rows.iter().map(of).fold(0, u64::saturating_add);
    let pair = |of| Pair { before: sum(&rows.0, of), after: sum(&rows.1, of) };
    let (dropped, squeezed) = (pair(|row| row.dropped), pair(|row| row.squeezed));
    let processed = sum(&rows.1, |row| row.processed);
    let dropping = rows.1.iter().filter(|row| row.dropped > 0).map(|row| row.core).collect::<Vec<_>>();
    let cost = "packets that the kernel had taken in are dropped before they reach a socket";
    let fix = "`sysctl -w net.core.netdev_max_backlog=10000`; if one core drops them all, see receive-queues";
    if dropped.now() > 0 {
        return Finding::fail(
            CHECK,
            format!("backlogs are full right now: {} packets dropped in this moment", dropped.now()),
        )
        .costs(cost)
        .fix(fix);
    }
    if is_much(dropped.after, processed, RARE) {
        let cores = named(&dropping);
        return Finding::warn(
            CHECK,
            format!("{} of {processed} packets were dropped, on {cores}", dropped.after),
        )
        .costs(cost)
        .fix(fix);
    }
    let what =
        format!("{} of {processed} packets dropped, {} turns ended early", dropped.after, squeezed.after);
    if is_much(squeezed.after, processed, RARELY_SQUEEZED) {
        return Finding::warn(CHECK, what)
            .costs("packets wait in the card for the next turn, and are lost when its ring is full")
            .fix("`sysctl -w net.core.netdev_budget=600 net.core.netdev_budget_usecs=8000`");
    }
    Finding::ok(CHECK, what)
}

fn udp(before: &Sample, after: &Sample, passed: Duration) -> Finding {
    const CHECK: &str = "udp-drops";
    let counts = |sample: &Sample| -> Seen<[u64; 3]> {
        let (v4, v6) = (sample.snmp.as_ref().map_err(|unread| *unread)?, sample.snmp6.as_ref());
        // A machine without IPv6 has no such file.
        let count = |name: &str| {
            let six = v6.ok().and_then(|text| parse::snmp6(text, &format!("Udp6{name}"))).unwrap_or(0);
            parse::snmp(v4, "Udp", name).map(|four| four.saturating_add(six)).ok_or(Unread::Garbled)
        };
        Ok([count("InDatagrams")?, count("RcvbufErrors")?, count("InErrors")?])
    };
    let (before, after) = match (counts(before), counts(after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(unread), _) | (_, Err(unread)) => return Finding::unknown(CHECK, "what UDP drops", unread),
    };
    let pair = |at: usize| Pair { before: before[at], after: after[at] };
    let (received, full, errors) = (pair(0), pair(1), pair(2));
    let cost = "requests (or replies to others on this machine) that reached the machine are lost";
    let fix =
        "a larger --receive-buffer (and net.core.rmem_max), more --cores, or less that keeps the cores busy";
    if full.now() > 0 {
        let rate = full.now() as f64 / passed.as_secs_f64().max(0.001);
        return Finding::fail(
            CHECK,
            format!("receive buffers are full right now: {rate:.0} datagrams dropped a second"),
        )
        .costs(cost)
        .fix(fix);
    }
    let what = format!(
        "since boot {} datagrams received, {} dropped because a receive buffer was full, {} for other faults",
        received.after,
        full.after,
        errors.after.saturating_sub(full.after)
    );
    if is_much(full.after, received.after, RARE) {
        return Finding::warn(CHECK, what).costs(cost).fix(fix);
    }
    if is_much(errors.after.saturating_sub(full.after), received.after, RARE) {
        return Finding::warn(CHECK, what)
            .costs("datagrams with wrong checksums, or for which the kernel had no memory (net.ipv4.udp_mem)")
            .fix("`nstat -az 'Udp*'` tells them apart; wrong checksums are the card's or the link's");
    }
    Finding::ok(CHECK, what)
}

fn sockets(before: &Sample, after: &Sample, config: &Config) -> Finding {
    const CHECK: &str = "socket-drops";
    let ports: Vec<u16> = config.udp.addresses().iter().map(SocketAddr::port).collect();
    let rows = |sample: &Sample| -> Seen<Vec<UdpRow>> {
        let mut rows = parse::udp_rows(sample.udp.as_ref().map_err(|unread| *unread)?);
        rows.extend(sample.udp6.as_deref().map(parse::udp_rows).unwrap_or_default());
        rows.retain(|row| row.port != 0 && ports.contains(&row.port));
        Ok(rows)
    };
    let (before, after) = match (rows(before), rows(after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(unread), _) | (_, Err(unread)) => {
            return Finding::unknown(CHECK, "what the tracker's sockets drop", unread);
        }
    };
    if after.is_empty() {
        return Finding::ok(CHECK, "not looked at: no UDP socket has the port");
    }
    let drops = |rows: &[UdpRow]| rows.iter().map(|row| row.drops).fold(0, u64::saturating_add);
    let pair = Pair { before: drops(&before), after: drops(&after) };
    let waiting = after.iter().map(|row| row.waiting).fold(0, u64::saturating_add);
    let what = format!(
        "{} sockets have the port: {} datagrams dropped since they were opened, {waiting} bytes wait",
        after.len(),
        pair.after
    );
    let cost = "requests that reached the machine get no answer; clients ask again after 15 s and more";
    let fix = "a larger --receive-buffer (and net.core.rmem_max), or more --cores";
    match (pair.now(), pair.after) {
        (0, 0) => Finding::ok(CHECK, what),
        (0, _) => Finding::warn(CHECK, what).costs(cost).fix(fix),
        (now, _) => {
            Finding::fail(CHECK, format!("{what}; {now} of them in this moment")).costs(cost).fix(fix)
        }
    }
}

/// Judges whether the cores share the work of taking packets in.
pub(super) fn softirq_balance(before: &Sample, after: &Sample, chosen: &Chosen) -> Vec<Finding> {
    const CHECK: &str = "softirq-balance";
    let rows = match (&before.softirqs, &after.softirqs) {
        (Ok(before), Ok(after)) => (parse::softirqs(before, "NET_RX"), parse::softirqs(after, "NET_RX")),
        (Err(unread), _) | (_, Err(unread)) => {
            return vec![Finding::unknown(CHECK, "which cores take packets in", *unread)];
        }
    };
    let now: BTreeMap<usize, u64> = rows
        .1
        .iter()
        .map(|(core, count)| (*core, count.saturating_sub(rows.0.get(core).copied().unwrap_or(0))))
        .collect();
    let sum = |counts: &BTreeMap<usize, u64>| counts.values().copied().fold(0, u64::saturating_add);
    let (counts, when) = if sum(&now) >= PACKETS_MIN { (now, "right now") } else { (rows.1, "since boot") };
    vec![balance(&counts, when, chosen)]
}

fn balance(counts: &BTreeMap<usize, u64>, when: &str, chosen: &Chosen) -> Finding {
    const CHECK: &str = "softirq-balance";
    let cores = chosen.cores();
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.map(u128::from).sum::<u128>();
    let all = sum(&mut counts.values().copied());
    let Some((busiest, most)) = counts.iter().max_by_key(|(_, count)| **count) else {
        return Finding::unknown(CHECK, "which cores take packets in", Unread::Garbled);
    };
    if all < u128::from(PACKETS_MIN) {
        return Finding::ok(CHECK, format!("not judged: only {all} receive interrupts since boot"));
    }
    let percent = |part: u128| part * 100 / all;
    let others = counts.iter().filter(|(core, _)| !cores.contains(core)).map(|(_, count)| *count);
    let others = percent(sum(&mut { others }));
    let share = percent(u128::from(*most));
    let what = format!(
        "{when} core {busiest} takes {share} % of the receive interrupts, cores that gyre doesn't use {others} %"
    );
    let fix = format!("spread the queues over {}: see receive-queues and queue-affinity", named(cores));
    // Twice its share is still no reason to worry; of two cores one may have nine tenths.
    let workers = cores.len().max(1) as u128;
    if cores.len() > 1 && share > (200 / workers).min(90) {
        return Finding::warn(CHECK, what)
            .costs("that core is full while others idle, and what it can't take in is lost")
            .fix(fix);
    }
    if others > 50 && !cores.is_empty() {
        return Finding::warn(CHECK, what)
            .costs("packets are taken in on one core and answered on another: a wake-up and cold caches for each burst")
            .fix(fix);
    }
    Finding::ok(CHECK, what)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::sample::Received;
    use super::*;

    /// A sample in which nothing is amiss: these datagrams and packets received, nothing lost.
    fn healthy() -> Sample {
        let udp = "head\n 1: 00000000:1B39 00000000:0000 07 00000000:00000000 00:0 0 0 0 99 2 0 0\n";
        Sample {
            stat: Ok(String::new()),
            softirqs: Ok("CPU0 CPU1\nNET_RX: 6000 5000\n".into()),
            softnet: Ok("00010000 00000000 00000001 0 0 0 0 0 0 0 0 0 00000000\n".into()),
            snmp: Ok("Udp: InDatagrams InErrors RcvbufErrors\nUdp: 100000 0 0\n".into()),
            snmp6: Ok("Udp6InDatagrams 5\n".into()),
            udp: Ok(udp.into()),
            udp6: Err(Unread::Absent),
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
        assert_eq!(level("softnet", |_| {}, |sample| sample.softnet = Err(Unread::Denied)), Level::Warn);
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
        assert_eq!(level("socket-drops", row("0035", 7), row("0035", 8)), Level::Ok, "another's port");
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
        assert_eq!(level(&[9_900, 100], 1), Level::Ok, "one core takes all there is");
        assert_eq!(level(&[900, 1_100, 1_000, 1_000], 4), Level::Ok);
        assert_eq!(level(&[6_000, 1_000, 1_000, 1_000], 4), Level::Warn);
        assert_eq!(level(&[100, 9_900], 1), Level::Warn, "a core that isn't ours takes all");
        assert_eq!(level(&[1, 9], 2), Level::Ok, "too few to say");
        assert_eq!(level(&[u64::MAX, u64::MAX], 2), Level::Ok);
        assert_eq!(level(&[], 2), Level::Warn);
        // What happens right now counts more than what has been.
        let (mut first, mut second) = (healthy(), healthy());
        first.softirqs = Ok("CPU0 CPU1\nNET_RX: 100000 100000\n".into());
        second.softirqs = Ok("CPU0 CPU1\nNET_RX: 102000 100001\n".into());
        assert_eq!(softirq_balance(&first, &second, &chosen(2))[0].level, Level::Warn);
        assert_eq!(softirq_balance(&second, &second, &chosen(2))[0].level, Level::Ok);
    }
}
