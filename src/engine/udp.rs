//! Owns the answers to datagrams.

use std::net::IpAddr;

use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::gather::Asker;
use crate::engine::message::{Endpoint, Message, Post, Replies, UdpAnnounce};
use crate::engine::scrape::Counted;
use crate::limits::{
    LOOK_AHEAD, TURN_DATAGRAMS, UDP_ANNOUNCE_REPLY_BYTES, UDP_REPLY_MAX_BYTES, UDP_V4_PEERS, UDP_V6_PEERS,
};
use crate::swarm::{Ahead, PeerSink};
use crate::time::Timestamp;
use crate::types::{Announce, Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, PeerAddr, SwarmCounts};
use crate::wire::udp::{self, Malformed, Request};

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
    /// Takes a datagram. Returns the length of the response that it wrote, or `None`: there is none, or it comes with
    /// [`answer_announces`](Self::answer_announces).
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
                Some(udp::put_connect(out, transaction_id, self.ids.issue(now, ip)))
            }
            Ok(Request::Announce(request)) => {
                self.counters.bump(Counter::of(Kind::UdpAnnounce, family));
                let known = self.knows(now, ip, request.connection_id);
                known.then(|| self.udp_announce(now, from, &request, out, mesh)).flatten()
            }
            Ok(Request::Scrape(request)) => {
                self.counters.bump(Counter::of(Kind::UdpScrape, family));
                let known = self.knows(now, ip, request.connection_id);
                known.then(|| self.udp_scrape(now, from, &request, out, mesh)).flatten()
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

    /// Whether the client has shown that it receives at its address; counts those that have not.
    #[inline]
    fn knows(&mut self, now: Timestamp, client: IpAddr, connection_id: u64) -> bool {
        let valid = self.ids.verify(now, client, connection_id);
        self.counters.add(Counter::BadConnectionId, u64::from(!valid));
        valid
    }

    #[inline]
    fn udp_announce(
        &mut self,
        now: Timestamp,
        from: &Endpoint,
        request: &udp::Announce<'_>,
        out: &mut ReplyBuffer,
        mesh: &mut impl Post,
    ) -> Option<usize> {
        if request.port == 0 {
            self.counters.bump(Counter::BadAnnouncePort);
            self.counters.bump(Counter::Refused);
            return Some(udp::put_error(out, request.transaction_id, "invalid parameter: port"));
        }
        if !request.options.is_empty() && request.options().malformed {
            self.counters.bump(Counter::BadOptions);
        }
        let peer = PeerAddr::new(from.source.ip(), request.port);
        let most = match peer.family() {
            Family::V4 => UDP_V4_PEERS,
            Family::V6 => UDP_V6_PEERS,
        };
        let asked = u16::try_from(request.num_want.clamp(-1, u16::MAX.into())).ok();
        let announce = Announce {
            info_hash: request.info_hash,
            peer_id: request.peer_id,
            peer,
            event: request.event,
            seeder: request.left == 0,
            num_want: self.policy.num_want(asked).min(most as u16),
            wants_ids: false,
        };
        let transaction_id = request.transaction_id;
        let owner = self.owners.of(&announce.info_hash);
        let request = UdpAnnounce { announce, transaction_id, to: *from };
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
        let interval_secs = self.interval_secs();
        put_announce(out, request.transaction_id, interval_secs, |peers| {
            self.shard.announce(now, &request.announce, &mut self.rng, peers)
        })
    }

    /// Answers the announces that datagrams and messages of this turn have left. They are looked ahead for together, so
    /// that they wait for memory together.
    pub fn answer_announces(&mut self, now: Timestamp, replies: &mut impl Replies) {
        let mut announces = std::mem::take(&mut self.announces);
        for group in announces.chunks(LOOK_AHEAD) {
            let mut ahead = [Ahead::default(); LOOK_AHEAD];
            let ahead = &mut ahead[..group.len()];
            let requests = group.iter().map(|request| &request.announce);
            self.shard.look_ahead::<PackedPeers<'_>>(&requests, &mut self.rng, ahead);
            for (request, ahead) in group.iter().zip(ahead) {
                let interval_secs = self.interval_secs();
                replies.reply(&request.to, |out| {
                    put_announce(out, request.transaction_id, interval_secs, |peers| {
                        self.shard.announce_ahead(now, &request.announce, ahead, peers)
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
    ) -> Option<usize> {
        let info_hashes = request.info_hashes.iter().map(|hash| InfoHash(*hash));
        let transaction_id = request.transaction_id;
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
