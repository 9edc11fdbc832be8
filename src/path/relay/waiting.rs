//! What waits for receivers that have no room, in all relays of all workers.

use crate::base::sync::{AtomicUsize, Ordering};

/// The sum over all workers, as of their last sweeps: bytes that wait here and in the kernel's buffers.
#[derive(Debug, Default)]
pub struct WaitingBytes(AtomicUsize);

impl WaitingBytes {
    /// The sum now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces what one worker has added. Returns how much of its own the worker must release so that, if all do, no more than
    /// `most` are left.
    pub(crate) fn replace(&self, before: usize, own: usize, most: usize) -> usize {
        self.0.fetch_sub(before, Ordering::Relaxed);
        let all = self.0.fetch_add(own, Ordering::Relaxed) + own;
        let over = all.saturating_sub(most);
        if over == 0 {
            return 0;
        }
        let share = (over as u128 * own as u128).div_ceil(all as u128);
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_release_what_is_too_much_in_proportion_to_what_they_have() {
        let waiting = WaitingBytes::default();
        assert_eq!(waiting.replace(0, 300, 1_000), 0);
        assert_eq!(waiting.replace(0, 700, 1_000), 0);
        assert_eq!(waiting.replace(700, 900, 1_000), 150);
        assert_eq!(waiting.replace(300, 300, 1_000), 50);
        assert_eq!(waiting.replace(900, 750, 1_000), 36);
        assert_eq!(waiting.replace(300, 0, 1_000), 0);
        assert_eq!(waiting.bytes(), 750);
    }
}
