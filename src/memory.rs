//! Memory that is given back to the system when most connections have gone, and once many have come. A leaf.
//!
//! An allocator keeps what was freed for the next one who asks, and a worker at rest asks for nothing. Which allocator it is
//! the program knows, so the program says how to tell it.

use std::sync::OnceLock;

static COLLECT: OnceLock<fn()> = OnceLock::new();

/// Says how this thread's freed memory is given back. The first one who says so counts.
pub fn collect_with(collect: fn()) {
    // The second start in one process has the same allocator.
    let _ = COLLECT.set(collect);
}

/// When a worker's memory is worth giving back: it takes a walk over all of it.
#[derive(Debug, Default)]
pub struct Tide {
    /// Connections when memory was last given back.
    settled: usize,
    /// The most connections since then.
    high: usize,
    /// Connections a second ago.
    before: usize,
}

/// Below this many connections there is nothing worth the walk: some 300 kB.
const HIGH_MIN: usize = 256;

impl Tide {
    /// Gives this thread's freed memory back once fewer than half of the connections are left, and once many have come and no
    /// more do: what their set-up took is not needed by those who stay. To be called once a second.
    pub fn at(&mut self, connections: usize) {
        if self.turns(connections)
            && let Some(collect) = COLLECT.get()
        {
            collect();
        }
    }

    fn turns(&mut self, connections: usize) -> bool {
        let ebbs = self.high >= HIGH_MIN && connections < self.high / 2;
        let has_risen = connections >= HIGH_MIN && connections > self.settled + self.settled / 4;
        let stands = connections <= self.before + self.before / 64;
        self.before = connections;
        let turns = ebbs || (has_risen && stands);
        self.high = self.high.max(connections);
        if turns {
            (self.high, self.settled) = (connections, connections);
        }
        turns
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
        // Nothing stands, so that only the ebb counts.
        let mut tide = Tide {
            settled: 1_000,
            ..Tide::default()
        };
        for (connections, turns) in expected {
            assert_eq!(tide.turns(connections), turns, "{connections}");
        }
    }

    #[test]
    fn the_tide_turns_once_when_many_have_come_and_no_more_do() {
        let mut tide = Tide::default();
        for (connections, turns) in [
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
            assert_eq!(tide.turns(connections), turns, "{connections}");
        }
    }
}
