//! Owns the end of requests that a middleware has answered, refused or waited with.

use http::StatusCode;

use crate::counters::Counter;
use crate::engine::Engine;
use crate::engine::context::{AnnounceResponse, RequestContext, Response, Sent};
use crate::engine::http::{put_announce, put_scrape};
use crate::engine::udp::ReplyBuffer;
use crate::error::{Code, TrackerError};
use crate::limits::{
    UDP_ANNOUNCE_REPLY_BYTES, UDP_CONNECT_REPLY_BYTES, UDP_REPLY_HEAD_BYTES, UDP_V4_PEERS, UDP_V6_PEERS,
};
use crate::types::{Family, PEER_V4_BYTES, PEER_V6_BYTES};
use crate::wire::bencode::put_failure;
use crate::wire::query::ScrapeQuery;
use crate::wire::udp;

/// What a client is told of a fault of the program's.
const INTERNAL: &str = "internal error";

impl Engine {
    /// Writes what a middleware has come to, as a datagram; returns its length. `None`: there is to be no answer.
    pub fn conclude_udp(
        &mut self,
        request: &mut RequestContext<'_>,
        result: Result<(), TrackerError>,
        out: &mut ReplyBuffer,
    ) -> Option<usize> {
        let transaction_id = request.transaction_id().expect("a request by UDP has a number");
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
        // Who has not shown that it receives at its address gets no more bytes than it sent.
        Some(if request.is_connect() { length.min(UDP_CONNECT_REPLY_BYTES) } else { length })
    }

    /// Writes what a middleware has come to, as the body of a response by HTTP; returns its status.
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
                put_failure(
                    out,
                    error.message(),
                    !matches!(error.code(), Code::Unavailable | Code::Internal),
                );
            }
            // What doesn't fit the request was refused when it was sent, but it may have become so afterwards.
            _ => put_failure(out, INTERNAL, false),
        }
        status
    }

    /// What is sent after all: what was, or else the refusal.
    fn concluded(&mut self, sent: Option<Box<Sent>>, result: Result<(), TrackerError>) -> Option<Sent> {
        match (sent, result) {
            (Some(sent), _) => Some(*sent),
            (None, Ok(())) => None,
            (None, Err(error)) => {
                let error = match error.code().is_fault() {
                    // What went wrong on this side is not the client's business.
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

    /// Gives what a scrape borrowed back.
    pub(super) fn give_query(&mut self, request: RequestContext<'_>) {
        if let RequestContext::Scrape(scrape) = request {
            let mut query: Box<ScrapeQuery> = scrape.query;
            query.info_hashes.clear();
            self.queries.give(query);
        }
    }
}

/// Writes the response to an announce by UDP, with the peers of the asker's family; returns its length.
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

const _: () = assert!(UDP_REPLY_HEAD_BYTES < UDP_CONNECT_REPLY_BYTES);
