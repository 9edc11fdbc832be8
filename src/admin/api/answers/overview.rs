//! What the status page shows: all of a process at one look, its last ten minutes, and other balancers beside it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Listener, Node, Rebalance, Status};
use crate::doctor::report::Pair;

/// All of a process at one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// Whether an operator need not look any further.
    pub is_fine: bool,
    /// Why, in one sentence.
    pub sentence: String,
    /// Whether the caller may change something.
    pub may_change: bool,
    /// For how long the process has been running.
    pub seconds: u64,
    /// The process.
    pub status: Status,
    /// The nodes of the cluster, sorted by name, then the removed ones that still have connections.
    pub nodes: Vec<NodeOverview>,
    /// The ways in which connections have ended, those that have happened.
    pub ends: Vec<EndCount>,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// The last rebalance, running or not.
    pub rebalance: Rebalance,
    /// The fingerprint of the ring: two balancers that have the same take every client to the same home.
    pub ring: String,
    /// The number of the newest sample of the history; 0 before the first.
    pub newest_sample: u64,
    /// How many seconds the counts called recent are of: 600, or less in the beginning.
    pub recent_seconds: u64,
    /// How many other balancers are configured.
    pub peers: usize,
    /// The doctor's last examination; null if there was none.
    pub examination: Option<ExaminationOverview>,
}

/// What the doctor found last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExaminationOverview {
    /// When it ended.
    pub at: String,
    /// What an operator should change.
    pub findings: Vec<FindingOverview>,
    /// The nodes between which messages were sent.
    pub nodes: Vec<String>,
    /// What became of these messages, for every pair of nodes that could be measured.
    pub routes: Vec<Pair>,
}

/// Something that an operator should change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FindingOverview {
    /// The number, such as `R101`.
    pub code: String,
    /// The name, such as `nodes-not-joined`.
    pub name: String,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: String,
}

/// A node, and what was counted of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeOverview {
    /// The node.
    #[serde(flatten)]
    pub node: Node,
    /// `up`, `draining`, `partly down`, `down` or `removed`.
    pub state: String,
    /// Its share of the ring, from 0 to 1; null if it is in the cluster no more.
    pub share: Option<f64>,
    /// CONNECTs per second, over the last five seconds.
    pub connects_per_second: f64,
    /// What was counted recently.
    pub recent: Recent,
    /// Its CONNACKs since the process started, by code, those that it has sent.
    pub connacks: Vec<Counted>,
    /// Clients that met a failure of it since the process started, by reason.
    pub failures: Vec<Counted>,
}

/// What was counted of a node in the last ten minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recent {
    /// CONNECTs that it accepted.
    pub accepted: u64,
    /// CONNECTs that it refused, whether or not another node has accepted them.
    pub refused: u64,
    /// Clients that met a failure of it.
    pub failures: u64,
}

/// A count with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// What: a code or a reason, as in the metrics.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// How many connections have ended in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndCount {
    /// The end cause.
    pub cause: String,
    /// How many since the process started.
    pub count: u64,
    /// How many in the last ten minutes.
    pub recent: u64,
}

/// Samples of the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// From one sample to the next.
    pub interval_seconds: u64,
    /// The number of the newest sample; 0 before the first.
    pub newest: u64,
    /// The nodes that have samples.
    pub nodes: Vec<NodeHistory>,
}

/// The samples of a node, the newest last. A node that is younger than the others has fewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeHistory {
    /// The node.
    pub node: String,
    /// Its connections.
    pub connections: Vec<u32>,
    /// CONNECTs that it accepted since the sample before.
    pub accepted: Vec<u32>,
    /// CONNECTs that it refused.
    pub refused: Vec<u32>,
    /// Clients that met a failure of it.
    pub failures: Vec<u32>,
}

/// The other balancers that are configured, as they have answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peers {
    /// The balancers.
    pub peers: Vec<PeerView>,
    /// The connections of this one and of those that have answered.
    pub connections: usize,
    /// The same of each node.
    pub nodes: Vec<PeerSum>,
}

/// Another balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerView {
    /// Its address, as configured.
    pub peer: String,
    /// Why it has not answered; null if it has, and only then the rest says something.
    pub error: Option<String>,
    /// Its version.
    pub version: String,
    /// Whether it is fine.
    pub is_fine: bool,
    /// Why.
    pub sentence: String,
    /// Its connections.
    pub connections: usize,
    /// The fingerprint of its ring.
    pub ring: String,
    /// Whether that is the ring of this balancer.
    pub has_same_ring: bool,
    /// Its nodes.
    pub nodes: Vec<PeerNode>,
    /// In what it does not agree with this balancer, a sentence each.
    pub disagreements: Vec<String>,
}

/// A node as another balancer sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerNode {
    /// The node.
    pub node: String,
    /// Its state there.
    pub state: String,
    /// Its connections there.
    pub connections: usize,
}

/// The connections of a node over all balancers that have answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerSum {
    /// The node.
    pub node: String,
    /// The sum.
    pub connections: usize,
}
