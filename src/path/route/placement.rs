//! Placements: the clients that are on another node than their home, remembered in a bounded map.
//!
//! Only exceptions are kept, so that losing this map costs one takeover for each of them and nothing else. An entry takes
//! 56 bytes in its shard, and up to twice that while a shard has just grown.
//!
//! A client makes itself an exception by connecting without an id, as often as it likes, and its sessions may live for long. So
//! entries for ids that nodes have assigned get half of the map at most, and are the first to go; and a source gets a share.

mod changes;
mod exchange;

use std::cmp;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::time::Instant;

use self::changes::Changes;
use crate::cluster::NodeId;

pub use self::exchange::{Exported, Kept};

/// Of the map, the share of entries for assigned ids; beyond this share in all, each source has one of its own.
const ASSIGNED_SHARE: usize = 2;

/// Of the map, the share of one source: of its entries for assigned ids at any time, and of all of its entries while the map is more
/// than half full. Clients behind a load balancer without PROXY headers are one source.
const SOURCE_SHARE: usize = 10;

/// The remembered exceptions, by the hash of the affinity key. The map's guards do not leave this file.
#[derive(Debug)]
pub struct Placements {
    map: DashMap<u128, Placement>,
    /// Entries of each source.
    sources: DashMap<SourceHash, usize>,
    /// Keyed at random, so that no client can choose a source's hash.
    source_hasher: RandomState,
    entries_max: usize,
    age_max: Duration,
    /// Entries, counted beside the map: its own count takes the lock of every shard.
    entries: AtomicUsize,
    /// Entries evicted, or not added, because the map was full.
    evicted: AtomicU64,
    changes: Changes,
}

#[derive(Clone, Copy, Debug)]
struct Placement {
    node: NodeId,
    /// The entry was made for an id that a node has assigned.
    is_assigned: bool,
    /// The source that it was made for.
    source: SourceHash,
    /// The connection that this entry belongs to.
    owner: u64,
    /// When the entry is forgotten; never while its client is connected.
    expires: Option<Instant>,
}

/// Of an IPv4 address, or of the /64 network of an IPv6 address. Two sources with the same hash share their quota.
type SourceHash = u32;

/// Whom a new placement is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The client's address.
    pub source: IpAddr,
    /// The node has assigned the client's id.
    pub is_assigned: bool,
}

impl Placement {
    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl Placements {
    /// A map of at most `entries_max` entries. An entry is forgotten at the latest `age_max` after its client has
    /// disconnected.
    pub fn new(entries_max: usize, age_max: Duration) -> Self {
        Self {
            map: DashMap::new(),
            sources: DashMap::new(),
            source_hasher: RandomState::new(),
            entries_max,
            age_max,
            entries: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            changes: Changes::default(),
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

    /// Remembers that the client of this key, connected as `owner`, is on `node`.
    ///
    /// If the map has no room for a claim like this, a new entry is not added, and counts as evicted: making room is left to
    /// [`Placements::tidy`], which walks the whole map.
    pub(crate) fn remember(&self, key: u128, node: NodeId, owner: u64, claim: Claim) {
        if let Some(mut known) = self.map.get_mut(&key) {
            // Whom the entry was made for stays.
            *known = Placement {
                node,
                owner,
                expires: None,
                ..*known
            };
            drop(known);
            self.changes.note(key);
            return;
        }
        let source = self.source_hash(claim.source);
        if !self.has_room(source, claim.is_assigned) {
            self.evicted.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let placement = Placement {
            node,
            is_assigned: claim.is_assigned,
            source,
            owner,
            expires: None,
        };
        self.insert(key, placement);
    }

    fn insert(&self, key: u128, placement: Placement) {
        *self.sources.entry(placement.source).or_insert(0) += 1;
        match self.map.insert(key, placement) {
            None => {
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
            // Another worker has added it meanwhile.
            Some(other) => self.leave_source(other.source),
        }
        self.changes.note(key);
    }

    /// Whether there is room for one more entry of this source. Workers that ask at the same time may all be told so.
    fn has_room(&self, source: SourceHash, is_assigned: bool) -> bool {
        let entries = self.len();
        let is_half_full = entries >= self.entries_max.div_ceil(ASSIGNED_SHARE);
        if entries >= self.entries_max || is_assigned && is_half_full {
            return false;
        }
        if !is_assigned && !is_half_full {
            return true;
        }
        let of_source = self.sources.get(&source).map_or(0, |entries| *entries);
        of_source < (self.entries_max / SOURCE_SHARE).max(1)
    }

    fn source_hash(&self, source: IpAddr) -> SourceHash {
        let hash = match source {
            IpAddr::V4(address) => self.source_hasher.hash_one(address.octets()),
            IpAddr::V6(address) => self.source_hasher.hash_one(&address.octets()[..8]),
        };
        hash as SourceHash
    }

    fn leave_source(&self, source: SourceHash) {
        if let Entry::Occupied(mut entries) = self.sources.entry(source) {
            *entries.get_mut() -= 1;
            if *entries.get() == 0 {
                entries.remove();
            }
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
                self.changes.note(key);
            }
        }
    }

    /// Forgets this key, whichever connection it belongs to.
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

    /// Forgets expired entries. If the map is still nearly full, also forgets disconnected clients, down to three quarters: those
    /// with assigned ids that expire last, which are those that came last, then those with ids of their own that expire first.
    /// Walks the whole map, one shard at a time, so it must not run on a worker.
    pub fn tidy(&self, now: Instant) {
        self.retain(|placement| !placement.has_expired(now));
        if self.len() <= self.entries_max / 8 * 7 {
            return;
        }
        let (mut assigned, mut own) = (Vec::new(), Vec::new());
        for entry in &self.map {
            let expiries = if entry.is_assigned { &mut assigned } else { &mut own };
            expiries.extend(entry.expires);
        }
        let excess = self.len().saturating_sub(self.entries_max / 4 * 3);
        let going = excess.min(assigned.len());
        let first = nth(&mut assigned, going, |a, b| b.cmp(a));
        let last = nth(&mut own, excess - going, Instant::cmp);
        let before = self.len();
        self.retain(|placement| {
            placement.expires.is_none_or(|at| match placement.is_assigned {
                true => first.is_none_or(|first| at < first),
                false => last.is_none_or(|last| at > last),
            })
        });
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

    /// Entries evicted, or not added, because the map was full, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn remove_if(&self, key: u128, which: impl Fn(&Placement) -> bool) {
        let removed = self.map.remove_if(&key, |_, placement| which(placement));
        if let Some((_, removed)) = removed {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            self.leave_source(removed.source);
            self.changes.note(key);
        }
    }

    fn retain(&self, keep: impl Fn(&Placement) -> bool) {
        self.map.retain(|key, placement| {
            let kept = keep(placement);
            if !kept {
                // The next to take the key waits for the shard.
                self.changes.note(*key);
                self.entries.fetch_sub(1, Ordering::Relaxed);
                // A shard of the map is locked here. Nobody locks one while a shard of the sources is locked.
                self.leave_source(placement.source);
            }
            kept
        });
    }
}

/// The last of the first `count` in this order, or of all if there are fewer; `None` of none.
fn nth(all: &mut [Instant], count: usize, order: impl Fn(&Instant, &Instant) -> cmp::Ordering) -> Option<Instant> {
    let last = count.min(all.len()).checked_sub(1)?;
    let (_, nth, _) = all.select_nth_unstable_by(last, order);
    Some(*nth)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NODE: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    /// A client with an id of its own, from an address that nobody else has.
    fn own(number: u32) -> Claim {
        Claim {
            source: Ipv4Addr::from_bits(number).into(),
            is_assigned: false,
        }
    }

    /// A client with an assigned id, from this address.
    fn assigned(source: u32) -> Claim {
        Claim {
            is_assigned: true,
            ..own(source)
        }
    }

    fn placements(entries_max: usize) -> (Placements, Instant) {
        (Placements::new(entries_max, 24 * HOUR), Instant::now())
    }

    #[test]
    fn a_connected_client_is_remembered_for_as_long_as_it_stays() {
        let (placements, now) = placements(10);
        placements.remember(7, NODE, 1, own(1));
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
            placements.remember(7, NODE, 1, own(1));
            placements.ended(7, 1, keep, now);
            let found = placements.find(7, now + after);
            assert_eq!(found.is_some(), remembered, "{keep:?} {after:?}");
        }
    }

    #[test]
    fn the_end_of_an_older_connection_leaves_a_newer_ones_entry_alone() {
        let (placements, now) = placements(10);
        placements.remember(7, NODE, 1, own(1));
        placements.remember(7, OTHER, 2, own(1));
        placements.ended(7, 1, None, now);
        assert_eq!(placements.find(7, now), Some(OTHER));
        placements.ended(7, 2, None, now);
        assert_eq!(placements.find(7, now), None);
        assert!(placements.is_empty());
    }

    #[test]
    fn a_full_map_takes_nobody_new_until_it_is_tidied() {
        let (placements, now) = placements(8);
        (0..8).for_each(|key| placements.remember(key, NODE, 1, own(key as u32)));
        placements.remember(8, NODE, 1, own(8));
        assert_eq!(placements.find(8, now), None);
        placements.remember(7, OTHER, 2, own(1));
        assert_eq!(placements.find(7, now), Some(OTHER), "an old one may change");
        placements.ended(0, 1, Some(HOUR), now);
        placements.ended(1, 1, Some(HOUR / 2), now);
        placements.ended(2, 1, Some(HOUR / 3), now);
        placements.tidy(now);
        assert_eq!(placements.find(0, now), Some(NODE), "away, but not for longest");
        assert_eq!(placements.find(1, now), None);
        assert_eq!(placements.find(2, now), None);
        placements.remember(8, NODE, 1, own(1));
        assert_eq!(placements.find(8, now), Some(NODE));
        assert_eq!((placements.len(), placements.evicted()), (7, 3));
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<(u128, Placement)>(), 48);
    }

    #[test]
    fn a_removed_nodes_entries_are_forgotten() {
        let (placements, now) = placements(10);
        placements.remember(1, NODE, 1, own(1));
        placements.remember(2, OTHER, 2, own(1));
        placements.forget_node(NODE);
        assert_eq!(placements.find(1, now), None);
        assert_eq!(placements.find(2, now), Some(OTHER));
        assert_eq!(placements.len(), 1);
    }

    #[test]
    fn tidying_forgets_what_has_expired() {
        let (placements, now) = placements(10);
        placements.remember(1, NODE, 1, own(1));
        placements.remember(2, NODE, 2, own(1));
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
                        let key = xxhash_rust::xxh3::xxh3_128(&(thread << 64 | number).to_le_bytes());
                        placements.remember(key, NODE, number as u64, own(key as u32));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert!(placements.map.len() <= 1_000 + 4, "{}", placements.map.len());
        assert_eq!(placements.map.len(), placements.len());
        placements.forget_node(NODE);
        assert!(placements.is_empty() && placements.sources.is_empty());
    }

    #[test]
    fn clients_without_an_id_of_their_own_get_a_share_and_each_of_their_sources_a_part_of_it() {
        let (placements, now) = placements(100);
        (0..50).for_each(|key| placements.remember(key, NODE, 1, assigned(7)));
        assert_eq!(placements.len(), 10, "one source");
        (50..100).for_each(|key| placements.remember(key, NODE, 1, assigned(key as u32)));
        assert_eq!(placements.len(), 50, "all sources");
        assert_eq!(placements.evicted(), 40 + 10);
        (100..150).for_each(|key| placements.remember(key, NODE, 1, own(key as u32)));
        assert_eq!(placements.len(), 100, "the rest is for those with ids of their own");
        assert_eq!(placements.find(149, now), Some(NODE));
        // A client that returns with its assigned id has its entry, and no other claim on the map.
        placements.remember(0, OTHER, 2, own(0));
        assert_eq!(placements.find(0, now), Some(OTHER));
        (0..10).for_each(|key| placements.forget(key));
        placements.remember(150, NODE, 1, assigned(7));
        assert_eq!(placements.find(150, now), None, "more than half full");
    }

    #[test]
    fn once_the_map_is_half_full_a_source_gets_a_tenth_of_it() {
        let (placements, now) = placements(100);
        (0..60).for_each(|key| placements.remember(key, NODE, 1, own(7)));
        assert_eq!(placements.len(), 50, "half of it");
        (100..120).for_each(|key| placements.remember(key, NODE, 1, own(8)));
        assert_eq!(placements.len(), 60, "and a tenth");
        (0..45).for_each(|key| placements.ended(key, 1, None, now));
        placements.remember(200, NODE, 1, own(7));
        assert_eq!(
            placements.find(200, now),
            Some(NODE),
            "those that were forgotten count no more"
        );
    }

    #[test]
    fn networks_of_ipv6_are_one_source() {
        let (placements, _) = placements(10);
        for host in 0..5 {
            let claim = Claim {
                source: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host).into(),
                is_assigned: true,
            };
            placements.remember(u128::from(host), NODE, 1, claim);
        }
        assert_eq!(placements.len(), 1);
    }

    #[test]
    fn where_room_is_made_assigned_ids_go_first_and_the_last_of_them_before_the_others() {
        let (placements, now) = placements(16);
        (0..6).for_each(|key| placements.remember(key, NODE, 1, assigned(key as u32)));
        (6..16).for_each(|key| placements.remember(key, NODE, 1, own(key as u32)));
        // The sessions of those with ids of their own live for less long.
        (6..16).for_each(|key| placements.ended(key, 1, Some(HOUR), now + HOUR * key as u32 / 100));
        (0..6).for_each(|key| placements.ended(key, 1, Some(10 * HOUR), now + HOUR * key as u32 / 100));
        placements.tidy(now);
        let left: Vec<u128> = (0..16).filter(|key| placements.find(*key, now).is_some()).collect();
        assert_eq!(left, [0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        // Then those with ids of their own that expire first.
        (16..20).for_each(|key| placements.remember(key, NODE, 1, own(key as u32)));
        (0..2).for_each(|key| placements.forget(key));
        (20..22).for_each(|key| placements.remember(key, NODE, 1, own(key as u32)));
        placements.tidy(now);
        let left: Vec<u128> = (0..22).filter(|key| placements.find(*key, now).is_some()).collect();
        assert_eq!(left, (10..22).collect::<Vec<u128>>());
    }
}
