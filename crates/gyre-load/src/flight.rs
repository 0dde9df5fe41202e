//! Owns the requests in flight by UDP: each has a place that its transaction id names, until its reply comes or its
//! time is over.

use std::collections::VecDeque;
use std::time::Duration;

use gyre::time::Timestamp;

use crate::measure::Kind;

/// Requests in flight, at most.
pub(crate) const FLIGHT_MAX: usize = 1 << 16;
/// A reply with the id of a request that has been given up is taken for late if fewer others have had its place since.
const LATE_GENERATIONS: u16 = 1 << 15;

/// A request that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// When it was to be sent, which latency counts from.
    pub(crate) due: Timestamp,
    pub(crate) source: u16,
    /// The peer's port, of an announce.
    pub(crate) port: u16,
    /// The peer wants so many.
    pub(crate) num_want: u16,
}

/// What a reply's transaction id says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// It answers this.
    Reply(Request),
    /// It answers what has been given up, or answered before.
    Late,
    /// It answers nothing.
    Nothing,
}

struct Place {
    /// How many requests have had this place.
    generation: u16,
    request: Option<Request>,
}

/// The requests in flight.
pub(crate) struct Flight {
    places: Vec<Place>,
    free: Vec<u16>,
    /// All that have been sent, in this order, but those at the front that are answered.
    sent: VecDeque<(u32, Timestamp)>,
    timeout: Duration,
}

impl Flight {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { places: Vec::new(), free: Vec::new(), sent: VecDeque::new(), timeout }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len() < FLIGHT_MAX
    }

    /// Enters a request; returns its transaction id.
    ///
    /// # Panics
    ///
    /// If there is no room.
    pub(crate) fn enter(&mut self, now: Timestamp, request: Request) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            assert!(self.places.len() < FLIGHT_MAX, "more requests in flight than there are transaction ids");
            self.places.push(Place { generation: 0, request: None });
            (self.places.len() - 1) as u16
        });
        let place = &mut self.places[usize::from(number)];
        place.generation = place.generation.wrapping_add(1);
        place.request = Some(request);
        let id = u32::from(place.generation) << 16 | u32::from(number);
        self.sent.push_back((id, now));
        id
    }

    /// Takes out the request that a reply answers.
    pub(crate) fn take(&mut self, id: u32) -> Match {
        let Some(place) = self.places.get_mut(id as usize & 0xffff) else { return Match::Nothing };
        let age = place.generation.wrapping_sub((id >> 16) as u16);
        match (age, place.request) {
            (0, Some(request)) => {
                place.request = None;
                self.free.push(id as u16);
                Match::Reply(request)
            }
            (0..LATE_GENERATIONS, _) => Match::Late,
            _ => Match::Nothing,
        }
    }

    /// Takes out the next request whose time is over.
    pub(crate) fn expired(&mut self, now: Timestamp) -> Option<Request> {
        while let Some((id, sent)) = self.sent.front() {
            let place = &mut self.places[*id as usize & 0xffff];
            let waits = place.request.is_some() && place.generation == (*id >> 16) as u16;
            if waits && now.since(*sent) < self.timeout {
                return None;
            }
            let id = *id;
            self.sent.pop_front();
            if waits {
                self.free.push(id as u16);
                return place.request.take();
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
    fn replies_find_their_requests_once() {
        let mut flight = Flight::new(Duration::from_secs(1));
        let ids: Vec<u32> =
            (0..100).map(|port| flight.enter(Timestamp::from_secs(1), request(port))).collect();
        for (port, id) in (0..100).zip(&ids).rev() {
            assert_eq!(flight.take(*id), Match::Reply(request(port)));
            assert_eq!(flight.take(*id), Match::Late);
        }
        assert_eq!(flight.len(), 0);
        assert_eq!(flight.take(100), Match::Nothing);
        assert_eq!(flight.take(0x8000_0000), Match::Nothing);
        let again = flight.enter(Timestamp::from_secs(1), request(7));
        assert!(!ids.contains(&again));
        assert_eq!(flight.len(), 1);
    }

    #[test]
    fn what_is_not_answered_in_time_is_lost() {
        let mut flight = Flight::new(Duration::from_secs(1));
        let first = flight.enter(Timestamp::from_secs(1), request(1));
        let second = flight.enter(Timestamp::from_secs(1), request(2));
        let third = flight.enter(Timestamp::from_micros(1_500_000), request(3));
        assert_eq!(flight.take(first), Match::Reply(request(1)));
        assert_eq!(flight.expired(Timestamp::from_micros(1_999_999)), None);
        assert_eq!(flight.expired(Timestamp::from_secs(2)), Some(request(2)));
        assert_eq!(flight.expired(Timestamp::from_secs(2)), None);
        assert_eq!(flight.take(second), Match::Late);
        assert_eq!(flight.take(third), Match::Reply(request(3)));
        assert_eq!(flight.expired(Timestamp::from_secs(9)), None);
        assert_eq!((flight.len(), flight.sent.len()), (0, 0));
    }
}
