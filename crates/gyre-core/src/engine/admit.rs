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
        self.next_lap = Timestamp::default(); // the sweep removes what is denied now
    }

    /// Replaces the rate limits of sources. If there were limits before, what sources have used up stays used up.
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

    /// Returns whether a connect from this address is admitted. Counts it if not.
    pub(super) fn admit_connect(&mut self, now: Timestamp, ip: IpAddr) -> bool {
        self.is_allowed(ip) && self.is_within_rate(now, ip, Limited::Connect)
    }

    /// Returns whether an announce or scrape by UDP is admitted: the connection id proves that the client receives at
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

    /// Counts a request with a valid id against the rate of its source, and a wrong id towards a ban.
    fn admit_verified(&mut self, now: Timestamp, client: IpAddr, valid: bool, limited: Limited) -> bool {
        if valid {
            return self.is_within_rate(now, client, limited);
        }
        let banned = self.throttle.as_mut().is_some_and(|throttle| throttle.note_wrong_id(now, client));
        self.counters.add(Counter::Bans, u64::from(banned));
        false
    }

    /// Returns whether an address is banned because of wrong connection ids. Counts its request if so.
    fn is_banned(&mut self, now: Timestamp, client: IpAddr) -> bool {
        let banned = self.throttle.as_ref().is_some_and(|throttle| throttle.bans(now, client));
        self.counters.add(Counter::LimitedBanned, u64::from(banned));
        banned
    }

    /// Returns whether the lists allow requests from this address. Counts the request if not.
    pub(super) fn is_allowed(&mut self, ip: IpAddr) -> bool {
        let allowed = self.access.as_ref().is_none_or(|access| access.permits_source(ip));
        self.counters.add(Counter::DeniedSource, u64::from(!allowed));
        allowed
    }

    /// Returns whether a request or a new connection is within the rate of its source. Counts it if not.
    pub fn is_within_rate(&mut self, now: Timestamp, ip: IpAddr, limited: Limited) -> bool {
        let Some(throttle) = &mut self.throttle else { return true };
        let within = throttle.permits(now, limited, ip);
        self.counters.add(limited_counter(limited), u64::from(!within));
        within
    }

    /// Returns the reason for which the lists deny an announce, and counts it. `None`: they allow it.
    fn denial(&mut self, now: Timestamp, info_hash: &InfoHash, peer_id: &PeerId) -> Option<&str> {
        let access = self.access.as_ref()?;
        let denied = access.check_announce(now, info_hash, peer_id)?;
        self.counters.bump(match denied {
            Denied::Torrent => Counter::DeniedTorrent,
            Denied::Client => Counter::DeniedClient,
        });
        Some(access.reason(denied))
    }

    /// Denies an announce by UDP if the lists don't allow it. `None`: it is allowed. `Some(None)`: it is denied without
    /// a response, because the reason is empty. Otherwise the length of the response.
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

    /// Denies a request by HTTP if the lists don't allow it: writes the body of the response and returns true. HTTP
    /// needs a response, so the default reason replaces an empty one.
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

/// Returns the counter of requests over this limit.
fn limited_counter(limited: Limited) -> Counter {
    match limited {
        Limited::Connect => Counter::LimitedConnect,
        Limited::Announce => Counter::LimitedAnnounce,
        Limited::Scrape => Counter::LimitedScrape,
        Limited::HttpRequest => Counter::LimitedHttpRequest,
        Limited::HttpConnection => Counter::LimitedHttpConnection,
    }
}
