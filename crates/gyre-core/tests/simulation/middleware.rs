//! Owns a middleware that does as the seed wants.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use gyre_core::engine::context::RequestContext;
use gyre_core::engine::middleware::{Flow, Middleware, Next, Then};
use gyre_core::error::{Code, TrackerError};

const REFUSAL: &str = "as the seed wants";

/// What refused clients are told; one that connects gets no more bytes than it has sent.
pub(crate) fn refusal(of_connect: bool) -> &'static str {
    if of_connect { &REFUSAL[..16 - 8] } else { REFUSAL }
}

/// What the middleware makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Pass,
    Stop,
    Refuse,
    /// It waits before it says.
    Wait(Pause),
}

/// A wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Looks until it is over; the last number is never.
    pub(crate) polls: u8,
    pub(crate) then: After,
}

/// What comes after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Pass,
    Stop,
    Refuse,
}

/// What the next request is to meet; `None` where there is no middleware.
pub(crate) type NextDecision = Rc<Cell<Option<Decision>>>;

/// A middleware that a world can be made with, and how it is told what to do.
pub(crate) trait TestMiddleware: Middleware {
    fn with_decisions(next_decision: NextDecision) -> Self;
}

impl TestMiddleware for () {
    fn with_decisions(_: NextDecision) -> Self {}
}

/// Does as the seed wants.
#[derive(Clone)]
pub(crate) struct ScriptedMiddleware(NextDecision);

impl TestMiddleware for ScriptedMiddleware {
    fn with_decisions(next_decision: NextDecision) -> Self {
        Self(next_decision)
    }
}

fn refused() -> TrackerError {
    TrackerError::new(Code::AccessDenied, REFUSAL)
}

impl Middleware for ScriptedMiddleware {
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        match self.0.get() {
            None | Some(Decision::Pass) => Ok(Then::Next),
            Some(Decision::Stop) => Ok(Then::Stop),
            Some(Decision::Refuse) => Err(refused()),
            Some(Decision::Wait(pause)) => {
                request.data_mut().insert(pause);
                Ok(Then::Wait)
            }
        }
    }

    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        let pause = *request.data().get::<Pause>().expect("it was kept");
        let mut polls = pause.polls;
        poll_fn(|context| {
            if polls == 0 {
                return Poll::Ready(());
            }
            polls -= u8::from(polls != u8::MAX);
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        match pause.then {
            After::Pass => next.run(request).await,
            After::Stop => Ok(()),
            After::Refuse => Err(refused()),
        }
    }
}
