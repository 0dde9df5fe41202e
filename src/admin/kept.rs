//! Owns a cache for one value that is expensive to compute. Only one request computes it; requests that arrive
//! meanwhile wait for its result.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::time::{Clock, Timestamp};

/// A cached value.
pub(super) struct Kept<T: ?Sized> {
    /// The value, and the time until which it is valid.
    last: Mutex<(Option<Arc<T>>, Timestamp)>,
    clock: Clock,
}

impl<T: ?Sized> Default for Kept<T> {
    fn default() -> Self {
        Self { last: Mutex::new((None, Timestamp::default())), clock: Clock::start() }
    }
}

impl<T: ?Sized> Kept<T> {
    /// Returns the cached value if it is still valid. Otherwise computes it with `make` and keeps it for the time that
    /// `holds` returns for the duration of the computation.
    pub(super) async fn get<E>(
        &self,
        make: impl Future<Output = Result<Arc<T>, E>>,
        holds: impl FnOnce(Duration) -> Duration,
    ) -> Result<Arc<T>, E> {
        let mut last = self.last.lock().await;
        let started = self.clock.now();
        if let (Some(made), until) = &*last
            && started < *until
        {
            return Ok(made.clone());
        }
        let made = make.await?;
        let now = self.clock.now();
        *last = (Some(made.clone()), now + holds(now.since(started)));
        Ok(made)
    }
}
