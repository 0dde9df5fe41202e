//! Owns the statistics of clients: how often each announced recently, in a sample.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::limits::{CLIENTS_HALF_LIFE_S, CLIENTS_MAX, CLIENTS_SAMPLE_US};
use crate::time::Timestamp;
use crate::types::PeerId;

/// The bytes of a peer id that name the client and its version (BEP 20, `-TR4060-`). Peer ids of other conventions are
/// told apart as far as these bytes differ.
pub const CLIENT_BYTES: usize = 8;

/// Counts of the most frequent clients, at most [`CLIENTS_MAX`] of them (the algorithm of Misra and Gries). A count
/// may be too low, at most by the number of sampled announces of all clients that are not in the list.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    met: ArrayVec<([u8; CLIENT_BYTES], u32), CLIENTS_MAX>,
    /// Earliest time of the next sample.
    next_sample: Timestamp,
    /// When the counts are halved next.
    next_fade: Timestamp,
}

impl Clients {
    /// Counts the client of an announce, at most one for each [`CLIENTS_SAMPLE_US`].
    #[inline]
    pub fn note(&mut self, now: Timestamp, peer_id: &PeerId) {
        if now >= self.next_sample {
            self.next_sample = now + Duration::from_micros(CLIENTS_SAMPLE_US);
            self.count(peer_id);
        }
    }

    #[cold]
    fn count(&mut self, peer_id: &PeerId) {
        let [client @ .., _, _, _, _, _, _, _, _, _, _, _, _] = peer_id.0;
        match self.met.iter().position(|(other, _)| *other == client) {
            Some(at) => self.met[at].1 = self.met[at].1.saturating_add(1),
            None if self.met.is_full() => self.decrease(|count| count - 1),
            None => self.met.push((client, 1)),
        }
    }

    /// Halves the counts every [`CLIENTS_HALF_LIFE_S`].
    pub fn fade(&mut self, now: Timestamp) {
        if now >= self.next_fade {
            self.next_fade = now + Duration::from_secs(CLIENTS_HALF_LIFE_S);
            self.decrease(|count| count / 2);
        }
    }

    /// Returns the first bytes of the clients' peer ids with their counts.
    pub fn met(&self) -> impl Iterator<Item = ([u8; CLIENT_BYTES], u32)> {
        self.met.iter().copied()
    }

    fn decrease(&mut self, less: impl Fn(u32) -> u32) {
        self.met.iter_mut().for_each(|(_, count)| *count = less(*count));
        self.met.retain(|(_, count)| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(client: u16) -> PeerId {
        let mut id = [b'-'; 20];
        id[1..3].copy_from_slice(&client.to_be_bytes());
        id[12..14].copy_from_slice(&client.to_le_bytes()); // the random part
        PeerId(id)
    }

    #[test]
    fn frequent_clients_are_counted_among_many() {
        let mut clients = Clients::default();
        for round in 0..1_000_u16 {
            clients.count(&id(0));
            clients.count(&id(1 + round % 2));
            clients.count(&id(100 + round)); // a new client each time
        }
        let count = |client| clients.met().find(|(id, _)| id[1..3] == u16::to_be_bytes(client)).unwrap().1;
        assert!((900..=1_000).contains(&count(0)), "{}", count(0));
        assert!((400..=500).contains(&count(1)) && (400..=500).contains(&count(2)));
        assert!(clients.met().count() <= CLIENTS_MAX);
    }

    #[test]
    fn old_counts_fade() {
        let mut clients = Clients::default();
        clients.fade(Timestamp::default());
        let at = |samples| Timestamp::from_micros(samples * CLIENTS_SAMPLE_US / 2);
        (0..7).for_each(|samples| clients.note(at(samples), &id(7))); // every other one is a sample
        let met = |clients: &Clients| clients.met().map(|(_, count)| count).collect::<Vec<_>>();
        for (halves, left) in [vec![2], vec![1], vec![], vec![]].into_iter().enumerate() {
            let now = Timestamp::from_secs(CLIENTS_HALF_LIFE_S * (halves as u64 + 1));
            clients.fade(now);
            clients.fade(now); // no effect: the next fade is not due
            assert_eq!(met(&clients), left);
        }
    }
}
