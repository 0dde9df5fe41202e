//! Owns the tests of clients that hold idle or slow connections: which are closed to make room, in which order.
//! `scripts/abuse.sh` does the same with thousands of connections.

use crate::support::{HttpClient, Tracker, config, connect, eventually_equal, get};
use gyre::config::Config;
use gyre::counters::Counter;

const MOST: usize = 20;

/// Starts a tracker with one worker and this limit of connections.
fn holding(connections: usize) -> Tracker {
    Tracker::start(&Config { http_connections: Some(connections), ..config(1) })
}

/// Opens `count` connections that have had a response and are idle since then.
fn idlers(tracker: &Tracker, count: usize) -> Vec<HttpClient> {
    let idler = |_| {
        let mut client = connect(tracker);
        assert_eq!(client.get("/health").status, 200);
        client
    };
    (0..count).map(idler).collect()
}

/// Sends a request. Returns whether the tracker has closed the connection without a response.
fn is_closed(client: &mut HttpClient) -> bool {
    client.try_request(get("/health")).is_none()
}

#[test]
fn the_longest_idle_connections_are_closed_to_make_room() {
    let tracker = holding(MOST);
    let mut clients = idlers(&tracker, MOST);
    // The first one sends a request, so the second one has been idle for longest.
    assert_eq!(clients[0].get("/health").status, 200);
    let mut late = idlers(&tracker, 5);
    tracker.await_count(&[Counter::EvictedConnections], 5);
    let closed: Vec<_> = (0..MOST).filter(|at| is_closed(&mut clients[*at])).collect();
    assert_eq!(closed, [1, 2, 3, 4, 5]);
    assert!(late.iter_mut().all(|client| client.get("/health").status == 200));
    assert_eq!(tracker.count(&[Counter::DropConnections]), 0, "no connection was refused");
    eventually_equal("the limit is kept", &(MOST as u64), || tracker.count(&[Counter::Connections]));
}

#[test]
fn a_new_connection_finds_room_among_any_number_of_idle_ones() {
    let tracker = holding(MOST);
    let mut hoard = Vec::new();
    for _ in 0..10 * MOST {
        hoard.extend(idlers(&tracker, 1));
    }
    let left = hoard.iter_mut().map(is_closed).filter(|closed| !closed).count();
    assert_eq!(left, MOST);
    tracker.await_count(&[Counter::EvictedConnections], 9 * MOST as u64);
}

#[test]
fn without_idle_connections_slow_ones_are_closed_to_make_room() {
    let tracker = holding(4);
    // The start of the second request is read with the first one, so the order of the clients is known.
    let slow = |_| {
        let mut client = connect(&tracker);
        assert_eq!(client.request(get("/health") + "GET /hea").status, 200);
        client
    };
    let ends = |client: &mut HttpClient| client.try_request("lth HTTP/1.1\r\nHost: t\r\n\r\n").is_none();
    let mut clients: Vec<_> = (0..3).map(slow).collect();
    let mut idler = idlers(&tracker, 1).remove(0);
    for evicted in 1..=3 {
        clients.push(slow(0));
        tracker.await_count(&[Counter::EvictedConnections], evicted);
    }
    assert!(is_closed(&mut idler), "the idle one is closed first");
    let ended: Vec<_> = clients.iter_mut().map(ends).collect();
    assert_eq!(ended, [true, true, false, false, false, false]);
    assert_eq!(tracker.count(&[Counter::DropConnections]), 0);
}

#[test]
fn a_lower_limit_keeps_the_connections_that_were_busy_last() {
    let mut tracker = holding(MOST);
    let mut clients = idlers(&tracker, MOST);
    let fewer = Config { http_connections: Some(3), ..config(1) };
    assert_eq!(tracker.reload(&fewer).unwrap(), Vec::<&str>::new());
    tracker.await_count(&[Counter::Connections], 3);
    let open: Vec<_> = (0..MOST).filter(|at| !is_closed(&mut clients[*at])).collect();
    assert_eq!(open, [MOST - 3, MOST - 2, MOST - 1]);
}
