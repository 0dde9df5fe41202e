//! Owns the hint to the processor that something will be needed soon.

/// Begins to fetch the cache line at the start of `data`, without waiting for it.
#[inline(always)]
pub fn prefetch<T>(data: &T) {
    hint(std::ptr::from_ref(data).cast());
}

/// Begins to fetch all cache lines of a slice.
#[inline(always)]
pub fn prefetch_all<T>(data: &[T]) {
    const LINE_BYTES: usize = 64;
    let range = data.as_ptr_range();
    let mut line = range.start.cast::<u8>().map_addr(|start| start & !(LINE_BYTES - 1));
    while line < range.end.cast() {
        hint(line);
        line = line.wrapping_add(LINE_BYTES);
    }
}

#[inline(always)]
#[allow(unsafe_code)]
fn hint(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing that the program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
