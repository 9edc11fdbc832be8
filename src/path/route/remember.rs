//! Decides what is remembered once a node has accepted a client: only what the ring would not choose again.

use std::net::IpAddr;
use std::sync::Arc;

use super::placement::Claim;
use super::{Placements, route};
use crate::cluster::{Cluster, EndpointKind, NodeId};
use crate::path::record::PlacementKey;

/// A client that a node has just accepted: what placements need of it.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedClient<'a> {
    /// Where a placement of the client is kept, by its CONNECT.
    pub placement: PlacementKey,
    /// The ring's first choice for it.
    pub home: Option<NodeId>,
    /// The node that accepted it.
    pub node: NodeId,
    /// It is there for a reason that may last: another node refused it, or it was placed there before.
    pub is_exception: bool,
    /// The client id that the node assigned, if the client had no affinity key.
    pub assigned: Option<&'a [u8]>,
    /// The number of its connection.
    pub owner: u64,
    /// Its address.
    pub source: IpAddr,
}

/// Remembers the node of a client, or forgets an outdated placement. Returns the key of its placement from now on.
pub fn remember_placement(
    placements: &Placements,
    cluster: &Arc<Cluster>,
    settled: AcceptedClient<'_>,
) -> PlacementKey {
    let AcceptedClient {
        mut placement,
        mut home,
        node,
        mut is_exception,
        assigned,
        owner,
        source,
    } = settled;
    if let Some(assigned) = assigned {
        // The client may reconnect with the id that it was assigned, whose home may be another node.
        placement = PlacementKey::of(assigned);
        home = route(Arc::clone(cluster), EndpointKind::Mqtt, assigned, None)
            .home()
            .map(|node| node.id);
        is_exception = true;
    }
    if let Some(hash) = placement.hash() {
        if is_exception && home != Some(node) {
            let claim = Claim {
                source,
                is_assigned: assigned.is_some(),
            };
            placements.remember(hash, node, owner, claim);
        } else {
            // The session has moved with the client. A placement, even one added since this client was routed, is
            // outdated.
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
    use crate::cluster::{Endpoint, Endpoints, Node, NodeLoad};

    const HOME: NodeId = NodeId(0);
    const OTHER: NodeId = NodeId(1);
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn cluster() -> Arc<Cluster> {
        let node = |id: NodeId, name: &str, weight: u16| Node {
            id,
            name: name.into(),
            endpoints: Endpoints::only(Endpoint::plain(Arc::new(["127.0.0.1:1883"
                .parse()
                .expect("an address")]))),
            weight,
            is_draining: false,
            configured_weight: weight,
            connect_rate: None,
            connections_max: None,
            findings: Arc::default(),
            load: Arc::new(NodeLoad::default()),
        };
        // The other node has no weight and so no point on the ring: all clients have the same home.
        let nodes = vec![node(HOME, "home", 1), node(OTHER, "other", 0)];
        Arc::new(Cluster::new(nodes, Arc::new([]), 1))
    }

    fn settled(node: NodeId, is_exception: bool) -> AcceptedClient<'static> {
        AcceptedClient {
            placement: PlacementKey::of(b"a"),
            home: Some(HOME),
            node,
            is_exception,
            assigned: None,
            owner: 1,
            source: SOURCE,
        }
    }

    #[test]
    fn only_what_the_ring_would_not_give_again_is_remembered() {
        let assigned = |node| AcceptedClient {
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
                    let claim = Claim {
                        source: SOURCE,
                        is_assigned: false,
                    };
                    placements.remember(hash, node, 7, claim);
                }
                assert_eq!(remember_placement(&placements, &cluster(), settled), placement);
                let found = placements.find(hash, Instant::now());
                assert_eq!(found, expected, "{settled:?} after {before:?}");
            }
        }
    }
}
