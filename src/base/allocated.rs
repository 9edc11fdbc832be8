//! Counts what a thread of the unit tests has allocated and not freed: the only way to see what other libraries keep.

#![expect(
    unsafe_code,
    reason = "GlobalAlloc is an unsafe trait; this allocator passes every call on unchanged"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Without a destructor, so that they still exist when a thread frees its last allocations.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that this thread has allocated, minus those that it has freed.
pub(crate) fn live_bytes() -> isize {
    LIVE.get()
}

/// The number of this thread's allocations.
pub(crate) fn allocations() -> usize {
    ALLOCATIONS.get()
}

fn count(bytes: usize, sign: isize) {
    LIVE.set(LIVE.get() + sign * bytes as isize);
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        count(layout.size(), 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}
