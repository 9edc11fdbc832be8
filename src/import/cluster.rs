//! Merges the nodes of all services into those of one cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::address::Port;
use super::environment;
use super::model::{Kind, Server, Service, is_name};
use super::report::Report;
use super::text::{Place, printable};
use super::whole;

/// Most nodes of a cluster.
const NODES_MAX: usize = 1024;

/// What all weights may add up to.
const WEIGHTS_MAX: u64 = 102_400;

/// A node of the cluster: the server of each kind of service.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) mqtt: Server,
    pub(super) ws: Option<Server>,
    pub(super) pass: Option<Server>,
}

/// Merges the nodes of all services into those of one cluster. Returns the services that can lead to it.
pub(super) fn cluster(services: Vec<Service>, report: &mut Report) -> (Vec<Node>, Vec<Service>) {
    whole::check(&services, report);
    let first = services
        .iter()
        .filter(|service| !service.servers.is_empty())
        .min_by_key(|service| service.kind);
    let Some(first) = first else {
        return (Vec::new(), Vec::new());
    };
    let mut nodes = first_nodes(first, report);
    let (first_kind, first_pool) = (first.kind, first.pool.clone());
    let mut kept = Vec::new();
    for service in services {
        if service.servers.is_empty() {
            continue;
        }
        let matched = matches(&nodes, &service);
        if matched.iter().all(Option::is_none) {
            for listener in &service.listeners {
                report.lost(
                    listener.place,
                    format!(
                        "the nodes of {} are none of {}, and Remora has one cluster",
                        printable(&service.pool),
                        printable(&first_pool)
                    ),
                    "run a second Remora for the other cluster, with a configuration of its own",
                );
            }
            continue;
        }
        if service.kind == Kind::Pass && passes_elsewhere(&nodes, &service, &matched) {
            for listener in &service.listeners {
                report.lost(
                    listener.place,
                    format!(
                        "a node has one `pass`, and {} leads to another of its ports",
                        printable(&listener.address.to_string())
                    ),
                    "let TLS end here instead: tls = \"end\" with certificates, and transport = \"ws\" for WebSocket",
                );
            }
            continue;
        }
        let is_first = service.kind == first_kind && service.pool == first_pool;
        join_service(&mut nodes, &service, &matched, is_first, report);
        kept.push(service);
    }
    if first_kind != Kind::Mqtt {
        for node in &nodes {
            report.differs(
                node.mqtt.place,
                "a node needs its MQTT listener as address, which is not in the file: port 1883 is assumed",
                "probes use it, and clients without a listener of their own kind; write the right port",
            );
        }
    }
    if let Some(pass) = kept.iter().find(|service| service.kind == Kind::Pass) {
        let port = pass
            .servers
            .first()
            .map_or(Port::Number(8883), |server| server.port.clone());
        for node in nodes.iter_mut().filter(|node| node.pass.is_none()) {
            report.lost(
                node.mqtt.place,
                format!(
                    "{} is not in {}, to which TLS is passed on",
                    printable(&node.name),
                    printable(&pass.pool)
                ),
                format!("every node needs one: port {port} is assumed, write the right one to `pass`"),
            );
            node.pass = Some(Server::new(node.mqtt.host.clone(), port.clone(), pass.place));
        }
    }
    (nodes, kept)
}

/// Whether TLS is passed on to another port of a node already.
fn passes_elsewhere(nodes: &[Node], service: &Service, matched: &[Option<usize>]) -> bool {
    let mut pairs = service.servers.iter().zip(matched);
    pairs.any(|(server, index)| {
        let node = index.and_then(|index| nodes.get(index));
        node.and_then(|node| node.pass.as_ref())
            .is_some_and(|pass| pass.port != server.port)
    })
}

/// The nodes as the first service has them.
fn first_nodes(service: &Service, report: &mut Report) -> Vec<Node> {
    let distinct: BTreeSet<(&str, &Port)> = service
        .servers
        .iter()
        .map(|server| (&*server.host, &server.port))
        .collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (host, _) in distinct {
        *counts.entry(host).or_default() += 1;
    }
    let mut nodes: Vec<Node> = Vec::new();
    let mut names = BTreeSet::new();
    let mut addresses: BTreeMap<(String, Port), usize> = BTreeMap::new();
    for server in &service.servers {
        // Names of hosts have no case, those of variables do.
        let host = match environment::is_in(&server.host) {
            true => server.host.clone(),
            false => server.host.to_ascii_lowercase(),
        };
        let address = (host, server.port.clone());
        if let Some(index) = addresses.get(&address) {
            let index = *index;
            let of = |server: &Server| server.weight.map_or(1, |(weight, _)| weight);
            let sum = of(&nodes[index].mqtt).saturating_add(of(server));
            nodes[index].mqtt.weight = Some((sum, server.place));
            report.differs(
                server.place,
                format!(
                    "{} is there twice, and a node has one address",
                    printable(&server.address())
                ),
                "its weight is the sum of both; to dial from several addresses, list them in dial.sources",
            );
            continue;
        }
        if server.is_template && nodes.iter().any(|node| node.mqtt.is_template) {
            report.lost(
                server.place,
                "nodes are looked for by one name, and not by several",
                "see docs/discovery.md",
            );
            continue;
        }
        if service.kind != Kind::Mqtt && nodes.iter().any(|node| node.mqtt.host == server.host) {
            report.lost(
                server.place,
                "two nodes on one host, and their MQTT listeners are not in the file: this one is left out",
                "add it to [[nodes]] with the port of its MQTT listener",
            );
            continue;
        }
        if service.kind != Kind::Mqtt && server.port == Port::InHost {
            report.lost(
                server.place,
                "a node needs its MQTT listener as address, which is not in the file, and a variable has no host alone: this one is left out",
                "add it to [[nodes]] with the address of its MQTT listener",
            );
            continue;
        }
        if nodes.len() == NODES_MAX {
            report.lost(
                server.place,
                format!("a cluster has at most {NODES_MAX} nodes: this one and those behind it are left out"),
                "divide the clients among several clusters",
            );
            break;
        }
        let plain = match counts.get(&*server.host) {
            Some(1) => server.host.clone(),
            _ => server.address(),
        };
        let wanted = server.name.clone().filter(|name| is_name(name)).unwrap_or(plain);
        let wanted = if server.is_template {
            "{host}".to_owned()
        } else {
            wanted
        };
        let mut name = wanted.clone();
        let mut number = 2;
        while !names.insert(name.clone()) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        addresses.insert(address, nodes.len());
        let mut mqtt = server.clone();
        if service.kind != Kind::Mqtt {
            mqtt.port = Port::Number(1883);
            mqtt.has_tls = false;
            mqtt.proxy_protocol = None;
            mqtt.path = None;
        }
        nodes.push(Node {
            name,
            mqtt,
            ws: None,
            pass: None,
        });
    }
    nodes
}

/// Which node each server of a service is: by host and port, by name, by a host that is there once, or by its position among as many.
fn matches(nodes: &[Node], service: &Service) -> Vec<Option<usize>> {
    let mut by_address = BTreeMap::new();
    let mut by_host: BTreeMap<(&str, bool), Vec<usize>> = BTreeMap::new();
    // A variable that is a whole address is no host of another one.
    let is_whole = |server: &Server| server.port == Port::InHost;
    let mut by_name = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        by_address.insert((&*node.mqtt.host, &node.mqtt.port), index);
        by_host
            .entry((&*node.mqtt.host, is_whole(&node.mqtt)))
            .or_default()
            .push(index);
        by_name.insert(&*node.name, index);
    }
    let mut taken = BTreeSet::new();
    let of = |(position, server): (usize, &Server)| {
        let found = (service.kind == Kind::Mqtt)
            .then(|| by_address.get(&(&*server.host, &server.port)).copied())
            .flatten();
        let same_host = by_host
            .get(&(&*server.host, is_whole(server)))
            .map_or(&[][..], Vec::as_slice);
        let named = || {
            let index = *by_name.get(server.name.as_deref()?)?;
            let can_be = environment::is_in(&server.host) && whole::go_together(&nodes[index].mqtt, server);
            let is_one = can_be || same_host.contains(&index);
            is_one.then_some(index)
        };
        found.or_else(named).or_else(|| match same_host {
            [] => None,
            [one] => Some(*one),
            many if service.servers.len() == nodes.len() => many.contains(&position).then_some(position),
            _ => None,
        })
    };
    let found: Vec<Option<usize>> = service.servers.iter().enumerate().map(of).collect();
    found
        .into_iter()
        .map(|index| index.filter(|index| taken.insert(*index)))
        .collect()
}

/// Gives the nodes what one service knows of them.
fn join_service(nodes: &mut [Node], service: &Service, matched: &[Option<usize>], is_first: bool, report: &mut Report) {
    for (server, index) in service.servers.iter().zip(matched) {
        let Some(node) = index.and_then(|index| nodes.get_mut(index)) else {
            let address = server.address();
            let is_known = nodes
                .iter()
                .any(|node| node.mqtt.host == server.host && node.mqtt.port == server.port);
            // Of the first service, what is no node was reported.
            if !is_first && (!is_known || service.kind != Kind::Mqtt) {
                report.lost(
                    server.place,
                    format!(
                        "{} of {} is no node of the others",
                        printable(&address),
                        printable(&service.pool)
                    ),
                    "add it to [[nodes]] if it is in the same cluster",
                );
            }
            continue;
        };
        let slot = match service.kind {
            Kind::Mqtt => {
                let (ours, theirs) = (node.mqtt.clone(), server);
                if ours.port != theirs.port || ours.has_tls != theirs.has_tls {
                    report.lost(
                        theirs.place,
                        format!("{} has one MQTT listener here, {}, and not {} as well", printable(&node.name), printable(&ours.shown()), printable(&theirs.shown())),
                        "all TCP listeners lead to `address` of the node; look whether that listener of the node does the same",
                    );
                } else {
                    differs(&ours, theirs, &node.name, "proxy_protocol", report);
                }
                merge(&mut node.mqtt, theirs);
                continue;
            }
            Kind::Ws => &mut node.ws,
            Kind::Pass => &mut node.pass,
        };
        let key = if service.kind == Kind::Ws { "ws" } else { "pass" };
        match slot {
            None => *slot = Some(server.clone()),
            Some(ours) if ours.port != server.port || ours.has_tls != server.has_tls || ours.path != server.path => {
                report.lost(
                    server.place,
                    format!(
                        "{} has one `{key}` here, {}, and not {} as well",
                        printable(&node.name),
                        printable(&ours.shown()),
                        printable(&server.shown())
                    ),
                    "look whether both listeners of the node do the same",
                );
            }
            Some(ours) => differs(ours, server, &node.name, &format!("{key}_proxy_protocol"), report),
        }
        merge(&mut node.mqtt, server);
    }
}

/// Reports another PROXY header for the same listener of a node.
fn differs(ours: &Server, theirs: &Server, name: &str, key: &str, report: &mut Report) {
    let word = |server: &Server| server.proxy_protocol.map_or("off", |(version, _)| version);
    if word(ours) != word(theirs) {
        report.lost(
            theirs.proxy_protocol.map_or(theirs.place, |(_, place)| place),
            format!(
                "{} gets one kind of PROXY header on a listener, \"{}\", and not \"{}\" as well",
                printable(name),
                word(ours),
                word(theirs)
            ),
            format!("look what the node expects there, and write it to {key}"),
        );
    }
}

/// What is a node's and not a listener's: the first service that says it counts.
fn merge(node: &mut Server, server: &Server) {
    node.weight = node.weight.or(server.weight);
    node.connections_max = node.connections_max.or(server.connections_max);
    node.api = node.api.take().or_else(|| server.api.clone());
    node.server_name = node.server_name.take().or_else(|| server.server_name.clone());
}

/// The weights to write: none if all are equal.
pub(super) fn weights(nodes: &[Node]) -> Vec<Option<(u64, Place)>> {
    let given: Vec<u64> = nodes
        .iter()
        .map(|node| node.mqtt.weight.map_or(1, |(weight, _)| u64::from(weight)).max(1))
        .collect();
    let most = given.iter().copied().max().unwrap_or(1);
    if given.iter().all(|weight| *weight == most) {
        return vec![None; nodes.len()];
    }
    let factor = if most <= 10 { 100 } else { 1 };
    let sum: u64 = given.iter().map(|weight| weight * factor).sum();
    // Only proportions count.
    let divisor = sum
        .div_ceil(WEIGHTS_MAX - NODES_MAX as u64)
        .max((most * factor).div_ceil(1000))
        .max(1);
    nodes
        .iter()
        .zip(given)
        .map(|(node, weight)| {
            let place = node.mqtt.weight.map_or(node.mqtt.place, |(_, place)| place);
            Some(((weight * factor / divisor).max(1), place))
        })
        .collect()
}
