//! Owns requests that are answered in a task, which can wait: for other workers, and for async middleware. HTTP
//! requests are answered so, and requests by UDP that a middleware waits with.

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

/// How far a request has come.
#[derive(Debug)]
pub enum Outcome {
    /// It is answered.
    Ready(Answer),
    /// Other workers were asked: see [`answer`].
    Waiting(Ticket),
    /// There is no room to ask them; this is counted already.
    Busy,
}

/// What a task sees of its worker. A borrow never lasts over an `await`.
pub trait Worker {
    /// The worker's end of the mesh.
    type Mailbox: Mailbox;

    /// Returns the time.
    fn now(&self) -> Timestamp;

    /// Returns the engine.
    fn engine(&self) -> &RefCell<Engine>;

    /// Returns the worker's end of the mesh.
    fn mailbox(&self) -> &RefCell<Self::Mailbox>;

    /// Is told of each step. It does nothing, and costs nothing, unless a test implements it.
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
    /// A ticket was given up, or is settled.
    Abandoned(Ticket),
    /// A response was made, before middleware can change it.
    Responded(&'a RequestContext<'a>, &'a Response),
}

/// Asks the engine, and tells the workers that messages were posted to.
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

/// Waits for what other workers were asked. `None`: their answer is late.
pub async fn answer(worker: &impl Worker, ticket: Ticket) -> Option<Answer> {
    let _abandon = Abandon { worker, ticket };
    poll_fn(|context| {
        let polled = worker.engine().borrow_mut().poll(ticket, context);
        worker.observe(Step::Polled(ticket, &polled));
        polled
    })
    .await
}

/// Gives up a wait when its task is dropped.
struct Abandon<'a, W: Worker> {
    worker: &'a W,
    ticket: Ticket,
}

impl<W: Worker> Drop for Abandon<'_, W> {
    fn drop(&mut self) {
        // It is borrowed only while a panic unwinds the test that caused it.
        if let Ok(mut engine) = self.worker.engine().try_borrow_mut() {
            engine.abandon(self.ticket);
            drop(engine);
            self.worker.observe(Step::Abandoned(self.ticket));
        }
    }
}

/// What comes after the last middleware of a task: the swarms.
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
    /// Asks the swarms of an announce or a scrape that a middleware has passed on.
    ///
    /// # Panics
    ///
    /// If it is a connect, which has no swarm.
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

    /// Polls what an [`Outcome::Waiting`] request waits for; `None` if it is late. Poll a ticket until it is ready, or
    /// [`abandon`](Self::abandon) it.
    pub fn poll(&mut self, ticket: Ticket, context: &Context<'_>) -> Poll<Option<Answer>> {
        self.gathers.poll(ticket, context)
    }

    /// Gives up a ticket.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.gathers.close(ticket);
    }

    /// Ends the wait of a middleware with a request by UDP: what it decided leaves with the next turn. Returns true if
    /// there is something to send.
    pub fn end_wait<M>(
        &mut self,
        gate: &mut Gate<M>,
        request: &mut RequestContext<'_>,
        result: Result<(), TrackerError>,
        to: &Endpoint,
    ) -> bool {
        if result.as_ref().is_err_and(|error| error.code() == Code::Unavailable) {
            return false; // counted already; silence makes the client ask again
        }
        let mut out = [0; UDP_REPLY_MAX_BYTES];
        let Some(length) = self.conclude_udp(request, result, &mut out) else { return false };
        self.counters.bump(Counter::of(Kind::UdpReply, Family::of(to.source.ip())));
        gate.answer(to, &out[..length]);
        true
    }

    /// Whether requests of this worker wait for others.
    pub fn is_waiting(&self) -> bool {
        !self.gathers.is_empty()
    }

    /// Gives up requests that have waited too long for other workers, at most
    /// [`TURN_GATHERS`](crate::limits::TURN_GATHERS) of them. Returns true if there are more.
    pub fn expire_gathers(&mut self, now: Timestamp) -> bool {
        let late = self.gathers.expire(now);
        self.counters.add(Counter::DropGatherLate, late as u64);
        self.gathers.is_any_due(now)
    }
}
