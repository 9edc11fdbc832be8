//! Waiting for conditions, never for time: each wait has a deadline, and says what it waited for when that passes.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take; only a failure takes as long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How often a condition is looked at that nobody announces.
const LOOK: Duration = Duration::from_micros(200);

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Waits until `find` finds something.
#[track_caller]
pub(crate) fn until_some<T>(what: &str, find: impl Fn() -> Option<T>) -> T {
    let due = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < due, "waited in vain: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Calls again where a signal has interrupted the call: with a timeout on a socket, the kernel does not do so itself.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A value that others wait for.
#[derive(Debug, Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        // What a failed test left behind is still what was seen.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value, and tells everyone who waits.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `find` finds something in the value.
    #[track_caller]
    pub(crate) fn until_some<R>(&self, what: &str, find: impl Fn(&T) -> Option<R>) -> R {
        let due = Instant::now() + DEADLINE;
        let mut value = self.lock();
        loop {
            if let Some(found) = find(&value) {
                return found;
            }
            let left = due.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain: {what}");
            let waited = self.changed.wait_timeout(value, left);
            (value, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, condition: impl Fn(&T) -> bool) {
        self.until_some(what, |value| condition(value).then_some(()));
    }
}
