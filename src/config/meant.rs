//! The step from the file as written to the settings as meant: fills in what is left out, from the parts' own defaults,
//! and finds what contradicts itself. Tables and settings are taken apart whole, so that no key can be forgotten.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::problem::{Place, Problem};
use super::reader::{Given, Written, quoted};
use super::units::duration_text;
use super::{Config, file, tls};
use crate::cluster::{Endpoints, MemberEndpoint, NodeAddress};
use crate::{
    accept, admin, cluster, control, dial, drain, greet, log, peek, proxy_protocol, relay, route,
    websocket,
};

/// What all weights may add up to: the most nodes, each of the usual weight. A ring of more would take seconds and
/// gigabytes to build.
const WEIGHTS_MAX: usize = cluster::NODES_MAX * cluster::WEIGHT_DEFAULT as usize;

/// The settings that `file` means. Worth something only while `problems` stays empty.
pub(super) fn config(file: file::File, base: &Path, problems: &mut Vec<Problem>) -> Config {
    let file::File {
        workers,
        listeners,
        nodes,
        nodes_tls,
        affinity,
        limits,
        timeouts,
        keepalive,
        dial,
        greet,
        relay,
        health,
        drain,
        admin,
        log,
    } = file;
    let limits = limits.or_default();
    let timeouts = timeouts.or_default();
    let health = health.or_default();
    note_contradictions(&timeouts, &health, problems);
    note_loops(&listeners, &nodes, problems);
    note_passing(&listeners, &nodes, problems);

    let file::Timeouts {
        connect,
        dial: dial_timeout,
        greet: greet_timeout,
        greet_total,
        linger,
        idle_slack,
        idle_max,
        user_timeout,
    } = timeouts;
    Config {
        workers: workers.value().and_then(NonZeroUsize::new),
        listeners: all_listeners(listeners, base, problems),
        nodes: all_nodes(nodes, nodes_tls, base, problems),
        affinity: affinity_settings(affinity.or_default()),
        limits: connection_limits(&limits),
        peek: peek_limits(connect, limits),
        dial: dial::Settings {
            timeout: dial_timeout.or(dial::Settings::default().timeout),
            sources: all_sources(dial.or_default(), problems),
            keepalive: keepalive_settings(keepalive.or_default()),
            user_timeout: user_timeout.or(dial::Settings::default().user_timeout),
        },
        greet: greet_settings(greet_timeout, greet_total, greet.or_default()),
        relay: relay_settings(linger, idle_slack, idle_max, relay.or_default()),
        control: control_settings(health),
        drain: drain_settings(drain.or_default()),
        admin: admin_settings(admin.or_default()),
        log: log_settings(log.or_default()),
    }
}

fn all_listeners(
    written: Written<Vec<Given<file::Listener>>>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<accept::Listener> {
    let listeners = at_least_one(written, "listeners", "address = \"0.0.0.0:1883\"", problems);
    note_repeats(
        // Port 0 takes another free port each time.
        given(&listeners, |l| &l.address).filter(|(address, _)| address.port() != 0),
        |address| format!("{address} is listened on twice"),
        "give each listener its own address or port",
        problems,
    );
    note_repeats(
        given(&listeners, |l| &l.name),
        |name| format!("two listeners are called {}", quoted(name)),
        "give each listener its own name, or none",
        problems,
    );
    listeners
        .into_iter()
        .filter_map(|Given { value, place }| {
            let file::Listener {
                name,
                address,
                transport,
                tls,
                certificates,
                tls_min,
                client_certificates,
                client_ca,
                client_crl,
                paths,
                origins,
                allow,
                deny,
                proxy_protocol_from,
                connections_max,
            } = value;
            let address = required(address, &place, "address = \"0.0.0.0:1883\"", problems)?;
            let transport = transport_of(transport, paths, origins, problems);
            let protocol = match transport {
                accept::Transport::Tcp => "mqtt",
                accept::Transport::Ws(_) => "http/1.1",
            };
            let tls = tls::Listener {
                tls,
                certificates,
                tls_min,
                client_certificates,
                client_ca,
                client_crl,
                place,
            };
            Some(accept::Listener {
                name: name.value().unwrap_or_else(|| address.to_string()),
                address,
                transport,
                tls: tls.meant(protocol, base, problems),
                allow: values(allow),
                deny: values(deny),
                proxy_protocol_from: values(proxy_protocol_from),
                connections_max: connections_max.value(),
            })
        })
        .collect()
}

fn transport_of(
    transport: Written<file::TransportWord>,
    paths: Written<Vec<Given<String>>>,
    origins: Written<Vec<Given<String>>>,
    problems: &mut Vec<Problem>,
) -> accept::Transport {
    match transport.or(file::TransportWord::Tcp) {
        file::TransportWord::Ws => {
            let default = websocket::Door::default();
            if let Some(empty) = paths.as_given().filter(|paths| paths.value.is_empty()) {
                let problem = empty.place.problem("no client can come in without a path");
                problems.push(problem.hint("name one, or leave the key out for \"/mqtt\""));
            }
            accept::Transport::Ws(websocket::Door {
                paths: match paths.as_given() {
                    Some(_) => values(paths),
                    None => default.paths,
                },
                origins: values(origins),
            })
        }
        file::TransportWord::Tcp => {
            let default = websocket::Door::default();
            for (written, default) in [(&paths, default.paths), (&origins, default.origins)] {
                let Some(only_ws) = written.as_given() else {
                    continue;
                };
                // What holds without it may be said.
                if !only_ws.value.iter().map(|given| &given.value).eq(&default) {
                    let problem = only_ws.place.problem("means nothing without WebSocket");
                    problems.push(problem.hint("add transport = \"ws\", or leave the key out"));
                }
            }
            accept::Transport::Tcp
        }
    }
}

fn all_nodes(
    written: Written<Vec<Given<file::Node>>>,
    nodes_tls: Written<file::NodesTls>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<cluster::Member> {
    let nodes = at_least_one(
        written,
        "nodes",
        "name = \"emqx1\" and address = \"10.0.0.11:1883\"",
        problems,
    );
    if let Some(first_too_many) = nodes.get(cluster::NODES_MAX) {
        let message = format!("{} nodes are too many", nodes.len());
        let hint = format!("a cluster has at most {} nodes", cluster::NODES_MAX);
        problems.push(first_too_many.place.problem(message).hint(hint));
    }
    let weight = |node: &Given<file::Node>| match &node.value.weight {
        Written::Given(weight) => usize::from(weight.value),
        Written::Absent | Written::Wrong => usize::from(cluster::WEIGHT_DEFAULT),
    };
    let weights: usize = nodes.iter().map(weight).sum();
    if let Some(heaviest) = nodes.iter().max_by_key(|node| weight(node))
        && nodes.len() <= cluster::NODES_MAX
        && weights > WEIGHTS_MAX
    {
        let message = format!("all weights add up to {weights}, more than {WEIGHTS_MAX}");
        let hint = "only their proportions count: divide all of them by the same number";
        problems.push(heaviest.place.problem(message).hint(hint));
    }
    note_repeats(
        given(&nodes, |n| &n.name),
        |name| format!("two nodes are called {}", quoted(name)),
        "give each node its own name: clients are tied to it",
        problems,
    );
    note_repeats(
        given(&nodes, |n| &n.address).map(|((address, _), place)| (address.to_string(), place)),
        |address| format!("two nodes are at {address}"),
        "name each node once; a larger share is a larger weight",
        problems,
    );
    let mqtts = given(&nodes, |n| &n.address).filter(|((_, has_tls), _)| *has_tls);
    let wss = given(&nodes, |n| &n.ws).filter(|(ws, _)| ws.has_tls);
    let needed_at = mqtts
        .map(|(_, place)| place)
        .chain(wss.map(|(_, place)| place))
        .next();
    let secured = tls::nodes(nodes_tls, needed_at, base, problems);
    nodes
        .into_iter()
        .filter_map(|Given { value, place }| {
            let file::Node {
                name,
                address,
                server_name,
                proxy_protocol,
                ws,
                ws_proxy_protocol,
                pass,
                pass_proxy_protocol,
                weight,
            } = value;
            note_no_listener(&ws_proxy_protocol, &ws, "ws", problems);
            note_no_listener(&pass_proxy_protocol, &pass, "pass", problems);
            let name = required(name, &place, "name = \"emqx1\"", problems);
            let address = required(address, &place, "address = \"10.0.0.11:1883\"", problems);
            let server_name = server_name.value();
            let to_node = |has_tls: bool, address: &NodeAddress| {
                let secured =
                    has_tls.then(|| tls::to_node(secured.as_ref(), server_name.as_ref(), address));
                secured.flatten()
            };
            let (address, has_tls) = address?;
            Some(cluster::Member {
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
                weight: weight.or(cluster::WEIGHT_DEFAULT),
            })
        })
        .collect()
}

/// Notes what is said of a listener that the node does not have.
fn note_no_listener<T>(
    proxy_protocol: &Written<Option<proxy_protocol::Version>>,
    listener: &Written<T>,
    key: &str,
    problems: &mut Vec<Problem>,
) {
    if let (
        Some(Given {
            value: Some(_),
            place,
        }),
        Written::Absent,
    ) = (proxy_protocol.as_given(), listener)
    {
        let problem = place.problem(format!("means nothing without {key}"));
        problems.push(problem.hint(format!("add {key}, or leave the key out")));
    }
}

fn affinity_settings(written: file::Affinity) -> route::Affinity {
    let file::Affinity {
        key,
        seed,
        placements_max,
        placement_age_max,
    } = written;
    let default = route::Affinity::default();
    route::Affinity {
        key: key.or(default.key),
        seed: seed.or(default.seed),
        placements_max: placements_max.or(default.placements_max),
        placement_age_max: placement_age_max.or(default.placement_age_max),
    }
}

fn connection_limits(written: &file::Limits) -> accept::Limits {
    let file::Limits {
        connections,
        connections_per_source,
        undecided,
        handshakes,
        held_bytes: _,
    } = written;
    let given = |written: &Written<usize>| written.as_given().map(|given| given.value);
    let default = accept::Limits::default();
    accept::Limits {
        connections_max: given(connections).or(default.connections_max),
        connections_per_source_max: given(connections_per_source)
            .or(default.connections_per_source_max),
        undecided_max: given(undecided).unwrap_or(default.undecided_max),
        handshakes_max: given(handshakes).unwrap_or(default.handshakes_max),
    }
}

fn peek_limits(connect: Written<Duration>, written: file::Limits) -> peek::Limits {
    let file::Limits { held_bytes, .. } = written;
    let default = peek::Limits::default();
    peek::Limits {
        deadline: connect.or(default.deadline),
        held_bytes_max: held_bytes.or(default.held_bytes_max),
    }
}

fn all_sources(written: file::Dial, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let file::Dial { sources } = written;
    let sources = sources.or_default();
    note_repeats(
        sources.iter().map(|source| (source.value, &source.place)),
        |source| format!("{source} is there twice"),
        "name each address once",
        problems,
    );
    sources.into_iter().map(|source| source.value).collect()
}

fn keepalive_settings(written: file::Keepalive) -> dial::Keepalive {
    let file::Keepalive {
        idle,
        interval,
        count,
    } = written;
    let default = dial::Settings::default().keepalive;
    dial::Keepalive {
        idle: idle.or(default.idle),
        interval: interval.or(default.interval),
        count: count.or(default.count),
    }
}

fn greet_settings(
    timeout: Written<Duration>,
    total: Written<Duration>,
    written: file::Greet,
) -> greet::Settings {
    let file::Greet { refuse } = written;
    let default = greet::Settings::default();
    greet::Settings {
        timeout: timeout.or(default.timeout),
        deadline: total.or(default.deadline),
        refuse: refuse.or(default.refuse),
    }
}

fn relay_settings(
    linger: Written<Duration>,
    idle_slack: Written<Duration>,
    idle_max: Written<Duration>,
    written: file::Relay,
) -> relay::Settings {
    let file::Relay { splice } = written;
    let default = relay::Settings::default();
    relay::Settings {
        linger: linger.or(default.linger),
        idle_slack: idle_slack.or(default.idle_slack),
        idle_max: idle_max.value().or(default.idle_max),
        splice: splice.or(default.splice),
        pipes_max: default.pipes_max,
    }
}

fn control_settings(written: file::Health) -> control::Settings {
    let file::Health {
        failures_max,
        down_min,
        down_max,
        resolve_interval,
    } = written;
    let default = control::Settings::default();
    control::Settings {
        failures_max: failures_max.or(default.failures_max),
        down_min: down_min.or(default.down_min),
        down_max: down_max.or(default.down_max),
        resolve_interval: resolve_interval.or(default.resolve_interval),
    }
}

fn drain_settings(written: file::Drain) -> drain::Settings {
    let file::Drain { delay, rate, grace } = written;
    let default = drain::Settings::default();
    drain::Settings {
        delay: delay.or(default.delay),
        rate: rate.or(default.rate),
        grace: grace.or(default.grace),
    }
}

fn admin_settings(written: file::Admin) -> admin::Settings {
    let file::Admin { enabled, address } = written;
    match (enabled.or(true), address.value()) {
        (false, _) => admin::Settings::Off,
        (true, Some(address)) => admin::Settings::At(address),
        (true, None) => admin::Settings::Default,
    }
}

fn log_settings(written: file::Log) -> log::Settings {
    let file::Log {
        level,
        format,
        connections,
    } = written;
    let default = log::Settings::default();
    log::Settings {
        level: level.or(default.level),
        format: format.or(default.format),
        connections: connections.or(default.connections),
    }
}

/// The tables of a list that needs one at least; empty when they could not be read.
fn at_least_one<T>(
    written: Written<Vec<Given<T>>>,
    key: &str,
    example: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Given<T>> {
    let hint = format!("add a [[{key}]] with {example}");
    match written {
        Written::Absent => {
            let problem = Problem::of_file(format!("{key}: there are none"));
            problems.push(problem.hint(hint));
            Vec::new()
        }
        Written::Wrong => Vec::new(),
        Written::Given(Given { value, place }) => {
            if value.is_empty() {
                problems.push(place.problem("there are none").hint(hint));
            }
            value
        }
    }
}

/// The value of a key without a default, in the table at `table`; `example` begins with the key.
fn required<T>(
    written: Written<T>,
    table: &Place,
    example: &str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    if let Written::Absent = written {
        let key = example.split(' ').next().unwrap_or_default();
        let place = table.below(key, table.span.clone());
        problems.push(place.problem("is missing").hint(format!("add {example}")));
    }
    written.value()
}

/// What the tables of a list say about one key, where they say it.
fn given<'a, T, V: 'a>(
    tables: &'a [Given<T>],
    key: impl Fn(&'a T) -> &'a Written<V>,
) -> impl Iterator<Item = (&'a V, &'a Place)> {
    tables
        .iter()
        .filter_map(move |table| key(&table.value).as_given())
        .map(|given| (&given.value, &given.place))
}

fn values<T>(written: Written<Vec<Given<T>>>) -> Vec<T> {
    let items = written.or_default();
    items.into_iter().map(|item| item.value).collect()
}

/// Notes what keeps a client whose TLS is passed on from a node.
fn note_passing(
    listeners: &Written<Vec<Given<file::Listener>>>,
    nodes: &Written<Vec<Given<file::Node>>>,
    problems: &mut Vec<Problem>,
) {
    let (Some(listeners), Some(nodes)) = (listeners.as_given(), nodes.as_given()) else {
        return;
    };
    let passing = |listener: &&Given<file::Listener>| {
        let tls = listener.value.tls.as_given();
        tls.is_some_and(|tls| tls.value == tls::TlsWord::Pass)
    };
    let mut passes = false;
    for listener in listeners.value.iter().filter(passing) {
        passes = true;
        if let Some(ws) = listener.value.transport.as_given()
            && matches!(ws.value, file::TransportWord::Ws)
        {
            let problem = ws.place.problem("cannot be seen in TLS that is passed on");
            problems.push(problem.hint("leave the key out: whatever is in it passes untouched"));
        }
    }
    for node in &nodes.value {
        if passes && matches!(node.value.pass, Written::Absent) {
            let place = node.place.below("pass", node.place.span.clone());
            let hint = "add pass = \"10.0.0.11:8883\": where TLS ends that a listener passes on";
            problems.push(place.problem("is missing").hint(hint));
        }
    }
}

/// Notes every value that was there before; `message` says so.
fn note_repeats<'a, T: Eq + Hash>(
    all: impl Iterator<Item = (T, &'a Place)>,
    message: impl Fn(&T) -> String,
    hint: &str,
    problems: &mut Vec<Problem>,
) {
    let mut seen: HashMap<T, &Place> = HashMap::new();
    for (value, place) in all {
        match seen.get(&value) {
            Some(first) => {
                let problem = place.problem(message(&value)).other(first, "first here");
                problems.push(problem.hint(hint));
            }
            None => {
                seen.insert(value, place);
            }
        }
    }
}

/// Notes nodes that are one of our own listeners: each connection would come back in for ever.
fn note_loops(
    listeners: &Written<Vec<Given<file::Listener>>>,
    nodes: &Written<Vec<Given<file::Node>>>,
    problems: &mut Vec<Problem>,
) {
    let (Some(listeners), Some(nodes)) = (listeners.as_given(), nodes.as_given()) else {
        return;
    };
    let leads_to = |node: SocketAddr, listener: SocketAddr| {
        let everywhere = listener.ip().is_unspecified() && node.ip().is_loopback();
        node.port() == listener.port() && (everywhere || node.ip() == listener.ip())
    };
    let plain = given(&nodes.value, |n| &n.address).map(|((address, _), place)| (address, place));
    let ws = given(&nodes.value, |n| &n.ws).map(|(ws, place)| (&ws.address, place));
    let pass = given(&nodes.value, |n| &n.pass);
    for (address, place) in plain.chain(ws).chain(pass) {
        let NodeAddress::Socket(address) = *address else {
            continue;
        };
        let listener = given(&listeners.value, |l| &l.address)
            .find(|(listener, _)| leads_to(address, **listener));
        if let Some((_, listener_place)) = listener {
            let problem = place
                .problem(format!("{address} leads back to this balancer"))
                .other(listener_place, "it listens here")
                .hint("give the node another port than the listener, or another address");
            problems.push(problem);
        }
    }
}

/// Notes durations of which one leaves no room for another.
fn note_contradictions(
    timeouts: &file::Timeouts,
    health: &file::Health,
    problems: &mut Vec<Problem>,
) {
    let peek = peek::Limits::default();
    let dial = dial::Settings::default();
    let greet = greet::Settings::default();
    let control = control::Settings::default();
    note_order(
        [
            Side::new("timeouts.connect", &timeouts.connect, peek.deadline),
            Side::new("timeouts.dial", &timeouts.dial, dial.timeout),
            Side::new("timeouts.greet", &timeouts.greet, greet.timeout),
        ],
        Side::new(
            "timeouts.greet_total",
            &timeouts.greet_total,
            greet.deadline,
        ),
        "greet_total runs from accept to the accepted CONNACK, over all the others",
        problems,
    );
    note_order(
        [Side::new(
            "health.down_min",
            &health.down_min,
            control.down_min,
        )],
        Side::new("health.down_max", &health.down_max, control.down_max),
        "the time that a node stays down doubles from down_min to down_max",
        problems,
    );
}

/// One of two durations that are compared.
struct Side<'a> {
    path: &'static str,
    value: Duration,
    /// Where it is written; none for a default.
    place: Option<&'a Place>,
}

impl<'a> Side<'a> {
    /// None when what is written could not be read.
    fn new(path: &'static str, written: &'a Written<Duration>, default: Duration) -> Option<Self> {
        let (value, place) = match written {
            Written::Absent => (default, None),
            Written::Wrong => return None,
            Written::Given(given) => (given.value, Some(&given.place)),
        };
        Some(Self { path, value, place })
    }
}

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_default = if self.place.is_none() {
            " by default"
        } else {
            ""
        };
        write!(
            f,
            "{}, which is {}{by_default}",
            self.path,
            duration_text(self.value)
        )
    }
}

/// Notes each of `shorts` that is longer than `long`; where only `long` is written, it is to blame, and once.
fn note_order<'a>(
    shorts: impl IntoIterator<Item = Option<Side<'a>>>,
    long: Option<Side<'a>>,
    why: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(long) = long else {
        return;
    };
    let mut long_is_noted = false;
    for short in shorts
        .into_iter()
        .flatten()
        .filter(|short| short.value > long.value)
    {
        let longer = |place: &Place| {
            let message = format!("{} is longer than {long}", duration_text(short.value));
            place.problem(message).hint(why)
        };
        match (short.place, long.place) {
            (Some(place), Some(other)) => {
                problems.push(longer(place).other(other, "the shorter one"))
            }
            (Some(place), None) => problems.push(longer(place)),
            (None, Some(_)) if long_is_noted => {}
            (None, Some(place)) => {
                long_is_noted = true;
                let message = format!("{} is shorter than {short}", duration_text(long.value));
                problems.push(place.problem(message).hint(why));
            }
            (None, None) => debug_assert!(false, "the defaults contradict: {short}; {long}"),
        }
    }
}
