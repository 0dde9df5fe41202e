//! Owns the UDP requests in flight. The transaction id of each names its slot, until a reply arrives or the timeout has
//! passed.

use std::collections::VecDeque;
use std::time::Duration;

use gyre::time::Timestamp;

use crate::measure::Kind;

/// Maximum number of requests in flight.
pub(crate) const IN_FLIGHT_MAX: usize = 1 << 16;
/// A reply to a request that is no longer in flight counts as late if fewer requests than this have used its slot
/// since.
const LATE_GENERATIONS: u16 = 1 << 15;

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// When it was due. Latency counts from then.
    pub(crate) due: Timestamp,
    pub(crate) source: u16,
    /// The port of the announcing peer.
    pub(crate) port: u16,
    /// Number of peers that it wants.
    pub(crate) num_want: u16,
}

/// The result of a lookup by a reply's transaction id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The request in flight.
    Found(Request),
    /// The request has timed out, or has had a reply before.
    Late,
    /// No request has had this id.
    Unknown,
}

struct Slot {
    /// Number of requests that have used this slot, modulo 2¹⁶.
    generation: u16,
    request: Option<Request>,
}

/// The requests in flight.
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Ids and times of the sent requests, oldest first. Answered ones are removed when they reach the front.
    sent: VecDeque<(u32, Timestamp)>,
    timeout: Duration,
}

impl InFlight {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), sent: VecDeque::new(), timeout }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len() < IN_FLIGHT_MAX
    }

    /// Adds a request. Returns its transaction id.
    ///
    /// # Panics
    ///
    /// If there is no room.
    pub(crate) fn insert(&mut self, now: Timestamp, request: Request) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < IN_FLIGHT_MAX, "more requests in flight than transaction ids");
            self.slots.push(Slot { generation: 0, request: None });
            (self.slots.len() - 1) as u16
        });
        let slot = &mut self.slots[usize::from(number)];
        slot.generation = slot.generation.wrapping_add(1);
        slot.request = Some(request);
        let id = u32::from(slot.generation) << 16 | u32::from(number);
        self.sent.push_back((id, now));
        id
    }

    /// Removes and returns the request with this transaction id.
    pub(crate) fn take(&mut self, id: u32) -> Lookup {
        let Some(slot) = self.slots.get_mut(id as usize & 0xffff) else { return Lookup::Unknown };
        let age = slot.generation.wrapping_sub((id >> 16) as u16);
        match (age, slot.request) {
            (0, Some(request)) => {
                slot.request = None;
                self.free.push(id as u16);
                Lookup::Found(request)
            }
            (0..LATE_GENERATIONS, _) => Lookup::Late,
            _ => Lookup::Unknown,
        }
    }

    /// Removes and returns the next request whose timeout has passed.
    pub(crate) fn pop_expired(&mut self, now: Timestamp) -> Option<Request> {
        while let Some((id, sent)) = self.sent.front() {
            let slot = &mut self.slots[*id as usize & 0xffff];
            let waits = slot.request.is_some() && slot.generation == (*id >> 16) as u16;
            if waits && now.since(*sent) < self.timeout {
                return None;
            }
            let id = *id;
            self.sent.pop_front();
            if waits {
                self.free.push(id as u16);
                return slot.request.take();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(port: u16) -> Request {
        Request { kind: Kind::Announce, due: Timestamp::from_secs(1), source: 0, port, num_want: 30 }
    }

    #[test]
    fn a_transaction_id_finds_its_request_once() {
        let mut in_flight = InFlight::new(Duration::from_secs(1));
        let ids: Vec<u32> =
            (0..100).map(|port| in_flight.insert(Timestamp::from_secs(1), request(port))).collect();
        for (port, id) in (0..100).zip(&ids).rev() {
            assert_eq!(in_flight.take(*id), Lookup::Found(request(port)));
            assert_eq!(in_flight.take(*id), Lookup::Late);
        }
        assert_eq!(in_flight.len(), 0);
        assert_eq!(in_flight.take(100), Lookup::Unknown);
        assert_eq!(in_flight.take(0x8000_0000), Lookup::Unknown);
        let again = in_flight.insert(Timestamp::from_secs(1), request(7));
        assert!(!ids.contains(&again));
        assert_eq!(in_flight.len(), 1);
    }

    #[test]
    fn requests_without_a_reply_expire() {
        let mut in_flight = InFlight::new(Duration::from_secs(1));
        let first = in_flight.insert(Timestamp::from_secs(1), request(1));
        let second = in_flight.insert(Timestamp::from_secs(1), request(2));
        let third = in_flight.insert(Timestamp::from_micros(1_500_000), request(3));
        assert_eq!(in_flight.take(first), Lookup::Found(request(1)));
        assert_eq!(in_flight.pop_expired(Timestamp::from_micros(1_999_999)), None);
        assert_eq!(in_flight.pop_expired(Timestamp::from_secs(2)), Some(request(2)));
        assert_eq!(in_flight.pop_expired(Timestamp::from_secs(2)), None);
        assert_eq!(in_flight.take(second), Lookup::Late);
        assert_eq!(in_flight.take(third), Lookup::Found(request(3)));
        assert_eq!(in_flight.pop_expired(Timestamp::from_secs(9)), None);
        assert_eq!((in_flight.len(), in_flight.sent.len()), (0, 0));
    }
}
