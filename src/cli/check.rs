//! What `remora check` prints of a configuration without problems: what would be done.

use std::num::NonZeroUsize;
use std::time::SystemTime;

use remora::accept::{self, Listener, Tls, Transport};
use remora::cluster::{EndpointKind, Endpoints, Member};
use remora::config::{Config, duration_text as text, size_text};
use remora::greet::Refuse;
use remora::tls::{Certificate, Clients, Offer, Version};
use remora::{admin, dial, drain, peek, relay, websocket};

use super::{columns, key_text, ring};

/// What `remora run` would do with this configuration.
pub(super) fn description(config: &Config) -> String {
    let shares = ring(config).shares();
    let nodes = config.nodes.iter().zip(shares);
    [
        "No problems; this is what `remora run` would do.".to_owned(),
        section("listeners", config.listeners.iter().map(listener)),
        section("nodes, and their shares of the clients", nodes.map(node)),
        section("settings", settings(config).into_iter()),
    ]
    .join("\n\n")
}

fn section(title: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = rows.collect();
    format!("{title}\n{}", columns("  ", &rows))
}

fn listener(listener: &Listener) -> Vec<String> {
    let Listener {
        name,
        address,
        transport,
        tls,
        allow,
        deny,
        proxy_protocol_from,
        connections_max,
    } = listener;
    let list = |networks: &[_]| {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        networks.join(", ")
    };
    let mut who = match &allow[..] {
        [] => "from everyone".to_owned(),
        allow => format!("from {}", list(allow)),
    };
    if !deny.is_empty() {
        who += &format!(", not from {}", list(deny));
    }
    if !proxy_protocol_from.is_empty() {
        who += &format!(", as PROXY headers of {} say", list(proxy_protocol_from));
    }
    if let Some(max) = connections_max {
        who += &format!(", up to {max} connections");
    }
    let called = match *name == address.to_string() {
        true => String::new(),
        false => format!("called {name}"),
    };
    let secured = match tls {
        None => String::new(),
        Some(Tls::Pass) => "TLS passed on to the node".to_owned(),
        Some(Tls::End(door)) => offer(door.offer()),
    };
    let place = match transport {
        Transport::Tcp => format!("tcp {address}"),
        Transport::Ws(websocket::Door { paths, origins }) => {
            if !origins.is_empty() {
                who += &format!(", pages only of {}", origins.join(", "));
            }
            format!("ws {address} {}", paths.join(" "))
        }
    };
    vec![place, who, called, secured]
}

/// What a listener whose TLS ends here offers.
fn offer(offer: &Offer) -> String {
    let Offer {
        certificates,
        version_min,
        clients,
        protocol: _,
    } = offer;
    let version = match version_min {
        Version::Tls12 => "1.2",
        Version::Tls13 => "1.3",
    };
    let clients = match clients {
        Clients::Off => "",
        Clients::Optional(..) => ", asks for a certificate",
        Clients::Required(..) => ", demands a certificate",
    };
    let certificates: Vec<String> = certificates.iter().map(certificate).collect();
    format!("TLS {version} up{clients}; {}", certificates.join("; "))
}

fn certificate(certificate: &Certificate) -> String {
    let names = match certificate.names() {
        [] => "a certificate without names".to_owned(),
        names => format!("certificate for {}", names.join(", ")),
    };
    const DAY: u64 = 86_400;
    let expires = certificate.expires();
    match expires.duration_since(SystemTime::now()) {
        Ok(left) => format!("{names}, expires in {} days", left.as_secs() / DAY),
        Err(past) => format!(
            "{names}, EXPIRED {} days ago",
            past.duration().as_secs() / DAY
        ),
    }
}

fn node((node, share): (&Member, f64)) -> Vec<String> {
    let Member {
        name,
        endpoints,
        weight,
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
                .map(|pass| format!("TLS passes to {}", pass.shown(EndpointKind::Pass))),
            unverified.then(|| "EVERY CERTIFICATE IS BELIEVED".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", "),
    ]
}

fn settings(config: &Config) -> Vec<Vec<String>> {
    let Config {
        workers,
        affinity,
        peek: peek::Limits {
            deadline,
            held_bytes_max,
        },
        dial,
        greet,
        relay,
        control,
        limits,
        drain: drain::Settings { delay, rate, grace },
        admin,
        // Listeners and nodes have sections of their own; the log shows itself.
        listeners: _,
        nodes: _,
        log: _,
    } = config;
    let rows = [
        ("threads", threads(*workers)),
        ("connections", connections(limits)),
        (
            "affinity",
            format!("{}, ring seed {:#x}", key_text(affinity.key), affinity.seed),
        ),
        (
            "placements",
            format!(
                "up to {}, each for {} after its client left",
                affinity.placements_max,
                text(affinity.placement_age_max)
            ),
        ),
        (
            "CONNECT",
            format!(
                "read within {}; up to {} held for all that are unfinished",
                text(*deadline),
                size_text(*held_bytes_max)
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
        ("silent clients", idle(relay)),
        ("vanished peers", vanished(dial)),
        (
            "nodes down",
            format!(
                "after {} failures in a row, for {} to {}",
                control.failures_max,
                text(control.down_min),
                text(control.down_max)
            ),
        ),
        (
            "at SIGTERM",
            format!(
                "accepts for {} more, then closes {rate} connections a second, for {} at most",
                text(*delay),
                text(*grace)
            ),
        ),
        ("admin", admin_text(admin)),
    ];
    let row = |(what, how): (&str, String)| vec![what.to_owned(), how];
    rows.into_iter().map(row).collect()
}

fn threads(workers: Option<NonZeroUsize>) -> String {
    workers.map_or("one for each core".to_owned(), |workers| {
        workers.to_string()
    })
}

fn connections(limits: &accept::Limits) -> String {
    let accept::Limits {
        connections_max,
        connections_per_source_max,
        undecided_max,
        handshakes_max,
    } = limits;
    let all = match connections_max {
        Some(max) => format!("up to {max}"),
        None => "as many as the limit of open files allows".to_owned(),
    };
    let source = connections_per_source_max
        .map(|max| format!(", {max} of one source"))
        .unwrap_or_default();
    format!(
        "{all}{source}, {undecided_max} that have not sent their CONNECT, {handshakes_max} in a TLS handshake"
    )
}

fn admin_text(admin: &admin::Settings) -> String {
    match admin {
        admin::Settings::Default => format!("http://{}, if that is free", admin::ADDRESS_DEFAULT),
        admin::Settings::At(address) => format!("http://{address}"),
        admin::Settings::Off => "nowhere".to_owned(),
    }
}

fn refused(refuse: Refuse) -> String {
    let answer = match refuse {
        Refuse::Close => "closed, so that it comes back by itself",
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

fn idle(relay: &relay::Settings) -> String {
    let slack = text(relay.idle_slack);
    let ceiling = relay.idle_max.map(|max| format!(", {} at most", text(max)));
    format!(
        "closed after 1.5 times their Keep Alive and {slack}{}",
        ceiling.unwrap_or_default()
    )
}

fn vanished(dial: &dial::Settings) -> String {
    let dial::Keepalive {
        idle,
        interval,
        count,
    } = &dial.keepalive;
    format!(
        "found by {count} probes {} apart after {} of silence, or {} without acknowledgement",
        text(*interval),
        text(*idle),
        text(dial.user_timeout)
    )
}
