//! Memory that is given back to the system when most connections have gone. A leaf.
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
    /// The most connections since memory was last given back.
    high: usize,
}

/// Below this many connections there is nothing worth the walk: some 300 kB.
const HIGH_MIN: usize = 256;

impl Tide {
    /// Gives this thread's freed memory back once fewer than half of the connections are left.
    pub fn at(&mut self, connections: usize) {
        if self.turns(connections)
            && let Some(collect) = COLLECT.get()
        {
            collect();
        }
    }

    fn turns(&mut self, connections: usize) -> bool {
        let turns = self.high >= HIGH_MIN && connections < self.high / 2;
        self.high = if turns {
            connections
        } else {
            self.high.max(connections)
        };
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tide_turns_each_time_half_of_many_have_gone() {
        let mut tide = Tide::default();
        let turned: Vec<bool> = [100, 0, 1_000, 600, 499, 300, 240, 0, 0]
            .map(|connections| tide.turns(connections))
            .to_vec();
        assert_eq!(
            turned,
            [false, false, false, false, true, false, true, false, false]
        );
    }
}
