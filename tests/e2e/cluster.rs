//! Several fake nodes, and what the ring says about them.

use std::sync::Arc;

use remora::cluster::{Ring, SEED_DEFAULT};

use crate::node::{Answer, Connection, FakeNode};
use crate::wait;

/// The nodes behind one balancer.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub nodes: Vec<FakeNode>,
    weights: Vec<u16>,
    ring: Ring,
}

impl Cluster {
    /// So many nodes of one weight.
    pub(crate) fn of(count: usize) -> Self {
        Self::weighted(&vec![100; count])
    }

    /// A node of each weight.
    pub(crate) fn weighted(weights: &[u16]) -> Self {
        let nodes = (0..weights.len()).map(|number| FakeNode::start(format!("node{number}")));
        let nodes: Vec<FakeNode> = nodes.collect();
        let members = nodes.iter().map(|node| &*node.name).zip(weights.iter().copied());
        Self {
            ring: Ring::build(SEED_DEFAULT, &members.collect::<Vec<_>>()),
            nodes,
            weights: weights.to_vec(),
        }
    }

    /// The nodes as they stand in a configuration.
    pub(crate) fn toml(&self) -> String {
        let nodes = self.nodes.iter().zip(&self.weights);
        nodes.map(|(node, weight)| node.toml(*weight)).collect()
    }

    /// From now on, all nodes answer so.
    pub(crate) fn answer(&self, answer: &Answer) {
        self.nodes.iter().for_each(|node| node.answer(answer.clone()));
    }

    /// How many connections ever began with `bytes`, to any node.
    pub(crate) fn asked(&self, bytes: &[u8]) -> usize {
        self.nodes.iter().map(|node| node.asked(bytes)).sum()
    }

    /// How many connections ever came, to any node, those of probes included.
    pub(crate) fn dials(&self) -> usize {
        self.nodes.iter().map(FakeNode::dials).sum()
    }

    /// The nodes in the order in which a client prefers them, home first.
    pub(crate) fn choices(&self, key: impl AsRef<[u8]>) -> Vec<usize> {
        let hash = self.ring.hash(key.as_ref());
        self.ring.choices(hash).collect()
    }

    pub(crate) fn home(&self, key: impl AsRef<[u8]>) -> usize {
        self.choices(key)[0]
    }

    /// So many client ids that begin with `prefix` and are at home on one node.
    pub(crate) fn ids_at_home(&self, node: usize, prefix: &str, count: usize) -> Vec<String> {
        let ids = (0..).map(|number| format!("{prefix}-{number}"));
        ids.filter(|id| self.home(id) == node).take(count).collect()
    }

    /// A client id that begins with `prefix` and is at home on one node.
    pub(crate) fn id_at_home(&self, node: usize, prefix: &str) -> String {
        self.ids_at_home(node, prefix, 1).remove(0)
    }

    /// The nodes that received exactly `bytes` on some connection: one for each, in the nodes' order.
    pub(crate) fn holders(&self, bytes: &[u8]) -> Vec<usize> {
        let held = |node: &FakeNode| {
            let connections = node.connections();
            let exact = connections.iter().filter(|c| c.received() == bytes);
            exact.count()
        };
        let nodes = self.nodes.iter().enumerate();
        nodes
            .flat_map(|(number, node)| std::iter::repeat_n(number, held(node)))
            .collect()
    }

    /// Waits until one connection that began with `bytes` still goes, and no other; which node it came to.
    #[track_caller]
    pub(crate) fn holder(&self, bytes: &[u8]) -> (usize, Arc<Connection>) {
        wait::until_some("the one node that has the client", || {
            let nodes = self.nodes.iter().enumerate();
            let mut found = nodes.flat_map(|(number, node)| {
                let connections = node.connections().into_iter();
                let live = connections.filter(|c| !c.has_ended() && c.begins_with(bytes));
                live.map(move |connection| (number, connection))
            });
            found.next().filter(|_| found.next().is_none())
        })
    }
}
