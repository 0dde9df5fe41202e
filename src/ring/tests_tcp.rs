//! Tests of the connections of a ring, with plain sockets on loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::limits::HTTP_BACKLOG;
use crate::time::Clock;

const LONG: Duration = Duration::from_secs(10);
/// Places for all connections that may wait in the kernel.
const PLENTY: usize = 2 * HTTP_BACKLOG as usize;

/// A ring with one listener.
struct Server {
    ring: Ring,
    streams: Streams,
    address: SocketAddr,
    clock: Clock,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut ring = Ring::new(Vec::new()).unwrap();
        let streams = ring.listen(vec![listener]).unwrap();
        Self { ring, streams, address, clock: Clock::start() }
    }

    fn connect(&self) -> std::net::TcpStream {
        let client = std::net::TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    }

    fn turn(&mut self) {
        self.ring.enter(Receive::Later, Some(Duration::from_millis(1))).unwrap();
        self.ring.take(1, |_, _, _| None).unwrap();
        assert!(self.clock.now().as_micros() < LONG.as_micros() as u64, "nothing happens");
    }

    fn accept(&mut self, places: usize) -> Accepted {
        loop {
            self.streams.accept(places);
            self.turn();
            if let Some(accepted) = self.streams.next() {
                return accepted.unwrap();
            }
        }
    }

    /// Runs a future to its end.
    fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = Pin::new(&mut future).poll(&mut context) {
                return result;
            }
            self.turn();
        }
    }
}

async fn received(stream: &TcpStream) -> Vec<u8> {
    match stream.next().await {
        Event::Received(bytes) => bytes.unwrap(),
        Event::Blocked => panic!("a send waits"),
    }
}

#[test]
fn connections_are_accepted_one_at_a_time_and_all_at_once() {
    for places in [1, PLENTY] {
        let mut server = Server::new();
        for _ in 0..3 {
            let mut client = server.connect();
            let Accepted { stream, peer, listener } = server.accept(places);
            assert_eq!((peer, listener), (client.local_addr().unwrap(), 0));
            client.write_all(b"request").unwrap();
            assert_eq!(server.run(received(&stream)), b"request");
            stream.send(b"response".to_vec());
            server.turn();
            let mut response = [0; 8];
            client.read_exact(&mut response).unwrap();
            assert_eq!(&response, b"response");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.run(received(&stream)), b"", "the end");
        }
    }
}

#[test]
fn without_places_one_connection_is_accepted_and_the_others_wait() {
    let mut server = Server::new();
    let _clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    let _first = server.accept(1);
    (0..5).for_each(|_| server.turn());
    assert!(server.streams.next().is_none());
    assert!(!server.streams.is_accepting());
}

#[test]
fn the_last_send_closes_the_connection_after_all_of_it() {
    for bytes in [1, 1_000, 8 << 20] {
        let mut server = Server::new();
        let mut client = server.connect();
        let stream = server.accept(PLENTY).stream;
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20)); // the large one does not fit meanwhile
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all
        });
        stream.send_last(vec![7; bytes]);
        server.run(stream.sent()).0.unwrap();
        drop(stream);
        while !reader.is_finished() {
            server.turn();
        }
        assert!(reader.join().unwrap() == vec![7; bytes], "{bytes} bytes");
    }
}

#[test]
fn a_send_that_does_not_fit_is_reported_and_ends_when_the_client_reads_or_leaves() {
    for reads in [true, false] {
        let mut server = Server::new();
        let mut client = server.connect();
        let stream = server.accept(PLENTY).stream;
        let bytes = vec![7; 8 << 20];
        stream.send(bytes.clone());
        assert!(matches!(server.run(stream.next()), Event::Blocked));
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; if reads { 8 << 20 } else { 1 }];
            client.read_exact(&mut all).unwrap();
            all
        });
        let (result, buffer) = server.run(stream.sent());
        assert_eq!((result.is_ok(), buffer.len()), (reads, 0));
        assert_eq!(reader.join().unwrap().len(), if reads { bytes.len() } else { 1 });
    }
}

/// `drop` waits until the kernel has ended all operations.
#[test]
fn a_ring_can_be_dropped_while_its_connections_are_busy() {
    let mut server = Server::new();
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let streams: Vec<_> = (0..3).map(|_| server.accept(PLENTY).stream).collect();
    streams[0].send(vec![7; 8 << 20]);
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut Box::pin(streams[1].next())).poll(&mut context).is_pending());
    server.turn();
    drop(server);
    drop(streams);
    let mut end = Vec::new();
    clients[1].read_to_end(&mut end).unwrap();
    assert!(end.is_empty());
}
