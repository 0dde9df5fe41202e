//! Owns buckets: up to a few dozen peers of one family in one block of memory, with a column for each property.

use crate::limits::{BUCKET_LOAD, BUCKET_PEERS_MAX, BUCKET_STEP, TABLE_CHUNK_BYTES};
use crate::swarm::prefetch::{prefetch, prefetch_lines};
use crate::types::PeerId;

use super::pool::{Map, Memory, split};
use super::ticks::{Mark, Ticks};

/// A bucket's block number, and the properties that are needed without reading the block.
///
/// ```text
///  a chunk of blocks of 8 places, with buckets of 6 and 8 IPv4 peers:
///  addresses, 6 bytes each:                                          | a a a a a a . . | a a a a a a a a | ...
///  marks, 1 byte each:                                               | m m m m m m . . | m m m m m m m m | ...
///  peer ids, 20 bytes each, only if the bucket has them:             | i i i i i i . . | i i i i i i i i | ...
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    block: u32,
    len: u8,
    /// A mark at least as old as all marks in the bucket.
    pub(super) oldest: Mark,
    /// Whether the block has a column of peer ids.
    has_ids: bool,
    /// Number of the block's pool, which follows from `len` and `has_ids`. Each access to the bucket needs it.
    pool: u8,
}

impl Bucket {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn has_ids(&self) -> bool {
        self.has_ids
    }
}

/// A peer that is put into or read from a bucket.
#[derive(Clone, Copy)]
pub(super) struct Peer<const N: usize> {
    pub(super) addr: [u8; N],
    pub(super) mark: Mark,
    pub(super) id: PeerId,
}

/// A peer that announces. The common case only compares its address and writes its mark, so nothing is copied.
#[derive(Clone, Copy)]
pub(super) struct Announcing<'a, const N: usize> {
    pub(super) addr: &'a [u8; N],
    pub(super) mark: Mark,
    /// [`PeerId::UNKNOWN`] if the swarm has no ids.
    pub(super) id: &'a PeerId,
}

const ID_BYTES: usize = size_of::<PeerId>();
/// Number of block sizes: one for every [`BUCKET_STEP`] peers.
const SIZES: usize = BUCKET_PEERS_MAX / BUCKET_STEP;
/// Number of common kinds of blocks: all sizes of both families without ids.
pub(super) const KINDS: usize = 2 * SIZES;
const _: () = assert!(BUCKET_PEERS_MAX.is_multiple_of(BUCKET_STEP) && BUCKET_PEERS_MAX <= u8::MAX as usize);

/// The blocks of one family's buckets: a pool for each size, without ids and with ids.
pub(super) struct Blocks<const N: usize> {
    pools: Box<[ColumnPool<N>; 2 * SIZES]>,
}

/// The blocks of one size. The columns of a block are parts of the columns of its chunk.
struct ColumnPool<const N: usize> {
    map: Map,
    /// Number of peers in a block.
    room: u32,
    has_ids: bool,
    chunks: Vec<Chunk<N>>,
}

struct Chunk<const N: usize> {
    addrs: Box<[[u8; N]]>,
    marks: Box<[Mark]>,
    ids: Box<[[u8; ID_BYTES]]>,
}

/// A bucket's columns, each with one element for each peer. `ids` is empty if the bucket has no ids.
pub(super) struct Columns<'a, const N: usize> {
    pub(super) marks: &'a [Mark],
    pub(super) addrs: &'a [[u8; N]],
    pub(super) ids: &'a [[u8; ID_BYTES]],
}

impl<const N: usize> ColumnPool<N> {
    fn new(room: usize, has_ids: bool) -> Self {
        const {
            let is_power = size_of::<Self>() == 128 || size_of::<usize>() < 8;
            assert!(is_power, "with a power of two an access takes fewer instructions");
        }
        let map = Map::new(TABLE_CHUNK_BYTES / (room * N));
        Self { map, room: room as u32, has_ids, chunks: Vec::new() }
    }

    /// Returns the number of peers in a chunk.
    fn chunk_peers(&self) -> usize {
        let room = self.room as usize;
        TABLE_CHUNK_BYTES / (room * N) * room
    }

    fn block_bytes(&self) -> usize {
        self.room as usize * (1 + N + usize::from(self.has_ids) * ID_BYTES)
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk_peers() / self.room as usize * self.block_bytes()
    }

    fn allocate(&mut self, memory: &mut Memory) -> u32 {
        let block = self.map.allocate();
        if self.map.chunks() > self.chunks.len() {
            let peers = self.chunk_peers();
            let ids = if self.has_ids { peers } else { 0 };
            self.chunks.push(Chunk {
                addrs: vec![[0; N]; peers].into_boxed_slice(),
                marks: vec![0; peers].into_boxed_slice(),
                ids: vec![PeerId::UNKNOWN.0; ids].into_boxed_slice(),
            });
            memory.allocated += self.chunk_bytes();
        }
        memory.used += self.block_bytes();
        block
    }

    fn free(&mut self, block: u32, memory: &mut Memory) {
        self.map.free(block);
        memory.used -= self.block_bytes();
    }

    fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        self.map.trim(most);
        memory.allocated -= (self.chunks.len() - self.map.chunks()) * self.chunk_bytes();
        self.chunks.truncate(self.map.chunks());
    }

    /// Returns the chunk of a block and the start of the block in the chunk's columns.
    #[inline(always)]
    fn at(&self, block: u32) -> (&Chunk<N>, usize) {
        let (chunk, place) = split(block);
        (&self.chunks[chunk], (place as u32 * self.room) as usize)
    }

    #[inline]
    fn at_mut(&mut self, block: u32) -> (&mut Chunk<N>, usize) {
        let (chunk, place) = split(block);
        (&mut self.chunks[chunk], (place as u32 * self.room) as usize)
    }

    #[inline]
    fn peer(&self, block: u32, at: usize) -> Peer<N> {
        let (chunk, start) = self.at(block);
        let id = chunk.ids.get(start + at).map_or(PeerId::UNKNOWN, |id| PeerId(*id));
        Peer { addr: chunk.addrs[start + at], mark: chunk.marks[start + at], id }
    }

    #[inline]
    fn put(&mut self, block: u32, at: usize, peer: &Peer<N>) {
        let (chunk, start) = self.at_mut(block);
        chunk.addrs[start + at] = peer.addr;
        chunk.marks[start + at] = peer.mark;
        if let Some(id) = chunk.ids.get_mut(start + at) {
            *id = peer.id.0;
        }
    }
}

impl<const N: usize> Blocks<N> {
    pub(super) fn new() -> Self {
        let pool = |number: usize| ColumnPool::new((number % SIZES + 1) * BUCKET_STEP, number >= SIZES);
        Self { pools: Box::new(std::array::from_fn(pool)) }
    }

    /// Returns the number of the pool for a bucket with `len` peers, which must not be 0.
    #[inline(always)]
    fn pool_of(len: usize, ids: bool) -> usize {
        (len - 1) / BUCKET_STEP + usize::from(ids) * SIZES
    }

    #[inline(always)]
    fn pool(&self, bucket: &Bucket) -> &ColumnPool<N> {
        &self.pools[usize::from(bucket.pool)]
    }

    #[inline]
    fn pool_mut(&mut self, bucket: &Bucket) -> &mut ColumnPool<N> {
        &mut self.pools[usize::from(bucket.pool)]
    }

    /// Returns whether the bucket has room for one more peer, without new memory if the limit is reached.
    pub(super) fn has_room(&self, bucket: &Bucket, memory: &Memory) -> bool {
        let len = bucket.len();
        let fits = !len.is_multiple_of(BUCKET_STEP);
        len < BUCKET_PEERS_MAX
            && (fits
                || !memory.is_full()
                || self.pools[Self::pool_of(len + 1, bucket.has_ids)].map.has_room())
    }

    /// Returns the columns of a bucket.
    #[inline]
    pub(super) fn columns(&self, bucket: &Bucket) -> Columns<'_, N> {
        let len = bucket.len();
        if len == 0 {
            return Columns { marks: &[], addrs: &[], ids: &[] };
        }
        let (chunk, start) = self.pool(bucket).at(bucket.block);
        Columns {
            marks: &chunk.marks[start..][..len],
            addrs: &chunk.addrs[start..][..len],
            ids: chunk.ids.get(start..start + len).unwrap_or_default(),
        }
    }

    /// Returns the addresses of a bucket.
    #[inline(always)]
    pub(super) fn addrs(&self, bucket: &Bucket) -> &[[u8; N]] {
        if bucket.len == 0 {
            return &[];
        }
        let (chunk, start) = self.pool(bucket).at(bucket.block);
        &chunk.addrs[start..][..bucket.len()]
    }

    /// Returns the position of an address in the bucket.
    #[inline(always)]
    pub(super) fn find(&self, bucket: &Bucket, addr: &[u8; N]) -> Option<usize> {
        position(self.addrs(bucket), addr)
    }

    /// Starts to fetch the memory that a search in the bucket reads.
    #[inline]
    pub(super) fn fetch_home(&self, bucket: &Bucket) {
        if bucket.len > 0 {
            let (chunk, start) = self.pool(bucket).at(bucket.block);
            prefetch(chunk.marks.as_ptr().wrapping_add(start));
            let addrs = chunk.addrs.as_ptr().wrapping_add(start);
            prefetch_lines(addrs, bucket.len(), lines(BUCKET_LOAD * N));
        }
    }

    /// Returns the number of cache lines that the addresses of `peers` peers usually take.
    #[inline(always)]
    pub(super) fn lines(peers: usize) -> usize {
        lines(peers * N)
    }

    /// Starts to fetch up to `lines` cache lines of the addresses of the bucket's peers from `at` to `at + count`.
    #[inline]
    pub(super) fn fetch(&self, bucket: &Bucket, at: usize, count: usize, lines: usize) {
        if bucket.len > 0 {
            let (chunk, start) = self.pool(bucket).at(bucket.block);
            prefetch_lines(chunk.addrs.as_ptr().wrapping_add(start + at), count, lines);
        }
    }

    /// Returns a peer of the bucket.
    #[inline]
    pub(super) fn peer(&self, bucket: &Bucket, at: usize) -> Peer<N> {
        self.pool(bucket).peer(bucket.block, at)
    }

    /// Appends a peer to the bucket.
    ///
    /// # Panics
    ///
    /// If the bucket is full.
    pub(super) fn push(&mut self, bucket: &mut Bucket, peer: &Peer<N>, ticks: &Ticks, memory: &mut Memory) {
        let len = bucket.len();
        assert!(len < BUCKET_PEERS_MAX, "a bucket of {len} peers is full");
        bucket.oldest = if len == 0 { peer.mark } else { ticks.older(bucket.oldest, peer.mark) };
        self.resize(bucket, len + 1, bucket.has_ids, memory);
        self.pool_mut(bucket).put(bucket.block, len, peer);
    }

    /// Writes the mark of a peer that is in the bucket, and its id if the bucket has ids. Returns the peer's position
    /// and previous mark.
    #[inline(always)]
    pub(super) fn renew(&mut self, bucket: &Bucket, peer: Announcing<'_, N>) -> Option<(usize, Mark)> {
        if bucket.len == 0 {
            return None;
        }
        let (chunk, start) = self.pool_mut(bucket).at_mut(bucket.block);
        let at = position(&chunk.addrs[start..][..bucket.len()], peer.addr)?;
        if let Some(slot) = chunk.ids.get_mut(start + at) {
            *slot = peer.id.0;
        }
        Some((at, std::mem::replace(&mut chunk.marks[start + at], peer.mark)))
    }

    /// Removes a peer and moves the last one to its place. Returns the mark of the removed peer.
    pub(super) fn swap_remove(&mut self, bucket: &mut Bucket, at: usize, memory: &mut Memory) -> Mark {
        let last = bucket.len() - 1;
        let pool = self.pool_mut(bucket);
        let removed = pool.peer(bucket.block, at);
        if at < last {
            let peer = pool.peer(bucket.block, last);
            pool.put(bucket.block, at, &peer);
        }
        self.resize(bucket, last, bucket.has_ids, memory);
        removed.mark
    }

    /// Adds or removes the bucket's column of ids.
    pub(super) fn set_ids(&mut self, bucket: &mut Bucket, ids: bool, memory: &mut Memory) {
        if bucket.has_ids != ids {
            self.resize(bucket, bucket.len(), ids, memory);
        }
    }

    /// Moves the peers for which `moves` is true from a bucket to a new one, which is returned.
    pub(super) fn split(
        &mut self,
        from: &mut Bucket,
        ticks: &Ticks,
        memory: &mut Memory,
        moves: impl Fn(&[u8; N]) -> bool,
    ) -> Bucket {
        let mut to = Bucket { has_ids: from.has_ids, ..Bucket::default() };
        let leaving = self.addrs(from).iter().filter(|addr| moves(addr)).count();
        if leaving == 0 {
            return to;
        }
        self.resize(&mut to, leaving, from.has_ids, memory);
        // Peers that stay move to the front of their block, which is then shrunk.
        let (mut stayed, mut left) = (0, 0);
        for at in 0..from.len() {
            let peer = self.peer(from, at);
            match moves(&peer.addr) {
                true => {
                    self.pool_mut(&to).put(to.block, left, &peer);
                    left += 1;
                }
                false => {
                    self.pool_mut(from).put(from.block, stayed, &peer);
                    stayed += 1;
                }
            }
        }
        self.resize(from, stayed, from.has_ids, memory);
        to.oldest = self.oldest(&to, ticks);
        from.oldest = self.oldest(from, ticks);
        to
    }

    /// Returns the oldest mark in the bucket.
    pub(super) fn oldest(&self, bucket: &Bucket, ticks: &Ticks) -> Mark {
        let marks = self.columns(bucket).marks;
        marks.iter().copied().reduce(|one, other| ticks.older(one, other)).unwrap_or_default()
    }

    /// Returns whether the bucket's block should move to the front of its pool.
    #[inline]
    pub(super) fn is_stray(&self, bucket: &Bucket) -> bool {
        bucket.len > 0 && self.pool(bucket).map.is_stray(bucket.block)
    }

    /// Moves the bucket's block to the lowest free place in its pool.
    pub(super) fn relocate(&mut self, bucket: &mut Bucket, memory: &mut Memory) {
        let pool = self.pool_mut(bucket);
        let block = pool.allocate(memory);
        for at in 0..bucket.len() {
            let peer = pool.peer(bucket.block, at);
            pool.put(block, at, &peer);
        }
        pool.free(bucket.block, memory);
        bucket.block = block;
    }

    /// Frees up to `most` empty chunks, and subtracts their number from `most`.
    pub(super) fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        self.pools.iter_mut().for_each(|pool| pool.trim(memory, most));
    }

    /// Moves the bucket to a block for `len` peers, if necessary. Peers beyond `len` are lost. New places are not
    /// initialised.
    #[inline]
    fn resize(&mut self, bucket: &mut Bucket, len: usize, ids: bool, memory: &mut Memory) {
        let before = *bucket;
        (bucket.len, bucket.has_ids) = (len as u8, ids);
        let old = (before.len > 0).then(|| Self::pool_of(before.len(), before.has_ids));
        let new = (len > 0).then(|| Self::pool_of(len, ids));
        if old == new {
            return;
        }
        if let Some(new) = new {
            (bucket.block, bucket.pool) = (self.pools[new].allocate(memory), new as u8);
        }
        if let Some(old) = old {
            if let Some(new) = new {
                let [source, target] = self.pools.get_disjoint_mut([old, new]).expect("two different pools");
                copy(source, before.block, target, bucket.block, before.len().min(len));
            }
            self.pools[old].free(before.block, memory);
        }
    }
}

/// Returns the position of an address.
#[inline(always)]
fn position<const N: usize>(addrs: &[[u8; N]], addr: &[u8; N]) -> Option<usize> {
    /// The addresses compared between two tests for the end of the slice.
    const STEP: usize = 8;
    // One comparison of four bytes for each address. The end of the IP address and the port differ most among the
    // peers of a swarm.
    let tail = |addr: &[u8; N]| addr.last_chunk().map(|tail| u32::from_ne_bytes(*tail));
    let wanted = tail(addr);
    let find = |addrs: &[[u8; N]]| addrs.iter().position(|other| tail(other) == wanted);
    let (steps, rest) = addrs.as_chunks::<STEP>();
    let at = match steps.iter().enumerate().find_map(|(number, step)| Some(number * STEP + find(step)?)) {
        Some(at) => at,
        None => steps.len() * STEP + find(rest)?,
    };
    if addrs[at] == *addr { Some(at) } else { position_after(addrs, at, addr) }
}

/// Returns the position of an address that is behind `at`, where another one has the same end.
#[cold]
fn position_after<const N: usize>(addrs: &[[u8; N]], at: usize, addr: &[u8; N]) -> Option<usize> {
    addrs[at + 1..].iter().position(|other| other == addr).map(|behind| at + 1 + behind)
}

/// Returns the number of cache lines that `bytes` bytes usually take. They may start anywhere in a line.
fn lines(bytes: usize) -> usize {
    bytes / 64 + 1
}

/// Copies the first `peers` peers of a block to a block of another pool. If the source has no ids, they stay unknown.
fn copy<const N: usize>(from: &ColumnPool<N>, block: u32, to: &mut ColumnPool<N>, copy: u32, peers: usize) {
    let (source, start) = from.at(block);
    let has_ids = to.has_ids;
    let (target, place) = to.at_mut(copy);
    target.addrs[place..][..peers].copy_from_slice(&source.addrs[start..][..peers]);
    target.marks[place..][..peers].copy_from_slice(&source.marks[start..][..peers]);
    if has_ids {
        let target = &mut target.ids[place..][..peers];
        match from.has_ids {
            true => target.copy_from_slice(&source.ids[start..][..peers]),
            false => target.fill(PeerId::UNKNOWN.0),
        }
    }
}

#[cfg(test)]
impl<const N: usize> Blocks<N> {
    /// Asserts that the bucket's pool is the one for its length.
    pub(super) fn assert_pool(&self, bucket: &Bucket) {
        let pool = Self::pool_of(bucket.len().max(1), bucket.has_ids);
        assert!(bucket.len == 0 || usize::from(bucket.pool) == pool, "{bucket:?}");
    }

    /// Returns the bytes used and allocated.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let of = |pool: &ColumnPool<N>| {
            pool.map.assert_invariants();
            assert_eq!(pool.chunks.len(), pool.map.chunks());
            (pool.map.len() * pool.block_bytes(), pool.chunks.len() * pool.chunk_bytes())
        };
        self.pools.iter().map(of).fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_found_also_among_those_with_the_same_end() {
        let addrs: Vec<[u8; 6]> = (0..45).map(|number| [10, number, 0, number / 3, 26, 225]).collect();
        for len in 0..addrs.len() {
            let (inside, outside) = addrs.split_at(len);
            for (at, addr) in inside.iter().enumerate() {
                assert_eq!(position(inside, addr), Some(at));
            }
            assert!(outside.iter().all(|addr| position(inside, addr).is_none()));
        }
    }
}
