//! Tests of the deadlines of HTTP connections and of waiting middleware, and of the reuse of buffers, with a clock that
//! the test advances.

use std::future::pending;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::Duration;

use super::*;
use crate::connection_id::ConnectionIds;
use crate::engine::context::RequestContext;
use crate::engine::middleware::{Next, from_async};
use crate::engine::{Endpoint, Policy, Seeds};
use crate::error::TrackerError;
use crate::limits::{
    HTTP_HEAD_DEADLINE_MS, HTTP_IDLE_DEADLINE_MS, HTTP_WRITE_DEADLINE_MS, SWEEP_SLICES_PER_SECOND,
    TURN_SWEEP, UDP_REPLY_MAX_BYTES, WAIT_DEADLINE_MS,
};
use crate::owner::Owners;
use crate::swarm::Saved;
use crate::types::{InfoHash, PeerAddr, WorkerId};
use crate::wire::udp::Request;
use connections::Phase;

/// A worker with one HTTP listener and this middleware, and the listener's address.
fn worker<M: Middleware>(middleware: M) -> (Driver<M>, SocketAddr) {
    let policy = Policy {
        announce_interval_secs: 1_800,
        min_interval_secs: 900,
        max_peers: 50,
        peer_timeout_secs: 4_000,
        table_bytes: usize::MAX,
    };
    let seeds = Seeds { table: [0; 16], random: 0 };
    let ids = ConnectionIds::new([0; 16], 120, Duration::ZERO);
    let doorbells = [Arc::new(Doorbell::new().unwrap())];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let setup = Setup {
        core: None,
        sockets: Vec::new(),
        listeners: vec![listener],
        engine: Engine::new(WorkerId(0), Owners::new(1, [0; 3]), policy, ids, seeds),
        mesh: Mesh::connect(&doorbells).remove(0),
        doorbell: doorbells[0].clone(),
        clock: Clock::start(),
        published: Arc::default(),
        shutdown: Arc::new(Shutdown::new(1)),
        busy_poll: Duration::ZERO,
        gather: Duration::ZERO,
        connections: ConnectionLimits { open: 10, refused: 1 },
        orders: crossbeam::channel::never(),
    };
    let trusted_proxies = Arc::<[Trusted]>::default();
    (Driver::new(setup, Program { middleware, site: Arc::default(), trusted_proxies }).unwrap(), address)
}

impl<M: Middleware> Driver<M> {
    /// Serves for a moment.
    fn serve(&mut self) {
        let runtime = self.runtime.handle();
        runtime.block_on(async {
            self.runtime.take_spawned(&self.app.shared.handover);
            self.step().unwrap();
            self.sleep_in_runtime(Duration::from_millis(1)).await.unwrap();
        });
    }

    fn connections(&self) -> std::cell::RefMut<'_, Connections> {
        self.app.shared.connections.borrow_mut()
    }
}

/// Runs `client` against the worker. Once its connection is in this phase, time passes: first to five seconds before
/// the deadline, then on. Returns what the client made of it, and how many connections there were before the deadline.
fn after_deadline<T: Send + 'static>(
    deadline_ms: u64,
    phase: Phase,
    client: impl FnOnce(SocketAddr) -> T + Send + 'static,
) -> (T, usize) {
    let (mut worker, address) = worker(());
    let client = thread::spawn(move || client(address));
    while !worker.connections().has_one_in(phase) {
        worker.serve();
    }
    let mut now = worker.app.shared.clock.now() + Duration::from_millis(deadline_ms - 5_000);
    worker.connections().reap(now);
    (0..20).for_each(|_| worker.serve());
    let left = worker.connections().len();
    now = now + Duration::from_secs(5);
    while worker.connections().len() > 0 {
        worker.connections().reap(now);
        worker.serve();
        now = now + Duration::from_secs(1);
        assert!(now.as_secs() < 1_000, "the connection outlives all deadlines");
    }
    while !client.is_finished() {
        worker.serve();
    }
    (client.join().unwrap(), left)
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let (heard, left) = after_deadline(HTTP_IDLE_DEADLINE_MS, Phase::Idle, |address| {
        read_all(TcpStream::connect(address).unwrap())
    });
    assert_eq!((heard.as_str(), left), ("", 1));
}

#[test]
fn a_request_that_does_not_end_gets_a_408() {
    let (heard, left) = after_deadline(HTTP_HEAD_DEADLINE_MS, Phase::Request, |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost:").unwrap();
        read_all(stream)
    });
    assert!(heard.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{heard}");
    assert_eq!(left, 1);
}

#[test]
fn a_client_that_does_not_read_its_responses_is_disconnected() {
    let (sent, left) = after_deadline(HTTP_WRITE_DEADLINE_MS, Phase::Write, |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n".repeat(1_000);
        let mut sent = 0;
        while stream.write_all(&request).is_ok() {
            sent += 1_000;
        }
        sent
    });
    assert!(sent > 0);
    assert_eq!(left, 1);
}

/// Has a client send what is left of a request while the worker stands still; then `meanwhile` happens before the
/// worker gets to read it. Returns what the client hears until the end of its connection.
fn responses_to_late_requests(
    begun: &'static str,
    rest: &'static str,
    meanwhile: impl FnOnce(&mut Connections),
) -> String {
    let (mut worker, address) = worker(());
    let (go, goes) = channel();
    let (send, sent) = channel();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(begun.as_bytes()).unwrap();
        goes.recv().unwrap();
        stream.write_all(rest.as_bytes()).unwrap();
        send.send(()).unwrap();
        read_all(stream)
    });
    let phase = if begun.is_empty() { Phase::Idle } else { Phase::Request };
    while !worker.connections().has_one_in(phase) {
        worker.serve();
    }
    worker.serve(); // its receive is in flight
    go.send(()).unwrap();
    sent.recv().unwrap(); // no task runs meanwhile
    meanwhile(&mut worker.connections());
    while !client.is_finished() {
        worker.serve();
    }
    client.join().unwrap()
}

#[test]
fn a_request_that_comes_as_its_connection_makes_room_is_answered() {
    let heard = responses_to_late_requests("", "GET /health HTTP/1.1\r\nHost: t\r\n\r\n", |all| {
        all.set_limits(ConnectionLimits { open: 0, refused: 1 });
        assert_eq!(all.evicted(), 1);
    });
    assert!(heard.ends_with("ok\n"), "{heard}");
}

/// The process may have been stopped, or its machine asleep.
#[test]
fn a_request_that_came_in_time_is_answered_by_a_worker_that_comes_late() {
    let (begun, rest) = ("GET /health HTTP/1.1\r\n", "Host: t\r\n\r\n");
    let late = |all: &mut Connections| assert!(!all.reap(Timestamp::from_secs(1_000)));
    let heard = responses_to_late_requests(begun, rest, late);
    assert!(heard.ends_with("ok\n"), "{heard}");
    let heard = responses_to_late_requests(begun, "Host", late);
    assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
}

/// It takes the input over and gives it back without a receive in flight, and without a buffer.
#[test]
fn a_request_that_waits_for_nothing_leaves_its_connection_open() {
    let (mut worker, address) =
        worker(from_async(async |request: &mut RequestContext<'_>, next: Next<'_>| next.run(request).await));
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let scrape = "GET /scrape?info_hash=aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: t\r\n";
        write!(stream, "{scrape}\r\n").unwrap();
        assert!(stream.read(&mut [0; 1_024]).unwrap() > 0);
        write!(stream, "{scrape}Connection: close\r\n\r\n").unwrap();
        read_all(stream)
    });
    while !client.is_finished() {
        worker.serve();
    }
    let heard = client.join().unwrap();
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
}

/// A middleware that never comes to an end.
async fn never(_: &mut RequestContext<'_>, _: Next<'_>) -> Result<(), TrackerError> {
    pending().await
}

#[test]
fn a_request_by_udp_that_waits_too_long_gets_no_response() {
    let (worker, _) = worker(from_async(never));
    let app = worker.app.clone();
    worker.runtime.handle().block_on(async {
        tokio::time::pause(); // from now on it passes when nothing else is to do
        let shared = &app.shared;
        let source = "127.0.0.1:1".parse().unwrap();
        let mut datagram = Vec::new();
        Request::Connect { transaction_id: 1 }.encode(&mut datagram);
        let waiting = {
            let (mesh, gate) = (&mut *shared.mesh.borrow_mut(), &mut *app.gate.borrow_mut());
            let (now, from) = (shared.clock.now(), Endpoint { source, local: None, socket: 0 });
            let mut out = [0; UDP_REPLY_MAX_BYTES];
            let reply = shared.engine.borrow_mut().datagram(now, &from, &datagram, &mut out, mesh, gate);
            assert_eq!(reply, None);
            gate.next_waiting().expect("a request to wait with")
        };
        let mut waiting = pin!(waiting::wait(app.clone(), waiting));
        let late = || shared.engine.borrow().counters.get(Counter::DropWaitLate);
        let most = Duration::from_millis(WAIT_DEADLINE_MS - 1_000);
        assert!(tokio::time::timeout(most, waiting.as_mut()).await.is_err(), "too soon");
        assert_eq!((late(), app.gate.borrow().waiting()), (0, 1));
        let rest = Duration::from_secs(2);
        assert!(tokio::time::timeout(rest, waiting.as_mut()).await.is_ok(), "too late");
        assert_eq!((late(), app.gate.borrow().answered().len()), (1, 0));
    });
}

#[test]
fn a_request_by_http_that_waits_too_long_gets_a_503_and_the_next_one_its_response() {
    let (mut worker, address) = worker(from_async(never));
    let app = worker.app.clone();
    let (go, goes) = channel();
    let (read, is_read) = channel();
    let client = thread::spawn(move || {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let hash = "info_hash=aaaaaaaaaaaaaaaaaaaa";
        let scrape = get(&format!("/scrape?{hash}")).replace("Connection: close\r\n", "");
        stream.write_all(scrape.as_bytes()).unwrap();
        goes.recv().unwrap();
        stream.write_all(get("/health").as_bytes()).unwrap();
        let mut witness = TcpStream::connect(address).unwrap();
        witness.write_all(get("/health").as_bytes()).unwrap();
        assert!(read_all(witness).ends_with("ok\n")); // so what was sent before is read, too
        read.send(()).unwrap();
        read_all(stream)
    });
    while app.gate.borrow().waiting() == 0 {
        worker.serve();
    }
    go.send(()).unwrap();
    while is_read.try_recv() == Err(TryRecvError::Empty) {
        worker.serve();
    }
    worker.runtime.handle().block_on(async {
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(WAIT_DEADLINE_MS)).await;
        tokio::time::resume();
    });
    while !client.is_finished() {
        worker.serve();
    }
    let heard = client.join().unwrap();
    assert!(heard.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{heard}");
    assert!(heard.ends_with("\r\n\r\nok\n"), "{heard}");
    assert_eq!(app.gate.borrow().waiting(), 0);
    assert_eq!(app.shared.engine.borrow().counters.get(Counter::DropWaitLate), 1);
}

/// Otherwise a handler would begin with the next request only, or a quarter of a second later.
#[test]
fn a_new_task_of_the_runtime_keeps_the_worker_awake() {
    let (mut worker, _) = worker(());
    while worker.step().unwrap() {
        worker.ring.enter(Receive::Later, None).unwrap();
    }
    worker.app.shared.spawn(async {});
    assert!(worker.step().unwrap());
}

/// While the program that serves has a task, the worker sleeps in the runtime, whose timers are exact.
#[test]
fn a_timer_of_a_task_fires_within_a_millisecond_or_so() {
    let (mut worker, _) = worker(());
    let clock = worker.app.shared.clock;
    let late = Rc::new(Cell::new(None));
    let fired = late.clone();
    worker.app.shared.spawn(async move {
        let mut best = Duration::MAX; // other threads of the machine may delay some
        for _ in 0..5 {
            let due = clock.now() + Duration::from_millis(5);
            tokio::time::sleep(Duration::from_millis(5)).await;
            best = best.min(clock.now().since(due));
        }
        // What a task spawns keeps the worker in the runtime, too.
        tokio_uring::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            fired.set(Some(best));
        });
    });
    while worker.runtime.take_spawned(&worker.app.shared.handover) {
        worker.serve_in_runtime().unwrap();
    }
    let late = late.get().expect("the worker left the runtime before the last task ended");
    // Without the runtime's own sleep it would be up to a quarter of a second. tokio counts in milliseconds.
    assert!(late < Duration::from_millis(3), "{late:?} late");
}

/// The sweep goes on at its pace without any request: turns report unfinished work until it has caught up.
#[test]
fn what_is_due_keeps_a_worker_awake() {
    let (mut driver, _) = worker(());
    let shared = driver.app.shared.clone();
    let peers = 40 * TURN_SWEEP as u32;
    let saved = |number: u32| {
        let mut info_hash = InfoHash([0; 20]);
        info_hash.0[..4].copy_from_slice(&number.to_be_bytes());
        let peer = PeerAddr::new([10, 0, 0, 1].into(), 1);
        Saved::Peer { info_hash, peer, seeder: false, age_secs: 0 }
    };
    shared.engine.borrow_mut().load(Timestamp::default(), (0..peers).map(saved).collect());
    let interval = Duration::from_millis(HOUSEKEEPING_INTERVAL_MS);
    let mut now = Timestamp::from_secs(10);
    driver.turn(now).unwrap(); // far behind: starts anew
    let mut turns = 1;
    for _ in 0..2 {
        now = now + interval;
        while driver.turn(now).unwrap().unfinished {
            turns += 1;
            assert!(turns < 1_000, "a worker that never sleeps");
        }
    }
    let slices_due = 2 * HOUSEKEEPING_INTERVAL_MS * SWEEP_SLICES_PER_SECOND / 1_000;
    assert!(turns >= 40.min(slices_due), "{turns} turns for {slices_due} slices");
    let expired = Timestamp::from_secs(100_000);
    let mut later = expired;
    while shared.engine.borrow().counters.get(Counter::ExpiredPeers) < u64::from(peers) {
        driver.turn(later).unwrap();
        later = later + Duration::from_millis(5);
        assert!(later < expired + Duration::from_secs(5), "the sweep stands still");
    }
}
