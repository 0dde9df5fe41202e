//! Owns the prefetch hint to the processor.

/// Starts to fetch the cache line at the start of `data`, without waiting for it. Any address is allowed.
#[inline(always)]
pub(super) fn prefetch<T>(data: *const T) {
    hint(data.cast());
}

/// Starts to fetch the first `lines` cache lines of `count` elements. If they have fewer, the last one is requested
/// repeatedly, which costs less than a mispredicted branch on their number.
#[inline(always)]
pub(super) fn prefetch_lines<T>(data: *const T, count: usize, lines: usize) {
    const LINE_BYTES: usize = 64;
    let last = (count * size_of::<T>()).wrapping_sub(1);
    let mut offset = 0;
    while offset < lines * LINE_BYTES {
        hint(data.cast::<u8>().wrapping_add(offset.min(last)));
        offset += LINE_BYTES;
    }
}

#[inline(always)]
#[allow(unsafe_code)]
fn hint(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect that the program can observe, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
