//! Closes the connections of nodes that are down, so that their clients go where they are served. A node that is frozen, or that the
//! network has cut off, closes none itself.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::closing_gate::ClosingGate;
use super::drain::Closing;
use crate::cluster::{Cluster, Clusters, EndpointKind, NodeId};
use crate::control::{OnDown, Settings};
use crate::path::ended::Ended;
use crate::worker::{Selector, WorkerHandle};

/// How long after the last connection to an endpoint was closed others are looked for: clients may have been on their way there.
const AGAIN: Duration = Duration::from_secs(1);

type Which = (NodeId, EndpointKind);

/// Closes the connections to each endpoint that is down, for as long as it is. Ends with control, which has `published` the clusters,
/// each with the settings in force.
pub(super) async fn run(
    workers: Arc<[WorkerHandle]>,
    gate: ClosingGate,
    clusters: Arc<Clusters>,
    mut published: watch::Receiver<Settings>,
) {
    let mut closing: HashMap<Which, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            changed = published.changed() => if changed.is_err() {
                return;
            },
            Some(joined) = tasks.join_next() => {
                check(joined);
                continue;
            }
        }
        let settings = published.borrow_and_update().clone();
        let cluster = clusters.current();
        let down = match settings.on_down {
            OnDown::Close => cluster.to_close(),
            OnDown::Keep => Vec::new(),
        };
        closing.retain(|which, task| {
            let goes_on = down.contains(which) && !task.is_finished();
            if !goes_on {
                task.abort();
            }
            goes_on
        });
        for which in down {
            closing.entry(which).or_insert_with(|| {
                let (workers, cluster, gate) = (Arc::clone(&workers), Arc::clone(&cluster), gate.clone());
                tasks.spawn(async move { close((&workers, &gate), &cluster, which, settings.on_down_rate).await })
            });
        }
    }
}

/// Closes the connections to an endpoint at this rate, until it is aborted or a worker has ended.
async fn close(
    workers: (&[WorkerHandle], &ClosingGate),
    cluster: &Cluster,
    (node, kind): Which,
    rate: u32,
) -> io::Result<()> {
    loop {
        let selector = Selector::Endpoint(node, kind);
        let mut closing = Closing::new(workers, selector, Ended::NodeDown, rate).await?;
        while !closing.round().await?.is_last {}
        if closing.count() > 0
            && let Some(known) = cluster.known(node)
        {
            let (node, endpoint, connections) = (&known.name, kind.name(), closing.count());
            tracing::info!(%node, endpoint, connections, "connections to a node that is down closed");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn check(joined: Result<io::Result<()>, JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        // In the guard of this task, which ends the process.
        std::panic::resume_unwind(error.into_panic());
    }
}
