//! `upstream` and `proxy_pass`: the nodes, and what ties a client to one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::import::address::{Port, is_host};
use crate::import::draft::Prefer;
use crate::import::environment;
use crate::import::model::Server;
use crate::import::nginx::affinity::{self, Key};
use crate::import::nginx::scope::{Context, Scope};
use crate::import::nginx::syntax::{Directive, Word};
use crate::import::nginx::template::Own;
use crate::import::nginx::variable;
use crate::import::text::{Place, printable, quoted};
use crate::import::units::nginx_time;

/// The nodes that a `proxy_pass` leads to.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) servers: Vec<Server>,
    pub(super) key: Option<Key>,
}

/// The `upstream`s of a block, and those of them that were read.
#[derive(Default)]
pub(super) struct Upstreams<'d> {
    written: BTreeMap<&'d str, &'d Directive>,
    read: BTreeMap<String, Pool>,
}

impl<'d> Upstreams<'d> {
    pub(super) fn new(level: &'d [Directive], context: &mut Context<'d>) -> Self {
        let mut written = BTreeMap::new();
        for directive in level.iter().filter(|directive| directive.name.text == "upstream") {
            if written.insert(directive.arg(0), directive).is_some() {
                context.report.lost(
                    directive.place(),
                    "an upstream of this name is there already",
                    "give each upstream a name of its own",
                );
            }
        }
        Self {
            written,
            read: BTreeMap::new(),
        }
    }

    /// The nodes behind `target`, the argument of a `proxy_pass` without scheme and path; `port` is used if none is written.
    pub(super) fn pool(&mut self, target: &str, word: &Word, port: u16, context: &mut Context<'d>) -> Option<Pool> {
        let filled = context.filled(target, Own::Taken);
        let Some(filled) = filled else {
            return self.by_variable(target, word, port, context);
        };
        if let Some(pool) = self.read.get(target) {
            return Some(pool.clone());
        }
        if let Some(upstream) = self.written.get(target).copied() {
            let pool = read(upstream, port, context);
            self.read.insert(target.to_owned(), pool.clone());
            return Some(pool);
        }
        if environment::is_whole(&filled) && !self.written.is_empty() {
            context.report.lost(
                word.place,
                format!("{} may be the name of one of the upstreams", printable(target)),
                "write that name, and import again; or leave out the upstreams that nothing leads to",
            );
            return None;
        }
        let server = server(target, word.place, port, context)?;
        Some(Pool {
            name: filled,
            servers: vec![server],
            key: None,
        })
    }

    /// Of a `map`, the default is taken: the balancer knows one cluster.
    fn by_variable(&mut self, target: &str, word: &Word, port: u16, context: &mut Context<'d>) -> Option<Pool> {
        let map = variable::name(target).and_then(|name| context.variables.get(name).copied());
        let values = map
            .filter(|map| ["map", "geo", "split_clients"].contains(&&*map.name.text))
            .map(Directive::inner);
        let values = values.unwrap_or_default();
        let default = values
            .iter()
            .find(|value| matches!(&*value.name.text, "default" | "*"))
            .or(match values {
                [only] => Some(only),
                _ => None,
            });
        let advice = "Remora has one cluster; run one for each, or let `affinity.group` keep the clients of a tenant on one node";
        let Some(default) = default.filter(|default| !default.arg(0).contains('$') && !default.arg(0).is_empty())
        else {
            let advice = match map {
                Some(_) => advice,
                None => {
                    "if it is a variable of the environment, write the node to [[nodes]], whose address can have it as ${NAME}"
                }
            };
            context.report.lost(
                word.place,
                format!("the nodes are chosen by {}", printable(target)),
                advice,
            );
            return None;
        };
        for value in values
            .iter()
            .filter(|value| value.arg(0) != default.arg(0) && !["hostnames", "volatile"].contains(&&*value.name.text))
        {
            context.report.lost(
                value.place(),
                "clients that go to other nodes, by a map or by shares",
                advice,
            );
        }
        if let Some(map) = map {
            context.mark_all(map);
        }
        self.pool(default.arg(0), &default.args[0], port, context)
    }
}

/// How an upstream chooses a node.
const METHODS: [&str; 7] = [
    "hash",
    "ip_hash",
    "sticky",
    "least_conn",
    "random",
    "least_time",
    "round_robin",
];

fn read<'d>(upstream: &'d Directive, port: u16, context: &mut Context<'d>) -> Pool {
    context.mark(upstream);
    let (mut servers, mut resolvers, mut key) = (Vec::new(), Vec::new(), None);
    for directive in upstream.inner() {
        context.mark(directive);
        let place = directive.place();
        match &*directive.name.text {
            "server" => servers.extend(node(directive, port, context)),
            "hash" => key = affinity::hash(directive, context),
            "ip_hash" => key = Some(Key { word: "client_address", place }),
            "sticky" => key = affinity::sticky(directive, context),
            "least_conn" | "random" | "least_time" | "round_robin" => context.report.differs(
                place,
                format!("{}: clients go to their own node by client id, not to the one with the fewest connections", directive.name.text),
                "for clients without a lasting session, write clean_sessions = \"least\" in [affinity]; load_max bounds what a node gets",
            ),
            "zone" | "keepalive" | "keepalive_timeout" | "keepalive_requests" | "keepalive_time" | "state" | "ntlm" => {
                context.report.unneeded(place, &directive.name.text, "all threads share what is known of nodes, and each client has a connection of its own");
            }
            // When it is known whether nodes are looked for.
            "resolver" | "resolver_timeout" => resolvers.push(directive),
            name => context.report.lost(place, format!("{} in an upstream is unknown", printable(name)), "look up what it does in nginx's manual"),
        }
    }
    resolvers.into_iter().for_each(|directive| resolver(directive, context));
    let name = upstream.arg(0).to_owned();
    let says_how = |directive: &Directive| METHODS.contains(&&*directive.name.text);
    if servers.len() > 1 && !upstream.inner().iter().any(says_how) {
        context.report.differs(
            upstream.place(),
            "clients go to their own node by client id, and not to one after the other",
            "for clients without a lasting session, write clean_sessions = \"least\" in [affinity]; load_max bounds what a node gets",
        );
    }
    if servers.is_empty() {
        context.report.lost(
            upstream.place(),
            format!("{} has no node that Remora can reach", printable(&name)),
            "write its nodes to [[nodes]]",
        );
    }
    Pool { name, servers, key }
}

/// One `server` of an `upstream`.
fn node(directive: &Directive, port: u16, context: &mut Context<'_>) -> Option<Server> {
    let word = directive.args.first()?;
    let place = directive.place();
    let mut server = server(&word.text, word.place, port, context)?;
    server.place = place;
    for word in &directive.args[1..] {
        let (key, value) = word.text.split_once('=').unwrap_or((&*word.text, ""));
        let what = printable(&word.text);
        match key {
            "weight" => match value.parse::<u32>() {
                Ok(weight @ 1..) => server.weight = Some((weight, word.place)),
                _ => context.unreadable(word.place, value, "a weight"),
            },
            "max_conns" => match value.parse::<u64>() {
                Ok(0) => {}
                Ok(most @ ..=100_000_000) => server.connections_max = Some((most, word.place)),
                _ => context.unreadable(word.place, value, "a number of connections"),
            },
            "max_fails" => match value.parse::<u32>() {
                Ok(0) => context.report.lost(
                    word.place,
                    "max_fails=0: a node that fails is never left out",
                    "raise failures_max of [health] if that is what you want",
                ),
                Ok(count @ ..=1_000_000) => {
                    context.draft.set(
                        "health",
                        "failures_max",
                        count.to_string(),
                        word.place,
                        Prefer::First,
                        &mut context.report,
                    );
                }
                _ => context.unreadable(word.place, value, "a number of failures"),
            },
            "fail_timeout" => context.report.differs(
                word.place,
                "a node that is down is probed every second, and takes clients again when it answers",
                "health.down_min and down_max are the time between two probes",
            ),
            "backup" => {
                context.report.lost(
                    place,
                    "Remora has no backup nodes, so this one is left out: clients of a node that is down go to all others",
                    "if it is in the same cluster, add it to [[nodes]]",
                );
                return None;
            }
            "down" => {
                context
                    .report
                    .unneeded(place, "server … down", "it gets no clients, so it is left out");
                return None;
            }
            "resolve" => context.report.unneeded(
                word.place,
                "resolve",
                "host names are resolved again and again (health.resolve_interval)",
            ),
            "slow_start" => context.report.lost(
                word.place,
                "slow_start: a node that comes back gets its clients at once",
                "with connects_per_second of [pacing], its rate rises over slow_start",
            ),
            "service" => service(&mut server, value, word.place, context)?,
            "drain" => context.report.lost(
                word.place,
                "drain: the node gets clients",
                "drain it with `remora ctl drain`",
            ),
            "id" | "route" => context
                .report
                .unneeded(word.place, &what, "clients are tied to the names of nodes"),
            _ => context.report.lost(
                word.place,
                format!("{} of a server is unknown", printable(key)),
                "look up what it does in nginx's manual",
            ),
        }
    }
    Some(server)
}

/// `server NAME service=SERVICE resolve`: nodes that are looked for by SRV records. `mqtt` is short for `_mqtt._tcp`.
fn service(server: &mut Server, service: &str, at: Place, context: &mut Context<'_>) -> Option<()> {
    let place = server.place;
    let prefix = match service.contains('.') {
        true => service.to_owned(),
        false => format!("_{service}._tcp"),
    };
    let name = format!("{prefix}.{}", server.host.trim_end_matches('.'));
    if !prefix.starts_with('_') || !is_host(&name) || server.host.parse::<IpAddr>().is_ok() {
        context.report.lost(
            place,
            format!("{} is not the name of a service that has nodes", printable(&name)),
            "write [discovery] with source = \"dns\" and the name of its SRV records, and one [[nodes]] with address = \"{host}:1883\"",
        );
        return None;
    }
    let source = ("source", quoted("dns"));
    for (key, toml) in [source, ("name", quoted(&name))] {
        context
            .draft
            .set("discovery", key, toml, at, Prefer::First, &mut context.report);
    }
    if !context.draft.is("discovery", "name", &quoted(&name)) {
        // Nodes are looked for by another name, as was reported.
        return None;
    }
    context.report.differs(
        place,
        format!(
            "ports, weights and priorities of SRV records are not used: {} is written for all nodes",
            printable(&server.port.to_string())
        ),
        "write the port of the nodes' listener behind {host}; nodes that SRV records keep as a reserve get clients as well",
    );
    server.host = "{host}".to_owned();
    server.is_template = true;
    Some(())
}

/// `10.0.0.1:1883`, `emqx1:1883`, `[2001:db8::1]:1883`.
fn server(written: &str, place: Place, port: u16, context: &mut Context<'_>) -> Option<Server> {
    if written.starts_with("unix:") {
        context.report.lost(
            place,
            "Remora reaches nodes over TCP, not by unix sockets",
            "let the node listen on 127.0.0.1, and write that",
        );
        return None;
    }
    // nginx takes no variables of its own in the addresses of an upstream.
    let filled = context
        .filled(written, Own::Refused)
        .unwrap_or_else(|| written.to_owned());
    let filled = &*filled;
    let (host, found) = match filled.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, Some(Port::Number(port))),
        Some((host, rest)) => (host, rest.strip_prefix(':').and_then(Port::parse)),
        None => match filled.rsplit_once(':') {
            // An IPv6 address has brackets.
            Some((host, port)) => (if host.contains(':') { "" } else { host }, Port::parse(port)),
            None if environment::is_whole(filled) => (filled, Some(Port::InHost)),
            None => (filled, Some(Port::Number(port))),
        },
    };
    match (is_host(host), found) {
        (true, Some(port)) => {
            if port == Port::InHost {
                context.report.differs(
                    place,
                    "a variable that is a whole address must have a port for Remora",
                    "write :1883 behind it if it is a host alone",
                );
            }
            let host = &*crate::import::address::node_host(filled, host);
            Some(Server::new(host.to_owned(), port, place))
        }
        _ => {
            context.unreadable(place, written, "the host and port of a node");
            None
        }
    }
}

/// How often names are resolved, and by whom where nodes are looked for.
pub(super) fn resolver(directive: &Directive, context: &mut Context<'_>) {
    if context.draft.has("discovery", "name") && !context.draft.has("discovery", "name_servers") {
        let (servers, lost) = name_servers(directive, context);
        let place = directive.place();
        for word in lost {
            context.report.lost(
                word.place,
                format!("name servers are addresses, so {} is not asked", printable(&word.text)),
                "add its address to `name_servers` of `[discovery]`",
            );
        }
        if !servers.is_empty() {
            let servers = crate::import::text::list(servers);
            context.draft.set(
                "discovery",
                "name_servers",
                servers,
                place,
                Prefer::First,
                &mut context.report,
            );
        }
    }
    let valid = directive
        .args
        .iter()
        .find_map(|word| Some((word.text.strip_prefix("valid=")?, word.place)));
    match valid.map(|(text, place)| (nginx_time(text), place)) {
        Some((Some(ms), place)) => {
            context
                .draft
                .set_time("health", "resolve_interval", ms, place, &mut context.report);
        }
        _ => context.report.unneeded(
            directive.place(),
            &directive.name.text,
            "the system resolves the names of nodes, every 30 s",
        ),
    }
}

/// The servers that a `resolver` names by their addresses, and its words that name others.
fn name_servers<'d>(directive: &'d Directive, context: &Context<'_>) -> (Vec<String>, Vec<&'d Word>) {
    let (mut servers, mut others) = (Vec::new(), Vec::new());
    for word in directive.args.iter().filter(|word| !word.text.contains('=')) {
        let text = context
            .filled(&word.text, Own::Refused)
            .unwrap_or_else(|| word.text.clone());
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(&text);
        if text.parse::<SocketAddr>().is_ok() || environment::is_whole(&text) {
            servers.push(text);
        } else if bare.parse::<IpAddr>().is_ok() {
            servers.push(bare.to_owned());
        } else {
            others.push(word);
        }
    }
    (servers, others)
}

/// Settings of the way to the nodes that `stream` and `http` have in common.
pub(super) fn way<'d>(scope: &Scope<'d>, context: &mut Context<'d>) {
    let dial = scope.one("proxy_connect_timeout", context);
    context.time("timeouts", "dial", dial);
    if let Some(bind) = scope.one("proxy_bind", context) {
        sources(bind, context);
    }
    if let Some(again) = scope.one("proxy_next_upstream", context) {
        match again.arg(0) {
            "off" => context.report.differs(
                again.place(),
                "a client whose node cannot be reached is taken to another one, always",
                "",
            ),
            _ => context.report.unneeded(
                again.place(),
                "proxy_next_upstream",
                "a client whose node cannot be reached is taken to another one",
            ),
        }
    }
    for name in ["resolver", "resolver_timeout"] {
        if let Some(directive) = scope.one(name, context) {
            resolver(directive, context);
        }
    }
}

/// `proxy_bind`: one address, or those that `split_clients` deals out.
fn sources(bind: &Directive, context: &mut Context<'_>) {
    let place = bind.place();
    if bind.arg(0) == "off" {
        return;
    }
    let split = variable::name(bind.arg(0)).and_then(|name| context.variables.get(name).copied());
    let addresses: Vec<String> = match split.filter(|split| split.name.text == "split_clients") {
        Some(split) => {
            context.mark_all(split);
            split.inner().iter().map(|part| part.arg(0).to_owned()).collect()
        }
        None => vec![bind.arg(0).to_owned()],
    };
    let filled = addresses.iter().map(|text| context.filled(text, Own::Taken));
    let addresses: Vec<String> = filled.flatten().collect();
    let is_source =
        |text: &String| environment::is_whole(text) || text.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified());
    if bind.args.len() > 1 || !addresses.iter().all(is_source) || addresses.is_empty() {
        context.report.lost(
            place,
            "nodes see Remora's own address, not the client's",
            "write proxy_protocol = \"v2\" to the nodes, and the same to EMQX's listeners",
        );
        return;
    }
    let list = crate::import::text::list(&addresses);
    context
        .draft
        .set("dial", "sources", list, place, Prefer::First, &mut context.report);
}
