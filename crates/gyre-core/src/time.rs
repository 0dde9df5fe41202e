//! Owns the clock. All other modules take the time as an argument.

use std::ops::Add;
use std::time::Duration;

/// A point in time, in microseconds since the start of the [`Clock`]. Monotonic: it does not follow steps of the wall
/// clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    micros: u64,
}

impl Timestamp {
    /// Returns the time `micros` microseconds after the clock's start.
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// Returns the time `secs` seconds after the clock's start.
    pub const fn from_secs(secs: u64) -> Self {
        Self { micros: secs * 1_000_000 }
    }

    /// Returns the microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.micros
    }

    /// Returns the whole seconds since the clock's start. 32 bits last for 136 years.
    pub const fn as_secs(self) -> u32 {
        (self.micros / 1_000_000) as u32
    }

    /// Returns the duration from `earlier` to this time, or zero if `earlier` is later.
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

/// Returns the wall clock time, at least 1970. It can step: use it for display and never to measure durations.
#[allow(clippy::disallowed_methods)]
pub fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now().max(std::time::UNIX_EPOCH)
}

/// Returns [`wall_clock`] as the duration since 1970.
pub fn unix_time() -> Duration {
    wall_clock().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Returns [`wall_clock`] in whole seconds since 1970.
pub fn unix_secs() -> u64 {
    unix_time().as_secs()
}

/// Returns [`wall_clock`] in milliseconds since 1970.
pub fn unix_millis() -> u64 {
    unix_time().as_millis() as u64
}

/// The monotonic clock of the process. All copies read the same time, so the workers agree on it.
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

    /// Reads the clock. This is a vDSO call of about 25 ns, which a worker makes once a turn.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.start.elapsed().as_micros() as u64)
    }
}
