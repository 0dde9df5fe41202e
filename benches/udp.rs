//! Owns the question how close gyre comes to the floor: responses a second and CPU per response of one pinned worker,
//! beside a null responder on the same ring, in turn in one run. At a wildcard address each reply also names the
//! address that it leaves from.
//!
//! `cargo bench --bench udp` runs five rounds of five seconds each; under `cargo test` it is one round of some thousand
//! responses, and says whether they are right.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gyre::config::{Config, Cores, Listen};
use gyre::engine::{Endpoint, Replies};
use gyre::limits::TURN_DATAGRAMS;
use gyre::ring::{RingSocket, UdpRing};
use gyre::sys::{self, Doorbell};
use gyre::time::Clock;
use gyre::types::{Event, InfoHash, PeerId};
use gyre::wire::udp::{Announce, Request, Scrape};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The load: of a hundred requests so many are connects, announces; the rest scrapes of one swarm.
const CONNECTS: u32 = 49;
const ANNOUNCES: u32 = 50;
const SWARMS: u32 = 1_024;
const PORTS: std::ops::Range<u16> = 10_000..10_128;
const NUM_WANT: i32 = 30;
const SOCKETS: usize = 8;
const WINDOW: usize = 32;

fn main() -> ExitCode {
    let full = std::env::args().any(|argument| argument == "--bench");
    let (rounds, warm_up, measured) = match full {
        true => (5, Extent::Time(Duration::from_secs(1)), Extent::Time(Duration::from_secs(5))),
        false => (1, Extent::Responses(1_000), Extent::Responses(5_000)),
    };
    let cores = sys::allowed_cores().expect("the cores of this process");
    let (server_core, load_core) = (cores[0], cores[cores.len() - 1]);
    say(&format!("server on core {server_core}, load on core {load_core}, {rounds} rounds of {measured:?}"));
    let load = |server: SocketAddr, thread: &str| {
        let run = || {
            sys::pin(load_core).expect("a core for the load");
            Load::new(server).run(thread, warm_up, measured)
        };
        thread::scope(|scope| scope.spawn(run).join().expect("the load"))
    };
    let (one, all) = (Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED);
    let mut servers = [
        Server { name: "floor", run: &|| measure_floor(server_core, load), runs: Vec::new() },
        Server { name: "gyre", run: &|| measure_gyre(server_core, one, load), runs: Vec::new() },
        Server { name: "gyre at 0.0.0.0", run: &|| measure_gyre(server_core, all, load), runs: Vec::new() },
    ];
    for round in 1..=rounds {
        for server in &mut servers {
            let figures = (server.run)();
            say(&format!("round {round}: {:15} {}", server.name, figures.text()));
            server.runs.push(figures);
        }
    }
    let medians = servers.map(|server| (server.name, median(server.runs)));
    let floor = medians[0].1;
    let mut right = true;
    for (name, figures) in medians {
        say(&format!(
            "median:  {name:15} {}; {:.3} of the floor's rate, {:.3} of its CPU",
            figures.text(),
            figures.rate() / floor.rate(),
            figures.cpu_us() / floor.cpu_us()
        ));
        right &= figures.responses > 0 && figures.wrong == 0;
    }
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is measured.
struct Server<'a> {
    name: &'static str,
    run: &'a dyn Fn() -> Figures,
    runs: Vec<Figures>,
}

fn say(line: &str) {
    eprintln!("{line}");
}

/// How long a run lasts.
#[derive(Clone, Copy, Debug)]
enum Extent {
    Time(Duration),
    Responses(u64),
}

impl Extent {
    fn is_over(self, passed: Duration, responses: u64) -> bool {
        match self {
            Self::Time(time) => passed >= time,
            Self::Responses(number) => responses >= number,
        }
    }
}

/// What a run came to.
#[derive(Clone, Copy, Default)]
struct Figures {
    responses: u64,
    wrong: u64,
    secs: f64,
    user_secs: f64,
    system_secs: f64,
}

impl Figures {
    fn rate(&self) -> f64 {
        self.responses as f64 / self.secs
    }

    fn cpu_us(&self) -> f64 {
        (self.user_secs + self.system_secs) * 1e6 / self.responses as f64
    }

    fn text(&self) -> String {
        let per_response = |secs: f64| secs * 1e6 / self.responses as f64;
        format!(
            "{:>8.0} responses/s, {:.3} us CPU per response ({:.3} user, {:.3} system), {} wrong",
            self.rate(),
            self.cpu_us(),
            per_response(self.user_secs),
            per_response(self.system_secs),
            self.wrong
        )
    }
}

fn median(mut runs: Vec<Figures>) -> Figures {
    runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    runs[runs.len() / 2]
}

fn measure_gyre(core: usize, ip: Ipv4Addr, load: impl Fn(SocketAddr, &str) -> Figures) -> Figures {
    let config = Config {
        udp: Listen::At(vec![SocketAddr::from((ip, 0))]),
        http: Listen::At(Vec::new()),
        cores: Cores::List(vec![core]),
        ..Config::default()
    };
    let mut server = gyre::server::Server::start(&config).expect("a server");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.udp_addresses()[0].port()));
    let figures = load(address, &format!("gyre-0@{core}"));
    server.stop();
    assert!(server.wait(Duration::from_secs(5)).expect("an orderly end"), "the server did not end");
    figures
}

fn measure_floor(core: usize, load: impl Fn(SocketAddr, &str) -> Figures) -> Figures {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sys::set_receive_buffer(&socket, Config::default().receive_buffer_bytes).expect("a buffer");
    let address = socket.local_addr().expect("an address");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let name = format!("floor@{core}");
    let body = move || {
        sys::pin(core).expect("a core for the floor");
        let mut ring = ring(vec![socket]);
        while !stopped.load(Ordering::Acquire) {
            ring.turn(TURN_DATAGRAMS, |_, datagram, out| null_response(datagram, out)).expect("datagrams");
            ring.submit().expect("a kernel that takes it");
        }
    };
    let responder = thread::Builder::new().name(name.clone()).spawn(body).expect("a thread");
    let figures = load(address, &name);
    stop.store(true, Ordering::Release);
    responder.join().expect("an orderly end");
    figures
}

/// A response of the right kind and size, which nothing was done for.
fn null_response(datagram: &[u8], out: &mut [u8]) -> Option<usize> {
    let action = *datagram.get(11)?;
    out[..4].copy_from_slice(&[0, 0, 0, action]);
    out[4..8].copy_from_slice(datagram.get(12..16)?);
    match action {
        0 => Some(16),
        1 => Some(20 + 6 * NUM_WANT as usize),
        _ => Some(20),
    }
}

fn ring(sockets: Vec<UdpSocket>) -> UdpRing {
    let doorbell = Doorbell::new().expect("a doorbell");
    let sockets = sockets.into_iter().map(|socket| RingSocket { socket, wildcard: false }).collect();
    UdpRing::new(sockets, &doorbell).expect("a ring")
}

/// A closed loop: each response is answered by the next request, so that so many are always in flight.
struct Load {
    server: SocketAddr,
    ring: UdpRing,
    next: Next,
}

/// What is asked next.
struct Next {
    rng: fastrand::Rng,
    connection_ids: [u64; SOCKETS],
    responses: u64,
    wrong: u64,
    request: Vec<u8>,
}

impl Load {
    fn new(server: SocketAddr) -> Self {
        let sockets = (0..SOCKETS).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
        let rng = fastrand::Rng::with_seed(7);
        let next = Next { rng, connection_ids: [0; SOCKETS], responses: 0, wrong: 0, request: Vec::new() };
        Self { server, ring: ring(sockets), next }
    }

    fn run(mut self, thread: &str, warm_up: Extent, measured: Extent) -> Figures {
        let clock = Clock::start();
        self.fill_windows();
        let (mut before, mut started) = (None, clock.now());
        let mut heard = (0, clock.now());
        loop {
            let next = &mut self.next;
            self.ring
                .turn(TURN_DATAGRAMS, |from, datagram, out| Some(next.after(from.socket, datagram, out)))
                .expect("datagrams");
            self.ring.submit().expect("a kernel that takes it");
            let now = clock.now();
            if next.responses != heard.0 {
                heard = (next.responses, now);
            } else if now.since(heard.1) > Duration::from_millis(200) {
                self.fill_windows(); // all that was in flight is lost
                heard.1 = now;
            }
            match &before {
                None if warm_up.is_over(now.since(started), self.next.responses) => {
                    (self.next.responses, self.next.wrong) = (0, 0);
                    (before, started) = (Some(cpu_secs(thread)), now);
                }
                Some((user, system)) if measured.is_over(now.since(started), self.next.responses) => {
                    let after = cpu_secs(thread);
                    return Figures {
                        responses: self.next.responses,
                        wrong: self.next.wrong,
                        secs: now.since(started).as_secs_f64(),
                        user_secs: after.0 - user,
                        system_secs: after.1 - system,
                    };
                }
                _ => {}
            }
        }
    }

    fn fill_windows(&mut self) {
        for socket in (0..SOCKETS).cycle().take(SOCKETS * WINDOW) {
            let to = Endpoint { source: self.server, local: None, socket: socket as u8 };
            let next = &mut self.next;
            self.ring.reply(&to, |out| next.put(Request::Connect { transaction_id: 1 }, out));
        }
        self.ring.submit().expect("a kernel that takes it");
    }
}

impl Next {
    fn after(&mut self, socket: u8, response: &[u8], out: &mut [u8]) -> usize {
        self.responses += 1;
        let socket = usize::from(socket);
        match (response.get(3), response.len()) {
            (Some(0), 16) => {
                self.connection_ids[socket] =
                    u64::from_be_bytes(response[8..].try_into().expect("eight bytes"));
            }
            (Some(1), length) if (length - 20).is_multiple_of(6) => {}
            (Some(2), 20) => {}
            _ => self.wrong += 1,
        }
        let mut hash = [0x5a; 20];
        hash[..4].copy_from_slice(&self.rng.u32(..SWARMS).wrapping_mul(0x9e37_79b9).to_be_bytes());
        let (connection_id, transaction_id) = (self.connection_ids[socket], self.rng.u32(..));
        let request = match self.rng.u32(..100) {
            kind if kind < CONNECTS => Request::Connect { transaction_id },
            kind if kind < CONNECTS + ANNOUNCES => Request::Announce(Announce {
                connection_id,
                transaction_id,
                info_hash: InfoHash(hash),
                peer_id: PeerId(*b"-GY0001-udpbenchload"),
                downloaded: 0,
                left: u64::from(self.rng.u8(..4) == 0), // three quarters are seeders
                uploaded: 0,
                event: Event::None,
                key: 0,
                num_want: NUM_WANT,
                port: self.rng.u16(PORTS),
                options: &[],
            }),
            _ => {
                return self.put(
                    Request::Scrape(Scrape { connection_id, transaction_id, info_hashes: &[hash] }),
                    out,
                );
            }
        };
        self.put(request, out)
    }

    fn put(&mut self, request: Request<'_>, out: &mut [u8]) -> usize {
        request.encode(&mut self.request);
        out[..self.request.len()].copy_from_slice(&self.request);
        self.request.len()
    }
}

/// The CPU time of one of this process's threads, user and system, as the scheduler books it (10 ms steps).
fn cpu_secs(thread: &str) -> (f64, f64) {
    const TICKS_A_SECOND: f64 = 100.0; // USER_HZ, the same on all architectures that gyre runs on
    for task in fs::read_dir("/proc/self/task").expect("the threads").flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() == thread {
            let stat = fs::read_to_string(task.path().join("stat")).expect("a thread's times");
            let fields: Vec<&str> =
                stat.rsplit(')').next().expect("what follows the name").split_whitespace().collect();
            let ticks = |field: usize| fields[field].parse::<f64>().expect("a number") / TICKS_A_SECOND;
            return (ticks(11), ticks(12));
        }
    }
    panic!("no thread {thread}");
}
