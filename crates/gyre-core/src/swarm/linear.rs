//! Owns the arithmetic of linear hashing (Litwin 1980), a table of buckets that grows by one bucket at a time.
//!
//! With `2^k` buckets the low `k` bits of a hash say which is whose. Bucket `2^k + i` is then added by splitting bucket
//! `i`, in this order, so that at any time some buckets go by `k + 1` bits and the others still by `k`.
//!
//! With the bits of all hashes reversed, those of a bucket are an unbroken range. A split cuts it in two, a merge joins
//! two that touch: who walks by these ranges is not led astray by either.

use std::ops::Range;

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

/// Behind the last of all reversed hashes.
pub(super) const RANGE_END: u64 = 1 << u32::BITS;

/// The reversed hashes of a bucket, of so many.
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

    #[test]
    fn ranges_are_those_of_the_buckets_and_leave_nothing_out() {
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
