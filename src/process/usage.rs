//! Warns of limits on connections that are nearly reached: one line when nine tenths of one are used, and one when a fifth is free
//! again.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::admin::AdminState;
use crate::base::events::{Change, Events};

/// The code of the finding.
const CODE: &str = "connections_near_limit";

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
    pub(super) fn check(&mut self, state: &AdminState, events: &Events) {
        let (used, most) = (
            state.admission.connections(),
            state.connections_max.load(Ordering::Relaxed),
        );
        let change = self.all.change(used, most);
        tell(events, "all", change);
        let event = Change::FINDING;
        match change {
            Some(true) => tracing::warn!(
                event,
                code = CODE,
                connections = used,
                limit = most,
                "nine tenths of all connections are in use"
            ),
            Some(false) => tracing::info!(
                event,
                code = CODE,
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
            let change = level.change(connections, most);
            tell(events, listener, change);
            match change {
                Some(true) => tracing::warn!(
                    event,
                    code = CODE,
                    listener,
                    connections,
                    limit = most,
                    "nine tenths of the listener's connections are in use"
                ),
                Some(false) => tracing::info!(
                    event,
                    code = CODE,
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

/// Tells of a limit whose level has changed.
fn tell(events: &Events, subject: &str, change: Option<bool>) {
    if let Some(is_begun) = change {
        events.push(Change::Finding {
            name: None,
            found: None,
            code: CODE.to_owned(),
            subject: subject.to_owned(),
            is_begun,
        });
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
