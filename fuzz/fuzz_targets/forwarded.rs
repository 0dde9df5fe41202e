//! Owns the fuzzing of the fields that proxies set. Only trusted proxies may be believed, and fields that the client
//! sends itself must change nothing.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use gyre_core::limits::WEB_PROXIES_MAX;
use gyre_core::wire::forwarded::{client_ip, protocol};
use libfuzzer_sys::fuzz_target;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn is_trusted(ip: IpAddr) -> bool {
    ip.is_loopback() || matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)
}

type Field<'a> = (&'a str, &'a [u8]);

fn find(fields: &[Field<'_>]) -> IpAddr {
    client_ip(PROXY, fields.iter().copied(), is_trusted)
}

// Each line is a field.
fuzz_target!(|text: &[u8]| {
    let fields: Vec<Field<'_>> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
        })
        .collect();
    assert_eq!(client_ip(STRANGER, fields.iter().copied(), is_trusted), STRANGER);
    assert_eq!(protocol(STRANGER, fields.iter().copied(), is_trusted), None);
    let _ = protocol(PROXY, fields.iter().copied(), is_trusted);
    let found = find(&fields);
    assert_eq!(found, found.to_canonical());
    assert!(found == PROXY || is_named(&fields, found), "{found} is not in a field");
    claims_change_nothing(&fields);
});

/// Returns whether an address is in a field.
fn is_named(fields: &[Field<'_>], ip: IpAddr) -> bool {
    fields.iter().any(|(_, value)| {
        let Ok(_) = str::from_utf8(value) else { return true }; // the valid parts may be read
        let text = String::from_utf8_lossy(value);
        let words = text.split(|letter: char| !(letter.is_ascii_hexdigit() || ".:".contains(letter)));
        words.clone().chain(text.split([',', ';', '=', '"', '[', ']', ' '])).any(|word| {
            let bare = word.split_once(':').map_or(word, |(bare, _)| bare);
            [word, bare].iter().any(|word| word.parse().is_ok_and(|named: IpAddr| named.to_canonical() == ip))
        })
    })
}

/// Entries before the one that the trusted proxy appends must not matter.
fn claims_change_nothing(fields: &[Field<'_>]) {
    for name in ["x-forwarded-for", "forwarded"] {
        let own: &[u8] = if name == "forwarded" { b"for=203.0.113.9" } else { b"203.0.113.9" };
        let named = IpAddr::from([203, 0, 113, 9]);
        let only = fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).copied();
        let apart: Vec<_> = only.clone().chain([(name, own)]).collect();
        assert_eq!(find(&apart), named, "in a separate field");
        let values: Vec<&[u8]> = apart.iter().map(|(_, value)| *value).collect();
        let joined = values.join(&b", "[..]);
        assert_eq!(find(&[(name, &joined)]), named, "at the end of a field");
        // Followed by the maximum number of trusted proxies.
        let hops = vec![if name == "forwarded" { "for=10.0.0.1" } else { "10.0.0.1" }; WEB_PROXIES_MAX - 1]
            .join(",");
        let hops = [&joined, &b","[..], hops.as_bytes()].concat();
        assert_eq!(find(&[(name, &hops)]), named, "before proxies");
    }
}
