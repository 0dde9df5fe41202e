//! Owns the question what a message between workers costs: a hop, a turn's worth of hops, a full queue, and the way to
//! another core and back, the other being awake or asleep.
//!
//! `cargo bench --bench mesh`; under `cargo test` each runs once. What takes two cores is left out where there is one.

#[path = "support/measure.rs"]
mod measure;

use std::hint::{black_box, spin_loop};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use criterion::{Criterion, Throughput};
use gyre::engine::{Endpoint, Message, Post, UdpAnnounce};
use gyre::limits::{MESH_QUEUE_MAX, TURN_DATAGRAMS};
use gyre::mesh::Mesh;
use gyre::sys::{self, Doorbell};
use gyre::types::{Announce, Event, InfoHash, PeerAddr, PeerId, WorkerId};
use rustix::event::{PollFd, PollFlags};

use crate::measure::measure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HERE: WorkerId = WorkerId(0);
const THERE: WorkerId = WorkerId(1);
/// The number of the message that ends the other thread.
const END: u32 = 0;

fn main() {
    let mut criterion = measure::criterion();
    let cores = sys::allowed_cores().expect("the cores of this process");
    sys::pin(cores[0]).expect("a core");
    in_one_thread(&mut criterion);
    match cores[..] {
        [_, .., other] => between_threads(&mut criterion, other),
        _ => eprintln!("left out: the way to another core and back, since there is one core"),
    }
    criterion.final_summary();
}

/// The largest message: what a datagram that came to the wrong worker becomes.
fn message(number: u32) -> Message {
    let source = SocketAddr::from(([203, 0, 113, 7], 6_881));
    let announce = Announce {
        info_hash: InfoHash([0x5a; 20]),
        peer_id: PeerId::UNKNOWN,
        peer: PeerAddr::new(source.ip(), source.port()),
        event: Event::None,
        seeder: false,
        num_want: 30,
        wants_ids: false,
    };
    let to = Endpoint { source, local: None, socket: 0 };
    Message::UdpAnnounce(UdpAnnounce { announce, transaction_id: number, to })
}

fn number(message: &Message) -> u32 {
    match message {
        Message::UdpAnnounce(UdpAnnounce { transaction_id, .. }) => *transaction_id,
        other => panic!("nobody sent {other:?}"),
    }
}

fn connect() -> ([Arc<Doorbell>; 2], [Mesh; 2]) {
    let doorbells = [(); 2].map(|()| Arc::new(Doorbell::new().expect("a doorbell")));
    let meshes = Mesh::connect(&doorbells).try_into();
    (doorbells, meshes.unwrap_or_else(|_| panic!("an end of the mesh for each doorbell")))
}

/// What both ends cost, without the way of a cache line from core to core.
fn in_one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mesh");
    let (_, [mut here, mut there]) = connect();
    group.throughput(Throughput::Elements(1));
    measure(&mut group, "a look at an empty inbox", true, || black_box(&mut there).take().is_none());
    measure(&mut group, "a hop", Some((HERE, 7)), || {
        here.post(THERE, message(black_box(7))).expect("room");
        here.flush();
        there.take().map(|(from, message)| (from, number(&message)))
    });
    assert!(there.take().is_none(), "one message for each that was posted");
    group.throughput(Throughput::Elements(TURN_DATAGRAMS as u64));
    let turn = TURN_DATAGRAMS as u32;
    measure(&mut group, "a turn of 128 hops", (1..=turn).sum(), || {
        for number in 1..=turn {
            here.post(THERE, message(black_box(number))).expect("room");
        }
        here.flush();
        std::iter::from_fn(|| there.take()).map(|(_, message)| number(&message)).sum::<u32>()
    });
    for _ in 0..MESH_QUEUE_MAX {
        here.post(THERE, message(1)).expect("room");
    }
    group.throughput(Throughput::Elements(1));
    measure(&mut group, "refused by a full queue", Some(7), || {
        here.post(THERE, message(black_box(7))).err().map(|message| number(&message))
    });
    group.finish();
}

/// The way to another thread on another core and back.
fn between_threads(criterion: &mut Criterion, core: usize) {
    let mut group = criterion.benchmark_group("mesh, two cores");
    group.throughput(Throughput::Elements(1));
    for (name, sleeps) in [("a round trip", false), ("a round trip that wakes a sleeper", true)] {
        let (doorbells, [mut here, there]) = connect();
        thread::scope(|scope| {
            let [_, doorbell] = &doorbells;
            scope.spawn(move || {
                sys::pin(core).expect("a core");
                echo(there, sleeps.then_some(doorbell));
            });
            measure(&mut group, name, 7, || {
                here.post(THERE, message(black_box(7))).expect("room");
                here.flush();
                loop {
                    match here.take() {
                        Some((_, message)) => break number(&message),
                        None => spin_loop(),
                    }
                }
            });
            here.post(THERE, message(END)).expect("room");
            here.flush();
        });
    }
    group.finish();
}

/// Sends back what comes, until the end; with a doorbell it sleeps whenever nothing has come.
fn echo(mut mesh: Mesh, doorbell: Option<&Arc<Doorbell>>) {
    loop {
        match (mesh.take(), doorbell) {
            (Some((_, message)), _) if number(&message) == END => return,
            (Some((from, message)), _) => {
                mesh.post(from, message).expect("room");
                mesh.flush();
            }
            (None, Some(doorbell)) if mesh.fall_asleep() => {
                rustix::event::poll(&mut [PollFd::new(doorbell, PollFlags::IN)], None).expect("a ring");
                rustix::io::read(doorbell, &mut [0; 8]).expect("a count of rings");
                mesh.wake_up();
            }
            (None, _) => spin_loop(),
        }
    }
}
