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
pub(crate) enum Verdict {
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
    pub(crate) looks: u8,
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
pub(crate) type NextVerdict = Rc<Cell<Option<Verdict>>>;

/// A middleware that a world can be made with, and how it is told what to do.
pub(crate) trait ScriptedBy: Middleware {
    fn scripted(next_verdict: NextVerdict) -> Self;
}

impl ScriptedBy for () {
    fn scripted(_: NextVerdict) -> Self {}
}

/// Does as the seed wants.
#[derive(Clone)]
pub(crate) struct Scripted(NextVerdict);

impl ScriptedBy for Scripted {
    fn scripted(next_verdict: NextVerdict) -> Self {
        Self(next_verdict)
    }
}

fn refused() -> TrackerError {
    TrackerError::new(Code::AccessDenied, REFUSAL)
}

impl Middleware for Scripted {
    fn decide(&self, request: &mut RequestContext<'_>) -> Flow {
        match self.0.get() {
            None | Some(Verdict::Pass) => Ok(Then::Next),
            Some(Verdict::Stop) => Ok(Then::Stop),
            Some(Verdict::Refuse) => Err(refused()),
            Some(Verdict::Wait(pause)) => {
                request.data_mut().insert(pause);
                Ok(Then::Wait)
            }
        }
    }

    async fn wait(&self, request: &mut RequestContext<'_>, next: Next<'_>) -> Result<(), TrackerError> {
        let pause = *request.data().get::<Pause>().expect("it was kept");
        let mut looks = pause.looks;
        poll_fn(|context| {
            if looks == 0 {
                return Poll::Ready(());
            }
            looks -= u8::from(looks != u8::MAX);
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
