//! What another process has learned of the nodes, for one that takes over from it.

use super::known::Known;
use crate::cluster::EndpointKind;

/// What another process has learned. Nodes are named; one that this process does not have is skipped.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The names of nodes that it has known, so that each has a number here.
    pub known: Vec<String>,
    /// The endpoints that are down.
    pub down: Vec<(String, EndpointKind)>,
    /// The endpoints that have answered a client or a probe.
    pub answered: Vec<(String, EndpointKind)>,
    /// The nodes whose own API says that they are to get no new clients.
    pub drained_by_api: Vec<String>,
    /// What it has found of them.
    pub found: Known,
}

impl Learned {
    /// There was no other process.
    pub const NOTHING: Self = Self {
        known: Vec::new(),
        down: Vec::new(),
        answered: Vec::new(),
        drained_by_api: Vec::new(),
        found: Known::NOTHING,
    };
}
