//! What the API is asked and what it answers, as JSON. The descriptions in the OpenAPI document are the comments here.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// What was asked of what, why it is refused, and what would do.
    pub error: String,
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
