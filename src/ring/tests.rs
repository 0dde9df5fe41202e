//! Tests of the datagrams of a ring, with plain sockets on loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::limits::{RECEIVE_BUFFERS, REPLY_SLOTS, UDP_REQUEST_MAX_BYTES};
use crate::sys;
use crate::time::Clock;
use crate::types::Family;

const LONG: Duration = Duration::from_secs(10);

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Creates a ring on these addresses, some of which may be wildcards.
fn ring(addresses: &[&str]) -> (Ring, Vec<SocketAddr>) {
    let open = |address: &&str| {
        let socket = socket(address);
        let ip = socket.local_addr().unwrap().ip();
        if ip.is_unspecified() {
            sys::deliver_local_address(&socket, Family::of(ip)).unwrap();
        }
        RingSocket { socket, wildcard: ip.is_unspecified() }
    };
    let sockets: Vec<_> = addresses.iter().map(open).collect();
    let bound = sockets.iter().map(|socket| socket.socket.local_addr().unwrap()).collect();
    (Ring::new(sockets).unwrap(), bound)
}

/// Runs turns until `datagrams` datagrams have been passed to `answer`. Panics after [`LONG`].
fn turn_until(
    ring: &mut Ring,
    datagrams: usize,
    mut answer: impl FnMut(&Endpoint, &[u8], &mut [u8; UDP_REPLY_MAX_BYTES]) -> Option<usize>,
) -> Received {
    let clock = Clock::start();
    let (mut seen, mut all) = (0, Received::default());
    while seen < datagrams {
        let turned = ring
            .take(64, |from, datagram, out| {
                seen += 1;
                answer(from, datagram, out)
            })
            .unwrap();
        all.datagrams += turned.datagrams;
        all.truncated += turned.truncated;
        all.overflows += turned.overflows;
        all.send_failed += turned.send_failed;
        ring.submit().unwrap();
        assert!(clock.now().as_micros() < LONG.as_micros() as u64, "{seen} of {datagrams} datagrams came");
    }
    assert_eq!(all.datagrams, seen + all.truncated as usize);
    all
}

fn echo(_: &Endpoint, datagram: &[u8], out: &mut [u8; UDP_REPLY_MAX_BYTES]) -> Option<usize> {
    let length = datagram.len().min(out.len());
    out[..length].copy_from_slice(&datagram[..length]);
    Some(length)
}

#[test]
fn replies_leave_from_the_address_that_the_request_was_sent_to() {
    let (mut ring, bound) = ring(&["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"]);
    for (number, address, target, client) in [
        (0, bound[0], "127.0.0.1", "127.0.0.1:0"),
        (1, bound[1], "::1", "[::1]:0"),
        (2, bound[2], "127.0.0.1", "127.0.0.1:0"),
        (2, bound[2], "127.0.0.2", "127.0.0.1:0"),
        (3, bound[3], "::1", "[::1]:0"),
    ] {
        let target = SocketAddr::new(target.parse().unwrap(), address.port());
        let client = socket(client);
        client.connect(target).unwrap(); // datagrams from other addresses are dropped from now on
        client.send(b"hello").unwrap();
        turn_until(&mut ring, 1, |from, datagram, out| {
            assert_eq!((from.socket, datagram), (number, b"hello".as_slice()));
            assert_eq!(from.source, client.local_addr().unwrap());
            assert_eq!(from.local, address.ip().is_unspecified().then_some(target.ip()));
            echo(from, datagram, out)
        });
        let mut answer = [0; 16];
        assert_eq!(client.recv(&mut answer).unwrap(), 5);
    }
}

#[test]
fn more_datagrams_than_buffers_are_all_answered() {
    let (mut ring, bound) = ring(&["127.0.0.1:0"]);
    let client = socket("127.0.0.1:0");
    sys::set_receive_buffer(&client, 8 << 20).unwrap();
    sys::set_receive_buffer(ring.sockets().next().unwrap(), 8 << 20).unwrap();
    let burst = usize::from(RECEIVE_BUFFERS) * 3;
    for number in 0..burst as u32 {
        client.send_to(&number.to_be_bytes(), bound[0]).unwrap();
    }
    turn_until(&mut ring, burst, echo);
    for number in 0..burst as u32 {
        let mut answer = [0; 16];
        assert_eq!(client.recv(&mut answer).unwrap(), 4);
        assert_eq!(answer[..4], number.to_be_bytes());
    }
}

#[test]
fn datagrams_longer_than_any_request_are_dropped_and_counted() {
    let (mut ring, bound) = ring(&["127.0.0.1:0", "[::]:0"]);
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound[1].port());
    for (to, client) in [(bound[0], socket("127.0.0.1:0")), (v6, socket("[::1]:0"))] {
        for length in [0, 1, 1_472, UDP_REQUEST_MAX_BYTES] {
            client.send_to(&vec![7; length], to).unwrap();
            turn_until(&mut ring, 1, |_, datagram, _| {
                assert_eq!(datagram, vec![7; length]);
                None
            });
        }
        for length in [UDP_REQUEST_MAX_BYTES + 1, UDP_REQUEST_MAX_BYTES + 200, 9_000] {
            client.send_to(&vec![7; length], to).unwrap();
            client.send_to(b"after", to).unwrap();
            let turned = turn_until(&mut ring, 1, |_, datagram, _| {
                assert_eq!(datagram, b"after");
                None
            });
            assert_eq!(turned.truncated, 1, "{length} bytes");
        }
    }
}

#[test]
fn replies_that_cannot_be_sent_are_counted() {
    let (mut ring, _) = ring(&["127.0.0.1:0"]);
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); // datagrams to port 0 can't be sent
    let to = Endpoint { source: nowhere, local: None, socket: 0 };
    for _ in 0..3 * REPLY_SLOTS {
        ring.reply(&to, |out| {
            out[0] = 1;
            1
        });
    }
    ring.submit().unwrap();
    let clock = Clock::start();
    let mut failed = 0;
    while failed < 3 * REPLY_SLOTS as u64 {
        failed += ring.take(64, |_, _, _| None).unwrap().send_failed;
        ring.submit().unwrap();
        assert!(clock.now().as_micros() < LONG.as_micros() as u64, "{failed} failures were seen");
    }
}

/// Each failure is a completion. There are more failures than the queue holds, so the kernel keeps the rest, and ends
/// receives whose completions have no room.
#[test]
fn an_overflow_of_the_completion_queue_loses_nothing() {
    let (mut ring, bound) = ring(&["127.0.0.1:0"]);
    let client = socket("127.0.0.1:0");
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let to = Endpoint { source: nowhere, local: None, socket: 0 };
    let failing = 3 * COMPLETION_ENTRIES as usize;
    for _ in 0..failing {
        ring.reply(&to, |_| 1);
    }
    let datagrams = 100;
    (0..datagrams).for_each(|_| assert_eq!(client.send_to(b"datagram", bound[0]).unwrap(), 8));
    ring.submit().unwrap();
    let overflown = |ring: &mut Ring| ring.uring.submission().cq_overflow();
    assert!(overflown(&mut ring), "the queue had room for all completions: this tests nothing");
    let mut failed = turn_until(&mut ring, datagrams, echo).send_failed;
    while failed < failing as u64 {
        failed += ring.take(64, |_, _, _| None).unwrap().send_failed;
        ring.submit().unwrap();
    }
    assert_eq!(failed, failing as u64);
    assert!(!overflown(&mut ring));
    (0..datagrams).for_each(|_| assert_eq!(client.recv(&mut [0; 16]).unwrap(), 8));
}

/// Sleeps until there is a completion, and takes it. Panics if there is none in time. Returns what was received.
fn wake_up(ring: &mut Ring, receive: Receive) -> Received {
    ring.enter(receive, Some(LONG)).unwrap();
    assert!(ring.has_work(), "nothing happened");
    ring.take(64, |_, _, _| None).unwrap()
}

#[test]
fn a_sleep_ends_with_a_datagram_or_a_ring_of_the_doorbell() {
    let (mut ring, bound) = ring(&["127.0.0.1:0", "127.0.0.1:0"]);
    let doorbell = Arc::new(Doorbell::new().unwrap());
    ring.watch(doorbell.clone());
    let client = socket("127.0.0.1:0");
    for round in 0..3 {
        client.send_to(b"datagram", bound[round % 2]).unwrap();
        assert_eq!(wake_up(&mut ring, Receive::WhenReadable).datagrams, 1);
        let woken = std::thread::scope(|scope| {
            scope.spawn(|| doorbell.ring());
            wake_up(&mut ring, Receive::WhenReadable)
        });
        assert_eq!((woken.datagrams, woken.completions), (0, 1));
    }
    doorbell.ring();
    doorbell.ring();
    assert_eq!(wake_up(&mut ring, Receive::Later).completions, 1, "several rings are one");
    ring.enter(Receive::Later, Some(Duration::from_millis(1))).unwrap();
    assert!(!ring.has_work(), "the rings were seen");
}

#[test]
fn datagrams_come_together_in_a_sleep_that_they_do_not_end() {
    let (mut ring, bound) = ring(&["127.0.0.1:0"]);
    let client = socket("127.0.0.1:0");
    ring.enter(Receive::Now, None).unwrap();
    assert_eq!(ring.take(64, |_, _, _| None).unwrap().datagrams, 0);
    for _ in 0..3 {
        client.send_to(b"datagram", bound[0]).unwrap();
        ring.enter(Receive::Later, Some(Duration::from_millis(1))).unwrap();
        assert!(!ring.has_work(), "a datagram ended the sleep");
    }
    ring.enter(Receive::Now, None).unwrap();
    assert_eq!(ring.take(64, |_, _, _| None).unwrap().datagrams, 3);
}

/// `drop` asserts that no receive is left. Without the drain this test fails.
#[test]
fn a_ring_can_be_dropped_while_datagrams_arrive() {
    for _ in 0..20 {
        let (mut ring, bound) = ring(&["127.0.0.1:0", "127.0.0.1:0"]);
        let client = socket("127.0.0.1:0");
        for number in 0..200 {
            client.send_to(b"datagram", bound[number % 2]).unwrap();
        }
        turn_until(&mut ring, 10, echo);
        drop(ring);
    }
}

/// Many sockets share the buffers. When all have more datagrams than there are buffers, some wait long, but each is
/// served, and a lack of buffers does not count as a failure.
#[test]
fn sockets_take_turns_when_buffers_are_short() {
    let (mut ring, bound) = ring(&["127.0.0.1:0"; 24]);
    let client = socket("127.0.0.1:0");
    let each = 200;
    for socket in ring.sockets() {
        sys::set_receive_buffer(socket, 1 << 20).unwrap();
    }
    for to in &bound {
        for _ in 0..each {
            client.send_to(b"datagram", to).unwrap();
        }
    }
    let mut seen = vec![0; bound.len()];
    let turned = turn_until(&mut ring, each * bound.len(), |from, _, _| {
        seen[usize::from(from.socket)] += 1;
        None
    });
    assert_eq!(seen, vec![each; bound.len()]);
    assert!(turned.overflows > 0, "there were enough buffers: this tests nothing");
}
