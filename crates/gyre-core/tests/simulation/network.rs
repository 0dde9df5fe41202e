//! Owns the network. It delays datagrams, and may lose, repeat, reorder, truncate or alter them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fastrand::Rng;

use crate::log::Log;
use crate::plan::{NetworkFaults, Permille};

/// A datagram in the network.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    ToTracker { from: SocketAddr, bytes: Vec<u8> },
    ToClient { to: SocketAddr, bytes: Vec<u8> },
}

/// All datagrams in the network, ordered by the time of arrival.
pub(crate) struct Network {
    weather: NetworkFaults,
    in_flight: BTreeMap<(u64, u64), Packet>,
    sent: u64,
}

/// Returns true with the probability `how_often`.
pub(crate) fn happens(rng: &mut Rng, how_often: Permille) -> bool {
    rng.u16(..1_000) < how_often
}

impl Network {
    pub(crate) fn new(weather: NetworkFaults) -> Self {
        Self { weather, in_flight: BTreeMap::new(), sent: 0 }
    }

    /// Sends a datagram. An altered or truncated one is not repeated as well, so repeated datagrams have the same
    /// bytes.
    pub(crate) fn send(&mut self, at_us: u64, mut packet: Packet, rng: &mut Rng, log: &Log) {
        if happens(rng, self.weather.lost) {
            return log.add("lost datagrams", 1);
        }
        let (Packet::ToTracker { bytes, .. } | Packet::ToClient { bytes, .. }) = &mut packet;
        if happens(rng, self.weather.truncated) {
            bytes.truncate(rng.usize(..bytes.len().max(1)));
            log.add("truncated datagrams", 1);
        } else if happens(rng, self.weather.altered) && !bytes.is_empty() {
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u8(..8);
            log.add("altered datagrams", 1);
        } else if happens(rng, self.weather.repeated) {
            self.put(at_us, packet.clone(), rng, log);
            log.add("repeated datagrams", 1);
        }
        self.put(at_us, packet, rng, log);
    }

    fn put(&mut self, at_us: u64, packet: Packet, rng: &mut Rng, log: &Log) {
        let arrives = at_us + rng.u64(..=self.weather.delay_us);
        if self.in_flight.last_key_value().is_some_and(|((last, _), _)| *last > arrives) {
            log.add("reordered datagrams", 1);
        }
        self.sent += 1;
        self.in_flight.insert((arrives, self.sent), packet);
    }

    /// Removes the next datagram that has arrived.
    pub(crate) fn arrived(&mut self, at_us: u64) -> Option<Packet> {
        let first = self.in_flight.first_entry()?;
        (first.key().0 <= at_us).then(|| first.remove())
    }
}
