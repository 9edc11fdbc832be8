//! The nodes, and what operators wish of them.

use std::io;
use std::num::NonZeroU32;

use super::answers::{CloseNode, DrainNode, Endpoint, Finding, Node, Nodes, SetWeight};
use super::call::{Call, Refusal, Reply};
use crate::cluster::{self, EndpointKind, NodeState};
use crate::process::handle::{Handle, NodeStatus};

pub(super) async fn list(call: Call) -> Result<Reply, Refusal> {
    let nodes = call.handle.nodes().into_iter().map(node).collect();
    Reply::json(&Nodes { nodes })
}

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    Reply::json(&node(find(&call.handle, call.name())?))
}

pub(super) async fn drain(call: Call) -> Result<Reply, Refusal> {
    let DrainNode { rate } = call.body_or_default()?;
    let name = find(&call.handle, call.name())?.name;
    match rate {
        Some(rate) => call.handle.drain_node_at(&name, rate.get()).await?,
        None => call.handle.drain_node(&name).await?,
    }
    call.log_change("drain", Some(&name));
    show(call).await
}

pub(super) async fn close(call: Call) -> Result<Reply, Refusal> {
    let CloseNode { rate } = call.body_or_default()?;
    let status = find(&call.handle, call.name())?;
    call.handle.close_node(&status.name, rate.map(NonZeroU32::get)).await?;
    call.log_change("close", Some(&status.name));
    // A node that was removed is gone with its last connection.
    Reply::json(&node(find(&call.handle, &status.name).unwrap_or(status)))
}

pub(super) async fn undrain(call: Call) -> Result<Reply, Refusal> {
    let name = find(&call.handle, call.name())?.name;
    call.handle.undrain_node(&name).await?;
    call.log_change("undrain", Some(&name));
    show(call).await
}

pub(super) async fn weight(call: Call) -> Result<Reply, Refusal> {
    let SetWeight { weight } = call.body()?;
    let name = find(&call.handle, call.name())?.name;
    call.handle.set_weight(&name, weight).await?;
    call.log_change("weight", Some(&name));
    show(call).await
}

/// Whether a node takes clients on at least one endpoint.
pub(super) fn is_up(node: &NodeStatus) -> bool {
    node.endpoints.iter().any(|(_, state)| *state == NodeState::Up)
}

/// The node with this name.
fn find(handle: &Handle, name: &str) -> io::Result<NodeStatus> {
    let nodes = handle.nodes();
    let names: Vec<String> = nodes.iter().map(|node| node.name.to_string()).collect();
    let found = nodes.into_iter().find(|node| *node.name == *name);
    found.ok_or_else(|| {
        let message = format!("there is no node {name}; there are {}", names.join(", "));
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

fn finding(finding: &cluster::Finding) -> Finding {
    Finding {
        source: finding.source.name().to_owned(),
        endpoint: finding.endpoint.map(|kind| kind.name().to_owned()),
        verdict: finding.verdict.name().to_owned(),
        why: finding.why.as_deref().map(str::to_owned),
    }
}

pub(super) fn node(status: NodeStatus) -> Node {
    let endpoint = |(kind, state): &(EndpointKind, NodeState)| Endpoint {
        endpoint: kind.name().to_owned(),
        state: state.name().to_owned(),
    };
    Node {
        node: status.name.to_string(),
        weight: status.weight,
        configured_weight: status.configured_weight,
        is_draining: status.is_draining,
        closing_rate: status.closing_rate,
        is_removed: status.configured_weight.is_none(),
        connections: status.connections,
        endpoints: status.endpoints.iter().map(endpoint).collect(),
        findings: status.findings.iter().map(finding).collect(),
    }
}
