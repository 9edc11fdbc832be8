//! The cluster: an immutable snapshot of the nodes, their states and the ring, built by one function and published as
//! one `Arc`. `control` decides what is in it; the path reads it.

mod choice;
mod connect_rate;
mod endpoint;
mod finding;
mod node;
mod ring;
mod snapshot;

pub use choice::{Choice, ConnectionPermit, Decision, Failure, Observed, Report, Witness};
pub use connect_rate::{ConnectBucket, ConnectRate, Slot, SlowStart};
pub use endpoint::{
    Endpoint, EndpointKind, EndpointTls, Endpoints, MemberEndpoint, NodeAddress, NodeApi, Pace, PassiveHealth,
};
pub use finding::{Asked, CheckResult, Finding, FindingSource, ProbeResult, Verdict};
pub use node::{KnownNode, Member, Node, NodeId, NodeLoad, NodeState};
pub use ring::{Choices, Ring, SEED_DEFAULT, WEIGHT_DEFAULT};
pub(crate) use ring::{NODES_MAX, WEIGHT_MAX, WEIGHT_MIN, WEIGHTS_MAX};
pub use snapshot::{Cluster, Clusters};
