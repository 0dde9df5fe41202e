//! Owns the recording of events: all replies, and all messages that a worker sends and receives, in order.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use gyre_core::engine::{Endpoint, Mailbox, Message, PeerList, Post, ScrapeJob, Source, Ticket, UdpAnnounce};
use gyre_core::mesh::Mesh;
use gyre_core::types::{Announce, InfoHash, SwarmCounts, WorkerId};

/// Content of a message between workers.
#[derive(Clone, Debug)]
pub(crate) enum MessageContent {
    UdpAnnounce(UdpAnnounce),
    Announce { ticket: Ticket, announce: Announce, source: Source },
    Announced { ticket: Ticket, counts: SwarmCounts, peers: Peers },
    Scrape { ticket: Ticket, swarms: Vec<(InfoHash, u8, SwarmCounts)> },
    Scraped { ticket: Ticket, swarms: Vec<(InfoHash, u8, SwarmCounts)> },
}

/// Peers of a reply, with their peer ids if the reply has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) ids: Vec<Option<[u8; 20]>>,
}

impl Peers {
    pub(crate) fn of(list: &PeerList) -> Self {
        assert_eq!(
            (list.v4.len(), list.v6.len()),
            (list.v4_ids.len(), list.v6_ids.len()),
            "number of addresses and ids"
        );
        let (addresses, ids) = list.iter().map(|(address, id)| (address, id.map(|id| id.0))).unzip();
        Self { addresses, ids }
    }
}

/// A recorded event.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A reply by UDP.
    Reply { to: Endpoint, bytes: Vec<u8> },
    /// A message to another worker, and whether the mesh took it.
    Posted { to: usize, content: MessageContent, was_taken: bool },
    /// A message from another worker.
    Received { from: usize, content: MessageContent },
}

impl MessageContent {
    fn of(message: &Message) -> Self {
        let swarms = |job: &ScrapeJob| job.swarms.to_vec();
        match message {
            Message::UdpAnnounce(announce) => Self::UdpAnnounce(*announce),
            Message::Announce { ticket, announce, source, peers } => {
                assert!(peers.is_empty(), "the list of an unanswered announce has peers");
                Self::Announce { ticket: *ticket, announce: *announce, source: *source }
            }
            Message::Announced { ticket, counts, peers } => {
                Self::Announced { ticket: *ticket, counts: *counts, peers: Peers::of(peers) }
            }
            Message::Scrape { ticket, job } => Self::Scrape { ticket: *ticket, swarms: swarms(job) },
            Message::Scraped { ticket, job } => Self::Scraped { ticket: *ticket, swarms: swarms(job) },
        }
    }
}

/// Events that are not checked yet.
pub(crate) type Events = Rc<RefCell<Vec<Event>>>;

/// A worker's end of the mesh that records all messages.
pub(crate) struct WatchedMailbox {
    mesh: Mesh,
    events: Events,
    /// Whether messages were posted since the last flush.
    pub(crate) unflushed: bool,
}

impl WatchedMailbox {
    pub(crate) fn new(mesh: Mesh, events: Events) -> Self {
        Self { mesh, events, unflushed: false }
    }
}

impl Post for WatchedMailbox {
    fn post(&mut self, to: WorkerId, message: Message) -> Result<(), Message> {
        let content = MessageContent::of(&message);
        let posted = self.mesh.post(to, message);
        self.unflushed |= posted.is_ok();
        let event = Event::Posted { to: to.index(), content, was_taken: posted.is_ok() };
        self.events.borrow_mut().push(event);
        posted
    }
}

impl Mailbox for WatchedMailbox {
    fn take(&mut self) -> Option<(WorkerId, Message)> {
        let (from, message) = self.mesh.take()?;
        let content = MessageContent::of(&message);
        self.events.borrow_mut().push(Event::Received { from: from.index(), content });
        Some((from, message))
    }

    fn flush(&mut self) {
        self.mesh.flush();
        self.unflushed = false;
    }
}
