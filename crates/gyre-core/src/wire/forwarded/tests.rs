//! Owns the tests of forwarding fields: chains of proxies, forged fields and junk.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// Trusts the proxies of these tests, which have the addresses 10.0.0.0/8 and fd00::/8.
fn is_trusted(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.octets()[0] == 0xFD,
    }
}

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn fields<'a>(fields: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a str, &'a [u8])> + Clone {
    fields.iter().map(|(name, value)| (*name, value.as_bytes()))
}

fn ip(given: &[(&str, &str)]) -> String {
    client_ip(PROXY, fields(given), is_trusted).to_string()
}

fn scheme(given: &[(&str, &str)]) -> Option<Protocol> {
    protocol(PROXY, fields(given), is_trusted)
}

const FORWARDED: &str = "Forwarded";
const FOR: &str = "X-Forwarded-For";
const PROTO: &str = "X-Forwarded-Proto";
const REAL: &str = "X-Real-IP";

#[test]
fn a_peer_that_is_not_trusted_is_the_client() {
    let all = [(FORWARDED, "for=1.1.1.1;proto=https"), (FOR, "1.1.1.1"), (REAL, "1.1.1.1"), (PROTO, "https")];
    let stranger = IpAddr::from([9, 9, 9, 9]);
    assert_eq!(client_ip(stranger, fields(&all), is_trusted), stranger);
    assert_eq!(protocol(stranger, fields(&all), is_trusted), None);
    let mapped = IpAddr::from(Ipv4Addr::new(9, 9, 9, 9).to_ipv6_mapped());
    assert_eq!(client_ip(mapped, fields(&all), is_trusted), stranger);
    let mapped = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
    assert_eq!(client_ip(mapped, fields(&all), is_trusted), IpAddr::from([1, 1, 1, 1]));
    assert_eq!(ip(&[("X-Other", "1.1.1.1")]), "10.0.0.1");
}

#[test]
fn lists_are_read_from_the_end() {
    for (list, client) in [
        ("1.1.1.1", "1.1.1.1"),
        ("2.2.2.2, 1.1.1.1", "1.1.1.1"),
        ("2.2.2.2 ,\t1.1.1.1,10.0.0.2 , fd00::2", "1.1.1.1"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("1.1.1.1:8080", "1.1.1.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:1.1.1.1", "1.1.1.1"),
        ("1.1.1.1, ::ffff:10.0.0.2", "1.1.1.1"),
        ("1.1.1.1,,", "1.1.1.1"),
        ("1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("1.1.1.1, [::1]x", "10.0.0.1"),
        ("1.1.1.1, fe80::1%eth0", "10.0.0.1"),
        ("1.1.1.1, é", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",", "10.0.0.1"),
    ] {
        assert_eq!(ip(&[(FOR, list)]), client, "{list}");
        let elements: Vec<_> =
            list.split(',').map(|node| format!("by=_x; For = \"{}\"", node.trim())).collect();
        if !list.contains(",,") && list != "," {
            assert_eq!(ip(&[(FORWARDED, &elements.join(" , "))]), client, "{elements:?}");
        }
    }
    assert_eq!(
        ip(&[("x-forwarded-for", "2.2.2.2"), ("a", "b"), (FOR, "1.1.1.1"), (FOR, "10.0.0.9")]),
        "1.1.1.1"
    );
    assert_eq!(ip(&[(REAL, "1.1.1.1")]), "1.1.1.1");
    assert_eq!(ip(&[(REAL, "2.2.2.2, 10.0.0.7")]), "10.0.0.7", "X-Real-IP is not a list");
    let chain = |proxies: usize| format!("1.1.1.1{}", ", 10.0.0.2".repeat(proxies));
    assert_eq!(ip(&[(FOR, &chain(WEB_PROXIES_MAX - 1))]), "1.1.1.1");
    assert_eq!(ip(&[(FOR, &chain(WEB_PROXIES_MAX))]), "10.0.0.2");
}

#[test]
fn elements_of_forwarded_are_parsed() {
    for (element, client) in [
        ("for=192.0.2.43, for=198.51.100.17;by=203.0.113.60;proto=http;host=example.com", "198.51.100.17"),
        ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
        ("for=192.0.2.43:47011;secret=\"a;b\"", "192.0.2.43"),
        ("for=1.1.1.1, for=_hidden", "10.0.0.1"),
        ("for=1.1.1.1, for=_SEVKISEK, for=10.0.0.5", "10.0.0.5"),
        ("for=1.1.1.1, proto=https", "10.0.0.1"),
        ("for=1.1.1.1, for", "10.0.0.1"),
        ("for=2.2.2.2, for=\"1.1.1.1", "10.0.0.1"),
        ("for=\"2.2.2.2, for=1.1.1.1", "1.1.1.1"),
        ("for=\"2.2.2.2;x=\\\", for=1.1.1.1, for=10.0.0.2", "1.1.1.1"),
    ] {
        assert_eq!(ip(&[(FORWARDED, element)]), client, "{element}");
    }
}

#[test]
fn fields_that_disagree_are_ignored() {
    let client = (FOR, "1.1.1.1");
    assert_eq!(ip(&[client, (FORWARDED, "for=1.1.1.1"), (REAL, "1.1.1.1")]), "1.1.1.1");
    assert_eq!(ip(&[client, (FORWARDED, "for=2.2.2.2")]), "10.0.0.1");
    assert_eq!(ip(&[client, (REAL, "2.2.2.2")]), "10.0.0.1");
    assert_eq!(ip(&[client, (REAL, "10.0.0.2")]), "1.1.1.1", "a proxy is not a client");
    assert_eq!(ip(&[client, (FORWARDED, "for=unknown"), (REAL, "?")]), "1.1.1.1");
    assert_eq!(ip(&[(FOR, "10.0.0.3, 10.0.0.2"), (REAL, "10.0.0.2")]), "10.0.0.3");
}

#[test]
fn the_protocol_is_that_of_the_clients_hop() {
    use Protocol::{Http, Https};
    assert_eq!(scheme(&[]), None);
    assert_eq!(scheme(&[(PROTO, "https")]), Some(Https));
    assert_eq!(scheme(&[(PROTO, "HTTP")]), Some(Http));
    assert_eq!(scheme(&[(PROTO, "https, http")]), Some(Http), "the first value is the client's own");
    assert_eq!(scheme(&[(PROTO, "ftp")]), None);
    let two = (FOR, "1.1.1.1, 10.0.0.2");
    assert_eq!(scheme(&[two, (PROTO, "http, https, http")]), Some(Https));
    assert_eq!(scheme(&[two, (PROTO, "https")]), Some(Https));
    let elements = |text| scheme(&[(FORWARDED, text)]);
    assert_eq!(elements("for=1.1.1.1;proto=https"), Some(Https));
    assert_eq!(
        elements("for=2.2.2.2;proto=http, for=1.1.1.1;PROTO=\"https\", for=10.0.0.2;proto=http"),
        Some(Https)
    );
    assert_eq!(elements("for=1.1.1.1, for=10.0.0.2;proto=https"), None);
    assert_eq!(elements("for=3.3.3.3;proto=http, for=_hidden;proto=https"), Some(Https));
    assert_eq!(scheme(&[(FORWARDED, "for=1.1.1.1;proto=https"), (PROTO, "http")]), None);
    assert_eq!(scheme(&[(FORWARDED, "for=1.1.1.1"), (PROTO, "https")]), Some(Https));
}

proptest! {
    #[test]
    fn no_junk_panics(
        given in prop::collection::vec(
            (prop::sample::select(vec![FORWARDED, FOR, PROTO, REAL]), prop::collection::vec(any::<u8>(), 0..60)),
            0..6,
        ),
        text in "([\\[\\]:;,=\". a-f0-9%]|for=|proto=){0,60}",
    ) {
        let bytes = || given.iter().map(|(name, value)| (*name, value.as_slice()));
        client_ip(PROXY, bytes(), is_trusted);
        protocol(PROXY, bytes(), is_trusted);
        for name in [FORWARDED, FOR, PROTO, REAL] {
            ip(&[(name, &text)]);
            scheme(&[(name, &text)]);
        }
    }

    /// Whatever fields a client sends through a proxy that writes one kind of field, the result is the client's address
    /// or the proxy's.
    #[test]
    fn a_client_can_not_choose_its_address(
        claims in prop::collection::vec(
            (
                prop::sample::select(vec![FORWARDED, FOR, REAL]),
                "((for=)?(\")?(1\\.1\\.1\\.1|10\\.0\\.0\\.[1-9]|2\\.2\\.2\\.2|_x|\\[::1\\])(\")?[;, ]{0,2}){0,4}",
            ),
            0..4,
        ),
        client: [u8; 16],
        v4: bool,
        writes in prop::sample::select(vec![FORWARDED, FOR, REAL]),
    ) {
        let client = match v4 {
            true => IpAddr::from([client[0], client[1], client[2], client[3]]),
            false => IpAddr::from(Ipv6Addr::from(client)),
        };
        prop_assume!(!is_trusted(client.to_canonical()));
        // The proxy replaces X-Real-IP. It appends to the others, in the client's last field or in a new one.
        let mut sent: Vec<(&str, String)> =
            claims.iter().filter(|(name, _)| *name != REAL || writes != REAL).cloned().collect();
        let written = if writes == FORWARDED { format!("for=\"[{client}]\"") } else { client.to_string() };
        match sent.iter_mut().rfind(|(name, _)| *name == writes) {
            Some((_, list)) if v4 => *list = format!("{list}, {written}"),
            _ => sent.push((writes, written)),
        }
        let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let found = client_ip(PROXY, fields(&sent), is_trusted);
        prop_assert!(found == client.to_canonical() || found == PROXY, "{found} of {sent:?}");
    }
}
