//! Counts the instructions of an announce with callgrind, which are the same on every machine: `cargo bench --bench
//! instructions`, with valgrind installed.
//!
//! Each case is run twice under callgrind, with more announces the second time, and the difference counts: so filling
//! the table and starting the program cancel out. The table says what the counts were when it was last brought up to
//! date; more than [`TOLERANCE`] above that is a failure.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::process::{Command, ExitCode};

use fastrand::Rng;
use gyre::limits::LOOK_AHEAD;
use gyre::swarm::{Ahead, PeerSink, Shard};
use gyre::time::Timestamp;
use gyre::types::{Announce, Event, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, PeerId};

/// What is counted, how many instructions it took when this was written, with Rust 1.95.
const CASES: [(&str, f64); 7] = [
    ("refresh, swarm of 2", 626.0),
    ("refresh, swarm of 1,000", 1516.0),
    ("refresh ahead, swarm of 1,000", 1679.0),
    ("new, new swarm", 1177.0),
    ("new, swarm of 1,000", 2418.0),
    ("stop, swarm of 1,000", 1110.0),
    ("complete, swarm of 1,000", 1750.0),
];
/// So much more than expected is too much; compilers differ.
const TOLERANCE: f64 = 1.25;

const SWARMS: u32 = 40;
const PEERS: u32 = 1_000;
const WANTED: u16 = 30;
const TURN: usize = LOOK_AHEAD;
/// Announces of the longer run.
const MANY: usize = 12_000;

/// Writes packed peers into a reply, as the engine does.
struct Reply {
    bytes: [u8; 1_500],
    length: usize,
}

impl PeerSink for Reply {
    const BOTH_FAMILIES: bool = false;

    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], _: &[[u8; 20]]) {
        let packed = peers.as_flattened();
        self.bytes[self.length..self.length + packed.len()].copy_from_slice(packed);
        self.length += packed.len();
    }

    fn v6(&mut self, _: &[[u8; PEER_V6_BYTES]], _: &[[u8; 20]]) {}
}

fn announce(swarm: u32, peer: u32, event: Event) -> Announce {
    let mut info_hash = [0; 20];
    info_hash[..8].copy_from_slice(&(u64::from(swarm) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Announce {
        info_hash: InfoHash(info_hash),
        peer_id: PeerId::UNKNOWN,
        peer: PeerAddr::new((peer + 0x0a00_0000).to_be_bytes().into(), 6881),
        event,
        seeder: !peer.is_multiple_of(4) || event == Event::Completed,
        num_want: WANTED,
        wants_ids: false,
    }
}

/// The announces of a case, for a table with [`SWARMS`] swarms of [`PEERS`] peers (or of two).
fn announces(case: &str, count: usize) -> Vec<Announce> {
    let mut rng = Rng::with_seed(1);
    let mut any = |event| announce(rng.u32(..SWARMS), rng.u32(..PEERS), event);
    (0..count as u32)
        .map(|number| match case {
            "refresh, swarm of 2" => announce(1_000 + number % 500, number / 7 % 2, Event::None),
            "new, new swarm" => announce(10_000 + number, 1, Event::Started),
            "new, swarm of 1,000" => announce(number % SWARMS, PEERS + number, Event::Started),
            "stop, swarm of 1,000" => announce(number % SWARMS, number / SWARMS, Event::Stopped),
            "complete, swarm of 1,000" => {
                announce(number % SWARMS, number / SWARMS / 4 * 4, Event::Completed)
            }
            _ => any(Event::None),
        })
        .collect()
}

/// Fills a table and announces. This is what callgrind watches.
fn run(case: &str, count: usize) {
    let (mut shard, mut rng) = (Shard::new([7; 16], 3_825, usize::MAX), Rng::with_seed(2));
    let mut reply = Reply { bytes: [0; 1_500], length: 0 };
    let now = Timestamp::from_secs(1);
    let large = (0..SWARMS).flat_map(|swarm| (0..PEERS).map(move |peer| (swarm, peer)));
    let small = (0..500).flat_map(|swarm| (0..2).map(move |peer| (1_000 + swarm, peer)));
    for (swarm, peer) in large.chain(small) {
        let entering = Announce { num_want: 0, ..announce(swarm, peer, Event::Started) };
        shard.announce(now, &entering, &mut rng, &mut reply);
    }
    let announces = announces(case, count.max(MANY));
    let (mut peers, is_ahead) = (0, case.contains("ahead"));
    for turn in announces[..count].chunks(TURN) {
        let mut ahead = [Ahead::default(); TURN];
        if is_ahead {
            shard.look_ahead::<Reply>(&turn.iter(), &mut rng, &mut ahead);
        }
        for (announce, ahead) in turn.iter().zip(&ahead) {
            reply.length = 0;
            match is_ahead {
                true => shard.announce_ahead(now, announce, ahead, &mut reply),
                false => shard.announce(now, announce, &mut rng, &mut reply),
            };
            peers += reply.length / PEER_V4_BYTES;
        }
    }
    println!("{peers}");
}

/// Instructions of the whole program with so many announces, and the peers that it gave out.
fn count(case: &str, announces: usize) -> Result<(f64, f64), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = valgrind.args(["--run", case, &announces.to_string()]).output();
    let output = output.map_err(|error| format!("valgrind can't be run ({error}); is it installed?"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    let peers = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    collected.zip(peers).ok_or_else(|| format!("valgrind says no count: {said}"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, case, count] = &arguments[..]
        && option == "--run"
    {
        run(case, count.parse().expect("a number of announces"));
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        CASES.iter().for_each(|(case, _)| run(case, 100)); // `cargo test`: that it runs
        return ExitCode::SUCCESS;
    }
    let (few, many) = (2_000, MANY);
    let mut regressed = false;
    println!(
        "{:<32} {:>12} {:>9} {:>7} {:>6}",
        "instructions of an announce", "now", "expected", "ratio", "peers"
    );
    for (case, expected) in CASES {
        let counts = count(case, few).and_then(|few| Ok((few, count(case, many)?)));
        let ((less, fewer_peers), (more, more_peers)) = match counts {
            Ok(counts) => counts,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let each = (more - less) / (many - few) as f64;
        let peers = (more_peers - fewer_peers) / (many - few) as f64;
        println!("{case:<32} {each:>12.0} {expected:>9.0} {:>7.2} {peers:>6.1}", each / expected);
        regressed |= each > expected * TOLERANCE;
    }
    if regressed {
        eprintln!(
            "more than {TOLERANCE} times what is expected: a regression, or a reason to note the new counts"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
