//! The first look in plain HTML: nodes, their states and why, clients, and what has changed lately.

use std::fmt::{self, Display, Write};

use super::html::{Text, escaped};
use crate::admin::api::answers::{Connection, Event, NodeOverview};
use crate::admin::api::{Look, WholeLook};

/// Whether all is fine, if that is said, and why.
pub(super) fn sentence(look: &Look) -> (Option<bool>, &str) {
    match look {
        Look::Closed => (None, "It is shown to those who have the token."),
        Look::Starting => (Some(false), "The process has not started yet."),
        Look::Open { is_fine, sentence, .. } => (Some(*is_fine), sentence),
        Look::Whole(whole) => (Some(whole.overview.is_fine), &whole.overview.sentence),
    }
}

/// The first look.
pub(super) fn html(look: &Look) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = match look {
        Look::Closed | Look::Starting => Ok(()),
        Look::Open { nodes, .. } => open(&mut page, nodes),
        Look::Whole(look) => whole(&mut page, look),
    };
    page
}

fn open(page: &mut String, nodes: &[(String, &'static str, usize)]) -> fmt::Result {
    let rows = nodes
        .iter()
        .map(|(name, state, connections)| [escaped(name), mark(state), connections.to_string()]);
    table(page, "Nodes", ["Node", "State", "Connections"], rows)?;
    page.push_str("<p class=\"hint\">This is what the metrics say to all.</p>");
    Ok(())
}

fn whole(page: &mut String, look: &WholeLook) -> fmt::Result {
    let WholeLook {
        overview,
        clients,
        events,
    } = look;
    table(
        page,
        "Nodes",
        [
            "Node",
            "State",
            "Why",
            "Weight",
            "Share",
            "Connections",
            "CONNECTs/s",
            "Refused",
            "Failures",
        ],
        overview.nodes.iter().map(node),
    )?;
    let heading = format!("Clients, {} of {}", clients.len(), overview.status.connections);
    table(
        page,
        &heading,
        [
            "Client",
            "Node",
            "Why there",
            "Home",
            "Address",
            "For",
            "Bytes from it",
            "Bytes to it",
        ],
        clients.iter().map(client),
    )?;
    table(
        page,
        "Latest events",
        ["Time", "What", "Of"],
        events.iter().rev().map(event),
    )?;
    table(
        page,
        "How connections ended",
        ["Cause", "In all", "Last ten minutes"],
        overview
            .ends
            .iter()
            .map(|end| [escaped(&end.cause), end.count.to_string(), end.recent.to_string()]),
    )
}

fn node(found: &NodeOverview) -> [String; 9] {
    let failing = found.node.findings.iter().filter(|finding| finding.verdict != "up");
    let why: Vec<String> = failing
        .map(|finding| {
            let about = finding
                .endpoint
                .as_ref()
                .map_or(String::new(), |endpoint| format!(" of {endpoint}"));
            let why = finding.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
            format!("{}{about}: {}{why}", finding.source, finding.verdict)
        })
        .collect();
    [
        escaped(&found.node.node),
        mark(&found.state),
        escaped(&why.join("; ")),
        found.node.weight.to_string(),
        found
            .share
            .map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0)),
        found.node.connections.to_string(),
        format!("{:.1}", found.connects_per_second),
        found.recent.refused.to_string(),
        found.recent.failures.to_string(),
    ]
}

fn client(found: &Connection) -> [String; 8] {
    [
        format!("<bdi>{}</bdi>", Text(&found.client_id)),
        escaped(&found.node),
        escaped(found.route.as_deref().unwrap_or("–")),
        escaped(found.home.as_deref().unwrap_or("–")),
        escaped(&found.client),
        format!("{} s", found.seconds),
        found.from_client.to_string(),
        found.from_node.to_string(),
    ]
}

/// An event, whose fields are those of its JSON.
fn event(found: &Event) -> [String; 3] {
    let value = serde_json::to_value(&found.change).unwrap_or_default();
    let fields = value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| *name != "kind" && !value.is_null());
    let fields: Vec<String> = fields
        .map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}: {text}"),
            None => format!("{name}: {value}"),
        })
        .collect();
    let kind = value["kind"].as_str().unwrap_or_default().replace('_', " ");
    [escaped(&found.timestamp), escaped(&kind), escaped(&fields.join(", "))]
}

/// The state of a node, with its colour.
fn mark(state: &str) -> String {
    format!(
        "<span class=\"mark {}\">{}</span>",
        state.replace(' ', "-"),
        Text(state)
    )
}

/// A table of cells that are HTML already.
fn table<const N: usize>(
    page: &mut String,
    heading: &str,
    columns: [&str; N],
    rows: impl Iterator<Item = [impl Display; N]>,
) -> fmt::Result {
    write!(
        page,
        "<section class=\"panel\"><h2>{}</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><thead><tr>",
        Text(heading)
    )?;
    for column in columns {
        write!(page, "<th scope=\"col\">{}</th>", Text(column))?;
    }
    page.push_str("</tr></thead><tbody>");
    let mut count = 0;
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            write!(page, "<td>{cell}</td>")?;
        }
        page.push_str("</tr>");
        count += 1;
    }
    if count == 0 {
        write!(page, "<tr><td colspan=\"{N}\">none</td></tr>")?;
    }
    page.push_str("</tbody></table></div></section>");
    Ok(())
}
