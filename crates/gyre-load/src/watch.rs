//! Owns the watching of a run: its progress (a bar on a terminal, otherwise plain lines), its timeline, and the CPU
//! time, wake-ups and memory of the server's process.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::thread;
use std::time::Duration;

use gyre::time::Timestamp;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::measure::empty_histogram;
use crate::options::CommonOptions;
use crate::process::Usage;
use crate::report::TimelinePoint;
use crate::run::Shared;

/// Interval at which the threads' counts are read.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// The server's usage is read at the start of the measured time and within this time before its end. Each reading
/// delays the generator, which runs on the same core.
const LAST_READINGS: Duration = Duration::from_millis(200);
/// Maximum number of intervals in the timeline of a run.
const POINTS_MAX: u32 = 100;
/// The shortest interval of the timeline.
const POINT_MIN: Duration = Duration::from_millis(100);
/// Interval of the progress lines, without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The result of watching.
pub(crate) struct Watched {
    pub(crate) timeline: Vec<TimelinePoint>,
    /// Use of the server's process during the measured time.
    pub(crate) server: Option<ProcessUsage>,
}

/// CPU time, wake-ups and memory of a process between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessUsage {
    pub(crate) pid: u32,
    pub(crate) secs: f64,
    pub(crate) user_secs: f64,
    pub(crate) system_secs: f64,
    /// User and system time, read more exactly than each of them.
    pub(crate) cpu_secs: f64,
    /// Number of times that a thread was woken.
    pub(crate) wakes: u64,
    pub(crate) resident_bytes: u64,
}

/// Watches until the threads are done.
pub(crate) fn watch(shared: &Shared, common: &CommonOptions, done: impl Fn() -> bool) -> Watched {
    let mut display = Display::new(common.quiet);
    let (mut usage, mut timeline) = ([None; 2], Vec::new());
    let step = common.every.unwrap_or(common.duration / POINTS_MAX).max(POINT_MIN);
    let mut last: Option<(Timestamp, [u64; 4])> = None;
    while !done() {
        thread::sleep(READ_INTERVAL);
        let (now, counts) = (shared.clock.now(), counts(shared));
        display.show(now, shared, counts);
        let Some([from, to]) = shared.window().filter(|[from, _]| now >= *from) else { continue };
        let read = || Some((shared.clock.now(), Usage::of(common.pid?).ok()?));
        let is_near_end = now < to && to.since(now) <= LAST_READINGS;
        if usage[0].is_none() {
            usage[0] = read();
        } else if is_near_end || now < to && usage[1].is_none() {
            usage[1] = read().or(usage[1]);
        }
        let (since, before) = *last.get_or_insert((now, counts));
        if now.since(since) >= step && now <= to {
            let secs = now.since(since).as_secs_f64();
            let [requests, replies, lost, _] = [0, 1, 2, 3].map(|number| counts[number] - before[number]);
            let latency = latency(shared);
            let point = TimelinePoint {
                at_secs: now.since(from).as_secs_f64(),
                requests_per_sec: requests as f64 / secs,
                replies_per_sec: replies as f64 / secs,
                lost,
                p50_us: latency.value_at_quantile(0.5),
                p99_us: latency.value_at_quantile(0.99),
            };
            if common.every.is_some() {
                print_point(&point);
            }
            timeline.push(point);
            last = Some((now, counts));
        }
    }
    display.end();
    let server = match (common.pid, usage) {
        (Some(pid), [Some((begin, before)), Some((end, after))]) if end > begin => Some(ProcessUsage {
            pid,
            secs: end.since(begin).as_secs_f64(),
            user_secs: after.user_secs - before.user_secs,
            system_secs: after.system_secs - before.system_secs,
            cpu_secs: after.cpu_secs_since(&before),
            wakes: after.wakes_since(&before),
            resident_bytes: after.resident_bytes,
        }),
        _ => None,
    };
    Watched { timeline, server }
}

/// Returns the counts of all threads: requests, replies, lost, invalid.
fn counts(shared: &Shared) -> [u64; 4] {
    let mut sum = [0; 4];
    for live in &shared.live {
        sum.iter_mut().zip(live.read()).for_each(|(sum, number)| *sum += number);
    }
    sum
}

/// Returns the latencies of all threads since the last call.
fn latency(shared: &Shared) -> Histogram<u64> {
    let mut sum = empty_histogram();
    for live in &shared.live {
        let part = std::mem::replace(&mut *live.latency(), empty_histogram());
        sum.add(part).expect("histograms of one range");
    }
    sum
}

/// Prints a point of the timeline to standard output.
fn print_point(point: &TimelinePoint) {
    let TimelinePoint { at_secs, requests_per_sec, replies_per_sec, lost, p50_us, p99_us } = point;
    let line = format!("{at_secs:.0} {requests_per_sec:.0} {replies_per_sec:.0} {lost} {p50_us} {p99_us}\n");
    let _ = stdout().write_all(line.as_bytes()); // the reader may close the pipe
}

/// The display of the progress.
enum Display {
    None,
    Bar(ProgressBar),
    Lines { written: Timestamp },
}

impl Display {
    fn new(quiet: bool) -> Self {
        match (quiet, stderr().is_terminal()) {
            (true, _) => Self::None,
            (false, true) => {
                let style = ProgressStyle::with_template("{prefix:>9} {bar:40} {msg}").expect("a template");
                Self::Bar(ProgressBar::new(1_000).with_style(style))
            }
            (false, false) => Self::Lines { written: Timestamp::default() },
        }
    }

    fn show(&mut self, now: Timestamp, shared: &Shared, [requests, replies, lost, wrong]: [u64; 4]) {
        let (phase, part) = match (shared.begin(), shared.window()) {
            (Some(begin), Some([from, to])) => {
                let phase = if now < from { "warm-up" } else { "measured" };
                let part = now.since(begin).as_secs_f64() / to.since(begin).as_secs_f64();
                (phase, part.min(1.0))
            }
            _ => ("starting", 0.0),
        };
        let text = format!("{requests} requests, {replies} replies, {lost} lost, {wrong} invalid");
        match self {
            Self::None => {}
            Self::Bar(bar) => {
                bar.set_prefix(phase);
                bar.set_position((part * 1_000.0) as u64);
                bar.set_message(text);
            }
            Self::Lines { written } => {
                if now.since(*written) >= LINE_INTERVAL {
                    *written = now;
                    let _ = writeln!(stderr(), "gyre-load: {phase}, {:.0} %: {text}", part * 100.0);
                }
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
