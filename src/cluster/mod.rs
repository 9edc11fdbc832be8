//! The cluster: an immutable snapshot of the nodes, their states and the ring, built by one function and published as
//! one `Arc`. Who decides what is in it is `control`; who reads it is the path.

mod choice;
mod endpoint;
mod ring;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::sync::{AtomicUsize, Ordering};

pub use choice::{Choice, Decision, Observed, Report, Reports, Seat};
pub use endpoint::{Endpoint, EndpointKind, Endpoints, MemberEndpoint, Pulse};
pub use ring::{Choices, Ring};

/// Nodes in one cluster at most: what the sets that walk the ring have room for.
pub const NODES_MAX: usize = 1024;

/// Weight of a node that names none; a node of weight 200 gets twice its share.
pub const WEIGHT_DEFAULT: u16 = 100;

/// Seed of the ring where the configuration names none. Published: every balancer that sets none agrees.
pub const SEED_DEFAULT: u64 = 0x5245_4d4f_5241;

/// A node as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity: the ring hashes this, logs and metrics show it.
    pub name: String,
    /// Its listeners.
    pub endpoints: Endpoints<MemberEndpoint>,
    /// 1 to 1000.
    pub weight: u16,
}

impl Member {
    /// Whether any certificate is taken for this node's.
    pub fn is_unverified(&self) -> bool {
        let mut tls = self.endpoints.iter().filter_map(|(_, e)| e.tls.as_ref());
        tls.any(|tls| tls.nodes.is_insecure())
    }
}

/// Where a node is, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAddress {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A host name and port, resolved by control.
    Host(String, u16),
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// A small number for a node's name, stable for the life of the process, also across reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// What the path may do with one of a node's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Takes clients.
    Up,
    /// Keeps the clients it has and gets no new ones.
    Draining,
    /// Gets no clients but one trial at a time.
    Down,
}

/// What changes about a node at every connection: shared by all snapshots and all workers.
#[derive(Debug, Default)]
pub struct Live {
    /// Connections routed to this node and not yet ended.
    pub connections: AtomicUsize,
}

impl NodeState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Up, Self::Draining, Self::Down];

    /// The name in log lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

impl Node {
    /// Where a client is taken that comes by `kind`: one in frames to where they are opened, if the node has no listener for
    /// them that is found.
    pub fn endpoint_for(&self, kind: EndpointKind) -> Option<(EndpointKind, &Endpoint)> {
        let found = |kind| {
            let endpoint = self.endpoints.get(kind)?;
            endpoint.is_found().then_some((kind, endpoint))
        };
        match kind {
            EndpointKind::Ws => found(kind).or_else(|| found(EndpointKind::Mqtt)),
            EndpointKind::Mqtt | EndpointKind::Pass => found(kind),
        }
    }

    /// What the path may do with a client that comes by `kind`; none where it cannot be taken here.
    pub fn state_for(&self, kind: EndpointKind) -> Option<NodeState> {
        let (_, endpoint) = self.endpoint_for(kind)?;
        Some(self.state_of(endpoint))
    }

    /// What the path may do with this endpoint of the node. One that is down and drains is down: it gets nobody, but for want
    /// of any other.
    pub fn state_of(&self, endpoint: &Endpoint) -> NodeState {
        match (endpoint.is_down, self.is_draining) {
            (true, _) => NodeState::Down,
            (false, true) => NodeState::Draining,
            (false, false) => NodeState::Up,
        }
    }
}

impl Live {
    /// Takes one connection off the node.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A node of this process's life, in the cluster or removed from it: what its [`NodeId`] stands for.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its identity.
    pub name: Arc<str>,
    /// What changes at every connection.
    pub live: Arc<Live>,
}

/// One node in a snapshot.
#[derive(Clone, Debug)]
pub struct Node {
    /// Stable number of its name.
    pub id: NodeId,
    /// Its identity.
    pub name: Arc<str>,
    /// Its listeners.
    pub endpoints: Endpoints<Endpoint>,
    /// 1 to 1000.
    pub weight: u16,
    /// The operator wishes that it keeps its clients and gets no new ones.
    pub is_draining: bool,
    /// What changes at every connection.
    pub live: Arc<Live>,
}

/// Nodes, their states and the ring: one value, so that they agree.
#[derive(Clone, Debug)]
pub struct Cluster {
    nodes: Arc<[Node]>,
    ring: Arc<Ring>,
    known: Arc<[Known]>,
}

impl Cluster {
    /// A snapshot of `nodes` with a ring built for their names and weights, and every node ever `known` by id.
    ///
    /// The order of `nodes` does not matter: they are sorted by name. Building the ring takes milliseconds and does not
    /// belong on a worker.
    pub fn new(mut nodes: Vec<Node>, known: Arc<[Known]>, seed: u64) -> Self {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let members: Vec<(&str, u16)> = nodes.iter().map(|n| (&*n.name, n.weight)).collect();
        let ring = Arc::new(Ring::build(seed, &members));
        Self {
            nodes: nodes.into(),
            ring,
            known,
        }
    }

    /// The nodes that can take clients now that come by `kind`.
    pub fn up(&self, kind: EndpointKind) -> impl Iterator<Item = &Node> {
        let is_up = move |node: &&Node| node.state_for(kind) == Some(NodeState::Up);
        self.nodes.iter().filter(is_up)
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
    pub fn known(&self, id: NodeId) -> Option<&Known> {
        self.known.get(usize::from(id.0))
    }

    /// Every node of this process's life, by id.
    pub fn all_known(&self) -> &[Known] {
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

    /// The ring over these nodes.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// Where control publishes the newest cluster and the path reads it, without a lock.
#[derive(Debug)]
pub struct Clusters(ArcSwap<Cluster>);

impl Clusters {
    /// A place that holds `first`.
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
