//! Owns the tests of clients that hold connections for nothing: which of them make room for others, in which order, and
//! which never do. The same with thousands of them is in `scripts/abuse.sh`.

use crate::support::{HttpClient, Tracker, config, connect, eventually_equal, get};
use gyre::config::Config;
use gyre::counters::Counter;

const MOST: usize = 20;

/// A tracker of one worker, which holds so many connections.
fn holding(connections: usize) -> Tracker {
    Tracker::start(&Config { http_connections: Some(connections), ..config(1) })
}

/// So many connections, each of which has asked for something and idles since then.
fn idlers(tracker: &Tracker, count: usize) -> Vec<HttpClient> {
    let idler = |_| {
        let mut client = connect(tracker);
        assert_eq!(client.get("/health").status, 200);
        client
    };
    (0..count).map(idler).collect()
}

/// Whether the tracker has closed the connection, and said nothing: asks it first whether that is still there.
fn is_closed(client: &mut HttpClient) -> bool {
    client.try_request(get("/health")).is_none()
}

#[test]
fn who_idles_for_longest_makes_room() {
    let tracker = holding(MOST);
    let mut clients = idlers(&tracker, MOST);
    // The first one asks again: now the second one idles for longest.
    assert_eq!(clients[0].get("/health").status, 200);
    let mut late = idlers(&tracker, 5);
    tracker.await_count(&[Counter::EvictedConnections], 5);
    let closed: Vec<_> = (0..MOST).filter(|at| is_closed(&mut clients[*at])).collect();
    assert_eq!(closed, [1, 2, 3, 4, 5]);
    assert!(late.iter_mut().all(|client| client.get("/health").status == 200));
    assert_eq!(tracker.count(&[Counter::DropConnections]), 0, "nobody was turned away");
    eventually_equal("no more than may be", &(MOST as u64), || tracker.count(&[Counter::Connections]));
}

#[test]
fn whoever_comes_finds_room_among_any_number_that_idle() {
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
fn who_is_slow_with_a_request_makes_room_where_nobody_idles() {
    let tracker = holding(4);
    // What follows a whole request is read with it, so that they begin with it in this order.
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
    assert!(is_closed(&mut idler), "it is the first to go");
    let ended: Vec<_> = clients.iter_mut().map(ends).collect();
    assert_eq!(ended, [true, true, false, false, false, false]);
    assert_eq!(tracker.count(&[Counter::DropConnections]), 0);
}

#[test]
fn fewer_connections_from_now_on_are_those_that_were_busy_last() {
    let mut tracker = holding(MOST);
    let mut clients = idlers(&tracker, MOST);
    let fewer = Config { http_connections: Some(3), ..config(1) };
    assert_eq!(tracker.reload(&fewer).unwrap(), Vec::<&str>::new());
    tracker.await_count(&[Counter::Connections], 3);
    let open: Vec<_> = (0..MOST).filter(|at| !is_closed(&mut clients[*at])).collect();
    assert_eq!(open, [MOST - 3, MOST - 2, MOST - 1]);
}
