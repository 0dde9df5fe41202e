//! Owns lists of clients, told by how their peer ids begin (BEP 20).

use percent_encoding::percent_decode;

use super::lines::Entries;
use crate::types::PeerId;

/// A list of clients.
#[derive(Clone, Debug)]
pub struct ClientList {
    /// Beginnings of peer ids in their order, none of which begins with another.
    prefixes: Vec<Box<[u8]>>,
}

impl ClientList {
    /// Whether the client of this peer id is in the list.
    pub fn contains(&self, peer_id: &PeerId) -> bool {
        let PeerId(id) = peer_id;
        // What stands between a prefix and the id begins with the prefix too, and so there is nothing.
        let behind = self.prefixes.partition_point(|prefix| prefix[..] <= id[..]);
        behind > 0 && id.starts_with(&self.prefixes[behind - 1])
    }
}

/// A list of clients that is being read: the first bytes of a peer id to a line, `-TR` or `-TR3000-`; what can't be
/// written as it is (a blank, `#`, `%`, bytes beyond ASCII) as `%` and two hexadecimal digits.
#[derive(Debug, Default)]
pub struct Clients {
    prefixes: Vec<Box<[u8]>>,
}

impl Entries for Clients {
    type List = ClientList;
    type Key = Vec<u8>;

    fn enter(&mut self, words: &[&[u8]]) -> Result<(), (usize, String)> {
        if words.len() > 1 {
            return Err((1, "nothing but a comment follows the beginning of a peer id".into()));
        }
        let is_escape = |digits: &[u8]| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
        let mut escapes = words[0].split(|byte| *byte == b'%').skip(1);
        if !escapes.all(|rest| is_escape(&rest[..rest.len().min(2)])) {
            return Err((0, "two hexadecimal digits follow a `%`".into()));
        }
        let prefix: Vec<u8> = percent_decode(words[0]).collect();
        if prefix.len() > 20 {
            return Err((0, format!("{} bytes: a peer id has 20", prefix.len())));
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
