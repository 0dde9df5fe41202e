//! Owns the tests of a restart without a gap: one tracker takes over from another under load, and a failure leaves the
//! running one as it was. Also tests sockets from the service manager.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::process::{ANYWHERE, GYRE, Program, serve};
use crate::support::web::TempDir;
use crate::support::{
    DEADLINE, HttpClient, Tracker, UdpClient, announcement, config, eventually, eventually_equal, get,
    info_hash, loopback, udp,
};
use gyre::config::{Config, Steering};
use gyre::counters::Counter;
use gyre::server::Inherited;
use gyre::types::{Family, InfoHash};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};

/// Clients that send requests all the time.
const CLIENTS: u64 = 4;
/// Peers that each of them announces in one swarm.
const SWARM_PEERS: u64 = 100;
const SWARMS: u64 = 32;
const TAKE_OVERS: usize = 3;

fn options(state: &TempDir) -> String {
    format!("{ANYWHERE} --stats-interval 0 --state-dir {}", state.path().display())
}

/// A program that knows one peer keeps serving until another one takes over.
#[track_caller]
fn is_taken_over(mut program: Program, state: &TempDir, mut client: UdpClient) {
    assert_eq!(client.announce(announcement(info_hash(1), 2)).ports(), [1]);
    let next = Program::serve(&format!("{} --take-over", options(state)));
    next.ready();
    assert_eq!(program.end().code(), Some(0));
    assert_eq!(client.announce(announcement(info_hash(1), 3)).ports(), [1, 2]);
}

/// Announces one new peer after another in its own swarms until `stop` is set. Returns their number. Each request must
/// be answered, and none is sent twice.
fn ask(to: SocketAddr, client: u64, stop: &AtomicBool) -> u64 {
    let mut udp = UdpClient::connected(to);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return number;
        }
        if number % SWARM_PEERS == 0 {
            udp.connect();
        }
        let peers = udp.announce(announcement(swarm_of(client, number), (1 + number % SWARM_PEERS) as u16));
        assert!(peers.leechers >= 1, "the announcing peer is in the swarm");
    }
    unreachable!("it is told to stop")
}

fn swarm_of(client: u64, number: u64) -> InfoHash {
    info_hash((client << 32) + number / SWARM_PEERS)
}

/// Waits until all peers that a client has announced are in their swarms.
#[track_caller]
fn has_all(udp: &mut UdpClient, client: u64, announced: u64) {
    for first in (0..announced).step_by(SWARM_PEERS as usize) {
        let peers = SWARM_PEERS.min(announced - first) as u32;
        eventually_equal("peers of a swarm", &peers, || udp.scrape(&[swarm_of(client, first)])[0].leechers);
    }
}

#[test]
fn nothing_is_lost_when_trackers_take_over_under_load() {
    let state = TempDir::new();
    let mut program = Program::serve(&options(&state));
    let (udp, http) = program.ready();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ask = |client| {
            scope.spawn({
                let stop = &stop;
                move || ask(udp, client, stop)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(ask).collect();
        for _ in 0..TAKE_OVERS {
            let next = Program::serve(&format!("{} --take-over", options(&state)));
            assert_eq!(next.ready(), (udp, http), "the same sockets");
            assert_eq!(program.end().code(), Some(0));
            assert!(next.find_line("taken over").is_some());
            assert_eq!(HttpClient::connect(http).get("/health").status, 200);
            program = next;
        }
        stop.store(true, Ordering::Relaxed);
        let mut udp = UdpClient::connected(udp);
        for (client, asked) in clients.into_iter().enumerate() {
            let announced = asked.join().expect("each request was answered");
            assert!(announced > SWARM_PEERS, "{announced}");
            has_all(&mut udp, client as u64, announced);
        }
    });
    assert!(!state.path().join("damaged").exists());
}

fn with_state(directory: &TempDir) -> Config {
    Config { state_dir: Some(directory.path().to_owned()), ..config(2) }
}

fn take_over(directory: &TempDir) -> Inherited {
    Inherited::default().take_over(directory.path()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn steering_stays_right_and_ids_hold() {
    let directory = TempDir::new();
    let mut tracker = Tracker::start(&with_state(&directory));
    let address = tracker.udp(Family::V4);
    let mut client = udp(&tracker);
    for round in 0..TAKE_OVERS {
        let next = Tracker::listen(
            gyre::Tracker::builder().config(with_state(&directory)).inherit(take_over(&directory)),
        );
        assert_eq!(next.udp(Family::V4), address);
        assert!(tracker.wait(), "the old tracker ends by itself");
        for number in 0..SWARMS {
            // With the id from the first tracker.
            let known = client.announce(announcement(info_hash(number), 7 + round as u16)).leechers;
            assert_eq!(known, 1 + round as u32, "swarm {number}");
        }
        next.await_count(&[Counter::UdpAnnounceV4], SWARMS);
        assert_eq!(next.count(&[Counter::MeshHops]), 0, "each request came to its owner");
        tracker = next;
    }
}

#[test]
fn another_steering_replaces_the_last_one() {
    let directory = TempDir::new();
    let mut tracker = Tracker::start(&with_state(&directory));
    let unsteered = Config { steering: Steering::None, ..with_state(&directory) };
    let next = Tracker::listen(gyre::Tracker::builder().config(unsteered).inherit(take_over(&directory)));
    assert!(tracker.wait());
    let mut client = udp(&next);
    eventually("requests that come to others than their owners", || {
        (0..SWARMS).for_each(|number| drop(client.announce(announcement(info_hash(number), 1))));
        next.count(&[Counter::MeshHops]) > 0
    });
}

#[test]
fn trackers_of_one_process_are_handed_over_together() {
    let directory = TempDir::new();
    let build = |inherited| {
        let mut bound =
            gyre::Tracker::builder().config(with_state(&directory)).inherit(inherited).bind().unwrap();
        let pages = gyre::Tracker::builder()
            .config(Config { udp: gyre::config::Listen::At(Vec::new()), ..config(1) })
            .http((loopback(Family::V4), 0).into())
            .inherit(bound.rest())
            .listen()
            .unwrap();
        let mut tracker = bound.start().unwrap();
        tracker.hand_over_with(&pages);
        tracker.succeed().unwrap();
        (tracker, pages)
    };
    let (mut tracker, mut pages) = build(Inherited::default());
    let addresses = (tracker.http_addresses().to_vec(), pages.http_addresses().to_vec());
    let (next, next_pages) = build(take_over(&directory));
    assert!(tracker.wait(DEADLINE).unwrap() && pages.wait(DEADLINE).unwrap());
    assert_eq!((next.http_addresses().to_vec(), next_pages.http_addresses().to_vec()), addresses);
    for address in addresses.0.iter().chain(&addresses.1) {
        assert_eq!(HttpClient::connect(*address).get("/health").status, 200, "{address}");
    }
    for mut tracker in [next, next_pages] {
        tracker.stop();
        assert!(tracker.wait(DEADLINE).unwrap());
    }
}

#[test]
fn connections_end_in_order() {
    let state = TempDir::new();
    let mut program = Program::serve(&options(&state));
    let (_, http) = program.ready();
    let mut idle = HttpClient::connect(http);
    assert_eq!(idle.get("/health").status, 200);
    let mut asking = HttpClient::connect(http);
    asking.send("GET /health HTTP/1.1\r\n");
    assert_eq!(HttpClient::connect(http).get("/health").status, 200, "the last connection was accepted");
    let next = Program::serve(&format!("{} --take-over", options(&state)));
    next.ready();
    assert_eq!(idle.rest(), b"", "no reset");
    let response = asking.request("Host: tracker\r\n\r\n");
    assert_eq!((response.status, response.field("Connection")), (200, Some("close")));
    assert_eq!(program.end().code(), Some(0));
}

/// Returns the error of a program that failed to take over with these options.
fn refused(options: &str) -> String {
    Program::serve(&format!("{options} --take-over")).ends_with(1)
}

#[test]
fn after_a_failed_takeover_the_old_tracker_keeps_serving() {
    let state = TempDir::new();
    let program = Program::serve(&options(&state));
    let mut client = UdpClient::connected(program.ready().0);
    client.announce(announcement(info_hash(1), 1));

    let said = Program::serve(&options(&state)).ends_with(1);
    assert!(said.contains("another tracker is using it; use --take-over"), "{said}");
    let first = gyre::sys::allowed_cores().unwrap()[0];
    if gyre::sys::allowed_cores().unwrap().len() > 1 {
        let said = refused(&format!("{} --cores {first}", options(&state)));
        assert!(said.contains("this one would have 1; set --cores to the same number"), "{said}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = refused(&format!("{} --http {}", options(&state), taken.local_addr().unwrap()));
    assert!(said.contains("Address already in use"), "{said}");
    let said = refused(&format!("{} --deny-hashes /nonexistent/list", options(&state)));
    assert!(said.contains("/nonexistent/list: No such file"), "{said}");
    assert!(program.find_line("this process keeps serving").is_some());
    is_taken_over(program, &state, client);
}

#[test]
fn taking_over_without_a_running_tracker_starts_normally() {
    let state = TempDir::new();
    let options = format!("{} --take-over", options(&state));
    Program::serve(&options).ready();
    Program::serve(&options).ready(); // after a kill, which leaves the socket file
    let said = Program::serve(&format!("{ANYWHERE} --take-over")).ends_with(2);
    assert!(said.contains("--state-dir"), "{said}");
}

/// The new tracker's end of a connection to a running tracker.
struct Successor(Socket);

impl Successor {
    fn connect(state: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.connect(&SockAddr::unix(state.join("handover")).unwrap()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    fn say(&self, words: &[u8]) -> &Self {
        self.0.send(words).unwrap();
        self
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 2_048];
        let length = (&self.0).read(&mut bytes).expect("an answer");
        String::from_utf8(bytes[..length].to_vec()).expect("a text")
    }

    /// Performs the protocol up to receiving the sockets.
    fn hello(&self) -> &Self {
        self.say(br#"{"Hello":{"version":1}}"#);
        assert!(self.hear().starts_with(r#"{"Welcome":"#));
        assert_eq!(self.hear(), r#""Descriptors""#);
        self
    }
}

#[test]
fn invalid_messages_are_refused_and_a_successor_that_dies_is_forgotten() {
    let state = TempDir::new();
    let program = Program::serve(&options(&state));
    let (udp, _) = program.ready();
    let mut client = UdpClient::connected(udp);
    for (words, answer) in [
        (&b"GET / HTTP/1.1"[..], "not a valid message"),
        (&[b'x'; 5_000], "not a valid message"),
        (br#""Serving""#, "unexpected message"),
        (br#"{"Hello":{"version":2}}"#, "the handover protocol has version 2 instead of 1"),
    ] {
        let said = Successor::connect(state.path()).say(words).hear();
        assert!(said.contains("Refused") && said.contains(answer), "{said}");
        client.announce(announcement(info_hash(1), 1));
    }
    // A silent connection blocks others only for a short time.
    let silent = Successor::connect(state.path());
    Successor::connect(state.path()).hello().say(br#"{"Hello":{"version":1}}"#);
    assert!(silent.hear().contains("timed out"));
    assert!(program.find_line("this process keeps serving").is_some());
    Successor::connect(state.path()).hello(); // it dies after it has got the sockets
    assert!(program.find_line("this process keeps serving").is_some());
    let successor = Successor::connect(state.path());
    assert_eq!(successor.hello().say(br#""Save""#).hear(), r#""Saved""#);
    drop(successor); // it dies while it reads the snapshot
    assert!(program.find_line("this process keeps serving").is_some());
    is_taken_over(program, &state, client);
}

#[test]
fn a_signal_starts_a_successor_and_notifies_the_service_manager() {
    let state = TempDir::new();
    let notices = UnixDatagram::bind(state.path().join("notices")).unwrap();
    notices.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let length = notices.recv(&mut bytes).expect("a notice");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    let mut command = serve(&format!("--admin 127.0.0.1:0 {}", options(&state)));
    let mut program = Program::run(command.env("NOTIFY_SOCKET", state.path().join("notices")));
    let ready = program.find_line("gyre: ready: ").expect("a program that serves");
    assert_eq!(hear(), "READY=1");
    program.signal(Signal::USR2);
    let line = program.find_line("will take over").expect("a line of the log");
    let process = line.split(' ').rev().nth(3).expect("its number").to_owned();
    assert_eq!(program.find_line("gyre: ready: "), Some(ready.clone()), "the same sockets");
    assert_eq!(program.end().code(), Some(0));
    assert_eq!((hear(), hear()), (format!("MAINPID={process}"), "READY=1".to_owned()));
    for word in ["http", "admin"] {
        let address = ready.split(' ').skip_while(|found| *found != word).nth(1).expect("an address");
        assert_eq!(HttpClient::connect(address.parse().unwrap()).get("/health").status, 200, "{word}");
    }
    let process = Pid::from_raw(process.parse().unwrap()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    while program.find_line("").is_some() {} // it has closed its standard error
}

fn bound(kind: Type, shares: bool, address: &str) -> Socket {
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    socket.set_reuse_port(shares).unwrap();
    socket.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket
}

fn address(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// Runs the program like a service manager does, with two sockets as its descriptors 3 and 4.
fn activated(sockets: [&Socket; 2], process: &str, options: &str) -> Program {
    let variables = format!("export LISTEN_PID={process} LISTEN_FDS=2");
    let line = format!(
        "{variables}; exec {GYRE} serve --allow-root --no-admin {options} 3<&0 4>&1 </dev/null >/dev/null"
    );
    let [first, second] = sockets.map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    Program::spawn(Command::new("sh").args(["-c", &line]).stdin(first).stdout(second))
}

#[test]
fn sockets_of_the_service_manager_are_served() {
    let core = gyre::sys::allowed_cores().unwrap()[0];
    let (udp, http) = (bound(Type::DGRAM, false, "127.0.0.1:0"), bound(Type::STREAM, false, "127.0.0.1:0"));
    http.listen(1).unwrap();
    let early = HttpClient::connect(address(&http));
    early.send(get("/health"));
    let options = format!("--udp {} --http {} --cores {core}", address(&udp), address(&http));
    let program = activated([&http, &udp], "$$", &options);
    assert_eq!(program.ready(), (address(&udp), address(&http)));
    let mut early = early;
    assert_eq!(early.receive().status, 200, "a connection from before the start");
    UdpClient::connected(address(&udp));

    let said = activated([&http, &udp], "1", &options).ends_with(1);
    assert!(said.contains("Address already in use"), "sockets for another process: {said}");
    let unnamed = activated(
        [&http, &udp],
        "$$",
        &format!("{ANYWHERE} --cores {core} --no-http").replace("--http 127.0.0.1:0 ", ""),
    );
    let said = unnamed.find_line("no option names").expect("a warning");
    assert!(said.contains(&address(&http).to_string()), "{said}");
}

#[test]
fn several_workers_need_sockets_with_a_shared_port() {
    let cores = gyre::sys::allowed_cores().unwrap();
    let [first, second, ..] = cores[..] else { return };
    let alone = bound(Type::DGRAM, false, "127.0.0.1:0");
    let other = bound(Type::DGRAM, false, "127.0.0.1:0");
    let options =
        |socket: &Socket, cores: &str| format!("--udp {} --no-http --cores {cores}", address(socket));
    let both = format!("{first},{second}");
    let said = activated([&alone, &other], "$$", &options(&alone, &both)).ends_with(1);
    assert!(said.contains("SO_REUSEPORT is not set"), "{said}");

    let shared = bound(Type::DGRAM, true, "127.0.0.1:0");
    let beside = bound(Type::DGRAM, true, &address(&shared).to_string());
    let said = activated([&shared, &beside], "$$", &options(&shared, &first.to_string())).ends_with(1);
    assert!(said.contains("there are 2 sockets, but 1 workers"), "{said}");
    let ask = |socket: &Socket, program: &Program| {
        assert!(program.find_line("ready").is_some());
        let mut client = UdpClient::connected(address(socket));
        (0..SWARMS).for_each(|number| drop(client.announce(announcement(info_hash(number), 1))));
    };
    ask(&shared, &activated([&shared, &beside], "$$", &options(&shared, &both)));
    let one = bound(Type::DGRAM, true, "127.0.0.1:0");
    // The socket of the other worker is bound in addition.
    ask(&one, &activated([&one, &other], "$$", &options(&one, &both)));
}
