//! Owns requests that are answered in a task, which can wait for other workers and for async middleware. All HTTP
//! requests run in tasks, and the UDP requests for which a middleware waits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll};

use futures_core::future::LocalBoxFuture;

use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::context::{RequestContext, Response};
use crate::engine::gate::Gate;
use crate::engine::message::{Answer, Endpoint, Mailbox, Post, Source, Ticket};
use crate::engine::middleware::Rest;
use crate::error::{Code, TrackerError};
use crate::limits::UDP_REPLY_MAX_BYTES;
use crate::time::Timestamp;
use crate::types::Family;

/// The state of a request after the swarm was asked.
#[derive(Debug)]
pub enum Outcome {
    /// The answer is there.
    Ready(Answer),
    /// Other workers were asked: see [`answer`].
    Waiting(Ticket),
    /// The queues or the slots are full. The counters have it already.
    Busy,
}

/// The worker of a task. A borrow is never held across an `await`.
pub trait Worker {
    /// The worker's end of the mesh.
    type Mailbox: Mailbox;

    /// Returns the time.
    fn now(&self) -> Timestamp;

    /// Returns the engine.
    fn engine(&self) -> &RefCell<Engine>;

    /// Returns the worker's end of the mesh.
    fn mailbox(&self) -> &RefCell<Self::Mailbox>;

    /// Is called at each step. It does nothing and costs nothing, unless a test implements it.
    #[inline(always)]
    fn observe(&self, _step: Step<'_>) {}
}

/// A step of a task.
#[derive(Debug)]
pub enum Step<'a> {
    /// The swarms were asked for a request.
    Ask(&'a RequestContext<'a>, &'a Outcome),
    /// A ticket was polled.
    Polled(Ticket, &'a Poll<Option<Answer>>),
    /// A ticket was closed: its request was given up or has its answer.
    Abandoned(Ticket),
    /// A response was made, before middleware can change it.
    Responded(&'a RequestContext<'a>, &'a Response),
}

/// Asks the engine, and notifies the workers that got messages.
pub fn ask<W: Worker>(
    worker: &W,
    now: Timestamp,
    ask: impl FnOnce(&mut Engine, Timestamp, &mut W::Mailbox) -> Outcome,
) -> Outcome {
    let mailbox = &mut *worker.mailbox().borrow_mut();
    let outcome = ask(&mut worker.engine().borrow_mut(), now, mailbox);
    mailbox.flush();
    outcome
}

/// Waits for the answers of other workers. `None`: the deadline has passed.
pub async fn answer(worker: &impl Worker, ticket: Ticket) -> Option<Answer> {
    let _abandon = Abandon { worker, ticket };
    poll_fn(|context| {
        let polled = worker.engine().borrow_mut().poll(ticket, context);
        worker.observe(Step::Polled(ticket, &polled));
        polled
    })
    .await
}

/// Closes a wait when its task ends or is dropped.
struct Abandon<'a, W: Worker> {
    worker: &'a W,
    ticket: Ticket,
}

impl<W: Worker> Drop for Abandon<'_, W> {
    fn drop(&mut self) {
        // The engine is still borrowed only while a panic in a test unwinds.
        if let Ok(mut engine) = self.worker.engine().try_borrow_mut() {
            engine.abandon(self.ticket);
            drop(engine);
            self.worker.observe(Step::Abandoned(self.ticket));
        }
    }
}

/// The last step of a request in a task, after all middlewares: the swarms.
pub struct Swarms<'a, W>(pub &'a W);

impl<W: Worker> Rest for Swarms<'_, W> {
    fn run<'a>(
        &'a self,
        request: &'a mut RequestContext<'_>,
    ) -> LocalBoxFuture<'a, Result<(), TrackerError>> {
        Box::pin(async move {
            if request.sent() {
                return Ok(());
            }
            let (worker, now) = (self.0, self.0.now());
            let answer = match &*request {
                RequestContext::Connect(_) => None,
                request => {
                    let outcome = ask(worker, now, |engine, now, mailbox| engine.ask(now, request, mailbox));
                    worker.observe(Step::Ask(request, &outcome));
                    let answered = match outcome {
                        Outcome::Ready(answer) => Some(answer),
                        Outcome::Waiting(ticket) => answer(worker, ticket).await,
                        Outcome::Busy => None,
                    };
                    Some(answered.ok_or_else(unavailable)?)
                }
            };
            let response = worker.engine().borrow_mut().respond(now, request, answer);
            worker.observe(Step::Responded(request, &response));
            request.send(response)
        })
    }
}

fn unavailable() -> TrackerError {
    TrackerError::new(Code::Unavailable, "the tracker is busy, try again later")
}

impl Engine {
    /// Asks the swarms of an announce or a scrape that the middleware has passed on.
    ///
    /// # Panics
    ///
    /// If the request is a connect, which has no swarm.
    fn ask(&mut self, now: Timestamp, request: &RequestContext<'_>, mesh: &mut impl Post) -> Outcome {
        match request {
            RequestContext::Announce(announce) => {
                let source = if announce.is_source_udp() { Source::Udp } else { Source::Http };
                self.announce(now, announce.ip, &announce.query, source, mesh)
            }
            RequestContext::Scrape(scrape) => self.scrape(now, &scrape.query, mesh),
            RequestContext::Connect(_) => panic!("a connect has no swarm"),
        }
    }

    /// Polls the answer to an [`Outcome::Waiting`] request. `None`: the deadline has passed. Poll a ticket until it is
    /// ready, or [`abandon`](Self::abandon) it.
    pub fn poll(&mut self, ticket: Ticket, context: &Context<'_>) -> Poll<Option<Answer>> {
        self.gathers.poll(ticket, context)
    }

    /// Closes a ticket: its answer is no longer needed.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.gathers.close(ticket);
    }

    /// Ends the task of a UDP request for which a middleware has waited. The next turn sends the response. Returns true
    /// if there is one.
    pub fn end_wait<M>(
        &mut self,
        gate: &mut Gate<M>,
        request: &mut RequestContext<'_>,
        result: Result<(), TrackerError>,
        to: &Endpoint,
    ) -> bool {
        if result.as_ref().is_err_and(|error| error.code() == Code::Unavailable) {
            return false; // counted already; without a response the client retries
        }
        let mut out = [0; UDP_REPLY_MAX_BYTES];
        let Some(length) = self.conclude_udp(request, result, &mut out) else { return false };
        self.counters.bump(Counter::of(Kind::UdpReply, Family::of(to.source.ip())));
        gate.answer(to, &out[..length]);
        true
    }

    /// Returns whether requests wait for other workers.
    pub fn is_waiting(&self) -> bool {
        !self.gathers.is_empty()
    }

    /// Times out requests whose deadline for answers of other workers has passed, at most
    /// [`TURN_GATHERS`](crate::limits::TURN_GATHERS). Returns true if there are more.
    pub fn expire_gathers(&mut self, now: Timestamp) -> bool {
        let late = self.gathers.expire(now);
        self.counters.add(Counter::DropGatherLate, late as u64);
        self.gathers.is_any_due(now)
    }
}
