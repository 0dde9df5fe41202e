//! Owns the prefetch hint to the processor.

/// Starts to fetch the cache line at the start of `data`, without waiting for it.
#[inline(always)]
pub(super) fn prefetch<T>(data: &T) {
    hint(std::ptr::from_ref(data).cast());
}

/// Starts to fetch the first `lines` cache lines of a slice. If it has fewer, the last one is requested repeatedly,
/// which costs less than a mispredicted branch on their number.
#[inline(always)]
pub(super) fn prefetch_lines<T>(data: &[T], lines: usize) {
    const LINE_BYTES: usize = 64;
    let range = data.as_ptr_range();
    let last = range.end.cast::<u8>().wrapping_sub(1);
    for line in 0..lines {
        hint(range.start.cast::<u8>().wrapping_add(line * LINE_BYTES).min(last));
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
