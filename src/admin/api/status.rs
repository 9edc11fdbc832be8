//! The process as a whole.

use super::answers::Status;
use super::call::{Call, Refusal, Reply};
use super::nodes::is_up;
use crate::base::build;
use crate::process::handle::{Handle, NodeStatus};

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    Reply::json(&status(&call.handle))
}

pub(super) fn status(handle: &Handle) -> Status {
    let totals = handle.totals();
    let unready = handle.unready();
    let (up, not_up): (Vec<_>, Vec<_>) = handle.nodes().into_iter().partition(is_up);
    let names = |nodes: Vec<NodeStatus>| nodes.iter().map(|node| node.name.to_string()).collect();
    Status {
        version: build::VERSION.to_owned(),
        pid: std::process::id(),
        configuration: handle.configuration().map(|file| file.display().to_string()),
        is_ready: unready.is_none(),
        why_not_ready: unready,
        connections: totals.connections,
        awaiting_connect: totals.awaiting_connect,
        handshakes: totals.handshakes,
        held_bytes: totals.held_bytes,
        placements: totals.placements,
        nodes_up: names(up),
        nodes_not_up: names(not_up),
    }
}
