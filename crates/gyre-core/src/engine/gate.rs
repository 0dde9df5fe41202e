//! Owns the middleware of a worker, and the UDP requests that wait in middleware.

use std::rc::Rc;

use crate::engine::context::RequestContext;
use crate::engine::message::{Endpoint, Replies};
use crate::engine::middleware::{Middleware, Then};
use crate::error::TrackerError;
use crate::limits::MAX_WAITING;

/// A worker's middleware and its waiting requests.
pub struct Gate<M> {
    /// Shared with the tasks of waiting requests.
    middleware: Rc<M>,
    /// Requests by UDP of this turn that need a task.
    to_wait: Vec<Waiting>,
    /// Number of requests that wait, `to_wait` among them.
    waiting: usize,
    /// UDP responses to requests that have waited. The next turn sends them, so there are at most [`MAX_WAITING`].
    answered: Vec<(Endpoint, Box<[u8]>)>,
}

/// A UDP request for which a middleware waits.
#[derive(Debug)]
pub struct Waiting {
    /// The request.
    pub request: RequestContext<'static>,
    /// Number of middlewares that have passed it on. The next one waits.
    pub passed: usize,
    /// Where the response goes.
    pub to: Endpoint,
}

/// The decision of the middlewares about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request goes on to the swarm.
    Pass,
    /// A response was sent, the client gets none, or the request is refused.
    Concluded(Result<(), TrackerError>),
    /// The middleware after this number of others must wait.
    Wait(usize),
}

impl<M> Gate<M> {
    /// Creates a gate without waiting requests.
    pub fn new(middleware: M) -> Self {
        Self { middleware: Rc::new(middleware), to_wait: Vec::new(), waiting: 0, answered: Vec::new() }
    }

    /// Returns the middleware, for the task of a waiting request.
    pub fn middleware(&self) -> Rc<M> {
        self.middleware.clone()
    }

    /// Takes one of the [`MAX_WAITING`] places for waiting requests. Returns false if all are taken.
    pub fn start_waiting(&mut self) -> bool {
        let free = self.waiting < MAX_WAITING;
        self.waiting += usize::from(free);
        free
    }

    /// Gives a place back.
    pub fn end_waiting(&mut self) {
        self.waiting -= 1;
    }

    /// Returns the number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the next request by UDP of this turn that needs a task. Its place is taken.
    pub fn next_waiting(&mut self) -> Option<Waiting> {
        self.to_wait.pop()
    }

    /// Queues a UDP request for [`next_waiting`](Self::next_waiting). Returns false if all places are taken.
    pub(super) fn keep(&mut self, request: RequestContext<'_>, passed: usize, to: &Endpoint) -> bool {
        let free = self.start_waiting();
        if free {
            self.to_wait.push(Waiting { request: request.into_owned(), passed, to: *to });
        }
        free
    }

    /// Queues the response to a request that has waited, for [`send_answered`](Self::send_answered).
    pub(super) fn answer(&mut self, to: &Endpoint, response: &[u8]) {
        self.answered.push((*to, response.into()));
    }

    /// Returns the responses to requests that have waited, in the order in which they will leave.
    pub fn answered(&self) -> &[(Endpoint, Box<[u8]>)] {
        &self.answered
    }

    /// Sends the responses to requests that have waited.
    #[inline]
    pub(super) fn send_answered(&mut self, replies: &mut impl Replies) {
        for (to, response) in self.answered.drain(..) {
            replies.reply(&to, |out| {
                out[..response.len()].copy_from_slice(&response);
                response.len()
            });
        }
    }
}

impl<M: Middleware> Gate<M> {
    /// Runs the middlewares until one of them must wait.
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
}
