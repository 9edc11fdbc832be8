//! What the workers have counted.

use super::answers::{Counters, NodeCounters};
use super::call::{Call, Refusal, Reply};
use crate::admin::node_series::code_name;
use crate::process::counts::{Counts, NodeCounts};

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    let Counts {
        accepted,
        connects,
        ends,
        nodes,
    } = call.handle.counts();
    let named = |name: &'static str, count: u64| (name.to_owned(), count);
    Reply::json(&Counters {
        accepted,
        connects: connects
            .into_iter()
            .map(|(verdict, n)| named(verdict.name(), n))
            .collect(),
        ends: ends.into_iter().map(|(cause, n)| named(cause.name(), n)).collect(),
        nodes: nodes.into_iter().map(node).collect(),
    })
}

fn node(counts: NodeCounts) -> NodeCounters {
    let connacks = counts.connacks.into_iter().filter(|(_, n)| *n > 0);
    NodeCounters {
        node: counts.name.to_string(),
        ring_share: counts.ring_share,
        waiting: counts.waiting,
        connacks: connacks
            .map(|(code, n)| (code.map_or_else(|| "other".to_owned(), code_name), n))
            .collect(),
        failures: counts
            .failures
            .iter()
            .map(|(fault, n)| (fault.name().to_owned(), *n))
            .collect(),
        retries: counts
            .retries
            .iter()
            .map(|(reason, n)| (reason.name().to_owned(), *n))
            .collect(),
        bytes_from_clients: counts.from_clients,
        bytes_to_clients: counts.to_clients,
    }
}
