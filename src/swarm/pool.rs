//! Owns storage that grows and shrinks by chunks and never moves what it holds: equal blocks, the lowest free one taken
//! first, and the books on how much memory all of that is.

use crate::limits::TABLE_CHUNK_BYTES;

/// Memory of a shard's table, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Taken from the system.
    pub allocated: usize,
    /// Of that, what holds something; the rest is room in chunks, which the next peers fill or the sweep gives back.
    pub used: usize,
    /// What `allocated` is kept under: no new peer gets a chunk beyond it.
    pub limit: usize,
}

impl Memory {
    /// Whether nothing new may be allocated for the sake of a new peer.
    pub(super) fn is_full(&self) -> bool {
        self.allocated >= self.limit
    }

    /// Enters a growth or shrinkage of something that is used as a whole.
    pub(super) fn resized(&mut self, before: usize, after: usize) {
        self.used = self.used + after - before;
        self.allocated = self.allocated + after - before;
    }
}

/// A block's number holds its chunk above and its place in the chunk below so many bits.
const PLACE_BITS: u32 = 12;

/// Blocks of `block` elements each, in chunks of [`TABLE_CHUNK_BYTES`].
///
/// ```text
///  number  = chunk << 12 | place
///  chunks    [#########] [###.#####] [##.......]      # taken  . free
///  open          0           1           1            one bit a chunk: has it a free block?
/// ```
///
/// As the lowest free block is always the one taken, what is left after a shrinkage gathers in front as it is renewed;
/// the sweep moves the [strays](Self::is_stray) there and then drops the empty chunks at the end.
pub(super) struct Pool<T> {
    block: usize,
    per_chunk: usize,
    chunks: Vec<Box<[T]>>,
    /// A bit for each block, a whole number of words a chunk; bits beyond `per_chunk` are set.
    taken: Vec<u64>,
    /// How many blocks of each chunk are taken.
    counts: Vec<u16>,
    open: Vec<u64>,
    len: usize,
}

impl<T: Default> Pool<T> {
    /// For blocks of so many elements.
    pub(super) fn new(block: usize) -> Self {
        let per_chunk = TABLE_CHUNK_BYTES / (block * size_of::<T>());
        assert!((1..=1 << PLACE_BITS).contains(&per_chunk), "a chunk has room for {per_chunk} blocks");
        Self {
            block,
            per_chunk,
            chunks: Vec::new(),
            taken: Vec::new(),
            counts: Vec::new(),
            open: Vec::new(),
            len: 0,
        }
    }

    /// How many blocks are taken.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether a block can be taken without a new chunk.
    pub(super) fn has_room(&self) -> bool {
        self.len < self.chunks.len() * self.per_chunk
    }

    /// Takes the lowest free block; its content is whatever was there.
    pub(super) fn take(&mut self, memory: &mut Memory) -> u32 {
        let chunk = match self.open.iter().position(|word| *word != 0) {
            Some(word) => word * 64 + self.open[word].trailing_zeros() as usize,
            None => self.add_chunk(memory),
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
        memory.used += self.block_bytes();
        (chunk << PLACE_BITS) as u32 | (word as u32 * 64 + bit)
    }

    /// Gives a block back. Its chunk stays until [`trim`](Self::trim).
    pub(super) fn give(&mut self, number: u32, memory: &mut Memory) {
        let (chunk, place) = split(number);
        let (word, bit) = (chunk * self.words() + place / 64, 1 << (place % 64));
        assert!(self.taken[word] & bit != 0, "block {number:#x} is given back twice");
        self.taken[word] &= !bit;
        self.counts[chunk] -= 1;
        self.open[chunk / 64] |= 1 << (chunk % 64);
        self.len -= 1;
        memory.used -= self.block_bytes();
    }

    /// Whether the block lies where there would be nothing if all were in front (with a chunk to spare, so that not
    /// every coming and going moves something): then it is to be moved to what [`take`](Self::take) gives.
    pub(super) fn is_stray(&self, number: u32) -> bool {
        split(number).0 > self.len.div_ceil(self.per_chunk)
    }

    /// Frees empty chunks at the end, up to `most`, which is diminished by them.
    pub(super) fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        while *most > 0 && self.counts.last() == Some(&0) {
            *most -= 1;
            self.counts.pop();
            self.chunks.pop();
            self.taken.truncate(self.chunks.len() * self.words());
            let chunk = self.chunks.len();
            self.open[chunk / 64] &= !(1 << (chunk % 64));
            self.open.truncate(chunk.div_ceil(64));
            memory.allocated -= TABLE_CHUNK_BYTES;
        }
    }

    /// The taken block with the highest number below `number`.
    pub(super) fn taken_below(&self, number: u32) -> Option<u32> {
        let words = self.words();
        let (chunk, place) = split(number);
        let (mut chunk, mut below) =
            if chunk < self.chunks.len() { (chunk, place) } else { (self.chunks.len(), 0) };
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

    /// Whether the block is taken.
    pub(super) fn contains(&self, number: u32) -> bool {
        let (chunk, place) = split(number);
        chunk < self.chunks.len()
            && place < self.per_chunk
            && self.taken[chunk * self.words() + place / 64] & (1 << (place % 64)) != 0
    }

    /// A block.
    #[inline]
    pub(super) fn get(&self, number: u32) -> &[T] {
        let (chunk, place) = split(number);
        &self.chunks[chunk][place * self.block..][..self.block]
    }

    /// A block, to be written.
    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> &mut [T] {
        let (chunk, place) = split(number);
        &mut self.chunks[chunk][place * self.block..][..self.block]
    }

    fn words(&self) -> usize {
        self.per_chunk.div_ceil(64)
    }

    fn block_bytes(&self) -> usize {
        self.block * size_of::<T>()
    }

    #[cold]
    fn add_chunk(&mut self, memory: &mut Memory) -> usize {
        let chunk = self.chunks.len();
        assert!(chunk < 1 << (32 - PLACE_BITS), "a pool numbers its blocks with 32 bits");
        let elements = TABLE_CHUNK_BYTES / size_of::<T>();
        self.chunks.push(std::iter::repeat_with(T::default).take(elements).collect());
        self.counts.push(0);
        self.taken.extend((0..self.words()).map(|word| match self.per_chunk - word * 64 {
            64.. => 0,
            valid => u64::MAX << valid,
        }));
        self.open.resize(chunk / 64 + 1, 0);
        self.open[chunk / 64] |= 1 << (chunk % 64);
        memory.allocated += TABLE_CHUNK_BYTES;
        chunk
    }
}

/// Pools of single elements.
impl<T: Default> Pool<T> {
    /// An element.
    #[inline]
    pub(super) fn one(&self, number: u32) -> &T {
        &self.get(number)[0]
    }

    /// An element, to be written.
    #[inline]
    pub(super) fn one_mut(&mut self, number: u32) -> &mut T {
        &mut self.get_mut(number)[0]
    }

    /// Takes an element for a value.
    pub(super) fn insert(&mut self, value: T, memory: &mut Memory) -> u32 {
        let number = self.take(memory);
        *self.one_mut(number) = value;
        number
    }

    /// Gives an element back and takes its value out.
    pub(super) fn remove(&mut self, number: u32, memory: &mut Memory) -> T {
        let value = std::mem::take(self.one_mut(number));
        self.give(number, memory);
        value
    }
}

fn split(number: u32) -> (usize, usize) {
    ((number >> PLACE_BITS) as usize, (number & ((1 << PLACE_BITS) - 1)) as usize)
}

#[cfg(test)]
impl<T: Default> Pool<T> {
    pub(super) fn assert_invariants(&self) {
        let words = self.words();
        assert_eq!(self.counts.len(), self.chunks.len());
        assert_eq!(self.counts.iter().map(|count| usize::from(*count)).sum::<usize>(), self.len);
        for (chunk, count) in self.counts.iter().enumerate() {
            let map = &self.taken[chunk * words..][..words];
            let spare = words * 64 - self.per_chunk;
            let ones: u32 = map.iter().map(|word| word.count_ones()).sum();
            assert_eq!(ones as usize, usize::from(*count) + spare);
            let open = self.open[chunk / 64] & (1 << (chunk % 64)) != 0;
            assert_eq!(open, usize::from(*count) < self.per_chunk);
        }
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        self.chunks.len() * TABLE_CHUNK_BYTES
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.len * self.block_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_block_is_taken_and_chunks_go_back() {
        let (mut pool, mut memory) = (Pool::<u8>::new(300), Memory::default());
        let per_chunk = TABLE_CHUNK_BYTES / 300;
        let all: Vec<u32> = (0..per_chunk * 70).map(|_| pool.take(&mut memory)).collect();
        pool.assert_invariants();
        assert!(all.is_sorted() && !pool.has_room());
        assert_eq!(memory.allocated, 70 * TABLE_CHUNK_BYTES);
        assert_eq!(memory.used, per_chunk * 70 * 300);
        for &number in &[all[7], all[per_chunk * 65], all[3]] {
            pool.give(number, &mut memory);
        }
        assert!(!pool.contains(all[3]) && pool.contains(all[4]));
        let again: Vec<u32> = (0..3).map(|_| pool.take(&mut memory)).collect();
        assert_eq!(again, [all[3], all[7], all[per_chunk * 65]]);

        // All but one at the very end: it is a stray, and with it gone the chunks go.
        let last = *all.last().unwrap();
        all.iter().filter(|number| **number != last).for_each(|number| pool.give(*number, &mut memory));
        assert!(pool.is_stray(last) && !pool.is_stray(all[per_chunk]));
        pool.trim(&mut memory, &mut 1_000);
        assert_eq!(memory.allocated, 70 * TABLE_CHUNK_BYTES);
        assert_eq!(pool.take(&mut memory), all[0]);
        pool.give(last, &mut memory);
        pool.trim(&mut memory, &mut 1_000);
        pool.assert_invariants();
        assert_eq!((memory.allocated, memory.used), (TABLE_CHUNK_BYTES, 300));
    }

    #[test]
    fn blocks_are_walked_from_the_top() {
        let (mut pool, mut memory) = (Pool::<u64>::new(1), Memory::default());
        let mut all: Vec<u32> = (0..20_000).map(|_| pool.take(&mut memory)).collect();
        for number in all.extract_if(.., |number| *number % 3 == 0 || (10_000..40_000).contains(number)) {
            pool.give(number, &mut memory);
        }
        let mut walked: Vec<u32> =
            std::iter::successors(pool.taken_below(u32::MAX), |number| pool.taken_below(*number)).collect();
        walked.reverse();
        assert_eq!(walked, all);
    }
}
