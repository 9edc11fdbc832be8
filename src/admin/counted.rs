//! What was counted since the process started, by the names of the metrics: only what has happened.

use super::exposition::AdminState;
use crate::cluster::NodeId;
use crate::path::counters::{CODES, Fault, NodeCounters, code_name};
use crate::path::ended::Ended;

/// How connections ended: the cause, how many, and how many of them lately.
pub(crate) fn ends(state: &AdminState) -> Vec<(&'static str, u64, u64)> {
    let all = Ended::ALL.iter().zip(state.history.ends());
    let all = all.map(|(cause, lately)| (cause.name(), state.ends(*cause), lately));
    all.filter(|(_, count, _)| *count > 0).collect()
}

/// The CONNACKs of a node, by code.
pub(crate) fn connacks(state: &AdminState, node: NodeId) -> Vec<(String, u64)> {
    let all = (0..=CODES.len()).map(|place| {
        let code = CODES.get(place).map_or("other".to_owned(), |code| code_name(*code));
        (code, sum(state, node, |counters| counters.connacks_at(place).get()))
    });
    all.filter(|(_, count)| *count > 0).collect()
}

/// The failures that clients met at a node, by reason.
pub(crate) fn failures(state: &AdminState, node: NodeId) -> Vec<(String, u64)> {
    let all = Fault::ALL.iter().map(|fault| {
        let count = sum(state, node, |counters| counters.faults(*fault).get());
        (fault.name().to_owned(), count)
    });
    all.filter(|(_, count)| *count > 0).collect()
}

fn sum(state: &AdminState, node: NodeId, count: impl Fn(&NodeCounters) -> u64) -> u64 {
    let workers = state.counters.iter().filter_map(|worker| worker.node(node));
    workers.map(|counters| count(&counters)).sum()
}
