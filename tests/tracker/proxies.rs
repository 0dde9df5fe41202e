//! Owns the tests of proxies in front of a running tracker: trust, and the address of the client.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::{HttpClient, Tracker, announce_path, config, connect, info_hash};
use gyre::config::{Config, TrustedProxy};
use gyre::counters::Counter;

const CLIENT: [u8; 4] = [192, 0, 2, 7];

fn trusting(networks: &[&str]) -> Tracker {
    let trusted_proxies = networks.iter().map(|network| network.parse().unwrap()).collect();
    Tracker::start(&Config { trusted_proxies, ..config(2) })
}

/// Returns an announce with these header fields.
fn announce(fields: &str) -> String {
    let path = announce_path(info_hash(1), 1, "");
    format!("GET {path} HTTP/1.1\r\nHost: tracker\r\n{fields}\r\n")
}

/// Returns the client's address as the tracker saw it, from the response.
fn external_ip(body: &[u8]) -> IpAddr {
    let key = b"11:external ip4:";
    let at =
        body.windows(key.len()).position(|window| window == key).expect("an address of IPv4") + key.len();
    Ipv4Addr::from(*body[at..].first_chunk::<4>().expect("four bytes")).into()
}

fn version_2(ip: [u8; 4]) -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    [head, ip.to_vec(), vec![127, 0, 0, 1, 0, 80, 0, 80]].concat()
}

#[test]
fn the_proxy_protocol_sets_the_address_of_the_client() {
    let tracker = trusting(&["127.0.0.0/8"]);
    let text = b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n".to_vec();
    for header in [text, version_2(CLIENT)] {
        let mut client = connect(&tracker);
        // The header arrives in two parts. Ordinary requests follow on the same connection.
        let (first, second) = header.split_at(7);
        client.send(first);
        client.send([second, announce("").as_bytes()].concat());
        assert_eq!(external_ip(&client.receive().body), IpAddr::from(CLIENT));
        let forged = announce("X-Forwarded-For: 203.0.113.9\r\n");
        assert_eq!(
            external_ip(&client.request(forged).body),
            IpAddr::from(CLIENT),
            "the client is not a trusted proxy"
        );
    }
    // A proxy in front of another proxy.
    let mut behind = connect(&tracker);
    behind.send(b"PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n");
    let passed_on = announce("X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(external_ip(&behind.request(passed_on).body), IpAddr::from(CLIENT));
    // A health check of the proxy.
    let mut own = connect(&tracker);
    own.send(b"PROXY UNKNOWN\r\n");
    assert_eq!(external_ip(&own.request(announce("")).body), IpAddr::from([127, 0, 0, 1]));
    assert_eq!(connect(&tracker).get("/health").status, 200, "a proxy that speaks plain HTTP");
}

#[test]
fn headers_of_untrusted_sources_are_ignored() {
    let tracker = trusting(&["127.0.0.2"]);
    for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n".to_vec(), version_2(CLIENT)] {
        let mut client = connect(&tracker);
        assert_eq!(client.request([header, announce("").into_bytes()].concat()).status, 400);
        client.rest();
    }
    let forged = announce("X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(external_ip(&connect(&tracker).request(forged).body), IpAddr::from([127, 0, 0, 1]));
}

#[test]
fn an_invalid_proxy_header_ends_the_connection() {
    let tracker = trusting(&["127.0.0.1"]);
    let wrong = [
        b"PROXY TCP4 invalid 127.0.0.1 1 2\r\n".to_vec(),
        [b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x0c".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ];
    let count = wrong.len() as u64;
    for header in wrong {
        let mut client = connect(&tracker);
        assert_eq!(client.request(header).status, 400);
        client.rest();
    }
    tracker.await_count(&[Counter::BadHttp], count);
}

#[test]
fn trust_can_be_limited_to_one_listening_address() {
    let listen = crate::support::listen(&[[127, 0, 0, 1].into(), [127, 0, 0, 1].into()]);
    let tracker = gyre::Tracker::builder().config(Config { http: listen, ..config(2) }).listen().unwrap();
    let addresses = tracker.http_addresses().to_vec();
    drop(tracker);
    let network = "127.0.0.1".parse::<TrustedProxy>().unwrap().network;
    let trusted_proxies = vec![TrustedProxy { at: Some(addresses[1]), network }];
    let http = gyre::config::Listen::At(addresses.clone());
    let _tracker = Tracker::start(&Config { http, trusted_proxies, ..config(2) });
    for (address, expected) in addresses.into_iter().zip([[127, 0, 0, 1], CLIENT]) {
        let request = announce("X-Real-IP: 192.0.2.7\r\n");
        let body = HttpClient::connect(address).request(request).body;
        assert_eq!(external_ip(&body), IpAddr::from(expected));
    }
}
