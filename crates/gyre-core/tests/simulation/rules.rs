//! Owns access lists: as plain sets for the model, and converted to the form of the tracker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;

use gyre_core::access::{Access, Clients, Entries, Hashes, Sources};
use gyre_core::types::InfoHash;

/// Access lists, as plain sets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Allowed torrents. `None` allows all.
    allowed: Option<BTreeSet<InfoHash>>,
    /// Denied torrents, with the Unix time in seconds at which the entry ends, if it does.
    denied: BTreeMap<InfoHash, Option<u64>>,
    clients: BTreeSet<[u8; 4]>,
    sources: BTreeSet<IpAddr>,
    /// Message for announces of denied torrents. If it is empty they get no reply.
    pub(crate) reason: String,
    started_unix_secs: u64,
}

impl Rules {
    /// Draws lists of these torrents, clients and addresses.
    pub(crate) fn draw(
        rng: &mut Rng,
        started_unix_secs: u64,
        now_us: u64,
        hashes: &[InfoHash],
        clients: &[[u8; 4]],
        sources: &[IpAddr],
    ) -> Self {
        let mut rules = Self { started_unix_secs, ..Self::default() };
        if rng.u8(..4) == 0 {
            return rules; // everything is allowed
        }
        if rng.u8(..4) == 0 {
            rules.allowed = Some(hashes.iter().filter(|_| rng.u8(..4) > 0).copied().collect());
        }
        let unix_secs = started_unix_secs + now_us / 1_000_000;
        let denied = hashes.iter().filter(|_| rng.u8(..4) == 0).copied().collect::<Vec<_>>();
        for hash in denied {
            rules.denied.insert(hash, rng.bool().then(|| unix_secs + rng.u64(..60)));
        }
        rules.clients = clients.iter().filter(|_| rng.u8(..6) == 0).copied().collect();
        rules.sources = sources.iter().filter(|_| rng.u8(..8) == 0).copied().collect();
        rules.reason = if rng.bool() { String::new() } else { "not here".to_owned() };
        rules
    }

    /// Returns the lists in the form of the tracker.
    pub(crate) fn access(&self) -> Arc<Access> {
        let mut access = Access {
            torrent_reason: self.reason.clone(),
            started_unix_secs: self.started_unix_secs,
            ..Access::default()
        };
        if let Some(allowed) = &self.allowed {
            let mut hashes = Hashes::default();
            allowed.iter().for_each(|hash| hashes.add(*hash, None));
            access.hashes.allow.push(Arc::new(hashes.finish()));
        }
        if !self.denied.is_empty() {
            let mut hashes = Hashes::default();
            self.denied.iter().for_each(|(hash, until)| hashes.add(*hash, until.map(|until| until as u32)));
            access.hashes.deny.push(Arc::new(hashes.finish()));
        }
        if !self.clients.is_empty() {
            let mut clients = Clients::default();
            self.clients.iter().for_each(|client| clients.enter(&[client]).expect("a valid prefix"));
            access.clients.deny.push(Arc::new(clients.finish()));
        }
        if !self.sources.is_empty() {
            let mut sources = Sources::default();
            for source in &self.sources {
                sources.enter(&[source.to_string().as_bytes()]).expect("a valid address");
            }
            access.sources.deny.push(Arc::new(sources.finish()));
        }
        Arc::new(access)
    }

    /// Returns the lists for a process with another start time.
    pub(crate) fn of_process(&self, started_unix_secs: u64) -> Self {
        Self { started_unix_secs, ..self.clone() }
    }

    pub(crate) fn permits_torrent(&self, now_us: u64, hash: &InfoHash) -> bool {
        let now = self.started_unix_secs + now_us / 1_000_000;
        let is_denied = self.denied.get(hash).is_some_and(|until| until.is_none_or(|until| now < until));
        !is_denied && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(hash))
    }

    pub(crate) fn permits_client(&self, peer_id: &[u8; 20]) -> bool {
        !self.clients.iter().any(|client| peer_id.starts_with(client))
    }

    pub(crate) fn permits_source(&self, ip: IpAddr) -> bool {
        !self.sources.contains(&ip)
    }
}
