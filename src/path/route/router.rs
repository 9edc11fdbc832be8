//! Routes the clients of one worker, by the newest cluster and the remembered placements.

use std::sync::Arc;

use tokio::time::Instant;

use super::{AcceptedClient, Placements, Route, remember_placement, route, route_anonymous};
use crate::cluster::{Clusters, EndpointKind};
use crate::path::affinity::Affinity;
use crate::path::record::{Connected, PlacementKey};

/// Finds the routes of clients, and remembers those that a node other than their home accepted.
#[derive(Debug)]
pub(crate) struct Router {
    clusters: Arc<Clusters>,
    placements: Arc<Placements>,
    /// The most that a node has of its share of all connections, in percent.
    load_max: Option<u32>,
}

impl Router {
    /// A router that reads the newest of `clusters`, and `placements`.
    /// `load_max` is the most that a node has of its share of all connections, in percent.
    pub(crate) fn new(clusters: Arc<Clusters>, placements: Arc<Placements>, load_max: Option<u32>) -> Self {
        Self {
            clusters,
            placements,
            load_max,
        }
    }

    /// The nodes that a client with this affinity may go to, by their endpoints of this kind. The node remembered under
    /// `placement` comes first.
    pub(crate) fn route(&self, kind: EndpointKind, affinity: &Affinity<'_>, placement: PlacementKey) -> Route {
        let cluster = self.clusters.current();
        if affinity.is_anonymous() {
            let draws = [fastrand::u64(..), fastrand::u64(..)];
            return route_anonymous(cluster, kind, draws).bounded(self.load_max);
        }
        let placed = placement
            .hash()
            .and_then(|hash| self.placements.find(hash, Instant::now()));
        route(cluster, kind, affinity.key(), placed).bounded(self.load_max)
    }

    /// Where an affinity key is on the ring.
    pub(crate) fn ring_hash(&self, affinity_key: &[u8]) -> u64 {
        self.clusters.current().ring().hash(affinity_key)
    }

    /// Remembers the node that has accepted a client, if the ring would not choose it. Returns the key of the
    /// placement.
    pub(crate) fn remember(&self, client: AcceptedClient<'_>) -> PlacementKey {
        remember_placement(&self.placements, &self.clusters.current(), client)
    }

    /// Keeps the placement of a client for as long as its session outlives its connection `owner`, which has ended.
    pub(crate) fn ended(&self, connect: &Connected, owner: u64) {
        if let Some(hash) = connect.placement.hash() {
            self.placements
                .ended(hash, owner, connect.session_expiry.duration(), Instant::now());
        }
    }
}
