//! What is remembered once a node has accepted a client: only what the ring would not say again.

use std::sync::Arc;

use super::{Placements, route};
use crate::cluster::{Cluster, NodeId};
use crate::record::PlacementKey;

/// A client that a node has just accepted, as far as placements care.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'a> {
    /// Where a placement of the client is kept, by its CONNECT.
    pub placement: PlacementKey,
    /// The node that was remembered for it when it was routed.
    pub placed: Option<NodeId>,
    /// The ring's first choice for it.
    pub home: Option<NodeId>,
    /// The node that accepted it.
    pub node: NodeId,
    /// It sits there for a reason that may last: another node refused it, or it was placed there before.
    pub is_exception: bool,
    /// The client id that the node gave it, where it came without an affinity key.
    pub assigned: Option<&'a [u8]>,
    /// The number of its connection.
    pub owner: u64,
}

/// Remembers where a client sits, or forgets what is no longer so; says where a placement of it is kept from now on.
pub fn settle(
    placements: &Placements,
    cluster: &Arc<Cluster>,
    settled: Settled<'_>,
) -> PlacementKey {
    let Settled {
        mut placement,
        placed,
        mut home,
        node,
        mut is_exception,
        assigned,
        owner,
    } = settled;
    if let Some(assigned) = assigned {
        // The client may come back with the id that it was given, which belongs to some other node by the ring.
        placement = PlacementKey::of(assigned);
        home = route(Arc::clone(cluster), assigned, None)
            .home()
            .map(|node| node.id);
        is_exception = true;
    }
    if let Some(hash) = placement.hash() {
        if is_exception && home != Some(node) {
            placements.remember(hash, node, owner);
        } else if placed.is_some() {
            // The session has moved with the client: what was remembered is no longer so.
            placements.forget(hash);
        }
    }
    placement
}
