//! A node: as configured, as in a snapshot, and as a number that stays.

use std::sync::Arc;

use crate::base::sync::{AtomicUsize, Ordering};
use crate::cluster::connect_rate::{ConnectBucket, ConnectRate};
use crate::cluster::endpoint::{Endpoint, EndpointKind, Endpoints, MemberEndpoint, NodeApi};
use crate::cluster::finding::{Asked, Finding, Verdict};

/// A node as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity: the ring hashes this, logs and metrics show it.
    pub name: String,
    /// Its endpoints.
    pub endpoints: Endpoints<MemberEndpoint>,
    /// Its HTTP API, if it is asked.
    pub api: Option<NodeApi>,
    /// 1 to 1000.
    pub weight: u16,
    /// CONNECTs that it gets in a second at most; `None` means as many as every node.
    pub connects_per_second: Option<u32>,
    /// Connections that it may have at a time; `None` means no limit.
    pub connections_max: Option<usize>,
}

impl Member {
    /// Whether the certificate of any of this node's endpoints, or of its API, is accepted unverified.
    pub fn is_unverified(&self) -> bool {
        let endpoints = self.endpoints.iter().filter_map(|(_, e)| e.tls.as_ref());
        let api = self.api.iter().filter_map(|api| api.tls.as_ref());
        endpoints.chain(api).any(|tls| !tls.is_verified)
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
    /// Gets no clients while another node is up.
    Down,
}

/// What changes about a node at every connection: shared by all snapshots and all workers.
#[derive(Debug, Default)]
pub struct NodeLoad {
    /// Connections routed to this node and not yet ended.
    pub connections: AtomicUsize,
    /// Source ports towards this node that are in TIME_WAIT here, as far as this process has caused it.
    pub time_wait: AtomicUsize,
    /// When the next clients may be taken to it.
    pub connects: ConnectBucket,
    /// Those who have waited, as they are let go: where a worker was busy, several slots have passed at once, and they are spread again.
    pub released: ConnectBucket,
    /// Clients that wait for that now.
    pub waiting: AtomicUsize,
    /// How often control has asked it, and what came of it.
    pub asked: Asked,
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
    /// The endpoint for a client that arrives by `kind`. A WebSocket client falls back to the MQTT endpoint, where its
    /// frames are unwrapped, if the node has no WebSocket endpoint with a known address.
    pub(crate) fn endpoint_for(&self, kind: EndpointKind) -> Option<(EndpointKind, &Endpoint)> {
        let found = |kind| {
            let endpoint = self.endpoints.get(kind)?;
            endpoint.has_address().then_some((kind, endpoint))
        };
        match kind {
            EndpointKind::Ws => found(kind).or_else(|| found(EndpointKind::Mqtt)),
            EndpointKind::Mqtt | EndpointKind::Pass => found(kind),
        }
    }

    /// What the path may do with a client that arrives by `kind`; `None` if the node has no endpoint for it.
    pub(crate) fn state_for(&self, kind: EndpointKind) -> Option<NodeState> {
        let (_, endpoint) = self.endpoint_for(kind)?;
        Some(self.state_of(endpoint))
    }

    /// Whether probes of its endpoint for clients that arrive by `kind` fail, and it is in use all the same, because too many nodes
    /// would be down by probes alone.
    pub(crate) fn is_overruled(&self, kind: EndpointKind) -> bool {
        let Some((kind, _)) = self.endpoint_for(kind) else {
            return false;
        };
        let of_it = |finding: &&Finding| finding.endpoint == Some(kind);
        let mut findings = self.findings.iter().filter(of_it);
        findings.any(|finding| finding.verdict == Verdict::Overruled)
    }

    /// What the path may do with this endpoint of the node. An endpoint that is both down and draining is down: it gets
    /// clients only if there is no other node. One whose host name could not be resolved yet is down as well.
    pub fn state_of(&self, endpoint: &Endpoint) -> NodeState {
        match (endpoint.is_down || !endpoint.has_address(), self.is_draining) {
            (true, _) => NodeState::Down,
            (false, true) => NodeState::Draining,
            (false, false) => NodeState::Up,
        }
    }
}

impl NodeLoad {
    /// How many source ports towards this node are in use, by connections and in TIME_WAIT.
    pub fn ports(&self) -> usize {
        self.connections.load(Ordering::Relaxed) + self.time_wait.load(Ordering::Relaxed)
    }

    /// Counts one client that waits for the node.
    pub fn add_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Uncounts one client that waited for the node.
    pub fn leave_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Uncounts one connection to the node.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A node that this process has known, in the cluster or removed from it: what its [`NodeId`] stands for.
#[derive(Clone, Debug)]
pub struct KnownNode {
    /// Its identity.
    pub name: Arc<str>,
    /// What changes at every connection.
    pub load: Arc<NodeLoad>,
}

/// One node in a snapshot.
#[derive(Clone, Debug)]
pub struct Node {
    /// Stable number of its name.
    pub id: NodeId,
    /// Its identity.
    pub name: Arc<str>,
    /// Its endpoints.
    pub endpoints: Endpoints<Endpoint>,
    /// 1 to 1000.
    pub weight: u16,
    /// That of the configuration, or of the source that it was found by.
    pub configured_weight: u16,
    /// The operator is draining it, or its own API says so: it keeps its clients and gets no new ones.
    pub is_draining: bool,
    /// How many CONNECTs it gets in a second; `None` means no limit.
    pub connect_rate: Option<ConnectRate>,
    /// Connections that it may have at a time; `None` means no limit.
    pub connections_max: Option<usize>,
    /// What each source says of it, for operators; as fresh as the states of its endpoints.
    pub findings: Arc<[Finding]>,
    /// What changes at every connection.
    pub load: Arc<NodeLoad>,
}
