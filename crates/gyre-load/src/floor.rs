//! Owns the null responder: it sends canned replies of the sizes of real ones, through the same ring and sockets as
//! gyre. Its speed is the upper limit for a tracker on this machine.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::FuturesUnordered;
use gyre::engine::Pace;
use gyre::limits::{DEFAULT_RECEIVE_BUFFER_BYTES, HTTP_BACKLOG, TURN_DATAGRAMS};
use gyre::ring::{Event, Receive, Ring, RingSocket, TcpStream};
use gyre::sys;
use gyre::time::Clock;
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Socket, Type};

use crate::options::{FloorOptions, Protocol};

/// Peers in a canned reply.
const PEERS: usize = 30;
/// Interval of the checks for a signal while no requests arrive.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum length of a request.
const READ_BYTES: usize = 4_096;
/// Number of descriptors to raise the limit to.
const DESCRIPTORS: u64 = 20_000;

/// Answers requests until SIGINT or SIGTERM.
///
/// # Errors
///
/// If it can't listen at the address, or can't use the core.
pub(crate) fn run(floor: &FloorOptions) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?; // a second signal ends it at once
        signal_hook::flag::register(signal, stop.clone())?;
    }
    if let Some(core) = floor.core {
        sys::pin(core).map_err(|error| io::Error::other(format!("core {core}: {error}")))?;
    }
    let refused = |error| io::Error::other(format!("cannot listen at {}: {error}", floor.listen));
    match floor.protocol {
        Protocol::Udp => {
            let socket = UdpSocket::bind(floor.listen).map_err(refused)?;
            answer_datagrams(socket, floor, &stop)
        }
        Protocol::Http => {
            sys::raise_descriptor_limit(DESCRIPTORS);
            answer_connections(listen(floor.listen).map_err(refused)?, &stop)
        }
    }
}

/// Opens a listener with the options that gyre uses.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(HTTP_BACKLOG)?;
    Ok(socket.into())
}

fn say_ready(protocol: &str, address: SocketAddr) -> io::Result<()> {
    writeln!(io::stderr(), "gyre-load: floor ready: {protocol} {address}")
}

fn answer_datagrams(socket: UdpSocket, floor: &FloorOptions, stop: &AtomicBool) -> io::Result<()> {
    sys::set_receive_buffer(&socket, DEFAULT_RECEIVE_BUFFER_BYTES)?;
    let address = socket.local_addr()?;
    let mut ring = Ring::new(vec![RingSocket { socket, wildcard: false }])?;
    let (clock, mut pace) = (Clock::start(), Pace::new(Duration::from_micros(floor.gather)));
    say_ready("udp", address)?;
    while !stop.load(Ordering::Acquire) {
        let now = clock.now();
        let turned = ring.take(TURN_DATAGRAMS, |_, datagram, out| match floor.silent {
            false => null_response(datagram, out),
            true => None,
        })?;
        pace.turn(now, turned.datagrams);
        if pace.is_full() || ring.has_work() {
            ring.enter(Receive::Now, None)?;
            continue;
        }
        ring.sleep(pace.gathers_for(clock.now()), STOP_CHECK_INTERVAL)?;
    }
    Ok(())
}

/// Writes a response of the right kind and size. Returns its length.
fn null_response(datagram: &[u8], out: &mut [u8]) -> Option<usize> {
    let action = *datagram.get(11)?;
    out[..4].copy_from_slice(&[0, 0, 0, action]);
    out[4..8].copy_from_slice(datagram.get(12..16)?);
    match action {
        0 => Some(16),
        1 => {
            let num_want = datagram.get(92..96).map_or(0, |num_want| usize::from(num_want[3]));
            out[8..12].copy_from_slice(&1_800_u32.to_be_bytes());
            put_peers(&mut out[20..20 + 6 * PEERS]);
            Some(20 + 6 * num_want.min(PEERS))
        }
        2 => Some(20),
        _ => None,
    }
}

fn put_peers(out: &mut [u8]) {
    for (number, peer) in out.chunks_exact_mut(6).enumerate() {
        peer.copy_from_slice(&[10, 0, 0, number as u8, 0x1a, 0xe1]);
    }
}

fn answer_connections(listener: TcpListener, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut ring = Ring::new(Vec::new())?;
    let streams = ring.listen(vec![listener])?;
    let canned = Rc::new(Canned::new());
    let mut connections = FuturesUnordered::new();
    let mut context = Context::from_waker(Waker::noop());
    say_ready("http", address)?;
    while !stop.load(Ordering::Acquire) {
        ring.take(TURN_DATAGRAMS, |_, _, _| None)?;
        while let Some(accepted) = streams.next() {
            if let Ok(accepted) = accepted {
                connections.push(answer_connection(accepted.stream, canned.clone()));
            }
        }
        streams.accept(usize::MAX);
        while let Poll::Ready(Some(())) = Pin::new(&mut connections).poll_next(&mut context) {}
        ring.wait(STOP_CHECK_INTERVAL)?;
    }
    Ok(())
}

async fn answer_connection(stream: TcpStream, canned: Rc<Canned>) {
    let mut input = Vec::new();
    loop {
        match stream.next().await {
            Event::Received(Ok(bytes)) if !bytes.is_empty() => input.extend_from_slice(&bytes),
            Event::Blocked if stream.sent().await.0.is_ok() => continue,
            _ => return,
        }
        let (mut output, mut used, mut closes) = (Vec::new(), 0, false);
        while let Some(end) = memchr::memmem::find(&input[used..], b"\r\n\r\n") {
            let head = &input[used..used + end + 4];
            closes |= head.ends_with(b"Connection: close\r\n\r\n");
            let response = if head.starts_with(b"GET /scrape") { &canned.scrape } else { &canned.announce };
            output.extend_from_slice(&response[usize::from(closes)]);
            used += head.len();
        }
        input.drain(..used);
        if used == 0 {
            if input.len() >= READ_BYTES {
                return; // the request is too long
            }
            continue;
        }
        if closes {
            stream.send_last(output);
            let _ = stream.sent().await;
            return;
        }
        stream.send(output);
    }
}

/// Canned responses, each for a persistent connection and for one that closes.
struct Canned {
    /// Responses to an announce, with 30 peers.
    announce: [Vec<u8>; 2],
    /// Responses to a scrape, without swarms.
    scrape: [Vec<u8>; 2],
}

impl Canned {
    fn new() -> Self {
        let response = |body: &[u8]| {
            ["keep-alive", "close"].map(|connection| {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
                     Connection: {connection}\r\n\r\n",
                    body.len()
                );
                [head.as_bytes(), body].concat()
            })
        };
        let mut packed = [0; 6 * PEERS];
        put_peers(&mut packed);
        let head = format!(
            "d8:completei22e10:downloadedi0e11:external ip4:\x7f\0\0\x01\
             10:incompletei8e8:intervali1800e12:min intervali900e5:peers{}:",
            packed.len()
        );
        let announce = response(&[head.as_bytes(), &packed, b"e"].concat());
        Self { announce, scrape: response(b"d5:filesdee") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Answer, Expected};
    use crate::exchange::Response;

    #[test]
    fn canned_replies_are_valid() {
        let canned = Canned::new();
        let expected = Expected { own_address: None, num_want: 30, check_duplicates: true };
        for (number, closes) in [(0, false), (1, true)] {
            let read = |all: &'static [u8]| Response::parse(all, false).unwrap().unwrap();
            let [peers, scrape] =
                [&canned.announce, &canned.scrape].map(|pair| read(pair[number].clone().leak()));
            assert_eq!(check::announce_body(peers.body, expected), Ok(Answer::Peers(PEERS)));
            assert_eq!(check::scrape_body(scrape.body, &[7; 20]), Ok(Answer::Swarms(0)));
            assert_eq!((peers.closes, scrape.closes), (closes, closes));
        }
        let mut request = [0; 98];
        (request[11], request[95]) = (1, 200);
        let mut out = [0; 1_500];
        assert_eq!(null_response(&request, &mut out), Some(200));
        assert_eq!(null_response(&request[..15], &mut out), None);
        assert_eq!(check::peers(&out[20..200], 6, expected), Ok(30));
    }
}
