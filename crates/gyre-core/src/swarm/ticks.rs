//! Owns the coarse clock of a shard, in which the time of a peer's last announce takes one byte.

use crate::limits::{TICK_MIN_MS, TICKS_PER_TIMEOUT};
use crate::time::Timestamp;

/// The time of a peer's last announce: the low byte of the tick number.
///
/// A peer has expired when its age exceeds its lifetime of up to [`TICKS_PER_TIMEOUT`] ticks. The sweep must find it
/// within the 155 ticks after which its mark would look fresh again. A lap takes seconds, and 155 ticks are 1.55
/// timeouts or at least 155 seconds. If the clock jumps further than that, all peers have expired, which
/// [`Ticks::advance`] reports.
pub(super) type Mark = u8;

/// The coarse clock of a shard.
pub(super) struct Ticks {
    tick_micros: u64,
    lifetime: u8,
    now: u64,
    next_micros: u64,
}

impl Ticks {
    /// Creates a clock for peers that expire `timeout_secs` after an announce.
    pub(super) fn new(timeout_secs: u32) -> Self {
        let timeout_micros = u64::from(timeout_secs) * 1_000_000;
        let tick_micros = timeout_micros.div_ceil(u64::from(TICKS_PER_TIMEOUT)).max(TICK_MIN_MS * 1_000);
        let lifetime = timeout_micros.div_ceil(tick_micros) as u8;
        Self { tick_micros, lifetime, now: 0, next_micros: tick_micros }
    }

    /// Advances the clock. Returns true if a whole lifetime has passed since the last call: then all peers have
    /// expired, even if their marks look fresh.
    #[inline]
    pub(super) fn advance(&mut self, now: Timestamp) -> bool {
        now.as_micros() >= self.next_micros && self.step(now)
    }

    #[cold]
    fn step(&mut self, now: Timestamp) -> bool {
        let before = self.now;
        self.now = now.as_micros() / self.tick_micros;
        self.next_micros = (self.now + 1) * self.tick_micros;
        self.now - before > u64::from(self.lifetime)
    }

    /// Returns the mark of a peer that announces now.
    #[inline]
    pub(super) fn mark(&self) -> Mark {
        self.now as u8
    }

    /// Returns the mark of a peer that announced `age_secs` ago, or `None` if it has expired.
    pub(super) fn mark_of_age(&self, age_secs: u32) -> Option<Mark> {
        let age = u64::from(age_secs) * 1_000_000 / self.tick_micros;
        (age <= u64::from(self.lifetime)).then(|| self.mark().wrapping_sub(age as u8))
    }

    /// Returns the seconds since the start of the mark's tick, rounded down.
    pub(super) fn age_secs(&self, mark: Mark) -> u32 {
        (u64::from(self.age(mark)) * self.tick_micros / 1_000_000) as u32
    }

    /// Returns the age of a mark in ticks.
    #[inline]
    pub(super) fn age(&self, mark: Mark) -> u8 {
        self.mark().wrapping_sub(mark)
    }

    /// Returns the maximum age of a live peer in ticks.
    #[inline]
    pub(super) fn lifetime(&self) -> u8 {
        self.lifetime
    }

    /// Returns whether a peer with this mark has expired.
    #[inline]
    pub(super) fn is_expired(&self, mark: Mark) -> bool {
        self.age(mark) > self.lifetime
    }

    /// Returns the older of two marks.
    pub(super) fn older(&self, one: Mark, other: Mark) -> Mark {
        if self.age(one) >= self.age(other) { one } else { other }
    }
}

/// The number of peers with each mark. From it the sweep computes which age to evict.
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

    /// Returns the age that the `peers` oldest peers have at least, limited to the lowest age of an expired peer.
    pub(super) fn age_of_oldest(&self, ticks: &Ticks, peers: u64) -> u8 {
        let mut found = 0;
        for age in (0..=u8::MAX).rev() {
            found += u64::from(self.peers[usize::from(ticks.mark().wrapping_sub(age))]);
            if found >= peers {
                return age.min(ticks.lifetime() + 1);
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
    fn a_mark_expires_within_a_tick_after_the_timeout() {
        for timeout in [1, 7, 99, 100, 101, 2_700, 3_825, 4 * 7 * 24 * 3600] {
            for start_ms in [0, 1, 999, 12_345, 99_999_999] {
                let at = |ms: u64| Timestamp::from_micros(ms * 1_000);
                let mut ticks = Ticks::new(timeout);
                ticks.advance(at(start_ms));
                let mark = ticks.mark();
                ticks.advance(at(start_ms + u64::from(timeout) * 1_000));
                assert!(!ticks.is_expired(mark), "{timeout} s: expired too early");
                let tick_ms = (u64::from(timeout) * 10).max(1_000);
                ticks.advance(at(start_ms + u64::from(timeout) * 1_000 + tick_ms + 1));
                assert!(ticks.is_expired(mark), "{timeout} s: expired too late");
            }
        }
    }

    #[test]
    fn a_jump_of_the_clock_is_reported() {
        let mut ticks = Ticks::new(1_000);
        assert!(!ticks.advance(Timestamp::from_secs(500)));
        assert!(!ticks.advance(Timestamp::from_secs(1_505)));
        assert!(ticks.advance(Timestamp::from_secs(2_515)));
        assert!(!ticks.advance(Timestamp::from_secs(2_515)));
    }

    #[test]
    fn the_census_gives_the_age_of_the_oldest_peers() {
        let (mut ticks, mut census) = (Ticks::new(100), Census::new());
        for second in 0..60 {
            ticks.advance(Timestamp::from_secs(second));
            census.enter(ticks.mark());
        }
        assert_eq!(census.age_of_oldest(&ticks, 1), 59);
        assert_eq!(census.age_of_oldest(&ticks, 10), 50);
        assert_eq!(census.age_of_oldest(&ticks, 60), 0);
        assert_eq!(census.age_of_oldest(&ticks, 600), 0);
    }
}
