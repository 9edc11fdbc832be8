//! Connections of nodes that are being closed at a rate, at an operator's order: one closing for each node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;

use super::closing_gate::ClosingGate;
use super::drain::Closing;
use crate::cluster::{Clusters, NodeId};
use crate::path::ended::Ended;
use crate::worker::{Selector, WorkerHandle};

/// How long a drain waits before it looks again for connections that were being set up.
const AGAIN: Duration = Duration::from_millis(200);

/// The closings that are under way. Bounded by the number of nodes.
#[derive(Debug, Default)]
pub(super) struct Closings(Mutex<HashMap<NodeId, Underway>>);

#[derive(Debug)]
struct Underway {
    order: Order,
    task: AbortHandle,
}

/// What was ordered for a node.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Connections per second.
    pub(super) rate: u32,
    pub(super) which: Which,
}

/// Which connections of a node are closed.
#[derive(Clone, Debug)]
pub(super) enum Which {
    /// All, until it has none.
    All,
    /// Those up to these numbers, by worker: those that there were.
    UpTo(Arc<[u64]>),
}

/// What is to be closed.
pub(super) struct Work {
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) gate: ClosingGate,
    pub(super) clusters: Arc<Clusters>,
    /// Whether connections may still come from another process.
    pub(super) is_taking: Arc<AtomicBool>,
    pub(super) node: NodeId,
    pub(super) order: Order,
}

impl Closings {
    /// The rate at which the connections of a node are being closed.
    pub(super) fn rate(&self, node: NodeId) -> Option<u32> {
        let all = self.all();
        let underway = all.get(&node).filter(|underway| !underway.task.is_finished());
        underway.map(|underway| underway.order.rate)
    }

    /// All that are under way.
    pub(super) fn to_carry(&self) -> Vec<(NodeId, Order)> {
        let all = self.all();
        let underway = all.iter().filter(|(_, underway)| !underway.task.is_finished());
        underway
            .map(|(node, underway)| (*node, underway.order.clone()))
            .collect()
    }

    /// Ends the closing of a node; its other connections stay.
    pub(super) fn stop(&self, node: NodeId) {
        if let Some(underway) = self.all().remove(&node) {
            underway.task.abort();
        }
    }

    /// Begins to close the connections of a node, instead of a closing of that node that is under way.
    pub(super) fn start(&self, runtime: &Runtime, work: Work) {
        let (node, order) = (work.node, work.order.clone());
        let task = runtime.spawn(work.run()).abort_handle();
        if let Some(before) = self.all().insert(node, Underway { order, task }) {
            before.task.abort();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<NodeId, Underway>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    async fn run(self) {
        let Order { rate, which } = &self.order;
        let of_node = Selector::Node(self.node);
        let selector = match which {
            Which::All => of_node,
            Which::UpTo(numbers) => Selector::Before(Arc::clone(numbers), Box::new(of_node)),
        };
        loop {
            let workers = (&*self.workers, &self.gate);
            let closing = Closing::new(workers, selector.clone(), Ended::Closed, (*rate).max(1)).await;
            // The process ends, and with it the connections.
            let Ok(mut closing) = closing else {
                return;
            };
            loop {
                match closing.round().await {
                    Ok(round) if round.is_last => break,
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
            match which {
                Which::All if !self.is_empty() => {}
                Which::All | Which::UpTo(_) => return,
            }
            // Some were being set up.
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether the node has no connection, and none comes from another process.
    fn is_empty(&self) -> bool {
        // Read before the connections are counted: what comes in between is among them.
        let may_come = self.is_taking.load(Ordering::Acquire);
        !may_come && self.clusters.current().connections(self.node) == 0
    }
}
