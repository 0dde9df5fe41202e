//! Owns which clients announce: how often each was met lately, of a sample.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::limits::{CLIENTS_HALF_LIFE_S, CLIENTS_MAX, CLIENTS_SAMPLE_US};
use crate::time::Timestamp;
use crate::types::PeerId;

/// The bytes of a peer id that tell the client and its version (BEP 20, `-TR4060-`); what other conventions than
/// Azureus's have there is told apart as far as these bytes differ.
pub const CLIENT_BYTES: usize = 8;

/// How often each client was met lately, at most [`CLIENTS_MAX`] of them: those that are met most are there (Misra and
/// Gries), each with a count that is too low by what was met of all others at worst.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    met: ArrayVec<([u8; CLIENT_BYTES], u32), CLIENTS_MAX>,
    /// When the next one is noted, at the earliest.
    next_sample: Timestamp,
    /// When the counts are halved.
    next_fade: Timestamp,
}

impl Clients {
    /// Notes a client that announces, if the last one was not just now.
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

    /// Lets what is long ago count for less.
    pub fn fade(&mut self, now: Timestamp) {
        if now >= self.next_fade {
            self.next_fade = now + Duration::from_secs(CLIENTS_HALF_LIFE_S);
            self.decrease(|count| count / 2);
        }
    }

    /// The first bytes of the clients' peer ids, each with how often it was met lately.
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
        id[12..14].copy_from_slice(&client.to_le_bytes()); // its own random part
        PeerId(id)
    }

    #[test]
    fn who_is_met_often_is_known_among_many() {
        let mut clients = Clients::default();
        for round in 0..1_000_u16 {
            clients.count(&id(0));
            clients.count(&id(1 + round % 2));
            clients.count(&id(100 + round)); // somebody new each time
        }
        let count = |client| clients.met().find(|(id, _)| id[1..3] == u16::to_be_bytes(client)).unwrap().1;
        assert!((900..=1_000).contains(&count(0)), "{}", count(0));
        assert!((400..=500).contains(&count(1)) && (400..=500).contains(&count(2)));
        assert!(clients.met().count() <= CLIENTS_MAX);
    }

    #[test]
    fn what_is_long_ago_fades() {
        let mut clients = Clients::default();
        clients.fade(Timestamp::default());
        let at = |samples| Timestamp::from_micros(samples * CLIENTS_SAMPLE_US / 2);
        (0..7).for_each(|samples| clients.note(at(samples), &id(7))); // every other one is a sample
        let met = |clients: &Clients| clients.met().map(|(_, count)| count).collect::<Vec<_>>();
        for (halves, left) in [vec![2], vec![1], vec![], vec![]].into_iter().enumerate() {
            let now = Timestamp::from_secs(CLIENTS_HALF_LIFE_S * (halves as u64 + 1));
            clients.fade(now);
            clients.fade(now); // not again
            assert_eq!(met(&clients), left);
        }
    }
}
