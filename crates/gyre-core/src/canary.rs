//! Owns bugs that are planted on purpose, to see that the simulation of the tracker (tests/simulation) finds them. They
//! are there with the feature `canary` alone, which no program is built with, and sleep until a test wakes one of them
//! for its own thread. Without the feature `on` is `false` when it is compiled, and nothing is left of them.

#[cfg(all(feature = "canary", not(debug_assertions)))]
compile_error!(
    "the feature `canary` plants bugs in the tracker: it is for tests, and no release is built with it"
);

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A leecher that becomes a seeder is still counted among the leechers of the table.
    CountsTwice,
    /// The sweep forgets one of a few peers whose time is over.
    ForgetsOne,
    /// The wait of a request that was late is not given back.
    LeaksWait,
    /// An announce by UDP that another worker passed on is answered twice.
    RepliesTwice,
    /// Each slice of a snapshot leaves its first piece out.
    SavesLess,
    /// A turn skips one of its steps: requests whose answers are late are not given up.
    SkipsDeadlines,
    /// A turn swaps two of its steps: replies are submitted before messages are taken.
    SubmitsEarly,
    /// A task is not woken when the answer that it waits for has come.
    WakesNobody,
}

impl Canary {
    /// All of them.
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

/// Wakes a bug on this thread, or lets all sleep.
#[cfg(feature = "canary")]
pub fn wake(canary: Option<Canary>) {
    AWAKE.set(canary);
}

/// Whether a bug is awake on this thread.
#[cfg(feature = "canary")]
pub(crate) fn on(canary: Canary) -> bool {
    AWAKE.get() == Some(canary)
}

/// Never.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub(crate) const fn on(_: Canary) -> bool {
    false
}
