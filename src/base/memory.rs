//! Returns freed memory to the system after most connections have ended, and after many have been set up. A leaf.
//!
//! An allocator keeps freed memory for later allocations, but an idle worker makes none. Only the program knows its allocator, so
//! the program provides the function that returns the memory.

use std::sync::OnceLock;

static COLLECT: OnceLock<fn()> = OnceLock::new();

/// Sets the function that returns the calling thread's freed memory to the system. Only the first call has an effect.
pub fn collect_with(collect: fn()) {
    // A second start in the same process has the same allocator.
    let _ = COLLECT.set(collect);
}

/// Decides when returning a worker's memory is worth the cost: the allocator walks over all of it.
#[derive(Debug, Default)]
pub(crate) struct MemoryTrim {
    /// Connections when memory was last returned.
    settled: usize,
    /// The most connections since then.
    high: usize,
    /// Connections a second ago.
    before: usize,
}

/// Below this many connections, returning memory is not worth the cost: it is some 300 kB.
const HIGH_MIN: usize = 256;

impl MemoryTrim {
    /// Returns this thread's freed memory when fewer than half of the connections are left, and when a rise in connections has
    /// ended: the memory that their set-up took is no longer needed. To be called once a second.
    pub(crate) fn at(&mut self, connections: usize) {
        if self.is_due(connections)
            && let Some(collect) = COLLECT.get()
        {
            collect();
        }
    }

    fn is_due(&mut self, connections: usize) -> bool {
        let has_fallen = self.high >= HIGH_MIN && connections < self.high / 2;
        let has_risen = connections >= HIGH_MIN && connections > self.settled + self.settled / 4;
        let is_steady = connections <= self.before + self.before / 64;
        self.before = connections;
        let is_due = has_fallen || (has_risen && is_steady);
        self.high = self.high.max(connections);
        if is_due {
            (self.high, self.settled) = (connections, connections);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tide_turns_each_time_half_of_many_have_gone() {
        let expected = [
            (100, false),
            (0, false),
            (1_000, false),
            (600, false),
            (499, true),
            (300, false),
            (240, true),
            (0, false),
            (0, false),
        ];
        // So many that no rise counts, only the fall.
        let mut trim = MemoryTrim {
            settled: 1_000,
            ..MemoryTrim::default()
        };
        for (connections, is_due) in expected {
            assert_eq!(trim.is_due(connections), is_due, "{connections}");
        }
    }

    #[test]
    fn the_tide_turns_once_when_many_have_come_and_no_more_do() {
        let mut trim = MemoryTrim::default();
        for (connections, is_due) in [
            (200, false),
            (200, false),
            (4_000, false),
            (8_000, false),
            (8_100, true),
            (8_200, false),
            (9_000, false),
            (9_000, false),
            (11_000, false),
            (11_000, true),
            (11_000, false),
        ] {
            assert_eq!(trim.is_due(connections), is_due, "{connections}");
        }
    }
}
