//! Read buffers, one of a kind per thread: what lets an idle connection own none. A leaf.

use std::cell::RefCell;

/// Bytes that one read may bring.
pub const BYTES: usize = 64 * 1024;

/// Bytes of TLS records that one read may bring.
pub const RECORDS_BYTES: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BYTES].into_boxed_slice());
    static RECORDS: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECORDS_BYTES].into_boxed_slice());
}

/// Lends this thread's buffer to `work`, which must not ask for it again.
pub fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| work(scratch))
}

/// Lends this thread's buffer for TLS records to `work`, which must not ask for it again; [`with`] may be under way.
pub fn with_records<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    RECORDS.with_borrow_mut(|records| work(records))
}
