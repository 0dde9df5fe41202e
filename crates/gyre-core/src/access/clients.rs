//! Owns lists of clients, which are recognised by the prefix of the peer id (BEP 20).

use percent_encoding::percent_decode;

use super::lines::Entries;
use crate::types::PeerId;

/// A list of clients.
#[derive(Clone, Debug)]
pub struct ClientList {
    /// Prefixes of peer ids, sorted. None is a prefix of another.
    prefixes: Vec<Box<[u8]>>,
}

impl ClientList {
    /// Returns whether the client with this peer id is in the list.
    pub fn contains(&self, peer_id: &PeerId) -> bool {
        let PeerId(id) = peer_id;
        // All strings between a prefix and the id start with the prefix, so the last prefix up to the id is the only
        // candidate.
        let behind = self.prefixes.partition_point(|prefix| prefix[..] <= id[..]);
        behind > 0 && id.starts_with(&self.prefixes[behind - 1])
    }
}

/// Reads a list of clients. Each line has the first bytes of a peer id: `-TR` or `-TR3000-`. A space, `#`, `%` and
/// bytes outside ASCII are written as `%` and two hexadecimal digits.
#[derive(Debug, Default)]
pub struct Clients {
    prefixes: Vec<Box<[u8]>>,
}

impl Entries for Clients {
    type List = ClientList;
    type Key = Vec<u8>;

    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)> {
        if words.len() > 1 {
            return Err((1, "only a comment may follow the prefix of a peer id".into()));
        }
        let is_escape = |digits: &[u8]| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
        let mut escapes = words[0].split(|byte| *byte == b'%').skip(1);
        if !escapes.all(|rest| is_escape(&rest[..rest.len().min(2)])) {
            return Err((0, "`%` needs two hexadecimal digits".into()));
        }
        let prefix: Vec<u8> = percent_decode(words[0]).collect();
        if prefix.len() > 20 {
            return Err((0, format!("{} bytes are too long: a peer id has 20", prefix.len())));
        }
        self.prefixes.push(prefix.into());
        Ok(())
    }

    fn finish(self) -> ClientList {
        let mut prefixes = self.prefixes;
        prefixes.sort_unstable();
        prefixes.dedup_by(|later, earlier| later.starts_with(earlier));
        ClientList { prefixes }
    }

    fn key(word: &[u8]) -> Option<Vec<u8>> {
        Some(percent_decode(word).collect())
    }
}
