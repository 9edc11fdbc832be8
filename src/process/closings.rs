//! Connections of nodes that are being closed at a rate, at an operator's order: one closing for each node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;

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
    rate: u32,
    task: AbortHandle,
}

/// What is to be closed.
pub(super) struct Work {
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) clusters: Arc<Clusters>,
    pub(super) node: NodeId,
    /// Connections per second.
    pub(super) rate: u32,
    /// Goes on until the node has no connection left, and not only until each that there was is closed.
    pub(super) until_empty: bool,
}

impl Closings {
    /// The rate at which the connections of a node are being closed.
    pub(super) fn rate(&self, node: NodeId) -> Option<u32> {
        let all = self.all();
        let underway = all.get(&node).filter(|underway| !underway.task.is_finished());
        underway.map(|underway| underway.rate)
    }

    /// Ends the closing of a node; its other connections stay.
    pub(super) fn stop(&self, node: NodeId) {
        if let Some(underway) = self.all().remove(&node) {
            underway.task.abort();
        }
    }

    /// Begins to close the connections of a node, instead of a closing of that node that is under way.
    pub(super) fn start(&self, runtime: &Runtime, work: Work) {
        let (node, rate) = (work.node, work.rate);
        let task = runtime.spawn(work.run()).abort_handle();
        if let Some(before) = self.all().insert(node, Underway { rate, task }) {
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
        loop {
            let selector = Selector::Node(self.node);
            let closing = Closing::new(&self.workers, selector, Ended::Closed, self.rate.max(1)).await;
            // The process ends, and with it the connections.
            let Ok(mut closing) = closing else {
                return;
            };
            loop {
                match closing.round().await {
                    Ok(false) => {}
                    Ok(true) => break,
                    Err(_) => return,
                }
            }
            let is_empty = self.clusters.current().connections(self.node) == 0;
            if !self.until_empty || is_empty {
                return;
            }
            // Some were being set up.
            tokio::time::sleep(AGAIN).await;
        }
    }
}
