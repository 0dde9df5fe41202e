//! Owns deliberate bugs, which prove that the simulation of the tracker (tests/simulation) finds such bugs. They exist
//! only with the feature `canary`, which no released program has. A test enables one of them for its own thread.
//! Without the feature `on` always returns `false`, and the compiler removes them.

#[cfg(all(feature = "canary", not(debug_assertions)))]
compile_error!(
    "the feature `canary` adds deliberate bugs to the tracker: it is for tests and must not be in a release build"
);

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A leecher that becomes a seeder still counts as a leecher in the table's totals.
    CountsTwice,
    /// The sweep keeps an expired peer that is the first in its bucket.
    ForgetsOne,
    /// The slot of a request that timed out is not released.
    LeaksWait,
    /// A UDP announce that another worker forwarded is answered twice.
    RepliesTwice,
    /// Each slice of a snapshot lacks its first entry.
    SavesLess,
    /// A turn skips one of its steps: requests do not time out.
    SkipsDeadlines,
    /// A turn swaps two of its steps: replies are submitted before messages are taken.
    SubmitsEarly,
    /// A task is not woken when the response that it waits for arrives.
    WakesNobody,
}

impl Canary {
    /// All deliberate bugs.
    pub const ALL: [Self; 8] = [
        Self::CountsTwice,
        Self::ForgetsOne,
        Self::LeaksWait,
        Self::RepliesTwice,
        Self::SavesLess,
        Self::SkipsDeadlines,
        Self::SubmitsEarly,
        Self::WakesNobody,
    ];
}

#[cfg(feature = "canary")]
thread_local! {
    static AWAKE: std::cell::Cell<Option<Canary>> = const { std::cell::Cell::new(None) };
}

/// Enables a bug on this thread. With `None` it disables all bugs.
#[cfg(feature = "canary")]
pub fn wake(canary: Option<Canary>) {
    AWAKE.set(canary);
}

/// Returns whether a bug is enabled on this thread.
#[cfg(feature = "canary")]
pub(crate) fn on(canary: Canary) -> bool {
    AWAKE.get() == Some(canary)
}

/// Returns `false`: without the feature there are no bugs.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub(crate) const fn on(_: Canary) -> bool {
    false
}
