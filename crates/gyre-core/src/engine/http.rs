//! Owns what is asked from a task, which can wait for other workers: announces and scrapes by HTTP, and whatever a
//! middleware has waited with.

use std::net::IpAddr;
use std::task::{Context, Poll};

use arrayvec::ArrayVec;

use crate::counters::Counter;
use crate::engine::Engine;
use crate::engine::context::{
    AnnounceResponse, ConnectResponse, RequestContext, Response, ScrapeResponse, Terms,
};
use crate::engine::gather::Asker;
use crate::engine::message::{Answer, Message, Post, ScrapeCounts, Source, Ticket};
use crate::engine::peers::PeerList;
use crate::engine::scrape::Counted;
use crate::limits::{MAX_SCRAPE_HASHES, UDP_V4_PEERS, UDP_V6_PEERS};
use crate::time::Timestamp;
use crate::types::{Announce, Family, InfoHash, PeerAddr, SwarmCounts};
use crate::wire::bencode::{self, AnnounceReply, Form, Peers};
use crate::wire::query::{AnnounceQuery, ScrapeQuery};

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
    /// What the swarm has to know of an announce.
    #[inline]
    pub(super) fn announce_of(&self, ip: IpAddr, query: &AnnounceQuery, source: Source) -> Announce {
        let peer = PeerAddr::new(ip, query.port);
        let num_want = self.policy.num_want(query.num_want);
        Announce {
            info_hash: query.info_hash,
            peer_id: query.peer_id,
            peer,
            event: query.event,
            seeder: query.left == Some(0),
            num_want: match (source, peer.family()) {
                (Source::Http, _) => num_want,
                (Source::Udp, Family::V4) => num_want.min(UDP_V4_PEERS as u16),
                (Source::Udp, Family::V6) => num_want.min(UDP_V6_PEERS as u16),
            },
            wants_ids: source == Source::Http && form(query) == Form::WithIds,
        }
    }

    /// Takes an announce of the peer at this address.
    pub fn announce(
        &mut self,
        now: Timestamp,
        ip: IpAddr,
        query: &AnnounceQuery,
        source: Source,
        mesh: &mut impl Post,
    ) -> Outcome {
        let announce = self.announce_of(ip, query, source);
        let owner = self.owners.of(&announce.info_hash);
        let mut peers = self.gathers.take_list();
        if owner == self.me {
            let counts = self.fill(now, &announce, source, &mut peers);
            return Outcome::Ready(Answer::Announced { counts, peers });
        }
        let Some(ticket) = self.gathers.open_announce(now) else {
            self.gathers.give_list(peers);
            self.counters.bump(Counter::DropGatherFull);
            return Outcome::Busy;
        };
        if let Err(refused) = mesh.post(owner, Message::Announce { ticket, announce, source, peers }) {
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
    pub fn scrape(&mut self, now: Timestamp, query: &ScrapeQuery, mesh: &mut impl Post) -> Outcome {
        let info_hashes = query.info_hashes.iter().copied();
        let asker = Asker::Http { waker: None };
        match self.count_swarms(now, asker, info_hashes, mesh) {
            Counted::All(counts) => Outcome::Ready(Answer::Scraped(counts)),
            Counted::Asked(ticket) => Outcome::Waiting(ticket),
            Counted::Busy => Outcome::Busy,
        }
    }

    /// What an [`Outcome::Waiting`] request waits for; `None` when it waited for too long. To be asked until it is
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
        ip: IpAddr,
        query: &AnnounceQuery,
        terms: &Terms,
        counts: SwarmCounts,
        peers: Box<PeerList>,
    ) {
        let reply = AnnounceReply {
            counts,
            interval_secs: terms.interval_secs.unwrap_or_else(|| self.interval_secs()),
            min_interval_secs: terms.min_interval_secs.unwrap_or(self.policy.min_interval_secs),
            external_ip: ip,
            warning: terms.warning.as_deref(),
            peers: packed(&peers),
            form: form(query),
        };
        bencode::put_announce(out, &reply);
        self.gathers.give_list(peers);
    }

    /// Writes the body of the response to a scrape.
    pub fn write_scraped(&mut self, out: &mut Vec<u8>, query: &ScrapeQuery, counts: Box<ScrapeCounts>) {
        put_scrape(out, query, &counts);
        self.gathers.give_counts(counts);
    }

    /// Asks the swarms of a request that a middleware has passed on from a task; a connect has none.
    pub fn ask(
        &mut self,
        now: Timestamp,
        request: &RequestContext<'_>,
        mesh: &mut impl Post,
    ) -> Option<Outcome> {
        match request {
            RequestContext::Connect(_) => None,
            RequestContext::Announce(announce) => {
                let source = if announce.is_source_udp() { Source::Udp } else { Source::Http };
                Some(self.announce(now, announce.ip, &announce.query, source, mesh))
            }
            RequestContext::Scrape(scrape) => Some(self.scrape(now, &scrape.query, mesh)),
        }
    }

    /// Makes a response of what the swarms had to say.
    pub fn respond(
        &mut self,
        now: Timestamp,
        request: &RequestContext<'_>,
        answer: Option<Answer>,
    ) -> Response {
        match answer {
            None => {
                let connection_id = self.ids.issue(now, request.connection().ip());
                Response::Connect(ConnectResponse { connection_id })
            }
            Some(Answer::Announced { counts, peers }) => {
                let terms = match request {
                    RequestContext::Announce(announce) => announce.terms.clone(),
                    _ => Terms::default(),
                };
                Response::Announce(AnnounceResponse {
                    counts,
                    interval_secs: terms.interval_secs.unwrap_or_else(|| self.interval_secs()),
                    min_interval_secs: terms.min_interval_secs.unwrap_or(self.policy.min_interval_secs),
                    warning: terms.warning,
                    peers,
                })
            }
            Some(Answer::Scraped(counts)) => Response::Scrape(ScrapeResponse { counts }),
        }
    }
}

/// Writes the body of an announce's response that a middleware had in hand.
pub(super) fn put_announce(
    out: &mut Vec<u8>,
    ip: IpAddr,
    query: &AnnounceQuery,
    response: &AnnounceResponse,
) {
    let reply = AnnounceReply {
        counts: response.counts,
        interval_secs: response.interval_secs,
        min_interval_secs: response.min_interval_secs,
        external_ip: ip,
        warning: response.warning.as_deref(),
        peers: packed(&response.peers),
        form: form(query),
    };
    bencode::put_announce(out, &reply);
}

/// Writes the body of a scrape's response. Where there are more hashes than counts the rest is left out.
pub(super) fn put_scrape(out: &mut Vec<u8>, query: &ScrapeQuery, counts: &ScrapeCounts) {
    let mut swarms: ArrayVec<(InfoHash, SwarmCounts), MAX_SCRAPE_HASHES> =
        query.info_hashes.iter().copied().zip(counts.iter().copied()).collect();
    bencode::put_scrape(out, &mut swarms);
}

fn packed(peers: &PeerList) -> Peers<'_> {
    Peers { v4: &peers.v4, v6: &peers.v6, v4_ids: &peers.v4_ids, v6_ids: &peers.v6_ids }
}

/// The form in which a client wants its peers.
fn form(query: &AnnounceQuery) -> Form {
    match (query.compact, query.no_peer_id) {
        (true, _) => Form::Compact,
        (false, true) => Form::WithoutIds,
        (false, false) => Form::WithIds,
    }
}
