//! Which placements have changed while a copy of all is on its way to another process.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The keys of placements that have changed, while they are followed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Read at each change, so that it costs one load while nobody follows.
    is_followed: AtomicBool,
    keys: Mutex<HashSet<u128>>,
}

impl Changes {
    /// Notes a change that was made. After it, so that the one who takes the key sees the change.
    pub(super) fn note(&self, key: u128) {
        if self.is_followed.load(Ordering::Acquire) {
            self.keys().insert(key);
        }
    }

    /// Notes changes from now on, or no more.
    pub(super) fn follow(&self, is_followed: bool) {
        self.is_followed.store(is_followed, Ordering::Release);
        *self.keys() = HashSet::new();
    }

    /// The keys that were noted since this was asked last.
    pub(super) fn take(&self) -> HashSet<u128> {
        std::mem::take(&mut self.keys())
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<u128>> {
        // A set of numbers is sound whatever has panicked.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
