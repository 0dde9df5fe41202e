//! Owns a middleware whose decisions are drawn from the seed.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use gyre_core::engine::context::RequestContext;
use gyre_core::engine::middleware::{Flow, Middleware, Next, Then};
use gyre_core::error::{Code, TrackerError};

const REFUSAL: &str = "refused by a test";

/// Returns the error message for a refused request. For a connect it is shorter, since the reply must not be larger
/// than the request.
pub(crate) fn refusal(of_connect: bool) -> &'static str {
    if of_connect { &REFUSAL[..16 - 8] } else { REFUSAL }
}

/// Decision of the middleware on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Pass,
    Stop,
    Refuse,
    /// Wait first, then decide.
    Wait(Pause),
}

/// A wait of the middleware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Number of polls until the wait ends. With `u8::MAX` it never ends.
    pub(crate) polls: u8,
    pub(crate) then: After,
}

/// Decision after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Pass,
    Stop,
    Refuse,
}

/// Decision on the next request, or `None` without a middleware.
pub(crate) type NextDecision = Rc<Cell<Option<Decision>>>;

/// A middleware that the simulation can run with.
pub(crate) trait TestMiddleware: Middleware {
    fn with_decisions(next_decision: NextDecision) -> Self;
}

impl TestMiddleware for () {
    fn with_decisions(_: NextDecision) -> Self {}
}

/// A middleware that returns the decision set for the request.
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
        let pause = *request.data().get::<Pause>().expect("`decide` has stored it");
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
