//! The last ends of one worker's connections, in a ring of fixed size: what is known of a client that is not here, and of one that
//! reconnects again and again.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{Decision, NodeId};
use crate::path::ended::Ended;
use crate::path::record::{Connected, KeptId, PlacementKey, Record};

/// Ends that are remembered, over all workers.
const ENDS_MAX: usize = 4_096;

/// For how long the ends of a client that reconnects in a loop are added up.
const LOOP: Duration = Duration::from_secs(60);

/// The last ends of connections whose clients have an id, the newest last. What is remembered of one is taken out of its record, so that
/// remembering it allocates nothing.
#[derive(Debug)]
pub struct LastEnds {
    ends: VecDeque<LastEnd>,
    most: usize,
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct LastEnd {
    /// The client's id.
    pub client_id: KeptId,
    /// The cause.
    pub cause: Ended,
    /// When it ended.
    pub at: Instant,
    /// When it was accepted.
    pub accepted: Instant,
    /// The client's address.
    pub client: SocketAddr,
    /// The node that was last dialed for it.
    pub node: Option<NodeId>,
    /// Why that node.
    pub decision: Option<Decision>,
    /// Where a placement of the client is kept.
    pub placement: PlacementKey,
    /// Where its affinity key is on the ring; without meaning for a client without one.
    pub ring_hash: u64,
}

/// A client whose connections have ended several times within a minute.
#[derive(Clone, Debug)]
pub struct Loop {
    /// How many of its connections ended within the last minute, as far as they are remembered.
    pub count: usize,
    /// The last end.
    pub last: LastEnd,
}

impl LastEnds {
    /// The ring of one of so many workers.
    pub(crate) fn of_one_of(workers: usize) -> Self {
        Self {
            ends: VecDeque::new(),
            most: (ENDS_MAX / workers.max(1)).max(1),
        }
    }

    /// Remembers the end of a connection, if its client has an id.
    pub(crate) fn add(&mut self, record: Record, cause: Ended, now: Instant) {
        let Record {
            connect: Some(connect),
            client,
            accepted,
            node,
            decision,
            ..
        } = record
        else {
            return;
        };
        let Connected {
            client_id,
            placement,
            ring_hash,
            ..
        } = connect;
        if client_id.is_empty() {
            return;
        }
        self.push(LastEnd {
            client_id,
            cause,
            at: now,
            accepted,
            client,
            node,
            decision,
            placement,
            ring_hash,
        });
    }

    /// Remembers the ends that another process has remembered, the newest last, before those that came since.
    pub(crate) fn add_earlier(&mut self, earlier: Vec<LastEnd>) {
        let later = std::mem::take(&mut self.ends);
        earlier.into_iter().chain(later).for_each(|end| self.push(end));
    }

    fn push(&mut self, end: LastEnd) {
        match self.ends.capacity() {
            // All of it at once: it has a fixed size from then on.
            0 => self.ends.reserve_exact(self.most),
            _ if self.ends.len() >= self.most => drop(self.ends.pop_front()),
            _ => {}
        }
        self.ends.push_back(end);
    }

    /// All of them, the newest last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LastEnd> {
        self.ends.iter()
    }

    /// The last end of a connection of the client with this id. Looks at all of them, so that remembering one costs little.
    pub(crate) fn find(&self, id: &KeptId) -> Option<LastEnd> {
        self.ends.iter().rev().find(|end| end.client_id == *id).cloned()
    }

    /// The clients whose connections have ended within the last minute, each with the last end.
    pub(crate) fn loops(&self, now: Instant) -> Vec<Loop> {
        let mut loops: HashMap<&KeptId, (usize, &LastEnd)> = HashMap::new();
        let lately = self.ends.iter().rev();
        for end in lately.take_while(|end| now.saturating_duration_since(end.at) < LOOP) {
            loops.entry(&end.client_id).or_insert((0, end)).0 += 1;
        }
        let loops = loops.into_values();
        let owned = loops.map(|(count, last)| Loop {
            count,
            last: last.clone(),
        });
        owned.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{SessionExpiry, Version};
    use crate::path::record::ListenerId;

    fn record(id: &str) -> Record {
        let connect = Connected {
            client_id: KeptId::of(id.as_bytes()),
            version: Version::V311,
            keep_alive: 0,
            clean_start: true,
            placement: PlacementKey::NONE,
            ring_hash: 0,
            session_expiry: SessionExpiry::WITH_CONNECTION,
        };
        Record {
            connect: Some(connect),
            ..Record::new(1, ListenerId(0), ([127, 0, 0, 1], 1).into(), Instant::now())
        }
    }

    #[test]
    fn the_last_end_of_a_client_is_found_until_others_have_taken_its_place() {
        let (mut ends, now) = (LastEnds::of_one_of(1), Instant::now());
        let id = KeptId::of(b"mine");
        assert!(ends.find(&id).is_none());
        ends.add(record("mine"), Ended::Idle, now);
        ends.add(record("mine"), Ended::NodeClosed, now);
        ends.add(record(""), Ended::ClientClosed, now);
        let room = ends.ends.capacity();
        for other in 2..ENDS_MAX {
            ends.add(record(&format!("other-{other}")), Ended::ClientClosed, now);
        }
        assert_eq!(ends.find(&id).expect("it is still there").cause, Ended::NodeClosed);
        ends.add(record("one"), Ended::ClientClosed, now);
        assert!(ends.find(&id).is_some());
        ends.add(record("more"), Ended::ClientClosed, now);
        assert!(ends.find(&id).is_none());
        assert_eq!((ends.ends.len(), ends.ends.capacity()), (ENDS_MAX, room));
    }

    #[test]
    fn a_client_that_reconnects_in_a_loop_is_counted_for_a_minute() {
        let (mut ends, began) = (LastEnds::of_one_of(1), Instant::now());
        for second in 0..100 {
            ends.add(record("loop"), Ended::NodeClosed, began + Duration::from_secs(second));
        }
        ends.add(record("once"), Ended::ClientClosed, began + Duration::from_secs(99));
        let mut loops = ends.loops(began + Duration::from_secs(100));
        loops.sort_by_key(|found| found.count);
        let counts: Vec<_> = loops
            .iter()
            .map(|found| (found.last.client_id.to_string(), found.count))
            .collect();
        assert_eq!(counts, [("once".to_owned(), 1), ("loop".to_owned(), 59)]);
    }

    #[test]
    fn what_is_remembered_of_an_end_takes_no_more_than_this() {
        assert!(size_of::<LastEnd>() <= 136, "{} bytes", size_of::<LastEnd>());
    }
}
