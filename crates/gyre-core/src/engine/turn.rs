//! Owns the turn of a worker: the order of its steps, and the limit of each step. The driver of a worker's thread runs
//! it, and so does the simulation.
//!
//! | step | bounded by |
//! |---|---|
//! | take orders from the process: lists, limits, swarms to load | one load |
//! | receive datagrams: admit and answer them, or queue them for the next steps | [`TURN_DATAGRAMS`] |
//! | answer the announces of this worker's swarms together | as above |
//! | start tasks for requests that wait in middleware, send responses of finished ones | as above, [`MAX_WAITING`] |
//! | take messages from other workers, and answer the announces among them | [`TURN_MESSAGES`] |
//! | time out requests that wait for other workers | [`TURN_GATHERS`] |
//! | sweep a slice of the table, if one is due | [`TURN_SWEEP`] |
//! | do the thread's other work | [`Host::tend`] |
//! | publish gauges and counters, four times a second | |
//! | submit the responses to the kernel, notify the workers that got messages | |
//!
//! [`MAX_WAITING`]: crate::limits::MAX_WAITING
//! [`TURN_GATHERS`]: crate::limits::TURN_GATHERS
//! [`TURN_SWEEP`]: crate::limits::TURN_SWEEP

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
use crate::canary::{self, Canary};
use crate::counters::{Counter, Counters};
use crate::engine::gate::{Gate, Waiting};
use crate::engine::message::{Endpoint, Mailbox, Post, Replies};
use crate::engine::middleware::Middleware;
use crate::engine::reply::ReplyBuffer;
use crate::engine::{Engine, Policy};
use crate::error::TrackerError;
use crate::limits::{
    HOUSEKEEPING_INTERVAL_MS, SWEEP_LAP_PAUSE_MS, SWEEP_SLICES_PER_SECOND, TURN_DATAGRAMS, TURN_MESSAGES,
};
use crate::swarm::{Saved, Swept};
use crate::throttle::SourceLimits;
use crate::time::Timestamp;

/// Receives datagrams and sends responses: a worker's ring, or another source.
pub trait Datagrams: Replies {
    /// Passes at most `at_most` received datagrams to the intake, and sends the responses that it writes.
    ///
    /// # Errors
    ///
    /// The source failed and can't continue.
    fn receive<M: Middleware, P: Post>(
        &mut self,
        at_most: usize,
        intake: &mut Intake<'_, M, P>,
    ) -> io::Result<Received>;

    /// Is called at the end of a turn: all its responses are there. They leave now, or when the thread enters the
    /// kernel next, which it does before it sleeps.
    ///
    /// # Errors
    ///
    /// The source failed and can't continue.
    fn submit(&mut self) -> io::Result<()>;
}

/// The statistics of a source of datagrams since the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Number of completions, including those of datagrams.
    pub completions: usize,
    /// Number of datagrams, including those that were dropped.
    pub datagrams: usize,
    /// Number of responses that the kernel did not accept.
    pub send_failed: u64,
    /// Number of datagrams that were dropped because they are longer than any request.
    pub truncated: u64,
    /// Receives that ended early because buffers or queue space ran out, and were started again.
    pub overflows: u64,
}

/// Processes the datagrams of a turn one by one.
pub struct Intake<'a, M, P> {
    now: Timestamp,
    engine: &'a mut Engine,
    mesh: &'a mut P,
    gate: &'a mut Gate<M>,
}

impl<M: Middleware, P: Post> Intake<'_, M, P> {
    /// Processes a datagram: see [`Engine::datagram`].
    #[inline]
    pub fn take(&mut self, from: &Endpoint, datagram: &[u8], out: &mut ReplyBuffer) -> Option<usize> {
        self.engine.datagram(self.now, from, datagram, out, self.mesh, self.gate)
    }

    /// Returns the engine in its state before the next datagram.
    pub fn engine(&self) -> &Engine {
        self.engine
    }
}

/// The thread that a turn runs on, except for its mailbox.
pub trait Host {
    /// The type of its source of datagrams.
    type Datagrams: Datagrams;

    /// Returns its source of datagrams.
    fn datagrams(&mut self) -> &mut Self::Datagrams;

    /// Returns the next order for the engine, if there is one.
    fn next_order(&mut self) -> Option<Order>;

    /// Starts a task for a request for which a middleware waits.
    fn start_wait(&mut self, waiting: Waiting);

    /// Does the thread's other work. Returns true if it must continue in the next turn.
    fn tend(&mut self, now: Timestamp) -> bool;

    /// Publishes the counters, four times a second, with the last internal error of a request since the previous call.
    fn publish(&mut self, now: Timestamp, counters: &mut Counters, fault: Option<TrackerError>);
}

/// An order from the rest of the process to an engine.
pub enum Order {
    /// Replaces the access lists.
    Access(Arc<Access>),
    /// Replaces the policy for announces: see [`Engine::set_policy`].
    Policy(Policy),
    /// Replaces the rate limits of sources.
    SourceLimits(Arc<SourceLimits>),
    /// Loads saved swarms. Newer entries of the table are kept.
    Load(Vec<Saved>),
    /// Runs a function that reads the engine.
    Ask(Box<dyn FnOnce(&Engine) + Send>),
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// Whether there were completions or messages.
    pub worked: bool,
    /// Number of datagrams.
    pub datagrams: usize,
    /// Whether a slice of the sweep was due.
    pub swept: bool,
    /// Whether the counters were published.
    pub published: bool,
    /// Whether work that is due must continue in the next turn.
    pub unfinished: bool,
}

impl Engine {
    /// Runs one turn.
    ///
    /// # Errors
    ///
    /// The source of datagrams failed.
    pub fn turn<M: Middleware, H: Host>(
        &mut self,
        now: Timestamp,
        gate: &mut Gate<M>,
        mailbox: &mut impl Mailbox,
        host: &mut H,
    ) -> io::Result<Turned> {
        let mut unfinished = self.take_orders(now, host);
        let mut intake = Intake { now, engine: self, mesh: mailbox, gate };
        let received = host.datagrams().receive(TURN_DATAGRAMS, &mut intake)?;
        self.answer_announces(now, host.datagrams());
        while let Some(waiting) = gate.next_waiting() {
            host.start_wait(waiting);
        }
        gate.send_answered(host.datagrams());
        if canary::on(Canary::SubmitsEarly) {
            host.datagrams().submit()?;
        }
        let messages = self.take_messages(now, mailbox, host.datagrams());
        unfinished |= messages == TURN_MESSAGES;
        unfinished |= !canary::on(Canary::SkipsDeadlines) && self.expire_gathers(now);
        let swept = now >= self.next_sweep && (now >= self.next_lap || self.shard.is_filling());
        unfinished |= swept && self.sweep_next(now);
        unfinished |= host.tend(now);
        self.counters.add(Counter::DropSendFailed, received.send_failed);
        self.counters.add(Counter::BadTruncated, received.truncated);
        self.counters.add(Counter::RingOverflows, received.overflows);
        let published = now >= self.next_publish;
        if published {
            self.publish(now, host);
        }
        if !canary::on(Canary::SubmitsEarly) {
            host.datagrams().submit()?;
        }
        mailbox.flush();
        let worked = received.completions > 0 || messages > 0;
        Ok(Turned { worked, datagrams: received.datagrams, swept, published, unfinished })
    }

    /// Makes the next turn publish the counters.
    pub fn publish_soon(&mut self) {
        self.next_publish = Timestamp::default();
    }

    /// Executes the orders. Returns true if there may be more: a load is the last order of its turn.
    #[inline]
    fn take_orders(&mut self, now: Timestamp, host: &mut impl Host) -> bool {
        while let Some(order) = host.next_order() {
            match order {
                Order::Access(access) => self.set_access(access),
                Order::Policy(policy) => self.set_policy(policy),
                Order::SourceLimits(limits) => self.set_source_limits(&limits),
                Order::Ask(question) => question(self),
                Order::Load(saved) => {
                    self.load(now, saved);
                    self.gauge(now);
                    return true;
                }
            }
        }
        false
    }

    /// Processes messages from other workers. Returns their number.
    fn take_messages(
        &mut self,
        now: Timestamp,
        mailbox: &mut impl Mailbox,
        replies: &mut impl Replies,
    ) -> usize {
        let mut messages = 0;
        while messages < TURN_MESSAGES
            && let Some((from, message)) = mailbox.take()
        {
            self.receive(now, from, message, mailbox, replies);
            messages += 1;
        }
        self.answer_announces(now, replies);
        messages
    }

    /// Runs the slice of the sweep that is due. Returns true if the next one is due too.
    fn sweep_next(&mut self, now: Timestamp) -> bool {
        let swept = self.sweep(now);
        if swept.lap_ended {
            self.next_lap = now + Duration::from_millis(SWEEP_LAP_PAUSE_MS);
        }
        // A worker that was busy or asleep catches up on missed slices, one in each turn, until the end of a lap.
        let step = Duration::from_micros(1_000_000 / SWEEP_SLICES_PER_SECOND);
        let behind = now.since(self.next_sweep) >= Duration::from_millis(2 * HOUSEKEEPING_INTERVAL_MS);
        self.next_sweep = match swept {
            Swept { is_short: true, .. } => now, // there may be no memory for the next new peer
            Swept { lap_ended, .. } if lap_ended || behind => now + step,
            _ => self.next_sweep + step,
        };
        now >= self.next_sweep
    }

    #[cold]
    fn publish(&mut self, now: Timestamp, host: &mut impl Host) {
        self.next_publish = now + Duration::from_millis(HOUSEKEEPING_INTERVAL_MS);
        self.gauge(now);
        host.publish(now, &mut self.counters, self.fault.take());
    }
}
