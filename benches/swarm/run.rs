//! Owns a run: a table is filled, gets announces for a while in each of its modes, and is swept. The result is a list
//! of named figures.

use std::fs;
use std::hint::black_box;
use std::time::Duration;

use arrayvec::ArrayVec;
use gyre_core::limits::SWEEP_SLICES_PER_SECOND;
use gyre_core::time::Timestamp;
use gyre_core::types::Announce;

use crate::crowd::{Crowd, SwarmSizes};
use crate::table::{PEER_TIMEOUT_SECS, Reply, TURN, Table};
use crate::timer::{Samples, Timer};

/// Seconds in which the crowd arrives, as if all peers had announced once in an interval.
const FILL_SECS: u64 = 1_800;
/// Seconds in which the crowd then announces. No peer has expired at the end.
const ANNOUNCE_SECS: u64 = 1_200;
/// Announces between two slices of the sweep.
const ANNOUNCES_PER_SLICE: usize = 2 * TURN;
/// Part of the crowd that expires at the end.
const EXPIRING: f64 = 0.1;
/// Page size of the kernel, the unit of `statm`.
const PAGE_BYTES: f64 = 4096.0;

const _: () = assert!(FILL_SECS + ANNOUNCE_SECS < PEER_TIMEOUT_SECS as u64);

/// The extent of a run.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    /// Announces in each of the four parts of a round.
    pub(crate) announces: usize,
    pub(crate) calibration_ms: u64,
}

/// The results of a run.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// A part of a round: the mode of the announces, and what is timed.
#[derive(Clone, Copy)]
struct Part {
    by_turns: bool,
    /// Whether each announce is timed separately. Otherwise several are timed together, for the mean.
    single: bool,
}

const PARTS: [Part; 4] = [
    Part { by_turns: false, single: true },
    Part { by_turns: true, single: true },
    Part { by_turns: false, single: false },
    Part { by_turns: true, single: false },
];

/// The samples of one mode.
struct Mode {
    all: Samples,
    /// Samples of the announces that got as many peers as they wanted.
    full: Samples,
    /// Announces and ticks of the parts that are timed together.
    together: (u64, u64),
}

impl Mode {
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
    /// Singly, in turns. Without lookahead all samples are in the first.
    modes: [Mode; 2],
    /// Times of the lookahead, divided by the number of announces.
    aheads: Samples,
    slices: Samples,
    answered: u64,
    peers_given: u64,
    checksum: u64,
}

/// Does a complete run.
pub(crate) fn run<T: Table>(sizes: SwarmSizes, num_want: u16, extent: Extent) -> Figures {
    let Extent { rounds, announces, calibration_ms } = extent;
    let all = rounds * PARTS.len() * announces;
    let timer = Timer::calibrate(calibration_ms);
    let mut crowd = Crowd::new(sizes, all, num_want);
    let mut sequence = vec![crowd.arrive(0, 0); announces];
    let (peers, swarms) = (crowd.len(), crowd.swarms());
    let mut run = Run {
        table: T::new(),
        timer,
        reply: Reply::new(),
        modes: [2, 2].map(|parts| Mode::new(rounds * parts * announces)),
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
    let mut done = 0;
    for _ in 0..rounds {
        for part in PARTS {
            // The announces are evenly spaced in time.
            let time = |number: usize| {
                let micros = ANNOUNCE_SECS * 1_000_000 * number as u64 / all as u64;
                Timestamp::from_secs(FILL_SECS) + Duration::from_micros(micros)
            };
            for (place, announce) in sequence.iter_mut().enumerate() {
                *announce = crowd.next(time(done + place).as_secs());
            }
            run.announce_part(&sequence, part, |place| time(done + place));
            done += announces;
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

    /// Checks that the table holds the crowd.
    fn check(&self, crowd: &Crowd) {
        let seeders = crowd.seeders();
        assert_eq!(self.table.held(), [seeders, crowd.len() - seeders].map(|number| number as u64));
    }

    fn announce_part(&mut self, sequence: &[Announce], part: Part, time: impl Fn(usize) -> Timestamp) {
        for (number, some) in sequence.chunks(ANNOUNCES_PER_SLICE).enumerate() {
            let now = time(number * ANNOUNCES_PER_SLICE);
            // In the cache, like data that the kernel has just received.
            let some: ArrayVec<Announce, ANNOUNCES_PER_SLICE> = some.iter().copied().collect();
            match (part.single, T::LOOKS_AHEAD && part.by_turns) {
                (true, false) => some.iter().for_each(|announce| self.announce_singly(now, announce)),
                (true, true) => some.chunks(TURN).for_each(|turn| self.announce_turn(now, turn)),
                (false, by_turns) => self.announce_batch(now, &some, by_turns),
            }
            if T::SLICED {
                self.slices.add(self.timer.time(|| self.table.sweep(now)).0);
            }
        }
    }

    fn announce_singly(&mut self, now: Timestamp, announce: &Announce) {
        self.reply.clear();
        let (ticks, counts) = self.timer.time(|| self.table.announce(now, announce, &mut self.reply));
        black_box(counts);
        let full = self.read_reply(announce);
        self.modes[0].add(ticks, full);
    }

    /// Adds to each announce its share of the lookahead.
    fn announce_turn(&mut self, now: Timestamp, turn: &[Announce]) {
        let ahead = self.timer.time(|| self.table.look_ahead(turn)).0 / turn.len() as u64;
        self.aheads.add(ahead);
        for (at, announce) in turn.iter().enumerate() {
            self.reply.clear();
            let (ticks, counts) =
                self.timer.time(|| self.table.announce_prefetched(now, at, announce, &mut self.reply));
            black_box(counts);
            let full = self.read_reply(announce);
            self.modes[1].add(ticks + ahead, full);
        }
    }

    fn announce_batch(&mut self, now: Timestamp, some: &[Announce], by_turns: bool) {
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
        let (announces, sum) = &mut self.modes[usize::from(by_turns)].together;
        *announces += some.len() as u64;
        *sum += ticks;
    }

    /// Adds the reply to the checksum. Returns whether it has as many peers as wanted.
    fn read_reply(&mut self, announce: &Announce) -> bool {
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
        for (mode, names) in self.modes.iter_mut().zip(NAMES) {
            let [median, p99, p9999, max] = mode.all.quantiles([0.5, 0.99, 0.9999, 1.0], &self.timer);
            let [full] = mode.full.quantiles([0.5], &self.timer);
            let mean = self.timer.ns(mode.together.1) / mode.together.0.max(1) as f64;
            figures.extend(names.into_iter().zip([median, p99, p9999, max, full, mean]));
        }
        let [median] = self.aheads.quantiles([0.5], &self.timer);
        figures.push(("ahead_median", median));
        let [median, p9999, max] = self.slices.quantiles([0.5, 0.9999, 1.0], &self.timer);
        figures.extend([("slice_median", median), ("slice_p9999", p9999), ("slice_max", max)]);
        figures.push(("peers_given", self.peers_given as f64));
        figures.push(("peers_per_reply", self.peers_given as f64 / self.answered as f64));
        // As many bits as a float holds.
        figures.push(("checksum", ((self.checksum ^ (self.checksum >> 32)) & 0xffff_ffff) as f64));
    }

    /// Measures two laps of the sweep: one without expired peers, and one in which a part of the crowd has expired.
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
        let expiry = crowd.quantile_of_seen(EXPIRING) + PEER_TIMEOUT_SECS + PEER_TIMEOUT_SECS.div_ceil(100);
        let done = Timestamp::from_secs(FILL_SECS + ANNOUNCE_SECS);
        while !self.table.sweep(done).lap_ended {} // finish the current lap
        for (start, names) in [done, Timestamp::from_secs(expiry.into())].into_iter().zip(NAMES) {
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

/// Returns the resident memory of the process.
fn resident_bytes() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("the size of this process");
    let pages = statm.split_whitespace().nth(1).expect("the resident part");
    pages.parse::<f64>().expect("a number") * PAGE_BYTES
}
