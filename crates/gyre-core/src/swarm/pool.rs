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

/// Which blocks of a pool are taken.
///
/// ```text
///  number  = chunk << 12 | place
///  chunks    [#########] [###.#####] [##.......]      # taken  . free
///  open          0           1           1            one bit a chunk: has it a free block?
/// ```
///
/// As the lowest free block is always the one taken, what is left after a shrinkage gathers in front as it is renewed;
/// the sweep moves the [strays](Self::is_stray) there and then drops the empty chunks at the end.
pub(super) struct Map {
    per_chunk: usize,
    /// A bit for each block, a whole number of words a chunk; bits beyond `per_chunk` are set.
    taken: Vec<u64>,
    /// How many blocks of each chunk are taken.
    counts: Vec<u16>,
    open: Vec<u64>,
    /// No word of `open` before this one has a bit.
    first_open: usize,
    len: usize,
}

impl Map {
    pub(super) fn new(per_chunk: usize) -> Self {
        assert!((1..=1 << PLACE_BITS).contains(&per_chunk), "a chunk has room for {per_chunk} blocks");
        Self { per_chunk, taken: Vec::new(), counts: Vec::new(), open: Vec::new(), first_open: 0, len: 0 }
    }

    /// How many blocks are taken.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn chunks(&self) -> usize {
        self.counts.len()
    }

    /// Whether a block can be taken without a new chunk.
    pub(super) fn has_room(&self) -> bool {
        self.len < self.chunks() * self.per_chunk
    }

    /// Takes the lowest free block. If there was none it is the first of one more chunk.
    pub(super) fn take(&mut self) -> u32 {
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

    /// Gives a block back. Its chunk stays until [`trim`](Self::trim).
    pub(super) fn give(&mut self, number: u32) {
        let (chunk, place) = split(number);
        let (word, bit) = (chunk * self.words() + place / 64, 1 << (place % 64));
        assert!(self.taken[word] & bit != 0, "block {number:#x} is given back twice");
        self.taken[word] &= !bit;
        self.counts[chunk] -= 1;
        self.open[chunk / 64] |= 1 << (chunk % 64);
        self.first_open = self.first_open.min(chunk / 64);
        self.len -= 1;
    }

    /// Whether the block lies where there would be nothing if all were in front (with a chunk to spare, so that not
    /// every coming and going moves something): then it is to be moved to what [`take`](Self::take) gives.
    pub(super) fn is_stray(&self, number: u32) -> bool {
        split(number).0 > self.len.div_ceil(self.per_chunk)
    }

    /// Takes empty chunks off the end, up to `most`, which is diminished by them.
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

    /// The taken block with the highest number below `number`.
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

    /// Whether the block is taken.
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

/// The chunk and the place in it that a number means.
#[inline]
pub(super) fn split(number: u32) -> (usize, usize) {
    ((number >> PLACE_BITS) as usize, (number & ((1 << PLACE_BITS) - 1)) as usize)
}

/// A pool of single elements, `PER_CHUNK` a chunk.
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

    /// An element.
    #[inline]
    pub(super) fn get(&self, number: u32) -> &T {
        let (chunk, place) = split(number);
        &self.chunks[chunk][place % PER_CHUNK] // which it is below: so nothing needs to be checked
    }

    /// An element, to be written.
    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        let (chunk, place) = split(number);
        &mut self.chunks[chunk][place % PER_CHUNK]
    }

    /// Takes an element for a value.
    pub(super) fn insert(&mut self, value: T, memory: &mut Memory) -> u32 {
        let number = self.map.take();
        if self.map.chunks() > self.chunks.len() {
            let chunk: Box<[T]> = std::iter::repeat_with(T::default).take(PER_CHUNK).collect();
            self.chunks.push(chunk.try_into().unwrap_or_else(|_| unreachable!("a chunk has this length")));
            memory.allocated += Self::CHUNK_BYTES;
        }
        memory.used += size_of::<T>();
        *self.get_mut(number) = value;
        number
    }

    /// Gives an element back and takes its value out.
    pub(super) fn remove(&mut self, number: u32, memory: &mut Memory) -> T {
        self.map.give(number);
        memory.used -= size_of::<T>();
        std::mem::take(self.get_mut(number))
    }

    /// Frees empty chunks at the end, up to `most`, which is diminished by them.
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
    /// Bytes used and allocated.
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
    fn the_lowest_free_block_is_taken_and_chunks_go_back() {
        let mut map = Map::new(54);
        let all: Vec<u32> = (0..54 * 70).map(|_| map.take()).collect();
        map.assert_invariants();
        assert!(all.is_sorted() && !map.has_room() && map.chunks() == 70);
        for &number in &[all[7], all[54 * 65], all[3]] {
            map.give(number);
        }
        assert!(!map.contains(all[3]) && map.contains(all[4]));
        let again: Vec<u32> = (0..3).map(|_| map.take()).collect();
        assert_eq!(again, [all[3], all[7], all[54 * 65]]);

        // All but one at the very end: it is a stray, and with it gone the chunks go.
        let last = *all.last().unwrap();
        all.iter().filter(|number| **number != last).for_each(|number| map.give(*number));
        assert!(map.is_stray(last) && !map.is_stray(all[54]));
        map.trim(&mut 1_000);
        assert_eq!(map.chunks(), 70);
        assert_eq!(map.take(), all[0]);
        map.give(last);
        let mut most = 60;
        map.trim(&mut most);
        assert_eq!((map.chunks(), most), (10, 0));
        map.trim(&mut 1_000);
        map.assert_invariants();
        assert_eq!((map.chunks(), map.len()), (1, 1));
    }

    #[test]
    fn blocks_are_walked_from_the_top() {
        let mut map = Map::new(1_000);
        let mut all: Vec<u32> = (0..20_000).map(|_| map.take()).collect();
        for number in all.extract_if(.., |number| *number % 3 == 0 || (10_000..40_000).contains(number)) {
            map.give(number);
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
