//! Owns the answers to datagrams.

use std::net::IpAddr;

use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::context::{AnnounceRequest, ConnectRequest, RequestContext, ScrapeRequest, query_of_udp};
use crate::engine::gate::{Gate, Verdict};
use crate::engine::gather::Asker;
use crate::engine::message::{Endpoint, Message, Post, Replies, Source, UdpAnnounce};
use crate::engine::middleware::Middleware;
use crate::engine::scrape::Counted;
use crate::limits::{LOOK_AHEAD, TURN_DATAGRAMS, UDP_ANNOUNCE_REPLY_BYTES, UDP_REPLY_MAX_BYTES};
use crate::swarm::{Lookahead, PeerSink};
use crate::throttle::Limited;
use crate::time::Timestamp;
use crate::types::{Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, SwarmCounts};
use crate::wire::udp::{self, Malformed, Options, Request};

/// A buffer that holds any UDP response.
pub(super) type ReplyBuffer = [u8; UDP_REPLY_MAX_BYTES];

/// Writes the chosen peers where they are sent from.
struct PackedPeers<'a> {
    out: &'a mut ReplyBuffer,
    length: usize,
}

impl PackedPeers<'_> {
    #[inline]
    fn put(&mut self, peers: &[u8]) {
        self.out[self.length..self.length + peers.len()].copy_from_slice(peers);
        self.length += peers.len();
    }
}

impl PeerSink for PackedPeers<'_> {
    const BOTH_FAMILIES: bool = false;

    #[inline]
    fn v4(&mut self, peers: &[[u8; PEER_V4_BYTES]], _: &[[u8; 20]]) {
        self.put(peers.as_flattened());
    }

    #[inline]
    fn v6(&mut self, peers: &[[u8; PEER_V6_BYTES]], _: &[[u8; 20]]) {
        self.put(peers.as_flattened());
    }
}

/// Whether requests pass a middleware at all. Known when it is compiled: without one nothing is left of all this.
#[inline]
const fn passes<M: Middleware>(_: &Gate<M>) -> bool {
    !M::IS_NONE
}

/// Writes the response to an announce that `announce` makes; returns its length.
#[inline]
fn put_announce<'a>(
    out: &'a mut ReplyBuffer,
    transaction_id: u32,
    interval_secs: u32,
    announce: impl FnOnce(&mut PackedPeers<'a>) -> SwarmCounts,
) -> usize {
    let mut peers = PackedPeers { out, length: UDP_ANNOUNCE_REPLY_BYTES };
    let counts = announce(&mut peers);
    udp::put_announce_head(peers.out, transaction_id, interval_secs, counts);
    peers.length
}

impl Engine {
    /// Takes a datagram, which the middleware sees if it is a request of a client that is known. Returns the length of
    /// the response that it wrote, or `None`: there is none, or it comes with
    /// [`answer_announces`](Self::answer_announces), or from a task ([`Gate::next_waiting`]).
    ///
    /// Before a client has shown by its connection id that it receives at its address, it gets no more bytes than it
    /// sent: a connect gets its 16 bytes back, all else nothing.
    #[inline]
    pub fn datagram(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        datagram: &[u8],
        out: &mut ReplyBuffer,
        mesh: &mut impl Post,
        gate: &mut Gate<impl Middleware>,
    ) -> Option<usize> {
        match self.is_guarded {
            false => self.take::<false>(now, from, datagram, out, mesh, gate),
            true => self.take::<true>(now, from, datagram, out, mesh, gate),
        }
    }

    /// The same, with lists and limits or without any: then nothing is left of them.
    #[inline]
    fn take<const GUARDED: bool>(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        datagram: &[u8],
        out: &mut ReplyBuffer,
        mesh: &mut impl Post,
        gate: &mut Gate<impl Middleware>,
    ) -> Option<usize> {
        if from.source.port() == 0 {
            self.counters.bump(Counter::BadSourcePort);
            return None;
        }
        let ip = from.source.ip();
        let family = Family::of(ip);
        let length = match Request::parse(datagram) {
            Ok(Request::Connect { transaction_id }) => {
                self.counters.bump(Counter::of(Kind::UdpConnect, family));
                if GUARDED && !self.permits(now, ip, Limited::Connect) {
                    return None;
                }
                self.udp_connect(now, from, ip, transaction_id, out, gate)
            }
            Ok(Request::Announce(request)) => {
                self.counters.bump(Counter::of(Kind::UdpAnnounce, family));
                if !self.knows::<GUARDED>(now, ip, request.connection_id, Limited::Announce) {
                    return None;
                }
                self.udp_announce::<GUARDED>(now, from, &request, out, mesh, gate)
            }
            Ok(Request::Scrape(request)) => {
                self.counters.bump(Counter::of(Kind::UdpScrape, family));
                if !self.knows::<GUARDED>(now, ip, request.connection_id, Limited::Scrape) {
                    return None;
                }
                self.udp_scrape(now, from, &request, out, mesh, gate)
            }
            Err(malformed) => {
                self.counters.bump(match malformed {
                    Malformed::Short => Counter::BadShort,
                    Malformed::Magic => Counter::BadMagic,
                    Malformed::Action => Counter::BadAction,
                });
                None
            }
        };
        if length.is_some() {
            self.counters.bump(Counter::of(Kind::UdpReply, family));
        }
        length
    }

    #[inline]
    fn udp_connect(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        ip: IpAddr,
        transaction_id: u32,
        out: &mut ReplyBuffer,
        gate: &mut Gate<impl Middleware>,
    ) -> Option<usize> {
        if passes(gate) {
            let request = RequestContext::Connect(ConnectRequest::udp(from, transaction_id));
            if let Err(concluded) = self.pass(request, from, out, gate) {
                return concluded;
            }
        }
        Some(udp::put_connect(out, transaction_id, self.ids.issue(now, ip)))
    }

    /// Shows a request to the middleware. An error has the length of the response, if there is one: the swarm is not to
    /// be asked.
    #[inline]
    fn pass<'a>(
        &mut self,
        mut request: RequestContext<'a>,
        from: &Endpoint,
        out: &mut ReplyBuffer,
        gate: &mut Gate<impl Middleware>,
    ) -> Result<RequestContext<'a>, Option<usize>> {
        match gate.ask(&mut request) {
            Verdict::Pass => Ok(request),
            Verdict::Concluded(result) => {
                let length = self.conclude_udp(&mut request, result, out);
                self.give_query(request);
                Err(length)
            }
            Verdict::Wait(passed) => {
                let kept = gate.keep(request, passed, from);
                self.counters.add(Counter::DropWaitFull, u64::from(!kept));
                Err(None)
            }
        }
    }

    #[inline]
    fn udp_announce<const GUARDED: bool>(
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
                Ok(RequestContext::Announce(asked)) => {
                    (self.announce_of(asked.ip, &asked.query, Source::Udp), asked.terms.interval_secs)
                }
                Ok(_) => unreachable!("an announce stays one"),
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

    /// Answers an announce for a swarm of this worker's own.
    #[inline]
    fn answer_udp_announce(&mut self, now: Timestamp, request: &UdpAnnounce, out: &mut ReplyBuffer) -> usize {
        put_announce(out, request.transaction_id, request.interval_secs, |peers| {
            self.shard.announce(now, &request.announce, &mut self.rng, peers)
        })
    }

    /// Answers the announces that datagrams and messages of this turn have left. They are looked ahead for together, so
    /// that they wait for memory together.
    pub fn answer_announces(&mut self, now: Timestamp, replies: &mut impl Replies) {
        let mut announces = std::mem::take(&mut self.announces);
        if let Some(first) = announces.first() {
            self.clients.note(now, &first.announce.peer_id); // one of a turn is sample enough
        }
        for group in announces.chunks(LOOK_AHEAD) {
            let mut ahead = [Lookahead::default(); LOOK_AHEAD];
            let ahead = &mut ahead[..group.len()];
            let requests = group.iter().map(|request| &request.announce);
            self.shard.look_ahead::<PackedPeers<'_>>(&requests, &mut self.rng, ahead);
            for (request, ahead) in group.iter().zip(ahead) {
                replies.reply(&request.to, |out| {
                    put_announce(out, request.transaction_id, request.interval_secs, |peers| {
                        self.shard.announce_prefetched(now, &request.announce, ahead, peers)
                    })
                });
                self.counters.bump(Counter::of(Kind::UdpReply, Family::of(request.to.source.ip())));
            }
        }
        announces.clear();
        self.announces = announces;
    }

    fn udp_scrape(
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
        let asked = RequestContext::Scrape(ScrapeRequest::udp(from, request.transaction_id, query));
        let asked = match self.pass(asked, from, out, gate) {
            Ok(asked) => asked,
            Err(concluded) => return concluded,
        };
        let length = match &asked {
            RequestContext::Scrape(scrape) => {
                let info_hashes = scrape.query.info_hashes.iter().copied();
                self.count_udp(now, from, request.transaction_id, info_hashes, out, mesh)
            }
            _ => unreachable!("a scrape stays one"),
        };
        self.give_query(asked);
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
            Counted::Asked(_) | Counted::Busy => None, // the last part to come sends it; or it is dropped
        }
    }
}
