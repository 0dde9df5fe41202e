//! Owns the fuzzing of the swarm table: any sequence of announces, scrapes, sweeps, saves and restores does what the
//! oracle of the library's own tests does.

#![no_main]

use arbitrary::Arbitrary;
use fastrand::Rng;
use gyre_core::swarm::{Ahead, PeerSink, Position, Saved, Shard};
use gyre_core::time::Timestamp;
use gyre_core::types::{
    Announce, Event, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId, SwarmCounts,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/gyre-core/src/swarm/tests/oracle.rs"]
#[allow(dead_code)] // the library's tests use more of it
mod oracle;

use oracle::{Step, TIMEOUT, Trial};

#[derive(Arbitrary, Debug)]
enum Op {
    Announce {
        swarm: u8,
        number: u16,
        v6: bool,
        seeder: bool,
        num_want: u8,
        bits: u8,
    },
    /// Many at once, or a swarm never grows large.
    Crowd {
        swarm: u8,
        first: u16,
        peers: u8,
        v6: bool,
        bits: u8,
    },
    Scrape(u8),
    Sweep(u8),
    Pass(u8),
    Save(u8),
    Restore {
        beside: bool,
    },
}

const EVENTS: [Event; 4] = [Event::None, Event::Completed, Event::Started, Event::Stopped];

fuzz_target!(|input: (u64, Vec<Op>)| {
    let (seed, ops) = input;
    let mut trial = Trial::new(seed);
    for op in ops {
        match op {
            Op::Announce { swarm, number, v6, seeder, num_want, bits } => {
                let event = EVENTS[usize::from(bits >> 6)];
                let whom = (swarm, number, v6);
                trial.step(Step::announce(whom, event, seeder, u16::from(num_want), bits % 40));
            }
            Op::Crowd { swarm, first, peers, v6, bits } => {
                let event = EVENTS[usize::from(bits >> 6)];
                for number in 0..u16::from(peers) {
                    let (whom, seeder) = ((swarm, first.wrapping_add(number), v6), bits & 4 != 0);
                    trial.step(Step::announce(whom, event, seeder, number % 9, bits % 40));
                }
            }
            Op::Scrape(swarm) => trial.step(Step::Scrape(swarm)),
            Op::Sweep(budget) => trial.step(Step::Sweep(budget.into())),
            // Laps take less than the time that they have, or all that there was is over.
            Op::Pass(secs @ ..40) => trial.step(Step::Pass(secs.into())),
            Op::Pass(secs) => trial.step(Step::Pass(TIMEOUT + 1 + u32::from(secs) % 50)),
            Op::Save(at_once) => trial.step(Step::Save(at_once.into())),
            Op::Restore { beside } => trial.step(Step::Restore { beside }),
        }
    }
    trial.step(Step::Save(usize::MAX));
});
