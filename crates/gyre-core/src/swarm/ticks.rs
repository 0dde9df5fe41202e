//! Owns the shard's coarse time: a peer's last announce is remembered in one byte.

use crate::limits::{TICK_MIN_MS, TICKS_PER_TIMEOUT};
use crate::time::Timestamp;

/// When a peer was last heard of: the number of the tick, of which the low byte is enough.
///
/// A peer is over when its age exceeds [`TICKS_PER_TIMEOUT`] at most; the sweep finds it within the 155 ticks that
/// are left until its mark would look fresh again (a lap takes seconds, and these are 155 hundredths of the timeout, or
/// 155 seconds at least). Should the clock itself leap further, then all peers are over, and [`Ticks::pass`] says so.
pub(super) type Mark = u8;

/// The shard's clock.
pub(super) struct Ticks {
    tick_micros: u64,
    life: u8,
    now: u64,
    next_micros: u64,
}

impl Ticks {
    /// For peers that live so many seconds after an announce.
    pub(super) fn new(timeout_secs: u32) -> Self {
        let timeout_micros = u64::from(timeout_secs) * 1_000_000;
        let tick_micros = timeout_micros.div_ceil(u64::from(TICKS_PER_TIMEOUT)).max(TICK_MIN_MS * 1_000);
        let life = timeout_micros.div_ceil(tick_micros) as u8;
        Self { tick_micros, life, now: 0, next_micros: tick_micros }
    }

    /// Brings the clock up to date. True if a whole life has gone by since the last time: then no peer is left that has
    /// not outlived its time, however young its mark may look.
    #[inline]
    pub(super) fn pass(&mut self, now: Timestamp) -> bool {
        now.as_micros() >= self.next_micros && self.step(now)
    }

    #[cold]
    fn step(&mut self, now: Timestamp) -> bool {
        let before = self.now;
        self.now = now.as_micros() / self.tick_micros;
        self.next_micros = (self.now + 1) * self.tick_micros;
        self.now - before > u64::from(self.life)
    }

    /// The mark of a peer that announces now.
    #[inline]
    pub(super) fn mark(&self) -> Mark {
        self.now as u8
    }

    /// The mark of a peer that announced so many seconds ago; `None` if its time is over.
    pub(super) fn mark_of_age(&self, age_secs: u32) -> Option<Mark> {
        let age = u64::from(age_secs) * 1_000_000 / self.tick_micros;
        (age <= u64::from(self.life)).then(|| self.mark().wrapping_sub(age as u8))
    }

    /// Seconds since the tick of the mark began, rounded down.
    pub(super) fn age_secs(&self, mark: Mark) -> u32 {
        (u64::from(self.age(mark)) * self.tick_micros / 1_000_000) as u32
    }

    /// The age of a mark in ticks.
    #[inline]
    pub(super) fn age(&self, mark: Mark) -> u8 {
        self.mark().wrapping_sub(mark)
    }

    /// The age up to which a peer lives.
    #[inline]
    pub(super) fn life(&self) -> u8 {
        self.life
    }

    /// Whether the time of a peer with this mark is over.
    #[inline]
    pub(super) fn is_over(&self, mark: Mark) -> bool {
        self.age(mark) > self.life
    }

    /// The older one.
    pub(super) fn older(&self, one: Mark, other: Mark) -> Mark {
        if self.age(one) >= self.age(other) { one } else { other }
    }
}

/// How many peers have each mark: tells how old those are that would have to go to make room.
pub(super) struct Census {
    peers: [u32; 256],
}

impl Census {
    pub(super) fn new() -> Self {
        Self { peers: [0; 256] }
    }

    #[inline]
    pub(super) fn enter(&mut self, mark: Mark) {
        self.peers[usize::from(mark)] += 1;
    }

    #[inline]
    pub(super) fn leave(&mut self, mark: Mark) {
        self.peers[usize::from(mark)] -= 1;
    }

    /// The age that all of the `peers` oldest have passed, at least; what is over is over anyway.
    pub(super) fn age_of_oldest(&self, ticks: &Ticks, peers: u64) -> u8 {
        let mut found = 0;
        for age in (0..=u8::MAX).rev() {
            found += u64::from(self.peers[usize::from(ticks.mark().wrapping_sub(age))]);
            if found >= peers {
                return age.min(ticks.life() + 1);
            }
        }
        0
    }

    #[cfg(test)]
    pub(super) fn count(&self, mark: Mark) -> u32 {
        self.peers[usize::from(mark)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lives_for_the_timeout_and_a_tick_at_most() {
        for timeout in [1, 7, 99, 100, 101, 2_700, 3_825, 4 * 7 * 24 * 3600] {
            for start_ms in [0, 1, 999, 12_345, 99_999_999] {
                let at = |ms: u64| Timestamp::from_micros(ms * 1_000);
                let mut ticks = Ticks::new(timeout);
                ticks.pass(at(start_ms));
                let mark = ticks.mark();
                ticks.pass(at(start_ms + u64::from(timeout) * 1_000));
                assert!(!ticks.is_over(mark), "{timeout} s: over too early");
                let tick_ms = (u64::from(timeout) * 10).max(1_000);
                ticks.pass(at(start_ms + u64::from(timeout) * 1_000 + tick_ms + 1));
                assert!(ticks.is_over(mark), "{timeout} s: over too late");
            }
        }
    }

    #[test]
    fn a_leap_is_noticed() {
        let mut ticks = Ticks::new(1_000);
        assert!(!ticks.pass(Timestamp::from_secs(500)));
        assert!(!ticks.pass(Timestamp::from_secs(1_505)));
        assert!(ticks.pass(Timestamp::from_secs(2_515)));
        assert!(!ticks.pass(Timestamp::from_secs(2_515)));
    }

    #[test]
    fn the_census_knows_how_old_the_oldest_are() {
        let (mut ticks, mut census) = (Ticks::new(100), Census::new());
        for second in 0..60 {
            ticks.pass(Timestamp::from_secs(second));
            census.enter(ticks.mark());
        }
        assert_eq!(census.age_of_oldest(&ticks, 1), 59);
        assert_eq!(census.age_of_oldest(&ticks, 10), 50);
        assert_eq!(census.age_of_oldest(&ticks, 60), 0);
        assert_eq!(census.age_of_oldest(&ticks, 600), 0);
    }
}
