//! Owns the judgement on connection tracking: how full its table is, and whether it takes in our ports.

use std::net::SocketAddr;

use serde_json::Value;

use super::Finding;
use super::machine::{Machine, Seen, Unread};
use crate::config::Config;
use crate::types::Family;

/// Parts of the table, in percent, from which on it is a warning and a failure.
const FULL_WARN: u64 = 60;
const FULL_FAIL: u64 = 90;

/// What the checks of connection tracking look at.
pub(super) struct Conntrack {
    count: Seen<u64>,
    max: Seen<u64>,
    /// `/proc/net/stat/nf_conntrack`.
    statistics: Seen<String>,
    /// `/proc/net/nf_conntrack`.
    table: Seen<String>,
    /// `nft -j list ruleset`.
    nft: Seen<String>,
    /// `iptables-save` and `ip6tables-save`; absent if there are no old-style rules.
    iptables: [Seen<String>; 2],
}

impl Conntrack {
    pub(super) fn read(machine: &Machine) -> Self {
        let count = machine.number("/proc/sys/net/netfilter/nf_conntrack_count");
        // Without the module no rules matter; and to ask for them might load it.
        let loaded = count != Err(Unread::Absent);
        let ask = |program, arguments: &[&str]| {
            if loaded { machine.command(program, arguments) } else { Err(Unread::Absent) }
        };
        let nft = ask("nft", &["-j", "list", "ruleset"]);
        // Rules that iptables has put into nft, which can't say what they mean.
        let foreign = nft.as_deref().is_ok_and(|rules| rules.contains("\"xt\""));
        // Listing old-style rules loads their modules too, unless they are there.
        let old = |tables: &str, program| match machine.line(tables) {
            _ if foreign => ask(program, &[]).map_err(|_| Unread::Denied),
            Ok(names) if !names.is_empty() => ask(program, &[]).map_err(|_| Unread::Denied),
            Ok(_) | Err(Unread::Absent) => Err(Unread::Absent),
            Err(unread) => Err(unread),
        };
        Self {
            max: machine.number("/proc/sys/net/netfilter/nf_conntrack_max"),
            statistics: machine.text("/proc/net/stat/nf_conntrack"),
            table: machine.text("/proc/net/nf_conntrack"),
            nft,
            iptables: [
                old("/proc/net/ip_tables_names", "iptables-save"),
                old("/proc/net/ip6_tables_names", "ip6tables-save"),
            ],
            count,
        }
    }

    /// Judges all of it.
    pub(super) fn judge(&self, config: &Config) -> Vec<Finding> {
        let addresses = config.udp.addresses();
        let mut ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        let mut findings = vec![self.fullness()];
        for port in ports.into_iter().filter(|&port| port != 0) {
            let served = |family| {
                addresses.iter().any(|address| address.port() == port && Family::of(address.ip()) == family)
            };
            findings.push(self.port(port, [served(Family::V4), served(Family::V6)]));
        }
        findings
    }

    fn fullness(&self) -> Finding {
        const CHECK: &str = "conntrack-table";
        let (count, max) = match (self.count, self.max) {
            (Err(Unread::Absent), _) => return Finding::ok(CHECK, "connection tracking is not loaded"),
            (Ok(count), Ok(max)) if max > 0 => (count, max),
            (Err(unread), _) | (_, Err(unread)) => {
                return Finding::unknown(CHECK, "how full the table of connections is", unread);
            }
            _ => return Finding::unknown(CHECK, "how full the table of connections is", Unread::Garbled),
        };
        let percent = count.saturating_mul(100) / max;
        let what = format!("{count} of {max} connections are tracked ({percent} %)");
        let cost = "when the table is full the kernel drops packets of all new clients, and says so in its log alone";
        let fix = format!(
            "keep the port out of it (see conntrack-port), or `sysctl -w net.netfilter.nf_conntrack_max={}`",
            max.saturating_mul(4)
        );
        let lost = self.lost();
        if percent >= FULL_FAIL {
            return Finding::fail(CHECK, what).costs(cost).fix(fix);
        }
        if percent >= FULL_WARN {
            return Finding::warn(CHECK, what).costs(cost).fix(fix);
        }
        match lost {
            Some(lost) if lost > 0 => {
                let what = format!("{what}; since boot it had no room for {lost} packets");
                Finding::warn(CHECK, what).costs(cost).fix(fix)
            }
            _ => Finding::ok(CHECK, what),
        }
    }

    /// Packets dropped and connections forgotten early because the table was full; each core has a line, in
    /// hexadecimal.
    fn lost(&self) -> Option<u64> {
        let mut lines = self.statistics.as_deref().ok()?.lines();
        let names: Vec<&str> = lines.next()?.split_whitespace().collect();
        let columns: Vec<usize> = ["drop", "early_drop"]
            .iter()
            .filter_map(|name| names.iter().position(|found| found == name))
            .collect();
        let line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: &usize| u64::from_str_radix(words.get(*at)?, 16).ok();
            columns.iter().filter_map(number).fold(0_u64, u64::saturating_add)
        };
        Some(lines.map(line).fold(0_u64, u64::saturating_add))
    }

    fn port(&self, port: u16, families: [bool; 2]) -> Finding {
        const CHECK: &str = "conntrack-port";
        if self.count == Err(Unread::Absent) {
            return Finding::ok(CHECK, format!("nothing tracks UDP port {port}"));
        }
        let table = self.table.as_deref();
        let entries = table.map(|table| tracked(table, port)).unwrap_or(0);
        let left = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
        let exempt = exempting_rules(port);
        let warn = |what: String, fix: String| {
            Finding::warn(CHECK, what)
                .costs("a lookup and an entry for each client; when the table is full, requests are dropped unseen")
                .fix(fix)
        };
        match Rules::of(&self.nft, &self.iptables, port, families) {
            Rules::Exempt if entries == 0 => {
                Finding::ok(CHECK, format!("a rule keeps UDP port {port} out of connection tracking"))
            }
            Rules::Exempt => warn(
                format!("a rule keeps UDP port {port} out, yet of it the table still has {left}"),
                format!("`conntrack -D -p udp --dport {port}`, then look again"),
            ),
            Rules::Half(without) => warn(
                format!("UDP port {port} is kept out, but not in {without}, which makes the entries"),
                exempt,
            ),
            _ if entries > 0 => warn(format!("UDP port {port} is tracked: {left} right now"), exempt),
            Rules::Tracking => {
                let seen = if table.is_ok() { ", though it has no entry right now" } else { "" };
                warn(format!("rules ask for connection tracking, none exempts UDP port {port}{seen}"), exempt)
            }
            Rules::None => {
                let seen =
                    if table.is_ok() { "has no entry" } else { "may have entries, which can't be seen" };
                let what = format!("tracking is loaded, but no rule asks for it; UDP port {port} {seen}");
                Finding::ok(CHECK, what)
            }
            Rules::Unseen if table.is_ok() && self.count == Ok(0) => {
                Finding::ok(CHECK, "nothing is tracked at all (the rules could not be seen)")
            }
            Rules::Unseen => {
                let table =
                    if table.is_ok() { "no entry of it right now" } else { "entries can't be seen either" };
                warn(
                    format!("unknown: whether UDP port {port} is tracked; no rules seen, {table}"),
                    format!("run `gyre doctor` as root; to be sure: {exempt}"),
                )
            }
        }
    }
}

/// The commands that keep a port out of tracking, in both directions.
fn exempting_rules(port: u16) -> String {
    let chain = |name: &str, hook: &str, field: &str| {
        format!(
            "nft add chain inet gyre {name} '{{ type filter hook {hook} priority raw; }}'; \
             nft add rule inet gyre {name} udp {field} {port} notrack"
        )
    };
    let (incoming, outgoing) = (chain("in", "prerouting", "dport"), chain("out", "output", "sport"));
    format!("`nft add table inet gyre; {incoming}; {outgoing}`")
}

/// Entries of the table that have to do with a UDP port of ours.
fn tracked(table: &str, port: u16) -> usize {
    let port = format!("dport={port}");
    let udp = table.lines().filter(|line| line.split_whitespace().nth(2) == Some("udp"));
    // The first `dport` is the one that the client sent to.
    let first =
        |line: &&str| line.split_whitespace().find(|word| word.starts_with("dport=")) == Some(port.as_str());
    udp.filter(first).count()
}

/// What the rules say about a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    /// It is kept out, in both directions and by each family.
    Exempt,
    /// It is kept out, but not here.
    Half(&'static str),
    /// Some rule makes the kernel track, and none exempts the port.
    Tracking,
    /// There are none that track.
    None,
    /// Nobody could tell.
    Unseen,
}

/// Where a port must be kept out: of IPv4 and IPv6, as it comes in and as it goes out.
const PLACES: [[&str; 2]; 2] =
    [["`prerouting` of IPv4", "`output` of IPv4"], ["`prerouting` of IPv6", "`output` of IPv6"]];

/// What was found in the rules.
#[derive(Default)]
struct Found {
    /// For each of [`PLACES`].
    kept_out: [[bool; 2]; 2],
    /// Some rule makes the kernel track.
    tracking: bool,
}

impl Rules {
    /// Looks for a port in the rules, of those families that it is served by.
    fn of(nft: &Seen<String>, iptables: &[Seen<String>; 2], port: u16, families: [bool; 2]) -> Self {
        let mut found = Found::default();
        let nft = nft.as_deref().ok().and_then(|ruleset| serde_json::from_str::<Value>(ruleset).ok());
        if let Some(ruleset) = &nft {
            found.look_at_nft(ruleset["nftables"].as_array().map_or(&[][..], Vec::as_slice), port);
        }
        for (family, rules) in iptables.iter().enumerate() {
            found.look_at_iptables(family, rules.as_deref().unwrap_or_default(), port);
        }
        let places =
            || (0..2).filter(|&family| families[family]).flat_map(|family| [(family, 0), (family, 1)]);
        let kept_out = |place: &(usize, usize)| found.kept_out[place.0][place.1];
        let denied = iptables.iter().any(|rules| matches!(rules, Err(Unread::Denied | Unread::Garbled)));
        let old = iptables.iter().any(Result::is_ok);
        match places().find(|place| !kept_out(place)) {
            None => Self::Exempt,
            Some((family, direction)) if places().any(|place| kept_out(&place)) => {
                Self::Half(PLACES[family][direction])
            }
            Some(_) if found.tracking => Self::Tracking,
            Some(_) if denied || nft.is_none() && !old => Self::Unseen,
            Some(_) => Self::None,
        }
    }
}

impl Found {
    fn look_at_nft(&mut self, objects: &[Value], port: u16) {
        let hook = |rule: &Value| {
            let same = |chain: &&Value| {
                ["table", "family"].iter().all(|key| chain[key] == rule[key])
                    && chain["name"] == rule["chain"]
            };
            let chains = objects.iter().map(|object| &object["chain"]);
            let chain = chains.filter(|chain| !chain.is_null()).find(same);
            chain.and_then(|chain| chain["hook"].as_str()).unwrap_or("")
        };
        for rule in objects.iter().map(|object| &object["rule"]).filter(|rule| !rule.is_null()) {
            self.tracking |= asks_for_tracking(&rule["expr"]);
            let (direction, field) = match hook(rule) {
                "prerouting" => (0, "dport"),
                "output" => (1, "sport"),
                _ => continue,
            };
            let kept_out = keeps_out(&rule["expr"], field, port);
            for (place, family) in self.kept_out.iter_mut().zip(["ip", "ip6"]) {
                place[direction] |= kept_out && (rule["family"] == family || rule["family"] == "inet");
            }
        }
        self.tracking |= objects.iter().any(|object| object["chain"]["type"] == "nat");
    }

    fn look_at_iptables(&mut self, family: usize, rules: &str, port: u16) {
        for rule in rules.lines() {
            let words: Vec<&str> = rule.split_whitespace().collect();
            let has = |name: &str, value: &str| words.windows(2).any(|pair| pair == [name, value]);
            let ends = (words.contains(&"--notrack") || words.contains(&"NOTRACK")) && has("-p", "udp");
            let port = port.to_string();
            self.kept_out[family][0] |= ends && has("-A", "PREROUTING") && has("--dport", &port);
            self.kept_out[family][1] |= ends && has("-A", "OUTPUT") && has("--sport", &port);
            let tracks = ["--ctstate", "--state", "MASQUERADE", "DNAT", "SNAT"];
            self.tracking |= words.iter().any(|word| tracks.contains(word));
        }
    }
}

/// Whether a rule's expressions look at connections or rewrite addresses, for which the kernel has to track.
fn asks_for_tracking(expressions: &Value) -> bool {
    match expressions {
        Value::Array(parts) => parts.iter().any(asks_for_tracking),
        Value::Object(parts) => parts.iter().any(|(name, part)| {
            matches!(name.as_str(), "ct" | "masquerade" | "snat" | "dnat" | "redirect")
                || name == "xt"
                    && matches!(
                        part["name"].as_str(),
                        Some("conntrack" | "state" | "MASQUERADE" | "DNAT" | "SNAT")
                    )
                || asks_for_tracking(part)
        }),
        _ => false,
    }
}

/// Whether a rule keeps the port out of tracking: `notrack`, behind no match or one of the port.
fn keeps_out(expressions: &Value, field: &str, port: u16) -> bool {
    let Some(expressions) = expressions.as_array() else { return false };
    let ends =
        expressions.iter().any(|part| part.as_object().is_some_and(|part| part.contains_key("notrack")));
    let matches = |part: &Value| {
        let (left, right) = (&part["match"]["left"], &part["match"]["right"]);
        if left["payload"]["field"] != field {
            // `meta l4proto udp` and the like stand beside the port; anything else narrows the rule.
            return left["meta"]["key"] == "l4proto" || left["payload"]["field"] == "protocol";
        }
        let udp = matches!(left["payload"]["protocol"].as_str(), Some("udp" | "th"));
        udp && part["match"]["op"] != "!=" && holds(right, port)
    };
    ends && expressions.iter().filter(|part| !part["match"].is_null()).all(matches)
}

/// Whether a number, a range or a set of these holds the port.
fn holds(value: &Value, port: u16) -> bool {
    let port = u64::from(port);
    if let Some(number) = value.as_u64() {
        return number == port;
    }
    if let Some([first, last]) = value["range"].as_array().map(Vec::as_slice) {
        return first.as_u64() <= Some(port) && last.as_u64() >= Some(port);
    }
    // A set has numbers and ranges, no sets.
    value["set"].as_array().is_some_and(|values| {
        values.iter().filter(|value| value["set"].is_null()).any(|value| holds(value, port as u16))
    })
}

#[cfg(test)]
mod tests;
