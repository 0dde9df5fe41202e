//! Owns a run: its phases, the schedule of an open loop, and what the threads of the generator and the one that
//! watches them share.
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

use crate::measure::{Live, Meter, Tally};
use crate::options::{Course, Mix, Rate};

/// A thread looks for work so long before it sleeps: to be woken would cost the server's core some microseconds, and
/// must not happen while there is a load worth the name.
const SPIN: Duration = Duration::from_micros(200);
/// It sleeps no longer than this, so as to see that the run ends.
const SLEEP_MAX: Duration = Duration::from_millis(5);
/// It sleeps only if the next request is due so much later; waking up may take as long.
const SLEEP_MIN: Duration = Duration::from_micros(300);
/// A table can't be filled if there is no reply for so long.
const FILL_PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are sent on schedule before replies are looked at again.
pub(crate) const BURST: usize = 64;

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    step: Duration,
    threads: usize,
    ready: AtomicUsize,
    failed: OnceLock<String>,
    begin: OnceLock<Timestamp>,
    pub(crate) live: Vec<Arc<Live>>,
}

impl Shared {
    pub(crate) fn new(course: &Course, threads: usize) -> Self {
        Self {
            clock: Clock::start(),
            warmup: course.warmup,
            duration: course.duration,
            step: Duration::from_millis(course.step.into()),
            threads,
            ready: AtomicUsize::new(0),
            failed: OnceLock::new(),
            begin: OnceLock::new(),
            live: (0..threads).map(|_| Arc::default()).collect(),
        }
    }

    /// A thread is ready; the last one says when the run begins.
    pub(crate) fn ready(&self) {
        if self.ready.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            let _ = self.begin.set(self.clock.now());
        }
    }

    /// A thread gives up, and says why: so must the others.
    pub(crate) fn fail(&self, why: &io::Error) {
        let _ = self.failed.set(why.to_string()); // the first one counts
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Fails if another thread has, or nothing has come for too long while the table was being filled.
    pub(crate) fn check_fill(&self, replied: Timestamp, now: Timestamp) -> io::Result<()> {
        match self.failure() {
            Some(_) => Err(io::Error::other("another thread gave up")),
            None if now.since(replied) > FILL_PATIENCE => {
                let secs = FILL_PATIENCE.as_secs();
                Err(io::Error::other(format!("no reply for {secs} s while the table was being filled")))
            }
            None => Ok(()),
        }
    }

    /// When the warm-up begins, once all are ready.
    pub(crate) fn begin(&self) -> Option<Timestamp> {
        self.begin.get().copied()
    }

    /// What is measured, if it is known: requests that are due from the first moment on and before the second.
    pub(crate) fn window(&self) -> Option<[Timestamp; 2]> {
        let from = self.begin()? + self.warmup;
        Some([from, from + self.duration])
    }
}

/// When the requests of an open loop are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    begin: Timestamp,
    micros_each: f64,
    /// They leave at multiples of this alone, if it isn't 0.
    step_micros: f64,
    /// Requests sent, and the thread's part of a step, so that threads don't send in step.
    sent: f64,
}

impl Schedule {
    /// The part of a thread of a rate.
    pub(crate) fn new(rate: Rate, begin: Timestamp, thread: usize, shared: &Shared) -> Option<Self> {
        let Rate::PerSecond(rate) = rate else { return None };
        let threads = shared.threads as f64;
        let step_micros = shared.step.as_micros() as f64;
        Some(Self { begin, micros_each: 1e6 * threads / rate, step_micros, sent: thread as f64 / threads })
    }

    /// When the next request is due.
    pub(crate) fn next(&self) -> Timestamp {
        let micros = self.sent * self.micros_each;
        let micros = if self.step_micros > 0.0 {
            (micros / self.step_micros).ceil() * self.step_micros
        } else {
            micros
        };
        self.begin + Duration::from_micros(micros as u64)
    }

    /// How many are due before `to` and not sent.
    fn unsent(&self, to: Timestamp) -> u64 {
        let left = to.since(self.begin).as_micros() as f64 / self.micros_each - self.sent;
        left.ceil().max(0.0) as u64
    }

    /// It is sent.
    pub(crate) fn step(&mut self) {
        self.sent += 1.0;
    }
}

/// The CPU time that a thread has used while it measured.
#[derive(Clone, Copy, Debug, Default)]
struct CpuWatch {
    from: Option<Duration>,
    used: Option<Duration>,
}

impl CpuWatch {
    /// Notes that it is `now`.
    fn look(&mut self, now: Timestamp, [from, to]: [Timestamp; 2]) {
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

/// What a loader does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It gets connections.
    Connect,
    /// It announces each peer once.
    Fill,
    /// It asks, by a schedule or as fast as replies come.
    Load,
    /// It takes the last replies.
    Drain,
}

/// What loads a tracker in one way.
pub(crate) trait Loader {
    /// Gets connections.
    fn connect(&mut self) -> io::Result<()>;

    /// Goes on to another phase.
    fn enter(&mut self, phase: Phase);

    /// Requests that are on their way, and first announces that are still to be made.
    fn pending(&self) -> usize;

    /// Takes replies, gives up what is lost, asks what is to be asked, and sleeps if there is nothing to do. Returns
    /// when it began.
    fn turn(&mut self, schedule: &mut Option<Schedule>) -> io::Result<Timestamp>;

    /// What has been measured.
    fn meter(&mut self) -> &mut Meter;

    /// The time that there was something to do.
    fn busy(&self) -> Duration;
}

/// Takes a thread's loader through the phases.
///
/// # Errors
///
/// The loader's, or that another thread gave up.
pub(crate) fn drive(mut loader: impl Loader, shared: &Shared, part: &Part) -> io::Result<Outcome> {
    let mut schedule = None;
    loader.connect()?;
    if part.fill {
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
            None if shared.failure().is_some() => return Err(io::Error::other("another thread gave up")),
            None => loader.turn(&mut schedule)?,
        };
    };
    let window = shared.window().expect("it has begun");
    loader.meter().window = Some(window);
    schedule = Schedule::new(part.rate, begin, part.thread, shared);
    loader.enter(Phase::Load);
    let mut cpu = CpuWatch::default();
    loop {
        let now = loader.turn(&mut schedule)?;
        cpu.look(now, window);
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
    Ok(Outcome { tally, busy, cpu: cpu.used() })
}

/// A thread's part of a run.
pub(crate) struct Part {
    pub(crate) target: SocketAddr,
    /// Where it sends from.
    pub(crate) sources: Vec<SocketAddr>,
    pub(crate) rate: Rate,
    pub(crate) mix: Mix,
    pub(crate) num_want: u16,
    pub(crate) fill: bool,
    pub(crate) timeout: Duration,
    pub(crate) thread: usize,
}

/// What a thread comes back with.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// The time that it has worked while it measured; the rest it has looked for something to do, or slept.
    pub(crate) busy: Duration,
    /// The CPU time that it has used for both.
    pub(crate) cpu: Duration,
}

/// How long there was something to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    last: Timestamp,
    /// The turn that began then had something to do.
    worked: bool,
    sum: Duration,
    idle_since: Option<Timestamp>,
}

impl Busy {
    /// A turn has begun at `now`, and has `worked` or not; it lasts until the next one begins.
    pub(crate) fn turn(&mut self, now: Timestamp, worked: bool, window: Option<[Timestamp; 2]>) {
        if self.worked && window.is_some_and(|[from, to]| self.last >= from && now < to) {
            self.sum += now.since(self.last);
        }
        self.idle_since = if worked { None } else { self.idle_since.or(Some(now)) };
        (self.last, self.worked) = (now, worked);
    }

    /// For how long there has been nothing to do.
    fn idle(&self) -> Duration {
        self.idle_since.map_or(Duration::ZERO, |since| self.last.since(since))
    }

    /// How long to sleep now, if at all.
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
    fn requests_are_due_evenly_and_threads_take_turns() {
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
        let (mut busy, window) = (Busy::default(), Some([at(100), at(200)]));
        busy.turn(at(90), true, window); // begun before the window
        busy.turn(at(110), true, window);
        busy.turn(at(130), false, window);
        busy.turn(at(160), false, window);
        assert_eq!((busy.sum().as_micros(), busy.idle().as_micros()), (20, 30));
        busy.turn(at(170), true, window); // after a sleep, which was no work
        busy.turn(at(180), false, window);
        assert_eq!((busy.sum().as_micros(), busy.idle().as_micros()), (30, 0));
    }
}
