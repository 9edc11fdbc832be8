//! `listen`: addresses and what is said of their sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::import::address::{Address, Host, Port, port_number};
use crate::import::draft::Prefer;
use crate::import::environment;
use crate::import::model::{Listener, Setting};
use crate::import::nginx::scope::Context;
use crate::import::nginx::syntax::Directive;
use crate::import::nginx::template::Own;
use crate::import::text::{list, printable, quoted};
use crate::import::units::{duration, network, network_text, nginx_time};

/// What a `listen` says.
#[derive(Debug)]
pub(super) struct Listen {
    pub(super) listeners: Vec<Listener>,
    pub(super) has_tls: bool,
    pub(super) has_proxy_protocol: bool,
    pub(super) is_datagram: bool,
}

/// Most ports of a range that become listeners.
const PORTS_MAX: u16 = 64;

/// The addresses of a `listen`; `port` is nginx's own, if none is written.
pub(super) fn read(directive: &Directive, port: u16, context: &mut Context<'_>) -> Listen {
    let place = directive.place();
    let written = directive.arg(0);
    let mut listen = Listen {
        listeners: Vec::new(),
        has_tls: false,
        has_proxy_protocol: false,
        is_datagram: false,
    };
    let mut only_v6 = true;
    for word in directive.args.iter().skip(1) {
        let (key, value) = word.text.split_once('=').unwrap_or((&*word.text, ""));
        let what = format!("listen … {}", printable(&word.text));
        let report = &mut context.report;
        match key {
            "ssl" => listen.has_tls = true,
            "proxy_protocol" => listen.has_proxy_protocol = true,
            "udp" => listen.is_datagram = true,
            "quic" | "http3" => report.lost(
                word.place,
                "QUIC",
                "clients of MQTT over QUIC must connect to the nodes themselves",
            ),
            "ipv6only" => only_v6 = value != "off",
            "so_keepalive" => keepalive(value, word, context),
            "reuseport" => report.unneeded(word.place, &what, "each thread has a socket of its own anyway"),
            "backlog" | "fastopen" | "deferred" | "bind" | "accept_filter" | "setfib" | "default_server" | "http2"
            | "default" => {
                report.unneeded(word.place, &what, "Remora sets its sockets up by itself");
            }
            "rcvbuf" | "sndbuf" => report.differs(
                word.place,
                format!("{key} of a listener"),
                "the kernel's buffers are `client` and `node` of [buffers], for all sockets",
            ),
            _ => report.lost(
                word.place,
                format!("{} of listen is unknown", printable(key)),
                "look up what it does in nginx's manual",
            ),
        }
    }
    // nginx takes no variables of its own here.
    let filled = context.filled(written, Own::Refused);
    let addresses = addresses(filled.as_deref().unwrap_or(written), port);
    let Some(addresses) = addresses else {
        let (message, advice) = match written {
            _ if written.starts_with("unix:") => (
                "Remora listens on no unix socket for clients",
                "let clients connect over TCP, perhaps to 127.0.0.1",
            ),
            _ if written.contains('$') => (
                "a variable that may be a port, or an address with one",
                "write address = \"0.0.0.0:${NAME}\" for a port, or address = \"${NAME}\" for both",
            ),
            _ => (
                "not an IP address of this machine",
                "write the IP address that the name has, or listen on every address",
            ),
        };
        context
            .report
            .lost(place, format!("listen {}: {message}", printable(written)), advice);
        return listen;
    };
    if addresses.len() > usize::from(PORTS_MAX) {
        context.report.lost(
            place,
            format!("a range of more than {PORTS_MAX} ports"),
            "write a [[listeners]] for each port that clients use",
        );
        return listen;
    }
    for address in addresses {
        listen.listeners.push(Listener {
            name: None,
            place,
            only_v6: only_v6 && address.is_v6(),
            address,
            settings: Vec::new(),
            certificates: Vec::new(),
        });
    }
    listen
}

/// `1883`, `*:1883`, `10.0.0.1:1883-1885`, `[::]:1883`, `10.0.0.1`, `${MQTT_PORT}`.
fn addresses(written: &str, port: u16) -> Option<Vec<Address>> {
    let any = Ipv4Addr::UNSPECIFIED.into();
    let ip = |host: &str| match host {
        "*" => Some(any),
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        host => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner
                .parse::<Ipv6Addr>()
                .ok()
                .filter(|ip| !ip.is_unicast_link_local())
                .map(|ip| IpAddr::V6(ip).to_canonical()),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        },
    };
    if environment::is_in(written) {
        return with_variables(written, ip).map(|address| vec![address]);
    }
    let ports = |text: &str| match text.split_once('-') {
        Some((first, last)) => Some((port_number(first)?, port_number(last)?)),
        None => port_number(text).map(|port| (port, port)),
    };
    let (ip, (first, last)) = match (ports(written), ip(written)) {
        (Some(ports), _) => (any, ports),
        (None, Some(ip)) => (ip, (port, port)),
        (None, None) => {
            let (host, port) = written.rsplit_once(':')?;
            (ip(host)?, ports(port)?)
        }
    };
    if first > last {
        return None;
    }
    let last = last.min(first.saturating_add(PORTS_MAX));
    Some(
        (first..=last)
            .map(|port| Address::new(ip, Port::Number(port)))
            .collect(),
    )
}

/// A variable alone may be a port or an address: one with PORT in its name is taken for a port.
fn with_variables(written: &str, ip: impl Fn(&str) -> Option<IpAddr>) -> Option<Address> {
    if environment::is_whole(written) {
        let is_port = written.to_ascii_uppercase().contains("PORT");
        return is_port.then(|| Address::any(Port::Named(written.to_owned())));
    }
    let (host, port) = written.rsplit_once(':')?;
    let host = ip(host).map(Host::Ip).or_else(|| Host::named(host))?;
    let port = Port::parse(port)?;
    Some(Address { host, port })
}

/// `on`, `off`, or `idle:interval:count`.
fn keepalive(value: &str, word: &crate::import::nginx::syntax::Word, context: &mut Context<'_>) {
    let place = word.place;
    let parts: Vec<&str> = value.split(':').collect();
    let [idle, interval, count] = parts[..] else {
        match value {
            "on" => context
                .report
                .unneeded(place, "so_keepalive=on", "TCP keepalive is always on"),
            _ => context.report.differs(
                place,
                "TCP keepalive is always on",
                "a client with a long Keep Alive is probed late; see [keepalive]",
            ),
        }
        return;
    };
    for (key, value) in [("idle", idle), ("interval", interval)] {
        match nginx_time(value) {
            _ if value.is_empty() => {}
            Some(ms) if (1000..=32_767_000).contains(&ms) => {
                let seconds = quoted(&duration(ms / 1000 * 1000));
                context
                    .draft
                    .set("keepalive", key, seconds, place, Prefer::First, &mut context.report);
            }
            _ => context.unreadable(place, value, "a number of seconds up to 32767"),
        }
    }
    match count.parse::<u8>() {
        _ if count.is_empty() => {}
        Ok(number @ 1..=127) => {
            context.draft.set(
                "keepalive",
                "count",
                number.to_string(),
                place,
                Prefer::First,
                &mut context.report,
            );
        }
        _ => context.unreadable(place, count, "a number of probes from 1 to 127"),
    }
}

/// The networks whose connections begin with a PROXY header.
pub(super) fn proxies(directive: &Directive, trusted: &[&Directive], context: &mut Context<'_>) -> Setting {
    let mut nets = Vec::new();
    for trusted in trusted {
        match network(trusted.arg(0)) {
            Some(net) => nets.push(network_text(&net)),
            None => context.unreadable(trusted.place(), trusted.arg(0), "a network"),
        }
    }
    let place = trusted.first().map_or(directive.place(), |trusted| trusted.place());
    if nets.is_empty() {
        context.report.lost(
            directive.place(),
            "no set_real_ip_from says which machines send PROXY headers, so all of them are taken: any client could claim any address",
            "write the networks of your proxies to proxy_protocol_from",
        );
        return Setting::new("proxy_protocol_from", list(["0.0.0.0/0", "::/0"]), directive.place());
    }
    context.report.differs(
        place,
        "connections from other networks are refused, and the address in the header is the client's everywhere",
        "nginx takes a header from every machine, and believes the address in it only from these",
    );
    Setting::new("proxy_protocol_from", list(nets), place)
}
