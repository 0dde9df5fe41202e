//! Owns the question what a message between workers costs: a hop, a turn's worth of hops, a full queue, and the way to
//! another core and back, the other being awake or asleep.
//!
//! `cargo bench --bench mesh`; under `cargo test` each runs once. What takes two cores is left out where there is one.

mod cases;

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread;

use cases::mesh::{self, THERE, connect, message, number};
use cases::{Amount, Meter, timed};
use criterion::Criterion;
use gyre::engine::{Mailbox, Post};
use gyre::mesh::Mesh;
use gyre::sys::{self, Doorbell};
use rustix::event::{PollFd, PollFlags};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of the message that ends the other thread.
const END: u32 = 0;

fn main() {
    let mut criterion = timed::criterion();
    let cores = sys::allowed_cores().expect("the cores of this process");
    sys::pin(cores[0]).expect("a core");
    mesh::in_one_thread(&mut criterion);
    match cores[..] {
        [_, .., other] => between_threads(&mut criterion, other),
        _ => eprintln!("left out: the way to another core and back, since there is one core"),
    }
    criterion.final_summary();
}

/// The way to another thread on another core and back.
fn between_threads(criterion: &mut Criterion, core: usize) {
    for (name, sleeps) in [("mesh/a round trip", false), ("mesh/a round trip that wakes a sleeper", true)] {
        let (doorbells, [mut here, there]) = connect();
        thread::scope(|scope| {
            let [_, doorbell] = &doorbells;
            scope.spawn(move || {
                sys::pin(core).expect("a core");
                echo(there, sleeps.then_some(doorbell));
            });
            criterion.measure(name, Amount::One, 7, || {
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
