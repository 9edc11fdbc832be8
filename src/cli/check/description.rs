//! What `remora run` would do with a configuration, in words.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::SystemTime;

use remora::admin;
use remora::base::words::counted;
use remora::cluster::{EndpointKind, Endpoints, Member, SEED_DEFAULT};
use remora::config::{Config, Problem, Severity, duration_text as text, size_text};
use remora::control::{self, SourceKind};
use remora::doctor;
use remora::net::dial;
use remora::net::held;
use remora::net::tls::{Certificate, Clients, Offer, Revocations, Version};
use remora::net::websocket;
use remora::path::accept::{self, Listener, Tls, Transport};
use remora::path::affinity::Spread;
use remora::path::greet::Refuse;
use remora::path::peek;
use remora::path::relay;
use remora::serve::drain;

use super::super::{columns, ring, rule_text};

/// What `remora run` would do with this configuration, which has these problems all the same.
pub(super) fn description(config: &Config, problems: &[Problem]) -> String {
    let shares = ring(config).shares();
    let nodes = config.nodes.iter().zip(shares);
    let faults = problems.iter().filter(|problem| problem.severity != Severity::Warning);
    let first = match (problems.len(), faults.count()) {
        (0, _) => "No problems; this is what `remora run` would do.",
        (_, 0) => "No problems, but warnings, which follow; this is what `remora run` would do.",
        _ => "There are PROBLEMS, which follow; this is what `remora run` would do.",
    };
    [
        first.to_owned(),
        section("listeners", config.listeners.iter().map(listener)),
        section(
            "nodes, and their shares of the clients",
            nodes.map(node).chain(template(config)),
        ),
        section("settings", settings(config).into_iter()),
    ]
    .into_iter()
    .chain(suggestions(config))
    .collect::<Vec<_>>()
    .join("\n\n")
}

/// What would be better, although nothing is wrong with it.
fn suggestions(config: &Config) -> Option<String> {
    if config.affinity.seed != SEED_DEFAULT {
        return None;
    }
    // From the randomness of the system, and no more than a TOML integer holds.
    let seed = RandomState::new().hash_one(0) >> 1;
    Some(format!(
        "suggestions\n  affinity.seed: it is the one of every Remora that has none of its own, and who knows the seed can choose client ids \
         that all\n  belong to one node. One of this site's own would be\n\n  [affinity]\n  seed = {seed:#x}\n\n  Give all balancers of the \
         site the same. Each client moves once, to its new home."
    ))
}

fn section(title: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = rows.collect();
    format!("{title}\n{}", columns("  ", &rows))
}

fn listener(listener: &Listener) -> Vec<String> {
    let Listener {
        name,
        address,
        freebind,
        transport,
        tls,
        allow,
        deny,
        proxy_protocol_from,
        connections_max,
        connect_timeout,
    } = listener;
    let list = |networks: &[_]| {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        networks.join(", ")
    };
    let mut who = match &allow[..] {
        [] => "from any address".to_owned(),
        allow => format!("from {}", list(allow)),
    };
    if !deny.is_empty() {
        who += &format!(", except {}", list(deny));
    }
    if !proxy_protocol_from.is_empty() {
        who += &format!(", PROXY headers trusted from {}", list(proxy_protocol_from));
    }
    if let Some(max) = connections_max {
        who += &format!(", up to {}", counted(*max, "connection"));
    }
    if let Some(timeout) = connect_timeout {
        who += &format!(", CONNECT within {}", text(*timeout));
    }
    let called = match *name == address.to_string() {
        true => String::new(),
        false => format!("called {name}"),
    };
    let secured = match tls {
        None => String::new(),
        Some(Tls::Pass) => "TLS passed on to the node".to_owned(),
        Some(Tls::End(acceptor)) => offer(acceptor.offer()),
    };
    let place = match transport {
        Transport::Tcp => format!("tcp {address}"),
        Transport::Ws(websocket::AcceptPolicy { paths, origins, .. }) => {
            if !origins.is_empty() {
                who += &format!(", origins {}", origins.join(", "));
            }
            format!("ws {address} {}", paths.join(" "))
        }
    };
    let place = match freebind {
        true => format!("{place} (even if this machine does not have it)"),
        false => place,
    };
    vec![place, who, called, secured]
}

/// The certificates and the TLS settings of a listener with `tls = "end"`.
fn offer(offer: &Offer) -> String {
    let Offer {
        certificates,
        version_min,
        clients,
        protocol: _,
        record_max,
    } = offer;
    let records = record_max.map_or(String::new(), |bytes| {
        format!(", records of {} at most", size_text(bytes))
    });
    let version = match version_min {
        Version::Tls12 => "1.2",
        Version::Tls13 => "1.3",
    };
    let (clients, revoked) = match clients {
        Clients::Off => ("", &None),
        Clients::Optional(_, revoked) => (", asks for a certificate", revoked),
        Clients::Required(_, revoked) => (", requires a certificate", revoked),
    };
    let revoked = revoked.as_ref().and_then(Revocations::expires);
    let revoked = revoked.map_or(String::new(), |expires| {
        format!(", list of revoked certificates {}", expiry(expires))
    });
    let certificates: Vec<String> = certificates.iter().map(certificate).collect();
    format!(
        "TLS {version} up{records}{clients}{revoked}; {}",
        certificates.join("; ")
    )
}

fn certificate(certificate: &Certificate) -> String {
    let names = match certificate.names() {
        [] => "a certificate without names".to_owned(),
        names => format!("certificate for {}", names.join(", ")),
    };
    format!("{names}, {}", expiry(certificate.expires()))
}

fn expiry(expires: SystemTime) -> String {
    const DAY: u64 = 86_400;
    match expires.duration_since(SystemTime::now()) {
        Ok(left) => format!("expires in {}", counted(left.as_secs() / DAY, "day")),
        Err(past) => format!("expired {} ago", counted(past.duration().as_secs() / DAY, "day")),
    }
}

fn node((node, share): (&Member, f64)) -> Vec<String> {
    let Member {
        name,
        endpoints,
        api,
        weight,
        connects_per_second,
        connections_max,
    } = node;
    let share = format!("{:.2} %", share * 100.0);
    let unverified = node.is_unverified();
    let Endpoints { mqtt, ws, pass } = endpoints;
    vec![
        name.clone(),
        mqtt.shown(EndpointKind::Mqtt).to_string(),
        format!("weight {weight}"),
        share,
        [
            ws.as_ref().map(|ws| ws.shown(EndpointKind::Ws).to_string()),
            pass.as_ref()
                .map(|pass| format!("TLS passed to {}", pass.shown(EndpointKind::Pass))),
            connections_max.map(|max| format!("up to {}", counted(max, "connection"))),
            connects_per_second.map(|rate| format!("{rate} CONNECTs a second")),
            api.as_ref().map(|api| format!("checked at {api}")),
            unverified.then(|| "CERTIFICATES ARE NOT VERIFIED".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", "),
    ]
}

/// What stands for every node that is found.
fn template(config: &Config) -> Option<Vec<String>> {
    let template = config.control.discovery.as_ref()?.template.as_ref()?;
    let mut row = node((template, 0.0));
    "each node that is found".clone_into(&mut row[0]);
    "by its weight".clone_into(&mut row[3]);
    let in_words = |cell: String| cell.replace(control::HOST_OF_FOUND, "{host}");
    Some(row.into_iter().map(in_words).collect())
}

fn settings(config: &Config) -> Vec<Vec<String>> {
    let Config {
        workers,
        affinity,
        peek: peek::Limits { deadline },
        held,
        dial,
        greet,
        relay,
        control,
        limits,
        drain: drain::Settings { delay, rate, grace },
        handover,
        doctor,
        watchdog,
        admin,
        // Listeners and nodes have sections of their own; the log settings need no explanation.
        listeners: _,
        nodes: _,
        nodes_tls: _,
        log: _,
        // Files are named where they are read, warnings are printed with their lines.
        files: _,
        warnings: _,
    } = config;
    let rows = [
        ("threads", threads(*workers)),
        ("connections", connections(limits, held)),
        (
            "affinity",
            format!(
                "{}, ring seed {:#x}{}{}",
                rule_text(&affinity.rule),
                affinity.seed,
                match affinity.rule.clean_sessions {
                    Spread::Ring => "",
                    Spread::Least => "; clean sessions by load",
                },
                affinity.load_max.map_or(String::new(), |percent| format!(
                    ", no node above {percent} % of its share of the connections"
                ))
            ),
        ),
        (
            "placements",
            format!(
                "up to {}, each kept for {} after its client has disconnected",
                affinity.placements_max,
                text(affinity.placement_age_max)
            ),
        ),
        (
            "CONNECT",
            format!(
                "read within {}; up to {} held for all unfinished ones",
                text(*deadline),
                size_text(held.bytes_max)
            ),
        ),
        (
            "nodes answer",
            format!(
                "dial within {}, CONNACK within {}; accepted within {} in all",
                text(dial.timeout),
                text(greet.timeout),
                text(greet.deadline)
            ),
        ),
        ("refused", refused(greet.refuse)),
        ("sources", sources(dial)),
        ("source ports", ports(dial)),
        ("silent clients", idle(relay)),
        ("slow peers", slow(relay, dial)),
        ("vanished peers", vanished(dial)),
        (
            "nodes down",
            format!(
                "after {}, one of them of a probe; then probed every {} to {}",
                counted(control.failures_max, "failure"),
                text(control.down_min),
                text(control.down_max)
            ),
        ),
        ("discovery", discovery(control.discovery.as_ref())),
        ("pacing", pacing(&control.pacing, &config.nodes)),
        (
            "at SIGTERM",
            format!(
                "accepts for {} more, then closes {} a second, for {} at most",
                text(*delay),
                counted(*rate, "connection"),
                text(*grace)
            ),
        ),
        (
            "upgrades",
            format!(
                "{}; what cannot move is closed after {}",
                match &handover.socket {
                    Some(path) => format!("taken over at {}, or by ctl upgrade", path.display()),
                    None => "by ctl upgrade".to_owned(),
                },
                text(handover.grace)
            ),
        ),
        (
            "stuck threads",
            format!(
                "reported by /livez, /readyz and to systemd after {}",
                text(watchdog.stuck_after)
            ),
        ),
        ("doctor", doctor_text(doctor)),
        ("admin", admin_text(admin)),
        ("admin socket", socket_text(admin)),
    ];
    let row = |(what, how): (&str, String)| vec![what.to_owned(), how];
    rows.into_iter().map(row).collect()
}

fn doctor_text(settings: &doctor::Settings) -> String {
    let doctor::Settings { interval, topic, .. } = settings;
    let when = match interval {
        Some(interval) => format!("checks the routes between nodes every {}", text(*interval)),
        None => "checks the routes between nodes when asked to".to_owned(),
    };
    format!("{when}, with topics below {topic}")
}

fn threads(workers: Option<NonZeroUsize>) -> String {
    workers.map_or("one for each core".to_owned(), |workers| workers.to_string())
}

fn connections(limits: &accept::Limits, held: &held::Limits) -> String {
    let accept::Limits {
        connections_max,
        connections_per_source_max,
        connects_per_source_per_second,
    } = limits;
    let held::Limits {
        undecided_max,
        handshakes_max,
        source_share,
        ..
    } = held;
    let all = match connections_max {
        Some(max) => format!("up to {max}"),
        None => "as many as the limit of open files allows".to_owned(),
    };
    let source = connections_per_source_max
        .map(|max| format!(", {max} of one source"))
        .unwrap_or_default();
    let rate = connects_per_source_per_second
        .map(|rate| format!(", {rate} new ones a second of one source"))
        .unwrap_or_default();
    format!(
        "{all}{source}{rate}, {undecided_max} that have not sent their CONNECT, {handshakes_max} in a TLS handshake; when that is \
         reached, {source_share} % of it for one source"
    )
}

fn discovery(discovery: Option<&control::Discovery>) -> String {
    let Some(control::Discovery {
        source,
        interval,
        grace,
        template: _,
    }) = discovery
    else {
        return "no further nodes are looked for".to_owned();
    };
    let control::Source {
        kind,
        seeds,
        name,
        name_servers,
        file,
    } = source;
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let interval = text(*interval);
    let from = match kind {
        SourceKind::Emqx => {
            let seeds = list(&mut seeds.iter().map(ToString::to_string));
            format!("nodes that EMQX lists at {seeds}, asked every {interval}")
        }
        SourceKind::Dns => {
            let name = name.as_deref().unwrap_or_default();
            let servers = match &name_servers[..] {
                [] => "the system's name servers".to_owned(),
                servers => list(&mut servers.iter().map(ToString::to_string)),
            };
            format!("nodes behind the name {name}, of which {servers} are asked every {interval} or as its TTL says")
        }
        SourceKind::File => {
            let file = file.as_deref().unwrap_or(Path::new(""));
            format!("nodes listed in {}, read every {interval}", file.display())
        }
    };
    format!("{from}; one that is missing stays for {}", text(*grace))
}

fn pacing(pacing: &control::Pacing, nodes: &[Member]) -> String {
    let control::Pacing {
        connects_per_second,
        slow_start,
    } = pacing;
    let start = match slow_start.is_zero() {
        true => "at once".to_owned(),
        false => format!("within {}", text(*slow_start)),
    };
    let start = format!("the whole rate {start} after a node has come back");
    let has_own = nodes.iter().any(|node| node.connects_per_second.is_some());
    match (connects_per_second, has_own) {
        (Some(rate), false) => format!("each node gets {rate} CONNECTs a second; {start}"),
        (Some(rate), true) => format!("each node gets {rate} CONNECTs a second, or its own rate; {start}"),
        (None, true) => format!("nodes with a rate get as many CONNECTs a second; {start}"),
        (None, false) => "nodes get CONNECTs as fast as clients send them".to_owned(),
    }
}

fn admin_text(admin: &admin::Settings) -> String {
    let admin::Settings {
        address,
        socket: _,
        tokens,
        hosts,
        peers,
        peers_token: _,
        configuration: _,
    } = admin;
    let also = match &hosts[..] {
        [] => String::new(),
        hosts => format!(", also called {}", hosts.join(", ")),
    };
    let names: Vec<&str> = tokens.iter().map(|token| &*token.name).collect();
    let api = match &names[..] {
        [] => "; no token, so the control API is on the socket only".to_owned(),
        names => format!("; the control API for the tokens {}", names.join(", ")),
    };
    let peers: Vec<String> = peers.iter().map(|peer| format!("http://{peer}")).collect();
    let api = match &peers[..] {
        [] => api,
        peers => format!("{api}; shown beside {}", peers.join(", ")),
    };
    match address {
        admin::Address::Default => format!("http://{}, if that is free{also}{api}", admin::ADDRESS_DEFAULT),
        admin::Address::At(addresses) if addresses.is_empty() => "on no address".to_owned(),
        admin::Address::At(addresses) => {
            let addresses = addresses.iter().map(|address| format!("http://{address}"));
            format!("{}{also}{api}", addresses.collect::<Vec<_>>().join(", "))
        }
        admin::Address::Off => "nowhere".to_owned(),
    }
}

fn socket_text(admin: &admin::Settings) -> String {
    let paths = admin.socket_paths();
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    match (&paths[..], &admin.socket) {
        ([], _) => "nowhere".to_owned(),
        (paths, admin::Socket::At(_)) => paths.join(""),
        (paths, admin::Socket::Default) => format!("{}, whose directory is this user's", paths.join(" or ")),
    }
}

fn refused(refuse: Refuse) -> String {
    let answer = match refuse {
        Refuse::Close => "closed, so that it reconnects by itself",
        Refuse::Connack => "sent the last node's CONNACK, then closed",
    };
    format!("a client that every node refused is {answer}")
}

fn sources(dial: &dial::Settings) -> String {
    if dial.sources.is_empty() {
        return "chosen by the kernel".to_owned();
    }
    let sources: Vec<String> = dial.sources.iter().map(ToString::to_string).collect();
    sources.join(", ")
}

fn ports(dial: &dial::Settings) -> String {
    let ports = dial.source_ports();
    let rate = dial::ports_rate(ports);
    format!(
        "{ports} towards each node, enough for {} a second that Remora closes first",
        counted(rate, "connection")
    )
}

fn slow(relay: &relay::Settings, dial: &dial::Settings) -> String {
    let rate = match relay.rate_min {
        0 => "take what they want".to_owned(),
        rate => format!(
            "closed if they take less than {} a second for a minute",
            size_text(rate as usize)
        ),
    };
    format!(
        "{rate}; buffers of {} for each client and {} for each node; up to {} wait in all",
        size_text(dial.client_buffer),
        size_text(dial.node_buffer),
        size_text(relay.waiting_bytes_max)
    )
}

fn idle(relay: &relay::Settings) -> String {
    let slack = text(relay.idle_slack);
    let ceiling = relay.idle_max.map(|max| format!(", {} at most", text(max)));
    format!(
        "closed after 1.5 times their Keep Alive and {slack}{}",
        ceiling.unwrap_or_default()
    )
}

fn vanished(dial: &dial::Settings) -> String {
    let dial::Keepalive { idle, interval, count } = &dial.keepalive;
    let times = dial.watch_times(None);
    let (idle_text, all) = (text(times.idle), text(times.user_timeout));
    let interval = text(*interval);
    // The kernel applies the longer one to both.
    let when = match times.user_timeout > times.idle + dial.keepalive.probing() {
        true => format!(
            "{all} without an answer to keepalive probes, sent every {interval} after {idle_text} of silence, or without an \
             acknowledgement"
        ),
        false => format!(
            "{}, {interval} apart, after {idle_text} of silence, or {all} without an acknowledgement",
            counted(*count, "keepalive probe")
        ),
    };
    let clients = match idle {
        Some(_) => "",
        None => "; clients not before 1.5 times their Keep Alive",
    };
    format!("closed after {when}{clients}")
}
