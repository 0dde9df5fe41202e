//! Owns the requests that wait for answers of other workers: the parts that are missing, the deadline, and where the
//! response goes.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::canary::{self, Canary};
use crate::engine::message::{Answer, Endpoint, ScrapeCounts, ScrapeJob, Ticket};
use crate::engine::peers::PeerList;
use crate::limits::{GATHER_DEADLINE_MS, MAX_GATHERS, POOLED_BOXES, TURN_GATHERS};
use crate::time::Timestamp;
use crate::types::SwarmCounts;

/// The waiting client.
pub(super) enum Asker {
    /// A client by UDP: the response is sent once it is complete.
    Udp { to: Endpoint, transaction_id: u32 },
    /// A task, with its waker once it was polled.
    Http { waker: Option<Waker> },
}

/// The answers so far.
enum Gathered {
    Scrape { counts: Box<ScrapeCounts>, missing: usize },
    Announce(Option<(SwarmCounts, Box<PeerList>)>),
    Late,
}

impl Gathered {
    fn is_ready(&self) -> bool {
        match self {
            Self::Scrape { missing, .. } => *missing == 0,
            Self::Announce(answer) => answer.is_some(),
            Self::Late => true,
        }
    }
}

struct Slot {
    serial: u32,
    asker: Asker,
    gathered: Gathered,
}

/// A complete scrape by UDP.
pub(super) struct UdpScrape {
    pub(super) to: Endpoint,
    pub(super) transaction_id: u32,
    pub(super) counts: Box<ScrapeCounts>,
}

/// All waiting requests of a worker, and the boxes that their messages travel in.
#[derive(Default)]
pub(super) struct Gathers {
    slots: Slab<Slot>,
    next_serial: u32,
    /// In the order of opening, which is the order of the deadlines. Tickets may be settled already.
    deadlines: VecDeque<(Timestamp, Ticket)>,
    jobs: Pool<ScrapeJob>,
    lists: Pool<PeerList>,
    counts: Pool<ScrapeCounts>,
}

impl Gathers {
    /// Opens a wait for `parts` parts of a scrape. `counts` has the counts that are known already. `None`: too many
    /// wait.
    pub(super) fn open_scrape(
        &mut self,
        now: Timestamp,
        asker: Asker,
        counts: Box<ScrapeCounts>,
        parts: usize,
    ) -> Option<Ticket> {
        self.open(now, asker, Gathered::Scrape { counts, missing: parts })
    }

    /// Opens a wait of a task for an announce. `None`: all [`MAX_GATHERS`] slots are taken.
    pub(super) fn open_announce(&mut self, now: Timestamp) -> Option<Ticket> {
        self.open(now, Asker::Http { waker: None }, Gathered::Announce(None))
    }

    fn open(&mut self, now: Timestamp, asker: Asker, gathered: Gathered) -> Option<Ticket> {
        if self.slots.len() >= MAX_GATHERS {
            return None;
        }
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let slot = self.slots.insert(Slot { serial, asker, gathered }) as u32;
        let ticket = Ticket { slot, serial };
        if self.deadlines.len() >= 2 * MAX_GATHERS {
            let slots = &self.slots;
            self.deadlines.retain(|(_, ticket)| is_open(slots, *ticket));
        }
        self.deadlines.push_back((now + Duration::from_millis(GATHER_DEADLINE_MS), ticket));
        Some(ticket)
    }

    /// Takes a part of a scrape. The last part wakes the waiting task, or returns the scrape by UDP to answer.
    pub(super) fn scraped(&mut self, ticket: Ticket, job: Box<ScrapeJob>) -> Option<UdpScrape> {
        if let Some(slot) = self.find(ticket)
            && let Gathered::Scrape { counts, missing } = &mut slot.gathered
        {
            for &(_, place, swarm) in &job.swarms {
                counts[usize::from(place)] = swarm;
            }
            *missing -= 1;
            if *missing == 0 {
                match &mut slot.asker {
                    Asker::Http { waker } => wake(waker),
                    Asker::Udp { .. } => {
                        self.give_job(job);
                        return self.take_udp(ticket);
                    }
                }
            }
        }
        self.give_job(job);
        None
    }

    /// Takes the answer to an announce and wakes the waiting task.
    pub(super) fn announced(&mut self, ticket: Ticket, swarm: SwarmCounts, peers: Box<PeerList>) {
        match self.find(ticket) {
            Some(Slot { asker: Asker::Http { waker }, gathered: Gathered::Announce(answer), .. }) => {
                *answer = Some((swarm, peers));
                wake(waker);
            }
            _ => self.give_list(peers),
        }
    }

    /// Returns the answer that a task waits for, once it is there. `None`: it is late.
    pub(super) fn poll(&mut self, ticket: Ticket, context: &Context<'_>) -> Poll<Option<Answer>> {
        let Some(slot) = self.find(ticket) else {
            return Poll::Ready(None);
        };
        if !slot.gathered.is_ready() {
            if let Asker::Http { waker } = &mut slot.asker {
                *waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        Poll::Ready(match self.slots.remove(ticket.slot as usize).gathered {
            Gathered::Scrape { counts, .. } => Some(Answer::Scraped(counts)),
            Gathered::Announce(answer) => answer.map(|(counts, peers)| Answer::Announced { counts, peers }),
            Gathered::Late => None,
        })
    }

    /// Gives a wait up, if it is still open. Later answers are dropped.
    pub(super) fn close(&mut self, ticket: Ticket) {
        if is_open(&self.slots, ticket) {
            match self.slots.remove(ticket.slot as usize).gathered {
                Gathered::Scrape { counts, .. } => self.give_counts(counts),
                Gathered::Announce(Some((_, peers))) => self.give_list(peers),
                Gathered::Announce(None) | Gathered::Late => {}
            }
        }
    }

    /// Gives up waits past their deadline, at most [`TURN_GATHERS`]. Returns their number.
    pub(super) fn expire(&mut self, now: Timestamp) -> usize {
        let mut late = 0;
        for _ in 0..TURN_GATHERS {
            let Some(&(deadline, ticket)) = self.deadlines.front() else { break };
            let open = is_open(&self.slots, ticket);
            if open && deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if !open {
                continue;
            }
            let slot = &mut self.slots[ticket.slot as usize];
            match &mut slot.asker {
                Asker::Udp { .. } if canary::on(Canary::LeaksWait) => {}
                Asker::Udp { .. } => self.close(ticket),
                Asker::Http { waker } => {
                    if slot.gathered.is_ready() {
                        continue; // its task has not run yet
                    }
                    slot.gathered = Gathered::Late;
                    wake(waker);
                }
            }
            late += 1;
        }
        late
    }

    /// Whether a deadline has passed, even that of a settled wait.
    pub(super) fn is_any_due(&self, now: Timestamp) -> bool {
        self.deadlines.front().is_some_and(|(deadline, _)| *deadline <= now)
    }

    /// Whether no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the number of waiting requests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of deadlines in the list, including those of settled waits.
    #[cfg(test)]
    pub(super) fn tracked_deadlines(&self) -> usize {
        self.deadlines.len()
    }

    pub(super) fn take_job(&mut self) -> Box<ScrapeJob> {
        self.jobs.take()
    }

    pub(super) fn give_job(&mut self, mut job: Box<ScrapeJob>) {
        job.swarms.clear();
        self.jobs.give(job);
    }

    pub(super) fn take_list(&mut self) -> Box<PeerList> {
        self.lists.take()
    }

    pub(super) fn give_list(&mut self, mut list: Box<PeerList>) {
        list.clear();
        self.lists.give(list);
    }

    pub(super) fn take_counts(&mut self) -> Box<ScrapeCounts> {
        self.counts.take()
    }

    pub(super) fn give_counts(&mut self, mut counts: Box<ScrapeCounts>) {
        counts.clear();
        self.counts.give(counts);
    }

    fn find(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        self.slots.get_mut(ticket.slot as usize).filter(|slot| slot.serial == ticket.serial)
    }

    fn take_udp(&mut self, ticket: Ticket) -> Option<UdpScrape> {
        match self.slots.remove(ticket.slot as usize) {
            Slot {
                asker: Asker::Udp { to, transaction_id },
                gathered: Gathered::Scrape { counts, .. },
                ..
            } => Some(UdpScrape { to, transaction_id, counts }),
            _ => None,
        }
    }
}

fn is_open(slots: &Slab<Slot>, ticket: Ticket) -> bool {
    slots.get(ticket.slot as usize).is_some_and(|slot| slot.serial == ticket.serial)
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take().filter(|_| !canary::on(Canary::WakesNobody)) {
        waker.wake();
    }
}

/// Empty boxes for reuse.
#[derive(Default)]
pub(super) struct Pool<T>(#[allow(clippy::vec_box, reason = "the boxes are reused")] Vec<Box<T>>);

impl<T: Default> Pool<T> {
    pub(super) fn take(&mut self) -> Box<T> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn give(&mut self, empty: Box<T>) {
        if self.0.len() < POOLED_BOXES {
            self.0.push(empty);
        }
    }
}
