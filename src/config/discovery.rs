//! Resolves where further nodes are found, and the `[[nodes]]` that stands for each of them.

use std::time::Duration;

use super::choices::SourceWord;
use super::file;
use super::problem::{Place, Problem};
use super::reader::Field;
use super::tls;
use crate::cluster::{Member, NodeAddress, NodeApi};
use crate::control::{self, HOST_OF_FOUND, SourceKind};
use crate::net::tls::Nodes;

/// The time between two questions: EMQX gathers its answer from all nodes, which is work for them.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);

/// Reading a file costs little.
const INTERVAL_OF_FILE: Duration = Duration::from_secs(2);

/// Longer than a node takes to restart.
const GRACE_DEFAULT: Duration = Duration::from_secs(60);

/// Whether the host is that of each node that is found.
pub(super) fn is_of_found(address: &NodeAddress) -> bool {
    matches!(address, NodeAddress::Host(host, _) if host == HOST_OF_FOUND)
}

/// Whether an address of the node has the host of a node that is found.
pub(super) fn names_found(member: &Member) -> bool {
    let endpoints = member.endpoints.iter().map(|(_, endpoint)| &endpoint.address);
    let api = member.api.iter().map(|api| &api.address);
    endpoints.chain(api).any(is_of_found)
}

/// The name of a template, which has none: nodes that are found have their own.
pub(super) fn no_name(name: &Field<String>, problems: &mut Vec<Problem>) -> Option<String> {
    if let Some(given) = name.as_set() {
        let problem = given.place.problem("has no effect beside an address with {host}");
        problems.push(problem.hint("leave the key out: nodes that are found have their own names"));
    }
    Some(String::new())
}

/// Keeps the one template.
pub(super) fn one_template(
    template: &mut Option<(Member, Place)>,
    member: Member,
    place: Place,
    problems: &mut Vec<Problem>,
) {
    match template {
        Some((_, first)) => {
            let problem = place.problem("a second table for nodes that are found");
            problems.push(problem.other(first, "the first one"));
        }
        None => *template = Some((member, place)),
    }
}

/// Where nodes are found.
pub(super) fn resolve(
    written: file::Discovery,
    template: Option<(Member, Place)>,
    secured: Option<&Nodes>,
    problems: &mut Vec<Problem>,
) -> Option<control::Discovery> {
    let file::Discovery {
        source,
        seeds,
        name,
        name_servers,
        file,
        interval,
        grace,
    } = written;
    let place = source.as_set().map(|given| given.place.clone());
    let (source, template) = match (source.or(SourceWord::Off), template) {
        (SourceWord::Off, None) => return None,
        (SourceWord::Off, Some((_, place))) => {
            let problem = place.problem("{host} is known of no node, since none is looked for");
            problems.push(problem.hint("a [discovery] with source = \"emqx\" finds nodes"));
            return None;
        }
        (SourceWord::Emqx | SourceWord::Dns, None) => {
            let problem = place?.problem("no [[nodes]] says which listeners the nodes that are found have");
            problems
                .push(problem.hint("one with address = \"{host}:1883\" and without a name stands for each of them"));
            return None;
        }
        (SourceWord::Emqx, Some((template, _))) => (SourceKind::Emqx, Some(template)),
        (SourceWord::Dns, Some((template, _))) => (SourceKind::Dns, Some(template)),
        (SourceWord::File, None) => (SourceKind::File, None),
        (SourceWord::File, Some((_, place))) => {
            let problem =
                place.problem("{host} is known of no node: those that a file lists have addresses of their own");
            problems.push(problem.hint("leave the table out, or name a node and its host"));
            return None;
        }
    };
    let seeds: Vec<NodeApi> = seeds
        .or_default()
        .into_iter()
        .map(|seed| {
            let (address, has_tls) = seed.value;
            NodeApi {
                tls: has_tls.then(|| tls::to_node(secured, None, &address)).flatten(),
                address,
            }
        })
        .collect();
    let name = name.value();
    let lacks = match source {
        SourceKind::Emqx if seeds.is_empty() => Some((
            "there is no API to ask",
            "name one or more nodes: seeds = [\"http://10.0.0.11:18083\"]",
        )),
        SourceKind::Dns if name.is_none() => Some((
            "there is no name to ask for",
            "name a service, or a host: name = \"_mqtt._tcp.emqx.default.svc.cluster.local\"",
        )),
        SourceKind::File if file.as_set().is_none() => Some((
            "there is no file to read",
            "name one, whose [[nodes]] have the keys of those here: file = \"nodes.toml\"",
        )),
        _ => None,
    };
    if let Some((lacks, hint)) = lacks {
        problems.push(place?.problem(lacks).hint(hint));
        return None;
    }
    let source = control::Source {
        kind: source,
        seeds,
        name,
        name_servers: name_servers
            .or_default()
            .into_iter()
            .map(|server| server.value)
            .collect(),
        // Of another source, it is left over.
        file: (file.value().filter(|_| source == SourceKind::File)).map(|file| file.path),
    };
    let interval_default = match source.kind {
        SourceKind::Emqx | SourceKind::Dns => INTERVAL_DEFAULT,
        SourceKind::File => INTERVAL_OF_FILE,
    };
    Some(control::Discovery {
        source,
        interval: interval.or(interval_default),
        grace: grace.or(GRACE_DEFAULT),
        template,
    })
}
