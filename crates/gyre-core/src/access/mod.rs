//! Owns access control: allow and deny lists of info-hashes, clients and source networks.
//!
//! A worker holds a complete [`Access`], which is never changed but replaced as a whole. The lists in it are shared
//! between workers and between versions, so that a change of one list copies no other.

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

/// The name of a kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListName {
    /// The type of its entries.
    pub of: ListOf,
    /// Whether it is an allow list. Otherwise it is a deny list.
    pub allows: bool,
}

/// The type of a list's entries.
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

    /// Returns the name that the command line uses.
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
        known.ok_or("unknown list: use allow- or deny- with hashes, clients or sources")
    }
}

/// The allow and deny lists for one type of entry.
#[derive(Clone, Debug)]
pub struct Rule<L> {
    /// Allow lists. If there are any, what is in none of them is denied.
    pub allow: Vec<Arc<L>>,
    /// Deny lists. They take precedence over the allow lists.
    pub deny: Vec<Arc<L>>,
}

impl<L> Default for Rule<L> {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new() }
    }
}

impl<L> Rule<L> {
    /// Returns whether there are no lists.
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
    /// Its torrent is not allowed.
    Torrent,
    /// Its client is not allowed.
    Client,
}

/// Failure reason for a denied source address.
pub const SOURCE_REASON: &str = "this address is not allowed";
/// Failure reason for a denied client.
pub const CLIENT_REASON: &str = "this client is not allowed";

/// The access rules of the tracker.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Rules for torrents, by info-hash.
    pub hashes: Rule<HashList>,
    /// Rules for clients, by prefix of the peer id.
    pub clients: Rule<ClientList>,
    /// Rules for the source addresses of requests.
    pub sources: Rule<SourceList>,
    /// Failure reason for a denied torrent. If it is empty, UDP sends no reply and HTTP the default reason.
    pub torrent_reason: String,
    /// Start of the process's clock, in seconds since 1970. Used to compute when entries expire.
    pub started_unix_secs: u64,
}

impl Access {
    /// Returns whether everything is allowed.
    pub fn is_open(&self) -> bool {
        self.hashes.is_empty() && self.clients.is_empty() && self.sources.is_empty()
    }

    /// Returns the failure reason for a denied announce.
    pub fn reason(&self, denied: Denied) -> &str {
        match denied {
            Denied::Torrent => &self.torrent_reason,
            Denied::Client => CLIENT_REASON,
        }
    }

    /// Returns whether requests from this address are answered.
    #[inline]
    pub fn permits_source(&self, ip: IpAddr) -> bool {
        self.sources.permits(|list| list.contains(ip))
    }

    /// Returns whether this torrent is served.
    #[inline]
    pub fn permits_torrent(&self, now: Timestamp, info_hash: &InfoHash) -> bool {
        let now = self.started_unix_secs.saturating_add(now.as_secs().into());
        self.hashes.permits(|list| list.contains(info_hash, now))
    }

    /// Returns why an announce is denied, or `None` if it is permitted.
    #[inline]
    pub fn check_announce(&self, now: Timestamp, info_hash: &InfoHash, peer_id: &PeerId) -> Option<Denied> {
        if !self.permits_torrent(now, info_hash) {
            return Some(Denied::Torrent);
        }
        (!self.clients.permits(|list| list.contains(peer_id))).then_some(Denied::Client)
    }
}

#[cfg(test)]
mod tests;
