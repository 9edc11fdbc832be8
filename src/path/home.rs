//! Where a connected client belongs now, by the newest cluster, and whether it would get there if it reconnected.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::{Cluster, EndpointKind, Node, NodeId, NodeState};
use crate::path::affinity::Affinity;
use crate::path::listeners::ListenerEntry;
use crate::path::record::Record;
use crate::path::route::Placements;

/// What decides where connected clients belong, as it was at one moment.
#[derive(Debug)]
pub(crate) struct Homes {
    cluster: Arc<Cluster>,
    listeners: Arc<Vec<Arc<ListenerEntry>>>,
    placements: Arc<Placements>,
    now: Instant,
}

impl Homes {
    /// By this cluster, these listeners, and the placements of `now`.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        listeners: Arc<Vec<Arc<ListenerEntry>>>,
        placements: Arc<Placements>,
        now: Instant,
    ) -> Self {
        Self {
            cluster,
            listeners,
            placements,
            now,
        }
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The ring's first choice for the client now, whatever its state; `None` for one without an affinity key.
    pub(crate) fn home(&self, record: &Record) -> Option<&Node> {
        let ring = self.cluster.ring();
        let hash = match &record.connect {
            Some(connect) => connect.placement.hash().map(|_| connect.ring_hash)?,
            // Its TLS ends at the node, so it is tied by its address.
            None => ring.hash(Affinity::of_address(record.client.ip()).key()),
        };
        self.cluster.nodes().get(ring.choices(hash).next()?)
    }

    /// The listener that a connection was accepted on.
    pub(crate) fn listener(&self, record: &Record) -> Option<&ListenerEntry> {
        let listener = self.listeners.get(usize::from(record.listener.0));
        listener.map(|listener| &**listener)
    }

    /// The endpoint by which a client reaches the node that it is on, and its state; `None` if the node has left the cluster.
    pub(crate) fn endpoint(&self, node: NodeId, record: &Record) -> Option<(EndpointKind, NodeState)> {
        let node = self.cluster.node(node)?;
        let (kind, endpoint) = node.endpoint_for(self.listener(record)?.kind())?;
        Some((kind, node.state_of(endpoint)))
    }

    /// The home of a client on `node`, if that is another node, is up, and would get the client if it reconnected.
    pub(crate) fn awaits(&self, node: NodeId, record: &Record) -> Option<NodeId> {
        let home = self.home(record).filter(|home| home.id != node)?;
        let is_up = |node: &Node| {
            node.state_for(self.listener(record)?.kind())
                .map(|state| state == NodeState::Up)
        };
        let hash = record.connect.as_ref().and_then(|connect| connect.placement.hash());
        let placed = hash.and_then(|hash| self.placements.find(hash, self.now));
        // A placement is followed while its node is up.
        let is_placed = placed
            .and_then(|placed| self.cluster.node(placed))
            .is_some_and(|placed| is_up(placed) == Some(true));
        (is_up(home) == Some(true) && !is_placed).then_some(home.id)
    }
}
