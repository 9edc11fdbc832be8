//! Settings as meant: one value for the whole process, made from a file by one fallible step.

use std::num::NonZeroUsize;

use crate::{accept, cluster, control, dial, greet, log, peek, relay, route};

/// Everything an operator can say, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads; none means one per core.
    pub workers: Option<NonZeroUsize>,
    /// Where clients come in.
    pub listeners: Vec<accept::Listener>,
    /// The nodes of the one cluster.
    pub nodes: Vec<cluster::Member>,
    /// Which node a client belongs to.
    pub affinity: route::Affinity,
    /// How much of a client is read, and for how long, before it is routed.
    pub peek: peek::Limits,
    /// How nodes are reached.
    pub dial: dial::Settings,
    /// How a node's first answer is awaited, and when another node is tried.
    pub greet: greet::Settings,
    /// How bytes are moved, and when a silent connection ends.
    pub relay: relay::Settings,
    /// When a node counts as down, and how often names are resolved.
    pub control: control::Settings,
    /// What is written, and how.
    pub log: log::Settings,
}
