//! What has changed lately, for readers that follow: a bounded ring in which every reader has a place of its own.
//!
//! The ring is the queue of each reader: one that falls behind its oldest event is too slow, and is told so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
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
        /// Whose word made the difference: `api`, `probe`, `clients` or `lookup`.
        source: String,
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
    /// The process drains, or ends with its last connection.
    Drain {
        /// How many connections there are.
        connections: usize,
    },
    /// This process has handed its listeners and connections to another one, or has taken them over; or a try has failed, and nothing
    /// has changed.
    Handover {
        /// `gave`, `took` or `failed`.
        result: String,
        /// The connections that have moved.
        moved: u64,
        /// Those that have stayed with the old process.
        left: u64,
        /// Why it has failed.
        error: Option<String>,
    },
    /// A certificate has 21 days or fewer left, then 7, then 1.
    CertificateExpiring {
        /// The listener that presents it; null for the one that is presented to nodes.
        listener: Option<String>,
        /// The host names that it is for.
        names: Vec<String>,
        /// When it expires, in UTC.
        expires: String,
        /// Whole days until then.
        days: u64,
    },
    /// A certificate has expired.
    CertificateExpired {
        /// The listener that presents it; null for the one that is presented to nodes.
        listener: Option<String>,
        /// The host names that it is for.
        names: Vec<String>,
        /// When it expired, in UTC.
        expires: String,
    },
    /// Far more clients connect than usual, or more than nodes may get.
    StormBegun {
        /// Clients that connect per second, of late.
        connects_per_second: u64,
        /// How many that is usually.
        usual_per_second: u64,
        /// Clients that wait for their turn at nodes.
        waiting: usize,
    },
    /// No more clients connect than usual, and none waits for its turn.
    StormEnded {
        /// How long it took.
        seconds: u64,
        /// Clients that have connected meanwhile.
        connects: u64,
    },
    /// Something was found that an operator should look at, or is there no more.
    Finding {
        /// What: `connections_near_limit`, `revocation_list_expired`, `thread_stuck`, or a number of the doctor's, such as `R101`.
        code: String,
        /// The doctor's name for it, such as `nodes-not-joined`.
        name: Option<String>,
        /// Of what: the name of a listener or a thread, `all` for the whole process; the doctor's nodes, listeners or keys.
        subject: String,
        /// What the doctor found, in a sentence.
        found: Option<String>,
        /// Whether it has begun; if not, it has ended.
        is_begun: bool,
    },
}

impl Change {
    /// Whether another process has taken over from this one: its last event.
    pub fn is_handed_over(&self) -> bool {
        matches!(self, Self::Handover { result, .. } if result == Self::GAVE)
    }

    /// The names of all kinds: `kind` in the API, `event` in lines of the log and in the metric.
    pub const KINDS: [&str; 14] = [
        Self::NODE_STATE,
        Self::NODE_WISH,
        Self::NODE_ADDED,
        Self::NODE_REMOVED,
        Self::RELOAD,
        Self::LISTENER_OPENED,
        Self::LISTENER_CLOSED,
        Self::DRAIN,
        Self::HANDOVER,
        Self::CERTIFICATE_EXPIRING,
        Self::CERTIFICATE_EXPIRED,
        Self::STORM_BEGUN,
        Self::STORM_ENDED,
        Self::FINDING,
    ];
    pub(crate) const NODE_STATE: &str = "node_state";
    pub(crate) const NODE_WISH: &str = "node_wish";
    pub(crate) const NODE_ADDED: &str = "node_added";
    pub(crate) const NODE_REMOVED: &str = "node_removed";
    /// For the lines of the program, which reads the file.
    pub const RELOAD: &str = "reload";
    pub(crate) const LISTENER_OPENED: &str = "listener_opened";
    pub(crate) const LISTENER_CLOSED: &str = "listener_closed";
    /// For the line of the program, which knows the signal.
    pub const DRAIN: &str = "drain";
    pub(crate) const HANDOVER: &str = "handover";
    /// The result of a [`Change::Handover`] of the process that another one has taken over from.
    pub(crate) const GAVE: &str = "gave";
    pub(crate) const CERTIFICATE_EXPIRING: &str = "certificate_expiring";
    pub(crate) const CERTIFICATE_EXPIRED: &str = "certificate_expired";
    pub(crate) const STORM_BEGUN: &str = "storm_begun";
    pub(crate) const STORM_ENDED: &str = "storm_ended";
    pub(crate) const FINDING: &str = "finding";

    /// The place of its kind in [`Change::KINDS`].
    fn place(&self) -> usize {
        match self {
            Self::NodeState { .. } => 0,
            Self::NodeWish { .. } => 1,
            Self::NodeAdded { .. } => 2,
            Self::NodeRemoved { .. } => 3,
            Self::Reload { .. } => 4,
            Self::ListenerOpened { .. } => 5,
            Self::ListenerClosed { .. } => 6,
            Self::Drain { .. } => 7,
            Self::Handover { .. } => 8,
            Self::CertificateExpiring { .. } => 9,
            Self::CertificateExpired { .. } => 10,
            Self::StormBegun { .. } => 11,
            Self::StormEnded { .. } => 12,
            Self::Finding { .. } => 13,
        }
    }
}

/// The events of a process.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Event>>,
    /// How many there were of each of [`Change::KINDS`].
    counts: [AtomicU64; Change::KINDS.len()],
    /// The number of the newest event; 0 before the first.
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            counts: Default::default(),
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
        self.counts[change.place()].fetch_add(1, Ordering::Relaxed);
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

    /// The kinds, and how many events there were of each.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Change::KINDS.into_iter().zip(counts)
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

    #[test]
    fn each_event_is_counted_under_the_name_that_the_api_gives_it() {
        let text = String::new;
        let all = [
            Change::NodeState {
                node: text(),
                endpoint: text(),
                state: text(),
                source: text(),
                why: None,
            },
            Change::NodeWish {
                node: text(),
                weight: 1,
                is_draining: false,
            },
            Change::NodeAdded { node: text() },
            Change::NodeRemoved { node: text() },
            Change::Reload {
                is_in_force: true,
                error: None,
            },
            Change::ListenerOpened {
                listener: text(),
                address: text(),
            },
            Change::ListenerClosed {
                listener: text(),
                address: text(),
            },
            Change::Drain { connections: 0 },
            Change::Handover {
                result: text(),
                moved: 0,
                left: 0,
                error: None,
            },
            Change::CertificateExpiring {
                listener: None,
                names: Vec::new(),
                expires: text(),
                days: 1,
            },
            Change::CertificateExpired {
                listener: None,
                names: Vec::new(),
                expires: text(),
            },
            Change::StormBegun {
                connects_per_second: 1,
                usual_per_second: 1,
                waiting: 1,
            },
            Change::StormEnded {
                seconds: 1,
                connects: 1,
            },
            Change::Finding {
                name: None,
                found: None,
                code: text(),
                subject: text(),
                is_begun: true,
            },
        ];
        assert_eq!(all.len(), Change::KINDS.len());
        for change in all {
            let kind = serde_json::to_value(&change).expect("JSON")["kind"].clone();
            let events = Events::default();
            events.push(change);
            let counted: Vec<_> = events.counts().filter(|(_, count)| *count == 1).collect();
            assert_eq!(counted.len(), 1);
            assert_eq!(counted[0].0, kind);
        }
    }
}
