//! Owns the messages between workers, and the two traits through which messages and replies leave an engine.
//!
//! A message has a fixed size. What is larger travels in a box that the sender lends and gets back with the answer, so
//! that after the first few requests nothing is allocated.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use crate::engine::peers::PeerList;
use crate::limits::{MAX_SCRAPE_HASHES, UDP_REPLY_MAX_BYTES};
use crate::types::{Announce, InfoHash, SwarmCounts, WorkerId};

/// Where a datagram came from and where its answer must leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that it wrote to, where the socket is bound to a wildcard: the answer must come from there.
    pub local: Option<IpAddr>,
    /// Which of the listen addresses; the same number with every worker.
    pub socket: u8,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// As a datagram (BEP 15).
    Udp,
    /// By HTTP (BEP 3).
    Http,
}

/// Names a request that waits. The serial number keeps a late answer from the next request in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) slot: u32,
    pub(super) serial: u32,
}

/// A message from one worker to another.
#[derive(Debug)]
pub enum Message {
    /// An announce by UDP that another worker received: the owner of its swarm answers it.
    UdpAnnounce(UdpAnnounce),
    /// An announce by HTTP: the owner fills the list and sends it back.
    Announce {
        /// For the way back.
        ticket: Ticket,
        /// The announce.
        announce: Announce,
        /// How it came: a client that asked by UDP is given peers of its own family alone.
        source: Source,
        /// Empty, to be filled.
        peers: Box<PeerList>,
    },
    /// The answer to `Announce`.
    Announced {
        /// As it came.
        ticket: Ticket,
        /// The swarm's counts.
        counts: SwarmCounts,
        /// The peers.
        peers: Box<PeerList>,
    },
    /// A part of a scrape: the owner counts its swarms and sends it back.
    Scrape {
        /// For the way back.
        ticket: Ticket,
        /// The swarms to count.
        job: Box<ScrapeJob>,
    },
    /// The answer to `Scrape`.
    Scraped {
        /// As it came.
        ticket: Ticket,
        /// The swarms, counted.
        job: Box<ScrapeJob>,
    },
}

const _: () = assert!(size_of::<Message>() <= 160, "a queue between two workers is sized for small messages");

/// An announce by UDP on its way to the worker that owns its swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpAnnounce {
    /// The announce, its connection id checked.
    pub announce: Announce,
    /// The client's number for the request.
    pub transaction_id: u32,
    /// Seconds to the next announce.
    pub interval_secs: u32,
    /// Where the response goes.
    pub to: Endpoint,
}

/// Those swarms of a scrape that one worker owns.
#[derive(Clone, Debug, Default)]
pub struct ScrapeJob {
    /// A swarm, its place in the scrape, and its counts once they are known.
    pub swarms: ArrayVec<(InfoHash, u8, SwarmCounts), MAX_SCRAPE_HASHES>,
}

/// The counts of a scrape, in the order asked.
pub type ScrapeCounts = ArrayVec<SwarmCounts, MAX_SCRAPE_HASHES>;

/// What one or several workers' swarms answered to a request in a task.
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
    /// Takes one message, if there is one, with its sender. Senders take turns.
    fn take(&mut self) -> Option<(WorkerId, Message)>;

    /// Tells the receivers of the messages that were posted since the last flush, and wakes those that sleep.
    fn flush(&mut self);
}

/// Sends UDP responses to requests that came in another way than by the datagram at hand.
pub trait Replies {
    /// Sends what `write` puts into the buffer; it returns the length.
    fn reply(&mut self, to: &Endpoint, write: impl FnOnce(&mut [u8; UDP_REPLY_MAX_BYTES]) -> usize);
}
