//! Owns the clock. Everything else takes the time as an argument.

use std::ops::Add;
use std::time::Duration;

/// A moment, in microseconds since the [`Clock`] was started. Monotonic: steps of the wall clock don't touch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    micros: u64,
}

impl Timestamp {
    /// The moment so many microseconds after the clock's start.
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// The moment so many seconds after the clock's start.
    pub const fn from_secs(secs: u64) -> Self {
        Self { micros: secs * 1_000_000 }
    }

    /// Microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.micros
    }

    /// Whole seconds since the clock's start; 32 bits last for 136 years.
    pub const fn as_secs(self) -> u32 {
        (self.micros / 1_000_000) as u32
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self { micros: self.micros.saturating_add(duration.as_micros() as u64) }
    }
}

/// The time of day, which can step: for what is shown to others, and never to measure by. 1970 at least.
#[allow(clippy::disallowed_methods)]
pub fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now().max(std::time::UNIX_EPOCH)
}

/// The same since 1970.
pub fn unix_time() -> Duration {
    wall_clock().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// The same in whole seconds.
pub fn unix_secs() -> u64 {
    unix_time().as_secs()
}

/// The same in milliseconds since 1970.
pub fn unix_millis() -> u64 {
    unix_time().as_millis() as u64
}

/// The process's clock. A copy reads the same time, so that all workers agree on it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// Starts the clock at zero.
    #[allow(clippy::disallowed_methods)]
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// Reads the clock: a vDSO call of some 25 ns, which a worker makes once a turn.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.start.elapsed().as_micros() as u64)
    }
}
