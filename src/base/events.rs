//! What has changed lately, for readers that follow: a bounded ring in which every reader has a place of its own.
//!
//! The ring is the queue of each reader: one that falls behind its oldest event is too slow, and is told so.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base::log;

/// How many events are kept.
const EVENTS_MAX: usize = 1024;

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number: one more than that of the event before. A process begins with 1.
    pub id: u64,
    /// When, in UTC, as RFC 3339 writes it.
    pub timestamp: String,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// An endpoint of a node is in another state.
    NodeState {
        /// The node.
        node: String,
        /// The endpoint: `mqtt`, `ws` or `pass`.
        endpoint: String,
        /// `up`, `draining` or `down`.
        state: String,
        /// What the last probe met, if the endpoint went down.
        why: Option<String>,
    },
    /// An operator wishes something else of a node.
    NodeWish {
        /// The node.
        node: String,
        /// Its weight now.
        weight: u16,
        /// Whether it is drained now.
        is_draining: bool,
    },
    /// A reload has added a node.
    NodeAdded {
        /// The node.
        node: String,
    },
    /// A reload has removed a node; its connections stay.
    NodeRemoved {
        /// The node.
        node: String,
    },
    /// The configuration was read again.
    Reload {
        /// Whether it is in force. If not, nothing has changed.
        is_in_force: bool,
        /// Why not.
        error: Option<String>,
    },
    /// A listener was opened.
    ListenerOpened {
        /// Its name.
        listener: String,
        /// Where it is.
        address: String,
    },
    /// A listener was closed; its connections stay.
    ListenerClosed {
        /// Its name.
        listener: String,
        /// Where it was.
        address: String,
    },
    /// The doctor has found a fault, or finds it no more.
    Finding {
        /// Its number, such as `R101`.
        code: String,
        /// Its name.
        name: String,
        /// The nodes, listeners or keys that it is about.
        subjects: Vec<String>,
        /// What was found.
        found: String,
        /// Whether it is there now.
        is_there: bool,
    },
    /// The process drains, or ends with its last connection.
    Drain {
        /// How many connections there are.
        connections: usize,
    },
}

impl Change {
    /// The names of all kinds.
    pub const KINDS: [&str; 9] = [
        "node_state",
        "node_wish",
        "node_added",
        "node_removed",
        "reload",
        "listener_opened",
        "listener_closed",
        "finding",
        "drain",
    ];
}

/// The events of a process.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Event>>,
    /// The number of the newest event; 0 before the first.
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

/// A reader has read too slowly, and events that it has not read are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind;

impl Events {
    /// Adds an event.
    pub(crate) fn push(&self, change: Change) {
        let mut kept = self.kept();
        let id = *self.newest.borrow() + 1;
        if kept.len() == EVENTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Event {
            id,
            timestamp: log::timestamp(SystemTime::now()),
            change,
        });
        self.newest.send_replace(id);
    }

    /// The number of the newest event; 0 before the first.
    pub(crate) fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The number of the oldest event that is kept, or of the next one if there is none.
    pub(crate) fn oldest(&self) -> u64 {
        let kept = self.kept();
        kept.front().map_or(self.newest() + 1, |event| event.id)
    }

    /// The events from the one with this number on.
    ///
    /// # Errors
    /// That one is no longer kept.
    pub(crate) fn from(&self, id: u64) -> Result<Vec<Event>, Behind> {
        let kept = self.kept();
        match kept.front() {
            Some(oldest) if id < oldest.id => Err(Behind),
            Some(oldest) => {
                let known = usize::try_from(id - oldest.id).unwrap_or(usize::MAX);
                Ok(kept.iter().skip(known).cloned().collect())
            }
            None => Ok(Vec::new()),
        }
    }

    /// Waits until there is an event with this number or a later one.
    pub(crate) fn wait_for(&self, id: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut newest = self.newest.subscribe();
        async move {
            if newest.wait_for(|newest| *newest >= id).await.is_err() {
                // The process ends.
                std::future::pending().await
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Nothing panics while it is locked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(number: usize) -> Change {
        Change::NodeAdded {
            node: number.to_string(),
        }
    }

    #[test]
    fn a_reader_gets_every_event_once_and_is_told_when_it_is_behind() {
        let events = Events::default();
        assert_eq!((events.from(1), events.oldest()), (Ok(Vec::new()), 1));
        for number in 1..=3 {
            events.push(added(number));
        }
        let ids = |from| {
            events
                .from(from)
                .map(|events| events.iter().map(|event| event.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(1), Ok(vec![1, 2, 3]));
        assert_eq!((ids(3), ids(4), ids(9)), (Ok(vec![3]), Ok(vec![]), Ok(vec![])));
        for number in 4..=EVENTS_MAX + 3 {
            events.push(added(number));
        }
        assert_eq!(events.oldest(), 4);
        assert_eq!(ids(3), Err(Behind));
        assert_eq!(ids(4).map(|ids| ids.len()), Ok(EVENTS_MAX));
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_next_event_and_for_none_that_is_there() {
        let events = Events::default();
        events.push(added(1));
        events.wait_for(1).await;
        let next = events.wait_for(2);
        events.push(added(2));
        next.await;
    }

    #[test]
    fn the_list_of_kinds_is_that_of_the_schema() {
        let schema = serde_json::to_value(schemars::schema_for!(Change)).expect("JSON");
        let kinds = schema["oneOf"].as_array().expect("kinds").iter();
        let kinds: Vec<_> = kinds.map(|kind| kind["properties"]["kind"]["const"].as_str()).collect();
        assert_eq!(kinds, Change::KINDS.map(Some));
    }
}
