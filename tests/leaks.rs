//! Owns the one test that counts what the whole process has open: no other test may run beside it.

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
fn a_server_that_has_ended_holds_no_descriptor() {
    serve_and_stop(); // what the process opens once and keeps
    let before = open_descriptors();
    (0..20).for_each(|_| serve_and_stop());
    // Fewer, if the first had not closed all of its own yet when they were counted.
    support::eventually("no more descriptors than before", || open_descriptors() <= before);
}
