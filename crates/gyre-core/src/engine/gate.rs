//! Owns the middleware of a worker and the requests that it waits with.

use std::rc::Rc;

use crate::engine::context::RequestContext;
use crate::engine::message::Endpoint;
use crate::engine::middleware::{Middleware, Then};
use crate::error::TrackerError;
use crate::limits::MAX_WAITING;

/// A worker's middleware.
pub struct Gate<M> {
    /// Those who wait have it too, each in a task: what it keeps is kept once.
    middleware: Rc<M>,
    /// Requests by UDP of this turn that are to be waited with.
    to_wait: Vec<Waiting>,
    /// Requests that are waited with, these among them.
    waiting: usize,
}

/// A request by UDP that a middleware waits with.
#[derive(Debug)]
pub struct Waiting {
    /// The request.
    pub request: RequestContext<'static>,
    /// So many middlewares have passed it on; the next has to wait.
    pub passed: usize,
    /// Who gets the answer.
    pub to: Endpoint,
}

/// What became of a request that the middlewares have seen.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The swarm is to be asked.
    Pass,
    /// An answer was sent or is not to be given, or the request is refused.
    Concluded(Result<(), TrackerError>),
    /// The middleware after so many has to wait.
    Wait(usize),
}

impl<M: Middleware> Gate<M> {
    /// With nobody waiting.
    pub fn new(middleware: M) -> Self {
        Self { middleware: Rc::new(middleware), to_wait: Vec::new(), waiting: 0 }
    }

    /// The middleware, for who is to wait with it.
    pub fn middleware(&self) -> Rc<M> {
        self.middleware.clone()
    }

    /// Asks the middlewares, as far as they can say at once.
    #[inline]
    pub fn ask(&self, request: &mut RequestContext<'_>) -> Verdict {
        let mut passed = 0;
        match self.middleware.decide_all(request, &mut passed) {
            Ok(Then::Next) if !request.sent() => Verdict::Pass,
            Ok(Then::Next | Then::Stop) => Verdict::Concluded(Ok(())),
            Ok(Then::Wait) => Verdict::Wait(passed),
            Err(error) => Verdict::Concluded(Err(error)),
        }
    }

    /// Takes a place among those who wait. False: too many do.
    pub fn start_waiting(&mut self) -> bool {
        let free = self.waiting < MAX_WAITING;
        self.waiting += usize::from(free);
        free
    }

    /// Gives the place back.
    pub fn end_waiting(&mut self) {
        self.waiting -= 1;
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next request by UDP of this turn that is to be waited with; its place is taken.
    pub fn next_waiting(&mut self) -> Option<Waiting> {
        self.to_wait.pop()
    }

    /// Keeps a request by UDP for [`next_waiting`](Self::next_waiting). False: too many wait.
    pub(super) fn keep(&mut self, request: RequestContext<'_>, passed: usize, to: &Endpoint) -> bool {
        let free = self.start_waiting();
        if free {
            self.to_wait.push(Waiting { request: request.into_owned(), passed, to: *to });
        }
        free
    }
}
