//! Turns the file as written into the settings as used: fills in the defaults, which the modules define, and finds contradictions.
//! Tables and settings are destructured completely, so that no key can be forgotten.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::notes::{note_repeats, required};
use super::problem::{Place, Problem};
use super::reader::{Field, Spanned, quoted};
use super::units::duration_text;
use super::{Config, credentials, discovery, file, files, overlap, tls, tokens};
use crate::admin::settings as admin;
use crate::base::heartbeat;
use crate::base::log;
use crate::cluster;
use crate::cluster::{Endpoints, MemberEndpoint, NodeAddress, NodeApi};
use crate::control;
use crate::doctor;
use crate::net::dial;
use crate::net::held;
use crate::net::tls::Nodes;
use crate::net::websocket;
use crate::path::accept;
use crate::path::affinity;
use crate::path::greet;
use crate::path::peek;
use crate::path::relay;
use crate::process::drain;
use crate::proxy_protocol;

/// The time from accept to CONNECT where TLS ends here: an RSA signature alone takes a small processor some seconds.
const SECURE_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// MQTT's registered port for TLS, for suggestions.
const PORT_OF_TLS: u16 = 8883;

/// The settings in `file`. Meaningful only if `problems` stays empty.
pub(super) fn config(file: file::File, base: &Path, problems: &mut Vec<Problem>) -> Config {
    let file::File {
        workers,
        listeners,
        nodes,
        nodes_tls,
        nodes_api,
        discovery,
        affinity,
        limits,
        timeouts,
        keepalive,
        dial,
        greet,
        pacing,
        relay,
        buffers,
        health,
        drain,
        doctor,
        watchdog,
        admin,
        log,
    } = file;
    let files = files::named(&listeners, &nodes_tls, &nodes_api, &doctor, &admin, base);
    let limits = limits.or_default();
    let timeouts = timeouts.or_default();
    let health = health.or_default();
    note_contradictions(&timeouts, &listeners, &health, problems);
    overlap::note(&listeners, &admin, problems);
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
    let secure = match (&connect, &greet_total) {
        // A time that the file gives for all listeners is meant for these as well.
        (Field::Set(_), _) => None,
        (_, Field::Set(total)) => Some(SECURE_CONNECT_TIMEOUT.min(total.value)),
        _ => Some(SECURE_CONNECT_TIMEOUT),
    };
    let listeners = all_listeners(listeners, secure, base, problems);
    let pacing = pacing.or_default();
    let connects_per_id = pacing.connects_per_id_per_minute.as_set().map(|given| given.value);
    let pacing = pacing_settings(pacing, &nodes, problems);
    let discovery = discovery.or_default();
    let AllNodes {
        members: nodes,
        secured: nodes_tls,
        template,
    } = all_nodes(nodes, nodes_tls, &discovery, base, problems);
    let discovery = discovery::resolve(discovery, template, nodes_tls.as_ref(), problems);
    let peek = peek::Limits {
        deadline: connect.or(peek::Limits::default().deadline),
    };
    let file::Buffers { client, node } = buffers.or_default();
    let user_timeout_place = user_timeout.as_set().map(|given| given.place.clone());
    let dial = dial::Settings {
        timeout: dial_timeout.or(dial::Settings::default().timeout),
        sources: all_sources(dial.or_default(), problems),
        keepalive: keepalive_settings(keepalive.or_default()),
        user_timeout: user_timeout.value(),
        client_buffer: client.or(dial::Settings::default().client_buffer),
        node_buffer: node.or(dial::Settings::default().node_buffer),
    };
    note_user_timeout(user_timeout_place, &dial, problems);
    let waiting_bytes = limits.waiting_bytes.as_set().map(|given| given.value);
    Config {
        workers: workers.value().and_then(NonZeroUsize::new),
        listeners,
        nodes,
        nodes_tls,
        affinity: affinity_settings(affinity.or_default()),
        limits: connection_limits(&limits),
        held: held_limits(&limits, &peek),
        peek,
        greet: greet_settings(greet_timeout, greet_total, connects_per_id, greet.or_default()),
        relay: relay_settings(linger, idle_slack, idle_max, waiting_bytes, relay.or_default()),
        dial,
        control: control::Settings {
            api: api_settings(nodes_api.or_default(), base, problems),
            discovery,
            ..control_settings(health, pacing)
        },
        drain: drain_settings(drain.or_default()),
        doctor: doctor_settings(doctor.or_default(), base, problems),
        watchdog: watchdog_settings(watchdog.or_default()),
        admin: admin_settings(admin.or_default(), base, problems),
        log: log_settings(log.or_default()),
        files,
        warnings: Vec::new(),
    }
}

/// All listeners; `secure` is the deadline of those whose TLS ends here, if they have none of their own.
fn all_listeners(
    written: Field<Vec<Spanned<file::Listener>>>,
    secure: Option<Duration>,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<accept::Listener> {
    let listeners = at_least_one(written, "listeners", "address = \"0.0.0.0:1883\"", problems);
    note_repeats(
        given(&listeners, |l| &l.name),
        |name| format!("two listeners are called {}", quoted(name)),
        "give each listener its own name, or leave the name out",
        problems,
    );
    listeners
        .into_iter()
        .filter_map(|Spanned { value, place }| {
            let file::Listener {
                name,
                address,
                freebind,
                transport,
                tls,
                certificates,
                tls_min,
                tls_record_max,
                client_certificates,
                client_ca,
                client_crl,
                client_crl_expired,
                paths,
                origins,
                head_max,
                allow,
                deny,
                proxy_protocol_from,
                connections_max,
                connect_timeout,
            } = value;
            let address = required(address, &place, "address = \"0.0.0.0:1883\"", problems)?;
            let transport = transport_of(transport, paths, origins, head_max, problems);
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
                client_crl_expired,
                tls_record_max,
                place,
            };
            let connect_timeout = match (&connect_timeout, &tls.tls) {
                (Field::Set(given), _) => Some(given.value),
                (_, Field::Set(word)) if word.value == tls::TlsWord::End => secure,
                _ => None,
            };
            Some(accept::Listener {
                name: name.value().unwrap_or_else(|| address.to_string()),
                address,
                freebind: freebind.or(false),
                transport,
                tls: tls.resolve(protocol, base, problems),
                allow: values(allow),
                deny: values(deny),
                proxy_protocol_from: values(proxy_protocol_from),
                connections_max: connections_max.value(),
                connect_timeout,
            })
        })
        .collect()
}

fn transport_of(
    transport: Field<file::TransportWord>,
    paths: Field<Vec<Spanned<String>>>,
    origins: Field<Vec<Spanned<String>>>,
    head_max: Field<usize>,
    problems: &mut Vec<Problem>,
) -> accept::Transport {
    match transport.or(file::TransportWord::Tcp) {
        file::TransportWord::Ws => {
            let default = websocket::AcceptPolicy::default();
            if let Some(empty) = paths.as_set().filter(|paths| paths.value.is_empty()) {
                let problem = empty.place.problem("at least one path is required");
                problems.push(problem.hint("name one, or leave the key out for \"/mqtt\""));
            }
            accept::Transport::Ws(websocket::AcceptPolicy {
                paths: match paths.as_set() {
                    Some(_) => values(paths),
                    None => default.paths,
                },
                origins: values(origins),
                head_bytes_max: head_max.or(default.head_bytes_max),
            })
        }
        file::TransportWord::Tcp => {
            let default = websocket::AcceptPolicy::default();
            for (written, default) in [(&paths, default.paths), (&origins, default.origins)] {
                let Some(only_ws) = written.as_set() else {
                    continue;
                };
                // A value that is the default anyway is no problem.
                if !only_ws.value.iter().map(|given| &given.value).eq(&default) {
                    problems.push(only_with_ws(&only_ws.place));
                }
            }
            let head_max = head_max.as_set();
            if let Some(only_ws) = head_max.filter(|head| head.value != default.head_bytes_max) {
                problems.push(only_with_ws(&only_ws.place));
            }
            accept::Transport::Tcp
        }
    }
}

fn only_with_ws(place: &Place) -> Problem {
    let problem = place.problem("has no effect without transport = \"ws\"");
    problem.hint("add transport = \"ws\", or leave the key out")
}

/// The nodes of the file.
struct AllNodes {
    members: Vec<cluster::Member>,
    /// TLS to them.
    secured: Option<Nodes>,
    /// What stands for every node that is found, and its place.
    template: Option<(cluster::Member, Place)>,
}

fn all_nodes(
    written: Field<Vec<Spanned<file::Node>>>,
    nodes_tls: Field<tls::NodesTls>,
    discovery: &file::Discovery,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> AllNodes {
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
    let needed_at = mqtts.map(|(_, place)| place).chain(wss.map(|(_, place)| place)).next();
    let https = given(&nodes, |n| &n.api).filter(|((_, has_tls), _)| *has_tls);
    let seeds = discovery.seeds.as_set().into_iter().flat_map(|seeds| &seeds.value);
    let seeds = seeds.filter(|seed| seed.value.1).map(|seed| &seed.place);
    let needed_at = needed_at.or(https.map(|(_, place)| place).chain(seeds).next());
    let secured = tls::nodes(nodes_tls, needed_at, base, problems);
    let mut template = None;
    let members = nodes
        .into_iter()
        .filter_map(|Spanned { value, place }| {
            let file::Node {
                name,
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
            } = value;
            note_no_listener(&ws_proxy_protocol, &ws, "ws", problems);
            note_no_listener(&pass_proxy_protocol, &pass, "pass", problems);
            let is_template = address
                .as_set()
                .is_some_and(|given| discovery::is_of_found(&given.value.0));
            let name = match is_template {
                true => discovery::no_name(&name, problems),
                false => required(name, &place, "name = \"emqx1\"", problems),
            };
            let address = required(address, &place, "address = \"10.0.0.11:1883\"", problems);
            let server_name = server_name.value();
            let to_node = |has_tls: bool, address: &NodeAddress| {
                let secured = has_tls.then(|| tls::to_node(secured.as_ref(), server_name.as_ref(), address));
                secured.flatten()
            };
            let (address, has_tls) = address?;
            let member = cluster::Member {
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
            };
            if is_template {
                discovery::one_template(&mut template, member, place, problems);
                return None;
            }
            Some(member)
        })
        .collect();
    AllNodes {
        members,
        secured,
        template,
    }
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

fn affinity_settings(written: file::Affinity) -> affinity::Settings {
    let file::Affinity {
        key,
        group,
        anonymous,
        clean_sessions,
        seed,
        load_max,
        placements_max,
        placement_age_max,
    } = written;
    let default = affinity::Settings::default();
    affinity::Settings {
        rule: affinity::Rule {
            key: key.or(default.rule.key),
            group: group.value(),
            anonymous: anonymous.or(default.rule.anonymous),
            clean_sessions: clean_sessions.or(default.rule.clean_sessions),
        },
        seed: seed.or(default.seed),
        load_max: load_max.value(),
        placements_max: placements_max.or(default.placements_max),
        placement_age_max: placement_age_max.or(default.placement_age_max),
    }
}

fn connection_limits(written: &file::Limits) -> accept::Limits {
    let file::Limits {
        connections,
        connections_per_source,
        connects_per_source_per_second,
        undecided: _,
        handshakes: _,
        held_bytes: _,
        source_share: _,
        waiting_bytes: _,
    } = written;
    let given = |written: &Field<usize>| written.as_set().map(|given| given.value);
    let default = accept::Limits::default();
    accept::Limits {
        connections_max: given(connections).or(default.connections_max),
        connections_per_source_max: given(connections_per_source).or(default.connections_per_source_max),
        connects_per_source_per_second: connects_per_source_per_second.as_set().map(|given| given.value),
    }
}

fn held_limits(written: &file::Limits, peek: &peek::Limits) -> held::Limits {
    let file::Limits {
        connections: _,
        connections_per_source: _,
        connects_per_source_per_second: _,
        undecided,
        handshakes,
        held_bytes,
        source_share,
        waiting_bytes: _,
    } = written;
    let given = |written: &Field<usize>| written.as_set().map(|given| given.value);
    let default = held::Limits::default();
    held::Limits {
        bytes_max: given(held_bytes).unwrap_or(default.bytes_max),
        undecided_max: given(undecided).unwrap_or(default.undecided_max),
        handshakes_max: given(handshakes).unwrap_or(default.handshakes_max),
        source_share: source_share.as_set().map_or(default.source_share, |given| given.value),
        // Half of its time is a connection's own.
        grace: peek.deadline / 2,
    }
}

fn all_sources(written: file::Dial, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let file::Dial { sources } = written;
    let sources = sources.or_default();
    note_repeats(
        sources.iter().map(|source| (source.value, &source.place)),
        |source| format!("{source} is listed twice"),
        "name each address once",
        problems,
    );
    sources.into_iter().map(|source| source.value).collect()
}

fn keepalive_settings(written: file::Keepalive) -> dial::Keepalive {
    let file::Keepalive { idle, interval, count } = written;
    let default = dial::Settings::default().keepalive;
    dial::Keepalive {
        idle: idle.value().or(default.idle),
        interval: interval.or(default.interval),
        count: count.or(default.count),
    }
}

fn greet_settings(
    timeout: Field<Duration>,
    total: Field<Duration>,
    connects_per_id_per_minute: Option<u32>,
    written: file::Greet,
) -> greet::Settings {
    let file::Greet { refuse } = written;
    let default = greet::Settings::default();
    greet::Settings {
        timeout: timeout.or(default.timeout),
        deadline: total.or(default.deadline),
        refuse: refuse.or(default.refuse),
        connects_per_id_per_minute,
    }
}

fn relay_settings(
    linger: Field<Duration>,
    idle_slack: Field<Duration>,
    idle_max: Field<Duration>,
    waiting_bytes: Option<usize>,
    written: file::Relay,
) -> relay::Settings {
    let file::Relay { splice, rate_min } = written;
    let default = relay::Settings::default();
    relay::Settings {
        linger: linger.or(default.linger),
        idle_slack: idle_slack.or(default.idle_slack),
        idle_max: idle_max.value().or(default.idle_max),
        splice: splice.or(default.splice),
        pipes_max: default.pipes_max,
        rate_min: rate_min.as_set().map_or(default.rate_min, |given| given.value as u64),
        waiting_bytes_max: waiting_bytes.unwrap_or(default.waiting_bytes_max),
        ports_max: default.ports_max,
    }
}

/// A slow start is of a rate: without one, it has no effect.
fn pacing_settings(
    written: file::Pacing,
    nodes: &Field<Vec<Spanned<file::Node>>>,
    problems: &mut Vec<Problem>,
) -> control::Pacing {
    let file::Pacing {
        connects_per_second,
        slow_start,
        // Of clients, not of nodes.
        connects_per_id_per_minute: _,
    } = written;
    let default = control::Pacing::default();
    let nodes = nodes.as_set().map_or(&[][..], |nodes| &nodes.value);
    let has_rate = |node: &Spanned<file::Node>| !matches!(node.value.connects_per_second, Field::Absent);
    if matches!(connects_per_second, Field::Absent)
        && !nodes.iter().any(has_rate)
        && let Some(written) = slow_start
            .as_set()
            .filter(|written| written.value != default.slow_start)
    {
        let problem = written.place.problem("has no effect without connects_per_second");
        problems.push(problem.hint("add connects_per_second = 500, or leave the key out"));
    }
    control::Pacing {
        connects_per_second: connects_per_second.value(),
        slow_start: slow_start.or(default.slow_start),
    }
}

fn api_settings(written: file::NodesApi, base: &Path, problems: &mut Vec<Problem>) -> control::ApiSettings {
    let file::NodesApi {
        check,
        credentials,
        interval,
        timeout,
    } = written;
    let default = control::ApiSettings::default();
    control::ApiSettings {
        check: check.or(default.check),
        credentials: credentials::read(credentials, base, problems),
        interval: interval.or(default.interval),
        timeout: timeout.or(default.timeout),
    }
}

fn control_settings(written: file::Health, pacing: control::Pacing) -> control::Settings {
    let file::Health {
        failures_max,
        rise,
        probe,
        probe_proxy,
        interval,
        down_share,
        down_min,
        down_max,
        on_down,
        on_down_rate,
        resolve_interval,
    } = written;
    let default = control::Settings::default();
    control::Settings {
        failures_max: failures_max.or(default.failures_max),
        rise: rise.or(default.rise),
        probe: probe.or(default.probe),
        probe_proxy: probe_proxy.or(default.probe_proxy),
        interval: interval.value().or(default.interval),
        down_share: down_share.or(default.down_share),
        down_min: down_min.or(default.down_min),
        down_max: down_max.or(default.down_max),
        on_down: on_down.or(default.on_down),
        on_down_rate: on_down_rate.or(default.on_down_rate),
        resolve_interval: resolve_interval.or(default.resolve_interval),
        pacing,
        api: default.api,
        discovery: default.discovery,
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

fn doctor_settings(written: file::Doctor, base: &Path, problems: &mut Vec<Problem>) -> doctor::Settings {
    let file::Doctor {
        interval,
        topic,
        credentials,
        slow_after,
        timeout,
    } = written;
    let default = doctor::Settings::default();
    note_order(
        [Side::new("doctor.slow_after", &slow_after, default.slow_after)],
        Side::new("doctor.timeout", &timeout, default.timeout),
        "a message that takes longer than timeout is lost, and one that takes longer than slow_after is late",
        problems,
    );
    doctor::Settings {
        interval: interval.value(),
        topic: topic.or(default.topic),
        login: credentials::read_login(credentials, base, problems),
        timeout: timeout.or(default.timeout),
        slow_after: slow_after.or(default.slow_after),
    }
}

fn watchdog_settings(written: file::Watchdog) -> heartbeat::Settings {
    let file::Watchdog { stuck_after } = written;
    let default = heartbeat::Settings::default();
    heartbeat::Settings {
        stuck_after: stuck_after.or(default.stuck_after),
    }
}

fn admin_settings(written: file::Admin, base: &Path, problems: &mut Vec<Problem>) -> admin::Settings {
    let file::Admin {
        enabled,
        address,
        socket,
        tokens,
        hosts,
    } = written;
    let socket = match socket.value() {
        Some(path) => {
            let path = base.join(path);
            admin::Socket::At(std::path::absolute(&path).unwrap_or(path))
        }
        None => admin::Socket::Default,
    };
    let address = match (enabled.or(true), address.value()) {
        (false, _) => admin::Address::Off,
        (true, Some(addresses)) => admin::Address::At(addresses),
        (true, None) => admin::Address::Default,
    };
    admin::Settings {
        address,
        socket,
        tokens: tokens::resolve(tokens, base, problems),
        hosts: values(hosts),
        // Known only to the caller that opened the file.
        configuration: None,
    }
}

fn log_settings(written: file::Log) -> log::Settings {
    let file::Log {
        level,
        format,
        output,
        connections,
        unrouted_rate,
    } = written;
    let default = log::Settings::default();
    log::Settings {
        level: level.or(default.level),
        format: format.or(default.format),
        output: output.value(),
        connections: connections.or(default.connections),
        unrouted_rate: unrouted_rate.or(default.unrouted_rate),
    }
}

/// The tables of a list that needs at least one; empty if they could not be read.
fn at_least_one<T>(
    written: Field<Vec<Spanned<T>>>,
    key: &str,
    example: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Spanned<T>> {
    let hint = format!("add [[{key}]] with {example}");
    match written {
        Field::Absent => {
            let problem = Problem::of_file(format!("{key}: at least one is required"));
            problems.push(problem.hint(hint));
            Vec::new()
        }
        Field::Invalid => Vec::new(),
        Field::Set(Spanned { value, place }) => {
            if value.is_empty() {
                problems.push(place.problem("at least one is required").hint(hint));
            }
            value
        }
    }
}

/// The values of one key in the tables of a list, with their places.
fn given<'a, T, V: 'a>(
    tables: &'a [Spanned<T>],
    key: impl Fn(&'a T) -> &'a Field<V>,
) -> impl Iterator<Item = (&'a V, &'a Place)> {
    tables
        .iter()
        .filter_map(move |table| key(&table.value).as_set())
        .map(|given| (&given.value, &given.place))
}

fn values<T>(written: Field<Vec<Spanned<T>>>) -> Vec<T> {
    let items = written.or_default();
    items.into_iter().map(|item| item.value).collect()
}

/// Notes settings that make `tls = "pass"` impossible.
fn note_passing(
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    nodes: &Field<Vec<Spanned<file::Node>>>,
    problems: &mut Vec<Problem>,
) {
    let (Some(listeners), Some(nodes)) = (listeners.as_set(), nodes.as_set()) else {
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
            && matches!(ws.value, file::TransportWord::Ws)
        {
            let problem = ws.place.problem("has no effect with tls = \"pass\"");
            problems.push(problem.hint("leave the key out: the bytes inside TLS are not read"));
        }
    }
    for node in &nodes.value {
        if passes && matches!(node.value.pass, Field::Absent) {
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
}

/// Notes nodes whose address is one of our own listeners: each connection would loop for ever.
fn note_loops(
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    nodes: &Field<Vec<Spanned<file::Node>>>,
    problems: &mut Vec<Problem>,
) {
    let (Some(listeners), Some(nodes)) = (listeners.as_set(), nodes.as_set()) else {
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
        let listener = given(&listeners.value, |l| &l.address).find(|(listener, _)| leads_to(address, **listener));
        if let Some((_, listener_place)) = listener {
            let problem = place
                .problem(format!("{address} leads back to this balancer"))
                .other(listener_place, "the listener is here")
                .hint("give the node another port than the listener, or another address");
            problems.push(problem);
        }
    }
}

/// Notes durations that contradict each other.
fn note_contradictions(
    timeouts: &file::Timeouts,
    listeners: &Field<Vec<Spanned<file::Listener>>>,
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
        Side::new("timeouts.greet_total", &timeouts.greet_total, greet.deadline),
        "greet_total runs from accept to the accepted CONNACK, over all the others",
        problems,
    );
    for listener in listeners.as_set().into_iter().flat_map(|listeners| &listeners.value) {
        let own = &listener.value.connect_timeout;
        if own.as_set().is_some() {
            note_order(
                [Side::new("connect_timeout", own, peek.deadline)],
                Side::new("timeouts.greet_total", &timeouts.greet_total, greet.deadline),
                "greet_total runs from accept to the accepted CONNACK, over connect_timeout and the others",
                problems,
            );
        }
    }
    note_order(
        [Side::new("health.down_min", &health.down_min, control.down_min)],
        Side::new("health.down_max", &health.down_max, control.down_max),
        "the time between two probes of a node that is down doubles from down_min to down_max",
        problems,
    );
}

/// Notes a `user_timeout` that would end connections before as many probes are lost as `keepalive.count` says.
fn note_user_timeout(place: Option<Place>, dial: &dial::Settings, problems: &mut Vec<Problem>) {
    let (Some(place), Some(written)) = (place, dial.user_timeout) else {
        return;
    };
    let used = dial.watch_times(None).user_timeout;
    if used > written {
        let used = duration_text(used);
        let message = format!(
            "{} is less than keepalive takes; {used} is used",
            duration_text(written)
        );
        let hint = format!("leave it out, or lower the keys of [keepalive]: idle + interval * count is {used}");
        problems.push(place.problem(message).hint(hint).warning());
    }
}

/// One side of a comparison of two durations.
struct Side<'a> {
    path: &'static str,
    value: Duration,
    /// Its place in the file; `None` for a default.
    place: Option<&'a Place>,
}

impl<'a> Side<'a> {
    /// `None` if the written value is invalid.
    fn new(path: &'static str, written: &'a Field<Duration>, default: Duration) -> Option<Self> {
        let (value, place) = match written {
            Field::Absent => (default, None),
            Field::Invalid => return None,
            Field::Set(given) => (given.value, Some(&given.place)),
        };
        Some(Self { path, value, place })
    }
}

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_default = if self.place.is_none() { " by default" } else { "" };
        write!(f, "{}, which is {}{by_default}", self.path, duration_text(self.value))
    }
}

/// Notes each of `shorts` that is longer than `long`. If only `long` is written, it is reported, once.
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
    for short in shorts.into_iter().flatten().filter(|short| short.value > long.value) {
        let longer = |place: &Place| {
            let message = format!("{} is longer than {long}", duration_text(short.value));
            place.problem(message).hint(why)
        };
        match (short.place, long.place) {
            (Some(place), Some(other)) => problems.push(longer(place).other(other, "the shorter duration")),
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
