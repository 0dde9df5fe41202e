//! Owns the step in which the counts of a scrape's swarms are read: those of this worker at once, the others by
//! messages to their owners, whose answers are gathered.

use arrayvec::ArrayVec;

use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::context::{RequestContext, ScrapeRequest};
use crate::engine::gate::Gate;
use crate::engine::gather::{Asker, UdpScrape};
use crate::engine::message::{Answer, Endpoint, Message, Post, Replies, ScrapeCounts, ScrapeJob, Ticket};
use crate::engine::middleware::Middleware;
use crate::engine::receive::passes;
use crate::engine::reply::ReplyBuffer;
use crate::engine::task::Outcome;
use crate::limits::MAX_SCRAPE_HASHES;
use crate::time::Timestamp;
use crate::types::{Family, InfoHash, SwarmCounts, WorkerId};
use crate::wire::query::ScrapeQuery;
use crate::wire::udp;

/// The state of a scrape after this worker's swarms were read.
enum Counted {
    /// All counts are there: this worker owns all swarms.
    All(Box<ScrapeCounts>),
    /// Other workers were asked.
    Waiting(Ticket),
    /// The queues or the slots are full. The counters have it already.
    Busy,
}

impl Engine {
    /// Processes an admitted scrape by UDP. Returns the length of the response in `out` if it is there already.
    pub(super) fn udp_scrape(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        request: &udp::Scrape<'_>,
        out: &mut ReplyBuffer,
        mesh: &mut impl Post,
        gate: &mut Gate<impl Middleware>,
    ) -> Option<usize> {
        let info_hashes = request.info_hashes.iter().map(|hash| InfoHash(*hash));
        if !passes(gate) {
            return self.count_udp(now, from, request.transaction_id, info_hashes, out, mesh);
        }
        let mut query = self.queries.take();
        query.info_hashes.extend(info_hashes);
        let context = RequestContext::Scrape(ScrapeRequest::udp(from, request.transaction_id, query));
        let context = match self.pass(context, from, out, gate) {
            Ok(context) => context,
            Err(concluded) => return concluded,
        };
        let length = match &context {
            RequestContext::Scrape(scrape) => {
                let info_hashes = scrape.query.info_hashes.iter().copied();
                self.count_udp(now, from, request.transaction_id, info_hashes, out, mesh)
            }
            _ => unreachable!("middleware doesn't replace a scrape"),
        };
        self.give_query(context);
        length
    }

    fn count_udp(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        transaction_id: u32,
        info_hashes: impl Iterator<Item = InfoHash>,
        out: &mut ReplyBuffer,
        mesh: &mut impl Post,
    ) -> Option<usize> {
        match self.count_swarms(now, Asker::Udp { to: *from, transaction_id }, info_hashes, mesh) {
            Counted::All(counts) => {
                let length = udp::put_scrape(out, transaction_id, &counts);
                self.gathers.give_counts(counts);
                Some(length)
            }
            Counted::Waiting(_) | Counted::Busy => None, // sent with the last part, or dropped
        }
    }

    /// Processes a scrape for a task that can wait for other workers.
    pub fn scrape(&mut self, now: Timestamp, query: &ScrapeQuery, mesh: &mut impl Post) -> Outcome {
        let info_hashes = query.info_hashes.iter().copied();
        let asker = Asker::Http { waker: None };
        match self.count_swarms(now, asker, info_hashes, mesh) {
            Counted::All(counts) => Outcome::Ready(Answer::Scraped(counts)),
            Counted::Waiting(ticket) => Outcome::Waiting(ticket),
            Counted::Busy => Outcome::Busy,
        }
    }

    /// Processes the counts from another worker. The last part completes the scrape: its task is woken, or its response
    /// by UDP is sent.
    pub(super) fn scraped(&mut self, ticket: Ticket, job: Box<ScrapeJob>, replies: &mut impl Replies) {
        let whole = self.gathers.scraped(ticket, job);
        if let Some(UdpScrape { to, transaction_id, counts }) = whole {
            replies.reply(&to, |out| udp::put_scrape(out, transaction_id, &counts));
            self.gathers.give_counts(counts);
            self.counters.bump(Counter::of(Kind::UdpReply, Family::of(to.source.ip())));
        }
    }

    /// Reads the counts of the swarms, in the order of the request.
    fn count_swarms(
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

    /// Sends each owner its part. If one queue is full, the remaining owners get no message.
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
                Some(_) => unreachable!("the mesh returns the refused message"),
            }
        }
        if full {
            self.gathers.close(ticket);
            self.counters.bump(Counter::DropMeshFull);
            return Counted::Busy;
        }
        Counted::Waiting(ticket)
    }
}
