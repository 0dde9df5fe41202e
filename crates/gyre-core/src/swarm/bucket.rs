//! Owns buckets: a few dozen peers of one family in one block of memory, each property in a column of its own.

use crate::limits::{BUCKET_LOAD, BUCKET_PEERS_MAX, BUCKET_STEP, TABLE_CHUNK_BYTES};
use crate::swarm::prefetch::{prefetch, prefetch_lines};
use crate::types::{PORT_BYTES, PeerId};

use super::pool::{Map, Memory, split};
use super::ticks::{Mark, Ticks};

/// Where a bucket's block is and what must be known without looking into it.
///
/// ```text
///  a chunk of blocks of 8 places, with buckets of 6 and 8 IPv4 peers:
///  addresses, 6 bytes each:                                          | a a a a a a . . | a a a a a a a a | ...
///  marks, 1 byte each:                                               | m m m m m m . . | m m m m m m m m | ...
///  peer ids, 20 bytes each, where the bucket has them alone:         | i i i i i i . . | i i i i i i i i | ...
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    block: u32,
    len: u8,
    /// No mark in it is older.
    pub(super) oldest: Mark,
    /// Has a column of peer ids.
    has_ids: bool,
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

/// A peer on its way into a bucket, or out of it. No id is all zeros.
#[derive(Clone, Copy)]
pub(super) struct Peer<const N: usize> {
    pub(super) addr: [u8; N],
    pub(super) mark: Mark,
    pub(super) id: PeerId,
}

const ID_BYTES: usize = size_of::<PeerId>();
/// Sizes of blocks: every [`BUCKET_STEP`] peers.
const SIZES: usize = BUCKET_PEERS_MAX / BUCKET_STEP;
/// Kinds of blocks that are much in use: those of both families without ids.
pub(super) const KINDS: usize = 2 * SIZES;
const _: () = assert!(BUCKET_PEERS_MAX.is_multiple_of(BUCKET_STEP) && BUCKET_PEERS_MAX <= u8::MAX as usize);

/// The blocks of one family's buckets: a pool for each size, without ids and with.
pub(super) struct Blocks<const N: usize> {
    pools: Box<[ColumnPool<N>; 2 * SIZES]>,
}

/// Blocks of one size. The columns of a block lie in the columns of its chunk, at its place.
struct ColumnPool<const N: usize> {
    map: Map,
    room: usize,
    has_ids: bool,
    chunks: Vec<Chunk<N>>,
}

struct Chunk<const N: usize> {
    addrs: Box<[[u8; N]]>,
    marks: Box<[Mark]>,
    ids: Box<[[u8; ID_BYTES]]>,
}

/// A bucket's columns, as long as the bucket; `ids` is empty where there are none.
pub(super) struct Columns<'a, const N: usize> {
    pub(super) marks: &'a [Mark],
    pub(super) addrs: &'a [[u8; N]],
    pub(super) ids: &'a [[u8; ID_BYTES]],
}

impl<const N: usize> ColumnPool<N> {
    fn new(room: usize, has_ids: bool) -> Self {
        Self { map: Map::new(TABLE_CHUNK_BYTES / (room * N)), room, has_ids, chunks: Vec::new() }
    }

    fn block_bytes(&self) -> usize {
        self.room * (1 + N + usize::from(self.has_ids) * ID_BYTES)
    }

    fn chunk_bytes(&self) -> usize {
        TABLE_CHUNK_BYTES / (self.room * N) * self.block_bytes()
    }

    fn take(&mut self, memory: &mut Memory) -> u32 {
        let block = self.map.take();
        if self.map.chunks() > self.chunks.len() {
            let peers = TABLE_CHUNK_BYTES / (self.room * N) * self.room;
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

    fn give(&mut self, block: u32, memory: &mut Memory) {
        self.map.give(block);
        memory.used -= self.block_bytes();
    }

    fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        self.map.trim(most);
        memory.allocated -= (self.chunks.len() - self.map.chunks()) * self.chunk_bytes();
        self.chunks.truncate(self.map.chunks());
    }

    /// The chunk of a block and where in its columns the block begins.
    #[inline(always)]
    fn at(&self, block: u32) -> (&Chunk<N>, usize) {
        let (chunk, place) = split(block);
        (&self.chunks[chunk], place * self.room)
    }

    #[inline]
    fn at_mut(&mut self, block: u32) -> (&mut Chunk<N>, usize) {
        let (chunk, place) = split(block);
        (&mut self.chunks[chunk], place * self.room)
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

    /// The number of the pool for blocks of buckets with so many peers, which are not none.
    #[inline(always)]
    fn pool_of(len: usize, ids: bool) -> usize {
        len.div_ceil(BUCKET_STEP) - 1 + usize::from(ids) * SIZES
    }

    #[inline(always)]
    fn pool(&self, bucket: Bucket) -> &ColumnPool<N> {
        &self.pools[Self::pool_of(bucket.len(), bucket.has_ids)]
    }

    #[inline]
    fn pool_mut(&mut self, bucket: Bucket) -> &mut ColumnPool<N> {
        &mut self.pools[Self::pool_of(bucket.len(), bucket.has_ids)]
    }

    /// Whether one more peer fits without more memory, or there may be more, and the bucket isn't full.
    pub(super) fn has_room(&self, bucket: Bucket, memory: &Memory) -> bool {
        let len = bucket.len();
        let fits = !len.is_multiple_of(BUCKET_STEP);
        len < BUCKET_PEERS_MAX
            && (fits
                || !memory.is_full()
                || self.pools[Self::pool_of(len + 1, bucket.has_ids)].map.has_room())
    }

    /// The columns of a bucket.
    #[inline]
    pub(super) fn columns(&self, bucket: Bucket) -> Columns<'_, N> {
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

    /// The addresses of a bucket.
    #[inline(always)]
    pub(super) fn addrs(&self, bucket: Bucket) -> &[[u8; N]] {
        if bucket.len == 0 {
            return &[];
        }
        let (chunk, start) = self.pool(bucket).at(bucket.block);
        &chunk.addrs[start..][..bucket.len()]
    }

    /// Where in the bucket the address is.
    #[inline(always)]
    pub(super) fn find(&self, bucket: Bucket, addr: &[u8; N]) -> Option<usize> {
        let addrs = self.addrs(bucket);
        let bytes = addrs.as_flattened();
        let mut from = 0;
        // The byte that differs most among the peers of a swarm is the last one of the IP address.
        let pivot = N - PORT_BYTES - 1;
        while let Some(hit) = memchr::memchr(addr[pivot], &bytes[from..]) {
            let at = (from + hit) / N;
            if addrs[at] == *addr {
                return Some(at);
            }
            from += hit + 1;
        }
        None
    }

    /// Begins to fetch what a search in the bucket reads.
    #[inline]
    pub(super) fn fetch_home(&self, bucket: Bucket) {
        if bucket.len > 0 {
            let (chunk, start) = self.pool(bucket).at(bucket.block);
            prefetch(&chunk.marks[start]);
            prefetch_lines(&chunk.addrs[start..][..bucket.len()], lines(BUCKET_LOAD * N));
        }
    }

    /// Begins to fetch some of the bucket's addresses, at most `most` of them.
    #[inline]
    pub(super) fn fetch(&self, bucket: Bucket, peers: std::ops::Range<usize>, most: usize) {
        prefetch_lines(&self.addrs(bucket)[peers], lines(most * N));
    }

    /// A peer of the bucket.
    #[inline]
    pub(super) fn peer(&self, bucket: Bucket, at: usize) -> Peer<N> {
        self.pool(bucket).peer(bucket.block, at)
    }

    /// Adds a peer behind the last.
    ///
    /// # Panics
    ///
    /// If the bucket is full.
    pub(super) fn push(&mut self, bucket: &mut Bucket, peer: &Peer<N>, ticks: &Ticks, memory: &mut Memory) {
        let len = bucket.len();
        assert!(len < BUCKET_PEERS_MAX, "a bucket of {len} peers is full");
        bucket.oldest = if len == 0 { peer.mark } else { ticks.older(bucket.oldest, peer.mark) };
        self.resize(bucket, len + 1, bucket.has_ids, memory);
        self.pool_mut(*bucket).put(bucket.block, len, peer);
    }

    /// Writes the time of an announce, and the id where there is a column for it; returns the mark from before.
    #[inline(always)]
    pub(super) fn renew(&mut self, bucket: Bucket, at: usize, mark: Mark, id: &PeerId) -> Mark {
        let (chunk, start) = self.pool_mut(bucket).at_mut(bucket.block);
        if let Some(slot) = chunk.ids.get_mut(start + at) {
            *slot = id.0;
        }
        std::mem::replace(&mut chunk.marks[start + at], mark)
    }

    /// Takes a peer out; the last one takes its place. Returns its mark.
    pub(super) fn swap_remove(&mut self, bucket: &mut Bucket, at: usize, memory: &mut Memory) -> Mark {
        let last = bucket.len() - 1;
        let pool = self.pool_mut(*bucket);
        let gone = pool.peer(bucket.block, at);
        if at < last {
            let peer = pool.peer(bucket.block, last);
            pool.put(bucket.block, at, &peer);
        }
        self.resize(bucket, last, bucket.has_ids, memory);
        gone.mark
    }

    /// Gives the bucket a column of ids, or takes it away.
    pub(super) fn set_ids(&mut self, bucket: &mut Bucket, ids: bool, memory: &mut Memory) {
        if bucket.has_ids != ids {
            self.resize(bucket, bucket.len(), ids, memory);
        }
    }

    /// Moves the peers of which `moves` is true from one bucket to an empty one.
    pub(super) fn split(
        &mut self,
        from: &mut Bucket,
        ticks: &Ticks,
        memory: &mut Memory,
        moves: impl Fn(&[u8; N]) -> bool,
    ) -> Bucket {
        let mut to = Bucket { has_ids: from.has_ids, ..Bucket::default() };
        let leaving = self.addrs(*from).iter().filter(|addr| moves(addr)).count();
        if leaving == 0 {
            return to;
        }
        self.resize(&mut to, leaving, from.has_ids, memory);
        // Those that stay move up in their block, which is cut then.
        let (mut stayed, mut left) = (0, 0);
        for at in 0..from.len() {
            let peer = self.peer(*from, at);
            match moves(&peer.addr) {
                true => {
                    self.pool_mut(to).put(to.block, left, &peer);
                    left += 1;
                }
                false => {
                    self.pool_mut(*from).put(from.block, stayed, &peer);
                    stayed += 1;
                }
            }
        }
        self.resize(from, stayed, from.has_ids, memory);
        to.oldest = self.oldest(to, ticks);
        from.oldest = self.oldest(*from, ticks);
        to
    }

    /// The oldest mark in the bucket.
    pub(super) fn oldest(&self, bucket: Bucket, ticks: &Ticks) -> Mark {
        let marks = self.columns(bucket).marks;
        marks.iter().copied().reduce(|one, other| ticks.older(one, other)).unwrap_or_default()
    }

    /// Whether the bucket's block is to be moved to the front of its pool.
    #[inline]
    pub(super) fn is_stray(&self, bucket: Bucket) -> bool {
        bucket.len > 0 && self.pool(bucket).map.is_stray(bucket.block)
    }

    /// Moves the bucket's block to the front of its pool.
    pub(super) fn settle(&mut self, bucket: &mut Bucket, memory: &mut Memory) {
        let pool = self.pool_mut(*bucket);
        let block = pool.take(memory);
        for at in 0..bucket.len() {
            let peer = pool.peer(bucket.block, at);
            pool.put(block, at, &peer);
        }
        pool.give(bucket.block, memory);
        bucket.block = block;
    }

    /// Frees empty chunks, up to `most`, which is diminished by them.
    pub(super) fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        self.pools.iter_mut().for_each(|pool| pool.trim(memory, most));
    }

    /// Sees to it that the bucket's block is that for `len` peers. Peers beyond are lost, those that are new are junk.
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
            bucket.block = self.pools[new].take(memory);
        }
        if let Some(old) = old {
            if let Some(new) = new {
                let [source, target] = self.pools.get_disjoint_mut([old, new]).expect("two different pools");
                copy(source, before.block, target, bucket.block, before.len().min(len));
            }
            self.pools[old].give(before.block, memory);
        }
    }
}

/// The lines that so many bytes take, which begin anywhere in one; mostly.
fn lines(bytes: usize) -> usize {
    bytes / 64 + 1
}

/// Copies the first peers of a block to one of another pool. Ids that weren't known aren't known then either.
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
    /// Bytes used and allocated.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let of = |pool: &ColumnPool<N>| {
            pool.map.assert_invariants();
            assert_eq!(pool.chunks.len(), pool.map.chunks());
            (pool.map.len() * pool.block_bytes(), pool.chunks.len() * pool.chunk_bytes())
        };
        self.pools.iter().map(of).fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
    }
}
