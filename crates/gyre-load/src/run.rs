//! Owns a run: its phases, the schedule of an open loop, and the state that the load threads share with the watching
//! thread.
//!
//! ```text
//!  connect, fill ──► (all threads ready) ──► warm-up ──► measured ──► the last replies
//!                                         begin        from         to
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gyre::sys;
use gyre::time::{Clock, Timestamp};

use crate::measure::{LiveCounts, Meter, Tally};
use crate::options::{CommonOptions, Mix, Rate};

/// Time for which an idle thread spins before it sleeps. Waking it costs the server's core some microseconds, which
/// must not happen under a serious load.
const SPIN: Duration = Duration::from_micros(200);
/// Maximum sleep, so that a thread notices the end of the run.
const SLEEP_MAX: Duration = Duration::from_millis(5);
/// A thread sleeps only if the next request is due later than this. Waking up may take as long.
const SLEEP_MIN: Duration = Duration::from_micros(300);
/// Time without any reply after which the fill phase fails.
const FILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of scheduled requests that are sent before replies are taken again.
pub(crate) const BURST: usize = 64;

/// The state that the threads share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    step: Duration,
    threads: usize,
    ready: AtomicUsize,
    failed: OnceLock<String>,
    begin: OnceLock<Timestamp>,
    pub(crate) live: Vec<Arc<LiveCounts>>,
}

impl Shared {
    pub(crate) fn new(common: &CommonOptions, threads: usize) -> Self {
        Self {
            clock: Clock::start(),
            warmup: common.warmup,
            duration: common.duration,
            step: Duration::from_millis(common.step.into()),
            threads,
            ready: AtomicUsize::new(0),
            failed: OnceLock::new(),
            begin: OnceLock::new(),
            live: (0..threads).map(|_| Arc::default()).collect(),
        }
    }

    /// Marks a thread as ready. The last one starts the run.
    pub(crate) fn ready(&self) {
        if self.ready.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            let _ = self.begin.set(self.clock.now());
        }
    }

    /// Makes all threads fail because one has failed.
    pub(crate) fn fail(&self, error: &io::Error) {
        let _ = self.failed.set(error.to_string()); // keeps the first error
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Returns an error if another thread has failed, or no reply has arrived for [`FILL_TIMEOUT`].
    pub(crate) fn check_fill(&self, replied: Timestamp, now: Timestamp) -> io::Result<()> {
        match self.failure() {
            Some(_) => Err(io::Error::other("another thread failed")),
            None if now.since(replied) > FILL_TIMEOUT => {
                let secs = FILL_TIMEOUT.as_secs();
                Err(io::Error::other(format!("no reply for {secs} s during --fill")))
            }
            None => Ok(()),
        }
    }

    /// Returns the start of the warm-up, once all threads are ready.
    pub(crate) fn begin(&self) -> Option<Timestamp> {
        self.begin.get().copied()
    }

    /// Returns the measured time, once all threads are ready: requests due from the first timestamp on and before the
    /// second.
    pub(crate) fn window(&self) -> Option<[Timestamp; 2]> {
        let from = self.begin()? + self.warmup;
        Some([from, from + self.duration])
    }
}

/// The due times of the requests of an open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    begin: Timestamp,
    micros_each: f64,
    /// Requests are due at multiples of this, unless it is 0.
    step_micros: f64,
    /// Number of sent requests, plus a fraction for the thread, so that threads don't send at the same time.
    sent: f64,
}

impl Schedule {
    /// Returns the schedule of one thread, which sends its share of `rate`.
    pub(crate) fn new(rate: Rate, begin: Timestamp, thread: usize, shared: &Shared) -> Option<Self> {
        let Rate::PerSecond(rate) = rate else { return None };
        let threads = shared.threads as f64;
        let step_micros = shared.step.as_micros() as f64;
        Some(Self { begin, micros_each: 1e6 * threads / rate, step_micros, sent: thread as f64 / threads })
    }

    /// Returns when the next request is due.
    pub(crate) fn next(&self) -> Timestamp {
        let micros = self.sent * self.micros_each;
        let micros = if self.step_micros > 0.0 {
            (micros / self.step_micros).ceil() * self.step_micros
        } else {
            micros
        };
        self.begin + Duration::from_micros(micros as u64)
    }

    /// Returns the number of unsent requests that are due before `to`.
    fn unsent(&self, to: Timestamp) -> u64 {
        let left = to.since(self.begin).as_micros() as f64 / self.micros_each - self.sent;
        left.ceil().max(0.0) as u64
    }

    /// Advances to the next request.
    pub(crate) fn step(&mut self) {
        self.sent += 1.0;
    }
}

/// The CPU time that a thread uses during the measured time.
#[derive(Clone, Copy, Debug, Default)]
struct CpuWatch {
    from: Option<Duration>,
    used: Option<Duration>,
}

impl CpuWatch {
    /// Reads the CPU time at the first calls after the start and the end of the window.
    fn update(&mut self, now: Timestamp, [from, to]: [Timestamp; 2]) {
        if now >= from && self.from.is_none() {
            self.from = Some(sys::thread_cpu_time());
        }
        if now >= to && self.used.is_none() {
            self.used = self.from.map(|from| sys::thread_cpu_time() - from);
        }
    }

    fn used(&self) -> Duration {
        self.used.unwrap_or_default()
    }
}

/// A phase of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Establishes connections.
    Connect,
    /// Announces each peer once.
    Fill,
    /// Sends requests, on schedule or as fast as replies arrive.
    Load,
    /// Waits for the last replies.
    Drain,
}

/// A kind of load.
pub(crate) trait Loader {
    /// Establishes connections.
    fn connect(&mut self) -> io::Result<()>;

    /// Enters another phase.
    fn enter(&mut self, phase: Phase);

    /// Returns the number of requests in flight, plus in the fill phase the peers that are not announced yet.
    fn pending(&self) -> usize;

    /// Takes replies, drops timed-out requests, sends due ones, and sleeps if there is nothing to do. Returns when it
    /// started.
    fn turn(&mut self, schedule: &mut Option<Schedule>) -> io::Result<Timestamp>;

    /// Returns the measurements.
    fn meter(&mut self) -> &mut Meter;

    /// Returns the time spent with work during the measured time.
    fn busy(&self) -> Duration;
}

/// Takes a thread's loader through all phases.
///
/// # Errors
///
/// An error of the loader, or the failure of another thread.
pub(crate) fn drive(
    mut loader: impl Loader,
    shared: &Shared,
    config: &ThreadConfig,
) -> io::Result<ThreadResult> {
    let mut schedule = None;
    loader.connect()?;
    if config.fill {
        loader.enter(Phase::Fill);
        let (mut replies, mut replied) = (0, shared.clock.now());
        while loader.pending() > 0 {
            let now = loader.turn(&mut schedule)?;
            if loader.meter().replies() > replies {
                (replies, replied) = (loader.meter().replies(), now);
            }
            shared.check_fill(replied, now)?;
        }
    }
    shared.ready();
    let begin = loop {
        match shared.begin() {
            Some(begin) => break begin,
            None if shared.failure().is_some() => return Err(io::Error::other("another thread failed")),
            None => loader.turn(&mut schedule)?,
        };
    };
    let window = shared.window().expect("it has begun");
    loader.meter().window = Some(window);
    schedule = Schedule::new(config.rate, begin, config.thread, shared);
    loader.enter(Phase::Load);
    let mut cpu = CpuWatch::default();
    loop {
        let now = loader.turn(&mut schedule)?;
        cpu.update(now, window);
        if now >= window[1] {
            break;
        }
    }
    loader.meter().tally.unsent = schedule.take().map_or(0, |schedule| schedule.unsent(window[1]));
    loader.enter(Phase::Drain);
    while loader.pending() > 0 {
        loader.turn(&mut schedule)?;
    }
    let (tally, busy) = (std::mem::take(&mut loader.meter().tally), loader.busy());
    Ok(ThreadResult { tally, busy, cpu: cpu.used() })
}

/// The parameters of one thread.
pub(crate) struct ThreadConfig {
    pub(crate) target: SocketAddr,
    /// Addresses to send from.
    pub(crate) sources: Vec<SocketAddr>,
    pub(crate) rate: Rate,
    pub(crate) mix: Mix,
    pub(crate) num_want: u16,
    pub(crate) fill: bool,
    pub(crate) timeout: Duration,
    pub(crate) thread: usize,
}

/// The figures of one thread.
pub(crate) struct ThreadResult {
    pub(crate) tally: Tally,
    /// Time spent with work during the measured time. The rest was spent spinning or asleep.
    pub(crate) busy: Duration,
    /// CPU time during the measured time, for work and spinning.
    pub(crate) cpu: Duration,
}

/// Measures how long a thread has work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BusyTime {
    last: Timestamp,
    /// Whether the turn that began at `last` had work.
    worked: bool,
    sum: Duration,
    idle_since: Option<Timestamp>,
}

impl BusyTime {
    /// Records a turn that began at `now` and lasts until the next one begins.
    pub(crate) fn turn(&mut self, now: Timestamp, worked: bool, window: Option<[Timestamp; 2]>) {
        if self.worked && window.is_some_and(|[from, to]| self.last >= from && now < to) {
            self.sum += now.since(self.last);
        }
        self.idle_since = if worked { None } else { self.idle_since.or(Some(now)) };
        (self.last, self.worked) = (now, worked);
    }

    /// Returns for how long there has been no work.
    fn idle(&self) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |since| self.last.since(since))
    }

    /// Returns how long to sleep now, or `None`.
    pub(crate) fn sleep(&self, now: Timestamp, schedule: Option<&Schedule>) -> Option<Duration> {
        let free = schedule.map_or(SLEEP_MAX, |schedule| schedule.next().since(now)).min(SLEEP_MAX);
        (self.idle() > SPIN && free >= SLEEP_MIN).then(|| free - SLEEP_MIN / 2)
    }

    pub(crate) fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_intervals_and_threads_alternate() {
        let begin = Timestamp::from_secs(5);
        let schedule = |thread: usize, step_micros| Schedule {
            begin,
            micros_each: 2_000.0,
            step_micros,
            sent: thread as f64 / 2.0,
        };
        let mut schedules = [0, 1].map(|thread| schedule(thread, 0.0));
        let mut due: Vec<u64> = Vec::new();
        for _ in 0..3 {
            for schedule in &mut schedules {
                due.push(schedule.next().since(begin).as_micros() as u64);
                schedule.step();
            }
        }
        assert_eq!(due, [0, 1_000, 2_000, 3_000, 4_000, 5_000]);
        let unsent =
            |micros| schedules.map(|schedule| schedule.unsent(begin + Duration::from_micros(micros)));
        assert_eq!([unsent(5_000), unsent(6_001), unsent(9_000)], [[0, 0], [1, 0], [2, 1]]);
        let mut steps = schedule(1, 5_000.0);
        let due = [(); 4].map(|()| {
            let due = steps.next().since(begin).as_millis();
            steps.step();
            due
        });
        assert_eq!(due, [5, 5, 5, 10], "of 1, 3, 5, 7 ms");
    }

    #[test]
    fn only_work_within_the_window_counts() {
        let at = Timestamp::from_micros;
        let (mut busy, window) = (BusyTime::default(), Some([at(100), at(200)]));
        busy.turn(at(90), true, window); // begun before the window
        busy.turn(at(110), true, window);
        busy.turn(at(130), false, window);
        busy.turn(at(160), false, window);
        assert_eq!((busy.sum().as_micros(), busy.idle().as_micros()), (20, 30));
        busy.turn(at(170), true, window); // after a sleep, which does not count
        busy.turn(at(180), false, window);
        assert_eq!((busy.sum().as_micros(), busy.idle().as_micros()), (30, 0));
    }
}
