//! What is asked and answered about an upgrade.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Has another process take over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// The program to start, by an absolute path; that of this process without one. Only the user of this process and root may name one,
    /// on the admin socket.
    pub binary: Option<String>,
}

/// The program on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upgradable {
    /// The program that this process was started from; null if the process was not started by `remora run`.
    pub binary: Option<String>,
    /// Another one is there now, so that an upgrade would change it.
    pub is_another: bool,
    /// The version that runs.
    pub version: String,
}

/// How far an upgrade is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum UpgradeStep {
    /// The new process was started.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// The new process has read its configuration, and both know each other.
    Checked,
    /// It has the listening sockets.
    Sockets,
    /// It has the sockets of so many connections, which are still relayed here.
    Relays {
        /// So many until now.
        sent: u64,
        /// About so many there are.
        of: u64,
    },
    /// It is ready.
    Prepared,
    /// This process has stopped relaying what moves.
    Frozen,
    /// The new process holds everything.
    Adopted,
    /// The new process relays, and accepts clients.
    Running {
        /// Of the first round, or of a later one for clients that were connecting meanwhile.
        round: u32,
        /// So many connections have moved in it.
        relays: u64,
    },
    /// It is over. This process ends with its last connection.
    Done(Upgraded),
    /// Nothing has changed.
    Failed {
        /// Why.
        error: String,
    },
}

/// What has become of the connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Upgraded {
    /// The process that runs now, if it is known.
    pub pid: Option<u32>,
    /// Its version.
    pub version: String,
    /// So many connections have moved.
    pub moved: u64,
    /// So many have stayed with this process, by the reason.
    pub left: BTreeMap<String, u64>,
    /// The longest time in which those that moved were not relayed.
    pub pause_seconds: f64,
}
