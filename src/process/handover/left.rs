//! Connections that stay with processes which this one has taken over from: they are in no list here, and nodes have them all the same.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many there may be, and until when.
#[derive(Debug, Default)]
pub(in crate::process) struct LeftBehind(Mutex<Vec<Left>>);

#[derive(Clone, Copy, Debug)]
struct Left {
    connections: u64,
    until: Instant,
}

impl LeftBehind {
    /// A process has kept so many connections, and closes the last of them after so long.
    pub(super) fn add(&self, connections: u64, ends_within: Duration, now: Instant) {
        if connections > 0 {
            // Longer than any process runs, if that is no time at all.
            let until = now
                .checked_add(ends_within)
                .unwrap_or(now + Duration::from_secs(1 << 31));
            self.all().push(Left { connections, until });
        }
    }

    /// How many there may still be at this time.
    pub(in crate::process) fn at_most(&self, now: Instant) -> u64 {
        self.at(now).map(|(connections, _)| connections).sum()
    }

    /// Those that there may still be, and how long they may stay.
    pub(super) fn at(&self, now: Instant) -> impl Iterator<Item = (u64, Duration)> + use<> {
        let mut all = self.all();
        all.retain(|left| left.until > now);
        let left = all.clone().into_iter();
        left.map(move |left| (left.connections, left.until - now))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Left>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_until_their_process_closes_them() {
        let (left, now) = (LeftBehind::default(), Instant::now());
        let second = Duration::from_secs(1);
        left.add(3, second, now);
        left.add(4, 5 * second, now);
        left.add(0, Duration::MAX, now);
        assert_eq!(left.at_most(now), 7);
        assert_eq!(left.at_most(now + 2 * second), 4);
        assert_eq!(left.at(now + 2 * second).collect::<Vec<_>>(), [(4, 3 * second)]);
        assert_eq!(left.at_most(now + 5 * second), 0);
        left.add(1, Duration::MAX, now);
        assert_eq!(left.at_most(now + 1_000_000 * second), 1);
    }
}
