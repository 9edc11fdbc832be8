//! `stream`: a server is a listener for MQTT over TCP, or for bytes that are passed on.

use crate::import::draft::Prefer;
use crate::import::environment;
use crate::import::listeners::networks;
use crate::import::model::{Kind, Listener, Server, Service, Setting};
use crate::import::nginx::affinity;
use crate::import::nginx::listen::{self, Listen};
use crate::import::nginx::scope::{Context, Scope};
use crate::import::nginx::syntax::Directive;
use crate::import::nginx::tls;
use crate::import::nginx::upstream::{self, Upstreams};
use crate::import::nginx::variable::{self, Meaning};
use crate::import::text::{Place, quoted};
use crate::import::units::{Rule, duration, network, nginx_time};

/// The ports on which EMQX has TLS, and those on which it has WebSocket.
const PORTS_OF_TLS: [u16; 2] = [8883, 8084];
const PORTS_OF_WS: [u16; 2] = [8083, 8084];
/// Those of its dashboard.
const PORTS_OF_HTTP: [u16; 2] = [18083, 18084];

pub(super) fn server<'d>(
    server: &'d Directive,
    scope: &Scope<'d>,
    upstreams: &mut Upstreams<'d>,
    context: &mut Context<'d>,
) {
    let own = Scope::new(server.inner());
    let place = server.place();
    let written = own.many("listen", context);
    let Some(first) = written.first().copied() else {
        context.report.lost(
            place,
            "a server without listen",
            "write a [[listeners]] with its address",
        );
        return context.mark_all(server);
    };
    let Some(proxy) = own.one("proxy_pass", context) else {
        context.report.lost(
            place,
            "a server without proxy_pass does not lead to a node",
            "keep it in nginx, on another port",
        );
        return context.mark_all(server);
    };
    let listens: Vec<_> = written
        .iter()
        .map(|directive| listen::read(directive, 1883, context))
        .collect();
    if listens.iter().any(|listen| listen.is_datagram) {
        context.report.lost(
            first.place(),
            "UDP: Remora serves MQTT over TCP",
            "keep it in nginx, or let clients connect to the nodes",
        );
        return context.mark_all(server);
    }
    let Some(word) = proxy.args.first() else {
        context.unreadable(proxy.place(), "", "an upstream");
        return;
    };
    let Some(pool) = upstreams.pool(&word.text, word, 1883, context) else {
        return context.mark_all(server);
    };
    let mut servers = pool.servers;
    let has_tls = listens.iter().any(|listen| listen.has_tls) || own.is_on("ssl", context);
    let preread = scope.is_on("ssl_preread", context);
    let to_tls = scope.is_on("proxy_ssl", context);
    let all_at = |ports: &[u16]| !servers.is_empty() && servers.iter().all(|server| is_at(server, ports));
    if all_at(&PORTS_OF_HTTP) {
        context.report.lost(
            place,
            "EMQX's dashboard is HTTP, and not MQTT",
            "keep nginx for it, or use the dashboard of one node",
        );
        return context.mark_all(server);
    }
    let kind = match (
        has_tls || to_tls,
        preread || all_at(&PORTS_OF_TLS),
        all_at(&PORTS_OF_WS),
    ) {
        (false, true, _) => Kind::Pass,
        (_, _, true) => Kind::Ws,
        _ => Kind::Mqtt,
    };
    match kind {
        Kind::Pass => context.report.differs(
            first.place(),
            "TLS is passed on to the nodes: clients are tied to them by their addresses, since the client id is inside TLS",
            "for the client id, let TLS end here: tls = \"end\" with certificates",
        ),
        Kind::Ws => context.report.differs(
            first.place(),
            "port 8083 or 8084 of the nodes is WebSocket: Remora answers upgrades itself, for /mqtt",
            "list other paths in `paths`",
        ),
        Kind::Mqtt if servers.iter().any(|server| server.port.number().is_none()) && !to_tls => context.report.differs(
            first.place(),
            "which of the nodes' listeners a variable leads to is not known: it is taken for MQTT without TLS",
            "for another one, write `ws` or `pass` of the nodes in the place of `address`, and transport or tls of the listener",
        ),
        Kind::Mqtt => {}
    }
    let mut listeners = with_own(&listens, &written, &own, scope, context);
    if to_tls {
        let at = scope.one("proxy_ssl", context).map_or(place, Directive::place);
        tls::of_nodes(scope, at, &word.text, &mut servers, context);
    }
    if let Some(header) = scope.one("proxy_protocol", context) {
        let version = match header.arg(0) {
            "off" => None,
            "v2" | "2" => Some("v2"),
            _ => Some("v1"),
        };
        let given = version.map(|version| (version, header.place()));
        servers.iter_mut().for_each(|server| server.proxy_protocol = given);
    }
    let mut settings = Vec::new();
    access(scope, &mut settings, context);
    limits(scope, &mut settings, context);
    for listener in &mut listeners {
        listener.settings.extend(settings.iter().cloned());
    }
    let prereads = preread || scope.has("js_preread") || scope.has("mqtt_preread");
    connect_timeout(scope, has_tls, prereads, &mut listeners, context);
    timeouts(scope, context);
    logs(scope, context);
    affinity::tie(pool.key, kind, context);
    context.draft.add(Service {
        kind,
        pool: pool.name,
        place,
        servers,
        listeners,
    });
}

/// The listeners of a server, each with the TLS and the PROXY headers that its own `listen` has.
pub(super) fn with_own<'d>(
    listens: &[Listen],
    written: &[&'d Directive],
    own: &Scope<'d>,
    scope: &Scope<'d>,
    context: &mut Context<'d>,
) -> Vec<Listener> {
    let trusted = scope.many("set_real_ip_from", context);
    // nginx had this switch for all of them before 1.25.
    let switch = own.one("ssl", context).filter(|switch| switch.arg(0) == "on");
    let mut all = Vec::new();
    for (listen, directive) in listens.iter().zip(written) {
        let mut listeners = listen.listeners.clone();
        if listen.has_tls || switch.is_some() {
            let place = switch.unwrap_or(directive).place();
            tls::of_clients(scope, place, &mut listeners, context);
        }
        if listen.has_proxy_protocol {
            let setting = listen::proxies(directive, &trusted, context);
            for listener in &mut listeners {
                listener.settings.push(setting.clone());
            }
        }
        all.append(&mut listeners);
    }
    all
}

/// Whether the port of a node is one of these.
fn is_at(server: &Server, ports: &[u16]) -> bool {
    server.port.number().is_some_and(|port| ports.contains(&port))
}

/// `allow` and `deny`.
pub(super) fn access<'d>(scope: &Scope<'d>, settings: &mut Vec<Setting>, context: &mut Context<'d>) {
    let mut rules = Vec::new();
    for directive in scope.mixed(&["allow", "deny"], context) {
        let written = directive.arg(0);
        let net = match written {
            "all" => None,
            "unix:" => continue,
            written => match network(written) {
                Some(net) => Some(net),
                None if written.contains('$') => {
                    let message = format!("{} with a variable", directive.name.text);
                    context
                        .report
                        .lost(directive.place(), message, environment::NETWORK_ADVICE);
                    continue;
                }
                None => {
                    context.unreadable(directive.place(), written, "a network");
                    continue;
                }
            },
        };
        rules.push(Rule {
            is_allowed: directive.name.text == "allow",
            net,
            from: directive.place(),
        });
    }
    networks(&rules, settings, &mut context.report);
}

/// `limit_conn`.
pub(super) fn limits<'d>(scope: &Scope<'d>, settings: &mut Vec<Setting>, context: &mut Context<'d>) {
    let is_trial = scope.is_on("limit_conn_dry_run", context);
    for limit in scope.many("limit_conn", context) {
        let place = limit.place();
        let is_of_zone = |zone: &&Directive| {
            let name = zone.args.iter().find_map(|word| word.text.strip_prefix("zone="));
            let name = name.map(|name| name.split(':').next().unwrap_or_default());
            name == Some(limit.arg(0))
        };
        let zone = scope.outermost("limit_conn_zone").iter().copied().find(is_of_zone);
        if let Some(zone) = zone {
            context.mark(zone);
        }
        if is_trial {
            context
                .report
                .unneeded(place, "limit_conn", "limit_conn_dry_run is on, so it limits nothing");
            continue;
        }
        let Ok(most @ 1..=100_000_000) = limit.arg(1).parse::<u64>() else {
            context.unreadable(place, limit.arg(1), "a number of connections");
            continue;
        };
        match zone.map(|zone| variable::meaning(zone.arg(0), context)) {
            Some(Meaning::Key("client_address")) => {
                context.draft.set("limits", "connections_per_source", most.to_string(), place, Prefer::First, &mut context.report);
                context.report.differs(place, "the limit holds for all listeners together, and for an IPv6 /64 network as a whole", "");
            }
            Some(Meaning::Listener) => settings.push(Setting::new("connections_max", most.to_string(), place)),
            _ => context.report.lost(
                place,
                "connections are not limited by this key",
                "there are limits for an address (limits.connections_per_source), a listener and a node (connections_max)",
            ),
        }
    }
}

/// How long the first bytes are waited for.
fn connect_timeout<'d>(
    scope: &Scope<'d>,
    has_tls: bool,
    prereads: bool,
    listeners: &mut [Listener],
    context: &mut Context<'d>,
) {
    // What does not count here is left to be reported.
    let handshake = if has_tls {
        scope.one("ssl_handshake_timeout", context)
    } else {
        None
    };
    let preread = if prereads {
        scope.one("preread_timeout", context)
    } else {
        None
    };
    let header = scope.one("proxy_protocol_timeout", context);
    if let Some(header) = header {
        context.report.unneeded(
            header.place(),
            "proxy_protocol_timeout",
            "connect_timeout runs from accept, over the PROXY header as well",
        );
    }
    for listener in listeners {
        // A handshake is waited for only where there is one.
        let has_handshake = listener.settings.iter().any(|setting| setting.key == "tls");
        let given: Vec<&Directive> = [handshake.filter(|_| has_handshake), preread]
            .into_iter()
            .flatten()
            .collect();
        let Some(last) = given.last() else {
            continue;
        };
        let sum: Option<u64> = given.iter().map(|directive| nginx_time(directive.arg(0))).sum();
        match sum {
            Some(ms) if (1..=3_600_000).contains(&ms) => {
                let setting = Setting::new("connect_timeout", quoted(&duration(ms)), last.place());
                listener.settings.push(setting);
            }
            _ => context.unreadable(last.place(), last.arg(0), "a duration of up to an hour"),
        }
    }
}

fn timeouts<'d>(scope: &Scope<'d>, context: &mut Context<'d>) {
    upstream::way(scope, context);
    let idle = scope.one("proxy_timeout", context);
    silence(idle, context);
}

/// A limit of silence.
pub(super) fn silence<'d>(directive: Option<&'d Directive>, context: &mut Context<'d>) {
    let Some(directive) = directive else {
        return;
    };
    if !context.time("timeouts", "idle_max", Some(directive)) {
        return;
    }
    context.report.differs(
        directive.place(),
        "idle_max is how long a client may be silent; what its node sends does not count",
        "leave it out: by default, a client is closed after one and a half times its own Keep Alive",
    );
}

/// `access_log`.
pub(super) fn logs<'d>(scope: &Scope<'d>, context: &mut Context<'d>) {
    let Some(log) = scope.one("access_log", context) else {
        return;
    };
    let word = if log.arg(0) == "off" { "none" } else { "end" };
    context.draft.set(
        "log",
        "connections",
        quoted(word),
        log.place(),
        Prefer::First,
        &mut context.report,
    );
    if word == "end" {
        context.report.differs(
            log.place(),
            "lines go to standard output, for the journal or a pipe",
            "see docs/logs.md",
        );
    }
}

/// `log_format`: which of its variables have fields here.
pub(super) fn log_format(directive: &Directive, context: &mut Context<'_>) {
    const FIELDS: [(&str, &str); 22] = [
        ("remote_addr", "client"),
        ("remote_port", "client"),
        ("realip_remote_addr", "client"),
        ("proxy_protocol_addr", "client"),
        ("upstream_addr", "node"),
        ("status", "cause"),
        ("session_time", "seconds"),
        ("request_time", "seconds"),
        ("bytes_received", "from_client"),
        ("bytes_sent", "from_node"),
        ("body_bytes_sent", "from_node"),
        ("upstream_bytes_sent", "from_client"),
        ("upstream_bytes_received", "from_node"),
        ("upstream_connect_time", "dial_us"),
        ("time_local", "timestamp"),
        ("time_iso8601", "timestamp"),
        ("msec", "timestamp"),
        ("ssl_server_name", "server_name"),
        ("ssl_preread_server_name", "server_name"),
        ("ssl_client_s_dn", "certificate_cn"),
        ("server_port", "listener"),
        ("server_addr", "listener"),
    ];
    let mut fields = Vec::new();
    let mut others = Vec::new();
    for word in directive.args.iter().skip(1) {
        for part in word.text.split('$').skip(1) {
            let part = part.trim_start_matches('{');
            let end = part
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(part.len());
            let name = &part[..end];
            let variable = format!("${name}");
            let field = FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
            let field = field.or(match variable::meaning(&variable, context) {
                Meaning::Script | Meaning::Key("client_id") => Some("client_id"),
                _ => None,
            });
            let (text, list) = match field {
                Some(field) => (format!("{variable} is {field}"), &mut fields),
                None => (variable, &mut others),
            };
            if !list.contains(&text) && !name.is_empty() {
                list.push(text);
            }
        }
    }
    let none = if others.is_empty() {
        String::new()
    } else {
        format!("; there is none for {}", others.join(", "))
    };
    context.report.differs(
        directive.place(),
        format!(
            "lines have fields with names of their own: {}{}",
            fields.join(", "),
            none
        ),
        "docs/logs.md has all of them; format = \"json\" in [log] writes them as JSON",
    );
}

/// Reports what stands at `place` as a second block of a kind that nginx has once.
pub(super) fn second(place: Place, what: &str, context: &mut Context<'_>) {
    context.report.differs(
        place,
        format!("a second {what} block: nginx refuses it, and all of them are read here"),
        "",
    );
}
