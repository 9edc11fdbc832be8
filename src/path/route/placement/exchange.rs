//! Placements on their way from one process to another.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Placement, Placements, SourceHash};
use crate::cluster::NodeId;

/// A placement as another process has it, or had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The hash of the affinity key.
    pub key: u128,
    /// `None` if it was forgotten.
    pub kept: Option<Kept>,
}

/// What another process has remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The node.
    pub node: NodeId,
    /// The connection that it belongs to.
    pub owner: u64,
    /// For how long it is remembered; `None` while its client is connected.
    pub expires: Option<Duration>,
    /// It was made for an id that a node has assigned.
    pub is_assigned: bool,
    /// The source that it was made for. The process that takes over hashes sources with a key of its own, so the entries of one source
    /// count for two until the older ones have gone.
    pub source: SourceHash,
}

impl Placements {
    /// All of them. Locks one shard after another, so it must not run on a worker.
    pub fn export(&self, now: Instant) -> Vec<Exported> {
        let entries = self.map.iter().filter(|entry| !entry.has_expired(now));
        let exported = |key, placement: &Placement| Exported {
            key,
            kept: Some(placement.kept(now)),
        };
        entries.map(|entry| exported(*entry.key(), entry.value())).collect()
    }

    /// Notes what changes from now on, for [`Placements::changed`]; or no more.
    pub fn follow(&self, is_followed: bool) {
        self.changes.follow(is_followed);
    }

    /// What has changed since it was asked last, while changes are followed.
    pub fn changed(&self, now: Instant) -> Vec<Exported> {
        let keys = self.changes.take().into_iter();
        let exported = keys.map(|key| {
            let entry = self.map.get(&key).filter(|entry| !entry.has_expired(now));
            Exported {
                key,
                kept: entry.map(|entry| entry.kept(now)),
            }
        });
        exported.collect()
    }

    /// Remembers, or forgets, as another process did. With `replaces`, whatever is known here; otherwise only what is news here: a
    /// client may have connected here since.
    pub fn import(&self, exported: Exported, replaces: bool, now: Instant) {
        let Exported { key, kept } = exported;
        let is_known = self.map.contains_key(&key);
        if is_known && !replaces {
            return;
        }
        self.remove_if(key, |_| true);
        let Some(kept) = kept else {
            return;
        };
        if self.len() >= self.entries_max {
            self.add_evicted(1);
            return;
        }
        let placement = Placement {
            node: kept.node,
            is_assigned: kept.is_assigned,
            source: kept.source,
            owner: kept.owner,
            expires: kept.expires.map(|expires| now + expires.min(self.age_max)),
        };
        self.insert(key, placement);
    }

    /// Counts evictions of the process that this one takes over from.
    pub fn add_evicted(&self, more: u64) {
        self.evicted.fetch_add(more, Ordering::Relaxed);
    }
}

impl Placement {
    fn kept(&self, now: Instant) -> Kept {
        Kept {
            node: self.node,
            owner: self.owner,
            expires: self.expires.map(|at| at.saturating_duration_since(now)),
            is_assigned: self.is_assigned,
            source: self.source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::Claim;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn claim(number: u32, is_assigned: bool) -> Claim {
        Claim {
            source: Ipv4Addr::from_bits(number).into(),
            is_assigned,
        }
    }

    fn copy(from: Vec<Exported>, to: &Placements, now: Instant) {
        from.into_iter().for_each(|exported| to.import(exported, true, now));
    }

    fn sorted(placements: &Placements, now: Instant) -> Vec<Exported> {
        let mut all = placements.export(now);
        all.sort_unstable_by_key(|exported| exported.key);
        all
    }

    #[test]
    fn a_copy_and_what_changed_since_are_the_same_map() {
        let (from, to, now) = (
            Placements::new(1_000, HOUR),
            Placements::new(1_000, HOUR),
            Instant::now(),
        );
        for key in 0..100 {
            from.remember(
                key,
                NodeId(key as u16 % 3),
                key as u64,
                claim(key as u32 % 7, key % 10 == 0),
            );
        }
        from.ended(1, 1, Some(HOUR / 2), now);
        from.follow(true);
        copy(from.export(now), &to, now);
        assert_eq!(sorted(&to, now), sorted(&from, now));
        assert!(from.changed(now).is_empty());
        from.remember(2, NodeId(9), 200, claim(1, false));
        from.remember(500, NodeId(1), 201, claim(1, false));
        from.ended(3, 3, Some(HOUR / 4), now);
        from.ended(4, 4, None, now);
        from.forget(5);
        from.ended(6, 6, Some(HOUR / 60), now);
        from.forget_node(NodeId(2));
        let later = now + HOUR / 10;
        from.tidy(later);
        copy(from.changed(later), &to, later);
        assert_eq!(sorted(&to, later), sorted(&from, later));
        assert_eq!((to.len(), to.sources.len()), (from.len(), from.sources.len()));
        assert_eq!(to.find(2, later), Some(NodeId(9)));
        assert_eq!([4, 5, 6].map(|key| to.find(key, later)), [None; 3]);
        // The end of a connection that moved is the end of its placement.
        to.ended(500, 201, None, later);
        assert_eq!(to.find(500, later), None);
        from.follow(false);
        from.forget(7);
        assert!(from.changed(later).is_empty());
    }

    #[test]
    fn what_came_since_is_not_replaced_by_what_another_process_knew_and_the_map_keeps_its_bound() {
        let (to, now) = (Placements::new(2, HOUR), Instant::now());
        to.remember(1, NodeId(1), 10, claim(1, false));
        let exported = |key| Exported {
            key,
            kept: Some(Kept {
                node: NodeId(2),
                owner: 5,
                expires: Some(10 * HOUR),
                is_assigned: false,
                source: 9,
            }),
        };
        to.import(exported(1), false, now);
        to.import(Exported { key: 1, kept: None }, false, now);
        assert_eq!(to.find(1, now), Some(NodeId(1)));
        to.import(exported(2), false, now);
        to.import(exported(3), true, now);
        assert_eq!((to.len(), to.evicted()), (2, 1));
        assert_eq!(to.find(2, now + HOUR / 2), Some(NodeId(2)));
        assert_eq!(to.find(2, now + HOUR), None, "no longer than is configured here");
    }
}
