//! Owns a client: the requests that it sends, and how it handles replies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use gyre_core::types::{Event, InfoHash};

use crate::bytes::{self, ClientAnnounce, Reply};
use crate::network::happens;
use crate::plan::{Plan, pick};

/// Prefixes of peer ids, one per client program.
pub(crate) const CLIENT_PREFIXES: [[u8; 4]; 4] = [*b"-TR4", *b"-qB5", *b"-LT2", *b"-XX0"];

/// A client.
pub(crate) struct Client {
    pub(crate) source: SocketAddr,
    port: u16,
    peer_id: [u8; 20],
    /// The connection id that it received last.
    id: Option<u64>,
}

impl Client {
    pub(crate) fn new(number: usize) -> Self {
        let [high, low] = (number as u16).to_be_bytes();
        // Every third client has an IPv6 address, and some clients share an address.
        let ip = match number % 3 {
            0 => IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16 / 6)),
            _ => IpAddr::from(Ipv4Addr::new(198, 51, high, low / 2)),
        };
        let mut peer_id = [b'a'; 20];
        peer_id[..4].copy_from_slice(&CLIENT_PREFIXES[number % CLIENT_PREFIXES.len()]);
        peer_id[18..].copy_from_slice(&[high, low]);
        let port = 10_000 + number as u16;
        Self { source: SocketAddr::new(ip, port ^ 0x4000), port, peer_id, id: None }
    }

    /// Draws an announce.
    pub(crate) fn announce(&self, plan: &Plan, swarms: &[InfoHash], rng: &mut Rng) -> ClientAnnounce {
        ClientAnnounce {
            info_hash: some_swarm(plan, swarms, rng),
            peer_id: self.peer_id,
            peer: SocketAddr::new(self.source.ip(), self.port),
            event: match rng.u8(..10) {
                _ if happens(rng, plan.stops) => Event::Stopped,
                0 => Event::Started,
                1 => Event::Completed,
                _ => Event::None,
            },
            seeder: rng.u8(..3) == 0,
            num_want: rng.bool().then(|| pick(rng, &[0, 1, 5, 40, 50, 200, 1_000])),
        }
    }

    /// Draws a datagram. Returns it with its source address.
    pub(crate) fn datagram(&self, plan: &Plan, swarms: &[InfoHash], rng: &mut Rng) -> (SocketAddr, Vec<u8>) {
        let transaction = rng.u32(..);
        if happens(rng, plan.junk) {
            return self.junk(plan, swarms, transaction, rng);
        }
        let Some(id) = self.id.filter(|_| rng.u8(..10) > 0) else {
            return (self.source, bytes::connect(transaction));
        };
        (self.source, self.valid_datagram(id, plan, swarms, transaction, rng))
    }

    fn valid_datagram(
        &self,
        id: u64,
        plan: &Plan,
        swarms: &[InfoHash],
        transaction: u32,
        rng: &mut Rng,
    ) -> Vec<u8> {
        if happens(rng, plan.scrapes) {
            let hashes: Vec<_> =
                (0..pick(rng, &[1, 2, 7, 74, 80])).map(|_| some_swarm(plan, swarms, rng)).collect();
            return bytes::scrape(id, transaction, &hashes);
        }
        let num_want = pick(rng, &[-1, 0, 1, 7, 50, 78, 80, 200, 70_000, i32::MAX, i32::MIN]);
        let options: &[u8] = pick(rng, &[b"", b"", b"\x02\x01/", b"\x02\x09/", b"\x01\x00\x02"]);
        bytes::announce(id, transaction, &self.announce(plan, swarms, rng), num_want, options)
    }

    /// Draws an invalid datagram.
    fn junk(
        &self,
        plan: &Plan,
        swarms: &[InfoHash],
        transaction: u32,
        rng: &mut Rng,
    ) -> (SocketAddr, Vec<u8>) {
        let id = self.id.unwrap_or(7);
        let mut request = self.announce(plan, swarms, rng);
        let with_id = |id| bytes::announce(id, transaction, &request, -1, b"");
        let nowhere = SocketAddr::new(self.source.ip(), 0);
        let datagram = match rng.u8(..8) {
            0 => (0..rng.usize(..120)).map(|_| rng.u8(..)).collect(),
            1 => [&[7; 8], &bytes::connect(transaction)[8..]].concat(),
            2 => [&id.to_be_bytes()[..], &[0, 0, 0, 9], &[5; 90]].concat(),
            3 => with_id(rng.u64(..)),
            4 => with_id(id ^ (1 << rng.u8(..64))),
            5 => return (nowhere, bytes::connect(transaction)),
            6 => {
                request.peer.set_port(0);
                bytes::announce(id, transaction, &request, -1, b"")
            }
            _ => bytes::scrape(rng.u64(..), transaction, &[request.info_hash]),
        };
        (self.source, datagram)
    }

    /// Handles a reply, which the network may have damaged.
    pub(crate) fn receive(&mut self, datagram: &[u8]) {
        if datagram.len() == 16
            && datagram[..4] == [0; 4]
            && let (_, Reply::Connect { id }) = Reply::read(datagram, self.source)
        {
            self.id = Some(id);
        }
    }
}

/// Draws a swarm. The first ones are drawn more often.
pub(crate) fn some_swarm(plan: &Plan, swarms: &[InfoHash], rng: &mut Rng) -> InfoHash {
    if happens(rng, plan.unknown_hashes) {
        return InfoHash(std::array::from_fn(|_| rng.u8(..)));
    }
    swarms[rng.usize(..swarms.len()).min(rng.usize(..swarms.len()))]
}
