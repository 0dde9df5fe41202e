//! Owns the null responder: it sends canned replies of the sizes of real ones, through the same ring and sockets as
//! gyre. Its speed is the upper limit for a tracker on this machine.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gyre::limits::{DEFAULT_RECEIVE_BUFFER_BYTES, HTTP_BACKLOG, TURN_DATAGRAMS};
use gyre::ring::{RingSocket, UdpRing};
use gyre::sys::{self, Doorbell};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Socket, Type};
use tokio_uring::buf::BoundedBuf;

use crate::options::{FloorOptions, Protocol};

/// Peers in a canned reply.
const PEERS: usize = 30;
/// Interval of the checks for a signal while no requests arrive.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Size of a connection's read buffer, and maximum length of a request.
const READ_BYTES: usize = 4_096;
/// Number of descriptors to raise the limit to.
const DESCRIPTORS: u64 = 20_000;
/// Pause after a failed accept (no descriptors).
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

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
            answer_datagrams(socket, floor.silent, &stop)
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
    socket.bind(&address.into())?;
    socket.listen(HTTP_BACKLOG)?;
    Ok(socket.into())
}

fn say_ready(protocol: &str, address: SocketAddr) -> io::Result<()> {
    writeln!(io::stderr(), "gyre-load: floor ready: {protocol} {address}")
}

fn answer_datagrams(socket: UdpSocket, silent: bool, stop: &AtomicBool) -> io::Result<()> {
    sys::set_receive_buffer(&socket, DEFAULT_RECEIVE_BUFFER_BYTES)?;
    let address = socket.local_addr()?;
    let mut ring = UdpRing::new(vec![RingSocket { socket, wildcard: false }], &Doorbell::new()?)?;
    say_ready("udp", address)?;
    while !stop.load(Ordering::Acquire) {
        let turned = ring.take(TURN_DATAGRAMS, |_, datagram, out| match silent {
            false => null_response(datagram, out),
            true => None,
        })?;
        ring.submit()?;
        if turned.completions == 0 && !ring.has_work() {
            ring.wait(STOP_CHECK_INTERVAL)?;
        }
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
    let (stop, canned) = (stop.clone(), Rc::new(Canned::new()));
    tokio_uring::start(async move {
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        say_ready("http", address)?;
        tokio_uring::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        tokio_uring::spawn(answer_connection(stream, canned.clone()));
                    }
                    Err(_) => tokio::time::sleep(RETRY_INTERVAL).await, // no descriptors
                }
            }
        });
        while !stop.load(Ordering::Acquire) {
            tokio::time::sleep(STOP_CHECK_INTERVAL).await;
        }
        Ok(())
    })
}

async fn answer_connection(stream: tokio_uring::net::TcpStream, canned: Rc<Canned>) {
    let (mut input, mut output) = (Vec::with_capacity(READ_BYTES), Vec::new());
    loop {
        if input.len() == READ_BYTES {
            return; // the request is too long
        }
        let filled = input.len();
        let (result, slice) = stream.read(input.slice(filled..READ_BYTES)).await;
        input = slice.into_inner();
        let Ok(1..) = result else { return };
        let (mut used, mut closes) = (0, false);
        while let Some(end) = memchr::memmem::find(&input[used..], b"\r\n\r\n") {
            let head = &input[used..used + end + 4];
            closes |= head.ends_with(b"Connection: close\r\n\r\n");
            let response = if head.starts_with(b"GET /scrape") { &canned.scrape } else { &canned.announce };
            output.extend_from_slice(&response[usize::from(closes)]);
            used += head.len();
        }
        input.drain(..used);
        if used > 0 {
            let (result, buffer) = stream.write_all(output).await;
            output = buffer;
            output.clear();
            if result.is_err() || closes {
                return;
            }
        }
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
