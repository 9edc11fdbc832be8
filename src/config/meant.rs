//! What was probably meant by an address that cannot be read, for suggestions: those of nginx, HAProxy and EMQX, and URLs.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::reader::quoted;

/// What an address is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    /// The host that is suggested where none can be read.
    pub(super) host: &'static str,
    /// The port that is usual.
    pub(super) port: u16,
    /// Whether host names are allowed.
    pub(super) names: bool,
}

impl Role {
    pub(super) const LISTENER: Self = Self::of_this_machine("0.0.0.0", 1883);
    /// Not for everybody, unless the operator says so.
    pub(super) const ADMIN: Self = Self::of_this_machine("127.0.0.1", 9883);
    pub(super) const MQTT: Self = Self::of_a_node(1883);
    pub(super) const MQTTS: Self = Self::of_a_node(8883);
    pub(super) const WS: Self = Self::of_a_node(8083);
    pub(super) const WSS: Self = Self::of_a_node(8084);
    pub(super) const API: Self = Self::of_a_node(18083);

    /// Another balancer's admin listener.
    pub(super) const PEER: Self = Self::of_a_node(9883);

    const fn of_this_machine(host: &'static str, port: u16) -> Self {
        Self {
            host,
            port,
            names: false,
        }
    }

    const fn of_a_node(port: u16) -> Self {
        Self {
            host: "10.0.0.11",
            port,
            names: true,
        }
    }
}

/// What the scheme of a URL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) has_tls: bool,
    pub(super) is_ws: bool,
}

impl Scheme {
    /// What a scheme or another word for a protocol means; `None` for one that carries no MQTT.
    pub(super) fn of(word: &str) -> Option<Self> {
        let (has_tls, is_ws) = match &*word.to_ascii_lowercase() {
            "mqtt" | "tcp" | "mqtt+tcp" | "plain" => (false, false),
            "mqtts" | "ssl" | "tls" | "tcps" | "mqtt+ssl" | "mqtt+tls" | "mqtt-ssl" | "mqttssl" => (true, false),
            "ws" | "http" | "websocket" | "websockets" | "mqtt+ws" => (false, true),
            "wss" | "https" | "mqtt+wss" => (true, true),
            _ => return None,
        };
        Some(Self { has_tls, is_ws })
    }
}

/// A URL, or an address without a scheme.
#[derive(Clone, Copy, Debug)]
pub(super) struct Url<'t> {
    pub(super) scheme: Option<&'t str>,
    /// The host and the port.
    pub(super) host: &'t str,
    /// From its slash on.
    pub(super) path: &'t str,
}

impl<'t> Url<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (host, path) = match rest.find('/') {
            // 10.0.0.11/1883
            Some(slash) if scheme.is_none() && is_port(&rest[slash + 1..]) => (rest, ""),
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        // Behind a name and a password.
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        Self { scheme, host, path }
    }

    /// The scheme, if it is known.
    pub(super) fn known(&self) -> Option<Scheme> {
        self.scheme.and_then(Scheme::of)
    }
}

/// An address or a URL for messages, which are logged: without a user name and a password.
pub(super) fn shown(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let end = text[start..].find('/').map_or(text.len(), |at| start + at);
    match text[start..end].rfind('@') {
        Some(at) => quoted(&format!("{}***{}", &text[..start], &text[start + at..])),
        None => quoted(text),
    }
}

/// The address that `text` probably means, a host with or without a port, or either alone. It can always be read.
pub(super) fn address(text: &str, role: Role) -> String {
    let text = Url::of(text).host;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return of_ip(address.ip(), address.port(), role);
    }
    let (host, port) = split(text);
    let number = match port {
        None => role.port,
        Some("mqtt") => 1883,
        Some("mqtts" | "secure-mqtt") => 8883,
        Some(port) => port.parse().unwrap_or(role.port),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Some((ip, zone)) = bare.split_once('%')
        && ip.parse::<Ipv6Addr>().is_ok()
    {
        return format!("[{ip}%{zone}]:{number}");
    }
    match (bare.parse::<IpAddr>(), host) {
        (Ok(ip), _) => of_ip(ip, number, role),
        (Err(_), "localhost") if !role.names => format!("127.0.0.1:{number}"),
        (Err(_), name) if role.names && is_host_name(name) && number != 0 => format!("{name}:{number}"),
        (Err(_), name) if role.names && is_host_name(name) => format!("{name}:{}", role.port),
        (Err(_), _) => format!("{}:{number}", role.host),
    }
}

fn of_ip(ip: IpAddr, port: u16, role: Role) -> String {
    let is_node = role.names;
    let port = if is_node && port == 0 { role.port } else { port };
    match ip {
        ip if is_node && ip.is_unspecified() => format!("{}:{port}", role.host),
        ip => SocketAddr::new(ip, port).to_string(),
    }
}

/// Splits a host and a port at a colon, a space or a slash.
fn split(text: &str) -> (&str, Option<&str>) {
    if is_port(text) {
        return ("", Some(text));
    }
    if let Some((ip, port)) = unbracketed(text) {
        return (ip, Some(port));
    }
    let is_ip = text.trim_start_matches('[').trim_end_matches(']').split('%').next();
    if is_ip.is_some_and(|ip| ip.parse::<IpAddr>().is_ok()) {
        return (text, None);
    }
    let is_end = |c: char| c == ':' || c == '/' || c.is_whitespace();
    match text.rfind(is_end) {
        Some(at) => {
            let (host, rest) = text.split_at(at);
            (host.trim_end_matches(is_end), Some(rest.trim_start_matches(is_end)))
        }
        None => (text, None),
    }
}

/// An IPv6 address and a port without the brackets between them: `::1:1883`, `:::1883`. Where all of it is an address as well, the end
/// is a port if it has as many digits as ports of MQTT have.
pub(super) fn unbracketed(text: &str) -> Option<(&str, &str)> {
    let (ip, port) = text.rsplit_once(':')?;
    // `::1883` as netstat and nginx write every address.
    let ip = if ip == ":" { "::" } else { ip };
    let is_ip = ip.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    let may_be_address = text.parse::<Ipv6Addr>().is_ok();
    (is_ip && is_port(port) && (!may_be_address || port.len() >= 4)).then_some((ip, port))
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Whether this can be a host name: letters, digits, hyphens and underscores (which container networks use), and not a mistyped
/// IPv4 address.
pub(super) fn is_host_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let ends_in_number = labels
        .clone()
        .next_back()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && !ends_in_number && labels.clone().all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_other_programs_are_understood() {
        for (written, listener, node) in [
            ("1883", "0.0.0.0:1883", "10.0.0.11:1883"),
            (":1884", "0.0.0.0:1884", "10.0.0.11:1884"),
            ("*:1884", "0.0.0.0:1884", "10.0.0.11:1884"),
            ("*", "0.0.0.0:1883", "10.0.0.11:1883"),
            ("localhost:1884", "127.0.0.1:1884", "localhost:1884"),
            ("localhost", "127.0.0.1:1883", "localhost:1883"),
            ("emqx1", "0.0.0.0:1883", "emqx1:1883"),
            ("emqx1:mqtts", "0.0.0.0:8883", "emqx1:8883"),
            ("emqx1:", "0.0.0.0:1883", "emqx1:1883"),
            ("emqx1:0", "0.0.0.0:0", "emqx1:1883"),
            ("10.0.0.7 1884", "10.0.0.7:1884", "10.0.0.7:1884"),
            ("10.0.0.7/1884", "10.0.0.7:1884", "10.0.0.7:1884"),
            ("10.0.0.7\u{3000}1884", "10.0.0.7:1884", "10.0.0.7:1884"),
            ("10.0.0.7: 1884", "10.0.0.7:1884", "10.0.0.7:1884"),
            ("10.0.0.7:99999", "10.0.0.7:1883", "10.0.0.7:1883"),
            ("10.0.0.7:0", "10.0.0.7:0", "10.0.0.7:1883"),
            ("0.0.0.0:1884", "0.0.0.0:1884", "10.0.0.11:1884"),
            ("::1", "[::1]:1883", "[::1]:1883"),
            ("[::1]", "[::1]:1883", "[::1]:1883"),
            ("::1:23101", "[::1]:23101", "[::1]:23101"),
            ("::1:1884", "[::1]:1884", "[::1]:1884"),
            (":::1884", "[::]:1884", "10.0.0.11:1884"),
            ("::1884", "[::]:1884", "10.0.0.11:1884"),
            ("2001:db8::5", "[2001:db8::5]:1883", "[2001:db8::5]:1883"),
            ("2001:db8::5:1884", "[2001:db8::5]:1884", "[2001:db8::5]:1884"),
            ("fe80::1%lo:1884", "[fe80::1%lo]:1884", "[fe80::1%lo]:1884"),
            ("10.0.0.300:1884", "0.0.0.0:1884", "10.0.0.11:1884"),
            ("", "0.0.0.0:1883", "10.0.0.11:1883"),
        ] {
            assert_eq!(address(written, Role::LISTENER), listener, "{written:?}");
            assert_eq!(address(written, Role::MQTT), node, "{written:?}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (written, expected) in [
            ("mqtts://user:word@h:8883/a@b", "\"mqtts://***@h:8883/a@b\""),
            ("user:w@rd@h:8883", "\"***@h:8883\""),
            ("h:8883/a@b", "\"h:8883/a@b\""),
            ("mqtt://h", "\"mqtt://h\""),
        ] {
            assert_eq!(shown(written), expected);
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |text| {
            let url = Url::of(text);
            (url.scheme, url.host, url.path)
        };
        assert_eq!(parts("ssl://h:8883"), (Some("ssl"), "h:8883", ""));
        assert_eq!(parts("ws://u:p@h:8083/mqtt"), (Some("ws"), "h:8083", "/mqtt"));
        assert_eq!(parts("h:1883/"), (None, "h:1883", "/"));
        assert_eq!(parts("10.0.0.1/1883"), (None, "10.0.0.1/1883", ""));
        let tls = |word| Scheme::of(word).map(|scheme| scheme.has_tls);
        assert_eq!([tls("SSL"), tls("mqtt"), tls("quic")], [Some(true), Some(false), None]);
    }
}
