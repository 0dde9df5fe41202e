//! Owns what a worker's turn does with its engine when the datagrams have been taken in: messages of other workers,
//! waits that are over, a slice of the sweep.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::message::{Mailbox, Replies};
use crate::limits::{HOUSEKEEPING_INTERVAL_MS, SWEEP_SLICES_PER_SECOND, TURN_MESSAGES};
use crate::swarm::Swept;
use crate::time::Timestamp;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tended {
    /// Messages that were taken.
    pub messages: usize,
    /// It was time for a slice of the sweep.
    pub swept: bool,
    /// Something that is due has to go on in the next turn.
    pub unfinished: bool,
}

impl Engine {
    /// Looks after everything but datagrams, each up to a constant.
    pub fn tend(&mut self, now: Timestamp, mailbox: &mut impl Mailbox, replies: &mut impl Replies) -> Tended {
        let mut messages = 0;
        while messages < TURN_MESSAGES
            && let Some((from, message)) = mailbox.take()
        {
            self.receive(now, from, message, mailbox, replies);
            messages += 1;
        }
        self.answer_announces(now, replies);
        let late = self.expire_gathers(now);
        let swept = now >= self.next_sweep;
        let behind = swept && self.sweep_next(now);
        Tended { messages, swept, unfinished: messages == TURN_MESSAGES || late || behind }
    }

    /// Does the slice of the sweep that is due; true if it is time for the next.
    fn sweep_next(&mut self, now: Timestamp) -> bool {
        let swept = self.sweep(now);
        // Slices that a busy or sleeping worker is behind with are made up for, one a turn, up to a lap.
        let step = Duration::from_micros(1_000_000 / SWEEP_SLICES_PER_SECOND);
        let behind = now.since(self.next_sweep) >= Duration::from_millis(2 * HOUSEKEEPING_INTERVAL_MS);
        self.next_sweep = match swept {
            Swept { is_short: true, .. } => now, // whoever comes next may find no memory
            Swept { lap_ended, .. } if lap_ended || behind => now + step,
            _ => self.next_sweep + step,
        };
        now >= self.next_sweep
    }
}
