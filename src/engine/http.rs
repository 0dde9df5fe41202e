//! Owns the answers to announces and scrapes by HTTP.

use std::net::IpAddr;
use std::task::{Context, Poll};

use arrayvec::ArrayVec;

use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::gather::Asker;
use crate::engine::message::{Answer, Message, PeerList, Post, ScrapeCounts, Ticket};
use crate::engine::scrape::Counted;
use crate::limits::MAX_SCRAPE_HASHES;
use crate::time::Timestamp;
use crate::types::{Announce, Family, InfoHash, PeerAddr, SwarmCounts};
use crate::wire::bencode::{self, AnnounceReply, Form, Peers};
use crate::wire::query::{AnnounceQuery, ScrapeQuery};

/// An announce by HTTP.
#[derive(Clone, Copy, Debug)]
pub struct HttpAnnounce<'a> {
    /// Where the request came from.
    pub ip: IpAddr,
    /// The passkey of its path; no access list looks at it yet.
    pub passkey: Option<&'a str>,
    /// Its parameters.
    pub query: AnnounceQuery,
}

/// A scrape by HTTP.
#[derive(Clone, Debug)]
pub struct HttpScrape<'a> {
    /// Where the request came from.
    pub ip: IpAddr,
    /// The passkey of its path; no access list looks at it yet.
    pub passkey: Option<&'a str>,
    /// Its parameters.
    pub query: ScrapeQuery,
}

/// How far a request has come.
#[derive(Debug)]
pub enum Outcome {
    /// It is answered.
    Ready(Answer),
    /// Other workers were asked: see [`Engine::poll`].
    Waiting(Ticket),
    /// There is no room to ask them; counted already.
    Busy,
}

impl Engine {
    /// Takes an announce.
    pub fn http_announce(
        &mut self,
        now: Timestamp,
        request: &HttpAnnounce<'_>,
        mesh: &mut impl Post,
    ) -> Outcome {
        self.counters.bump(Counter::of(Kind::HttpAnnounce, Family::of(request.ip)));
        let query = &request.query;
        let announce = Announce {
            info_hash: query.info_hash,
            peer_id: query.peer_id,
            peer: PeerAddr::new(request.ip, query.port),
            event: query.event,
            seeder: query.left == Some(0),
            num_want: self.policy.num_want(query.num_want),
            wants_ids: form(query) == Form::WithIds,
        };
        let owner = self.owners.of(&announce.info_hash);
        let mut peers = self.gathers.take_list();
        if owner == self.me {
            let counts = self.shard.announce(now, &announce, &mut self.rng, &mut *peers);
            return Outcome::Ready(Answer::Announced { counts, peers });
        }
        let Some(ticket) = self.gathers.open_announce(now) else {
            self.gathers.give_list(peers);
            self.counters.bump(Counter::DropGatherFull);
            return Outcome::Busy;
        };
        if let Err(refused) = mesh.post(owner, Message::Announce { ticket, announce, peers }) {
            if let Message::Announce { peers, .. } = refused {
                self.gathers.give_list(peers);
            }
            self.gathers.close(ticket);
            self.counters.bump(Counter::DropMeshFull);
            return Outcome::Busy;
        }
        self.counters.bump(Counter::MeshHops);
        Outcome::Waiting(ticket)
    }

    /// Takes a scrape.
    pub fn http_scrape(&mut self, now: Timestamp, request: &HttpScrape<'_>, mesh: &mut impl Post) -> Outcome {
        self.counters.bump(Counter::of(Kind::HttpScrape, Family::of(request.ip)));
        let info_hashes = request.query.info_hashes.iter().copied();
        let asker = Asker::Http { waker: None };
        match self.count_swarms(now, asker, info_hashes, mesh) {
            Counted::All(counts) => Outcome::Ready(Answer::Scraped(counts)),
            Counted::Asked(ticket) => Outcome::Waiting(ticket),
            Counted::Busy => Outcome::Busy,
        }
    }

    /// What a [`Outcome::Waiting`] request waits for; `None` when it waited for too long. To be asked until it is
    /// ready, or given up with [`abandon`](Self::abandon).
    pub fn poll(&mut self, ticket: Ticket, context: &Context<'_>) -> Poll<Option<Answer>> {
        self.gathers.poll(ticket, context)
    }

    /// Gives up waiting.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.gathers.close(ticket);
    }

    /// Writes the body of the response to an announce.
    pub fn write_announced(
        &mut self,
        out: &mut Vec<u8>,
        request: &HttpAnnounce<'_>,
        counts: SwarmCounts,
        peers: Box<PeerList>,
    ) {
        let reply = AnnounceReply {
            counts,
            interval_secs: self.interval_secs(),
            min_interval_secs: self.policy.min_interval_secs,
            external_ip: request.ip,
            peers: Peers { v4: &peers.v4, v6: &peers.v6, v4_ids: &peers.v4_ids, v6_ids: &peers.v6_ids },
            form: form(&request.query),
        };
        bencode::put_announce(out, &reply);
        self.gathers.give_list(peers);
    }

    /// Writes the body of the response to a scrape.
    pub fn write_scraped(&mut self, out: &mut Vec<u8>, request: &HttpScrape<'_>, counts: Box<ScrapeCounts>) {
        let mut swarms: ArrayVec<(InfoHash, SwarmCounts), MAX_SCRAPE_HASHES> =
            request.query.info_hashes.iter().copied().zip(counts.iter().copied()).collect();
        bencode::put_scrape(out, &mut swarms);
        self.gathers.give_counts(counts);
    }
}

/// The form in which a client wants its peers.
fn form(query: &AnnounceQuery) -> Form {
    match (query.compact, query.no_peer_id) {
        (true, _) => Form::Compact,
        (false, true) => Form::WithoutIds,
        (false, false) => Form::WithIds,
    }
}
