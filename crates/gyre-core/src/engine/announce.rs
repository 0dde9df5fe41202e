//! Owns the step in which an announce updates its swarm: at once if this worker owns the swarm, otherwise by a message
//! to the owner.

use std::net::IpAddr;

use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::context::{AnnounceRequest, RequestContext, query_of_udp};
use crate::engine::gate::Gate;
use crate::engine::message::{Answer, Endpoint, Message, Post, Replies, Source, UdpAnnounce};
use crate::engine::middleware::Middleware;
use crate::engine::peers::{OwnFamily, PeerList};
use crate::engine::receive::passes;
use crate::engine::reply::{PackedPeers, ReplyBuffer, form, put_udp_announce};
use crate::engine::task::Outcome;
use crate::limits::{LOOK_AHEAD, TURN_DATAGRAMS, UDP_V4_PEERS, UDP_V6_PEERS};
use crate::swarm::Lookahead;
use crate::time::Timestamp;
use crate::types::{Announce, Family, PeerAddr, SwarmCounts};
use crate::wire::bencode::Form;
use crate::wire::query::AnnounceQuery;
use crate::wire::udp::{self, Options};

impl Engine {
    /// Processes an admitted announce by UDP. Returns the length of the response in `out` if it is there already.
    #[inline]
    pub(super) fn udp_announce<const GUARDED: bool>(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        request: &udp::Announce<'_>,
        out: &mut ReplyBuffer,
        mesh: &mut impl Post,
        gate: &mut Gate<impl Middleware>,
    ) -> Option<usize> {
        if request.port == 0 {
            self.counters.bump(Counter::BadAnnouncePort);
            self.counters.bump(Counter::Refused);
            return Some(udp::put_error(out, request.transaction_id, "invalid parameter: port"));
        }
        if GUARDED && let Some(denied) = self.deny_udp(now, request, out) {
            return denied;
        }
        if Options::are_malformed(request.options) {
            self.counters.bump(Counter::BadOptions);
        }
        let (announce, interval_secs) = match passes(gate) {
            false => (self.announce_of(from.source.ip(), &query_of_udp(request), Source::Udp), None),
            true => match self.pass(
                RequestContext::Announce(AnnounceRequest::udp(from, request)),
                from,
                out,
                gate,
            ) {
                Ok(RequestContext::Announce(passed)) => {
                    (self.announce_of(passed.ip, &passed.query, Source::Udp), passed.terms.interval_secs)
                }
                Ok(_) => unreachable!("middleware doesn't replace an announce"),
                Err(concluded) => return concluded,
            },
        };
        let interval_secs = interval_secs.unwrap_or_else(|| self.interval_secs());
        let transaction_id = request.transaction_id;
        let owner = self.owners.of(&announce.info_hash);
        let request = UdpAnnounce { announce, transaction_id, interval_secs, to: *from };
        if owner != self.me {
            self.post_or_drop(owner, Message::UdpAnnounce(request), mesh);
            return None;
        }
        if self.announces.len() == TURN_DATAGRAMS {
            return Some(self.answer_udp_announce(now, &request, out));
        }
        self.announces.push(request); // answered with the others of this turn
        None
    }

    /// Answers an announce for one of this worker's swarms. Returns the length of the response.
    #[inline]
    fn answer_udp_announce(&mut self, now: Timestamp, request: &UdpAnnounce, out: &mut ReplyBuffer) -> usize {
        put_udp_announce(out, request.transaction_id, request.interval_secs, |peers| {
            self.shard.announce(now, &request.announce, &mut self.rng, peers)
        })
    }

    /// Answers the announces that this turn's datagrams and messages have queued. They are processed in groups: the
    /// table is prefetched for all of a group, so that their memory accesses overlap.
    pub fn answer_announces(&mut self, now: Timestamp, replies: &mut impl Replies) {
        let mut announces = std::mem::take(&mut self.announces);
        if let Some(first) = announces.first() {
            self.clients.note(now, &first.announce.peer_id); // one for each turn is enough of a sample
        }
        for group in announces.chunks(LOOK_AHEAD) {
            let mut ahead = [Lookahead::default(); LOOK_AHEAD];
            let ahead = &mut ahead[..group.len()];
            let requests = group.iter().map(|request| &request.announce);
            self.shard.look_ahead::<PackedPeers<'_>>(&requests, &mut self.rng, ahead);
            for (request, ahead) in group.iter().zip(ahead) {
                replies.reply(&request.to, |out| {
                    put_udp_announce(out, request.transaction_id, request.interval_secs, |peers| {
                        self.shard.announce_prefetched(now, &request.announce, ahead, peers)
                    })
                });
                self.counters.bump(Counter::of(Kind::UdpReply, Family::of(request.to.source.ip())));
            }
        }
        announces.clear();
        self.announces = announces;
    }

    /// Processes an announce of the peer at this address, for a task that can wait for another worker.
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

    /// Announces to one of this worker's swarms and fills the list with its peers. Returns the swarm's counts.
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

    /// Returns the part of an announce that the swarm needs.
    #[inline]
    fn announce_of(&self, ip: IpAddr, query: &AnnounceQuery, source: Source) -> Announce {
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
}
