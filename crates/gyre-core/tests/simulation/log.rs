//! Owns the log of a run: the last events, for reading after a failure, the number of events of each kind, and a hash
//! of all events, which is the same in each run of a seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Arguments, Write as _};
use std::rc::Rc;

/// Number of events that are printed after a failure.
const SHOWN_EVENTS: usize = 60;

/// The events of a run. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Events>>);

#[derive(Default)]
struct Events {
    hash: u64,
    last: VecDeque<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl Log {
    /// Logs an event.
    pub(crate) fn note(&self, kind: &'static str, what: Arguments<'_>) {
        let events = &mut *self.0.borrow_mut();
        let mut line = match events.last.len() {
            SHOWN_EVENTS => events.last.pop_front().unwrap_or_default(),
            _ => String::new(),
        };
        line.clear();
        let _ = write!(line, "{kind}: {what}");
        for byte in line.bytes() {
            events.hash = (events.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        events.last.push_back(line);
        *events.counts.entry(kind).or_default() += 1;
    }

    /// Counts events without logging them.
    pub(crate) fn add(&self, kind: &'static str, more: u64) {
        *self.0.borrow_mut().counts.entry(kind).or_default() += more;
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    /// Returns the number of events by kind, without zeros.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .borrow()
            .counts
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Returns the last events, one per line.
    pub(crate) fn last(&self) -> String {
        self.0.borrow().last.iter().fold(String::new(), |text, line| text + "  " + line + "\n")
    }
}
