//! Finds the rows of a client by its id: a table of hashes and places, nine bytes for each that is in use. The facts stay in the rows.

use hashbrown::HashTable;

/// Places that the table keeps room for, however few are in use.
const KEPT_MIN: usize = 64;

/// The table shrinks once less than one in so many of its places are in use.
const SHRINK_AT: usize = 8;

/// The rows whose clients have an id, by the hash of the id. Two clients with one id are two entries.
#[derive(Debug, Default)]
pub(crate) struct Index(HashTable<Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Kept, so that the table grows without a look at any row.
    hash: u32,
    row: u32,
}

impl Entry {
    fn spread(&self) -> u64 {
        spread(self.hash)
    }
}

/// The table takes the place from the low bits of a hash and a tag from the high ones, so 32 bits are spread over 64.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Index {
    /// Adds the row of a client whose id has this hash.
    pub(crate) fn insert(&mut self, hash: u32, row: u32) {
        self.0.insert_unique(spread(hash), Entry { hash, row }, Entry::spread);
    }

    /// Removes the row of a client whose id has this hash.
    pub(crate) fn remove(&mut self, hash: u32, row: u32) {
        if let Ok(entry) = self.0.find_entry(spread(hash), |entry| entry.row == row) {
            entry.remove();
        }
        if self.0.capacity() > KEPT_MIN && self.0.len() < self.0.capacity() / SHRINK_AT {
            self.0.shrink_to(self.0.len() * 2, Entry::spread);
        }
    }

    /// The rows of clients whose ids have this hash. Their ids may still differ.
    pub(crate) fn find(&self, hash: u32) -> impl Iterator<Item = u32> {
        let entries = self.0.iter_hash(spread(hash));
        entries.filter(move |entry| entry.hash == hash).map(|entry| entry.row)
    }

    /// Every row in the table, with the hash of its client's id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().map(|entry| (entry.hash, entry.row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(index: &Index, hash: u32) -> Vec<u32> {
        let mut found: Vec<u32> = index.find(hash).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn rows_are_found_by_hash_and_only_the_one_that_is_removed_goes() {
        let mut index = Index::default();
        (0..1_000).for_each(|row| index.insert(row / 2, row));
        assert_eq!(found(&index, 7), [14, 15], "two clients with one id");
        assert!(found(&index, 500).is_empty());
        index.remove(7, 14);
        index.remove(7, 14);
        index.remove(8, 15);
        assert_eq!(found(&index, 7), [15]);
        assert_eq!(index.iter().count(), 999);
    }

    #[test]
    fn a_connection_takes_no_more_than_this_and_gives_it_back() {
        let mut index = Index::default();
        let mut random = fastrand::Rng::with_seed(7);
        let hashes: Vec<u32> = (0..100_000).map(|_| random.u32(..)).collect();
        let mut most = 0.0_f64;
        for (row, hash) in (0..).zip(&hashes) {
            index.insert(*hash, row);
            if row >= 1_000 {
                most = most.max(index.0.allocation_size() as f64 / f64::from(row + 1));
            }
        }
        // Just grown: half as full as it gets.
        assert!(most < 21.0, "{most} bytes");
        for (row, hash) in (0..).zip(&hashes) {
            index.remove(*hash, row);
        }
        assert!(index.0.allocation_size() < 4_096, "{}", index.0.allocation_size());
    }
}
