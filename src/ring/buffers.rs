//! Owns the receive memory that is shared with the kernel: a provided buffer ring and its buffers
//! (io_uring_register_buf_ring(3)).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Alignment that the kernel requires of the ring of entries.
const PAGE_BYTES: usize = 4096;

/// Memory that the kernel may write to at any time: zeroed, accessed only through pointers, freed on drop.
struct SharedMemory {
    start: NonNull<u8>,
    layout: Layout,
}

impl SharedMemory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("a few hundred KiB");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        Self { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Buffers of one size. A buffer belongs to the kernel until a completion names it,
/// then to the process until it is recycled.
pub struct ReceiveBuffers {
    entries: SharedMemory,
    data: SharedMemory,
    count: u16,
    /// Size of a buffer in bytes.
    bytes: usize,
    tail: u16,
}

impl ReceiveBuffers {
    /// Registers `count` buffers of `bytes` bytes, and gives all of them to the kernel.
    ///
    /// # Errors
    ///
    /// As io_uring_register(2).
    ///
    /// # Panics
    ///
    /// If `count` is not a power of two.
    ///
    /// # Safety
    ///
    /// The kernel writes into the buffers while receives of this group are in flight. All of them must have ended
    /// before the buffers are dropped.
    pub unsafe fn register(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        bytes: usize,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "{count} buffers");
        let mut buffers = Self {
            entries: SharedMemory::new(usize::from(count) * size_of::<BufRingEntry>()),
            data: SharedMemory::new(usize::from(count) * bytes),
            count,
            bytes,
            tail: 0,
        };
        let entries = buffers.entries.start.as_ptr() as u64;
        // SAFETY: there are `count` page-aligned entries, owned by the buffers. The buffers outlive the ring's use of
        // them, since the ring drains its receives before it is dropped.
        unsafe { submitter.register_buf_ring_with_flags(entries, count, group, 0)? };
        (0..count).for_each(|buffer| buffers.recycle(buffer));
        buffers.publish();
        Ok(buffers)
    }

    /// Returns the received bytes in a buffer that a completion names.
    ///
    /// # Panics
    ///
    /// If the number or the length is out of range.
    pub fn filled(&self, buffer: u16, length: usize) -> &[u8] {
        let start = self.start_of(buffer);
        assert!(length <= self.bytes, "a completion of {length} bytes in a buffer of {}", self.bytes);
        // SAFETY: within the allocation, initialized (zeroed at first), and not written to by the kernel between the
        // completion and `recycle`, which takes `&mut self` and so ends this borrow.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// Returns a buffer to the kernel, which sees it after [`publish`](Self::publish).
    pub fn recycle(&mut self, buffer: u16) {
        let start = self.start_of(buffer);
        let place = usize::from(self.tail % self.count);
        let entries = self.entries.start.cast::<BufRingEntry>();
        // SAFETY: `place` is within the entries.
        let entry = unsafe { entries.add(place) };
        // SAFETY: aligned, zeroed at first, and not read by the kernel before the tail is published. The ring's tail is
        // in the reserved field of entry 0, which the setters don't touch.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(start as u64);
        entry.set_len(self.bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes recycled buffers visible to the kernel.
    pub fn publish(&mut self) {
        let entries = self.entries.start.cast::<BufRingEntry>();
        // SAFETY: the address of the first entry, which is valid.
        let tail = unsafe { BufRingEntry::tail(entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 that the kernel only reads, and it lives as long as `self`.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn start_of(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < self.count, "buffer {buffer} of {}", self.count);
        // SAFETY: within the allocation.
        unsafe { self.data.start.as_ptr().add(usize::from(buffer) * self.bytes) }
    }
}
