//! Owns the tests of the conntrack checks.

use proptest::prelude::*;

use super::super::Level;
use super::*;

const NO_LEGACY_RULES: [ReadResult<String>; 2] = [Err(ReadError::Absent), Err(ReadError::Absent)];
const BOTH: [bool; 2] = [true, true];

/// Conntrack is loaded and hardly used, and the rules are unknown.
fn conntrack() -> Conntrack {
    Conntrack {
        count: Ok(10),
        max: Ok(1_000),
        statistics: Err(ReadError::Absent),
        table: Ok(String::new()),
        nft: Err(ReadError::Absent),
        iptables: NO_LEGACY_RULES,
    }
}

fn judge(conntrack: &Conntrack) -> [Finding; 2] {
    conntrack.judge(&Config::default()).try_into().expect("one for the table, one for the port")
}

#[test]
fn a_full_table() {
    for (count, level) in [(10, Level::Ok), (599, Level::Ok), (600, Level::Warn), (900, Level::Fail)] {
        let [table, _] = judge(&Conntrack { count: Ok(count), ..conntrack() });
        assert_eq!(table.level, level, "{count}");
    }
    let statistics = "entries  searched drop early_drop\n0000000a 00000000 00000010 00000001\n0a 00 01 00\n";
    let [table, _] = judge(&Conntrack { statistics: Ok(statistics.into()), ..conntrack() });
    assert!(table.level == Level::Warn && table.what.contains("18 packets"), "{table:?}");
    let [table, _] = judge(&Conntrack { max: Ok(0), ..conntrack() });
    assert_eq!(table.level, Level::Warn, "a table of size 0 is invalid");
}

#[test]
fn no_tracking_passes() {
    let [table, port] =
        judge(&Conntrack { count: Err(ReadError::Absent), max: Err(ReadError::Absent), ..conntrack() });
    assert_eq!((table.level, port.level), (Level::Ok, Level::Ok));
}

#[test]
fn entries_of_the_port_are_found() {
    let table = "ipv4     2 udp      17 29 src=192.0.2.1 dst=192.0.2.2 sport=6881 dport=6969 src=192.0.2.2 \
                 dst=192.0.2.1 sport=6969 dport=6881 mark=0 use=1\n\
                 ipv4     2 udp      17 29 src=192.0.2.2 dst=192.0.2.1 sport=6969 dport=53 src=x \
                 dst=y sport=53 dport=6969\n\
                 ipv4     2 tcp      6 29 ESTABLISHED src=192.0.2.2 dst=192.0.2.1 sport=1 dport=6969\n";
    assert_eq!(tracked(table, 6969), 1);
    let [_, port] = judge(&Conntrack { table: Ok(table.into()), ..conntrack() });
    assert!(port.level == Level::Warn && port.what.contains("1 entry"), "{port:?}");
    let [_, port] = judge(&conntrack());
    assert!(port.level == Level::Warn && port.what.contains("can't check"), "{port:?}");
    let [_, port] = judge(&Conntrack { count: Ok(0), ..conntrack() });
    assert_eq!(port.level, Level::Ok);
    let [_, port] = judge(&Conntrack { count: Ok(0), table: Err(ReadError::Denied), ..conntrack() });
    assert_eq!(port.level, Level::Warn, "an unreadable table is a warning");
}

/// A ruleset in the format of `nft -j`, with these rules: the hook of the chain, and the expressions.
fn ruleset(rules: &[(&str, &str)]) -> ReadResult<String> {
    let mut objects = Vec::new();
    for (at, (hook, expression)) in rules.iter().enumerate() {
        let names = r#""family":"inet","table":"t""#;
        objects.push(format!(r#"{{"chain":{{{names},"name":"c{at}","type":"filter","hook":"{hook}"}}}}"#));
        objects.push(format!(r#"{{"rule":{{{names},"chain":"c{at}","expr":{expression}}}}}"#));
    }
    Ok(format!(r#"{{"nftables":[{{"metainfo":{{}}}},{}]}}"#, objects.join(",")))
}

fn port_match(field: &str, right: &str) -> String {
    format!(
        r#"[{{"match":{{"op":"==","left":{{"payload":{{"protocol":"udp","field":"{field}"}}}},"right":{right}}}}},
        {{"notrack":null}}]"#
    )
}

const CT: &str =
    r#"[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":"established"}},{"accept":null}]"#;

#[test]
fn rules_of_nft() {
    let of = |nft: &ReadResult<String>| Rules::of(nft, &NO_LEGACY_RULES, 6969, BOTH);
    for right in
        ["6969", r#"{"range":[6900,7000]}"#, r#"{"set":[80,6969]}"#, r#"{"set":[{"range":[6960,6970]}]}"#]
    {
        let (incoming, outgoing) = (port_match("dport", right), port_match("sport", right));
        assert_eq!(
            of(&ruleset(&[("prerouting", &incoming), ("output", &outgoing), ("input", CT)])),
            Rules::Exempt
        );
        assert_eq!(of(&ruleset(&[("prerouting", &incoming)])), Rules::Partial("`output` of IPv4"));
        assert_eq!(of(&ruleset(&[("output", &outgoing)])), Rules::Partial("`prerouting` of IPv4"));
    }
    let other = port_match("dport", "6970");
    assert_eq!(of(&ruleset(&[("prerouting", &other), ("input", CT)])), Rules::Tracking);
    assert_eq!(of(&ruleset(&[("prerouting", r#"[{"masquerade":null}]"#)])), Rules::Tracking);
    assert_eq!(of(&ruleset(&[("input", r#"[{"accept":null}]"#)])), Rules::None);
    assert_eq!(
        of(&ruleset(&[("prerouting", r#"[{"notrack":null}]"#)])),
        Rules::Partial("`output` of IPv4"),
        "for all ports"
    );
    let narrowed =
        r#"[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"notrack":null}]"#;
    assert_eq!(of(&ruleset(&[("prerouting", narrowed)])), Rules::None);
    assert_eq!(of(&Ok("{".into())), Rules::Unknown);
    assert_eq!(of(&Ok("[]".into())), Rules::None);
}

#[test]
fn rules_of_iptables() {
    let absent = || Err(ReadError::Absent);
    let of = |rules: &str| Rules::of(&absent(), &[Ok(rules.to_owned()), absent()], 6969, [true, false]);
    let incoming = "-A PREROUTING -p udp -m udp --dport 6969 -j CT --notrack\n";
    let outgoing = "-A OUTPUT -p udp -m udp --sport 6969 -j NOTRACK\n";
    assert_eq!(of(&format!("*raw\n{incoming}{outgoing}COMMIT\n")), Rules::Exempt);
    assert_eq!(of(incoming), Rules::Partial("`output` of IPv4"));
    assert_eq!(of("-A PREROUTING -p tcp -m tcp --dport 6969 -j CT --notrack\n"), Rules::None);
    assert_eq!(of("-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"), Rules::Tracking);
}

#[test]
fn each_family_has_its_own_rules() {
    let incoming = "-A PREROUTING -p udp -m udp --dport 6969 -j CT --notrack\n";
    let outgoing = "-A OUTPUT -p udp -m udp --sport 6969 -j CT --notrack\n";
    let rules = || Ok(format!("{incoming}{outgoing}"));
    let of = |iptables: &[ReadResult<String>; 2], families| {
        Rules::of(&ruleset(&[("input", CT)]), iptables, 6969, families)
    };
    assert_eq!(of(&[rules(), rules()], BOTH), Rules::Exempt);
    assert_eq!(of(&[rules(), Err(ReadError::Absent)], BOTH), Rules::Partial("`prerouting` of IPv6"));
    assert_eq!(of(&[rules(), Err(ReadError::Absent)], [true, false]), Rules::Exempt);
    assert_eq!(of(&[rules(), Err(ReadError::Absent)], [false, true]), Rules::Tracking);
    let (incoming, outgoing) = (port_match("dport", "6969"), port_match("sport", "6969"));
    let v4 =
        ruleset(&[("prerouting", &incoming), ("output", &outgoing)]).map(|text| text.replace("inet", "ip"));
    assert_eq!(Rules::of(&v4, &NO_LEGACY_RULES, 6969, BOTH), Rules::Partial("`prerouting` of IPv6"));
    assert_eq!(Rules::of(&v4, &NO_LEGACY_RULES, 6969, [true, false]), Rules::Exempt);
    // Legacy rules that exist but can't be read may use tracking.
    let unseen = [Err(ReadError::Denied), Err(ReadError::Absent)];
    assert_eq!(Rules::of(&Ok("{}".into()), &unseen, 6969, BOTH), Rules::Unknown);
    assert_eq!(Rules::of(&Ok("{}".into()), &NO_LEGACY_RULES, 6969, BOTH), Rules::None);
}

#[test]
fn rules_and_entries_together() {
    let exempt =
        ruleset(&[("prerouting", &port_match("dport", "6969")), ("output", &port_match("sport", "6969"))]);
    let [_, port] = judge(&Conntrack { nft: exempt.clone(), table: Err(ReadError::Denied), ..conntrack() });
    assert_eq!(port.level, Level::Ok);
    let entry = "ipv4 2 udp 17 29 src=1 dst=2 sport=3 dport=6969\n";
    let [_, port] = judge(&Conntrack { nft: exempt, table: Ok(entry.into()), ..conntrack() });
    assert!(port.level == Level::Warn && port.fix.unwrap().contains("conntrack -D"));
    let [_, port] = judge(&Conntrack { nft: ruleset(&[("input", CT)]), ..conntrack() });
    assert!(port.level == Level::Warn && port.fix.unwrap().contains("notrack"));
    let [_, port] = judge(&Conntrack { nft: ruleset(&[]), ..conntrack() });
    assert_eq!(port.level, Level::Warn, "an empty list makes invalid JSON: {port:?}");
    let [_, port] = judge(&Conntrack { nft: Ok(r#"{"nftables":[]}"#.into()), ..conntrack() });
    assert_eq!(port.level, Level::Ok);
}

proptest! {
    #[test]
    fn any_text_can_be_parsed(
        text in "\\PC{0,200}",
        json in r#"(\{"(nftables|rule|chain|expr|match|set|range)":|\[|\]|\}|,|7|null|"x"){0,40}"#,
    ) {
        for text in [text, json] {
            Rules::of(&Ok(text.clone()), &[Ok(text.clone()), Ok(text.clone())], 6969, BOTH);
            let strange = Conntrack {
                statistics: Ok(text.clone()),
                table: Ok(text.clone()),
                nft: Ok(text),
                ..conntrack()
            };
            judge(&strange);
        }
    }
}
