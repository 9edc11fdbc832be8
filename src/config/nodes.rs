//! Resolves nodes: those of the configuration, and those that a file lists, with the same keys.

use std::mem;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::choices::{SourceWord, TransportWord};
use super::discovery;
use super::file;
use super::notes::{at_least_one, given, note_repeats, required};
use super::problem::{Place, Problem, Problems};
use super::reader::{Field, Spanned, quoted};
use super::texts::Texts;
use super::{Config, merge, tls};
use crate::cluster;
use crate::cluster::{Endpoints, Member, MemberEndpoint, NodeAddress, NodeApi};
use crate::control::{self, NodesFormat};
use crate::net::tls::Nodes;
use crate::path::accept::Tls;
use crate::proxy_protocol;

/// MQTT's registered port for TLS, for suggestions.
const PORT_OF_TLS: u16 = 8883;

/// The nodes of the file.
pub(super) struct AllNodes {
    pub(super) members: Vec<Member>,
    /// TLS to them.
    pub(super) secured: Option<Nodes>,
    /// What stands for every node whose host is found, and its place.
    pub(super) template: Option<(Member, Place)>,
}

/// The nodes of a configuration.
pub(super) fn all(
    written: Field<Vec<Spanned<file::Node>>>,
    nodes_tls: Field<tls::NodesTls>,
    discovery: &file::Discovery,
    problems: &mut Vec<Problem>,
) -> AllNodes {
    let are_listed = matches!(discovery.source.as_set(), Some(source) if source.value == SourceWord::File);
    let nodes = match written {
        // Then they are all in that file.
        Field::Absent if are_listed => Vec::new(),
        written => at_least_one(
            written,
            "nodes",
            "name = \"emqx1\" and address = \"10.0.0.11:1883\"",
            problems,
        ),
    };
    note_set(&nodes, problems);
    let seeds = discovery.seeds.as_set().into_iter().flat_map(|seeds| &seeds.value);
    let seeds = seeds.filter(|seed| seed.value.1).map(|seed| &seed.place);
    // Whether those in that file need it is not known before it is read, and may change.
    let listed = nodes_tls.as_set().filter(|tls| {
        let tls::NodesTls {
            ca,
            insecure_skip_verify,
            ..
        } = &tls.value;
        are_listed && (ca.as_set().is_some() || insecure_skip_verify.as_set().is_some_and(|given| given.value))
    });
    let listed = listed.map(|tls| tls.place.clone());
    let needed_at = secured_at(&nodes).chain(seeds).next().or(listed.as_ref());
    let secured = tls::nodes(nodes_tls, needed_at, problems);
    let mut template = None;
    let mut members = Vec::with_capacity(nodes.len());
    for Spanned { mut value, place } in nodes {
        let name = mem::take(&mut value.name);
        let is_template = value
            .address
            .as_set()
            .is_some_and(|given| discovery::is_of_found(&given.value.0));
        let name = match is_template {
            true => discovery::no_name(&name, problems),
            false => required(name, &place, "name = \"emqx1\"", problems),
        };
        match (member(name, value, &place, secured.as_ref(), problems), is_template) {
            (Some(member), true) => discovery::one_template(&mut template, member, place, problems),
            (member, _) => members.extend(member),
        }
    }
    AllNodes {
        members,
        secured,
        template,
    }
}

/// Notes what is wrong with the nodes as a set.
fn note_set(nodes: &[Spanned<file::Node>], problems: &mut Vec<Problem>) {
    if let Some(first_too_many) = nodes.get(cluster::NODES_MAX) {
        let message = format!("{} nodes are too many", nodes.len());
        let hint = format!("a cluster has at most {} nodes", cluster::NODES_MAX);
        problems.push(first_too_many.place.problem(message).hint(hint));
    }
    let weight = |node: &Spanned<file::Node>| match &node.value.weight {
        Field::Set(weight) => usize::from(weight.value),
        Field::Absent | Field::Invalid => usize::from(cluster::WEIGHT_DEFAULT),
    };
    let weights: usize = nodes.iter().map(weight).sum();
    if let Some(heaviest) = nodes.iter().max_by_key(|node| weight(node))
        && nodes.len() <= cluster::NODES_MAX
        && weights > cluster::WEIGHTS_MAX
    {
        let message = format!("all weights add up to {weights}, more than {}", cluster::WEIGHTS_MAX);
        let hint = "only their proportions count: divide all of them by the same number";
        problems.push(heaviest.place.problem(message).hint(hint));
    }
    note_repeats(
        given(nodes, |n| &n.name),
        |name| format!("two nodes are called {}", quoted(name)),
        "give each node its own name: clients are tied to it",
        problems,
    );
    note_repeats(
        given(nodes, |n| &n.address).map(|((address, _), place)| (address.to_string(), place)),
        |address| format!("two nodes are at {address}"),
        "name each node once; a larger share is a larger weight",
        problems,
    );
}

/// The addresses that are reached with TLS.
fn secured_at(nodes: &[Spanned<file::Node>]) -> impl Iterator<Item = &Place> {
    let mqtts = given(nodes, |n| &n.address).filter(|((_, has_tls), _)| *has_tls);
    let wss = given(nodes, |n| &n.ws).filter(|(ws, _)| ws.has_tls);
    let https = given(nodes, |n| &n.api).filter(|((_, has_tls), _)| *has_tls);
    let of_clients = mqtts.map(|(_, place)| place).chain(wss.map(|(_, place)| place));
    of_clients.chain(https.map(|(_, place)| place))
}

/// The node of one table.
fn member(
    name: Option<String>,
    written: file::Node,
    place: &Place,
    secured: Option<&Nodes>,
    problems: &mut Vec<Problem>,
) -> Option<Member> {
    let file::Node {
        name: _,
        address,
        server_name,
        proxy_protocol,
        ws,
        ws_proxy_protocol,
        pass,
        pass_proxy_protocol,
        api,
        weight,
        connects_per_second,
        connections_max,
    } = written;
    note_no_listener(&ws_proxy_protocol, &ws, "ws", problems);
    note_no_listener(&pass_proxy_protocol, &pass, "pass", problems);
    let address = required(address, place, "address = \"10.0.0.11:1883\"", problems);
    let server_name = server_name.value();
    let to_node = |has_tls: bool, address: &NodeAddress| {
        let secured = has_tls.then(|| tls::to_node(secured, server_name.as_ref(), address));
        secured.flatten()
    };
    let (address, has_tls) = address?;
    Some(Member {
        name: name?,
        endpoints: Endpoints {
            mqtt: MemberEndpoint {
                tls: to_node(has_tls, &address),
                address,
                path: None,
                proxy_protocol: proxy_protocol.or(None),
            },
            ws: ws.value().map(|ws| MemberEndpoint {
                tls: to_node(ws.has_tls, &ws.address),
                address: ws.address,
                path: ws.path.map(Arc::from),
                proxy_protocol: ws_proxy_protocol.or(None),
            }),
            pass: pass.value().map(|address| MemberEndpoint {
                tls: None,
                address,
                path: None,
                proxy_protocol: pass_proxy_protocol.or(None),
            }),
        },
        api: api.value().map(|(address, has_tls)| NodeApi {
            tls: to_node(has_tls, &address),
            address,
        }),
        weight: weight.or(cluster::WEIGHT_DEFAULT),
        connects_per_second: connects_per_second.value(),
        connections_max: connections_max.value(),
    })
}

/// Notes keys about a listener that the node does not have.
fn note_no_listener<T>(
    proxy_protocol: &Field<Option<proxy_protocol::Version>>,
    listener: &Field<T>,
    key: &str,
    problems: &mut Vec<Problem>,
) {
    if let (Some(Spanned { value: Some(_), place }), Field::Absent) = (proxy_protocol.as_set(), listener) {
        let problem = place.problem(format!("has no effect without {key}"));
        problems.push(problem.hint(format!("add {key}, or leave the key out")));
    }
}

/// Notes settings that make `tls = "pass"` impossible.
pub(super) fn note_passing(
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    nodes: &Field<Vec<Spanned<file::Node>>>,
    problems: &mut Vec<Problem>,
) {
    let Some(listeners) = listeners.as_set() else {
        return;
    };
    let passing = |listener: &&Spanned<file::Listener>| {
        let tls = listener.value.tls.as_set();
        tls.is_some_and(|tls| tls.value == tls::TlsWord::Pass)
    };
    let mut passes = false;
    for listener in listeners.value.iter().filter(passing) {
        passes = true;
        if let Some(ws) = listener.value.transport.as_set()
            && matches!(ws.value, TransportWord::Ws)
        {
            let problem = ws.place.problem("has no effect with tls = \"pass\"");
            problems.push(problem.hint("leave the key out: the bytes inside TLS are not read"));
        }
    }
    if let (true, Some(nodes)) = (passes, nodes.as_set()) {
        note_no_pass(&nodes.value, problems);
    }
}

/// Notes nodes that have no endpoint for the clients of a listener with `tls = "pass"`.
fn note_no_pass(nodes: &[Spanned<file::Node>], problems: &mut Vec<Problem>) {
    for node in nodes.iter().filter(|node| matches!(node.value.pass, Field::Absent)) {
        let place = node.place.below("pass", node.place.span.clone());
        let host = match node.value.address.as_set().map(|given| &given.value.0) {
            Some(NodeAddress::Socket(address)) => SocketAddr::new(address.ip(), PORT_OF_TLS).to_string(),
            Some(NodeAddress::Host(host, _)) => format!("{host}:{PORT_OF_TLS}"),
            None => format!("10.0.0.11:{PORT_OF_TLS}"),
        };
        let hint = format!("add pass = \"{host}\", the TLS listener of the node that passed connections go to");
        problems.push(place.problem("is missing").hint(hint));
    }
}

/// Notes nodes whose address is one of our own listeners: each connection would loop for ever. A listener may have a place in the same
/// file.
pub(super) fn note_loops(
    listeners: &[(SocketAddr, Option<&Place>)],
    nodes: &[Spanned<file::Node>],
    problems: &mut Vec<Problem>,
) {
    let leads_to = |node: SocketAddr, listener: SocketAddr| {
        let everywhere = listener.ip().is_unspecified() && node.ip().is_loopback();
        node.port() == listener.port() && (everywhere || node.ip() == listener.ip())
    };
    let plain = given(nodes, |n| &n.address).map(|((address, _), place)| (address, place));
    let ws = given(nodes, |n| &n.ws).map(|(ws, place)| (&ws.address, place));
    let pass = given(nodes, |n| &n.pass);
    for (address, place) in plain.chain(ws).chain(pass) {
        let NodeAddress::Socket(address) = *address else {
            continue;
        };
        let Some((_, listener)) = listeners.iter().find(|(listener, _)| leads_to(address, *listener)) else {
            continue;
        };
        let problem = place.problem(format!("{address} leads back to this balancer"));
        let problem = match listener {
            Some(listener) => problem.other(listener, "the listener is here"),
            None => problem,
        };
        problems.push(problem.hint("give the node another port than the listener, or another address"));
    }
}

/// Reads the file in which `[discovery]` has nodes listed: as a configuration with nothing but `[[nodes]]`.
#[derive(Clone, Debug)]
pub struct ListedNodes {
    /// TLS to nodes, if the configuration has it.
    secured: Option<Nodes>,
    /// Our own listeners.
    listeners: Vec<SocketAddr>,
    /// One of them passes TLS on.
    passes: bool,
}

impl ListedNodes {
    /// For a process with this configuration.
    pub fn of(config: &Config) -> Self {
        let listeners = &config.listeners;
        Self {
            secured: config.nodes_tls.clone(),
            listeners: listeners.iter().map(|listener| listener.address).collect(),
            passes: listeners.iter().any(|listener| matches!(listener.tls, Some(Tls::Pass))),
        }
    }

    /// Reads the nodes in `file`.
    ///
    /// # Errors
    /// All problems in the file, or why it cannot be read.
    pub fn load(&self, file: &Path) -> Result<Vec<Member>, Problems> {
        let name = file.display().to_string();
        let unreadable = |why: String| {
            let texts = Texts::new(&name, "", Path::new(""));
            Problems::new(texts, vec![Problem::of_file(why)])
        };
        let bytes = control::read_nodes_file(file).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable("not UTF-8".to_owned()))?;
        self.parse(&name, &text)
    }

    /// Reads the nodes in `text`; problems show `name` as its file.
    ///
    /// # Errors
    /// All problems in the text.
    pub fn parse(&self, name: &str, text: &str) -> Result<Vec<Member>, Problems> {
        let mut problems = Vec::new();
        let texts = Texts::new(name, text, Path::new(""));
        let nodes = self.nodes(&texts, &mut problems);
        match problems.is_empty() {
            true => Ok(nodes),
            false => Err(Problems::new(texts, problems)),
        }
    }

    fn nodes(&self, texts: &Texts, problems: &mut Vec<Problem>) -> Vec<Member> {
        let text = &texts.main().text;
        if !text.is_empty() && !text.ends_with('\n') {
            let mut problem = Problem::of_file("the last line has no end, as if not all of the file was written");
            problem.span = Some(text.len()..text.len());
            problems.push(problem.hint("end it with a line break; write another file and rename it to this one"));
            return Vec::new();
        }
        let tree = match merge::parse(text) {
            Ok(tree) => tree,
            Err(problem) => {
                problems.push(*problem);
                return Vec::new();
            }
        };
        let (file::NodesFile { nodes: written }, found) = file::read::<file::NodesFile>(tree, texts);
        problems.extend(found);
        let nodes = at_least_one(
            written,
            "nodes",
            "name = \"emqx1\" and address = \"10.0.0.11:1883\"",
            problems,
        );
        note_set(&nodes, problems);
        let listeners: Vec<_> = self.listeners.iter().map(|address| (*address, None)).collect();
        note_loops(&listeners, &nodes, problems);
        if self.passes {
            note_no_pass(&nodes, problems);
        }
        if self.secured.is_none() {
            for place in secured_at(&nodes) {
                let problem = place.problem("no certificate authority is configured for this node");
                problems.push(problem.hint("add [nodes_tls] with ca = \"ca.pem\" to the configuration"));
            }
        }
        let mut members = Vec::with_capacity(nodes.len());
        for Spanned { mut value, place } in nodes {
            let name = required(mem::take(&mut value.name), &place, "name = \"emqx1\"", problems);
            let member = member(name, value, &place, self.secured.as_ref(), problems);
            if let Some(member) = &member
                && discovery::names_found(member)
            {
                let problem =
                    place.problem("{host} stands for the host of a node that is found, and is known of none here");
                problems.push(problem.hint("write the node's own host"));
            }
            members.extend(member);
        }
        members
    }
}

impl NodesFormat for ListedNodes {
    fn read(&self, file: &Path, text: &str) -> Result<Vec<Member>, String> {
        let name = file.display().to_string();
        self.parse(&name, text).map_err(|problems| problems.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const TWO: &str = "\
[[nodes]]
name = \"emqx1\"
address = \"10.0.0.11:1883\"
ws = \"ws://10.0.0.11:8083/mqtt\"
weight = 200

[[nodes]]
name = \"emqx2\"
address = \"emqx2:1883\"
proxy_protocol = \"v2\"
connections_max = 1000
";

    /// Of a process with these keys of its listener, and these tables.
    fn listed(listener: &str, tables: &str) -> ListedNodes {
        let text = format!(
            "[[listeners]]\naddress = '0.0.0.0:1883'\n{listener}\n[discovery]\nsource = 'file'\nfile = 'nodes.toml'\n{tables}"
        );
        let config = parse("remora.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(config.nodes.is_empty());
        ListedNodes::of(&config)
    }

    #[test]
    fn a_file_of_nodes_says_what_the_same_tables_of_a_configuration_say() {
        let nodes = listed("", "").parse("nodes.toml", TWO);
        let nodes = nodes.unwrap_or_else(|problems| panic!("{problems}"));
        let text = format!("[[listeners]]\naddress = '0.0.0.0:1883'\n{TWO}");
        let config = parse("remora.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(nodes, config.nodes);
        assert_eq!(nodes[0].weight, 200);
        // A program writes it as it likes.
        let inline = "nodes = [{ \"name\" = \"emqx1\", \"address\" = \"10.0.0.11:1883\" }]\n";
        let nodes = listed("", "").parse("nodes.toml", inline);
        assert_eq!(nodes.expect("a node")[0].name, "emqx1");
    }

    #[test]
    fn what_is_wrong_in_a_file_of_nodes_has_its_place() {
        let add = |more: &str| format!("{TWO}{more}");
        let node = |more: &str| add(&format!("[[nodes]]\nname = 'c'\naddress = '10.0.0.13:1883'\n{more}"));
        let many: String = (0..10_000)
            .map(|number| format!("[[nodes]]\nname = 'n{number}'\naddress = 'n{number}:1883'\n"))
            .collect();
        for (text, expected) in [
            (String::new(), "nodes.toml: nodes: at least one is required"),
            (
                "nodes = []\n".to_owned(),
                "nodes.toml:1:9: nodes: at least one is required",
            ),
            (TWO.trim_end().to_owned(), "nodes.toml:11:23: the last line has no end"),
            (add("[[nodes\n"), "nodes.toml:12:8: not TOML"),
            (node("name = 'd'\n"), "not TOML: duplicate key"),
            (node("wieght = 7\n"), "nodes.toml:15:1: nodes[2].wieght: unknown key"),
            (node("weight = 0\n"), "nodes.toml:15:10: nodes[2].weight:"),
            (add("[[nodes]]\nname = 'c'\n"), "nodes[2].address: is missing"),
            (add("[[nodes]]\naddress = 'c:1883'\n"), "nodes[2].name: is missing"),
            (
                add("[[nodes]]\nname = 'emqx2'\naddress = 'c:1883'\n"),
                "nodes.toml:13:8: nodes[2].name: two nodes are called \"emqx2\"",
            ),
            (
                add("[[nodes]]\nname = 'c'\naddress = 'emqx2:1883'\n"),
                "nodes[2].address: two nodes are at emqx2:1883",
            ),
            (
                add("[[nodes]]\nname = 'c'\naddress = '127.0.0.1:1883'\n"),
                "nodes[2].address: 127.0.0.1:1883 leads back to this balancer",
            ),
            (
                add("[[nodes]]\nname = 'c'\naddress = '{host}:1883'\n"),
                "nodes[2]: {host} stands for the host of a node that is found",
            ),
            (node("ws = '{host}:8083'\n"), "nodes[2]: {host} stands for"),
            (
                add("[[nodes]]\nname = 'c'\naddress = 'mqtts://c:8883'\n"),
                "nodes[2].address: no certificate authority is configured",
            ),
            (
                node("api = 'https://c:18084'\n"),
                "nodes[2].api: no certificate authority",
            ),
            (
                add("[[listeners]]\naddress = '0.0.0.0:1884'\n"),
                "listeners: unknown key",
            ),
            (many, "nodes.toml:3073:1: nodes[1024]: 10000 nodes are too many"),
        ] {
            let shown = &text[text.len().saturating_sub(80)..];
            let problems = listed("", "").parse("nodes.toml", &text).expect_err(shown);
            assert!(problems.first().contains(expected), "{shown}: {}", problems.first());
        }
        let problems = listed("tls = 'pass'", "")
            .parse("nodes.toml", TWO)
            .expect_err("no pass");
        let first = problems.first();
        assert!(
            first.contains("nodes[0].pass: is missing (add pass = \"10.0.0.11:8883\""),
            "{first}"
        );
        assert!(first.ends_with("), and 1 more problem"), "{first}");
        let insecure = listed("", "[nodes_tls]\ninsecure_skip_verify = true\n");
        let secured = insecure.parse("nodes.toml", "[[nodes]]\nname = 'c'\naddress = 'mqtts://c:8883'\n");
        assert!(secured.expect("a node")[0].endpoints.mqtt.tls.is_some());
    }

    #[test]
    fn no_line_that_is_cut_off_is_believed() {
        let listed = listed("", "");
        for end in 0..TWO.len() {
            let cut = &TWO[..end];
            let is_believed = listed.parse("nodes.toml", cut).is_ok();
            assert!(!is_believed || cut.ends_with('\n'), "{cut:?}");
        }
    }
}
