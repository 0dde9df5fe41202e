//! Owns what is dear to make and holds for a while: it is made by one at a time, and who comes meanwhile waits for the
//! same.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::time::{Clock, Timestamp};

/// What was made last, if anything was.
pub(super) struct Kept<T: ?Sized> {
    /// It, and until when it holds.
    last: Mutex<(Option<Arc<T>>, Timestamp)>,
    clock: Clock,
}

impl<T: ?Sized> Default for Kept<T> {
    fn default() -> Self {
        Self { last: Mutex::new((None, Timestamp::default())), clock: Clock::start() }
    }
}

impl<T: ?Sized> Kept<T> {
    /// What was made last if it still holds; or else what is made now, which `holds` for a time that may depend on how
    /// long it took.
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
