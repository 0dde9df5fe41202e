//! Owns the arithmetic of linear hashing (Litwin 1980), in which a table of buckets grows one bucket at a time.
//!
//! With `2^k` buckets, the low `k` bits of a hash select the bucket. Bucket `2^k + i` is added by splitting bucket `i`,
//! in this order. At any time some buckets use `k + 1` bits, and the others `k`.
//!
//! If the bits of all hashes are reversed, a bucket is a contiguous range of them. A split cuts the range in two, and a
//! merge joins two adjacent ranges. A walk in the order of these ranges therefore stays correct.

use std::ops::Range;

/// Returns the bucket of a hash in a table of `buckets` buckets.
#[inline]
pub(super) fn bucket(hash: u32, buckets: u32) -> u32 {
    bucket_by(hash, buckets, mask(buckets))
}

/// Like [`bucket`], with the [`mask`] given.
#[inline(always)]
pub(super) fn bucket_by(hash: u32, buckets: u32, mask: u32) -> u32 {
    let low = hash & mask;
    if low < buckets { low } else { low & (mask >> 1) }
}

/// Returns the mask of the low bits that are needed to number all buckets.
#[inline]
pub(super) fn mask(buckets: u32) -> u32 {
    buckets.next_power_of_two() - 1
}

/// Returns the bucket that is split when bucket `added` is added, and that receives its content when it is removed.
pub(super) fn parent(added: u32) -> u32 {
    added ^ (1 << added.ilog2())
}

/// End of the range of all reversed hashes, exclusive.
pub(super) const RANGE_END: u64 = 1 << u32::BITS;

/// Returns the range of reversed hashes of a bucket in a table of `buckets` buckets.
pub(super) fn range(number: u32, buckets: u32) -> Range<u64> {
    let mask = mask(buckets);
    let half = mask.div_ceil(2);
    let is_split = number >= half || number + half < buckets;
    let bits = mask.count_ones() - u32::from(!is_split);
    let start = u64::from(number.reverse_bits());
    start..start + (RANGE_END >> bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_a_bucket_moves_hashes_only_from_its_parent() {
        for buckets in 1..70 {
            for hash in 0..300 {
                let (before, after) = (bucket(hash, buckets), bucket(hash, buckets + 1));
                assert!(before < buckets);
                if before != after {
                    assert_eq!((before, after), (parent(buckets), buckets));
                }
            }
            assert!((0..300).any(|hash| bucket(hash, buckets + 1) == buckets), "a bucket stays empty");
        }
    }

    #[test]
    fn ranges_match_the_buckets_and_cover_all_hashes() {
        for buckets in 1..40 {
            let mut ranges: Vec<_> = (0..buckets).map(|number| range(number, buckets)).collect();
            for hash in (0..u32::MAX).step_by(0x03ff_f1f3) {
                let home = &ranges[bucket(hash, buckets) as usize];
                assert!(home.contains(&u64::from(hash.reverse_bits())), "{hash:#x} of {buckets}");
            }
            ranges.sort_by_key(|range| range.start);
            assert_eq!((ranges[0].start, ranges[buckets as usize - 1].end), (0, RANGE_END));
            assert!(ranges.windows(2).all(|two| two[0].end == two[1].start), "of {buckets}: {ranges:?}");
        }
    }
}
