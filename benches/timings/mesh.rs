//! Owns the timing of messages between workers: within one thread, and to a thread on another core and back. That
//! thread is either awake or asleep. The round trip is skipped on a machine with one core.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::thread;

use criterion::Criterion;
use gyre_core::engine::{Mailbox, Post};
use gyre_core::mesh::{Bell, Mesh};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::cases::mesh::{THERE, connect, in_one_thread, message, number};
use crate::cases::{Amount, Meter};

/// Number of the message that ends the other thread.
const END: u32 = 0;

/// An eventfd, like a worker's doorbell.
struct Doorbell(OwnedFd);

impl Doorbell {
    fn new() -> Self {
        Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("a descriptor"))
    }

    fn wait(&self) {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None).expect("a ring");
        rustix::io::read(&self.0, &mut [0; 8]).expect("a count of rings");
    }
}

impl Bell for Doorbell {
    fn ring(&self) {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).expect("room for a ring");
    }
}

pub(crate) fn between_workers(criterion: &mut Criterion) {
    in_one_thread(criterion);
    let allowed = sched_getaffinity(None).expect("the cores of this process");
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    match cores[..] {
        [first, .., other] => {
            pin(first);
            between_threads(criterion, other);
            sched_setaffinity(None, &allowed).expect("the previous cores");
        }
        _ => eprintln!("skipped: the round trip to another core, because there is only one core"),
    }
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("a core");
}

/// Measures the round trip to a thread on another core.
fn between_threads(criterion: &mut Criterion, core: usize) {
    for (name, sleeps) in [("mesh/a round trip", false), ("mesh/a round trip that wakes a sleeper", true)] {
        let doorbells = [(); 2].map(|()| Arc::new(Doorbell::new()));
        let [mut here, there] = connect(&doorbells);
        thread::scope(|scope| {
            let [_, doorbell] = &doorbells;
            scope.spawn(move || {
                pin(core);
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

/// Sends back all messages until [`END`]. With a doorbell it sleeps while there are no messages.
fn echo(mut mesh: Mesh, doorbell: Option<&Arc<Doorbell>>) {
    loop {
        match (mesh.take(), doorbell) {
            (Some((_, message)), _) if number(&message) == END => return,
            (Some((from, message)), _) => {
                mesh.post(from, message).expect("room");
                mesh.flush();
            }
            (None, Some(doorbell)) if mesh.fall_asleep() => {
                doorbell.wait();
                mesh.wake_up();
            }
            (None, _) => spin_loop(),
        }
    }
}
