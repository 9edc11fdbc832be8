//! A snapshot of the cluster, and where the newest one is published.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::clock::Seconds;
use crate::base::sync::Ordering;
use crate::cluster::endpoint::EndpointKind;
use crate::cluster::node::{KnownNode, Node, NodeId, NodeState};
use crate::cluster::ring::Ring;

/// Nodes, their states and the ring: one value, so that they agree.
#[derive(Clone, Debug)]
pub struct Cluster {
    nodes: Arc<[Node]>,
    ring: Arc<Ring>,
    known: Arc<[KnownNode]>,
}

impl Cluster {
    /// A snapshot of `nodes` with a ring built for their names and weights, and every node ever `known` by id.
    ///
    /// The order of `nodes` does not matter: they are sorted by name. Building the ring takes milliseconds and does not
    /// belong on a worker.
    pub fn new(mut nodes: Vec<Node>, known: Arc<[KnownNode]>, seed: u64) -> Self {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let members: Vec<(&str, u16)> = nodes.iter().map(|n| (&*n.name, n.weight)).collect();
        let ring = Arc::new(Ring::build(seed, &members));
        Self::on_ring(ring, nodes, known)
    }

    /// A snapshot of `nodes`, which are sorted by name, on the `ring` that was built for their names and weights.
    pub(crate) fn on_ring(ring: Arc<Ring>, nodes: Vec<Node>, known: Arc<[KnownNode]>) -> Self {
        debug_assert!(nodes.is_sorted_by(|a, b| a.name < b.name), "in the order of the ring");
        Self {
            nodes: nodes.into(),
            ring,
            known,
        }
    }

    /// The nodes that can take clients of `kind` now.
    pub fn up(&self, kind: EndpointKind) -> impl Iterator<Item = &Node> {
        let is_up = move |node: &&Node| node.state_for(kind) == Some(NodeState::Up);
        self.nodes.iter().filter(is_up)
    }

    /// The endpoints that are down while another node takes their clients. Where no node does, closing their connections would help
    /// no client.
    pub fn to_close(&self) -> Vec<(NodeId, EndpointKind)> {
        let endpoints = self.nodes.iter().flat_map(|node| {
            let endpoints = node.endpoints.iter();
            endpoints.map(move |(kind, endpoint)| (node.id, kind, endpoint))
        });
        let down = endpoints.filter(|(_, kind, endpoint)| endpoint.is_down && self.up(*kind).next().is_some());
        down.map(|(node, kind, _)| (node, kind)).collect()
    }

    /// The nodes that can take clients of `kind` now and have answered.
    pub(crate) fn answering(&self, kind: EndpointKind) -> impl Iterator<Item = &Node> {
        let answers = move |node: &&Node| {
            node.endpoint_for(kind)
                .is_some_and(|(_, endpoint)| endpoint.is_answering())
        };
        self.up(kind).filter(answers)
    }

    /// Whether another node than `but` that can take clients of `kind` now has answered CONNECTs within `most` lately.
    pub(crate) fn has_faster(&self, kind: EndpointKind, but: NodeId, most: Duration, now: Seconds) -> bool {
        let is_fast = |node: &Node| {
            let endpoint = node.endpoint_for(kind);
            endpoint.is_some_and(|(_, endpoint)| endpoint.passive.pace.is_within(most, now))
        };
        self.up(kind).any(|node| node.id != but && is_fast(node))
    }

    /// The same nodes on the same ring, each passed through `change` (states, addresses; never name or weight).
    pub fn with(&self, mut change: impl FnMut(&mut Node)) -> Self {
        let mut nodes = self.nodes.to_vec();
        nodes.iter_mut().for_each(&mut change);
        debug_assert!(
            nodes
                .iter()
                .zip(self.nodes.iter())
                .all(|(a, b)| a.name == b.name && a.weight == b.weight),
            "the ring belongs to names and weights"
        );
        Self {
            nodes: nodes.into(),
            ring: Arc::clone(&self.ring),
            known: Arc::clone(&self.known),
        }
    }

    /// What `id` stands for, also after the node was removed.
    pub fn known(&self, id: NodeId) -> Option<&KnownNode> {
        self.known.get(usize::from(id.0))
    }

    /// How many connections a node has, those being set up included, also after it was removed.
    pub(crate) fn connections(&self, id: NodeId) -> usize {
        self.known(id)
            .map_or(0, |known| known.load.connections.load(Ordering::Relaxed))
    }

    /// Every node that this process has known, by id.
    pub fn all_known(&self) -> &[KnownNode] {
        &self.known
    }

    /// The node with this id, if it is in the cluster now.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The nodes, sorted by name; the ring's choices are indices into this slice.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A number that two balancers share if they take every client to the same home, and almost never otherwise: made of the names, the
    /// weights, and the homes of a few keys, which tell one seed from another without showing it.
    pub(crate) fn fingerprint(&self) -> u64 {
        const KEYS: u8 = 128;
        let mut text = Vec::new();
        for node in self.nodes.iter() {
            text.extend_from_slice(node.name.as_bytes());
            text.push(0);
            text.extend_from_slice(&node.weight.to_be_bytes());
        }
        for key in 0..KEYS {
            let home = self.ring.choices(self.ring.hash(&[key])).next().unwrap_or_default();
            text.extend_from_slice(&home.to_be_bytes());
        }
        xxh3_64(&text)
    }

    /// The ring over these nodes.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// Where control publishes the newest cluster and the path reads it, without a lock.
#[derive(Debug)]
pub struct Clusters(ArcSwap<Cluster>);

impl Clusters {
    /// A cell that holds `first`.
    pub fn new(first: Cluster) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(first)))
    }

    /// The newest cluster.
    pub fn current(&self) -> Arc<Cluster> {
        self.0.load_full()
    }

    /// Replaces the cluster. Only control does.
    pub fn publish(&self, cluster: Cluster) {
        self.0.store(Arc::new(cluster));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Endpoint, Endpoints, SEED_DEFAULT, WEIGHT_DEFAULT};

    fn node(number: u16, down: &[EndpointKind]) -> Node {
        let endpoint = |kind| Endpoint {
            is_down: down.contains(&kind),
            ..Endpoint::plain([([127, 0, 0, 1], 1883 + number).into()].into())
        };
        Node {
            id: NodeId(number),
            name: format!("node{number}").into(),
            endpoints: Endpoints {
                ws: Some(endpoint(EndpointKind::Ws)),
                ..Endpoints::only(endpoint(EndpointKind::Mqtt))
            },
            weight: WEIGHT_DEFAULT,
            configured_weight: WEIGHT_DEFAULT,
            is_draining: false,
            connect_rate: None,
            connections_max: None,
            findings: Arc::default(),
            load: Arc::default(),
        }
    }

    #[test]
    fn only_what_is_down_while_others_are_up_is_closed() {
        use EndpointKind::{Mqtt, Ws};
        let to_close = |down: [&[EndpointKind]; 2]| {
            let nodes = vec![node(0, down[0]), node(1, down[1])];
            Cluster::new(nodes, Arc::new([]), SEED_DEFAULT).to_close()
        };
        assert_eq!(to_close([&[], &[]]), []);
        assert_eq!(to_close([&[], &[Ws]]), [(NodeId(1), Ws)]);
        assert_eq!(to_close([&[Mqtt, Ws], &[]]), [(NodeId(0), Mqtt), (NodeId(0), Ws)]);
        assert_eq!(to_close([&[Mqtt, Ws], &[Mqtt]]), [(NodeId(0), Ws)]);
        assert_eq!(to_close([&[Mqtt, Ws], &[Mqtt, Ws]]), []);
    }
}
