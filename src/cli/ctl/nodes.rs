//! `remora ctl nodes`, and the commands that change one.

use std::num::NonZeroU32;
use std::time::Duration;

use remora::admin::api::answers::{Finding, Node, Nodes};
use remora::base::words::counted;

use super::connection::{Connection, Failed, encoded};
use crate::cli::columns;

/// The path of a node, or of an `action` on it.
pub(super) fn path(node: &str, action: &str) -> String {
    let slash = if action.is_empty() { "" } else { "/" };
    let node = encoded(node.as_bytes());
    format!("/api/v1/nodes/{node}{slash}{action}")
}

/// A weight for a node; `None` is that of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight(pub(super) Option<u16>);

pub(super) fn weight(text: &str) -> Result<Weight, String> {
    match text {
        "reset" => Ok(Weight(None)),
        number => match number.parse() {
            Ok(weight) => Ok(Weight(Some(weight))),
            Err(_) => Err("write a number from 1 to 1000, or reset".to_owned()),
        },
    }
}

/// A rate: `50/s`, or the number alone.
pub(super) fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number
        .parse()
        .map_err(|_| "write connections per second, such as 50/s".to_owned())
}

/// Waits until a node that is draining has no connections, and shows it.
pub(super) async fn wait(connection: &mut Connection, name: &str) -> Result<String, Failed> {
    /// How often it is asked for.
    const INTERVAL: Duration = Duration::from_millis(200);
    loop {
        let node: Node = connection.ask(false, &path(name, ""), None).await?;
        if node.connections == 0 {
            return Ok(connection.shown(&node, one));
        }
        if !node.is_draining {
            let message = format!(
                "{name} is not draining any more, and has {}",
                counted(node.connections, "connection")
            );
            return Err(Failed::refused(message));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

pub(super) fn list(nodes: &Nodes) -> String {
    table(&nodes.nodes)
}

pub(super) fn one(node: &Node) -> String {
    table(std::slice::from_ref(node))
}

fn table(nodes: &[Node]) -> String {
    let head = ["NODE", "STATE", "WEIGHT", "CONNECTIONS", "WHY"]
        .map(str::to_owned)
        .to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(nodes.iter().map(row)).collect();
    columns("", &rows)
}

fn row(node: &Node) -> Vec<String> {
    let weight = match node.configured_weight {
        Some(configured) if configured != node.weight => format!("{} (file: {configured})", node.weight),
        _ => node.weight.to_string(),
    };
    let connections = match node.closing_rate {
        Some(rate) => format!("{} (closing {rate}/s)", node.connections),
        None => node.connections.to_string(),
    };
    vec![node.node.clone(), state(node), weight, connections, why(node)]
}

/// What the sources say that is not fine.
pub(in crate::cli) fn why(node: &Node) -> String {
    let said = node.findings.iter().filter(|finding| finding.verdict != "up");
    // What has not been asked says nothing.
    let said = said.filter(|finding| finding.verdict != "unknown" || finding.why.is_some());
    let said = said.map(|finding| {
        let Finding {
            source,
            endpoint,
            verdict,
            why,
        } = finding;
        let endpoint = endpoint
            .as_ref()
            .map_or(String::new(), |endpoint| format!(" of {endpoint}"));
        let why = why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
        format!("{source}{endpoint}: {verdict}{why}")
    });
    said.collect::<Vec<_>>().join("; ")
}

/// The states of its endpoints, in one word where they agree.
pub(in crate::cli) fn state(node: &Node) -> String {
    if node.is_removed {
        return "removed".to_owned();
    }
    let mut states = node.endpoints.iter().map(|endpoint| &*endpoint.state);
    match states.next() {
        Some(first) if states.all(|state| state == first) => first.to_owned(),
        _ => {
            let each = node.endpoints.iter().map(|e| format!("{} {}", e.endpoint, e.state));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_node_is_one_segment_of_a_path() {
        assert_eq!(path("emqx1", ""), "/api/v1/nodes/emqx1");
        assert_eq!(path("a<b", ""), "/api/v1/nodes/a%3Cb");
        assert_eq!(path("a/b ?#%é", "drain"), "/api/v1/nodes/a%2Fb%20%3F%23%25%C3%A9/drain");
    }
}
