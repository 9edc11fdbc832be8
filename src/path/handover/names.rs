//! Nodes and listeners by their places in the manifest: what the messages of a handover name them by.

use std::collections::HashMap;

use crate::cluster::NodeId;
use crate::handover::messages::{Invalid, NO_NODE};
use crate::path::record::ListenerId;

/// The nodes and listeners of a manifest, each as the number that it has in this process.
///
/// A node or listener that came later has no place: a connection there stays with the process that has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    nodes: Vec<NodeId>,
    listeners: Vec<ListenerId>,
    node_places: HashMap<NodeId, u32>,
    listener_places: HashMap<ListenerId, u32>,
}

impl Names {
    /// These nodes and listeners, by place.
    pub(crate) fn new(nodes: Vec<NodeId>, listeners: Vec<ListenerId>) -> Self {
        Self {
            node_places: nodes.iter().copied().zip(0..).collect(),
            listener_places: listeners.iter().copied().zip(0..).collect(),
            nodes,
            listeners,
        }
    }

    /// The node at this place.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn node(&self, place: u32) -> Result<NodeId, Invalid> {
        at(&self.nodes, place).ok_or(Invalid("place of a node"))
    }

    /// The node at this place; `None` if it is the place of no node.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn node_or_none(&self, place: u32) -> Result<Option<NodeId>, Invalid> {
        (place != NO_NODE).then(|| self.node(place)).transpose()
    }

    /// The listener at this place.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn listener(&self, place: u32) -> Result<ListenerId, Invalid> {
        at(&self.listeners, place).ok_or(Invalid("place of a listener"))
    }

    /// The place of a node, if it has one.
    pub(crate) fn place_of_node(&self, node: NodeId) -> Option<u32> {
        self.node_places.get(&node).copied()
    }

    /// The place of a listener, if it has one.
    pub(crate) fn place_of_listener(&self, listener: ListenerId) -> Option<u32> {
        self.listener_places.get(&listener).copied()
    }
}

fn at<T: Copy>(all: &[T], place: u32) -> Option<T> {
    all.get(usize::try_from(place).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_a_node_in_both_directions_and_an_unknown_one_is_an_error() {
        let names = Names::new(vec![NodeId(7), NodeId(2)], vec![ListenerId(3)]);
        assert_eq!(names.node(1), Ok(NodeId(2)));
        assert_eq!(names.place_of_node(NodeId(7)), Some(0));
        assert_eq!(names.listener(0), Ok(ListenerId(3)));
        assert_eq!(names.place_of_listener(ListenerId(3)), Some(0));
        assert_eq!(names.node_or_none(NO_NODE), Ok(None));
        assert!(names.node(2).is_err() && names.node(NO_NODE).is_err() && names.listener(1).is_err());
        assert_eq!(names.place_of_node(NodeId(0)), None);
        assert_eq!(names.place_of_listener(ListenerId(0)), None);
    }
}
