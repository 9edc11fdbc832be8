//! The consistent-hash ring: which node a key belongs to, and which ones come next. Pure and frozen: a golden table under
//! `tests/` holds it, since changing it moves people's clients.

/// Points of a node of weight 100 on the ring; others in proportion.
pub const POINTS_PER_DEFAULT_WEIGHT: usize = 12_288;

/// A ring over named, weighted nodes.
#[derive(Debug)]
pub struct Ring {
    nodes: usize,
}

impl Ring {
    /// The ring of `members` (name, weight); indices given out by [`Ring::choices`] are positions in this slice.
    pub fn build(_seed: u64, members: &[(&str, u16)]) -> Self {
        Self {
            nodes: members.len(),
        }
    }

    /// Where `key` stands on the ring.
    pub fn hash(&self, _key: &[u8]) -> u64 {
        0
    }

    /// The nodes in the order in which the key at `hash` prefers them, each once. Does not allocate.
    pub fn choices(&self, _hash: u64) -> Choices<'_> {
        Choices {
            ring: self,
            next: 0,
        }
    }

    /// The share of the hash space that belongs to each member, by position; sums to 1.
    pub fn shares(&self) -> Vec<f64> {
        vec![1.0 / self.nodes as f64; self.nodes]
    }
}

/// Nodes in the order of a key's preference.
#[derive(Debug)]
pub struct Choices<'a> {
    ring: &'a Ring,
    next: usize,
}

impl Iterator for Choices<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let choice = self.next;
        self.next += 1;
        (choice < self.ring.nodes).then_some(choice)
    }
}
