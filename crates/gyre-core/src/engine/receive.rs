//! Owns the input of an engine: parses datagrams and messages and passes them to the next step.

use std::net::IpAddr;

use crate::canary::{self, Canary};
use crate::counters::{Counter, Kind};
use crate::engine::Engine;
use crate::engine::context::{ConnectRequest, RequestContext};
use crate::engine::gate::{Gate, Verdict};
use crate::engine::message::{Endpoint, Message, Post, Replies};
use crate::engine::middleware::Middleware;
use crate::engine::reply::ReplyBuffer;
use crate::limits::TURN_DATAGRAMS;
use crate::throttle::Limited;
use crate::time::Timestamp;
use crate::types::{Family, WorkerId};
use crate::wire::udp::{self, Malformed, Request};

/// Returns whether the gate has a middleware. This is a constant, so the compiler removes the branch that is not taken.
#[inline]
pub(super) const fn passes<M: Middleware>(_: &Gate<M>) -> bool {
    !M::IS_NONE
}

impl Engine {
    /// Processes a datagram. A request from an admitted client goes through the middleware. Returns the length of the
    /// response in `out`. `None`: there is no response, or [`answer_announces`](Self::answer_announces) sends it, or a
    /// task does ([`Gate::next_waiting`]).
    ///
    /// Until its connection id proves that a client receives at its address, it gets no more bytes than it sent: a
    /// connect gets a response of 16 bytes, all other datagrams get no response (BEP 15).
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

    /// Processes a datagram. It is compiled twice: with access lists and rate limits (`GUARDED`) and without.
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
                if GUARDED && !self.admit_connect(now, ip) {
                    return None;
                }
                self.udp_connect(now, from, ip, transaction_id, out, gate)
            }
            Ok(Request::Announce(request)) => {
                self.counters.bump(Counter::of(Kind::UdpAnnounce, family));
                if !self.admit::<GUARDED>(now, ip, request.connection_id, Limited::Announce) {
                    return None;
                }
                self.udp_announce::<GUARDED>(now, from, &request, out, mesh, gate)
            }
            Ok(Request::Scrape(request)) => {
                self.counters.bump(Counter::of(Kind::UdpScrape, family));
                if !self.admit::<GUARDED>(now, ip, request.connection_id, Limited::Scrape) {
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

    /// Passes a request through the middleware. `Err`: the request doesn't go on to the swarm. It has the length of the
    /// response, if there is one.
    #[inline]
    pub(super) fn pass<'a>(
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

    /// Processes a message from another worker. The next [`answer_announces`](Self::answer_announces) answers its
    /// announces by UDP.
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
                self.announces.push(request);
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
            Message::Scraped { ticket, job } => self.scraped(ticket, job, replies),
        }
    }

    /// Posts a message. If the queue is full, the message is dropped and counted. If it was an answer, the waiting
    /// request times out at the other worker.
    pub(super) fn post_or_drop(&mut self, to: WorkerId, message: Message, mesh: &mut impl Post) {
        self.counters.bump(match mesh.post(to, message) {
            Ok(()) => Counter::MeshHops,
            Err(_) => Counter::DropMeshFull,
        });
    }
}
