//! Owns the turn of a worker: the order of its steps, and how much each of them may do. The driver of a worker's thread
//! runs it, and so does the simulation.
//!
//! | step | bounded by |
//! |---|---|
//! | orders of the process: lists, limits, swarms to load | one load |
//! | datagrams: admitted and answered, or kept for the next step | [`TURN_DATAGRAMS`] |
//! | announces of this worker's own swarms, together | as above |
//! | requests that the middleware waits with: tasks are started, finished ones answered | as above, [`MAX_WAITING`] |
//! | messages of other workers, and the announces among them | [`TURN_MESSAGES`] |
//! | requests whose answers from other workers are late | [`TURN_GATHERS`] |
//! | a slice of the sweep, if it is time for one | [`TURN_SWEEP`] |
//! | what the thread itself looks after | [`Host::tend`] |
//! | gauges and counters, four times a second | |
//! | replies are handed to the kernel, the workers that messages were posted to are told | |
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
use crate::limits::{HOUSEKEEPING_INTERVAL_MS, SWEEP_SLICES_PER_SECOND, TURN_DATAGRAMS, TURN_MESSAGES};
use crate::swarm::{Saved, Swept};
use crate::throttle::SourceLimits;
use crate::time::Timestamp;

/// Where datagrams come from and where replies leave: a worker's UDP ring, or another source.
pub trait Datagrams: Replies {
    /// Hands at most `at_most` received datagrams to the intake, and sends the replies that it writes at once.
    ///
    /// # Errors
    ///
    /// What keeps the source from going on.
    fn receive<M: Middleware, P: Post>(
        &mut self,
        at_most: usize,
        intake: &mut Intake<'_, M, P>,
    ) -> io::Result<Received>;

    /// Hands all replies to the kernel.
    ///
    /// # Errors
    ///
    /// What keeps the source from going on.
    fn submit(&mut self) -> io::Result<()>;
}

/// What a source of datagrams did since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Completions taken, those of datagrams among them.
    pub completions: usize,
    /// Replies that the kernel did not take.
    pub send_failed: u64,
    /// Datagrams longer than any request, dropped.
    pub truncated: u64,
    /// Receives that ended early because buffers or queue space ran out, and were started again.
    pub overflows: u64,
}

/// Takes the datagrams of a turn one by one.
pub struct Intake<'a, M, P> {
    now: Timestamp,
    engine: &'a mut Engine,
    mesh: &'a mut P,
    gate: &'a mut Gate<M>,
}

impl<M: Middleware, P: Post> Intake<'_, M, P> {
    /// Takes a datagram: see [`Engine::datagram`].
    #[inline]
    pub fn take(&mut self, from: &Endpoint, datagram: &[u8], out: &mut ReplyBuffer) -> Option<usize> {
        self.engine.datagram(self.now, from, datagram, out, self.mesh, self.gate)
    }

    /// Returns the engine as it stands before the next datagram.
    pub fn engine(&self) -> &Engine {
        self.engine
    }
}

/// The thread that a turn runs on, beside its mail.
pub trait Host {
    /// Its source of datagrams.
    type Datagrams: Datagrams;

    /// Returns its source of datagrams.
    fn datagrams(&mut self) -> &mut Self::Datagrams;

    /// Returns the next order for the engine, if there is one.
    fn next_order(&mut self) -> Option<Order>;

    /// Starts a task in which the middleware waits with a request.
    fn start_wait(&mut self, waiting: Waiting);

    /// Looks after what is the thread's own. Returns true if it has to go on in the next turn.
    fn tend(&mut self, now: Timestamp) -> bool;

    /// Publishes the counters, four times a second, with the last fault that a request met since the last time.
    fn publish(&mut self, now: Timestamp, counters: &mut Counters, fault: Option<TrackerError>);
}

/// What the rest of the process tells an engine.
pub enum Order {
    /// Replaces the access lists.
    Access(Arc<Access>),
    /// Replaces the policy for announces, as far as it can change.
    Policy(Policy),
    /// Replaces the limits of what each source may ask for.
    SourceLimits(Arc<SourceLimits>),
    /// Enters what was saved, as far as it isn't known better.
    Load(Vec<Saved>),
    /// Answers a question.
    Ask(Box<dyn FnOnce(&Engine) + Send>),
}

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// There were datagrams or messages.
    pub worked: bool,
    /// It was time for a slice of the sweep.
    pub swept: bool,
    /// The counters were published.
    pub published: bool,
    /// Something that is due has to go on in the next turn.
    pub unfinished: bool,
}

impl Engine {
    /// Runs one turn.
    ///
    /// # Errors
    ///
    /// Those of the source of datagrams.
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
        let swept = now >= self.next_sweep;
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
        Ok(Turned { worked: received.completions > 0 || messages > 0, swept, published, unfinished })
    }

    /// Has the next turn publish the counters.
    pub fn publish_soon(&mut self) {
        self.next_publish = Timestamp::default();
    }

    /// Follows the orders. Returns true if more may be left: a load takes a turn of its own.
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

    /// Takes messages of other workers. Returns how many it took.
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

    /// Does the slice of the sweep that is due. Returns true if it is time for the next.
    fn sweep_next(&mut self, now: Timestamp) -> bool {
        let swept = self.sweep(now);
        // Slices that a busy or sleeping worker is behind with are made up for, one a turn, up to a lap.
        let step = Duration::from_micros(1_000_000 / SWEEP_SLICES_PER_SECOND);
        let behind = now.since(self.next_sweep) >= Duration::from_millis(2 * HOUSEKEEPING_INTERVAL_MS);
        self.next_sweep = match swept {
            Swept { is_short: true, .. } => now, // the next new peer may find no memory
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
