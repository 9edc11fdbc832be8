//! Source ports towards the nodes: which of them are in TIME_WAIT, and whether a node's are scarce.
//!
//! The side that closes a connection first keeps its port in TIME_WAIT for a minute. So a client that connects and closes again and again
//! could use up all ports towards a node. [`docs/decisions/ports.md`](../../../docs/decisions/ports.md) says what is done about
//! it.

use std::collections::VecDeque;

use crate::base::clock::Seconds;
use crate::base::sync::Ordering;
use crate::cluster::{Cluster, NodeId, NodeLoad};

/// How long the kernel keeps a port in TIME_WAIT; it cannot be configured.
const TIME_WAIT: Seconds = Seconds(60);

/// The ports of one worker's relays, and those that all workers have towards each node.
#[derive(Debug)]
pub(crate) struct Ports {
    /// How many there are towards one node.
    most: usize,
    /// In the order in which they began, one entry for each second and node.
    waiting: VecDeque<Waiting>,
    scarce: Vec<NodeId>,
}

#[derive(Debug)]
struct Waiting {
    since: Seconds,
    node: NodeId,
    ports: usize,
}

impl Ports {
    /// `most` ports towards each node.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            waiting: VecDeque::new(),
            scarce: Vec::new(),
        }
    }

    /// `most` ports towards each node from now on.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Whether half of the ports towards this node are in use.
    pub(crate) fn is_scarce(&self, node: NodeId) -> bool {
        self.scarce.contains(&node)
    }

    /// A connection to this node was closed from here first.
    pub(crate) fn add(&mut self, now: Seconds, node: NodeId, load: &NodeLoad) {
        load.time_wait.fetch_add(1, Ordering::Relaxed);
        match self.waiting.back_mut() {
            Some(last) if last.since == now && last.node == node => last.ports += 1,
            _ => self.waiting.push_back(Waiting {
                since: now,
                node,
                ports: 1,
            }),
        }
        if self.are_scarce(load) && !self.is_scarce(node) {
            self.scarce.push(node);
        }
    }

    /// Uncounts the ports that are free again. Called once a second.
    pub(crate) fn sweep(&mut self, now: Seconds, cluster: &Cluster) {
        while let Some(first) = self.waiting.pop_front_if(|first| now > first.since.after(TIME_WAIT)) {
            if let Some(known) = cluster.known(first.node) {
                known.load.time_wait.fetch_sub(first.ports, Ordering::Relaxed);
            }
        }
        let known = cluster.all_known().iter().zip(0..);
        let scarce = known.filter(|(known, _)| self.are_scarce(&known.load));
        self.scarce = scarce.map(|(_, id)| NodeId(id)).collect();
    }

    fn are_scarce(&self, load: &NodeLoad) -> bool {
        load.ports() > self.most / 2
    }
}

/// Whether these are the last bytes of a client that has sent DISCONNECT, as far as can be told without having read all packets
/// before. A wrong guess delays the end at the node by a second.
pub(crate) fn ends_with_disconnect(bytes: &[u8]) -> bool {
    match bytes {
        // Without a reason; with one; with one and no properties (MQTT 5, 3.14).
        [.., 0xE0, 0] | [.., 0xE0, 1, _] | [.., 0xE0, 2, _, 0] => true,
        [0xE0, length, rest @ ..] => usize::from(*length) == rest.len(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::KnownNode;

    fn cluster(loads: &[Arc<NodeLoad>]) -> Cluster {
        let known = loads.iter().map(|load| KnownNode {
            name: "node".into(),
            load: Arc::clone(load),
        });
        Cluster::new(Vec::new(), known.collect(), 0)
    }

    #[test]
    fn ports_are_in_use_for_a_minute_and_scarce_beyond_half() {
        let loads = [Arc::new(NodeLoad::default()), Arc::new(NodeLoad::default())];
        let cluster = cluster(&loads);
        let mut ports = Ports::new(100);
        loads[1].connections.store(45, Ordering::Relaxed);
        let node = NodeId(1);
        for number in 0..5 {
            ports.add(Seconds(number), node, &loads[1]);
        }
        assert!(!ports.is_scarce(node));
        ports.add(Seconds(5), node, &loads[1]);
        assert!(ports.is_scarce(node) && !ports.is_scarce(NodeId(0)));
        ports.sweep(Seconds(60), &cluster);
        assert!(ports.is_scarce(node));
        assert_eq!(loads[1].ports(), 51);
        ports.sweep(Seconds(61), &cluster);
        assert!(!ports.is_scarce(node));
        ports.sweep(Seconds(66), &cluster);
        assert_eq!(loads[1].ports(), 45);
        assert_eq!(loads[0].ports(), 0);
    }

    #[test]
    fn a_disconnect_is_recognized_in_each_version_and_behind_other_packets() {
        for last in [
            &[0xE0, 0][..],
            &[0xC0, 0, 0xE0, 0],
            &[0xE0, 1, 0],
            &[0xC0, 0, 0xE0, 2, 4, 0],
            &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9],
        ] {
            assert!(ends_with_disconnect(last), "{last:02x?}");
        }
        for other in [&[][..], &[0xC0, 0], &[0xE0], &[0xE0, 3, 0], &[0xE0, 0, 0xC0, 0]] {
            assert!(!ends_with_disconnect(other), "{other:02x?}");
        }
    }
}
