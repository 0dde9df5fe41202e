//! Owns the test that counts the open descriptors of the process. No other test may run at the same time.

mod support;

use gyre::types::Family;
use support::{FAMILIES, HttpClient, Tracker, UdpClient, announce_path, announcement, config, info_hash};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn serve_and_stop() {
    let mut tracker = Tracker::start(&config(3));
    for family in FAMILIES {
        UdpClient::connected(tracker.udp(family)).announce(announcement(info_hash(1), 1));
        let mut client = HttpClient::connect(tracker.http(family));
        assert_eq!(client.get(&announce_path(info_hash(1), 1, "")).status, 200);
    }
    let _open_at_the_end = HttpClient::connect(tracker.http(Family::V4));
    tracker.stop();
    assert!(tracker.wait());
}

#[test]
fn a_server_that_has_ended_leaves_no_open_descriptors() {
    serve_and_stop(); // some descriptors are opened once and kept
    let before = open_descriptors();
    (0..20).for_each(|_| serve_and_stop());
    // There may be fewer if the first server was still closing some when they were counted.
    support::eventually("no more descriptors than before", || open_descriptors() <= before);
}
