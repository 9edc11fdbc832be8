//! What a handle says about counters: those of all workers added up. Two looks at them give rates.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handle::Handle;
use crate::cluster::NodeId;
use crate::path::counters::{CODES, Count, Counters, Fault, NodeCounters, Retry, VERSIONS, Verdict};
use crate::path::ended::Ended;

/// What was counted since the process started. No number falls while it runs, except where it says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Connections accepted by all listeners.
    pub accepted: u64,
    /// CONNECTs by result.
    pub connects: Vec<(Verdict, u64)>,
    /// Ends of connections by cause.
    pub ends: Vec<(Ended, u64)>,
    /// Of each node: those of the cluster, and the removed ones that still have connections.
    pub nodes: Vec<NodeCounts>,
}

/// What was counted of a node since the process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCounts {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of the ring now, from 0 to 1; `None` if it is in the cluster no more.
    pub ring_share: Option<f64>,
    /// Clients that wait for their turn at it now.
    pub waiting: usize,
    /// CONNACKs read from it, by code; the last one is for codes without a place of their own.
    pub connacks: Vec<(Option<u8>, u64)>,
    /// Clients that met a failure of it, by what it was.
    pub failures: Vec<(Fault, u64)>,
    /// CONNECTs that were sent again after it, by reason.
    pub retries: Vec<(Retry, u64)>,
    /// Bytes from clients, a second late at most.
    pub from_clients: u64,
    /// Bytes to clients, a second late at most.
    pub to_clients: u64,
}

impl Handle {
    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let workers = &self.0.state.counters;
        let sum = |count: &dyn Fn(&Counters) -> u64| workers.iter().map(|counters| count(counters)).sum();
        let of_verdict = |verdict: Verdict, counters: &Counters| {
            let versions = 0..VERSIONS.len();
            versions
                .map(|version| counters.connects_at(version, verdict).get())
                .sum()
        };
        let verdicts = Verdict::ALL.iter().copied();
        let causes = Ended::ALL.iter().copied();
        let listeners = self.0.shared.listeners.current();
        let accepted = listeners.iter().flat_map(|listener| listener.counters.iter());
        let cluster = self.0.shared.clusters.current();
        let shares = cluster.ring().shares();
        let known = (0..).map(NodeId).zip(cluster.all_known());
        let nodes = known.filter_map(|(id, known)| {
            let place = cluster.nodes().iter().position(|node| node.id == id);
            if place.is_none() && known.load.connections.load(Ordering::Relaxed) == 0 {
                return None;
            }
            let counters: Vec<Arc<NodeCounters>> = workers.iter().filter_map(|worker| worker.node(id)).collect();
            let mut counts = NodeCounts::of(&counters);
            counts.name = Arc::clone(&known.name);
            counts.ring_share = place.and_then(|place| shares.get(place).copied());
            counts.waiting = known.load.waiting.load(Ordering::Relaxed);
            Some(counts)
        });
        Counts {
            accepted: accepted.map(|counters| counters.accepted.get()).sum(),
            connects: verdicts
                .map(|verdict| (verdict, sum(&|counters| of_verdict(verdict, counters))))
                .collect(),
            ends: causes
                .map(|cause| (cause, sum(&|counters| counters.ends(cause).get())))
                .collect(),
            nodes: nodes.collect(),
        }
    }
}

impl NodeCounts {
    fn of(counters: &[Arc<NodeCounters>]) -> Self {
        let sum = |count: &dyn Fn(&NodeCounters) -> &Count| counters.iter().map(|counters| count(counters).get()).sum();
        let codes = CODES.iter().copied().map(Some).chain([None]).zip(0..);
        Self {
            connacks: codes
                .map(|(code, place)| (code, sum(&|counters| counters.connacks_at(place))))
                .collect(),
            failures: Fault::ALL
                .iter()
                .map(|fault| (*fault, sum(&|counters| counters.faults(*fault))))
                .collect(),
            retries: Retry::ALL
                .iter()
                .map(|reason| (*reason, sum(&|counters| counters.retries(*reason))))
                .collect(),
            from_clients: sum(&|counters| &counters.to_node),
            to_clients: sum(&|counters| &counters.to_client),
            ..Self::default()
        }
    }
}
