//! Read buffers, one of each kind per thread, so that an idle connection owns none. A leaf.

use std::cell::RefCell;

/// The most bytes of one read.
pub(crate) const BYTES: usize = 64 * 1024;

/// The most bytes of TLS records of one read.
pub(crate) const RECORDS_BYTES: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BYTES].into_boxed_slice());
    static RECORDS: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECORDS_BYTES].into_boxed_slice());
}

/// Lends this thread's buffer to `work`, which must not call this again.
pub(crate) fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| work(scratch))
}

/// Lends this thread's buffer for TLS records to `work`, which must not call this again. May be called within [`with`].
pub(crate) fn with_records<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    RECORDS.with_borrow_mut(|records| work(records))
}
