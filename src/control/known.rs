//! What control of one process tells that of the next, so that a name server or a source of nodes that fails just then changes nothing:
//! a process that runs keeps what it has found, and so does the one that takes over.

use std::net::SocketAddr;
use std::time::Duration;

/// What is known of nodes beyond their names and states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Who is asked for nodes; empty if nobody is.
    pub source: String,
    /// The nodes that were found there.
    pub found: Vec<KnownFound>,
    /// What look-ups of host names have found.
    pub addresses: Vec<KnownAddresses>,
    /// Nodes that have come back since the start, and how long ago.
    pub came_back: Vec<(String, Duration)>,
}

impl Known {
    /// Of no other process.
    pub const NOTHING: Self = Self {
        source: String::new(),
        found: Vec::new(),
        addresses: Vec::new(),
        came_back: Vec::new(),
    };
}

/// A node that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFound {
    /// Its name.
    pub name: String,
    /// Its host; `None` if the source says all of a node, which is to be read there again.
    pub host: Option<String>,
    /// For how long it has been missing in answers; `None` if it was in the last one.
    pub missing: Option<Duration>,
}

/// What a look-up has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAddresses {
    /// The name of the node.
    pub node: String,
    /// What was looked up, with the port.
    pub asked: String,
    /// Where that is.
    pub addresses: Vec<SocketAddr>,
}
