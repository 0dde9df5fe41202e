//! Owns the last step, which writes the response: the swarms' answer or the decision of a middleware.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use http::StatusCode;

use crate::counters::Counter;
use crate::engine::Engine;
use crate::engine::context::{
    AnnounceResponse, ConnectResponse, RequestContext, Response, ScrapeResponse, Sent, Terms,
};
use crate::engine::message::{Answer, ScrapeCounts};
use crate::engine::peers::PeerList;
use crate::error::{Code, TrackerError};
use crate::limits::{
    MAX_SCRAPE_HASHES, UDP_ANNOUNCE_REPLY_BYTES, UDP_CONNECT_REPLY_BYTES, UDP_REPLY_HEAD_BYTES,
    UDP_REPLY_MAX_BYTES, UDP_V4_PEERS, UDP_V6_PEERS,
};
use crate::swarm::PeerSink;
use crate::time::Timestamp;
use crate::types::{Family, InfoHash, PEER_V4_BYTES, PEER_V6_BYTES, SwarmCounts};
use crate::wire::bencode::{self, AnnounceReply, Form, Peers, put_failure};
use crate::wire::query::{AnnounceQuery, ScrapeQuery};
use crate::wire::udp;

/// A buffer for a response by UDP of any length.
pub type ReplyBuffer = [u8; UDP_REPLY_MAX_BYTES];

/// The error message for clients after an internal error.
const INTERNAL: &str = "internal error";

/// Writes the selected peers directly into the response.
pub(super) struct PackedPeers<'a> {
    out: &'a mut ReplyBuffer,
    length: usize,
}

impl PackedPeers<'_> {
    #[inline]
    fn put(&mut self, peers: &[u8]) {
        self.out[self.length..][..peers.len()].copy_from_slice(peers);
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

/// Writes the response to an announce by UDP, with the peers from `announce`. Returns its length.
#[inline]
pub(super) fn put_udp_announce<'a>(
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
    /// Writes the body of the response to an announce by HTTP.
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

    /// Writes the body of the response to a scrape by HTTP.
    pub fn write_scraped(&mut self, out: &mut Vec<u8>, query: &ScrapeQuery, counts: Box<ScrapeCounts>) {
        put_scrape(out, query, &counts);
        self.gathers.give_counts(counts);
    }

    /// Makes a response from the swarms' answer, which middleware can change. With `None` it is the response to a
    /// connect.
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

    /// Writes the response that a middleware decided on as a datagram. Returns its length. `None`: the client gets no
    /// response.
    pub fn conclude_udp(
        &mut self,
        request: &mut RequestContext<'_>,
        result: Result<(), TrackerError>,
        out: &mut ReplyBuffer,
    ) -> Option<usize> {
        let transaction_id = request.transaction_id().expect("a request by UDP has a transaction id");
        let (sent, family) = (request.take_sent(), request.family());
        let Some(response) = self.concluded(sent, result).map(|sent| sent.response) else {
            self.counters.bump(Counter::Silenced);
            return None;
        };
        let length = match response {
            Response::Connect(response) => udp::put_connect(out, transaction_id, response.connection_id),
            Response::Announce(response) => put_announced(out, transaction_id, family, &response),
            Response::Scrape(response) => udp::put_scrape(out, transaction_id, &response.counts),
            Response::Failure(error) => {
                self.counters.bump(Counter::Refused);
                udp::put_error(out, transaction_id, error.message())
            }
            Response::Raw(bytes) => {
                let length = bytes.len().min(out.len());
                out[..length].copy_from_slice(&bytes[..length]);
                length
            }
        };
        // A client that has not proved that it receives at its address gets no more bytes than it sent.
        Some(if request.is_connect() { length.min(UDP_CONNECT_REPLY_BYTES) } else { length })
    }

    /// Writes the response that a middleware decided on as the body of a response by HTTP. Returns its status.
    pub fn conclude_http(
        &mut self,
        request: &mut RequestContext<'_>,
        result: Result<(), TrackerError>,
        out: &mut Vec<u8>,
    ) -> StatusCode {
        let sent = request.take_sent();
        let Some(Sent { response, status }) = self.concluded(sent, result) else {
            self.counters.bump(Counter::Silenced);
            return StatusCode::FORBIDDEN;
        };
        let ip = request.connection().ip();
        match (response, request) {
            (Response::Announce(response), RequestContext::Announce(announce)) => {
                put_announce(out, ip, &announce.query, &response);
                self.gathers.give_list(response.peers);
            }
            (Response::Scrape(response), RequestContext::Scrape(scrape)) => {
                put_scrape(out, &scrape.query, &response.counts);
                self.gathers.give_counts(response.counts);
            }
            (Response::Raw(bytes), _) => out.extend_from_slice(&bytes),
            (Response::Failure(error), _) => {
                self.counters.bump(Counter::Refused);
                let never = !matches!(error.code(), Code::Unavailable | Code::Internal);
                put_failure(out, error.message(), never);
            }
            // A response that doesn't fit the request is refused when it is sent, but it may be replaced afterwards.
            _ => put_failure(out, INTERNAL, false),
        }
        status
    }

    /// Returns the final response: the response that a middleware sent, otherwise its error.
    fn concluded(&mut self, sent: Option<Box<Sent>>, result: Result<(), TrackerError>) -> Option<Sent> {
        match (sent, result) {
            (Some(sent), _) => Some(*sent),
            (None, Ok(())) => None,
            (None, Err(error)) => {
                let error = match error.code().is_fault() {
                    // Internal errors are logged, not sent to clients.
                    true => {
                        self.counters.bump(Counter::Faults);
                        self.fault = Some(error);
                        TrackerError::new(Code::Internal, INTERNAL)
                    }
                    false => error,
                };
                Some(Sent { response: Response::Failure(error), status: StatusCode::OK })
            }
        }
    }

    /// Returns the box of a scrape to its pool.
    pub(super) fn give_query(&mut self, request: RequestContext<'_>) {
        if let RequestContext::Scrape(scrape) = request {
            let mut query: Box<ScrapeQuery> = scrape.query;
            query.info_hashes.clear();
            self.queries.give(query);
        }
    }
}

/// Writes the response to an announce by UDP after middleware, with the peers of the client's address family. Returns
/// its length.
fn put_announced(
    out: &mut ReplyBuffer,
    transaction_id: u32,
    family: Family,
    response: &AnnounceResponse,
) -> usize {
    udp::put_announce_head(out, transaction_id, response.interval_secs, response.counts);
    let room = match family {
        Family::V4 => UDP_V4_PEERS * PEER_V4_BYTES,
        Family::V6 => UDP_V6_PEERS * PEER_V6_BYTES,
    };
    let packed = response.peers.packed(family);
    let packed = &packed[..packed.len().min(room)];
    let end = UDP_ANNOUNCE_REPLY_BYTES + packed.len();
    out[UDP_ANNOUNCE_REPLY_BYTES..end].copy_from_slice(packed);
    end
}

/// Writes the body of the response to an announce by HTTP after middleware.
fn put_announce(out: &mut Vec<u8>, ip: IpAddr, query: &AnnounceQuery, response: &AnnounceResponse) {
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

/// Writes the body of the response to a scrape by HTTP. Info-hashes without counts are left out.
fn put_scrape(out: &mut Vec<u8>, query: &ScrapeQuery, counts: &ScrapeCounts) {
    let mut swarms: ArrayVec<(InfoHash, SwarmCounts), MAX_SCRAPE_HASHES> =
        query.info_hashes.iter().copied().zip(counts.iter().copied()).collect();
    bencode::put_scrape(out, &mut swarms);
}

fn packed(peers: &PeerList) -> Peers<'_> {
    Peers { v4: &peers.v4, v6: &peers.v6, v4_ids: &peers.v4_ids, v6_ids: &peers.v6_ids }
}

/// Returns the form of the peer list that a client requests.
pub(super) fn form(query: &AnnounceQuery) -> Form {
    match (query.compact, query.no_peer_id) {
        (true, _) => Form::Compact,
        (false, true) => Form::WithoutIds,
        (false, false) => Form::WithIds,
    }
}

const _: () = assert!(UDP_REPLY_HEAD_BYTES < UDP_CONNECT_REPLY_BYTES);
