//! Owns the tests of rate limits for one source on a running tracker: by UDP and HTTP, behind proxies, after a reload.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::{
    HttpClient, Tracker, UdpClient, announcement, config, connect, eventually, get, info_hash,
};
use gyre::config::{Config, Steering};
use gyre::counters::Counter;
use gyre::throttle::{Rate, SourceLimits};
use gyre::types::Family;

/// Returns a configuration with these limits and one worker, so that all requests share the same buckets.
fn limited(source_limits: SourceLimits) -> Config {
    Config { source_limits, steering: Steering::None, ..config(1) }
}

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

/// Connects a client with another address of this machine.
fn neighbour(tracker: &Tracker) -> UdpClient {
    let mut client = UdpClient::at(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), tracker.udp(Family::V4));
    client.connect();
    client
}

#[test]
fn a_source_over_its_limit_is_refused_and_others_are_served() {
    let tracker =
        Tracker::start(&limited(SourceLimits { announces: rate("1/h:20"), ..SourceLimits::default() }));
    let mut mad = UdpClient::connected(tracker.udp(Family::V4));
    for number in 0..100 {
        let request = mad.announce_request(announcement(info_hash(1), number + 1));
        mad.send(&request);
    }
    tracker.await_count(&[Counter::UdpAnnounceV4], 100);
    tracker.await_count(&[Counter::LimitedAnnounce], 80);
    tracker.await_count(&[Counter::Leechers], 20);
    neighbour(&tracker).announce(announcement(info_hash(1), 1));
}

#[test]
fn http_requests_over_the_limit_get_a_429_and_connections_are_closed() {
    let limits = SourceLimits {
        http_requests: rate("1/h:3"),
        http_connections: rate("1/h:5"),
        exempt: vec!["127.0.0.9/32".parse().unwrap()],
        ..SourceLimits::default()
    };
    let mut tracker = Tracker::start(&limited(limits));
    let mut client = connect(&tracker);
    for status in [200, 404, 200] {
        let path = if status == 200 { "/health" } else { "/nowhere" };
        assert_eq!(client.get(path).status, status);
    }
    let refused = client.request(get("/health"));
    assert_eq!((refused.status, refused.field("connection")), (429, Some("close")));
    assert_eq!(client.rest(), b"");
    for _ in 0..4 {
        assert_eq!(connect(&tracker).get("/announce").status, 429);
    }
    // The kernel accepts the sixth connection, and the tracker closes it without a response.
    let mut sixth = connect(&tracker);
    assert!(sixth.try_request(get("/health")).is_none());
    tracker.await_count(&[Counter::LimitedHttpRequest], 5);
    tracker.await_count(&[Counter::LimitedHttpConnection], 1);
    tracker.await_count(&[Counter::BadHttp], 1); // only the 404

    tracker.reload(&limited(SourceLimits::default())).unwrap();
    eventually("the limits are removed", || {
        HttpClient::connect(tracker.http(Family::V4)).try_request(get("/health")).is_some()
    });
}

#[test]
fn behind_a_proxy_each_client_has_its_own_limit() {
    let limits = SourceLimits {
        http_requests: rate("1/h:2"),
        http_connections: rate("1/h:1"),
        ..SourceLimits::default()
    };
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let tracker = Tracker::start(&Config { trusted_proxies, ..limited(limits) });
    for client in ["192.0.2.7", "192.0.2.8", "2001:db8::1"] {
        for status in [200, 200, 429] {
            let fields = format!("X-Forwarded-For: {client}\r\n");
            let request = format!("GET /health HTTP/1.1\r\nHost: tracker\r\n{fields}\r\n");
            // A new connection for each request: connections of the proxy itself are not limited.
            assert_eq!(connect(&tracker).request(request).status, status, "{client}");
        }
    }
    tracker.await_count(&[Counter::LimitedHttpRequest], 3);
}
