//! Owns pools of equal blocks, which grow and shrink by chunks and never move a block, and the accounting of the
//! table's memory. The lowest free block is always allocated first.

use crate::limits::TABLE_CHUNK_BYTES;

/// Memory usage of a shard's table, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Memory allocated from the system.
    pub allocated: usize,
    /// The part of `allocated` that holds data. The rest is free blocks in chunks, which new peers fill or the sweep
    /// frees.
    pub used: usize,
    /// Limit of `allocated`. No new peer gets a chunk beyond it.
    pub limit: usize,
}

impl Memory {
    /// Returns whether the limit is reached, so that nothing may be allocated for a new peer.
    pub(super) fn is_full(&self) -> bool {
        self.allocated >= self.limit
    }

    /// Counts the growth or shrinkage of an allocation that is fully used.
    pub(super) fn resized(&mut self, before: usize, after: usize) {
        self.used = self.used + after - before;
        self.allocated = self.allocated + after - before;
    }
}

/// Bits of a block's number that hold its place in the chunk. The bits above hold the chunk.
const PLACE_BITS: u32 = 12;

/// The map of the allocated and free blocks of a pool.
///
/// ```text
///  number  = chunk << 12 | place
///  chunks    [#########] [###.#####] [##.......]      # allocated  . free
///  open          0           1           1            one bit a chunk: it has a free block
/// ```
///
/// The lowest free block is always allocated first, so the data of a shrunken table gathers at the front over time. The
/// sweep moves the remaining [strays](Self::is_stray) there and frees the empty chunks at the end.
pub(super) struct Map {
    per_chunk: usize,
    /// A bit for each allocated block, with a whole number of words for each chunk. Bits beyond `per_chunk` are set.
    taken: Vec<u64>,
    /// Number of allocated blocks of each chunk.
    counts: Vec<u16>,
    /// A bit for each chunk that has a free block.
    open: Vec<u64>,
    /// The words of `open` before this one are 0.
    first_open: usize,
    len: usize,
}

impl Map {
    pub(super) fn new(per_chunk: usize) -> Self {
        assert!((1..=1 << PLACE_BITS).contains(&per_chunk), "a chunk can't have {per_chunk} blocks");
        Self { per_chunk, taken: Vec::new(), counts: Vec::new(), open: Vec::new(), first_open: 0, len: 0 }
    }

    /// Returns the number of allocated blocks.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn chunks(&self) -> usize {
        self.counts.len()
    }

    /// Returns whether a block can be allocated without a new chunk.
    pub(super) fn has_room(&self) -> bool {
        self.len < self.chunks() * self.per_chunk
    }

    /// Allocates the lowest free block. If there is none, adds a chunk and allocates its first block.
    pub(super) fn allocate(&mut self) -> u32 {
        let rest = self.open.get(self.first_open..).unwrap_or_default();
        self.first_open += rest.iter().position(|word| *word != 0).unwrap_or(rest.len());
        let chunk = match self.open.get(self.first_open) {
            Some(word) => self.first_open * 64 + word.trailing_zeros() as usize,
            None => self.add_chunk(),
        };
        let words = self.words();
        let map = &mut self.taken[chunk * words..][..words];
        let word = map.iter().position(|word| *word != u64::MAX).expect("an open chunk has a free block");
        let bit = map[word].trailing_ones();
        map[word] |= 1 << bit;
        self.counts[chunk] += 1;
        if usize::from(self.counts[chunk]) == self.per_chunk {
            self.open[chunk / 64] &= !(1 << (chunk % 64));
        }
        self.len += 1;
        (chunk << PLACE_BITS) as u32 | (word as u32 * 64 + bit)
    }

    /// Frees a block. Its chunk stays until [`trim`](Self::trim).
    pub(super) fn free(&mut self, number: u32) {
        let (chunk, place) = split(number);
        let (word, bit) = (chunk * self.words() + place / 64, 1 << (place % 64));
        assert!(self.taken[word] & bit != 0, "block {number:#x} is freed twice");
        self.taken[word] &= !bit;
        self.counts[chunk] -= 1;
        self.open[chunk / 64] |= 1 << (chunk % 64);
        self.first_open = self.first_open.min(chunk / 64);
        self.len -= 1;
    }

    /// Returns whether the block lies beyond the chunks that would be needed if all blocks were at the front, plus one
    /// spare chunk, which avoids a move with every small change. Such a block should move to one that
    /// [`allocate`](Self::allocate) returns.
    pub(super) fn is_stray(&self, number: u32) -> bool {
        split(number).0 > self.len.div_ceil(self.per_chunk)
    }

    /// Removes up to `most` empty chunks from the end, and subtracts their number from `most`.
    pub(super) fn trim(&mut self, most: &mut usize) {
        while *most > 0 && self.counts.last() == Some(&0) {
            *most -= 1;
            self.counts.pop();
            let chunk = self.chunks();
            self.taken.truncate(chunk * self.words());
            self.open[chunk / 64] &= !(1 << (chunk % 64));
            self.open.truncate(chunk.div_ceil(64));
        }
    }

    /// Returns the allocated block with the highest number below `number`.
    pub(super) fn taken_below(&self, number: u32) -> Option<u32> {
        let words = self.words();
        let (chunk, place) = split(number);
        let (mut chunk, mut below) = if chunk < self.chunks() { (chunk, place) } else { (self.chunks(), 0) };
        loop {
            while below > 0 {
                let word = (below - 1) / 64;
                let bits = self.taken[chunk * words + word] & (u64::MAX >> (63 - (below - 1) % 64));
                if bits != 0 {
                    let place = word * 64 + bits.ilog2() as usize;
                    return Some((chunk << PLACE_BITS | place) as u32);
                }
                below = word * 64;
            }
            chunk = self.counts[..chunk].iter().rposition(|count| *count > 0)?;
            below = self.per_chunk;
        }
    }

    /// Returns whether the block is allocated.
    pub(super) fn contains(&self, number: u32) -> bool {
        let (chunk, place) = split(number);
        chunk < self.chunks()
            && place < self.per_chunk
            && self.taken[chunk * self.words() + place / 64] & (1 << (place % 64)) != 0
    }

    fn words(&self) -> usize {
        self.per_chunk.div_ceil(64)
    }

    #[cold]
    fn add_chunk(&mut self) -> usize {
        let chunk = self.chunks();
        assert!(chunk < 1 << (32 - PLACE_BITS), "a pool numbers its blocks with 32 bits");
        self.counts.push(0);
        self.taken.extend((0..self.words()).map(|word| match self.per_chunk - word * 64 {
            64.. => 0,
            valid => u64::MAX << valid,
        }));
        self.open.resize(chunk / 64 + 1, 0);
        self.open[chunk / 64] |= 1 << (chunk % 64);
        self.first_open = chunk / 64;
        chunk
    }
}

/// Returns the chunk of a block number and the place in the chunk.
#[inline]
pub(super) fn split(number: u32) -> (usize, usize) {
    ((number >> PLACE_BITS) as usize, (number & ((1 << PLACE_BITS) - 1)) as usize)
}

/// A pool of single elements, with `PER_CHUNK` in each chunk.
pub(super) struct Pool<T, const PER_CHUNK: usize> {
    map: Map,
    chunks: Vec<Box<[T; PER_CHUNK]>>,
}

impl<T: Default, const PER_CHUNK: usize> Pool<T, PER_CHUNK> {
    const CHUNK_BYTES: usize = PER_CHUNK * size_of::<T>();

    pub(super) fn new() -> Self {
        const { assert!(PER_CHUNK.is_power_of_two() && Self::CHUNK_BYTES <= TABLE_CHUNK_BYTES) };
        Self { map: Map::new(PER_CHUNK), chunks: Vec::new() }
    }

    pub(super) fn map(&self) -> &Map {
        &self.map
    }

    /// Returns an element, allocated or free. A free one has the default value. `None`: there is no such block.
    #[inline]
    pub(super) fn peek(&self, number: u32) -> Option<&T> {
        let (chunk, place) = split(number);
        self.chunks.get(chunk).map(|chunk| &chunk[place % PER_CHUNK])
    }

    /// Returns an element.
    #[inline]
    pub(super) fn get(&self, number: u32) -> &T {
        let (chunk, place) = split(number);
        &self.chunks[chunk][place % PER_CHUNK] // no bounds check: `place` is below `PER_CHUNK`
    }

    /// Returns a mutable reference to an element.
    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        let (chunk, place) = split(number);
        &mut self.chunks[chunk][place % PER_CHUNK]
    }

    /// Allocates an element for a value. Returns its number.
    pub(super) fn insert(&mut self, value: T, memory: &mut Memory) -> u32 {
        let number = self.map.allocate();
        if self.map.chunks() > self.chunks.len() {
            let chunk: Box<[T]> = std::iter::repeat_with(T::default).take(PER_CHUNK).collect();
            self.chunks.push(chunk.try_into().unwrap_or_else(|_| unreachable!("a chunk has this length")));
            memory.allocated += Self::CHUNK_BYTES;
        }
        memory.used += size_of::<T>();
        *self.get_mut(number) = value;
        number
    }

    /// Frees an element and returns its value.
    pub(super) fn remove(&mut self, number: u32, memory: &mut Memory) -> T {
        self.map.free(number);
        memory.used -= size_of::<T>();
        std::mem::take(self.get_mut(number))
    }

    /// Frees up to `most` empty chunks at the end, and subtracts their number from `most`.
    pub(super) fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        self.map.trim(most);
        memory.allocated -= (self.chunks.len() - self.map.chunks()) * Self::CHUNK_BYTES;
        self.chunks.truncate(self.map.chunks());
    }
}

#[cfg(test)]
impl Map {
    pub(super) fn assert_invariants(&self) {
        let words = self.words();
        assert_eq!(self.counts.iter().map(|count| usize::from(*count)).sum::<usize>(), self.len);
        for (chunk, count) in self.counts.iter().enumerate() {
            let map = &self.taken[chunk * words..][..words];
            let spare = words * 64 - self.per_chunk;
            let ones: u32 = map.iter().map(|word| word.count_ones()).sum();
            assert_eq!(ones as usize, usize::from(*count) + spare);
            let open = self.open[chunk / 64] & (1 << (chunk % 64)) != 0;
            assert_eq!(open, usize::from(*count) < self.per_chunk);
            assert!(!open || chunk / 64 >= self.first_open);
        }
    }
}

#[cfg(test)]
impl<T: Default, const PER_CHUNK: usize> Pool<T, PER_CHUNK> {
    /// Returns the bytes used and allocated.
    pub(super) fn bytes(&self) -> (usize, usize) {
        self.map.assert_invariants();
        assert_eq!(self.chunks.len(), self.map.chunks());
        (self.map.len() * size_of::<T>(), self.chunks.len() * Self::CHUNK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_block_is_allocated_and_empty_chunks_are_freed() {
        let mut map = Map::new(54);
        let all: Vec<u32> = (0..54 * 70).map(|_| map.allocate()).collect();
        map.assert_invariants();
        assert!(all.is_sorted() && !map.has_room() && map.chunks() == 70);
        for &number in &[all[7], all[54 * 65], all[3]] {
            map.free(number);
        }
        assert!(!map.contains(all[3]) && map.contains(all[4]));
        let again: Vec<u32> = (0..3).map(|_| map.allocate()).collect();
        assert_eq!(again, [all[3], all[7], all[54 * 65]]);

        // Frees all but one block at the very end. It is a stray. Once it is freed, the chunks can go.
        let last = *all.last().unwrap();
        all.iter().filter(|number| **number != last).for_each(|number| map.free(*number));
        assert!(map.is_stray(last) && !map.is_stray(all[54]));
        map.trim(&mut 1_000);
        assert_eq!(map.chunks(), 70);
        assert_eq!(map.allocate(), all[0]);
        map.free(last);
        let mut most = 60;
        map.trim(&mut most);
        assert_eq!((map.chunks(), most), (10, 0));
        map.trim(&mut 1_000);
        map.assert_invariants();
        assert_eq!((map.chunks(), map.len()), (1, 1));
    }

    #[test]
    fn blocks_are_walked_in_descending_order() {
        let mut map = Map::new(1_000);
        let mut all: Vec<u32> = (0..20_000).map(|_| map.allocate()).collect();
        for number in all.extract_if(.., |number| *number % 3 == 0 || (10_000..40_000).contains(number)) {
            map.free(number);
        }
        let mut walked: Vec<u32> =
            std::iter::successors(map.taken_below(u32::MAX), |number| map.taken_below(*number)).collect();
        walked.reverse();
        assert_eq!(walked, all);
    }

    #[test]
    fn a_pool_counts_its_memory() {
        let (mut pool, mut memory) = (Pool::<u64, 2_048>::new(), Memory::default());
        let numbers: Vec<u32> = (0..5_000).map(|value| pool.insert(value, &mut memory)).collect();
        assert_eq!((memory.used, memory.allocated), pool.bytes());
        assert_eq!((*pool.get(numbers[4_321]), memory.used), (4_321, 40_000));
        let values: Vec<u64> = numbers.iter().map(|number| pool.remove(*number, &mut memory)).collect();
        assert!(values.is_sorted());
        pool.trim(&mut memory, &mut 100);
        assert_eq!((memory.used, memory.allocated), (0, 0));
    }
}
