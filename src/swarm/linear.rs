//! Owns the arithmetic of linear hashing (Litwin 1980), a table of buckets that grows by one bucket at a time.
//!
//! With `2^k` buckets the low `k` bits of a hash say which is whose. Bucket `2^k + i` is then added by splitting bucket
//! `i`, in this order, so that at any time some buckets go by `k + 1` bits and the others still by `k`.

/// The bucket of a hash, of so many.
#[inline]
pub(super) fn bucket(hash: u32, buckets: u32) -> u32 {
    bucket_by(hash, buckets, mask(buckets))
}

/// The same, if their [`mask`] is known.
#[inline(always)]
pub(super) fn bucket_by(hash: u32, buckets: u32, mask: u32) -> u32 {
    let low = hash & mask;
    if low < buckets { low } else { low & (mask >> 1) }
}

/// As many low bits as number all buckets.
#[inline]
pub(super) fn mask(buckets: u32) -> u32 {
    buckets.next_power_of_two() - 1
}

/// The bucket that is split when number `added` is added, and that takes its content back when it goes.
pub(super) fn parent(added: u32) -> u32 {
    added ^ (1 << added.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_a_bucket_moves_only_from_its_parent() {
        for buckets in 1..70 {
            for hash in 0..300 {
                let (before, after) = (bucket(hash, buckets), bucket(hash, buckets + 1));
                assert!(before < buckets);
                if before != after {
                    assert_eq!((before, after), (parent(buckets), buckets));
                }
            }
            assert!((0..300).any(|hash| bucket(hash, buckets + 1) == buckets), "a bucket for nothing");
        }
    }
}
