//! Owns the watch over a run: how far it is (on a terminal as a bar, else in plain lines), how fast it was at each
//! moment, and what the server's process used meanwhile.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::thread;
use std::time::Duration;

use gyre::time::Timestamp;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::measure::no_latencies;
use crate::options::Course;
use crate::process::Usage;
use crate::report::Moment;
use crate::run::Shared;

/// How often the threads are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Moments of the timeline in a run, at most.
const MOMENTS: u32 = 100;
/// A moment is no shorter than this.
const MOMENT_MIN: Duration = Duration::from_millis(100);
/// Where there is no terminal: how often a line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What was seen.
pub(crate) struct Watched {
    pub(crate) timeline: Vec<Moment>,
    /// What the server's process used while it was measured.
    pub(crate) server: Option<Used>,
}

/// What a process used between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) pid: u32,
    pub(crate) secs: f64,
    pub(crate) user_secs: f64,
    pub(crate) system_secs: f64,
    pub(crate) resident_bytes: u64,
}

/// Watches until the threads are done.
pub(crate) fn watch(shared: &Shared, course: &Course, done: impl Fn() -> bool) -> Watched {
    let mut display = Display::new(course.quiet);
    let (mut usage, mut timeline) = ([None; 2], Vec::new());
    let step = course.every.unwrap_or(course.duration / MOMENTS).max(MOMENT_MIN);
    let mut last: Option<(Timestamp, [u64; 4])> = None;
    while !done() {
        thread::sleep(LOOK_INTERVAL);
        let (now, counts) = (shared.clock.now(), counts(shared));
        display.show(now, shared, counts);
        let Some([from, to]) = shared.window().filter(|[from, _]| now >= *from) else { continue };
        let look = || Some((shared.clock.now(), Usage::of(course.pid?).ok()?));
        usage[0] = usage[0].or_else(look);
        usage[1] = if now < to { look().or(usage[1]) } else { usage[1] };
        let (since, before) = *last.get_or_insert((now, counts));
        if now.since(since) >= step && now <= to {
            let secs = now.since(since).as_secs_f64();
            let [requests, replies, lost, _] = [0, 1, 2, 3].map(|number| counts[number] - before[number]);
            let latency = latency(shared);
            let moment = Moment {
                at_secs: now.since(from).as_secs_f64(),
                requests_per_sec: requests as f64 / secs,
                replies_per_sec: replies as f64 / secs,
                lost,
                p50_us: latency.value_at_quantile(0.5),
                p99_us: latency.value_at_quantile(0.99),
            };
            if course.every.is_some() {
                tell(&moment);
            }
            timeline.push(moment);
            last = Some((now, counts));
        }
    }
    display.end();
    let server = match (course.pid, usage) {
        (Some(pid), [Some((begin, before)), Some((end, after))]) if end > begin => Some(Used {
            pid,
            secs: end.since(begin).as_secs_f64(),
            user_secs: after.user_secs - before.user_secs,
            system_secs: after.system_secs - before.system_secs,
            resident_bytes: after.resident_bytes,
        }),
        _ => None,
    };
    Watched { timeline, server }
}

/// Requests, replies, lost, wrong, of all threads.
fn counts(shared: &Shared) -> [u64; 4] {
    let mut sum = [0; 4];
    for live in &shared.live {
        sum.iter_mut().zip(live.read()).for_each(|(sum, number)| *sum += number);
    }
    sum
}

/// The latencies of all threads since the last look.
fn latency(shared: &Shared) -> Histogram<u64> {
    let mut sum = no_latencies();
    for live in &shared.live {
        let part = std::mem::replace(&mut *live.latency(), no_latencies());
        sum.add(part).expect("histograms of one range");
    }
    sum
}

/// Prints a moment for whoever follows the run.
fn tell(moment: &Moment) {
    let Moment { at_secs, requests_per_sec, replies_per_sec, lost, p50_us, p99_us } = moment;
    let line = format!("{at_secs:.0} {requests_per_sec:.0} {replies_per_sec:.0} {lost} {p50_us} {p99_us}\n");
    let _ = stdout().write_all(line.as_bytes()); // who has heard enough may close the pipe
}

/// How far the run is, for a human.
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
            _ => ("getting up", 0.0),
        };
        let text = format!("{requests} requests, {replies} replies, {lost} lost, {wrong} wrong");
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
