//! Owns the decision when a worker receives datagrams: at once, or after more have come together.

use std::time::Duration;

use crate::limits::FULL_TURN_DATAGRAMS;
use crate::time::Timestamp;

/// Decides for how long datagrams come together before a turn.
///
/// A wake-up costs a worker more than a datagram does, so a turn that serves several is cheaper for each. The worker
/// lets them come together only if that is likely to happen: if the last ones came within that time, too. A first
/// datagram after a silence is served at once, and full turns share the costs as it is.
///
/// ```
/// # use gyre_core as gyre;
/// use gyre::engine::Pace;
/// use gyre::time::Timestamp;
/// use std::time::Duration;
///
/// let mut pace = Pace::new(Duration::from_micros(200));
/// let start = Timestamp::from_secs(1);
/// pace.turn(start, 1);
/// assert_eq!(pace.gathers_for(start), Duration::ZERO, "the first after a silence");
/// pace.turn(start + Duration::from_micros(150), 1);
/// assert_eq!(pace.gathers_for(start + Duration::from_micros(160)), Duration::from_micros(190));
/// ```
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long datagrams come together, at most.
    time: Duration,
    /// End of the current time.
    until: Timestamp,
    /// When the last turn with datagrams began.
    last: Timestamp,
    is_full: bool,
}

impl Pace {
    /// Creates the pace of a worker that lets datagrams come together for `time`. Zero: it never does.
    pub fn new(time: Duration) -> Self {
        Self { time, until: Timestamp::default(), last: Timestamp::default(), is_full: false }
    }

    /// Notes that a turn began at `now` and took `datagrams` datagrams.
    #[inline]
    pub fn turn(&mut self, now: Timestamp, datagrams: usize) {
        self.is_full = datagrams >= FULL_TURN_DATAGRAMS;
        if datagrams == 0 {
            return;
        }
        // The last turn may have waited for as long as that itself, and the timer of the sleep was late by a little.
        let is_dense = datagrams > 1 || now.since(self.last) <= self.time + self.time / 2;
        self.last = now;
        self.until = if is_dense && !self.is_full { now + self.time } else { now };
    }

    /// Whether the last turn was full ([`FULL_TURN_DATAGRAMS`]): more datagrams are likely to wait already.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Returns for how long, from `now` on, datagrams come together before the next turn.
    pub fn gathers_for(&self, now: Timestamp) -> Duration {
        self.until.since(now)
    }
}
