//! Owns buckets: a few dozen peers of one family in one block of memory, each property in a column of its own.

use crate::limits::{BUCKET_PEERS_MAX, BUCKET_STEP};
use crate::sys::prefetch;
use crate::types::PeerId;

use super::pool::{Memory, Pool};
use super::ticks::{Mark, Ticks};

/// Where a bucket's block is and what must be known without looking into it.
///
/// ```text
///  block of a bucket of 6 IPv4 peers (room for 8):
///  | mark × 8 | address × 8 (6 bytes each) | peer id × 8 (20 bytes each, in buckets with ids alone) |
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
    pools: Vec<Pool<u8>>,
}

/// The columns of a block, as long as the bucket; `ids` is empty where there are none.
pub(super) struct Columns<'a, const N: usize> {
    pub(super) marks: &'a [Mark],
    pub(super) addrs: &'a [[u8; N]],
    pub(super) ids: &'a [[u8; ID_BYTES]],
}

struct ColumnsMut<'a, const N: usize> {
    marks: &'a mut [Mark],
    addrs: &'a mut [[u8; N]],
    ids: &'a mut [[u8; ID_BYTES]],
}

impl<const N: usize> ColumnsMut<'_, N> {
    fn put(&mut self, at: usize, peer: &Peer<N>) {
        self.marks[at] = peer.mark;
        self.addrs[at] = peer.addr;
        if let Some(id) = self.ids.get_mut(at) {
            *id = peer.id.0;
        }
    }
}

/// Peers that a block for so many has room for.
fn room(len: usize) -> usize {
    len.next_multiple_of(BUCKET_STEP)
}

impl<const N: usize> Blocks<N> {
    pub(super) fn new() -> Self {
        let pool = |size: usize, ids: usize| Pool::new((size + 1) * BUCKET_STEP * (1 + N + ids * ID_BYTES));
        Self { pools: (0..2 * SIZES).map(|number| pool(number % SIZES, number / SIZES)).collect() }
    }

    /// The pool of the blocks of buckets with so many peers.
    fn pool(len: usize, ids: bool) -> usize {
        len.div_ceil(BUCKET_STEP) - 1 + usize::from(ids) * SIZES
    }

    /// Whether one more peer fits without more memory, or there may be more, and the bucket isn't full.
    pub(super) fn has_room(&self, bucket: Bucket, memory: &Memory) -> bool {
        let len = bucket.len();
        let fits = !len.is_multiple_of(BUCKET_STEP);
        len < BUCKET_PEERS_MAX
            && (fits || !memory.is_full() || self.pools[Self::pool(len + 1, bucket.has_ids)].has_room())
    }

    /// The columns of a bucket.
    #[inline]
    pub(super) fn columns(&self, bucket: Bucket) -> Columns<'_, N> {
        let len = bucket.len();
        if len == 0 {
            return Columns { marks: &[], addrs: &[], ids: &[] };
        }
        let block = self.pools[Self::pool(len, bucket.has_ids)].get(bucket.block);
        let (marks, rest) = block.split_at(room(len));
        let (addrs, ids) = rest.split_at(room(len) * N);
        let ids = ids.as_chunks().0;
        Columns { marks: &marks[..len], addrs: &addrs.as_chunks().0[..len], ids: &ids[..len.min(ids.len())] }
    }

    #[inline]
    fn columns_mut(&mut self, bucket: Bucket) -> ColumnsMut<'_, N> {
        let room = room(bucket.len());
        let block = self.pools[Self::pool(bucket.len(), bucket.has_ids)].get_mut(bucket.block);
        let (marks, rest) = block.split_at_mut(room);
        let (addrs, ids) = rest.split_at_mut(room * N);
        ColumnsMut { marks, addrs: addrs.as_chunks_mut().0, ids: ids.as_chunks_mut().0 }
    }

    /// Where in the bucket the address is.
    #[inline]
    pub(super) fn find(&self, bucket: Bucket, addr: &[u8; N]) -> Option<usize> {
        self.columns(bucket).addrs.iter().position(|other| other == addr)
    }

    /// Begins to fetch marks and addresses of some of the bucket's peers.
    #[inline]
    pub(super) fn fetch(&self, bucket: Bucket, peers: std::ops::Range<usize>) {
        const LINE: usize = 64;
        if peers.is_empty() {
            return;
        }
        let block = self.pools[Self::pool(bucket.len(), bucket.has_ids)].get(bucket.block);
        prefetch(&block[peers.start]);
        let addrs = &block[room(bucket.len())..][peers.start * N..peers.end * N];
        addrs.iter().step_by(LINE).for_each(prefetch);
        prefetch(&addrs[addrs.len() - 1]); // they begin anywhere in a line
    }

    /// A peer of the bucket.
    pub(super) fn peer(&self, bucket: Bucket, at: usize) -> Peer<N> {
        let columns = self.columns(bucket);
        let id = columns.ids.get(at).map_or(PeerId::UNKNOWN, |id| PeerId(*id));
        Peer { addr: columns.addrs[at], mark: columns.marks[at], id }
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
        self.columns_mut(*bucket).put(len, peer);
    }

    /// Writes the time of an announce, and the id where there is a column for it; returns the mark from before.
    #[inline]
    pub(super) fn renew(&mut self, bucket: Bucket, at: usize, mark: Mark, id: &PeerId) -> Mark {
        let columns = self.columns_mut(bucket);
        if let Some(slot) = columns.ids.get_mut(at) {
            *slot = id.0;
        }
        std::mem::replace(&mut columns.marks[at], mark)
    }

    /// Takes a peer out; the last one takes its place. Returns its mark.
    pub(super) fn swap_remove(&mut self, bucket: &mut Bucket, at: usize, memory: &mut Memory) -> Mark {
        let mark = self.columns(*bucket).marks[at];
        let last = bucket.len() - 1;
        if at < last {
            let peer = self.peer(*bucket, last);
            self.columns_mut(*bucket).put(at, &peer);
        }
        self.resize(bucket, last, bucket.has_ids, memory);
        mark
    }

    /// Gives the bucket a column of ids, or takes it away.
    pub(super) fn set_ids(&mut self, bucket: &mut Bucket, ids: bool, memory: &mut Memory) {
        if bucket.has_ids != ids {
            self.resize(bucket, bucket.len(), ids, memory);
        }
    }

    /// Moves the peers of which `moves` is true from one bucket to an empty one, each in one go.
    pub(super) fn split(
        &mut self,
        from: &mut Bucket,
        ticks: &Ticks,
        memory: &mut Memory,
        moves: impl Fn(&[u8; N]) -> bool,
    ) -> Bucket {
        let mut to = Bucket { has_ids: from.has_ids, oldest: from.oldest, ..Bucket::default() };
        let source = *from;
        let leaving = self.columns(source).addrs.iter().filter(|addr| moves(addr)).count();
        if leaving == 0 {
            return to;
        }
        let mut stay = Bucket { len: 0, ..source };
        self.resize(&mut to, leaving, source.has_ids, memory);
        to.len = 0;
        // The block of those that stay is the old one, which is cut when they have moved up.
        for at in 0..source.len() {
            let peer = self.peer(source, at);
            let goes = moves(&peer.addr);
            let (place, block) = match goes {
                true => (&mut to.len, Bucket { len: leaving as u8, ..to }),
                false => (&mut stay.len, source),
            };
            let next = usize::from(*place);
            *place += 1;
            self.columns_mut(block).put(next, &peer);
        }
        let staying = stay.len();
        *from = source;
        self.resize(from, staying, source.has_ids, memory);
        to.oldest = self.oldest(to, ticks);
        from.oldest = self.oldest(*from, ticks);
        to
    }

    /// The oldest mark in the bucket.
    pub(super) fn oldest(&self, bucket: Bucket, ticks: &Ticks) -> Mark {
        let marks = self.columns(bucket).marks;
        marks.iter().copied().reduce(|one, other| ticks.older(one, other)).unwrap_or_default()
    }

    /// Moves the bucket's block to the front of its pool if it is a stray.
    pub(super) fn settle(&mut self, bucket: &mut Bucket, memory: &mut Memory) {
        if bucket.len == 0 {
            return;
        }
        let pool = &mut self.pools[Self::pool(bucket.len(), bucket.has_ids)];
        if pool.is_stray(bucket.block) {
            let block = pool.take(memory);
            copy_within(pool, bucket.block, block);
            pool.give(bucket.block, memory);
            bucket.block = block;
        }
    }

    /// Frees empty chunks, up to `most`, which is diminished by them.
    pub(super) fn trim(&mut self, memory: &mut Memory, most: &mut usize) {
        self.pools.iter_mut().for_each(|pool| pool.trim(memory, most));
    }

    /// Sees to it that the bucket's block is that for `len` peers. Peers beyond are lost, those that are new are junk.
    fn resize(&mut self, bucket: &mut Bucket, len: usize, ids: bool, memory: &mut Memory) {
        let before = *bucket;
        (bucket.len, bucket.has_ids) = (len as u8, ids);
        let old = (before.len > 0).then(|| Self::pool(before.len(), before.has_ids));
        let new = (len > 0).then(|| Self::pool(len, ids));
        if old == new {
            return;
        }
        if let Some(new) = new {
            bucket.block = self.pools[new].take(memory);
        }
        if let Some(old) = old {
            if new.is_some() {
                self.copy(before, *bucket);
            }
            self.pools[old].give(before.block, memory);
        }
    }

    /// Copies what fits from one bucket's block to another's, of another pool.
    fn copy(&mut self, from: Bucket, to: Bucket) {
        let pools = [from, to].map(|bucket| Self::pool(bucket.len(), bucket.has_ids));
        let [source, target] = self.pools.get_disjoint_mut(pools).expect("two different pools");
        let (source, target) = (source.get(from.block), target.get_mut(to.block));
        let (rooms, len) = ((room(from.len()), room(to.len())), from.len().min(to.len()));
        target[..len].copy_from_slice(&source[..len]);
        target[rooms.1..][..len * N].copy_from_slice(&source[rooms.0..][..len * N]);
        if to.has_ids {
            let target = &mut target[rooms.1 * (1 + N)..][..len * ID_BYTES];
            match from.has_ids {
                true => target.copy_from_slice(&source[rooms.0 * (1 + N)..][..len * ID_BYTES]),
                false => target.fill(0),
            }
        }
    }
}

fn copy_within(pool: &mut Pool<u8>, from: u32, to: u32) {
    let mut block = [0; BUCKET_PEERS_MAX * (1 + 18 + ID_BYTES)];
    let source = pool.get(from);
    let block = &mut block[..source.len()];
    block.copy_from_slice(source);
    pool.get_mut(to).copy_from_slice(block);
}

#[cfg(test)]
impl<const N: usize> Blocks<N> {
    pub(super) fn assert_invariants(&self) {
        self.pools.iter().for_each(Pool::assert_invariants);
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        self.pools.iter().map(Pool::allocated_bytes).sum()
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.pools.iter().map(Pool::used_bytes).sum()
    }
}
