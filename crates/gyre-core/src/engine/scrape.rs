//! Owns the counting of the swarms of a scrape, by UDP or HTTP: this worker's own at once, the others' by asking.

use arrayvec::ArrayVec;

use crate::counters::Counter;
use crate::engine::Engine;
use crate::engine::gather::Asker;
use crate::engine::message::{Message, Post, ScrapeCounts, ScrapeJob, Ticket};
use crate::limits::MAX_SCRAPE_HASHES;
use crate::time::Timestamp;
use crate::types::{InfoHash, SwarmCounts, WorkerId};

/// How far the counting of a scrape's swarms has come.
pub(super) enum Counted {
    /// All are this worker's own.
    All(Box<ScrapeCounts>),
    /// The others were asked.
    Asked(Ticket),
    /// They could not be; counted already.
    Busy,
}

impl Engine {
    /// Counts the swarms, in the order asked.
    pub(super) fn count_swarms(
        &mut self,
        now: Timestamp,
        asker: Asker,
        info_hashes: impl Iterator<Item = InfoHash>,
        mesh: &mut impl Post,
    ) -> Counted {
        let mut counts = self.gathers.take_counts();
        let mut jobs = ArrayVec::<(WorkerId, Box<ScrapeJob>), MAX_SCRAPE_HASHES>::new();
        for (place, info_hash) in info_hashes.enumerate() {
            let owner = self.owners.of(&info_hash);
            if owner == self.me {
                counts.push(self.shard.scrape(&info_hash));
                continue;
            }
            let at = jobs.iter().position(|(worker, _)| *worker == owner).unwrap_or_else(|| {
                jobs.push((owner, self.gathers.take_job()));
                jobs.len() - 1
            });
            jobs[at].1.swarms.push((info_hash, place as u8, SwarmCounts::default()));
            counts.push(SwarmCounts::default());
        }
        if jobs.is_empty() {
            return Counted::All(counts);
        }
        match self.gathers.open_scrape(now, asker, counts, jobs.len()) {
            Some(ticket) => self.ask_owners(ticket, jobs, mesh),
            None => {
                jobs.into_iter().for_each(|(_, job)| self.gathers.give_job(job));
                self.counters.bump(Counter::DropGatherFull);
                Counted::Busy
            }
        }
    }

    /// Sends each owner its part. If one can't be asked there is no use in the others.
    fn ask_owners(
        &mut self,
        ticket: Ticket,
        jobs: impl IntoIterator<Item = (WorkerId, Box<ScrapeJob>)>,
        mesh: &mut impl Post,
    ) -> Counted {
        let mut full = false;
        for (owner, job) in jobs {
            let message = Message::Scrape { ticket, job };
            let refused = if full { Some(message) } else { mesh.post(owner, message).err() };
            match refused {
                None => self.counters.bump(Counter::MeshHops),
                Some(Message::Scrape { job, .. }) => {
                    full = true;
                    self.gathers.give_job(job);
                }
                Some(_) => unreachable!("the mesh gives back what it was given"),
            }
        }
        if full {
            self.gathers.close(ticket);
            self.counters.bump(Counter::DropMeshFull);
            return Counted::Busy;
        }
        Counted::Asked(ticket)
    }
}
