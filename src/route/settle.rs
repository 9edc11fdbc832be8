//! What is remembered once a node has accepted a client: only what the ring would not say again.

use std::sync::Arc;

use super::{Placements, route};
use crate::cluster::{Cluster, EndpointKind, NodeId};
use crate::record::PlacementKey;

/// A client that a node has just accepted, as far as placements care.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'a> {
    /// Where a placement of the client is kept, by its CONNECT.
    pub placement: PlacementKey,
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
        mut home,
        node,
        mut is_exception,
        assigned,
        owner,
    } = settled;
    if let Some(assigned) = assigned {
        // The client may come back with the id that it was given, which belongs to some other node by the ring.
        placement = PlacementKey::of(assigned);
        home = route(Arc::clone(cluster), EndpointKind::Mqtt, assigned, None)
            .home()
            .map(|node| node.id);
        is_exception = true;
    }
    if let Some(hash) = placement.hash() {
        if is_exception && home != Some(node) {
            placements.remember(hash, node, owner);
        } else {
            // The session has moved with the client. What was remembered, perhaps only since this client was routed, is no
            // longer so.
            placements.forget(hash);
        }
    }
    placement
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::cluster::{Endpoint, Endpoints, Live, Node};

    const HOME: NodeId = NodeId(0);
    const OTHER: NodeId = NodeId(1);

    fn cluster() -> Arc<Cluster> {
        let node = |id: NodeId, name: &str, weight: u16| Node {
            id,
            name: name.into(),
            endpoints: Endpoints::only(Endpoint::plain(Arc::new(["127.0.0.1:1883"
                .parse()
                .expect("an address")]))),
            weight,
            is_draining: false,
            live: Arc::new(Live::default()),
        };
        // The other one has no weight and so no point on the ring: there is one home for everybody.
        let nodes = vec![node(HOME, "home", 1), node(OTHER, "other", 0)];
        Arc::new(Cluster::new(nodes, Arc::new([]), 1))
    }

    fn settled(node: NodeId, is_exception: bool) -> Settled<'static> {
        Settled {
            placement: PlacementKey::of(b"a"),
            home: Some(HOME),
            node,
            is_exception,
            assigned: None,
            owner: 1,
        }
    }

    #[test]
    fn only_what_the_ring_would_not_say_again_is_remembered() {
        let assigned = |node| Settled {
            placement: PlacementKey::of(b""),
            assigned: Some(b"a"),
            home: None,
            ..settled(node, false)
        };
        let cases = [
            (settled(HOME, false), None),
            (settled(HOME, true), None),
            (settled(OTHER, true), Some(OTHER)),
            // Away: home will be back.
            (settled(OTHER, false), None),
            (assigned(OTHER), Some(OTHER)),
            (assigned(HOME), None),
        ];
        for (settled, expected) in cases {
            // Also where another connection of the client was placed since this one was routed.
            for before in [None, Some(HOME), Some(OTHER)] {
                let placements = Placements::new(10, Duration::from_secs(60));
                let placement = PlacementKey::of(b"a");
                let hash = placement.hash().expect("a key");
                if let Some(node) = before {
                    placements.remember(hash, node, 7);
                }
                assert_eq!(settle(&placements, &cluster(), settled), placement);
                let found = placements.find(hash, Instant::now());
                assert_eq!(found, expected, "{settled:?} after {before:?}");
            }
        }
    }
}
