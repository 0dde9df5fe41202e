//! Owns what the tests against a running tracker share: a tracker that is stopped in the end, a client for UDP and one
//! for HTTP, and the one way to wait.
#![allow(dead_code)] // each test program uses a part of it

pub(crate) mod note;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod web;

use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use gyre::config::{Config, Cores, Listen};
use gyre::counters::{Counter, Counters};
use gyre::engine::middleware::Middleware;
use gyre::error::ServerError;
use gyre::server::Builder;
use gyre::time::{Clock, Timestamp};
use gyre::types::{
    Event, Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerId, SwarmCounts, unpack_v4, unpack_v6,
};
use gyre::wire::udp::{Announce, Request, Response, Scrape, scrape_counts};

/// What has not come after so long won't come any more. No test that passes waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// A stopped server is given so long, as the program promises.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Asks again and again until the condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_equal(what, &true, condition);
}

/// Asks again and again until the answer is this one.
#[track_caller]
pub(crate) fn eventually_equal<T: PartialEq + Debug>(what: &str, expected: &T, mut ask: impl FnMut() -> T) {
    let clock = Clock::start();
    loop {
        let answer = ask();
        if answer == *expected {
            return;
        }
        let late = clock.now().since(Timestamp::default()) >= DEADLINE;
        assert!(!late, "{what}: {answer:?} instead of {expected:?} after {DEADLINE:?}");
        thread::sleep(POLL_INTERVAL);
    }
}

pub(crate) fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A free port of each of these addresses.
pub(crate) fn listen(addresses: &[IpAddr]) -> Listen {
    Listen::At(addresses.iter().map(|&ip| SocketAddr::new(ip, 0)).collect())
}

/// So many workers, serving UDP and HTTP on the loopback addresses of both families.
pub(crate) fn config(workers: usize) -> Config {
    let both = listen(&FAMILIES.map(loopback));
    Config { udp: both.clone(), http: both, cores: Cores::Floating(workers), ..Config::default() }
}

/// Bytes that no other number gives.
pub(crate) fn info_hash(number: u64) -> InfoHash {
    let mut random = fastrand::Rng::with_seed(number);
    InfoHash(std::array::from_fn(|_| random.u8(..)))
}

/// A server that is stopped when the test is through with it.
pub(crate) struct Tracker(gyre::Tracker);

impl Tracker {
    #[track_caller]
    pub(crate) fn start(config: &Config) -> Self {
        Self::listen(gyre::Tracker::builder().config(config.clone()))
    }

    /// Starts a tracker with a program of its own.
    #[track_caller]
    pub(crate) fn listen<M: Middleware + Send>(builder: Builder<M>) -> Self {
        Self(builder.listen().unwrap_or_else(|error| panic!("{error}")))
    }

    pub(crate) fn udp(&self, family: Family) -> SocketAddr {
        of_family(self.0.udp_addresses(), family)
    }

    pub(crate) fn http(&self, family: Family) -> SocketAddr {
        of_family(self.0.http_addresses(), family)
    }

    /// What all workers together have counted, as of a moment ago.
    pub(crate) fn counters(&self) -> Counters {
        self.0.counters().iter().sum()
    }

    pub(crate) fn count(&self, counters: &[Counter]) -> u64 {
        self.counters().sum(counters)
    }

    /// Waits until so much was counted.
    #[track_caller]
    pub(crate) fn await_count(&self, counters: &[Counter], expected: u64) {
        eventually_equal(&format!("{counters:?}"), &expected, || self.count(counters));
    }

    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    pub(crate) fn save(&self, at_most: Duration) -> Result<(), ServerError> {
        self.0.save(at_most)
    }

    pub(crate) fn reload(&mut self, config: &Config) -> Result<Vec<&'static str>, ServerError> {
        self.0.reload(config)
    }

    /// Waits until the server has stopped. False: some worker didn't in time.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> bool {
        self.wait_for(STOP_DEADLINE)
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, at_most: Duration) -> bool {
        self.0.wait(at_most).expect("no worker ends by an error")
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.0.stop();
        let ended = self.0.wait(STOP_DEADLINE);
        assert!(thread::panicking() || matches!(ended, Ok(true)), "the server should stop: {ended:?}");
    }
}

fn of_family(addresses: &[SocketAddr], family: Family) -> SocketAddr {
    let found = addresses.iter().find(|address| Family::of(address.ip()) == family);
    *found.expect("the server serves this family")
}

/// An announce of a leecher that has everything to say still to be filled in: its port, its connection id.
pub(crate) fn announcement(info_hash: InfoHash, port: u16) -> Announce<'static> {
    Announce {
        connection_id: 0,
        transaction_id: 0,
        info_hash,
        peer_id: PeerId(*b"-GT0001-integration!"),
        downloaded: 0,
        left: 1,
        uploaded: 0,
        event: Event::None,
        key: 0,
        num_want: -1,
        port,
        options: &[],
    }
}

/// The response to an announce by UDP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) interval_secs: u32,
    pub(crate) leechers: u32,
    pub(crate) seeders: u32,
    /// Sorted.
    pub(crate) peers: Vec<SocketAddr>,
}

impl Announced {
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.peers.iter().map(SocketAddr::port).collect()
    }
}

/// A socket of its own, connected: datagrams from elsewhere than the address asked don't reach it.
pub(crate) struct UdpClient {
    socket: UdpSocket,
    family: Family,
    /// What the tracker gave; 0 before [`connect`](Self::connect).
    pub(crate) connection_id: u64,
    transaction_id: u32,
}

impl UdpClient {
    /// A client that has connected to the tracker in the sense of the protocol.
    #[track_caller]
    pub(crate) fn connected(to: SocketAddr) -> Self {
        let mut client = Self::new(to);
        client.connect();
        client
    }

    #[track_caller]
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self::at(loopback(Family::of(to.ip())), to)
    }

    /// A client with this address.
    #[track_caller]
    pub(crate) fn at(ip: IpAddr, to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a socket of the client's");
        socket.connect(to).expect("a socket connected to the tracker");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        Self { socket, family: Family::of(ip), connection_id: 0, transaction_id: 0 }
    }

    /// The port that its datagrams come from.
    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().expect("an address").port()
    }

    pub(crate) fn connect_request(&mut self) -> Vec<u8> {
        let mut request = Vec::new();
        Request::Connect { transaction_id: self.next_transaction() }.encode(&mut request);
        request
    }

    pub(crate) fn announce_request(&mut self, announce: Announce<'_>) -> Vec<u8> {
        let (connection_id, transaction_id) = (self.connection_id, self.next_transaction());
        let mut request = Vec::new();
        Request::Announce(Announce { connection_id, transaction_id, ..announce }).encode(&mut request);
        request
    }

    pub(crate) fn scrape_request(&mut self, info_hashes: &[InfoHash]) -> Vec<u8> {
        let info_hashes: Vec<[u8; 20]> = info_hashes.iter().map(|info_hash| info_hash.0).collect();
        let (connection_id, transaction_id) = (self.connection_id, self.next_transaction());
        let mut request = Vec::new();
        let scrape = Scrape { connection_id, transaction_id, info_hashes: &info_hashes };
        Request::Scrape(scrape).encode(&mut request);
        request
    }

    fn next_transaction(&mut self) -> u32 {
        self.transaction_id += 1;
        self.transaction_id
    }

    #[track_caller]
    pub(crate) fn send(&self, datagram: &[u8]) {
        assert_eq!(self.try_send(datagram).expect("a datagram sent"), datagram.len());
    }

    pub(crate) fn try_send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.socket.send(datagram)
    }

    /// The next datagram from the tracker.
    #[track_caller]
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 2_048];
        let length = self.socket.recv(&mut buffer).expect("a response");
        buffer.truncate(length);
        buffer
    }

    /// Whether a datagram from the tracker waits to be received.
    pub(crate) fn has_mail(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket that doesn't wait");
        let peeked = self.socket.peek(&mut [0; 1]);
        self.socket.set_nonblocking(false).expect("a socket that waits");
        !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    #[track_caller]
    pub(crate) fn exchange(&self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        let reply = self.receive();
        assert_eq!(reply[4..8], request[12..16], "the response is one to another request");
        reply
    }

    #[track_caller]
    pub(crate) fn connect(&mut self) {
        let request = self.connect_request();
        let reply = self.exchange(&request);
        self.connection_id = match Response::parse(&reply) {
            Ok(Response::Connect { connection_id, .. }) => connection_id,
            other => panic!("{other:?} to a connect"),
        };
    }

    #[track_caller]
    pub(crate) fn announce(&mut self, announce: Announce<'_>) -> Announced {
        let request = self.announce_request(announce);
        self.read_announced(&self.exchange(&request))
    }

    #[track_caller]
    pub(crate) fn read_announced(&self, reply: &[u8]) -> Announced {
        let Ok(Response::Announce { interval_secs, leechers, seeders, peers, .. }) = Response::parse(reply)
        else {
            panic!("{:?} to an announce", Response::parse(reply));
        };
        let peers = unpack(self.family, peers);
        Announced { interval_secs, leechers, seeders, peers }
    }

    #[track_caller]
    pub(crate) fn scrape(&mut self, info_hashes: &[InfoHash]) -> Vec<SwarmCounts> {
        let request = self.scrape_request(info_hashes);
        match Response::parse(&self.exchange(&request)) {
            Ok(Response::Scrape { entries, .. }) => entries.iter().map(scrape_counts).collect(),
            other => panic!("{other:?} to a scrape"),
        }
    }
}

/// What the tracker says in words to a request by UDP that it refuses.
#[track_caller]
pub(crate) fn error_of(reply: &[u8]) -> String {
    match Response::parse(reply) {
        Ok(Response::Error { message, .. }) => String::from_utf8(message.to_vec()).expect("a text"),
        other => panic!("{other:?} is no error"),
    }
}

/// A client by UDP of a tracker, over IPv4, that has connected in the sense of the protocol.
#[track_caller]
pub(crate) fn udp(tracker: &Tracker) -> UdpClient {
    UdpClient::connected(tracker.udp(Family::V4))
}

/// A client by HTTP of a tracker, over IPv4.
#[track_caller]
pub(crate) fn connect(tracker: &Tracker) -> HttpClient {
    HttpClient::connect(tracker.http(Family::V4))
}

/// Reads packed peers of a family; returns them sorted.
#[track_caller]
pub(crate) fn unpack(family: Family, packed: &[u8]) -> Vec<SocketAddr> {
    let mut peers: Vec<_> = match family {
        Family::V4 => {
            let (peers, rest) = packed.as_chunks::<PEER_V4_BYTES>();
            assert!(rest.is_empty(), "{} bytes are no list of IPv4 peers", packed.len());
            peers.iter().map(unpack_v4).collect()
        }
        Family::V6 => {
            let (peers, rest) = packed.as_chunks::<PEER_V6_BYTES>();
            assert!(rest.is_empty(), "{} bytes are no list of IPv6 peers", packed.len());
            peers.iter().map(unpack_v6).collect()
        }
    };
    peers.sort();
    peers
}

/// A response by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    /// Status line and header fields, without the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl HttpResponse {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    pub(crate) fn content_length(&self) -> usize {
        self.field("Content-Length").expect("a length").parse().expect("a number")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The head of a GET request.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: tracker\r\n\r\n")
}

fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// The path of an announce of a leecher, and `more` parameters.
pub(crate) fn announce_path(info_hash: InfoHash, port: u16, more: &str) -> String {
    let info_hash = escape(&info_hash.0);
    format!("/announce?info_hash={info_hash}&peer_id=-GT0001-integration!&port={port}&left=1{more}")
}

pub(crate) fn scrape_path(info_hashes: &[InfoHash]) -> String {
    let parameters: Vec<_> =
        info_hashes.iter().map(|hash| format!("info_hash={}", escape(&hash.0))).collect();
    format!("/scrape?{}", parameters.join("&"))
}

/// One connection, on which responses are read one by one.
pub(crate) struct HttpClient(BufReader<TcpStream>);

impl HttpClient {
    #[track_caller]
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
        Self(BufReader::new(stream))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).expect("a request sent");
    }

    #[track_caller]
    pub(crate) fn receive(&mut self) -> HttpResponse {
        let mut response = self.receive_head();
        response.body = vec![0; response.content_length()];
        self.0.read_exact(&mut response.body).expect("a body of the length that was told");
        response
    }

    /// A response to HEAD, which has no body.
    #[track_caller]
    pub(crate) fn receive_head(&mut self) -> HttpResponse {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let bytes = self.0.read_line(&mut head).expect("a line of a response");
            assert!(bytes > 0, "the connection ended in the head of a response: {head:?}");
        }
        head.truncate(head.len() - 4);
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        HttpResponse { status: status.expect("a status line"), head, body: Vec::new() }
    }

    #[track_caller]
    pub(crate) fn request(&mut self, request: impl AsRef<[u8]>) -> HttpResponse {
        self.send(request);
        self.receive()
    }

    /// `None`: the connection was closed before anything of a response came.
    #[track_caller]
    pub(crate) fn try_request(&mut self, request: impl AsRef<[u8]>) -> Option<HttpResponse> {
        let sent = self.stream().write_all(request.as_ref());
        let begun = sent.is_ok() && self.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        begun.then(|| self.receive())
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> HttpResponse {
        self.request(get(path))
    }

    /// All that comes until the tracker closes the connection, as it should now.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an end of the connection that is no reset");
        rest
    }

    /// Exactly so many bytes.
    #[track_caller]
    pub(crate) fn receive_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("so many bytes");
        bytes
    }
}
