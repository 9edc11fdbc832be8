//! Which relays of a worker come first: the busiest, the quietest, the oldest. Only those are copied, however many there are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Seconds;
use crate::path::connection::Path;
use crate::path::relay::{RelayStatus, RelayView, RowId};
use crate::path::sides::Bytes;

use super::select::Filter;
use super::slices::ROWS_MAX;

/// What relays are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankedBy {
    /// Bytes that were moved within this time from now on, the most first.
    Rate(Duration),
    /// Bytes that were moved since they began, the most first.
    Bytes,
    /// How long the client has sent nothing, the longest first.
    ClientSilence,
    /// How long the node has sent nothing but answers to pings, the longest first.
    MessageSilence,
    /// When they were accepted, the earliest first.
    Oldest,
    /// When they were accepted, the latest first.
    Newest,
}

/// The relays to find.
#[derive(Debug)]
pub(crate) struct Ranking {
    /// Only these.
    pub filter: Arc<Filter>,
    /// Their order.
    pub by: RankedBy,
    /// How many at most.
    pub most: usize,
}

/// A relay with its rank.
#[derive(Clone, Debug)]
pub(crate) struct Ranked {
    /// The larger, the further in front.
    pub rank: u64,
    /// What it moved, within the time of [`RankedBy::Rate`] or since it began.
    pub moved: Moved,
    /// The relay.
    pub relay: RelayStatus,
}

/// Bytes read from both peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moved {
    /// From the client.
    pub from_client: u64,
    /// From the node.
    pub from_node: u64,
}

/// What a relay had moved when the time began: the low halves of both counts, since there may be many relays. What is moved within
/// some seconds fits into them.
#[derive(Clone, Copy, Debug)]
struct Sample {
    row: RowId,
    from_client: u32,
    from_node: u32,
}

impl Moved {
    fn of(bytes: Bytes) -> Self {
        Self {
            from_client: bytes.from_client.total(),
            from_node: bytes.from_node.total(),
        }
    }

    /// What was moved since a sample was taken.
    fn since(self, sample: &Sample) -> Self {
        let more = |now: u64, before: u32| u64::from((now as u32).wrapping_sub(before));
        Self {
            from_client: more(self.from_client, sample.from_client),
            from_node: more(self.from_node, sample.from_node),
        }
    }
}

/// The relays that come first, in their order.
pub(super) async fn rank(path: &Rc<Path>, ranking: &Ranking) -> Vec<Ranked> {
    let Ranking { filter, by, most } = ranking;
    let samples = match by {
        RankedBy::Rate(over) => {
            let samples = samples(path).await;
            tokio::time::sleep(*over).await;
            samples
        }
        _ => Vec::new(),
    };
    let mut samples = samples.iter().peekable();
    let homes = path.homes();
    let mut first = First::new(*most);
    each(path, |now, row, relay| {
        let moved = match by {
            RankedBy::Rate(_) => {
                while samples.next_if(|sample| sample.row < row).is_some() {}
                let moved = Moved::of(relay.bytes);
                // All of it, if the relay has begun meanwhile.
                let sample = samples.next_if(|sample| sample.row == row);
                sample.map_or(moved, |sample| moved.since(sample))
            }
            _ => Moved::of(relay.bytes),
        };
        let rank = match by {
            RankedBy::Rate(_) | RankedBy::Bytes => moved.from_client.saturating_add(moved.from_node),
            RankedBy::ClientSilence => relay.client_silence(now).as_secs(),
            RankedBy::MessageSilence => relay.message_silence(now).as_secs(),
            RankedBy::Oldest => micros(relay.record.accepted.elapsed()),
            RankedBy::Newest => u64::MAX - micros(relay.record.accepted.elapsed()),
        };
        if first.takes(rank) && filter.includes(relay, &homes, now) {
            first.insert((rank, row, moved));
        }
    })
    .await;
    let (table, now) = (path.table.borrow(), path.clock.now());
    let ranked = first.into_sorted().filter_map(|(rank, row, moved)| {
        // Not one that has ended meanwhile.
        let relay = table.view(row)?.status(now);
        Some(Ranked { rank, moved, relay })
    });
    ranked.collect()
}

/// What each relay has moved so far, in the order of places.
async fn samples(path: &Rc<Path>) -> Vec<Sample> {
    let mut samples = Vec::new();
    each(path, |_, row, relay| {
        let Moved { from_client, from_node } = Moved::of(relay.bytes);
        samples.push(Sample {
            row,
            from_client: from_client as u32,
            from_node: from_node as u32,
        });
    })
    .await;
    samples
}

/// Visits every relay of the table, in the order of places, and gives way to other tasks.
async fn each(path: &Rc<Path>, mut visit: impl FnMut(Seconds, RowId, RelayView<'_>)) {
    let mut from = Some(0);
    while let Some(place) = from {
        let now = path.clock.now();
        from = path
            .table
            .borrow()
            .visit(place, ROWS_MAX, |row, relay| visit(now, row, relay));
        tokio::task::yield_now().await;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Those with the highest ranks so far, no more than wanted.
struct First {
    most: usize,
    /// The lowest rank is on top.
    heap: BinaryHeap<Reverse<Candidate>>,
}

/// Rank, place and bytes of a relay.
type Candidate = (u64, RowId, Moved);

impl First {
    fn new(most: usize) -> Self {
        Self {
            most,
            heap: BinaryHeap::with_capacity(most),
        }
    }

    /// Whether a relay with this rank would be one of them.
    fn takes(&self, rank: u64) -> bool {
        let lowest = self.heap.peek();
        self.heap.len() < self.most || lowest.is_some_and(|Reverse((lowest, ..))| rank > *lowest)
    }

    fn insert(&mut self, candidate: Candidate) {
        if self.heap.len() == self.most {
            self.heap.pop();
        }
        self.heap.push(Reverse(candidate));
    }

    /// The highest rank first.
    fn into_sorted(self) -> impl Iterator<Item = Candidate> {
        self.heap
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(candidate)| candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_known_although_only_half_of_the_count_is_kept() {
        let before = u64::from(u32::MAX) - 10;
        let row = RowId::default();
        let sample = Sample {
            row,
            from_client: before as u32,
            from_node: 7,
        };
        let now = Moved {
            from_client: before + 500,
            from_node: 7,
        };
        let moved = now.since(&sample);
        assert_eq!((moved.from_client, moved.from_node), (500, 0));
    }

    #[test]
    fn the_first_are_those_of_the_whole_list_sorted() {
        for most in [1, 3, 10, 100] {
            let mut first = First::new(most);
            let mut ranks: Vec<u64> = (0..50).map(|number: u64| number * 7919 % 101).collect();
            for rank in &ranks {
                if first.takes(*rank) {
                    first.insert((*rank, RowId::default(), Moved::default()));
                }
            }
            ranks.sort_by_key(|rank| Reverse(*rank));
            ranks.truncate(most);
            assert_eq!(first.into_sorted().map(|(rank, ..)| rank).collect::<Vec<_>>(), ranks);
        }
    }
}
