//! `server`, `server-template` and `default-server`: the nodes.

use crate::import::address::{Port, is_host, node_host};
use crate::import::environment;
use crate::import::haproxy::bind::set;
use crate::import::haproxy::certificates::based;
use crate::import::haproxy::context::Context;
use crate::import::haproxy::syntax::{Line, Word};
use crate::import::model::Server;
use crate::import::text::{Place, list, printable, quoted};
use crate::import::units::haproxy_time;

/// What `global` says of TLS to servers.
#[derive(Clone, Default)]
pub(super) struct Bases {
    pub(super) crt: String,
    pub(super) ca: String,
    pub(super) verifies_none: bool,
}

/// The nodes of a backend, and how they are checked.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) servers: Vec<Server>,
    /// Whether a server has `check`, and where.
    pub(super) check: Option<Place>,
    /// Time between two checks.
    pub(super) interval: Option<(u64, Place)>,
    /// The port that is checked.
    pub(super) port: Option<Port>,
}

/// Reads the servers of a backend; `port` is that of the `bind`, for servers without one, if all listeners have the same.
pub(super) fn read(lines: &[&Line], port: Option<&Port>, bases: &Bases, context: &mut Context) -> Servers {
    let mut found = Servers::default();
    let mut defaults: Vec<&Word> = Vec::new();
    for line in lines {
        match line.word(0) {
            "default-server" => defaults.extend(line.rest(1)),
            "server" => {
                if let Some(server) = address(line, line.word(2), line.place_of(2), port, context) {
                    let words: Vec<&Word> = defaults.iter().copied().chain(line.rest(3)).collect();
                    one(server, line, &words, bases, &mut found, context);
                }
            }
            "server-template" => {
                if let Some(server) = template(line, port, context) {
                    let words: Vec<&Word> = defaults.iter().copied().chain(line.rest(4)).collect();
                    one(server, line, &words, bases, &mut found, context);
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a port is one that HAProxy adds to that of the client.
fn is_offset(port: &str) -> bool {
    port.starts_with(['+', '-'])
}

/// Reports a server at the port that the client came to, which is left out.
fn client_port(place: Place, context: &mut Context) -> Option<Server> {
    context.report.lost(
        place,
        "HAProxy takes the port from that of the client, and a node has one port for all listeners: this one is left out",
        "write the port of the node's listener behind the host, and import again",
    );
    None
}

/// `10.0.0.1:1883`, `emqx1:1883`, `2001:db8::1:1883`, `ipv4@emqx1:1883`.
fn address(line: &Line, written: &str, place: Place, port: Option<&Port>, context: &mut Context) -> Option<Server> {
    let bare = match written.split_once('@') {
        Some(("ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6", rest)) => rest,
        Some(("unix" | "abns" | "abnsz", _)) => "/",
        Some(_) => "",
        None => written,
    };
    if bare.starts_with('/') {
        context.report.lost(
            line.place(),
            "Remora reaches nodes over TCP, not by unix sockets",
            "let the node listen on 127.0.0.1, and write that",
        );
        return None;
    }
    let (host, found) = match bare.rsplit_once(':') {
        Some((_, number)) if is_offset(number) => return client_port(place, context),
        Some((host, number)) => (host, Port::parse(number)),
        None if environment::is_whole(bare) => {
            context.report.differs(
                place,
                "a variable that is a whole address must have a port for Remora",
                "write :1883 behind it if it is a host alone",
            );
            (bare, Some(Port::InHost))
        }
        None if port.is_none() && is_host(bare) => return client_port(place, context),
        None => (bare, port.cloned()),
    };
    let written_host = host;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (is_host(host), found) {
        (true, Some(port)) => {
            let mut server = Server::new(node_host(written_host, host), port, line.place());
            server.name = Some(line.word(1).to_owned());
            Some(server)
        }
        _ => {
            context.unreadable(place, written, "the host and port of a node");
            None
        }
    }
}

/// `server-template PREFIX NUMBER NAME[:PORT]`: nodes that are looked for.
fn template(line: &Line, port: Option<&Port>, context: &mut Context) -> Option<Server> {
    let place = line.place();
    let written = line.word(3);
    let (name, number) = match written.rsplit_once(':') {
        Some((_, number)) if is_offset(number) => return client_port(line.place_of(3), context),
        Some((name, number)) => (name, Port::parse(number)),
        None if port.is_none() && is_host(written) => return client_port(line.place_of(3), context),
        None => (written, port.cloned()),
    };
    let name = name.trim_end_matches('.');
    let is_name = name.contains('.') && is_host(name);
    let Some(port) = number.filter(|_| is_name) else {
        context.unreadable(line.place_of(3), written, "a complete name of a service or a host");
        return None;
    };
    set(context, "discovery", "source", quoted("dns"), place);
    set(context, "discovery", "name", quoted(name), place);
    if name.starts_with('_') && !written.contains(':') {
        context.report.differs(
            place,
            format!(
                "the ports of SRV records are not used: {} is written for all nodes",
                printable(&port.to_string())
            ),
            "write the port of the nodes' listener behind {host}",
        );
    }
    let mut server = Server::new("{host}".to_owned(), port, place);
    server.is_template = true;
    Some(server)
}

/// The parameters of a server.
fn one(mut server: Server, line: &Line, words: &[&Word], bases: &Bases, found: &mut Servers, context: &mut Context) {
    let mut words = words.iter();
    let mut tls = None;
    let mut secured = Secured::default();
    let (mut is_left_out, mut has_check) = (None, None);
    let mut check_port = None;
    while let Some(word) = words.next() {
        let place = word.place;
        let what = format!("server … {}", printable(&word.text));
        let mut value = || words.next().map_or(String::new(), |word| word.text.clone());
        let number = |text: &str, most: u64| text.parse::<u64>().ok().filter(|number| (1..=most).contains(number));
        match &*word.text {
            "check" => has_check = Some(place),
            "no-check" => has_check = None,
            "ssl" => tls = Some(place),
            "no-ssl" => tls = None,
            "backup" => is_left_out = Some("backup"),
            "no-backup" | "enabled" => {}
            "disabled" => is_left_out = Some("disabled"),
            "send-proxy" => server.proxy_protocol = Some(("v1", place)),
            "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => {
                server.proxy_protocol = Some(("v2", place))
            }
            "no-send-proxy" | "no-send-proxy-v2" | "no-send-proxy-v2-ssl" | "no-send-proxy-v2-ssl-cn" => {
                server.proxy_protocol = None
            }
            "proxy-v2-options" => {
                let text = value();
                let known = text
                    .split(',')
                    .all(|option| matches!(option, "ssl" | "cert-cn" | "ssl-cipher" | "authority" | "crc32c"));
                match known {
                    true => context.report.unneeded(
                        place,
                        &what,
                        "version 2 carries server name, TLS version, cipher and common name anyway",
                    ),
                    false => context.report.lost(
                        place,
                        format!("PROXY headers do not carry all of {}", printable(&text)),
                        "they carry server name, TLS version, cipher and the certificate's common name",
                    ),
                }
            }
            "weight" => {
                let text = value();
                match text.parse::<u32>() {
                    Ok(0) => is_left_out = Some("weight 0"),
                    Ok(weight @ ..=256) => server.weight = Some((weight, place)),
                    _ => context.unreadable(place, &text, "a weight from 0 to 256"),
                }
            }
            "maxconn" => {
                let text = value();
                match number(&text, 100_000_000) {
                    Some(most) => {
                        server.connections_max = Some((most, place));
                        context.report.differs(place, "clients beyond maxconn do not wait in a queue: they go to their next choice, and stay there", "");
                    }
                    None => context.unreadable(place, &text, "a number of connections"),
                }
            }
            "inter" => {
                let text = value();
                match haproxy_time(&text, 1) {
                    Some(ms @ 1..) => found.interval = Some((ms, place)),
                    _ => context.unreadable(place, &text, "a duration"),
                }
            }
            "downinter" | "fastinter" => {
                let text = value();
                match haproxy_time(&text, 1) {
                    Some(ms) if word.text == "downinter" => {
                        context
                            .draft
                            .set_time("health", "down_max", ms, place, &mut context.report);
                        let least = quoted(&crate::import::units::duration(ms.clamp(1, 1000)));
                        set(context, "health", "down_min", least, place);
                    }
                    _ => context.report.unneeded(
                        place,
                        &what,
                        "the first probe of a node that is down comes after health.down_min",
                    ),
                }
            }
            "fall" | "rise" => {
                let key = if word.text == "fall" { "failures_max" } else { "rise" };
                let text = value();
                match number(&text, 1_000_000) {
                    Some(count) => set(context, "health", key, count.to_string(), place),
                    None => context.unreadable(place, &text, "a number of checks"),
                }
            }
            "port" => {
                let text = value();
                check_port = Port::parse(&text);
                if check_port.is_none() {
                    context.unreadable(place, &text, "a port");
                }
            }
            "on-marked-down" => match &*value() {
                "shutdown-sessions" => set(context, "health", "on_down", quoted("close"), place),
                _ => context.report.lost(
                    place,
                    "this action for a node that is down",
                    "health.on_down may be \"close\" or \"keep\"",
                ),
            },
            "slowstart" => {
                let text = value();
                context.report.lost(
                    place,
                    format!("slowstart {}: weights do not rise", printable(&text)),
                    "with connects_per_second of [pacing], the rate of a node that has come back rises over slow_start",
                );
            }
            "source" => {
                let text = value();
                source(&text, place, context);
            }
            "usesrc" => {
                value();
                context.report.lost(
                    place,
                    "nodes see Remora's own address, not the client's",
                    "write proxy_protocol = \"v2\" to the nodes, and the same to EMQX's listeners",
                );
            }
            "interface" => {
                value();
                context.report.lost(
                    place,
                    "sockets are not bound to an interface",
                    "write an address of that interface to sources of [dial]",
                );
            }
            "verify" => secured.verify = Some(value()),
            "ca-file" => secured.authority = Some((value(), place)),
            "crt" => secured.shown = Some((value(), place)),
            "verifyhost" => secured.name = Some((value(), place)),
            "sni" => {
                let text = value();
                let inner = text.strip_prefix("str(").and_then(|text| text.strip_suffix(')'));
                match inner.filter(|host| is_host(host)) {
                    Some(host) => secured.name = secured.name.or(Some((host.to_owned(), place))),
                    None => context.report.lost(
                        place,
                        format!("the server name {} for nodes", printable(&text)),
                        "nodes are asked for server_name, or for the host of their address",
                    ),
                }
            }
            "tcp-ut" => {
                let text = value();
                context.time_of("timeouts", "user_timeout", &text, place, 1);
            }
            "crl-file" => {
                value();
                context.report.lost(
                    place,
                    "lists of revoked certificates of nodes are not read",
                    "have the nodes' authority issue short certificates",
                );
            }
            "agent-check" => context.report.lost(
                place,
                "agents are not asked",
                "`api` of a node asks EMQX's availability check; `remora ctl` drains and weighs nodes",
            ),
            "agent-addr" | "agent-inter" | "agent-port" | "agent-send" => {
                value();
                context.report.unneeded(place, &what, "agents are not asked");
            }
            "track" | "addr" => {
                value();
                context.report.lost(
                    place,
                    "a node is checked at its own address",
                    "let the check go to the node itself",
                );
            }
            "observe" | "on-error" | "error-limit" => {
                value();
                context.report.unneeded(
                    place,
                    &what,
                    "failures that clients meet always count (health.failures_max)",
                );
            }
            "cookie"
            | "redir"
            | "id"
            | "guid"
            | "hash-key"
            | "init-addr"
            | "init-state"
            | "resolvers"
            | "resolve-prefer"
            | "resolve-net"
            | "resolve-opts"
            | "minconn"
            | "maxqueue"
            | "pool-low-conn"
            | "pool-max-conn"
            | "pool-purge-delay"
            | "max-reuse"
            | "on-marked-up"
            | "proto"
            | "check-proto"
            | "alpn"
            | "npn"
            | "check-alpn"
            | "check-sni"
            | "ssl-min-ver"
            | "ssl-max-ver"
            | "ciphers"
            | "ciphersuites"
            | "sigalgs"
            | "curves"
            | "log-proto"
            | "ws"
            | "shard"
            | "strict-maxconn"
            | "check-pool-conn-name"
            | "renegotiate"
            | "pool-conn-name"
            | "log-bufsize" => {
                value();
                context.report.unneeded(
                    place,
                    &what,
                    "nodes are known by their names, and each client has a connection of its own",
                );
            }
            "check-send-proxy"
            | "check-ssl"
            | "no-check-ssl"
            | "no-check-send-proxy"
            | "ssl-reuse"
            | "no-ssl-reuse"
            | "no-tls-tickets"
            | "tls-tickets"
            | "tfo"
            | "non-stick"
            | "stick"
            | "no-agent-check"
            | "allow-0rtt"
            | "no-sslv3"
            | "no-tlsv10"
            | "no-tlsv11"
            | "no-tlsv12"
            | "no-tlsv13"
            | "force-tlsv12"
            | "force-tlsv13"
            | "no-verifyhost"
            | "check-via-socks4"
            | "no-renegotiate" => {
                context.report.unneeded(
                    place,
                    &what,
                    "a probe goes the way of a client, with the same TLS and PROXY header",
                );
            }
            "socks4" | "namespace" => {
                value();
                context.report.lost(
                    place,
                    format!("{} of a server", printable(&word.text)),
                    "nodes are dialed from the process itself",
                );
            }
            text if text.starts_with("set-proxy-v2-tlv-fmt") => {
                value();
                context.report.lost(
                    place,
                    "values of your own in PROXY headers",
                    "they carry server name, TLS version, cipher and the certificate's common name",
                );
            }
            _ => context.report.lost(
                place,
                format!("{} of a server is unknown", printable(&word.text)),
                "look up what it does in HAProxy's manual",
            ),
        }
    }
    match is_left_out {
        Some("backup") => {
            context.report.lost(
                line.place(),
                "Remora has no backup nodes, so this one is left out: clients of a node that is down go to all others",
                "if it is in the same cluster, add it to [[nodes]]",
            );
            return;
        }
        Some(word) => {
            context.report.unneeded(
                line.place(),
                &format!("server … {word}"),
                "it gets no new clients, so it is left out; `remora ctl drain` does the same at run time",
            );
            return;
        }
        None => {}
    }
    found.check = found.check.or(has_check);
    found.port = found.port.take().or(check_port);
    if let Some(place) = tls {
        server.has_tls = true;
        secure(&mut server, place, secured, bases, context);
    }
    found.servers.push(server);
}

/// What a server says of its TLS.
#[derive(Default)]
struct Secured {
    verify: Option<String>,
    authority: Option<(String, Place)>,
    /// The certificate that is shown to it.
    shown: Option<(String, Place)>,
    /// The name that its certificate must have.
    name: Option<(String, Place)>,
}

/// TLS to nodes.
fn secure(server: &mut Server, place: Place, secured: Secured, bases: &Bases, context: &mut Context) {
    let Secured {
        verify,
        authority,
        shown,
        name,
    } = secured;
    let is_none = match verify.as_deref() {
        Some(word) => word == "none",
        None => bases.verifies_none,
    };
    match (is_none, authority) {
        (true, _) => {
            set(context, "nodes_tls", "insecure_skip_verify", "true".to_owned(), place);
            context.report.differs(
                place,
                "nodes' certificates are not verified, as with `verify none`",
                "write ca in [nodes_tls], and leave insecure_skip_verify out",
            );
        }
        (false, Some((file, place))) if !file.starts_with('@') => {
            let path = based(&bases.ca, &file, place, &mut context.report);
            set(context, "nodes_tls", "ca", quoted(&path), place);
            set(context, "nodes_tls", "common_names", "true".to_owned(), place);
            if name.is_none() {
                context.report.lost(
                    place,
                    "a node's certificate must be for the host of its address, which HAProxy does not check without verifyhost",
                    "write the name that is in the certificates to server_name of each node",
                );
            }
        }
        (false, _) => {
            set(context, "nodes_tls", "insecure_skip_verify", "true".to_owned(), place);
            context.report.lost(
                place,
                "no file says whom to believe, so nodes' certificates are not verified",
                "write the authorities of the nodes to ca in [nodes_tls], and leave insecure_skip_verify out",
            );
        }
    }
    if let Some((file, place)) = shown {
        let pair = format!(
            "{{ chain = {} }}",
            quoted(&based(&bases.crt, &file, place, &mut context.report))
        );
        set(context, "nodes_tls", "certificate", pair, place);
    }
    server.server_name = name
        .map(|(name, place)| (name.trim_end_matches('.').to_owned(), place))
        .filter(|(name, _)| is_host(name));
}

/// `source ADDRESS[:PORTS]`
pub(super) fn source(written: &str, place: Place, context: &mut Context) {
    if environment::is_whole(written) {
        return set(context, "dial", "sources", list([written]), place);
    }
    let host = match written.parse::<std::net::IpAddr>() {
        Ok(_) => written,
        Err(_) => written.rsplit_once(':').map_or(written, |(host, _)| host),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {}
        Ok(ip) => {
            set(context, "dial", "sources", list([ip.to_string()]), place);
            if host != written {
                context
                    .report
                    .unneeded(place, "source", "the kernel chooses the ports, for each node anew");
            }
        }
        Err(_) => context.unreadable(place, written, "an IP address of this machine"),
    }
}
