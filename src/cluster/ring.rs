//! The consistent-hash ring: which node a key belongs to, and which ones come next. Pure and frozen: a golden table under
//! `tests/golden/` holds it, since changing it moves people's clients.
//!
//! Every node has a number of points in proportion to its weight. Point `i` of a node stands at
//! `XXH3-64(name ++ 0x00 ++ i as four bytes, little endian; seed)`, a key at `XXH3-64(key; seed)`; the key belongs to the
//! node of the first point at or behind it, and behind the last point the ring begins again (Karger et al., 1997).

use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The most nodes in one cluster: what the sets that walk the ring have room for.
pub(crate) const NODES_MAX: usize = 1024;

/// The weight of a node without a configured one; a node of weight 200 gets twice its share.
pub const WEIGHT_DEFAULT: u16 = 100;

/// The least weight of a node.
pub(crate) const WEIGHT_MIN: u16 = 1;

/// The greatest weight of a node.
pub(crate) const WEIGHT_MAX: u16 = 1_000;

/// The most that all weights may add up to: the most nodes, each of the default weight. A ring of more would take
/// seconds and hundreds of megabytes to build.
pub(crate) const WEIGHTS_MAX: usize = NODES_MAX * WEIGHT_DEFAULT as usize;

/// The seed of the ring if none is configured. A constant, so that all balancers without a seed agree.
pub const SEED_DEFAULT: u64 = 0x5245_4d4f_5241;

/// Points of a node of weight 100 on the ring; others in proportion. This many keep the busiest of 20 equal nodes
/// within 3 % of the mean.
const POINTS_PER_DEFAULT_WEIGHT: u32 = 12_288;

/// Points that share a bucket, on average: few enough to walk, many enough to keep the index small.
const POINTS_PER_BUCKET: usize = 4;

/// A ring over named, weighted nodes.
#[derive(Debug)]
pub struct Ring {
    seed: u64,
    nodes: usize,
    /// The positions of the points, sorted.
    hashes: Box<[u64]>,
    /// The owner of each point, as an index into the members that the ring was built from.
    owners: Box<[u16]>,
    /// The first point of each bucket, by the top bits of a hash.
    buckets: Box<[u32]>,
    /// How far a hash is shifted to give its bucket.
    bucket_shift: u32,
    /// The shares, once they were asked for.
    shares: OnceLock<Box<[f64]>>,
}

impl Ring {
    /// The ring of `members` (name, weight); indices returned by [`Ring::choices`] are positions in this slice, of
    /// which there are [`NODES_MAX`] at most.
    pub fn build(seed: u64, members: &[(&str, u16)]) -> Self {
        debug_assert!(members.len() <= NODES_MAX, "the configuration ensures it");
        let mut points = Vec::new();
        for ((name, weight), owner) in members.iter().zip(0u16..) {
            let count = u32::from(*weight) * POINTS_PER_DEFAULT_WEIGHT / u32::from(WEIGHT_DEFAULT);
            points.extend(point_hashes(seed, name, count).map(|hash| (hash, owner)));
        }
        // Two points in one place belong to the name that comes first, whatever the order of the members.
        points.sort_unstable_by(|(a, a_owner), (b, b_owner)| {
            let name = |owner: u16| members[usize::from(owner)].0;
            a.cmp(b).then_with(|| name(*a_owner).cmp(name(*b_owner)))
        });
        let buckets = (points.len() / POINTS_PER_BUCKET).next_power_of_two().max(2);
        let mut ring = Self {
            seed,
            nodes: members.len(),
            hashes: points.iter().map(|(hash, _)| *hash).collect(),
            owners: points.iter().map(|(_, owner)| *owner).collect(),
            buckets: Box::default(),
            bucket_shift: u64::BITS - buckets.trailing_zeros(),
            shares: OnceLock::new(),
        };
        ring.buckets = (0..buckets as u64)
            .map(|bucket| {
                let start = bucket << ring.bucket_shift;
                ring.hashes.partition_point(|hash| *hash < start) as u32
            })
            .collect();
        ring
    }

    /// The position of `key` on the ring.
    pub fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    /// The nodes in the order in which the key at `hash` prefers them, each once. Does not allocate.
    pub fn choices(&self, hash: u64) -> Choices<'_> {
        Choices {
            ring: self,
            point: self.first_point(hash),
            yielded: [0; NODES_MAX / 64],
            left: self.nodes,
        }
    }

    /// The share of the hash space that belongs to each member, by position; sums to 1.
    pub fn shares(&self) -> Vec<f64> {
        let mut arcs = vec![0u128; self.nodes];
        let mut before = self.hashes.last().copied().unwrap_or_default();
        for (hash, owner) in self.hashes.iter().zip(&self.owners) {
            arcs[usize::from(*owner)] += u128::from(hash.wrapping_sub(before));
            before = *hash;
        }
        arcs.iter()
            .map(|arc| *arc as f64 / (u128::from(u64::MAX) + 1) as f64)
            .collect()
    }

    /// The same, computed at the first call: it walks all points.
    pub(crate) fn known_shares(&self) -> &[f64] {
        self.shares.get_or_init(|| self.shares().into())
    }

    /// The first point at or behind `hash`, going round.
    fn first_point(&self, hash: u64) -> usize {
        let Some(start) = self.buckets.get((hash >> self.bucket_shift) as usize) else {
            return 0;
        };
        let start = *start as usize;
        let behind = self.hashes[start..].iter().position(|point| *point >= hash);
        behind.map_or(0, |steps| start + steps)
    }
}

/// The positions of a node's points.
fn point_hashes(seed: u64, name: &str, count: u32) -> impl Iterator<Item = u64> {
    let mut input = Vec::with_capacity(name.len() + 5);
    input.extend_from_slice(name.as_bytes());
    input.extend_from_slice(&[0; 5]);
    let index_at = name.len() + 1;
    (0..count).map(move |index| {
        input[index_at..].copy_from_slice(&index.to_le_bytes());
        xxh3_64_with_seed(&input, seed)
    })
}

/// Nodes in the order of a key's preference.
#[derive(Debug)]
pub struct Choices<'a> {
    ring: &'a Ring,
    point: usize,
    /// A bit for each node that was yielded.
    yielded: [u64; NODES_MAX / 64],
    left: usize,
}

impl Iterator for Choices<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        // A node of any weight has points, so that every node is found before the ring has been walked round.
        for _ in 0..self.ring.owners.len() {
            let owner = usize::from(self.ring.owners[self.point]);
            self.point = (self.point + 1) % self.ring.owners.len();
            let (word, bit) = (owner / 64, 1 << (owner % 64));
            if self.yielded[word] & bit == 0 {
                self.yielded[word] |= bit;
                self.left -= 1;
                return Some(owner);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets of names as operators choose them.
    fn name_sets() -> Vec<fn(usize) -> String> {
        vec![
            |i| format!("emqx{i}"),
            |i| format!("emqx-{i}"),
            |i| format!("node{:02}", i + 1),
            |i| format!("emqx@10.0.0.{}", i + 11),
            |i| format!("emqx@node{i}.cluster.local"),
            |i| format!("emqx-core-{i}.emqx-headless.mqtt.svc.cluster.local"),
            |i| format!("{}", (b'a' + i as u8) as char),
            |i| format!("broker-eu-west-1{}", (b'a' + i as u8) as char),
            |i| format!("10.20.30.{}:1883", i + 1),
            |i| format!("mqtt{}", i * 7),
        ]
    }

    fn equal_ring(name: fn(usize) -> String, nodes: usize) -> (Vec<String>, Ring) {
        let names: Vec<String> = (0..nodes).map(name).collect();
        let members: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 100)).collect();
        let ring = Ring::build(SEED_DEFAULT, &members);
        (names, ring)
    }

    fn key(number: usize) -> Vec<u8> {
        format!("device-{number:05}").into_bytes()
    }

    fn home(ring: &Ring, number: usize) -> usize {
        let hash = ring.hash(&key(number));
        ring.choices(hash).next().expect("a node")
    }

    #[test]
    fn equal_nodes_have_equal_shares() {
        let mut sets = 0;
        for name in name_sets() {
            for nodes in [3, 5, 10, 20] {
                let (_, ring) = equal_ring(name, nodes);
                let shares = ring.shares();
                assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                let busiest = shares.iter().copied().fold(0.0, f64::max) * nodes as f64;
                assert!(busiest <= 1.03, "{} of {nodes}: {busiest}", name(0));
                sets += 1;
            }
        }
        assert!(sets >= 30, "only {sets} sets of names");
    }

    #[test]
    fn a_weight_is_a_share() {
        for name in name_sets() {
            let weights: [u16; 6] = [1, 10, 50, 100, 200, 1000];
            let names: Vec<String> = (0..weights.len()).map(name).collect();
            let members: Vec<(&str, u16)> = names.iter().map(String::as_str).zip(weights).collect();
            let ring = Ring::build(SEED_DEFAULT, &members);
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for (share, weight) in ring.shares().into_iter().zip(weights) {
                let ratio = share / (f64::from(weight) / total);
                let tolerance = 0.03 * (100.0 / f64::from(weight)).sqrt();
                assert!((ratio - 1.0).abs() <= tolerance, "{weight}: {ratio}");
            }
        }
    }

    #[test]
    fn a_node_added_takes_its_share_and_moves_nobody_else() {
        for nodes in [3, 5, 10, 19] {
            let (_, before) = equal_ring(|i| format!("emqx{i}"), nodes);
            let (_, after) = equal_ring(|i| format!("emqx{i}"), nodes + 1);
            for number in 0..10_000 {
                let (was, is) = (home(&before, number), home(&after, number));
                assert!(is == was || is == nodes, "moved between old nodes");
            }
            let taken = after.shares()[nodes];
            assert!(taken <= 1.03 / (nodes + 1) as f64, "{taken} of {nodes}");
        }
    }

    #[test]
    fn losing_a_node_moves_only_its_own_clients_each_to_its_next_choice() {
        let (names, all) = equal_ring(|i| format!("emqx{i}"), 5);
        let left: Vec<(&str, u16)> = names[..4].iter().map(|name| (name.as_str(), 100)).collect();
        let without_last = Ring::build(SEED_DEFAULT, &left);
        for number in 0..10_000 {
            let hash = all.hash(&key(number));
            let expected = all.choices(hash).find(|place| *place != 4);
            assert_eq!(Some(home(&without_last, number)), expected);
        }
    }

    #[test]
    fn the_order_of_the_list_is_irrelevant() {
        let (names, forwards) = equal_ring(|i| format!("emqx{i}"), 7);
        let members: Vec<(&str, u16)> = names.iter().rev().map(|name| (name.as_str(), 100)).collect();
        let backwards = Ring::build(SEED_DEFAULT, &members);
        for number in 0..1_000 {
            let hash = forwards.hash(&key(number));
            let one: Vec<_> = forwards.choices(hash).collect();
            let other: Vec<_> = backwards.choices(hash).map(|place| 6 - place).collect();
            assert_eq!(one, other);
        }
    }

    #[test]
    fn choices_give_every_node_once() {
        let members: Vec<(String, u16)> = (0..NODES_MAX).map(|i| (format!("n{i}"), 1)).collect();
        let members: Vec<(&str, u16)> = members.iter().map(|(n, w)| (n.as_str(), *w)).collect();
        let ring = Ring::build(1, &members);
        let mut seen: Vec<_> = ring.choices(ring.hash(b"x")).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..NODES_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_point_is_found_from_every_place() {
        let (_, ring) = equal_ring(|i| format!("emqx{i}"), 3);
        let last = *ring.hashes.last().expect("points");
        for hash in [0, 1, last, u64::MAX, last.wrapping_add(1), 1 << 63] {
            let expected = ring.hashes.iter().position(|point| *point >= hash);
            assert_eq!(ring.first_point(hash), expected.unwrap_or(0));
        }
    }

    #[test]
    fn an_empty_ring_has_no_choice() {
        let ring = Ring::build(1, &[]);
        assert_eq!(ring.choices(ring.hash(b"x")).next(), None);
    }
}
