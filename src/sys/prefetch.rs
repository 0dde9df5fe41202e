//! Owns the hint to the processor that something will be needed soon.

/// Begins to fetch the cache line at the start of `data`, without waiting for it.
#[inline(always)]
#[allow(unsafe_code)]
pub fn prefetch<T: ?Sized>(data: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(data).cast::<i8>();
        // SAFETY: a hint; it reads nothing that the program could see, and the address is valid anyway.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = data;
}
