//! Owns one run: a table is filled, asked for a while in each way that it knows, and swept. What it came to is a list
//! of named figures.

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use arrayvec::ArrayVec;
use gyre_core::limits::SWEEP_SLICES_PER_SECOND;
use gyre_core::time::Timestamp;
use gyre_core::types::Announce;

use crate::crowd::{Crowd, Crowding};
use crate::table::{PEER_TIMEOUT_SECS, Reply, TURN, Table};
use crate::timer::{Samples, Timer};

/// The crowd comes within so many seconds, as if all had announced once in an interval, ...
const FILL_SECS: u64 = 1_800;
/// ... and then announces for so long: nobody's time is over yet at the end of it.
const ASK_SECS: u64 = 1_200;
/// There is a slice of the sweep after so many announces.
const ANNOUNCES_PER_SLICE: usize = 2 * TURN;
/// At the end so much of the crowd expires.
const EXPIRING: f64 = 0.1;
/// Page size of the kernel: `statm` counts in it.
const PAGE_BYTES: f64 = 4096.0;

const _: () = assert!(FILL_SECS + ASK_SECS < PEER_TIMEOUT_SECS as u64);

/// How much is done.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    /// Announces in each of the four parts of a round.
    pub(crate) announces: usize,
    pub(crate) calibration_ms: u64,
}

/// What a run came to.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// A part of a round: how the table is asked and what is timed.
#[derive(Clone, Copy)]
struct Part {
    by_turns: bool,
    /// Each announce is timed for itself; or a few of them together, for the mean.
    single: bool,
}

const PARTS: [Part; 4] = [
    Part { by_turns: false, single: true },
    Part { by_turns: true, single: true },
    Part { by_turns: false, single: false },
    Part { by_turns: true, single: false },
];

/// What one way of asking came to.
struct Way {
    all: Samples,
    /// Of those that got as many peers as they wanted.
    full: Samples,
    /// Announces and ticks of those parts that are there for the mean.
    together: (u64, u64),
}

impl Way {
    fn new(room: usize) -> Self {
        Self { all: Samples::new(room), full: Samples::new(room), together: (0, 0) }
    }

    fn add(&mut self, ticks: u64, full: bool) {
        self.all.add(ticks);
        if full {
            self.full.add(ticks);
        }
    }
}

/// A table in use.
struct Run<T> {
    table: T,
    timer: Timer,
    reply: Reply,
    /// One at a time, by turns. A table that doesn't look ahead has all in the first.
    ways: [Way; 2],
    /// Looks ahead, by the announces that each is for.
    aheads: Samples,
    slices: Samples,
    answered: u64,
    peers_given: u64,
    checksum: u64,
}

/// Does it all.
pub(crate) fn run<T: Table>(crowding: Crowding, num_want: u16, extent: Extent) -> Figures {
    let Extent { rounds, announces, calibration_ms } = extent;
    let all = rounds * PARTS.len() * announces;
    let timer = Timer::calibrate(calibration_ms);
    let mut crowd = Crowd::new(crowding, all, num_want);
    let mut sequence = vec![crowd.arrive(0, 0); announces];
    let (peers, swarms) = (crowd.len(), crowd.swarms());
    let mut run = Run {
        table: T::new(),
        timer,
        reply: Reply::new(),
        ways: [2, 2].map(|parts| Way::new(rounds * parts * announces)),
        aheads: Samples::new(rounds * announces.div_ceil(TURN) * 2),
        slices: Samples::new(all / ANNOUNCES_PER_SLICE + 1),
        answered: 0,
        peers_given: 0,
        checksum: 0,
    };

    let resident_before = resident_bytes();
    run.fill(&mut crowd);
    run.check(&crowd);
    let resident = resident_bytes() - resident_before;
    let memory = run.table.memory();
    let mut asked = 0;
    for _ in 0..rounds {
        for part in PARTS {
            // Announces follow each other evenly.
            let time = |number: usize| {
                let micros = ASK_SECS * 1_000_000 * number as u64 / all as u64;
                Timestamp::from_secs(FILL_SECS) + Duration::from_micros(micros)
            };
            for (place, announce) in sequence.iter_mut().enumerate() {
                *announce = crowd.next(time(asked + place).as_secs());
            }
            run.ask(&sequence, part, |place| time(asked + place));
            asked += announces;
        }
    }
    run.check(&crowd);
    let peers_after = crowd.len();
    let resident_after = resident_bytes() - resident_before;

    let mut figures = vec![
        ("peers", peers as f64),
        ("swarms", f64::from(swarms)),
        ("timer_ns", timer.cost_ns()),
        ("bytes", resident / peers as f64),
        ("bytes_after", resident_after / peers_after as f64),
        ("bytes_allocated", memory[0] as f64 / peers as f64),
        ("bytes_used", memory[1] as f64 / peers as f64),
    ];
    run.figures(&mut figures);
    run.laps(&crowd, &mut figures);
    figures
}

impl<T: Table> Run<T> {
    fn fill(&mut self, crowd: &mut Crowd) {
        let peers = crowd.len();
        for at in 0..peers {
            let now = Timestamp::from_micros(FILL_SECS * 1_000_000 * at as u64 / peers as u64);
            self.reply.clear();
            self.table.announce(now, &crowd.arrive(at, now.as_secs()), &mut self.reply);
            if T::SLICED && at.is_multiple_of(ANNOUNCES_PER_SLICE) {
                self.table.sweep(now);
            }
        }
    }

    /// The table holds the crowd.
    fn check(&self, crowd: &Crowd) {
        let seeders = crowd.seeders();
        assert_eq!(self.table.held(), [seeders, crowd.len() - seeders].map(|number| number as u64));
    }

    fn ask(&mut self, sequence: &[Announce], part: Part, time: impl Fn(usize) -> Timestamp) {
        for (number, some) in sequence.chunks(ANNOUNCES_PER_SLICE).enumerate() {
            let now = time(number * ANNOUNCES_PER_SLICE);
            // Near, as what the kernel has just received.
            let some: ArrayVec<Announce, ANNOUNCES_PER_SLICE> = some.iter().copied().collect();
            match (part.single, T::LOOKS_AHEAD && part.by_turns) {
                (true, false) => some.iter().for_each(|announce| self.ask_one(now, announce)),
                (true, true) => some.chunks(TURN).for_each(|turn| self.ask_turn(now, turn)),
                (false, by_turns) => self.ask_together(now, &some, by_turns),
            }
            if T::SLICED {
                self.slices.add(self.timer.time(|| self.table.sweep(now)).0);
            }
        }
    }

    fn ask_one(&mut self, now: Timestamp, announce: &Announce) {
        self.reply.clear();
        let (ticks, counts) = self.timer.time(|| self.table.announce(now, announce, &mut self.reply));
        black_box(counts);
        let full = self.look_at_reply(announce);
        self.ways[0].add(ticks, full);
    }

    /// Each announce bears its share of the look ahead.
    fn ask_turn(&mut self, now: Timestamp, turn: &[Announce]) {
        let ahead = self.timer.time(|| self.table.look_ahead(turn)).0 / turn.len() as u64;
        self.aheads.add(ahead);
        for (at, announce) in turn.iter().enumerate() {
            self.reply.clear();
            let (ticks, counts) =
                self.timer.time(|| self.table.announce_prefetched(now, at, announce, &mut self.reply));
            black_box(counts);
            let full = self.look_at_reply(announce);
            self.ways[1].add(ticks + ahead, full);
        }
    }

    fn ask_together(&mut self, now: Timestamp, some: &[Announce], by_turns: bool) {
        let (ticks, given) = self.timer.time(|| {
            let mut given = 0;
            for turn in some.chunks(TURN) {
                if by_turns {
                    self.table.look_ahead(turn);
                }
                for (at, announce) in turn.iter().enumerate() {
                    self.reply.clear();
                    black_box(match by_turns {
                        true => self.table.announce_prefetched(now, at, announce, &mut self.reply),
                        false => self.table.announce(now, announce, &mut self.reply),
                    });
                    given += black_box(&self.reply).peers().len() as u64 / 6;
                }
            }
            given
        });
        self.answered += some.len() as u64;
        self.peers_given += given;
        let (announces, sum) = &mut self.ways[usize::from(by_turns)].together;
        *announces += some.len() as u64;
        *sum += ticks;
    }

    /// Whether the reply has as many peers as were wanted.
    fn look_at_reply(&mut self, announce: &Announce) -> bool {
        let peers = self.reply.peers().as_chunks::<6>().0;
        for [a, b, c, d, e, f] in peers {
            self.checksum = self.checksum.rotate_left(5) ^ u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]);
        }
        self.answered += 1;
        self.peers_given += peers.len() as u64;
        peers.len() == usize::from(announce.num_want)
    }

    fn figures(&mut self, figures: &mut Figures) {
        const NAMES: [[&str; 6]; 2] = [
            ["one_median", "one_p99", "one_p9999", "one_max", "one_full_median", "one_mean"],
            ["turn_median", "turn_p99", "turn_p9999", "turn_max", "turn_full_median", "turn_mean"],
        ];
        for (way, names) in self.ways.iter_mut().zip(NAMES) {
            let [median, p99, p9999, max] = way.all.quantiles([0.5, 0.99, 0.9999, 1.0], &self.timer);
            let [full] = way.full.quantiles([0.5], &self.timer);
            let mean = self.timer.ns(way.together.1) / way.together.0.max(1) as f64;
            figures.extend(names.into_iter().zip([median, p99, p9999, max, full, mean]));
        }
        let [median] = self.aheads.quantiles([0.5], &self.timer);
        figures.push(("ahead_median", median));
        let [median, p9999, max] = self.slices.quantiles([0.5, 0.9999, 1.0], &self.timer);
        figures.extend([("slice_median", median), ("slice_p9999", p9999), ("slice_max", max)]);
        figures.push(("peers_given", self.peers_given as f64));
        figures.push(("peers_per_reply", self.peers_given as f64 / self.answered as f64));
        // What a float holds of it.
        figures.push(("checksum", ((self.checksum ^ (self.checksum >> 32)) & 0xffff_ffff) as f64));
    }

    /// Two laps of the sweep: one that finds nothing to do, and one that finds a part of the crowd expired.
    fn laps(&mut self, crowd: &Crowd, figures: &mut Figures) {
        const NAMES: [[&str; 6]; 2] = [
            ["lap_slices", "lap_cpu_ns", "lap_median", "lap_p9999", "lap_max", "lap_expired"],
            [
                "old_lap_slices",
                "old_lap_cpu_ns",
                "old_lap_median",
                "old_lap_p9999",
                "old_lap_max",
                "old_lap_expired",
            ],
        ];
        let over = crowd.quantile_of_seen(EXPIRING) + PEER_TIMEOUT_SECS + PEER_TIMEOUT_SECS.div_ceil(100);
        let asked = Timestamp::from_secs(FILL_SECS + ASK_SECS);
        while !self.table.sweep(asked).lap_ended {} // the rest of one
        for (start, names) in [asked, Timestamp::from_secs(over.into())].into_iter().zip(NAMES) {
            let (mut now, mut sum, mut expired, mut samples) = (start, 0, 0, Vec::new());
            loop {
                let (ticks, slice) = self.timer.time(|| self.table.sweep(now));
                sum += ticks;
                expired += slice.expired;
                samples.push(ticks);
                now = now + Duration::from_micros(1_000_000 / SWEEP_SLICES_PER_SECOND);
                if slice.lap_ended {
                    break;
                }
            }
            let mut all = Samples::new(samples.len());
            samples.iter().for_each(|ticks| all.add(*ticks));
            let [median, p9999, max] = all.quantiles([0.5, 0.9999, 1.0], &self.timer);
            let slices = samples.len() as f64;
            let all = [slices, self.timer.ns(sum), median, p9999, max, expired as f64];
            figures.extend(names.into_iter().zip(all));
        }
    }
}

/// The process's resident memory.
fn resident_bytes() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("the size of this process");
    let pages = statm.split_whitespace().nth(1).expect("the resident part");
    pages.parse::<f64>().expect("a number") * PAGE_BYTES
}
