//! Owns the timer (the processor's time stamp counter, its overhead, and quantiles of samples) and the measurement of
//! the machine's memory latency.

use std::hint::black_box;

use gyre_core::time::Clock;

/// Reads the counter, after all earlier instructions have finished and before later ones start.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, unused_unsafe)] // newer compilers know these as safe
#[inline(always)]
fn ticks() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: a fence, which all x86-64 processors have.
    unsafe { _mm_lfence() };
    // SAFETY: reads a counter, which all x86-64 processors have and Linux lets programs read.
    let ticks = unsafe { _rdtsc() };
    // SAFETY: as above.
    unsafe { _mm_lfence() };
    ticks
}

/// Reads the counter in nanoseconds.
#[cfg(not(target_arch = "x86_64"))]
#[allow(clippy::disallowed_methods)]
#[inline(always)]
fn ticks() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// The timer.
#[derive(Clone, Copy)]
pub(crate) struct Timer {
    ns_per_tick: f64,
    /// Ticks of an empty measurement.
    cost: u64,
}

impl Timer {
    /// Compares the counter with the clock for `millis` milliseconds.
    pub(crate) fn calibrate(millis: u64) -> Self {
        let clock = Clock::start();
        let (started, first) = (clock.now(), ticks());
        let (mut now, mut last) = (started, first);
        while now.since(started).as_millis() < u128::from(millis) {
            (now, last) = (clock.now(), ticks());
        }
        let ns_per_tick = now.since(started).as_nanos() as f64 / (last - first) as f64;
        let mut timer = Self { ns_per_tick, cost: 0 };
        let mut empty: Vec<u64> = (0..10_001).map(|_| timer.time(|| black_box(())).0).collect();
        empty.sort_unstable();
        timer.cost = empty[empty.len() / 2];
        timer
    }

    /// Returns the ticks that `body` takes, without the timer's own overhead.
    #[inline(always)]
    pub(crate) fn time<T>(&self, body: impl FnOnce() -> T) -> (u64, T) {
        let started = ticks();
        let result = body();
        ((ticks() - started).saturating_sub(self.cost), result)
    }

    pub(crate) fn ns(&self, ticks: u64) -> f64 {
        ticks as f64 * self.ns_per_tick
    }

    pub(crate) fn cost_ns(&self) -> f64 {
        self.ns(self.cost)
    }
}

/// Samples, in memory that is resident before the first one is added.
pub(crate) struct Samples {
    ticks: Vec<u32>,
}

impl Samples {
    pub(crate) fn new(room: usize) -> Self {
        let mut ticks = vec![1; room]; // not zeros, which would not be resident
        ticks.clear();
        Self { ticks }
    }

    /// Adds a sample, if there is room.
    #[inline]
    pub(crate) fn add(&mut self, ticks: u64) {
        if self.ticks.len() < self.ticks.capacity() {
            self.ticks.push(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
    }

    /// Returns quantiles in nanoseconds, or zeros if there are no samples.
    pub(crate) fn quantiles<const N: usize>(&mut self, parts: [f64; N], timer: &Timer) -> [f64; N] {
        self.ticks.sort_unstable();
        let last = self.ticks.len().saturating_sub(1);
        parts.map(|part| {
            let ticks = self.ticks.get((last as f64 * part).round() as usize);
            timer.ns(ticks.copied().unwrap_or_default().into())
        })
    }
}

/// Returns the nanoseconds that a read from `bytes` of memory takes: if its address depends on the previous read, and
/// if it does not.
pub(crate) fn memory_ns(bytes: usize, timer: &Timer) -> [f64; 2] {
    #[derive(Clone)]
    #[repr(align(64))]
    struct Line(u32);
    const READS: usize = 200_000;
    let mut rng = fastrand::Rng::with_seed(3);
    let mut lines: Vec<Line> = (0..(bytes / size_of::<Line>()) as u32).map(Line).collect();
    for last in (1..lines.len()).rev() {
        lines.swap(last, rng.usize(..last)); // never itself: one cycle of all lines
    }
    let (waiting, _) = timer.time(|| black_box((0..READS).fold(0, |line, _| lines[line].0 as usize)));
    let places: Vec<u32> = (0..READS).map(|_| rng.u32(..lines.len() as u32)).collect();
    let (independent, _) =
        timer.time(|| black_box(places.iter().fold(0, |sum, place| sum ^ lines[*place as usize].0)));
    [waiting, independent].map(|ticks| timer.ns(ticks) / READS as f64)
}
