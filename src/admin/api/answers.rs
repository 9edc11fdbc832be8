//! What the API is asked and what it answers, as JSON. The descriptions in the OpenAPI document are the comments here.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::base::events::{Change, Event};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// What was asked of what, why it is refused, and what would do.
    pub error: String,
    /// The problems of the configuration, if it was to be read again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The same as `remora check` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

/// A problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The key, as in `nodes[2].address`; empty if it is about the file as a whole.
    pub key: String,
    /// What was found.
    pub message: String,
    /// What would do.
    pub hint: Option<String>,
    /// The line, from 1; null if it has none.
    pub line: Option<usize>,
    /// The column, from 1.
    pub column: Option<usize>,
}

/// The process as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The number of the process.
    pub pid: u32,
    /// The file of its configuration, as an absolute path; null if it has none.
    pub configuration: Option<String>,
    /// Whether it should get clients, as `/readyz` says.
    pub is_ready: bool,
    /// Why not.
    pub why_not_ready: Option<String>,
    /// Connections, those being set up included.
    pub connections: usize,
    /// Connections whose CONNECT has not been read yet.
    pub awaiting_connect: usize,
    /// Connections in a TLS handshake.
    pub handshakes: usize,
    /// Bytes held for clients that no node has accepted yet.
    pub held_bytes: usize,
    /// Clients remembered because they are on another node than their home.
    pub placements: usize,
    /// The names of the nodes that take clients, on at least one endpoint.
    pub nodes_up: Vec<String>,
    /// The names of all others.
    pub nodes_not_up: Vec<String>,
}

/// All nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nodes {
    /// The nodes of the cluster, sorted by name, then the removed ones that still have connections.
    pub nodes: Vec<Node>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Its weight on the ring: the configured one, or the operator's.
    pub weight: u16,
    /// The weight that the file gives it; null if it is not in the file any more.
    pub configured_weight: Option<u16>,
    /// Whether an operator drains it: it keeps its clients and gets no new ones.
    pub is_draining: bool,
    /// So many of its connections are being closed per second at an operator's order; null if none are.
    pub closing_rate: Option<u32>,
    /// Whether it was removed from the file, and only its connections are left.
    pub is_removed: bool,
    /// Its connections, those being set up included.
    pub connections: usize,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// What it is for: `mqtt`, `ws` or `pass`.
    pub endpoint: String,
    /// `up`, `draining` or `down`.
    pub state: String,
}

/// Another weight for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// The weight on the ring, 1 to 1000; null for that of the file.
    #[serde(deserialize_with = "given")]
    pub weight: Option<u16>,
}

/// How a node is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    /// Connections closed per second; null or left out, and its connections stay.
    #[serde(default)]
    pub rate: Option<NonZeroU32>,
}

/// How the connections of a node are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseNode {
    /// Connections closed per second; null or left out, and all are closed at once.
    #[serde(default)]
    pub rate: Option<NonZeroU32>,
}

/// All listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listeners {
    /// The open ones in the order in which they were opened, and the removed ones that still have connections.
    pub listeners: Vec<Listener>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listener {
    /// Its name.
    pub listener: String,
    /// Where it is bound.
    pub address: String,
    /// What its clients use of a node: `mqtt`, `ws` or `pass`.
    pub kind: String,
    /// Its connections now.
    pub connections: usize,
    /// Connections that it has accepted.
    pub accepted: u64,
    /// Whether it is closed, and only its connections are left.
    pub is_removed: bool,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Configuration {
    /// Its file, as an absolute path; null if it has none.
    pub configuration: Option<String>,
    /// Whether the file says the same now. Only then each value has its line.
    pub is_of_file: bool,
    /// Every key with its value and where that comes from, as `remora config` prints it. Secrets are named and not shown.
    pub toml: String,
}

/// A configuration that was read again and is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Keys whose change needs a restart; their old values stay in force.
    pub needs_restart: Vec<String>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

/// The process drains and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    /// How many connections there were.
    pub connections: usize,
}

/// The OpenAPI document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OpenApi {
    /// The version of OpenAPI.
    pub openapi: String,
    /// The operations, by path and method.
    pub paths: serde_json::Map<String, serde_json::Value>,
}

/// A value that may be null and must be there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    Option::deserialize(deserializer)
}
