//! Owns the tasks in which async middleware waits with requests that came by UDP.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::{App, PanicGuard};
use crate::counters::Counter;
use crate::engine::Waiting;
use crate::engine::middleware::Middleware;
use crate::engine::task::Swarms;
use crate::limits::WAIT_DEADLINE_MS;

/// A place among those who wait, given back when the task goes.
pub(super) struct WaitSlot<'a, M: Middleware>(&'a App<M>);

impl<'a, M: Middleware> WaitSlot<'a, M> {
    /// `None`, and counted: too many wait.
    pub(super) fn take(app: &'a App<M>) -> Option<Self> {
        let free = app.gate.borrow_mut().start_waiting();
        app.shared.engine.borrow_mut().counters.add(Counter::DropWaitFull, u64::from(!free));
        free.then(|| Self(app))
    }
}

impl<M: Middleware> Drop for WaitSlot<'_, M> {
    fn drop(&mut self) {
        self.0.gate.borrow_mut().end_waiting();
    }
}

/// Lets the middleware wait with a request by UDP. Its response leaves with the next turn.
pub(super) async fn wait<M: Middleware>(app: Rc<App<M>>, waiting: Waiting) {
    let Waiting { mut request, passed, to } = waiting;
    let shared = &app.shared;
    let _guard = PanicGuard(shared.clone());
    let _slot = WaitSlot(&app); // the gate has taken it
    let middleware = app.gate.borrow().middleware();
    let ended = {
        let swarms = Swarms(&**shared);
        let deadline = Duration::from_millis(WAIT_DEADLINE_MS);
        let mut running =
            pin!(tokio::time::timeout(deadline, middleware.run(Some(passed), &mut request, &swarms)));
        poll_fn(|context| {
            let polled = running.as_mut().poll(context);
            shared.handover.unsubmitted.set(true); // it may have queued something on the runtime's ring
            polled
        })
        .await
    };
    let engine = &mut *shared.engine.borrow_mut();
    match ended {
        Ok(result) => {
            if engine.end_wait(&mut app.gate.borrow_mut(), &mut request, result, &to) {
                shared.doorbell.ring();
            }
        }
        Err(_) => engine.counters.bump(Counter::DropWaitLate),
    }
}
