//! What the API is asked and what it answers, as JSON. The descriptions in the OpenAPI document are the comments here.

mod overview;
mod upgrade;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::base::events::{Change, Event};
use crate::cluster::{WEIGHT_MAX, WEIGHT_MIN};
use crate::doctor::report::Report;
pub use overview::{
    Counted, EndCount, ExaminationOverview, FindingOverview, History, NodeHistory, NodeOverview, Overview, PeerNode,
    PeerSum, PeerView, Peers, Recent,
};
pub use upgrade::{Upgradable, Upgrade, UpgradeStep, Upgraded};

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
    /// The file: the configuration, or one that it includes; null if the problem has no line.
    #[serde(default)]
    pub file: Option<String>,
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

/// The last examination by the doctor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Examined {
    /// When it ended, in UTC, as RFC 3339 writes it; null if there was none.
    pub at: Option<String>,
    /// What it found; null if there was none.
    pub report: Option<Report>,
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
    /// The weight that the file gives it, or those that are found like it; null if it is in the cluster no more.
    pub configured_weight: Option<u16>,
    /// Whether it is draining, at an operator's order or because its own API says so: it keeps its clients and gets no new ones.
    pub is_draining: bool,
    /// So many of its connections are being closed per second at an operator's order; null if none are.
    pub closing_rate: Option<u32>,
    /// Whether it was removed, and only its connections are left.
    pub is_removed: bool,
    /// Its connections, those being set up included.
    pub connections: usize,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What each source says of it: why it and its endpoints are in their states.
    pub findings: Vec<Finding>,
}

/// What one source says of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// `operator`, `api`, `probe`, `clients` or `lookup`.
    pub source: String,
    /// The endpoint that it is about: `mqtt`, `ws` or `pass`; null for the node.
    pub endpoint: Option<String>,
    /// `up`, `draining`, `failing`, `overruled` (it fails and stays in use, since too many would be down by probes alone) or `unknown`.
    pub verdict: String,
    /// More of it, in words.
    pub why: Option<String>,
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
    /// The weight on the ring; null for that of the file.
    #[serde(deserialize_with = "given")]
    #[schemars(range(min = WEIGHT_MIN, max = WEIGHT_MAX))]
    pub weight: Option<u16>,
}

/// Part of the list of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Clients {
    /// The clients.
    pub clients: Vec<Connection>,
    /// The `cursor` of the next part; null if there is none.
    pub next: Option<String>,
}

/// A client's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// The number of the connection, unique in this process.
    pub connection: String,
    /// The client id, escaped and cut as in a line of text in the log; empty if it has none, or if its TLS ends at the node.
    pub client_id: String,
    /// Its node.
    pub node: String,
    /// Why it is there: `home`, `placement`, `spill`, `full` or `anonymous`.
    pub route: Option<String>,
    /// Its home as of now; null for a client without an affinity key.
    pub home: Option<String>,
    /// Its listener.
    pub listener: String,
    /// Its transport: `mqtt`, `ws` or `pass`.
    pub transport: String,
    /// Its address.
    pub client: String,
    /// The version of MQTT; null if its TLS ends at the node.
    pub version: Option<String>,
    /// For how long it has been connected.
    pub seconds: u64,
    /// For how long it has sent nothing.
    pub client_silence_seconds: u64,
    /// For how long its node has sent nothing.
    pub node_silence_seconds: u64,
    /// For how long its node has sent nothing but answers to pings.
    pub message_silence_seconds: u64,
    /// Bytes read from it.
    pub from_client: u64,
    /// Bytes read from its node.
    pub from_node: u64,
    /// Keep Alive in seconds; 0 for none, null if its TLS ends at the node.
    pub keep_alive: Option<u16>,
    /// Clean Start (MQTT 5), Clean Session (before).
    pub clean_start: Option<bool>,
    /// How long its session outlives the connection; null if it does not, 4294967295 for ever.
    pub session_expiry_seconds: Option<u64>,
    /// The server name that it asked for in TLS, escaped.
    pub server_name: Option<String>,
    /// The common name of its certificate, escaped.
    pub certificate_cn: Option<String>,
}

/// The clients that come first in an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopClients {
    /// The order: `rate`, `bytes`, `silent`, `quiet`, `oldest` or `newest`.
    pub by: String,
    /// The seconds in which bytes were counted; null if they are those since each connection began.
    pub over_seconds: Option<u64>,
    /// The clients, the first one first.
    pub clients: Vec<TopClient>,
}

/// A client in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopClient {
    /// Bytes from the client, in the time of the answer.
    pub moved_from_client: u64,
    /// Bytes from its node.
    pub moved_from_node: u64,
    /// Its connection.
    pub connection: Connection,
}

/// What was counted since the process started. Two answers give rates; a number that is smaller than before is that of another process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// CONNECTs by result: `accepted`, `refused`, `unread` or `failed`.
    pub connects: BTreeMap<String, u64>,
    /// Ends of connections by end cause.
    pub ends: BTreeMap<String, u64>,
    /// The nodes, and the removed ones that still have connections.
    pub nodes: Vec<NodeCounters>,
}

/// What was counted of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeCounters {
    /// Its name.
    pub node: String,
    /// Its share of the ring now, from 0 to 1: that of the clients whose home it is. Null if it is in the cluster no more.
    pub ring_share: Option<f64>,
    /// Clients that wait for their turn at it now.
    pub waiting: usize,
    /// CONNACKs that were read from it, by code; only codes that there were.
    pub connacks: BTreeMap<String, u64>,
    /// Clients that met a failure of it, by what it was.
    pub failures: BTreeMap<String, u64>,
    /// CONNECTs that were sent again after it, by reason.
    pub retries: BTreeMap<String, u64>,
    /// Bytes from clients, a second late at most.
    pub bytes_from_clients: u64,
    /// Bytes to clients, a second late at most.
    pub bytes_to_clients: u64,
}

/// What is known of a client id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Client {
    /// The client id, escaped and cut as in a line of text in the log.
    pub client_id: String,
    /// Its connections.
    pub connections: Vec<Connection>,
    /// Its home as of now; null if that depends on something else than the id.
    pub home: Option<String>,
    /// The node that is remembered for it, in place of its home.
    pub placement: Option<String>,
    /// How its last connection ended, as far as that is remembered.
    pub last_end: Option<End>,
}

/// Which client is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskClient {
    /// Its id, percent-encoded as in a path. Other than there, only `%` and what is not UTF-8 must be.
    #[schemars(length(min = 1))]
    pub id: String,
}

/// How a connection of a client ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// The client id, escaped and cut as in a line of text in the log.
    pub client_id: String,
    /// The end cause.
    pub cause: String,
    /// How long ago.
    pub ago_seconds: u64,
    /// How long the connection lasted.
    pub seconds: u64,
    /// The client's address.
    pub client: String,
    /// The node that was last dialed for it.
    pub node: Option<String>,
    /// Why that node.
    pub route: Option<String>,
}

/// How many connections were closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Closed {
    /// How many.
    pub closed: usize,
}

/// At which pace clients are brought home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetRebalance {
    /// Connections closed per second; 50 without it.
    #[schemars(range(min = 1))]
    pub rate: Option<u32>,
}

/// A rebalance: the last one, running or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rebalance {
    /// The node whose clients are brought home; null for those of all nodes.
    pub node: Option<String>,
    /// Connections closed per second.
    pub rate: u32,
    /// How many connections were to be closed when it began.
    pub selected: u64,
    /// How many of them were closed. The others have ended before.
    pub closed: u64,
    /// Whether it goes on.
    pub is_running: bool,
}

/// Clients that reconnect in a loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reconnecting {
    /// The clients, those that reconnect most often first.
    pub reconnecting: Vec<Loop>,
}

/// A client that reconnects in a loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Loop {
    /// How many of its connections have ended within the last minute, of those that are remembered.
    pub count: usize,
    /// The last end.
    pub last_end: End,
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

/// All certificates in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificates {
    /// Those of each open listener in turn, then the one that is presented to nodes.
    pub certificates: Vec<Certificate>,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// The listener that presents it; null for the one that is presented to nodes.
    pub listener: Option<String>,
    /// The host names that it is for, wildcards included.
    pub names: Vec<String>,
    /// When it expires, in UTC.
    pub expires: String,
    /// Whole days until then; negative once it has expired.
    pub days: i64,
}

/// The file of the log was opened anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reopened {
    /// The path of the file.
    pub file: String,
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
