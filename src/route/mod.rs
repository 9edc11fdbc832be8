//! Decides which nodes a client may go to, in which order, and why: pure over connect, cluster, loads and placement.

use std::time::Duration;

use crate::cluster;

/// What ties a client to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The client id of the CONNECT.
    #[default]
    ClientId,
    /// The user name; clients without one are routed by client id.
    Username,
    /// The client's IP address.
    ClientAddress,
}

/// Which node a client belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// What ties a client to a node.
    pub key: Key,
    /// Seed of the ring; the same in every balancer of a site. Changing it moves every client once.
    pub seed: u64,
    /// Placements remembered at most.
    pub placements_max: usize,
    /// A placement of a client that is away is forgotten after this long, even if its session lives longer.
    pub placement_age_max: Duration,
}

impl Default for Affinity {
    fn default() -> Self {
        Self {
            key: Key::default(),
            seed: cluster::SEED_DEFAULT,
            placements_max: 100_000,
            placement_age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}
