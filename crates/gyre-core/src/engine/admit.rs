//! Owns who is admitted: by the connection id, by access lists, and by the rates of the source.
//!
//! Without lists and limits this is one comparison for each datagram. Announces and scrapes count against a source's
//! rate only with a valid connection id, so that a client can't use up the rate of another address. Connects and
//! wrong ids can be forged.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::{Access, Denied, SOURCE_REASON};
use crate::counters::Counter;
use crate::engine::Engine;
use crate::engine::reply::ReplyBuffer;
use crate::limits::DEFAULT_DENY_REASON;
use crate::throttle::{Limited, SourceLimits, Throttle};
use crate::time::Timestamp;
use crate::types::{InfoHash, PeerId};
use crate::wire::bencode::put_failure;
use crate::wire::query::AnnounceQuery;
use crate::wire::udp;

impl Engine {
    /// Replaces the access lists.
    pub fn set_access(&mut self, access: Arc<Access>) {
        self.access = Some(access).filter(|access| !access.is_open());
        self.update_guarded();
    }

    /// Replaces the limits of what each source may ask for. What sources have used up stays so if there were limits.
    pub fn set_source_limits(&mut self, limits: &SourceLimits) {
        match &mut self.throttle {
            _ if limits.is_open() => self.throttle = None,
            Some(throttle) => throttle.set_limits(limits),
            None => self.throttle = Some(Box::new(Throttle::new(limits, self.table_key))),
        }
        self.update_guarded();
    }

    fn update_guarded(&mut self) {
        self.is_guarded = self.access.is_some() || self.throttle.is_some();
    }

    /// Whether a connect of this address is admitted; counts it if not.
    pub(super) fn admit_connect(&mut self, now: Timestamp, ip: IpAddr) -> bool {
        self.is_allowed(ip) && self.is_within_rate(now, ip, Limited::Connect)
    }

    /// Whether an announce or scrape by UDP is admitted: the client has shown by its connection id that it receives at
    /// its address, the lists allow the address, and it is within its rate. Counts it if not.
    #[inline]
    pub(super) fn admit<const GUARDED: bool>(
        &mut self,
        now: Timestamp,
        client: IpAddr,
        connection_id: u64,
        limited: Limited,
    ) -> bool {
        if GUARDED && (self.is_banned(now, client) || !self.is_allowed(client)) {
            return false;
        }
        let valid = self.ids.verify(now, client, connection_id);
        self.counters.add(Counter::BadConnectionId, u64::from(!valid));
        if GUARDED { self.admit_verified(now, client, valid, limited) } else { valid }
    }

    /// Counts a verified id against the rate, a wrong one towards a ban.
    fn admit_verified(&mut self, now: Timestamp, client: IpAddr, valid: bool, limited: Limited) -> bool {
        if valid {
            return self.is_within_rate(now, client, limited);
        }
        let banned = self.throttle.as_mut().is_some_and(|throttle| throttle.note_wrong_id(now, client));
        self.counters.add(Counter::Bans, u64::from(banned));
        false
    }

    /// Whether an address is banned for wrong connection ids; counts its request.
    fn is_banned(&mut self, now: Timestamp, client: IpAddr) -> bool {
        let banned = self.throttle.as_ref().is_some_and(|throttle| throttle.bans(now, client));
        self.counters.add(Counter::LimitedBanned, u64::from(banned));
        banned
    }

    /// Whether the lists allow requests of this address; counts those that they don't.
    pub(super) fn is_allowed(&mut self, ip: IpAddr) -> bool {
        let allowed = self.access.as_ref().is_none_or(|access| access.permits_source(ip));
        self.counters.add(Counter::DeniedSource, u64::from(!allowed));
        allowed
    }

    /// Whether a request or a new connection is within the rate of its source; counts those that are not.
    pub fn is_within_rate(&mut self, now: Timestamp, ip: IpAddr, limited: Limited) -> bool {
        let Some(throttle) = &mut self.throttle else { return true };
        let within = throttle.permits(now, limited, ip);
        self.counters.add(limited_counter(limited), u64::from(!within));
        within
    }

    /// Why the lists deny an announce, if they do; counts it.
    fn denial(&mut self, now: Timestamp, info_hash: &InfoHash, peer_id: &PeerId) -> Option<&str> {
        let access = self.access.as_ref()?;
        let denied = access.check_announce(now, info_hash, peer_id)?;
        self.counters.bump(match denied {
            Denied::Torrent => Counter::DeniedTorrent,
            Denied::Client => Counter::DeniedClient,
        });
        Some(access.reason(denied))
    }

    /// Denies an announce by UDP, if the lists say so. Returns the length of the response, if there is one: with an
    /// empty reason the client gets no answer.
    pub(super) fn deny_udp(
        &mut self,
        now: Timestamp,
        announce: &udp::Announce<'_>,
        out: &mut ReplyBuffer,
    ) -> Option<Option<usize>> {
        let reason = self.denial(now, &announce.info_hash, &announce.peer_id)?;
        let length = (!reason.is_empty()).then(|| udp::put_error(out, announce.transaction_id, reason));
        self.counters.add(Counter::Refused, u64::from(length.is_some()));
        Some(length)
    }

    /// Denies a request by HTTP, if the lists say so: writes the body of the response and returns true. HTTP needs a
    /// response, so an empty reason is replaced by the default one.
    pub fn deny_http(
        &mut self,
        now: Timestamp,
        ip: IpAddr,
        announce: Option<&AnnounceQuery>,
        out: &mut Vec<u8>,
    ) -> bool {
        if !self.is_allowed(ip) {
            put_failure(out, SOURCE_REASON, false);
        } else if let Some(query) = announce
            && let Some(reason) = self.denial(now, &query.info_hash, &query.peer_id)
        {
            put_failure(out, if reason.is_empty() { DEFAULT_DENY_REASON } else { reason }, false);
        } else {
            return false;
        }
        self.counters.bump(Counter::Refused);
        true
    }
}

/// The counter of requests over the limit.
fn limited_counter(limited: Limited) -> Counter {
    match limited {
        Limited::Connect => Counter::LimitedConnect,
        Limited::Announce => Counter::LimitedAnnounce,
        Limited::Scrape => Counter::LimitedScrape,
        Limited::HttpRequest => Counter::LimitedHttpRequest,
        Limited::HttpConnection => Counter::LimitedHttpConnection,
    }
}
