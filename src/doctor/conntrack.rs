//! Owns the checks of connection tracking: how full its table is, and whether it tracks gyre's ports.

use std::net::SocketAddr;

use serde_json::Value;

use super::Finding;
use super::machine::{Machine, ReadError, ReadResult};
use crate::config::Config;
use crate::types::Family;

/// Usage of the table in percent from which on it is a warning, or a failure.
const FULL_WARN: u64 = 60;
const FULL_FAIL: u64 = 90;

/// The input of the conntrack checks.
pub(super) struct Conntrack {
    count: ReadResult<u64>,
    max: ReadResult<u64>,
    /// `/proc/net/stat/nf_conntrack`.
    statistics: ReadResult<String>,
    /// `/proc/net/nf_conntrack`.
    table: ReadResult<String>,
    /// `nft -j list ruleset`.
    nft: ReadResult<String>,
    /// `iptables-save` and `ip6tables-save`; absent if there are no legacy rules.
    iptables: [ReadResult<String>; 2],
}

impl Conntrack {
    pub(super) fn read(machine: &Machine) -> Self {
        let count = machine.number("/proc/sys/net/netfilter/nf_conntrack_count");
        // Without the module, no rules matter. Reading the rules could load it.
        let loaded = count != Err(ReadError::Absent);
        let run = |program, arguments: &[&str]| {
            if loaded { machine.command(program, arguments) } else { Err(ReadError::Absent) }
        };
        let nft = run("nft", &["-j", "list", "ruleset"]);
        // Rules that iptables has added to nft, which can't decode them.
        let foreign = nft.as_deref().is_ok_and(|rules| rules.contains("\"xt\""));
        // Listing legacy rules also loads their modules, unless they are loaded already.
        let old = |tables: &str, program| match machine.line(tables) {
            _ if foreign => run(program, &[]).map_err(|_| ReadError::Denied),
            Ok(names) if !names.is_empty() => run(program, &[]).map_err(|_| ReadError::Denied),
            Ok(_) | Err(ReadError::Absent) => Err(ReadError::Absent),
            Err(error) => Err(error),
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

    /// Runs all checks.
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
            (Err(ReadError::Absent), _) => return Finding::ok(CHECK, "connection tracking is not loaded"),
            (Ok(count), Ok(max)) if max > 0 => (count, max),
            (Err(error), _) | (_, Err(error)) => {
                return Finding::unknown(CHECK, "the usage of the conntrack table", error);
            }
            _ => return Finding::unknown(CHECK, "the usage of the conntrack table", ReadError::Malformed),
        };
        let percent = count.saturating_mul(100) / max;
        let what = format!("{count} of at most {max} connections are tracked ({percent} %)");
        let cost =
            "when the table is full, the kernel drops packets of new clients and only reports it in its log";
        let fix = format!(
            "exclude the port from tracking (see conntrack-port), or `sysctl -w \
             net.netfilter.nf_conntrack_max={}`",
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
                let what = format!("{what}; {lost} packets were lost since boot because it was full");
                Finding::warn(CHECK, what).costs(cost).fix(fix)
            }
            _ => Finding::ok(CHECK, what),
        }
    }

    /// Returns the number of packets dropped and connections forgotten early because the table was full. Each core has
    /// a line, in hexadecimal.
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
        if self.count == Err(ReadError::Absent) {
            return Finding::ok(CHECK, format!("UDP port {port} is not tracked"));
        }
        let table = self.table.as_deref();
        let entries = table.map(|table| tracked(table, port)).unwrap_or(0);
        let left = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
        let exempt = exempting_rules(port);
        let warn = |what: String, fix: String| {
            Finding::warn(CHECK, what)
                .costs("a lookup and an entry for each client; when the table is full, requests are lost")
                .fix(fix)
        };
        match Rules::of(&self.nft, &self.iptables, port, families) {
            Rules::Exempt if entries == 0 => {
                Finding::ok(CHECK, format!("a rule excludes UDP port {port} from connection tracking"))
            }
            Rules::Exempt => warn(
                format!("a rule excludes UDP port {port}, but the table still has {left} for it"),
                format!("`conntrack -D -p udp --dport {port}`, then run `gyre doctor` again"),
            ),
            Rules::Partial(without) => warn(
                format!("rules exclude UDP port {port}, but not in {without}, so entries are still created"),
                exempt,
            ),
            _ if entries > 0 => {
                warn(format!("UDP port {port} is tracked; the table has {left} for it"), exempt)
            }
            Rules::Tracking => {
                let seen = if table.is_ok() { ", though the table has no entry for it now" } else { "" };
                warn(
                    format!("rules use connection tracking, and none excludes UDP port {port}{seen}"),
                    exempt,
                )
            }
            Rules::None => {
                let seen =
                    if table.is_ok() { "has no entry" } else { "may have entries, which can't be read" };
                let what = format!("tracking is loaded, but no rule uses it; UDP port {port} {seen}");
                Finding::ok(CHECK, what)
            }
            Rules::Unknown if table.is_ok() && self.count == Ok(0) => {
                Finding::ok(CHECK, "no connections are tracked (the rules could not be read)")
            }
            Rules::Unknown => {
                let table = if table.is_ok() { "the table has no entry for it now" } else { "nor the table" };
                warn(
                    format!(
                        "can't check whether UDP port {port} is tracked: the rules could not be read, {table}"
                    ),
                    format!("run `gyre doctor` as root, or exclude the port: {exempt}"),
                )
            }
        }
    }
}

/// Returns the commands that exclude a port from tracking, in both directions.
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

/// Returns the number of table entries for one of our UDP ports.
fn tracked(table: &str, port: u16) -> usize {
    let port = format!("dport={port}");
    let udp = table.lines().filter(|line| line.split_whitespace().nth(2) == Some("udp"));
    // The first `dport` is the destination of the client.
    let first =
        |line: &&str| line.split_whitespace().find(|word| word.starts_with("dport=")) == Some(port.as_str());
    udp.filter(first).count()
}

/// How the rules treat a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    /// It is excluded in both directions and for each address family.
    Exempt,
    /// It is excluded, but not in this place.
    Partial(&'static str),
    /// Some rule uses tracking, and none excludes the port.
    Tracking,
    /// No rule uses tracking.
    None,
    /// The rules could not be read.
    Unknown,
}

/// The places where a port must be excluded: for IPv4 and IPv6, incoming and outgoing.
const PLACES: [[&str; 2]; 2] =
    [["`prerouting` of IPv4", "`output` of IPv4"], ["`prerouting` of IPv6", "`output` of IPv6"]];

/// What the rules contain.
#[derive(Default)]
struct Found {
    /// Whether the port is excluded, for each of [`PLACES`].
    kept_out: [[bool; 2]; 2],
    /// Whether some rule uses tracking.
    tracking: bool,
}

impl Rules {
    /// Searches the rules for a port, for the address families that it is served on.
    fn of(
        nft: &ReadResult<String>,
        iptables: &[ReadResult<String>; 2],
        port: u16,
        families: [bool; 2],
    ) -> Self {
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
        let denied =
            iptables.iter().any(|rules| matches!(rules, Err(ReadError::Denied | ReadError::Malformed)));
        let old = iptables.iter().any(Result::is_ok);
        match places().find(|place| !kept_out(place)) {
            None => Self::Exempt,
            Some((family, direction)) if places().any(|place| kept_out(&place)) => {
                Self::Partial(PLACES[family][direction])
            }
            Some(_) if found.tracking => Self::Tracking,
            Some(_) if denied || nft.is_none() && !old => Self::Unknown,
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

/// Returns whether a rule matches connections or rewrites addresses, which needs tracking.
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

/// Returns whether a rule excludes the port from tracking: `notrack`, without a match or with a match of the port.
fn keeps_out(expressions: &Value, field: &str, port: u16) -> bool {
    let Some(expressions) = expressions.as_array() else { return false };
    let ends =
        expressions.iter().any(|part| part.as_object().is_some_and(|part| part.contains_key("notrack")));
    let matches = |part: &Value| {
        let (left, right) = (&part["match"]["left"], &part["match"]["right"]);
        if left["payload"]["field"] != field {
            // `meta l4proto udp` and similar matches can stand beside the port; anything else narrows the rule.
            return left["meta"]["key"] == "l4proto" || left["payload"]["field"] == "protocol";
        }
        let udp = matches!(left["payload"]["protocol"].as_str(), Some("udp" | "th"));
        udp && part["match"]["op"] != "!=" && holds(right, port)
    };
    ends && expressions.iter().filter(|part| !part["match"].is_null()).all(matches)
}

/// Returns whether a number, a range or a set contains the port.
fn holds(value: &Value, port: u16) -> bool {
    let port = u64::from(port);
    if let Some(number) = value.as_u64() {
        return number == port;
    }
    if let Some([first, last]) = value["range"].as_array().map(Vec::as_slice) {
        return first.as_u64() <= Some(port) && last.as_u64() >= Some(port);
    }
    // A set contains numbers and ranges, but no sets.
    value["set"].as_array().is_some_and(|values| {
        values.iter().filter(|value| value["set"].is_null()).any(|value| holds(value, port as u16))
    })
}

#[cfg(test)]
mod tests;
