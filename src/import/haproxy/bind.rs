//! `bind`: addresses, TLS and limits of listeners.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::import::address::{Address, Host, Port, port_number};
use crate::import::draft::Prefer;
use crate::import::environment;
use crate::import::files::Files;
use crate::import::haproxy::certificates::{self, based};
use crate::import::haproxy::context::Context;
use crate::import::haproxy::syntax::{Line, Word};
use crate::import::model::{Listener, Setting};
use crate::import::text::{list, printable, quoted};
use crate::import::tls;

/// What `global` says of TLS on every `bind`, and where relative paths start.
#[derive(Clone, Default)]
pub(super) struct Bases {
    pub(super) crt: String,
    pub(super) ca: String,
    /// `ssl-default-bind-options`, and the ciphers.
    pub(super) options: Vec<Word>,
    pub(super) ciphers: Vec<Line>,
}

/// A `bind` with its TLS.
pub(super) struct Bind {
    pub(super) listeners: Vec<Listener>,
    pub(super) has_tls: bool,
}

/// Most ports of a range that become listeners.
const PORTS_MAX: u16 = 64;

pub(super) fn read(line: &Line, bases: &Bases, files: &dyn Files, context: &mut Context) -> Bind {
    let mut name = None;
    let mut settings = Vec::new();
    let mut certificates = Vec::new();
    let (mut has_tls, mut verify, mut authority, mut revoked) = (None, None, None, None);
    let mut versions: Vec<Word> = Vec::new();
    let mut words = line.rest(2).iter();
    let mut only_v6 = false;
    while let Some(word) = words.next() {
        let place = word.place;
        let what = format!("bind … {}", printable(&word.text));
        let mut value = || words.next().map_or("", |word| &*word.text).to_owned();
        let report = &mut context.report;
        match &*word.text {
            "ssl" => has_tls = Some(place),
            "crt" => {
                let written = value();
                certificates.extend(certificates::of_crt(&written, &bases.crt, word, files, context));
            }
            "crt-list" => {
                let written = value();
                certificates.extend(certificates::of_list(&written, &bases.crt, word, files, context));
            }
            "ca-file" | "ca-verify-file" => authority = Some((value(), place)),
            "crl-file" => revoked = Some((value(), place)),
            "verify" => verify = Some((value(), place)),
            "accept-proxy" => {
                settings.push(Setting::new("proxy_protocol_from", list(["0.0.0.0/0", "::/0"]), place));
                report.lost(
                    place,
                    "accept-proxy takes PROXY headers from every machine, so any client could claim any address",
                    "write the networks of your proxies to proxy_protocol_from",
                );
            }
            "name" => name = Some(value()),
            "maxconn" => {
                let text = value();
                match text.parse::<u64>() {
                    Ok(most @ 1..=100_000_000) => {
                        settings.push(Setting::new("connections_max", most.to_string(), place))
                    }
                    _ => context.unreadable(place, &text, "a number of connections"),
                }
            }
            "tcp-ut" => {
                let text = value();
                context.time_of("timeouts", "user_timeout", &text, place, 1);
            }
            "transparent" => {
                settings.push(Setting::new("freebind", "true", place));
            }
            "v6only" => only_v6 = true,
            "v4v6" => {}
            "ssl-min-ver" | "ssl-max-ver" => {
                let text = value();
                versions.push(Word {
                    text: format!("{} {text}", word.text),
                    place,
                });
            }
            "no-sslv3" | "no-tlsv10" | "no-tlsv11" | "no-tlsv12" | "no-tlsv13" | "force-tlsv12" | "force-tlsv13"
            | "force-tlsv10" | "force-tlsv11" | "force-sslv3" => {
                versions.push(word.clone());
            }
            "ciphers" | "ciphersuites" => {
                let text = value();
                tls::ciphers(place, &word.text, &text, report);
            }
            "strict-sni" => report.lost(
                place,
                "a server name of no certificate gets the first one, and no refusal",
                "the nodes still authenticate the client",
            ),
            "interface" => {
                value();
                report.lost(
                    place,
                    "sockets are not bound to an interface",
                    "write an address of that interface to `address`",
                );
            }
            "ca-ignore-err" | "crt-ignore-err" => {
                value();
                report.lost(
                    place,
                    "errors of clients' certificates are not ignored",
                    "write client_certificates = \"optional\", or add the missing authorities to client_ca",
                );
            }
            "namespace" => {
                value();
                report.lost(
                    place,
                    "listeners are in the network namespace of the process",
                    "start a Remora in that namespace",
                );
            }
            "alpn" | "npn" | "backlog" | "id" | "level" | "mode" | "uid" | "gid" | "user" | "group"
            | "severity-output" | "mss" | "nice" | "process" | "thread" | "shards" | "curves" | "ecdhe" | "proto"
            | "guid-prefix" | "tls-ticket-keys" | "sigalgs" | "client-sigalgs" | "ktls" | "cc" | "default-crt" => {
                value();
                report.unneeded(place, &what, "Remora sets sockets and TLS up by itself");
            }
            "tfo"
            | "defer-accept"
            | "allow-0rtt"
            | "no-tls-tickets"
            | "prefer-client-ciphers"
            | "expose-fd"
            | "no-alpn"
            | "quic-force-retry"
            | "no-strict-sni"
            | "generate-certificates" => {
                report.unneeded(place, &what, "Remora sets sockets and TLS up by itself");
            }
            _ => report.lost(
                place,
                format!("{} of bind is unknown", printable(&word.text)),
                "look up what it does in HAProxy's manual",
            ),
        }
    }
    if let Some(place) = has_tls {
        settings.push(Setting::new("tls", "\"end\"", place));
        settings.extend(oldest(&bases.options, &versions, context));
        for line in &bases.ciphers {
            tls::ciphers(line.place(), line.word(0), line.word(1), &mut context.report);
        }
        clients(verify, authority, revoked, bases, &mut settings, context);
        if certificates.is_empty() {
            context.report.lost(
                place,
                "a listener with TLS has no certificate that is a file, so it is left out",
                "write the certificate to a file, and import again",
            );
        }
    }
    if has_tls.is_none()
        && let [(_, _, place), ..] = certificates[..]
    {
        context.report.unneeded(place, "crt", "without ssl, there is no TLS");
        certificates.clear();
    }
    let mut listeners = Vec::new();
    for part in line.word(1).split(',') {
        match addresses(part) {
            Some(addresses) if addresses.len() <= usize::from(PORTS_MAX) => {
                for address in addresses {
                    listeners.push(Listener {
                        name: name.clone(),
                        place: line.place(),
                        only_v6: only_v6 && address.is_v6(),
                        address,
                        settings: settings.clone(),
                        certificates: certificates.clone(),
                    });
                }
            }
            Some(_) => context.report.lost(
                line.place(),
                format!("a range of more than {PORTS_MAX} ports"),
                "write a [[listeners]] for each port that clients use",
            ),
            None => {
                let (message, advice) = match part {
                    part if part.starts_with(['/', '@']) || part.contains("unix@") || part.contains("abns") => (
                        "Remora listens on no unix socket for clients",
                        "let clients connect over TCP, perhaps to 127.0.0.1",
                    ),
                    part if part.contains("quic") || part.contains("udp") => {
                        ("Remora serves MQTT over TCP", "keep HAProxy for it")
                    }
                    part if environment::is_in(part) => (
                        "variables of the environment can be the IP address and one port, and no more",
                        "write the addresses themselves",
                    ),
                    _ => (
                        "not an IP address of this machine with a port",
                        "write the IP address that the name has, or listen on every address",
                    ),
                };
                context
                    .report
                    .lost(line.place_of(1), format!("bind {}: {message}", printable(part)), advice);
            }
        }
    }
    // A name is of one listener.
    if listeners.len() > 1 {
        listeners.iter_mut().for_each(|listener| listener.name = None);
    }
    Bind {
        listeners,
        has_tls: has_tls.is_some(),
    }
}

/// `:1883`, `*:1883`, `10.0.0.1:1883-1885`, `[::]:1883`, `:::1883`, `ipv4@10.0.0.1:1883`.
fn addresses(written: &str) -> Option<Vec<Address>> {
    let (written, is_v6) = match written.split_once('@') {
        Some(("ipv4" | "tcp" | "tcp4" | "tcpv4", rest)) => (rest, false),
        Some(("ipv6" | "tcp6" | "tcpv6", rest)) => (rest, true),
        Some(_) => return None,
        None => (written, false),
    };
    if environment::is_whole(written) {
        return Some(vec![Address::whole(written)]);
    }
    let (host, ports) = written.rsplit_once(':')?;
    let any = if is_v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    if environment::is_in(host) {
        let (host, port) = (Host::named(host)?, Port::parse(ports)?);
        return Some(vec![Address { host, port }]);
    }
    let ip = match host {
        "" | "*" => any,
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .ok()?
            .to_canonical(),
    };
    let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if is_link_local {
        return None;
    }
    if environment::is_in(ports) {
        return Some(vec![Address::new(ip, Port::parse(ports)?)]);
    }
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (port_number(first)?, port_number(last)?),
        None => (port_number(ports)?, port_number(ports)?),
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

/// `tls_min`, from the options of all and of this `bind`.
fn oldest(options: &[Word], own: &[Word], context: &mut Context) -> Option<Setting> {
    let mut found = None;
    for word in options.iter().chain(own) {
        let place = word.place;
        let text = word.text.to_ascii_lowercase();
        match &*text {
            "ssl-min-ver tlsv1.2" | "no-tlsv11" | "force-tlsv12" => found = Some(("1.2", place)),
            "ssl-min-ver tlsv1.3" | "no-tlsv12" | "force-tlsv13" => found = Some(("1.3", place)),
            "ssl-min-ver sslv3"
            | "ssl-min-ver tlsv1.0"
            | "ssl-min-ver tlsv1.1"
            | "force-tlsv10"
            | "force-tlsv11"
            | "force-sslv3" => {
                tls::lost_versions(place, text.trim_start_matches("ssl-min-ver "), &mut context.report);
            }
            "no-sslv3" | "no-tlsv10" | "ssl-max-ver tlsv1.3" => {}
            "no-tlsv13" | "ssl-max-ver tlsv1.2" => context.report.differs(
                place,
                "TLS 1.3 is offered as well",
                "clients that have only 1.2 are not affected",
            ),
            _ => {}
        }
        if text == "force-tlsv12" {
            context.report.differs(
                place,
                "TLS 1.3 is offered as well",
                "clients that have only 1.2 are not affected",
            );
        }
    }
    found.map(|(version, place)| Setting::new("tls_min", quoted(version), place))
}

type Written = Option<(String, crate::import::text::Place)>;

/// Client certificates.
fn clients(
    verify: Written,
    authority: Written,
    revoked: Written,
    bases: &Bases,
    settings: &mut Vec<Setting>,
    context: &mut Context,
) {
    // Without `verify`, clients are not asked for certificates.
    let Some((word, at)) = verify.filter(|(word, _)| word != "none") else {
        return;
    };
    let Some((file, place)) = authority else {
        context.report.lost(
            at,
            "no ca-file says whom to believe",
            "add client_certificates and client_ca",
        );
        return;
    };
    if file.starts_with('@') {
        context.report.lost(
            place,
            format!("{} is no file", printable(&file)),
            "write the authorities of clients to a file, and name it in client_ca",
        );
        return;
    }
    let word = if word == "optional" { "optional" } else { "required" };
    settings.push(Setting::new("client_certificates", quoted(word), at));
    let path = based(&bases.ca, &file, place, &mut context.report);
    settings.push(Setting::new("client_ca", quoted(&path), place));
    if let Some((file, place)) = revoked {
        let path = based(&bases.ca, &file, place, &mut context.report);
        settings.push(Setting::new("client_crl", quoted(&path), place));
        settings.push(Setting::new("client_crl_expired", "\"refuse\"", place));
    }
}

/// Sets a key that Remora has once.
pub(super) fn set(
    context: &mut Context,
    table: &'static str,
    key: &'static str,
    toml: String,
    place: crate::import::text::Place,
) {
    context
        .draft
        .set(table, key, toml, place, Prefer::First, &mut context.report);
}
