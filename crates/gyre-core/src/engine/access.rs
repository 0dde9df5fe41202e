//! Owns what the lists of who may ask do to requests.

use std::net::IpAddr;
use std::sync::Arc;

use crate::access::{Access, Denied, SOURCE_REASON};
use crate::counters::Counter;
use crate::engine::Engine;
use crate::engine::udp::ReplyBuffer;
use crate::limits::DEFAULT_DENY_REASON;
use crate::time::Timestamp;
use crate::types::{InfoHash, PeerId};
use crate::wire::bencode::put_failure;
use crate::wire::query::AnnounceQuery;
use crate::wire::udp;

impl Engine {
    /// Takes other lists of who may ask, in place of those it has.
    pub fn set_access(&mut self, access: Arc<Access>) {
        self.access = Some(access).filter(|access| !access.is_open());
        self.look_who_guards();
    }

    /// Whether lists permit requests of this address; counts those that they don't.
    pub(super) fn permits_source(&mut self, ip: IpAddr) -> bool {
        let permitted = self.access.as_ref().is_none_or(|access| access.permits_source(ip));
        self.counters.add(Counter::DeniedSource, u64::from(!permitted));
        permitted
    }

    /// What a client is told whose announce is denied, if it is; counts it.
    fn denies(&mut self, now: Timestamp, info_hash: &InfoHash, peer_id: &PeerId) -> Option<&str> {
        let access = self.access.as_ref()?;
        let denied = access.check_announce(now, info_hash, peer_id)?;
        self.counters.bump(match denied {
            Denied::Torrent => Counter::DeniedTorrent,
            Denied::Client => Counter::DeniedClient,
        });
        Some(access.reason(denied))
    }

    /// Denies an announce by UDP, if it is to be; returns the length of the response, if there is to be one.
    pub(super) fn deny_udp(
        &mut self,
        now: Timestamp,
        announce: &udp::Announce<'_>,
        out: &mut ReplyBuffer,
    ) -> Option<Option<usize>> {
        let reason = self.denies(now, &announce.info_hash, &announce.peer_id)?;
        let length = (!reason.is_empty()).then(|| udp::put_error(out, announce.transaction_id, reason));
        self.counters.add(Counter::Refused, u64::from(length.is_some()));
        Some(length)
    }

    /// Denies a request by HTTP, an announce or not, if it is to be: writes the body of the response. Says so even if
    /// no reason is to be given, since there must be some response.
    pub fn deny_http(
        &mut self,
        now: Timestamp,
        ip: IpAddr,
        announce: Option<&AnnounceQuery>,
        out: &mut Vec<u8>,
    ) -> bool {
        if !self.permits_source(ip) {
            put_failure(out, SOURCE_REASON, false);
        } else if let Some(query) = announce
            && let Some(reason) = self.denies(now, &query.info_hash, &query.peer_id)
        {
            put_failure(out, if reason.is_empty() { DEFAULT_DENY_REASON } else { reason }, false);
        } else {
            return false;
        }
        self.counters.bump(Counter::Refused);
        true
    }
}
