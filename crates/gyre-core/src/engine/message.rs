//! Owns the messages between workers, and the traits through which messages and responses leave an engine.
//!
//! A message has a fixed size. Larger data is in a box that the sender lends and gets back with the answer. After the
//! first few requests nothing is allocated any more.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use crate::engine::peers::PeerList;
use crate::limits::{MAX_SCRAPE_HASHES, UDP_REPLY_MAX_BYTES};
use crate::types::{Announce, InfoHash, SwarmCounts, WorkerId};

/// The source of a datagram, and the local address that its response must be sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The client's address.
    pub source: SocketAddr,
    /// The destination address of the datagram, if the socket is bound to a wildcard. The response must come from it.
    pub local: Option<IpAddr>,
    /// Index of the listen address, the same in every worker.
    pub socket: u8,
}

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// UDP (BEP 15).
    Udp,
    /// HTTP (BEP 3).
    Http,
}

/// Identifies a waiting request. The serial number keeps a late answer from the next request in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) slot: u32,
    pub(super) serial: u32,
}

/// A message from one worker to another.
#[derive(Debug)]
pub enum Message {
    /// An announce by UDP that another worker received. The owner of its swarm answers the client.
    UdpAnnounce(UdpAnnounce),
    /// An announce of a task (HTTP, or middleware that waits). The owner fills the list and sends it back.
    Announce {
        /// The waiting request.
        ticket: Ticket,
        /// The announce.
        announce: Announce,
        /// Its protocol: a UDP client gets only peers of its own address family.
        source: Source,
        /// An empty list for the owner to fill.
        peers: Box<PeerList>,
    },
    /// The answer to `Announce`.
    Announced {
        /// The ticket of the `Announce`.
        ticket: Ticket,
        /// The swarm's counts.
        counts: SwarmCounts,
        /// The peers.
        peers: Box<PeerList>,
    },
    /// A part of a scrape. The owner fills in the counts of its swarms and sends it back.
    Scrape {
        /// The waiting request.
        ticket: Ticket,
        /// The swarms to count.
        job: Box<ScrapeJob>,
    },
    /// The answer to `Scrape`.
    Scraped {
        /// The ticket of the `Scrape`.
        ticket: Ticket,
        /// The swarms with their counts.
        job: Box<ScrapeJob>,
    },
}

const _: () = assert!(size_of::<Message>() <= 160, "a queue between two workers is sized for small messages");

/// An announce by UDP on its way to the worker that owns its swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpAnnounce {
    /// The announce. Its connection id is checked.
    pub announce: Announce,
    /// The client's transaction id.
    pub transaction_id: u32,
    /// Seconds until the next announce.
    pub interval_secs: u32,
    /// Where the response goes.
    pub to: Endpoint,
}

/// The swarms of a scrape that one worker owns.
#[derive(Clone, Debug, Default)]
pub struct ScrapeJob {
    /// A swarm, its index in the scrape, and its counts once they are known.
    pub swarms: ArrayVec<(InfoHash, u8, SwarmCounts), MAX_SCRAPE_HASHES>,
}

/// The counts of a scrape, in the order of its info-hashes.
pub type ScrapeCounts = ArrayVec<SwarmCounts, MAX_SCRAPE_HASHES>;

/// The swarms' answer to a request in a task, from one or several workers.
#[derive(Debug)]
pub enum Answer {
    /// To an announce.
    Announced {
        /// The swarm's counts.
        counts: SwarmCounts,
        /// The peers.
        peers: Box<PeerList>,
    },
    /// To a scrape.
    Scraped(Box<ScrapeCounts>),
}

/// Carries messages to other workers.
pub trait Post {
    /// Queues a message.
    ///
    /// # Errors
    ///
    /// Gives the message back if the queue is full.
    fn post(&mut self, to: WorkerId, message: Message) -> Result<(), Message>;
}

/// Carries messages both ways.
pub trait Mailbox: Post {
    /// Takes the next message, if there is one, and returns it with its sender. Senders take turns.
    fn take(&mut self) -> Option<(WorkerId, Message)>;

    /// Notifies the receivers of the messages that were posted since the last flush, and wakes those that sleep.
    fn flush(&mut self);
}

/// Sends UDP responses that are not written while their datagram is processed.
pub trait Replies {
    /// Sends a response. `write` writes it into the buffer and returns its length.
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize);
}
