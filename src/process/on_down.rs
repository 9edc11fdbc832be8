//! Closes the connections of nodes that are down, so that their clients go where they are served. A node that is frozen, or that the
//! network has cut off, closes none itself.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};

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
            OnDown::Close => to_close(&cluster),
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
                let (workers, cluster) = (Arc::clone(&workers), Arc::clone(&cluster));
                tasks.spawn(async move { close(&workers, &cluster, which, settings.on_down_rate).await })
            });
        }
    }
}

/// The endpoints that are down while another node takes their clients. Where no node does, closing would help no client.
fn to_close(cluster: &Cluster) -> Vec<Which> {
    let endpoints = cluster.nodes().iter().flat_map(|node| {
        let endpoints = node.endpoints.iter();
        endpoints.map(move |(kind, endpoint)| (node.id, kind, endpoint))
    });
    let down = endpoints.filter(|(_, kind, endpoint)| endpoint.is_down && cluster.up(*kind).next().is_some());
    down.map(|(node, kind, _)| (node, kind)).collect()
}

/// Closes the connections to an endpoint at this rate, until it is aborted or a worker has ended.
async fn close(workers: &[WorkerHandle], cluster: &Cluster, (node, kind): Which, rate: u32) -> io::Result<()> {
    loop {
        let selector = Selector::Endpoint(node, kind);
        let mut closing = Closing::new(workers, selector, Ended::NodeDown, rate).await?;
        while !closing.round().await? {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Endpoint, Endpoints, Node, SEED_DEFAULT, WEIGHT_DEFAULT};

    fn node(number: u16, down: &[EndpointKind]) -> Node {
        let endpoint = |kind| Endpoint {
            is_down: down.contains(&kind),
            ..Endpoint::plain([([127, 0, 0, 1], 1883 + number).into()].into())
        };
        Node {
            id: NodeId(number),
            name: format!("node{number}").into(),
            endpoints: Endpoints {
                ws: Some(endpoint(EndpointKind::Ws)),
                ..Endpoints::only(endpoint(EndpointKind::Mqtt))
            },
            weight: WEIGHT_DEFAULT,
            configured_weight: WEIGHT_DEFAULT,
            is_draining: false,
            connect_rate: None,
            connections_max: None,
            findings: Arc::default(),
            load: Arc::default(),
        }
    }

    #[test]
    fn only_what_is_down_while_others_are_up_is_closed() {
        use EndpointKind::{Mqtt, Ws};
        let to_close = |down: [&[EndpointKind]; 2]| {
            let nodes = vec![node(0, down[0]), node(1, down[1])];
            to_close(&Cluster::new(nodes, Arc::new([]), SEED_DEFAULT))
        };
        assert_eq!(to_close([&[], &[]]), []);
        assert_eq!(to_close([&[], &[Ws]]), [(NodeId(1), Ws)]);
        assert_eq!(to_close([&[Mqtt, Ws], &[]]), [(NodeId(0), Mqtt), (NodeId(0), Ws)]);
        assert_eq!(to_close([&[Mqtt, Ws], &[Mqtt]]), [(NodeId(0), Ws)]);
        assert_eq!(to_close([&[Mqtt, Ws], &[Mqtt, Ws]]), []);
    }
}
