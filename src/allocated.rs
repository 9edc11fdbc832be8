//! What a thread of the unit tests has allocated and not freed: what others keep for us can be seen in no other way.

#![expect(
    unsafe_code,
    reason = "an allocator is unsafe to be one; this one passes every call on as it came"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Without a destructor, so that it is there for whatever a thread frees last.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that this thread has allocated more than it has freed.
pub fn live_bytes() -> isize {
    LIVE.get()
}

fn count(bytes: usize, sign: isize) {
    LIVE.set(LIVE.get() + sign * bytes as isize);
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
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
