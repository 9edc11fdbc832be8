//! Placements: the clients that sit off their ring home, remembered in a bounded map.
//!
//! Only exceptions are kept, so that losing this map costs one takeover for each of them and nothing else. An entry takes
//! 56 bytes in its shard, and up to twice that while a shard has just grown.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::cluster::NodeId;

/// The remembered exceptions, by the hash of the affinity key. None of the map's guards leaves this file.
#[derive(Debug)]
pub struct Placements {
    map: DashMap<u128, Placement>,
    entries_max: usize,
    age_max: Duration,
    /// Entries, counted beside the map: its own count takes the lock of every shard.
    entries: AtomicUsize,
    /// Entries given up, or not taken, for want of room.
    evicted: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Placement {
    node: NodeId,
    /// The connection that this entry belongs to.
    owner: u64,
    /// When the entry is forgotten; never while its client is connected.
    expires: Option<Instant>,
}

impl Placement {
    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl Placements {
    /// A map of at most `entries_max` entries, each of which is forgotten `age_max` after its client left at the latest.
    pub fn new(entries_max: usize, age_max: Duration) -> Self {
        Self {
            map: DashMap::new(),
            entries_max,
            age_max,
            entries: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// The node that is remembered for this key.
    pub fn find(&self, key: u128, now: Instant) -> Option<NodeId> {
        if self.is_empty() {
            return None;
        }
        let placement = *self.map.get(&key)?;
        (!placement.has_expired(now)).then_some(placement.node)
    }

    /// Remembers that the client of this key, connected as `owner`, sits on `node`.
    ///
    /// Where the map is full, a new entry is not taken, and counted as evicted: making room is left to
    /// [`Placements::tidy`], since it takes a walk over the whole map.
    pub fn remember(&self, key: u128, node: NodeId, owner: u64) {
        let placement = Placement {
            node,
            owner,
            expires: None,
        };
        if let Some(mut known) = self.map.get_mut(&key) {
            *known = placement;
            return;
        }
        if self.len() >= self.entries_max {
            self.evicted.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.map.insert(key, placement).is_none() {
            self.entries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connection `owner` has ended, and its session outlives it by `keep`. An entry that belongs to a newer
    /// connection of the same client is left alone.
    pub fn ended(&self, key: u128, owner: u64, keep: Option<Duration>, now: Instant) {
        if self.is_empty() {
            return;
        }
        match keep.map(|keep| now + keep.min(self.age_max)) {
            None => self.remove_if(key, |placement| placement.owner == owner),
            Some(expires) => {
                if let Some(mut placement) = self.map.get_mut(&key)
                    && placement.owner == owner
                {
                    placement.expires = Some(expires);
                }
            }
        }
    }

    /// Forgets this key, whoever it belongs to.
    pub fn forget(&self, key: u128) {
        if self.is_empty() {
            return;
        }
        self.remove_if(key, |_| true);
    }

    /// Forgets everything about a node that was removed, or whose clients are to go home.
    pub fn forget_node(&self, node: NodeId) {
        self.retain(|placement| placement.node != node);
    }

    /// Forgets what has expired, and where the map is still nearly full, the clients that have been away for longest by
    /// their expiry, down to three quarters. Walks the whole map, one shard at a time: not for a worker.
    pub fn tidy(&self, now: Instant) {
        self.retain(|placement| !placement.has_expired(now));
        if self.len() <= self.entries_max / 8 * 7 {
            return;
        }
        let mut expiries: Vec<Instant> =
            self.map.iter().filter_map(|entry| entry.expires).collect();
        let excess = self.len().saturating_sub(self.entries_max / 4 * 3);
        let going = excess.min(expiries.len());
        if going == 0 {
            return;
        }
        let (_, last, _) = expiries.select_nth_unstable(going - 1);
        let last = *last;
        let before = self.len();
        self.retain(|placement| placement.expires.is_none_or(|at| at > last));
        let gone = before.saturating_sub(self.len());
        self.evicted.fetch_add(gone as u64, Ordering::Relaxed);
    }

    /// Entries now.
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether nothing is remembered, as in most clusters most of the time.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that had to go before their time, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn remove_if(&self, key: u128, which: impl Fn(&Placement) -> bool) {
        let removed = self.map.remove_if(&key, |_, placement| which(placement));
        if removed.is_some() {
            self.entries.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn retain(&self, keep: impl Fn(&Placement) -> bool) {
        self.map.retain(|_, placement| {
            let kept = keep(placement);
            if !kept {
                self.entries.fetch_sub(1, Ordering::Relaxed);
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NODE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn placements(entries_max: usize) -> (Placements, Instant) {
        (Placements::new(entries_max, 24 * HOUR), Instant::now())
    }

    #[test]
    fn a_connected_client_is_remembered_for_as_long_as_it_stays() {
        let (placements, now) = placements(10);
        placements.remember(7, NODE, 1);
        assert_eq!(placements.find(7, now + 1_000 * HOUR), Some(NODE));
        assert_eq!(placements.find(8, now), None);
    }

    #[test]
    fn after_its_end_it_is_remembered_only_as_long_as_its_session_lives() {
        let (placements, now) = placements(10);
        let cases = [
            (None, HOUR / 60, false),
            (Some(HOUR), HOUR / 2, true),
            (Some(HOUR), HOUR, false),
            (Some(Duration::MAX), 23 * HOUR, true),
            (Some(Duration::MAX), 24 * HOUR, false),
        ];
        for (keep, after, remembered) in cases {
            placements.remember(7, NODE, 1);
            placements.ended(7, 1, keep, now);
            let found = placements.find(7, now + after);
            assert_eq!(found.is_some(), remembered, "{keep:?} {after:?}");
        }
    }

    #[test]
    fn the_end_of_an_older_connection_leaves_a_newer_ones_entry_alone() {
        let (placements, now) = placements(10);
        placements.remember(7, NODE, 1);
        placements.remember(7, OTHER, 2);
        placements.ended(7, 1, None, now);
        assert_eq!(placements.find(7, now), Some(OTHER));
        placements.ended(7, 2, None, now);
        assert_eq!(placements.find(7, now), None);
        assert!(placements.is_empty());
    }

    #[test]
    fn a_full_map_takes_nobody_new_until_it_is_tidied() {
        let (placements, now) = placements(8);
        (0..8).for_each(|key| placements.remember(key, NODE, 1));
        placements.remember(8, NODE, 1);
        assert_eq!(placements.find(8, now), None);
        placements.remember(7, OTHER, 2);
        assert_eq!(
            placements.find(7, now),
            Some(OTHER),
            "an old one may change"
        );
        placements.ended(0, 1, Some(HOUR), now);
        placements.ended(1, 1, Some(HOUR / 2), now);
        placements.ended(2, 1, Some(HOUR / 3), now);
        placements.tidy(now);
        assert_eq!(
            placements.find(0, now),
            Some(NODE),
            "away, but not for longest"
        );
        assert_eq!(placements.find(1, now), None);
        assert_eq!(placements.find(2, now), None);
        placements.remember(8, NODE, 1);
        assert_eq!(placements.find(8, now), Some(NODE));
        assert_eq!((placements.len(), placements.evicted()), (7, 3));
    }

    #[test]
    fn a_removed_nodes_entries_are_forgotten() {
        let (placements, now) = placements(10);
        placements.remember(1, NODE, 1);
        placements.remember(2, OTHER, 2);
        placements.forget_node(NODE);
        assert_eq!(placements.find(1, now), None);
        assert_eq!(placements.find(2, now), Some(OTHER));
        assert_eq!(placements.len(), 1);
    }

    #[test]
    fn tidying_forgets_what_has_expired() {
        let (placements, now) = placements(10);
        placements.remember(1, NODE, 1);
        placements.remember(2, NODE, 2);
        placements.ended(1, 1, Some(HOUR), now);
        placements.tidy(now + HOUR);
        assert_eq!(placements.len(), 1);
    }

    #[test]
    fn two_million_ids_do_not_outgrow_the_map() {
        let (placements, _) = placements(1_000);
        let placements = Arc::new(placements);
        let threads: Vec<_> = (0..4)
            .map(|thread: u128| {
                let placements = Arc::clone(&placements);
                std::thread::spawn(move || {
                    for number in 0..500_000u128 {
                        let key =
                            xxhash_rust::xxh3::xxh3_128(&(thread << 64 | number).to_le_bytes());
                        placements.remember(key, NODE, number as u64);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert!(
            placements.map.len() <= 1_000 + 4,
            "{}",
            placements.map.len()
        );
        assert_eq!(placements.map.len(), placements.len());
    }
}
