//! Warns of limits on connections that are nearly reached: one line when nine tenths of one are used, and one when a fifth is free
//! again.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::admin::AdminState;

/// Whether a limit is nearly reached, as the log last said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    is_high: bool,
}

impl Level {
    /// Takes how many of `most` are used now. Returns whether it has become high or is high no more, if either.
    fn change(&mut self, used: usize, most: usize) -> Option<bool> {
        let is_high = match self.is_high {
            false => used as u128 * 10 >= most as u128 * 9,
            true => used as u128 * 10 >= most as u128 * 8,
        };
        let has_changed = is_high != self.is_high;
        self.is_high = is_high;
        has_changed.then_some(is_high)
    }
}

/// The limits that are watched.
#[derive(Debug, Default)]
pub(super) struct Usage {
    all: Level,
    /// Of the listeners with a limit of their own, by name: one that was moved to another address is the same to operators.
    listeners: HashMap<String, Level>,
}

impl Usage {
    /// Logs each limit whose level has changed. Called once a second.
    pub(super) fn check(&mut self, state: &AdminState) {
        let (used, most) = (
            state.admission.connections(),
            state.connections_max.load(Ordering::Relaxed),
        );
        match self.all.change(used, most) {
            Some(true) => tracing::warn!(
                connections = used,
                limit = most,
                "nine tenths of all connections are in use"
            ),
            Some(false) => tracing::info!(
                connections = used,
                limit = most,
                "less than eight tenths of all connections are in use"
            ),
            None => {}
        }
        let listeners = state.listeners.current();
        let limited = listeners.iter().filter(|listener| !listener.removed);
        let limited = limited.filter_map(|listener| Some((listener, listener.listener.connections_max?)));
        let mut levels = HashMap::new();
        for (entry, most) in limited {
            let (listener, connections) = (entry.name(), entry.listener_count.connections());
            let mut level = self.listeners.get(listener).copied().unwrap_or_default();
            match level.change(connections, most) {
                Some(true) => tracing::warn!(
                    listener,
                    connections,
                    limit = most,
                    "nine tenths of the listener's connections are in use"
                ),
                Some(false) => tracing::info!(
                    listener,
                    connections,
                    limit = most,
                    "less than eight tenths of the listener's connections are in use"
                ),
                None => {}
            }
            levels.insert(listener.to_owned(), level);
        }
        self.listeners = levels;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_high_from_nine_tenths_until_a_fifth_is_free() {
        let mut level = Level::default();
        let used = [0, 89, 90, 100, 85, 90, 80, 79, 80, 89, 91, 0];
        let changes: Vec<_> = used.into_iter().map(|used| level.change(used, 100)).collect();
        let mut expected = vec![None; 12];
        (expected[2], expected[7], expected[10], expected[11]) = (Some(true), Some(false), Some(true), Some(false));
        assert_eq!(changes, expected);
    }
}
