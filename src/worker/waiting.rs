//! Owns the tasks in which async middleware waits with requests that came by UDP, and the way from any middleware's
//! task to the swarms.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_core::future::LocalBoxFuture;

use super::{App, Shared, Witness};
use crate::counters::{Counter, Kind};
use crate::engine::context::RequestContext;
use crate::engine::middleware::{Middleware, Rest};
use crate::engine::{Outcome, Waiting};
use crate::error::{Code, TrackerError};
use crate::limits::{UDP_REPLY_MAX_BYTES, WAIT_DEADLINE_MS};
use crate::types::Family;

/// A place among those who wait, given back when the task goes.
pub(super) struct Place<'a, M: Middleware>(&'a App<M>);

impl<'a, M: Middleware> Place<'a, M> {
    /// `None`, and counted: too many wait.
    pub(super) fn take(app: &'a App<M>) -> Option<Self> {
        let free = app.gate.borrow_mut().start_waiting();
        app.shared.engine.borrow_mut().counters.add(Counter::DropWaitFull, u64::from(!free));
        free.then(|| Self(app))
    }
}

impl<M: Middleware> Drop for Place<'_, M> {
    fn drop(&mut self) {
        self.0.gate.borrow_mut().end_waiting();
    }
}

/// What comes after the last middleware, for one that runs in a task.
pub(super) struct Swarms<'a>(pub(super) &'a Rc<Shared>);

impl Rest for Swarms<'_> {
    fn run<'a>(
        &'a self,
        request: &'a mut RequestContext<'_>,
    ) -> LocalBoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async move {
            if request.sent() {
                return Ok(());
            }
            let shared = self.0;
            let now = shared.clock.now();
            let outcome = {
                let mesh = &mut *shared.mesh.borrow_mut();
                let outcome = shared.engine.borrow_mut().ask(now, request, mesh);
                mesh.flush();
                outcome
            };
            let answer = match outcome {
                None => None,
                Some(Outcome::Ready(answer)) => Some(answer),
                Some(Outcome::Waiting(ticket)) => {
                    Some(shared.await_answer(ticket).await.ok_or_else(unavailable)?)
                }
                Some(Outcome::Busy) => return Err(unavailable()),
            };
            let response = shared.engine.borrow_mut().respond(now, request, answer);
            request.send(response)
        })
    }
}

fn unavailable() -> TrackerError {
    TrackerError::new(Code::Unavailable, "the tracker is busy, try again later")
}

/// Lets the middleware wait with a request that came by UDP; what it comes to leaves with the next turn.
pub(super) async fn wait<M: Middleware>(app: Rc<App<M>>, waiting: Waiting) {
    let Waiting { mut request, passed, to } = waiting;
    let shared = &app.shared;
    let _witness = Witness(shared.clone());
    let _place = Place(&app); // the gate has taken it
    let middleware = app.gate.borrow().middleware();
    let ended = {
        let swarms = Swarms(shared);
        let deadline = Duration::from_millis(WAIT_DEADLINE_MS);
        let mut running =
            pin!(tokio::time::timeout(deadline, middleware.run(Some(passed), &mut request, &swarms)));
        poll_fn(|context| {
            let polled = running.as_mut().poll(context);
            shared.unsubmitted.set(true); // it may have queued something on the runtime's ring
            polled
        })
        .await
    };
    let engine = &mut *shared.engine.borrow_mut();
    match ended {
        // Asking the swarms in vain is counted already; silence makes the client ask again.
        Ok(Err(error)) if error.code() == Code::Unavailable => {}
        Ok(result) => {
            let mut out = [0; UDP_REPLY_MAX_BYTES];
            if let Some(length) = engine.conclude_udp(&mut request, result, &mut out) {
                engine.counters.bump(Counter::of(Kind::UdpReply, Family::of(to.source.ip())));
                shared.replies.borrow_mut().push((to, out[..length].into()));
                shared.doorbell.ring();
            }
        }
        Err(_) => engine.counters.bump(Counter::DropWaitLate),
    }
}
