//! Owns who is let in: by the connection id, by lists of sources, and by how much a source has asked for.
//!
//! Without lists and limits all this is one comparison for each datagram. A bucket of announces or scrapes is taken
//! from only by a request with a valid id, so that nobody can empty another's; connects and wrong ids can be forged.

use std::net::IpAddr;

use crate::counters::Counter;
use crate::engine::Engine;
use crate::throttle::{Limited, SourceLimits, Throttle};
use crate::time::Timestamp;

impl Engine {
    /// Takes other limits of what each source may ask for. What sources have used up stays so if there were some.
    pub fn set_source_limits(&mut self, limits: &SourceLimits) {
        match &mut self.throttle {
            _ if limits.is_open() => self.throttle = None,
            Some(throttle) => throttle.set_limits(limits),
            None => self.throttle = Some(Box::new(Throttle::new(limits, self.table_key))),
        }
        self.look_who_guards();
    }

    pub(super) fn look_who_guards(&mut self) {
        self.is_guarded = self.access.is_some() || self.throttle.is_some();
    }

    /// Whether a source may do this now; counts what it may not.
    pub(super) fn permits(&mut self, now: Timestamp, ip: IpAddr, limited: Limited) -> bool {
        self.permits_source(ip) && self.is_within(now, ip, limited)
    }

    /// Whether a client has shown that it receives at its address, and may do this now; counts those that have not or
    /// may not.
    #[inline]
    pub(super) fn knows<const GUARDED: bool>(
        &mut self,
        now: Timestamp,
        client: IpAddr,
        connection_id: u64,
        limited: Limited,
    ) -> bool {
        if GUARDED && !self.listens_to(now, client) {
            return false;
        }
        let valid = self.ids.verify(now, client, connection_id);
        self.counters.add(Counter::BadConnectionId, u64::from(!valid));
        if GUARDED { self.is_let_in(now, client, valid, limited) } else { valid }
    }

    /// Whether a client's connection id is worth a look; counts it if it isn't.
    fn listens_to(&mut self, now: Timestamp, client: IpAddr) -> bool {
        let banned = self.throttle.as_ref().is_some_and(|throttle| throttle.bans(now, client));
        self.counters.add(Counter::LimitedBanned, u64::from(banned));
        !banned && self.permits_source(client)
    }

    fn is_let_in(&mut self, now: Timestamp, client: IpAddr, valid: bool, limited: Limited) -> bool {
        if valid {
            return self.is_within(now, client, limited);
        }
        let banned = self.throttle.as_mut().is_some_and(|throttle| throttle.note_wrong_id(now, client));
        self.counters.add(Counter::Bans, u64::from(banned));
        false
    }

    /// Whether a request or a new connection by HTTP is within what its source may ask for; counts those that are not.
    pub fn permits_http(&mut self, now: Timestamp, ip: IpAddr, limited: Limited) -> bool {
        self.throttle.is_none() || self.is_within(now, ip, limited)
    }

    /// The same of anything.
    fn is_within(&mut self, now: Timestamp, ip: IpAddr, limited: Limited) -> bool {
        let within = self.throttle.as_mut().is_none_or(|throttle| throttle.permits(now, limited, ip));
        self.counters.add(counter(limited), u64::from(!within));
        within
    }
}

/// What counts those that ask for too much.
fn counter(limited: Limited) -> Counter {
    match limited {
        Limited::Connect => Counter::LimitedConnect,
        Limited::Announce => Counter::LimitedAnnounce,
        Limited::Scrape => Counter::LimitedScrape,
        Limited::HttpRequest => Counter::LimitedHttpRequest,
        Limited::HttpConnection => Counter::LimitedHttpConnection,
    }
}
