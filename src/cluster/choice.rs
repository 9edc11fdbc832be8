//! One choice of a route and its result, as passed between route, greet and control.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::sync::Ordering;
use crate::cluster::connect_rate::ConnectRate;
use crate::cluster::endpoint::{Endpoint, EndpointKind, PassiveHealth};
use crate::cluster::node::{Node, NodeId, NodeLoad};

/// Why a client goes to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    /// The ring's first choice.
    Home,
    /// A remembered exception.
    Placement,
    /// A later choice of the ring, because the first was unavailable or refused the client.
    Spill,
    /// A later choice of the ring, because the first has as many connections as it may have.
    Full,
    /// The less loaded of two, for a client without an affinity key.
    Anonymous,
}

impl Decision {
    /// Every decision.
    pub const ALL: &'static [Self] = &[Self::Home, Self::Placement, Self::Spill, Self::Full, Self::Anonymous];

    /// The name in log lines, metrics and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Placement => "placement",
            Self::Spill => "spill",
            Self::Full => "full",
            Self::Anonymous => "anonymous",
        }
    }
}

/// A node that a client may be taken to now.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Which node.
    pub id: NodeId,
    /// Which of its listeners.
    pub kind: EndpointKind,
    /// That listener; it has an address.
    pub endpoint: Endpoint,
    /// Why it was chosen.
    pub decision: Decision,
    /// How many CONNECTs the node gets in a second; `None` means no limit.
    pub connect_rate: Option<ConnectRate>,
    /// How many connections the node may have at a time; `None` means no limit.
    pub connections_max: Option<usize>,
    /// What changes at every connection.
    pub load: Arc<NodeLoad>,
}

impl Choice {
    /// `node` as a choice for a client that arrives by `kind`; `None` if it has no endpoint for it with a known
    /// address.
    pub fn of(node: &Node, kind: EndpointKind, decision: Decision) -> Option<Self> {
        let (kind, endpoint) = node.endpoint_for(kind)?;
        Some(Self {
            id: node.id,
            kind,
            endpoint: endpoint.clone(),
            decision,
            connect_rate: node.connect_rate,
            connections_max: node.connections_max,
            load: Arc::clone(&node.load),
        })
    }

    /// The report for control that something failed at the endpoint. [`Choice::note_failed`] must follow.
    pub fn failed(&self, failure: Failure) -> Report {
        self.report(Observed::Failed(failure))
    }

    /// Records that control was told of a failure, so that it is told of the next answer as well. Only then, since an answer
    /// that was reported before the failure would leave the failure standing.
    pub fn note_failed(&self) {
        self.endpoint.passive.has_failed.store(true, Ordering::Relaxed);
    }

    /// Records that the endpoint answered. Returns the report for control; `None` if it is known to answer, which costs
    /// two loads.
    pub fn answered(&self) -> Option<Report> {
        let PassiveHealth {
            has_failed,
            has_answered,
            ..
        } = &*self.endpoint.passive;
        if has_answered.load(Ordering::Relaxed) && !has_failed.load(Ordering::Relaxed) {
            return None;
        }
        has_answered.store(true, Ordering::Relaxed);
        has_failed.store(false, Ordering::Relaxed);
        Some(self.report(Observed::Answered))
    }

    fn report(&self, observed: Observed) -> Report {
        Report {
            node: self.id,
            passive: Arc::clone(&self.endpoint.passive),
            observed,
        }
    }

    /// Counts one connection to the node for as long as the permit is held.
    pub fn permit(&self) -> ConnectionPermit {
        ConnectionPermit::of(&self.load)
    }

    /// The same, unless the node has as many connections as it may have: then `None`.
    pub fn try_permit(&self) -> Option<ConnectionPermit> {
        // Counted first, so that two clients cannot both take the last place.
        let before = self.load.connections.fetch_add(1, Ordering::Relaxed);
        let permit = ConnectionPermit(Some(Arc::clone(&self.load)));
        self.connections_max.is_none_or(|max| before < max).then_some(permit)
    }
}

/// One connection counted on a node.
#[derive(Debug)]
pub struct ConnectionPermit(Option<Arc<NodeLoad>>);

impl ConnectionPermit {
    /// Counts one connection to the node with this load.
    pub(crate) fn of(load: &Arc<NodeLoad>) -> Self {
        load.connections.fetch_add(1, Ordering::Relaxed);
        Self::kept(load)
    }

    /// Leaves the connection counted, until the permit that [`ConnectionPermit::kept`] makes of it is dropped.
    pub fn keep(mut self) {
        self.0 = None;
    }

    /// The permit of a connection that [`ConnectionPermit::keep`] left counted.
    pub fn kept(load: &Arc<NodeLoad>) -> Self {
        Self(Some(Arc::clone(load)))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(load) = &self.0 {
            load.leave();
        }
    }
}

/// A report from the path to control about an endpoint of a node.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which node.
    pub node: NodeId,
    /// Identifies the endpoint: the one with this health. None matches if the endpoint has moved since.
    pub passive: Arc<PassiveHealth>,
    /// What was observed.
    pub observed: Observed,
}

/// What was observed of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Something failed there.
    Failed(Failure),
    /// It answered, and had failed before or never answered.
    Answered,
}

/// How much a failure says about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A client met it that the endpoint should have served: a dial failed, or a CONNECT that the endpoint has received as a
    /// whole was not answered in time, or not with MQTT.
    Of(Witness),
    /// The client may have caused it: it chose the fields of an upgrade request, or what an answer waits for.
    Suspected,
}

/// Who met a failure. Failures that have a client id or a source in common count once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// A hash of its client id; `None` if the path has not read it.
    pub client_id: Option<u64>,
    /// Its address; of IPv6 the /64 network.
    pub source: IpAddr,
}

impl Witness {
    /// Whether this may be the same client, or another one of its owner.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.source == other.source || (self.client_id.is_some() && self.client_id == other.client_id)
    }
}
