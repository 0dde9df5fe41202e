//! Owns what a worker does with the messages of others.

use crate::canary::{self, Canary};
use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::gather::UdpScrape;
use crate::engine::message::{Message, Post, Replies, Source};
use crate::engine::peers::{OwnFamily, PeerList};
use crate::limits::TURN_DATAGRAMS;
use crate::time::Timestamp;
use crate::types::{Announce, Family, SwarmCounts, WorkerId};
use crate::wire::udp;

impl Engine {
    /// Takes a message from another worker.
    pub fn receive(
        &mut self,
        now: Timestamp,
        from: WorkerId,
        message: Message,
        mesh: &mut impl Post,
        replies: &mut impl Replies,
    ) {
        match message {
            Message::UdpAnnounce(request) => {
                if self.announces.len() == TURN_DATAGRAMS {
                    self.answer_announces(now, replies);
                }
                if canary::on(Canary::RepliesTwice) {
                    self.announces.push(request);
                }
                self.announces.push(request); // answered with the others of this turn
            }
            Message::Announce { ticket, announce, source, mut peers } => {
                let counts = self.fill(now, &announce, source, &mut peers);
                self.post_or_drop(from, Message::Announced { ticket, counts, peers }, mesh);
            }
            Message::Scrape { ticket, mut job } => {
                for (info_hash, _, counts) in &mut job.swarms {
                    *counts = self.shard.scrape(info_hash);
                }
                self.post_or_drop(from, Message::Scraped { ticket, job }, mesh);
            }
            Message::Announced { ticket, counts, peers } => self.gathers.announced(ticket, counts, peers),
            Message::Scraped { ticket, job } => {
                let whole = self.gathers.scraped(ticket, job);
                if let Some(UdpScrape { to, transaction_id, counts }) = whole {
                    replies.reply(&to, |out| udp::put_scrape(out, transaction_id, &counts));
                    self.gathers.give_counts(counts);
                    self.counters.bump(Counter::of(Kind::UdpReply, Family::of(to.source.ip())));
                }
            }
        }
    }

    /// Asks a swarm of this worker's own, and fills the list.
    pub(super) fn fill(
        &mut self,
        now: Timestamp,
        announce: &Announce,
        source: Source,
        peers: &mut PeerList,
    ) -> SwarmCounts {
        self.clients.note(now, &announce.peer_id);
        match source {
            Source::Http => self.shard.announce(now, announce, &mut self.rng, peers),
            Source::Udp => self.shard.announce(now, announce, &mut self.rng, &mut OwnFamily(peers)),
        }
    }

    /// Sends what is counted as dropped if the queue is full. On the way back the asker's deadline does the rest.
    pub(super) fn post_or_drop(&mut self, to: WorkerId, message: Message, mesh: &mut impl Post) {
        self.counters.bump(match mesh.post(to, message) {
            Ok(()) => Counter::MeshHops,
            Err(_) => Counter::DropMeshFull,
        });
    }
}
