//! Addresses of listeners and nodes, whose parts may be variables of the environment.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::environment;

/// A port, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    Number(u16),
    /// A text with variables.
    Named(String),
    /// The variable that is the host gives the port as well.
    InHost,
}

/// The number of a port: digits alone, since `+1000` is an offset for HAProxy.
pub(super) fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

impl Port {
    /// The port that a text stands for.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match environment::is_in(text) {
            true => port_number(&environment::filled(text, "1")).map(|_| Self::Named(text.to_owned())),
            false => port_number(text).map(Self::Number),
        }
    }

    pub(super) fn number(&self) -> Option<u16> {
        match self {
            Self::Number(port) => Some(*port),
            Self::Named(_) | Self::InHost => None,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => write!(f, "{port}"),
            Self::Named(port) => f.write_str(port),
            Self::InHost => Ok(()),
        }
    }
}

/// The IP address of a listener, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    /// A text with variables, in brackets if it stands for one of IPv6.
    Named(String),
}

impl Host {
    /// An address with variables.
    pub(super) fn named(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let is_of_ip = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
        let is_right = environment::is_in(text) && environment::filled(bare, "1").chars().all(is_of_ip);
        is_right.then(|| Self::Named(text.to_owned()))
    }

    fn is_any(&self) -> bool {
        matches!(self, Self::Ip(ip) if ip.is_unspecified())
    }

    fn is_v6(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_ipv6(),
            Self::Named(text) => text.starts_with('['),
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: Host,
    pub(super) port: Port,
}

impl Address {
    pub(super) fn new(ip: IpAddr, port: Port) -> Self {
        let host = Host::Ip(ip);
        Self { host, port }
    }

    /// Every address of IPv4.
    pub(super) fn any(port: Port) -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED.into(), port)
    }

    /// A variable that is an IP address with a port.
    pub(super) fn whole(variable: &str) -> Self {
        Self {
            host: Host::Named(variable.to_owned()),
            port: Port::InHost,
        }
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ip(ip) => Some(ip),
            Host::Named(_) => None,
        }
    }

    /// Whether it is every address of this machine, or of one family.
    pub(super) fn is_any(&self) -> bool {
        self.host.is_any()
    }

    pub(super) fn is_v6(&self) -> bool {
        self.host.is_v6()
    }

    /// Whether sockets at both exclude each other. Variables have equal values only if they are the same.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self, other);
        a.port == b.port
            && (a.host == b.host
                || match (a.is_any(), b.is_any()) {
                    (false, false) => false,
                    // [::] takes IPv4 as well.
                    (true, true) => true,
                    (true, false) => a.is_v6() || !b.is_v6(),
                    (false, true) => b.is_v6() || !a.is_v6(),
                })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, &self.port) {
            (Host::Named(host), Port::InHost) => f.write_str(host),
            (Host::Named(host), port) => write!(f, "{host}:{port}"),
            (Host::Ip(ip), port) => f.write_str(&join(&ip.to_string(), port)),
        }
    }
}

/// Host and port, an IPv6 address in brackets.
pub(super) fn join(host: &str, port: &Port) -> String {
    match (host.parse::<Ipv6Addr>(), port) {
        (_, Port::InHost) => host.to_owned(),
        (Ok(ip), port) => format!("[{ip}]:{port}"),
        (Err(_), port) => format!("{host}:{port}"),
    }
}

/// The host of a node that was written in brackets or without. A variable keeps them, since no IPv6 address is right without.
pub(super) fn node_host(written: &str, bare: &str) -> String {
    match written.starts_with('[') && environment::is_in(bare) {
        true => format!("[{bare}]"),
        false => bare.to_owned(),
    }
}

/// Whether Remora can take this as the host of a node.
pub(super) fn is_host(host: &str) -> bool {
    if let Ok(ip) = host.parse::<IpAddr>() {
        let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        return !ip.is_unspecified() && !is_link_local;
    }
    let host = environment::filled(host, "a");
    let labels = host.strip_suffix('.').unwrap_or(&host).split('.');
    let is_label = |label: &str| {
        let is_of_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(is_of_label)
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    host.len() <= 253 && !labels.clone().next_back().is_some_and(is_number) && labels.clone().all(is_label)
}
