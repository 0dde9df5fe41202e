//! Owns who may use the tracker and for which torrents: lists of info-hashes, clients and sources, allowed or denied.
//!
//! A worker has an [`Access`] whole and reads it alone; another one takes its place whole. Its parts are shared between
//! workers and between versions, so that a change of one list copies no other.

mod clients;
mod hashes;
mod lines;
mod sources;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

pub use clients::{ClientList, Clients};
pub use hashes::{HashList, Hashes, parse_hash, parse_time};
pub use lines::{Entries, ListError, copy_without, read};
pub use sources::{SourceList, Sources};

use crate::time::Timestamp;
use crate::types::{InfoHash, PeerId};

/// What a list is of, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListName {
    /// What its entries are.
    pub of: ListOf,
    /// Whether they are allowed; else they are denied.
    pub allows: bool,
}

/// What the entries of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOf {
    /// Info-hashes.
    Hashes,
    /// Clients.
    Clients,
    /// Networks.
    Sources,
}

impl ListName {
    /// All names.
    pub const ALL: [Self; 6] = {
        use ListOf::{Clients, Hashes, Sources};
        [
            Self { of: Hashes, allows: true },
            Self { of: Hashes, allows: false },
            Self { of: Clients, allows: true },
            Self { of: Clients, allows: false },
            Self { of: Sources, allows: true },
            Self { of: Sources, allows: false },
        ]
    };

    /// As the command line names it.
    pub fn as_str(self) -> &'static str {
        match (self.of, self.allows) {
            (ListOf::Hashes, true) => "allow-hashes",
            (ListOf::Hashes, false) => "deny-hashes",
            (ListOf::Clients, true) => "allow-clients",
            (ListOf::Clients, false) => "deny-clients",
            (ListOf::Sources, true) => "allow-sources",
            (ListOf::Sources, false) => "deny-sources",
        }
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ListName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|name| name.as_str() == text);
        known.ok_or("a list is named allow- or deny- and hashes, clients or sources")
    }
}

/// The lists of one kind.
#[derive(Clone, Debug)]
pub struct Rule<L> {
    /// Who is in none of these is denied; without any everybody is allowed.
    pub allow: Vec<Arc<L>>,
    /// Who is in one of these is denied, whatever allows it.
    pub deny: Vec<Arc<L>>,
}

impl<L> Default for Rule<L> {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new() }
    }
}

impl<L> Rule<L> {
    /// Whether there is any list.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    #[inline]
    fn permits(&self, is_in: impl Fn(&L) -> bool) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|list| is_in(list)))
            && !self.deny.iter().any(|list| is_in(list))
    }
}

/// Why an announce is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its torrent is not served.
    Torrent,
    /// Its client is not.
    Client,
}

/// What clients are told of an address that is denied.
pub const SOURCE_REASON: &str = "this address is not allowed";
/// What clients are told that are denied.
pub const CLIENT_REASON: &str = "this client is not allowed";

/// Who may use the tracker, and for which torrents.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The torrents, by their info-hashes.
    pub hashes: Rule<HashList>,
    /// The clients, by how their peer ids begin.
    pub clients: Rule<ClientList>,
    /// The addresses that requests come from.
    pub sources: Rule<SourceList>,
    /// What clients are told of a torrent that is denied; nothing if it is empty, as far as the protocol allows it.
    pub torrent_reason: String,
    /// Seconds since 1970 at which the process's clock was started, by which entries come to their end.
    pub started_unix_secs: u64,
}

impl Access {
    /// Whether everything is allowed.
    pub fn is_open(&self) -> bool {
        self.hashes.is_empty() && self.clients.is_empty() && self.sources.is_empty()
    }

    /// What a client is told that is denied.
    pub fn reason(&self, denied: Denied) -> &str {
        match denied {
            Denied::Torrent => &self.torrent_reason,
            Denied::Client => CLIENT_REASON,
        }
    }

    /// Whether requests of this address are answered.
    #[inline]
    pub fn permits_source(&self, ip: IpAddr) -> bool {
        self.sources.permits(|list| list.contains(ip))
    }

    /// Whether this torrent is served.
    #[inline]
    pub fn permits_torrent(&self, now: Timestamp, info_hash: &InfoHash) -> bool {
        let now = self.started_unix_secs.saturating_add(now.as_secs().into());
        self.hashes.permits(|list| list.contains(info_hash, now))
    }

    /// Why an announce is denied, if it is.
    #[inline]
    pub fn judge(&self, now: Timestamp, info_hash: &InfoHash, peer_id: &PeerId) -> Option<Denied> {
        if !self.permits_torrent(now, info_hash) {
            return Some(Denied::Torrent);
        }
        (!self.clients.permits(|list| list.contains(peer_id))).then_some(Denied::Client)
    }
}

#[cfg(test)]
mod tests;
