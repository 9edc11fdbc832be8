//! How often each of very many keys comes: token buckets in a table of fixed size, without locks.
//!
//! A key that comes is one cell: a fingerprint, and the time at which its bucket is full again. A cell whose bucket is full may be
//! taken by another key. One whose bucket is not stays, and where all cells of its set are like that, a new key is not counted at all:
//! so millions of keys neither grow the table nor push out those that come too often, and no key is ever taken for another one at
//! will, since the hash is keyed at random.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::OnceLock;
use std::time::Duration;

use crate::base::sync::{AtomicU64, Ordering};

/// Cells of a set, where a key may be: one line of a processor's cache.
const SET: usize = 8;

/// Sets of a table; the table takes half a MiB, once a key has come.
const SETS: usize = 8 * 1024;

/// What is counted in a cell: tenths of a millisecond since the start of the process, for seven years.
const TICKS_PER_SECOND: u64 = 10_000;
const TIME_BITS: u32 = 41;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// How often a key may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// So many times, all of them at once if need be,
    pub times: u32,
    /// in this time.
    pub within: Duration,
    /// How much too early a key may come and still be counted. A time that is earlier changes nothing, so that a key which does not stop
    /// to come may come as often as all others.
    pub early_max: Duration,
}

/// The keys that came lately.
#[derive(Debug, Default)]
pub struct RateTable {
    cells: OnceLock<Box<[AtomicU64]>>,
    hasher: RandomState,
}

impl RateTable {
    /// Counts that `key` came `now`, which is a time since the start of the process. Returns how much too early that is; zero if it
    /// may come as often, or if there is no cell for it.
    pub fn come(&self, key: impl Hash, allowed: Allowed, now: Duration) -> Duration {
        let hash = self.hasher.hash_one(key);
        let cells = self
            .cells
            .get_or_init(|| (0..SETS * SET).map(|_| AtomicU64::default()).collect());
        let set = (hash as usize % SETS) * SET;
        let set = &cells[set..set + SET];
        let fingerprint = hash & !TIME;
        let now = ticks(now) & TIME;
        let own = |cell: &&AtomicU64| {
            let value = cell.load(Ordering::Relaxed);
            value & !TIME == fingerprint && value & TIME > now
        };
        let is_free = |cell: &&AtomicU64| cell.load(Ordering::Relaxed) & TIME <= now;
        let Some(cell) = set.iter().find(own).or_else(|| set.iter().find(is_free)) else {
            return Duration::ZERO;
        };
        let burst = ticks(allowed.within);
        let interval = (burst / u64::from(allowed.times.max(1))).max(1);
        let before = cell.load(Ordering::Relaxed);
        // A cell that another key has taken meanwhile is left to it.
        if before & TIME > now && before & !TIME != fingerprint {
            return Duration::ZERO;
        }
        let full_at = (before & TIME).max(now) + interval;
        let early = full_at.saturating_sub(now + burst);
        if early <= ticks(allowed.early_max) {
            let after = fingerprint | (full_at & TIME);
            // Of two that come at the same moment, one may not be counted.
            let _ = cell.compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed);
        }
        Duration::from_micros(early * (1_000_000 / TICKS_PER_SECOND))
    }
}

fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(TIME) / (1_000_000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_A_MINUTE: Allowed = Allowed {
        times: 10,
        within: Duration::from_secs(60),
        early_max: Duration::from_secs(5),
    };

    const ZERO: Duration = Duration::ZERO;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_that_comes_too_often_is_early_up_to_a_bound_and_recovers() {
        let table = RateTable::default();
        let come = |at| table.come("looping", TEN_A_MINUTE, seconds(at));
        for _ in 0..10 {
            assert_eq!(come(100), ZERO);
        }
        assert_eq!(come(100), seconds(6));
        assert_eq!(come(101), seconds(5), "it was too early to be counted");
        assert_eq!(come(102), seconds(10));
        assert_eq!(come(103), seconds(9));
        assert_eq!(table.come("another", TEN_A_MINUTE, seconds(102)), ZERO);
        assert_eq!(come(102 + 65), ZERO, "it has rested");
        // As often as it may, it may for ever.
        for minute in 10..100 {
            for time in 0..10 {
                assert_eq!(come(minute * 60 + time * 6), ZERO);
            }
        }
    }

    #[test]
    fn half_a_million_keys_push_out_nobody_who_comes_too_often_and_slow_down_nobody_else() {
        let table = RateTable::default();
        let now = seconds(1_000);
        let looping: Vec<u32> = (0..100).collect();
        for key in &looping {
            (0..10).for_each(|_| assert_eq!(table.come(("looping", key), TEN_A_MINUTE, now), ZERO));
        }
        let mut slowed = 0;
        for key in 0..500_000_u32 {
            slowed += usize::from(table.come(("once", key), TEN_A_MINUTE, now) > ZERO);
        }
        // One of eight million is taken for another one in its set.
        assert!(slowed <= 40, "{slowed}");
        for key in &looping {
            assert!(
                table.come(("looping", key), TEN_A_MINUTE, now) > ZERO,
                "{key} was pushed out"
            );
        }
        let cells = table.cells.get().expect("cells").len();
        assert_eq!(cells * size_of::<u64>(), 512 * 1024);
    }
}
