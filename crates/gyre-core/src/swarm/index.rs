//! Owns the index from info-hashes to swarm records: cache lines of 12 record numbers each, with linear hashing.

use hashbrown::HashTable;

use super::linear;
use super::pool::Memory;
use crate::keyed_hash::KeyedHash;
use crate::limits::{INDEX_LOAD, TABLE_CHUNK_BYTES};
use crate::swarm::prefetch::prefetch;
use crate::types::InfoHash;

const SLOTS: usize = 12;

/// A cache line of the index.
///
/// ```text
///  | record number × 12 (4 bytes each) | tag × 12 (1 byte each) | len | - | spilled (2 bytes) |
/// ```
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    numbers: [u32; SLOTS],
    /// One byte of each hash, so that a lookup rarely reads the wrong record.
    tags: [u8; SLOTS],
    len: u8,
    /// Number of records of this line that are in the spill table.
    spilled: u16,
}

const _: () = assert!(size_of::<Line>() == 64 && INDEX_LOAD < SLOTS);
/// Capacity, in entries, below which the spill table is not shrunk.
const SPILL_MIN: usize = 64;
const CHUNK_LINES: usize = TABLE_CHUNK_BYTES / size_of::<Line>();

/// A record for which its line had no room.
#[derive(Debug)]
struct Spilled {
    line: u32,
    number: u32,
}

/// The index of all swarms.
pub(super) struct Index {
    hash: KeyedHash,
    chunks: Vec<Box<[Line]>>,
    lines: u32,
    /// The [`linear::mask`] of the number of lines.
    mask: u32,
    len: usize,
    /// The records without a slot in their line, a few per cent of all. The key is the line.
    spill: HashTable<Spilled>,
}

/// The hash of an info-hash. The lower half selects the line, and the top byte is the tag.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hash(u64);

impl Hash {
    fn tag(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

impl Index {
    /// Creates an empty index. The key is secret, so that an attacker can't choose info-hashes that collide in one
    /// line.
    pub(super) fn new(key: [u64; 2]) -> Self {
        Self {
            hash: KeyedHash::new(key),
            chunks: Vec::new(),
            lines: 0,
            mask: 0,
            len: 0,
            spill: HashTable::new(),
        }
    }

    #[inline]
    pub(super) fn hash(&self, info_hash: &InfoHash) -> Hash {
        Hash(self.hash.of(&info_hash.0))
    }

    /// Returns the record with this hash for which `matches` is true.
    #[inline]
    pub(super) fn find(&self, hash: Hash, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.lines == 0 {
            return None;
        }
        let number = self.line_of(hash);
        let line = self.line(number);
        let tag = hash.tag();
        for at in 0..usize::from(line.len) {
            if line.tags[at] == tag && matches(line.numbers[at]) {
                return Some(line.numbers[at]);
            }
        }
        if line.spilled == 0 {
            return None;
        }
        let found =
            self.spill.find(spill_hash(number), |spilled| spilled.line == number && matches(spilled.number));
        found.map(|spilled| spilled.number)
    }

    /// Adds a record that is not in the index. `info_hash_of` returns the info-hash of a record in it.
    pub(super) fn insert(
        &mut self,
        hash: Hash,
        number: u32,
        info_hash_of: impl Fn(u32) -> InfoHash,
        memory: &mut Memory,
    ) {
        if self.len >= self.lines as usize * INDEX_LOAD {
            self.add_line(info_hash_of, memory);
        }
        self.place(hash, number, memory);
        self.len += 1;
    }

    /// Removes a record.
    ///
    /// # Panics
    ///
    /// If it is not in the index.
    pub(super) fn remove(&mut self, hash: Hash, number: u32) {
        self.len -= 1;
        let at = self.line_of(hash);
        let line = self.line_mut(at);
        let len = usize::from(line.len);
        if let Some(place) = line.numbers[..len].iter().position(|other| *other == number) {
            line.numbers[place] = line.numbers[len - 1];
            line.tags[place] = line.tags[len - 1];
            line.len -= 1;
            return; // spilled records return when the line is split or merged
        }
        line.spilled -= 1;
        let spilled = self.spill.find_entry(spill_hash(at), |spilled| spilled.number == number);
        spilled.expect("every swarm is in the index").remove();
    }

    /// Updates the number of a moved record.
    pub(super) fn moved(&mut self, hash: Hash, from: u32, to: u32) {
        let at = self.line_of(hash);
        let line = self.line_mut(at);
        let len = usize::from(line.len);
        let place = match line.numbers[..len].iter().position(|other| *other == from) {
            Some(place) => &mut line.numbers[place],
            None => {
                let spilled = self.spill.find_mut(spill_hash(at), |spilled| spilled.number == from);
                &mut spilled.expect("every swarm is in the index").number
            }
        };
        *place = to;
    }

    /// Removes a line if there are far more than needed. Returns whether another call may remove one more.
    pub(super) fn shrink(&mut self, info_hash_of: impl Fn(u32) -> InfoHash, memory: &mut Memory) -> bool {
        if self.lines == 0 || self.len * 2 > (self.lines as usize - 1) * INDEX_LOAD {
            return false;
        }
        let last = self.lines - 1;
        let moving = self.drain_line(last);
        self.lines -= 1;
        self.mask = linear::mask(self.lines);
        if self.lines as usize == (self.chunks.len() - 1) * CHUNK_LINES {
            self.chunks.pop();
            memory.resized(TABLE_CHUNK_BYTES, 0);
        }
        for number in moving {
            self.place(self.hash(&info_hash_of(number)), number, memory);
        }
        if self.spill.capacity() > 4 * self.spill.len() + SPILL_MIN {
            let before = self.spill.allocation_size();
            self.spill.shrink_to(2 * self.spill.len(), |spilled| spill_hash(spilled.line));
            memory.resized(before, self.spill.allocation_size());
        }
        self.lines > 0
    }

    /// Starts to fetch the line that [`find`](Self::find) will read.
    #[inline]
    pub(super) fn fetch(&self, hash: Hash) {
        if self.lines > 0 {
            prefetch(self.line(self.line_of(hash)));
        }
    }

    /// Returns the record that probably has this hash, without reading it.
    #[inline]
    pub(super) fn guess(&self, hash: Hash) -> Option<u32> {
        let line = (self.lines > 0).then(|| self.line(self.line_of(hash)))?;
        let at = line.tags[..usize::from(line.len)].iter().position(|tag| *tag == hash.tag())?;
        Some(line.numbers[at])
    }

    fn place(&mut self, hash: Hash, number: u32, memory: &mut Memory) {
        let at = self.line_of(hash);
        let line = self.line_mut(at);
        let len = usize::from(line.len);
        if len < SLOTS {
            (line.numbers[len], line.tags[len]) = (number, hash.tag());
            line.len += 1;
            return;
        }
        line.spilled += 1;
        let before = self.spill.allocation_size();
        self.spill
            .insert_unique(spill_hash(at), Spilled { line: at, number }, |spilled| spill_hash(spilled.line));
        memory.resized(before, self.spill.allocation_size());
    }

    /// Adds a line and moves its part of the parent line to it.
    fn add_line(&mut self, info_hash_of: impl Fn(u32) -> InfoHash, memory: &mut Memory) {
        if self.lines as usize == self.chunks.len() * CHUNK_LINES {
            self.chunks.push(vec![Line::default(); CHUNK_LINES].into_boxed_slice());
            memory.resized(0, TABLE_CHUNK_BYTES);
        }
        self.lines += 1;
        self.mask = linear::mask(self.lines);
        *self.line_mut(self.lines - 1) = Line::default();
        if self.lines > 1 {
            for number in self.drain_line(linear::parent(self.lines - 1)) {
                self.place(self.hash(&info_hash_of(number)), number, memory);
            }
        }
    }

    /// Takes all records out of a line, including spilled ones.
    fn drain_line(&mut self, at: u32) -> Vec<u32> {
        let line = std::mem::take(self.line_mut(at));
        let mut numbers = line.numbers[..usize::from(line.len)].to_vec();
        for _ in 0..line.spilled {
            let spilled = self.spill.find_entry(spill_hash(at), |spilled| spilled.line == at);
            numbers.push(spilled.expect("a line counts its spilled records").remove().0.number);
        }
        numbers
    }

    /// Returns the number of the line for a hash.
    fn line_of(&self, hash: Hash) -> u32 {
        linear::bucket_by(hash.0 as u32, self.lines, self.mask)
    }

    fn line(&self, at: u32) -> &Line {
        &self.chunks[at as usize / CHUNK_LINES][at as usize % CHUNK_LINES]
    }

    fn line_mut(&mut self, at: u32) -> &mut Line {
        &mut self.chunks[at as usize / CHUNK_LINES][at as usize % CHUNK_LINES]
    }
}

/// Hashes a line number for the spill table. hashbrown also needs the top bits to differ.
fn spill_hash(line: u32) -> u64 {
    u64::from(line).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
impl Index {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * TABLE_CHUNK_BYTES + self.spill.allocation_size()
    }
}
