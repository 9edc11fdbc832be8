//! Parses addresses, networks and names, and recognises common mistakes.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use toml::de::DeValue;

use super::meant::{self, Role, Url, is_host_name, shown};
use super::reader::{Form, Leaf, Mismatch, quoted, string};
use super::words::suggested;
use crate::admin::settings::SOCKET_PATH_MAX;
use crate::net::socket::interface_index;
use crate::net::websocket::{OriginFault, check_origin};

/// The address of a listener: an IP address and a port, which may be 0.
pub(super) struct ListenerAddress;

/// The address of the admin listener.
pub(super) struct AdminAddress;

/// An IP address of this machine.
pub(super) struct SourceAddress;

/// A network, or a single IP address.
pub(super) struct Network;

/// A path of a WebSocket listener.
pub(super) struct WsPath;

/// The origin of pages that may connect: `https://example.com`.
pub(super) struct Origin;

/// The name of a listener or a node in logs, in metrics and on the ring.
pub(super) struct Name;

/// A host name without a port.
pub(super) struct HostName;

/// A name to ask name servers for: complete, since no domain is added to it.
pub(super) struct DnsName;

/// What the topics of the doctor begin with.
pub(super) struct TopicPrefix;

/// A name server: an IP address, with a port if it is not 53.
pub(super) struct NameServer;

/// A host and a port; which kind of host is allowed is checked later.
pub(super) enum HostPort<'t> {
    Ip(SocketAddr),
    Name(&'t str, u16),
}

impl Leaf for ListenerAddress {
    type Output = SocketAddr;

    fn parse(value: &DeValue<'_>) -> Result<SocketAddr, Mismatch> {
        let written = text(value, Role::LISTENER, "write a [[listeners]] of its own for each")?;
        let url = Url::of(written);
        let Some(scheme) = url.scheme else {
            return of_this_machine(written, Role::LISTENER);
        };
        let known = url.known();
        let (has_tls, is_ws) = known.map_or((false, false), |known| (known.has_tls, known.is_ws));
        let role = match (has_tls, is_ws) {
            (false, false) => Role::LISTENER,
            (true, false) => Role {
                port: 8883,
                ..Role::LISTENER
            },
            (false, true) => Role {
                port: 8083,
                ..Role::LISTENER
            },
            (true, true) => Role {
                port: 8084,
                ..Role::LISTENER
            },
        };
        let mut keys = Vec::new();
        if is_ws {
            keys.push("transport = \"ws\"".to_owned());
        }
        if is_ws && !matches!(url.path, "" | "/" | "/mqtt") && check_path(url.path).is_ok() {
            keys.push(format!("paths = [{}]", suggested(url.path)));
        }
        if has_tls {
            keys.push("tls = \"end\"".to_owned());
        }
        let keys = match &*keys.join(" and ") {
            "" => String::new(),
            keys => format!(", and add {keys}"),
        };
        let message = match known {
            Some(_) => "is a URL, not an address",
            None => &format!("is a URL, and {} is not MQTT over TCP or WebSocket", quoted(scheme)),
        };
        Err(Mismatch::new(
            format!("{} {message}", shown(written)),
            format!("write {}{keys}", suggested(&meant::address(url.host, role))),
        ))
    }
}

/// The path of the admin socket.
pub(super) struct SocketPath;

impl Leaf for SocketPath {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        const EXAMPLE: &str = "\"/run/remora/admin.sock\"";
        let written = string(value, "a path", &format!("a string such as {EXAMPLE}"))?;
        // As HAProxy and systemd write it.
        if let Some(path) = written.strip_prefix("unix:").or_else(|| written.strip_prefix("unix@")) {
            let path = path.strip_prefix("//").unwrap_or(path);
            let message = format!("{} is not a path", quoted(written));
            return Err(Mismatch::new(message, format!("write {}", suggested(path))));
        }
        if written.is_empty() || written.contains('\0') || written.ends_with('/') {
            let message = format!("{} is not a path", quoted(written));
            return Err(Mismatch::new(message, format!("write {EXAMPLE}")));
        }
        if written.len() > SOCKET_PATH_MAX {
            let message = format!(
                "a socket's path has at most {SOCKET_PATH_MAX} bytes, not {}",
                written.len()
            );
            return Err(Mismatch::new(
                message,
                format!("write a shorter one, such as {EXAMPLE}"),
            ));
        }
        Ok(written.to_owned())
    }
}

/// The path of the log's file.
pub(super) struct LogPath;

impl Leaf for LogPath {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        const EXAMPLE: &str = "\"/var/log/remora/remora.log\"";
        let written = string(value, "a path", &format!("a string such as {EXAMPLE}"))?;
        if written.is_empty() || written.contains('\0') || written.ends_with('/') {
            let message = format!("{} is not the path of a file", quoted(written));
            return Err(Mismatch::new(message, format!("write {EXAMPLE}")));
        }
        Ok(written.to_owned())
    }
}

/// The addresses of the admin listener: one, or a list.
pub(super) struct AdminAddresses;

impl Leaf for AdminAddresses {
    type Output = Vec<SocketAddr>;
    const FORM: Form = Form::OneOrMore;

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch> {
        match value {
            DeValue::Array(items) => items.iter().map(|item| AdminAddress::parse(item.get_ref())).collect(),
            one => AdminAddress::parse(one).map(|address| vec![address]),
        }
    }
}

impl Leaf for AdminAddress {
    type Output = SocketAddr;

    fn parse(value: &DeValue<'_>) -> Result<SocketAddr, Mismatch> {
        let written = text(value, Role::ADMIN, "each item of the list is one address")?;
        let url = Url::of(written);
        match url.scheme {
            None => of_this_machine(written, Role::ADMIN),
            Some(_) => Err(Mismatch::new(
                format!("{} is a URL, not an address", shown(written)),
                format!("write {}", suggested(&meant::address(url.host, Role::ADMIN))),
            )),
        }
    }
}

/// An address of this machine, without a scheme.
fn of_this_machine(written: &str, role: Role) -> Result<SocketAddr, Mismatch> {
    let port = match split(written, written, |address| address, role)? {
        HostPort::Ip(address) => return Ok(address),
        HostPort::Name(_, port) => port,
    };
    let suggestion = suggested(&meant::address(written, role));
    let (why, hint) = match written.rsplit_once(':').map(|(host, _)| host) {
        Some("" | "*") if role.port == Role::ADMIN.port => (
            "has no IP address",
            format!("write {suggestion}, or \"0.0.0.0:{port}\" for every address of this machine"),
        ),
        Some("" | "*") => (
            "has no IP address",
            format!("write {suggestion} or \"[::]:{port}\" for every address of this machine"),
        ),
        Some("localhost") => ("is not an IP address", format!("write {suggestion}")),
        _ => (
            "is not an IP address",
            format!("write an IP address of this machine, or {suggestion}"),
        ),
    };
    Err(Mismatch::new(format!("{} {why}", shown(written)), hint))
}

/// The text of an address; `several` says what to do about a list of them.
pub(super) fn text<'v>(value: &'v DeValue<'_>, role: Role, several: &str) -> Result<&'v str, Mismatch> {
    if let Some(text) = value.as_str() {
        return match unix_socket(text) {
            Some(path) => Err(not_tcp(text, path, role)),
            None => Ok(text),
        };
    }
    let found = super::reader::found(value);
    let of = |text: &str| format!("write {}", suggested(&meant::address(text, role)));
    let hint = match value {
        DeValue::Integer(port) => of(&port.to_string()),
        DeValue::Array(items) => match (
            items.len(),
            items.iter().next().and_then(|item| item.get_ref().as_str()),
        ) {
            (1, Some(text)) => of(Url::of(text).host),
            _ => several.to_owned(),
        },
        _ => of(""),
    };
    Err(Mismatch::new(format!("{found}, not an address"), hint))
}

/// The path of a unix socket, as nginx, HAProxy and URLs write it.
fn unix_socket(text: &str) -> Option<&str> {
    let prefixes = ["unix://", "unix:", "unix@", "abns@"];
    let behind = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    behind.or(text.starts_with('/').then_some(text))
}

fn not_tcp(written: &str, path: &str, role: Role) -> Mismatch {
    let hint = match role.port == Role::ADMIN.port && !role.names {
        true => format!(
            "write \"127.0.0.1:{}\", and add socket = {}",
            role.port,
            suggested(path)
        ),
        false => format!(
            "write \"127.0.0.1:{}\": clients and nodes are reached over TCP alone",
            role.port
        ),
    };
    Mismatch::new(format!("{} is a unix socket", quoted(written)), hint)
}

impl Leaf for DnsName {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let example = "_mqtt._tcp.emqx.default.svc.cluster.local";
        let written = string(value, "a name", &format!("a string such as {example:?}"))?;
        let is_label = |label: &str| {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(is_of_name)
        };
        let name = written.trim_end_matches('.');
        match name.len() <= 253 && name.contains('.') && name.split('.').all(is_label) {
            true => Ok(name.to_owned()),
            false => Err(Mismatch::new(
                format!("{} is not a complete name", quoted(written)),
                format!("a complete name has all of its domains, as {example:?} has"),
            )),
        }
    }
}

impl Leaf for NameServer {
    type Output = SocketAddr;

    fn parse(value: &DeValue<'_>) -> Result<SocketAddr, Mismatch> {
        let written = string(value, "an address", "a string such as \"10.0.0.53:53\"")?;
        let ip = written.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
        ip.or_else(|_| written.parse()).map_err(|_| {
            Mismatch::new(
                format!("{} is not an IP address", quoted(written)),
                "an IP address, with its port if that is not 53: \"10.0.0.53\"",
            )
        })
    }
}

impl Leaf for HostName {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let written = string(value, "a host name", "a string such as \"remora.example.com\"")?;
        if is_host_name(written) {
            return Ok(written.to_owned());
        }
        let host = Url::of(written).host;
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let is_ip = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok();
        let hint = match host {
            _ if is_ip => "leave it out: an IP address need not be listed".to_owned(),
            host if is_host_name(host) => format!("write {}", suggested(host)),
            _ => "write it like \"remora.example.com\", without a port".to_owned(),
        };
        Err(Mismatch::new(format!("{} is not a host name", quoted(written)), hint))
    }
}

impl Leaf for TopicPrefix {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        /// What is added is short, and a topic may have 65,535 bytes; some brokers allow less.
        const BYTES_MAX: usize = 200;
        const EXAMPLE: &str = "write the start of a topic, such as \"remora/doctor\"";
        let written = string(value, "a topic", "a string such as \"remora/doctor\"")?;
        let refuse = |why: &str, hint: &str| Err(Mismatch::new(format!("{} {why}", quoted(written)), hint));
        if let Some(topic) = written.strip_suffix("/#").or(written.strip_suffix('/')) {
            return refuse(
                "does not name a topic",
                &format!("write {}: levels are added to it", suggested(topic)),
            );
        }
        if written.contains(['+', '#']) {
            return refuse("has a wildcard", EXAMPLE);
        }
        if written.is_empty() || written.starts_with('$') || written.chars().any(char::is_control) {
            return refuse("cannot be published to", EXAMPLE);
        }
        if written.len() > BYTES_MAX {
            return refuse("is longer than 200 bytes", EXAMPLE);
        }
        Ok(written.to_owned())
    }
}

impl Leaf for WsPath {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let written = string(value, "a path", "a string such as \"/mqtt\"")?;
        check_path(written)?;
        if written.contains('?') {
            let path = written.split('?').next().unwrap_or_default();
            return Err(Mismatch::new(
                format!("{} has a query", quoted(written)),
                format!("write {}; clients may add any query", suggested(path)),
            ));
        }
        Ok(written.to_owned())
    }
}

impl Leaf for Origin {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let example = "a string such as \"https://example.com\"";
        let written = string(value, "an origin", example)?;
        let (message, hint) = match check_origin(written) {
            Ok(()) => return Ok(written.to_owned()),
            Err(OriginFault::Invalid) => (
                "is not an origin",
                "write scheme, host and perhaps port, as browsers send it: \"https://example.com\"; of apps, \
                 \"capacitor://localhost\", \"file://\" or \"null\""
                    .to_owned(),
            ),
            Err(OriginFault::Wildcard) => (
                "has a wildcard, which no browser sends",
                "list every origin, or leave origins empty to let every page connect".to_owned(),
            ),
            Err(OriginFault::WebSocket(page)) => (
                "is the address of a WebSocket; browsers send that of the page",
                format!("write {} for pages from the same host", suggested(&page)),
            ),
            Err(OriginFault::Spelling(right)) => (
                "is not how browsers write this origin",
                format!("write {}", suggested(&right)),
            ),
        };
        Err(Mismatch::new(format!("{} {message}", quoted(written)), hint))
    }
}

pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

fn check_path(path: &str) -> Result<(), Mismatch> {
    if is_path(path) {
        return Ok(());
    }
    let last = Url::of(path).path;
    let with_slash = format!("/{path}");
    let meant = [last, &with_slash].into_iter().find(|path| is_path(path));
    let hint = match meant {
        Some(meant) => format!("write {}", suggested(meant)),
        None => "write a path that begins with a slash and has no spaces, such as \"/mqtt\"".to_owned(),
    };
    Err(Mismatch::new(format!("{} is not a path", quoted(path)), hint))
}

impl Leaf for SourceAddress {
    type Output = IpAddr;

    fn parse(value: &DeValue<'_>) -> Result<IpAddr, Mismatch> {
        let written = string(value, "an IP address", "a string such as \"10.0.0.2\"")?;
        match written.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if !address.is_unspecified() => Ok(address),
            Ok(_) => Err(Mismatch::new(
                format!("{} is not a specific address", quoted(written)),
                "leave sources empty to let the kernel choose",
            )),
            Err(_) if written.parse::<SocketAddr>().is_ok() => {
                let ip = written.parse::<SocketAddr>().map(|address| address.ip().to_string());
                Err(Mismatch::new(
                    format!("{} has a port", quoted(written)),
                    format!(
                        "write {}; the kernel chooses the ports",
                        suggested(&ip.unwrap_or_default())
                    ),
                ))
            }
            Err(_) => Err(Mismatch::new(
                format!("{} is not an IP address", quoted(written)),
                "write an IP address of this machine, such as \"10.0.0.2\"",
            )),
        }
    }
}

impl Leaf for Network {
    type Output = IpNet;

    fn parse(value: &DeValue<'_>) -> Result<IpNet, Mismatch> {
        let written = string(value, "a network", "a string such as \"10.0.0.0/8\"")?;
        if let Ok(address) = written.parse::<IpAddr>() {
            return Ok(IpNet::from(address.to_canonical()));
        }
        // Bits after the prefix are ignored: "10.1.2.3/8" is common for "10.0.0.0/8".
        match written.parse::<IpNet>() {
            Ok(network) => canonical(network).ok_or_else(|| {
                Mismatch::new(
                    format!("{} is larger than all of IPv4", quoted(written)),
                    "write an IPv4 network; \"0.0.0.0/0\" is every IPv4 address",
                )
            }),
            Err(_) => {
                let hint = match network_meant(written) {
                    Some(network) => format!("write {}", suggested(&network)),
                    None => "write it like \"10.0.0.0/8\", \"2001:db8::/32\" or \"10.0.0.7\"".to_owned(),
                };
                Err(Mismatch::new(format!("{} is not a network", quoted(written)), hint))
            }
        }
    }
}

/// The network that was probably meant: with a netmask, with a port, or by a name.
fn network_meant(written: &str) -> Option<String> {
    let written = written.trim();
    if written.eq_ignore_ascii_case("localhost") {
        return Some("127.0.0.0/8".to_owned());
    }
    if let Ok(address) = written.parse::<SocketAddr>() {
        return Some(address.ip().to_string());
    }
    let (address, mask) = written.split_once(['/', ' '])?;
    let (address, mask) = (address.parse().ok()?, mask.trim().parse().ok()?);
    let network = Ipv4Net::with_netmask(address, mask).ok()?;
    Some(network.trunc().to_string())
}

/// The network without bits after its prefix; as a network of IPv4 if it is written as one of IPv6 (`::ffff:10.0.0.0/104`), since
/// that is what a client's address is. `None` if that has more than all of IPv4 in it.
fn canonical(network: IpNet) -> Option<IpNet> {
    /// The bits before an IPv4 address (RFC 4291, 2.5.5.2).
    const MAPPED_BITS: u8 = 96;
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped(),
        IpNet::V4(_) => None,
    };
    match mapped {
        Some(address) => {
            let bits = network.prefix_len().checked_sub(MAPPED_BITS)?;
            Ipv4Net::new(address, bits).ok().map(|network| network.trunc().into())
        }
        None => Some(network.trunc()),
    }
}

impl Leaf for Name {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        /// Names are labels of metrics and fields of log lines, so they must stay short.
        const BYTES_MAX: usize = 255;
        let written = string(value, "a name", "a string such as \"emqx1\"")?;
        let refuse = |message: String, hint: &str| Err(Mismatch::new(message, hint));
        if written.is_empty() {
            return refuse("a name cannot be empty".to_owned(), "write a name such as \"emqx1\"");
        }
        if written.len() > BYTES_MAX {
            let message = format!("{} is {} bytes long", quoted(written), written.len());
            return refuse(message, &format!("a name has at most {BYTES_MAX} bytes"));
        }
        if written.chars().any(char::is_control) {
            let message = format!("{} has a control character", quoted(written));
            return refuse(message, "write it without line breaks and tabs");
        }
        if written.trim() != written {
            let message = format!("{} begins or ends with a space", quoted(written));
            return refuse(message, &format!("write {}", suggested(written.trim())));
        }
        Ok(written.to_owned())
    }
}

/// Splits a host and a port, and explains common mistakes. `whole` is all that was written, and `url` makes a suggestion of an address.
pub(super) fn split<'t>(
    written: &'t str,
    whole: &str,
    url: impl Fn(String) -> String,
    role: Role,
) -> Result<HostPort<'t>, Mismatch> {
    if let Some(address) = with_zone(written)
        .transpose()?
        .or_else(|| written.parse::<SocketAddr>().ok())
    {
        if let SocketAddr::V6(v6) = address
            && v6.ip().is_unicast_link_local()
            && v6.scope_id() == 0
        {
            let hint = format!("write it like \"[{}%eth0]:{}\"", v6.ip(), v6.port());
            return Err(Mismatch::new(format!("{} lacks its interface", shown(whole)), hint));
        }
        return Ok(HostPort::Ip(match address.ip().to_canonical() {
            IpAddr::V4(ip) => (ip, address.port()).into(),
            // With its scope.
            IpAddr::V6(_) => address,
        }));
    }
    let suggestion = suggested(&url(meant::address(written, role)));
    let refuse = |message: &str, hint: String| Err(Mismatch::new(format!("{} {message}", shown(whole)), hint));
    let usage = || format!("write {suggestion}");
    if written.trim() != written {
        return refuse("begins or ends with a space", usage());
    }
    if meant::unbracketed(written).is_some() {
        let all = match written.parse::<IpAddr>() {
            Ok(ip) => format!(
                ", or {} if all of it is the address",
                suggested(&url(SocketAddr::new(ip, role.port).to_string()))
            ),
            Err(_) => String::new(),
        };
        return refuse("lacks brackets around its IPv6 address", format!("{}{all}", usage()));
    }
    let unbracketed = written.trim_start_matches('[').trim_end_matches(']');
    if unbracketed.parse::<IpAddr>().is_ok() {
        return refuse("has no port", usage());
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        return match written.parse::<u16>() {
            Ok(_) if role.names => refuse(
                "has no host",
                format!("write the node's own host, such as {suggestion}"),
            ),
            Ok(_) => refuse("has no IP address", usage()),
            Err(_) => refuse("has no port", usage()),
        };
    };
    // `parse` would accept a sign.
    match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(HostPort::Name(host, number)),
        _ if port.contains('/') => refuse("has a path behind its port", usage()),
        _ => refuse(
            &format!("has {} for a port", quoted(port)),
            format!(
                "write a number up to {} behind the colon, such as {suggestion}",
                u16::MAX
            ),
        ),
    }
}

/// An address with a zone that is the name of an interface: `[fe80::1%eth0]:1883`. A number is read as an address like any other.
fn with_zone(written: &str) -> Option<Result<SocketAddr, Mismatch>> {
    let (ip, rest) = written.strip_prefix('[')?.split_once('%')?;
    let (zone, port) = rest.split_once("]:")?;
    if zone.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Everything else is read as it is with a number.
    let with_number = |index| format!("[{ip}%{index}]:{port}").parse::<SocketAddr>().ok();
    with_number(1)?;
    match interface_index(zone) {
        Some(index) => with_number(index).map(Ok),
        None => Some(Err(Mismatch::new(
            format!("{} has {} for an interface", shown(written), quoted(zone)),
            "write the name of a network interface of this machine behind the %",
        ))),
    }
}

#[cfg(test)]
mod tests;
