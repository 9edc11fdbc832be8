//! What a configuration of Remora is made of, before it is one: listeners, servers, and keys with the place that each comes from.

use std::net::IpAddr;

use super::address::{Address, Port, is_host, join, port_number};
use super::environment;
use super::text::Place;

/// A key with its value in TOML, and the directive that it comes from.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) toml: String,
    pub(super) place: Place,
}

impl Setting {
    pub(super) fn new(key: &'static str, toml: impl Into<String>, place: Place) -> Self {
        Self {
            key,
            toml: toml.into(),
            place,
        }
    }
}

/// Which listener of the nodes a service leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Mqtt,
    Ws,
    /// TLS that ends at the node.
    Pass,
}

/// A node as one service sees it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Its name in the original, if it has one there.
    pub(super) name: Option<String>,
    /// It may have variables of the environment.
    pub(super) host: String,
    pub(super) port: Port,
    pub(super) place: Place,
    pub(super) weight: Option<(u32, Place)>,
    pub(super) connections_max: Option<(u64, Place)>,
    pub(super) has_tls: bool,
    /// The path of a WebSocket listener, if it is not the client's.
    pub(super) path: Option<String>,
    pub(super) proxy_protocol: Option<(&'static str, Place)>,
    pub(super) server_name: Option<(String, Place)>,
    pub(super) api: Option<(String, Place)>,
    /// Stands for all nodes that are found.
    pub(super) is_template: bool,
}

impl Server {
    pub(super) fn new(host: String, port: Port, place: Place) -> Self {
        let ip = host.parse::<IpAddr>().map(|ip| ip.to_canonical().to_string());
        Self {
            name: None,
            host: ip.unwrap_or(host),
            port,
            place,
            weight: None,
            connections_max: None,
            has_tls: false,
            path: None,
            proxy_protocol: None,
            server_name: None,
            api: None,
            is_template: false,
        }
    }

    /// Host and port, an IPv6 address in brackets.
    pub(super) fn address(&self) -> String {
        join(&self.host, &self.port)
    }

    /// The same for a message, with TLS if it has it.
    pub(super) fn shown(&self) -> String {
        let tls = if self.has_tls { " with TLS" } else { "" };
        self.address() + tls
    }
}

/// An address that clients connect to.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) name: Option<String>,
    pub(super) address: Address,
    pub(super) place: Place,
    /// Whether a listener at `[::]` takes no IPv4, as Remora's does.
    pub(super) only_v6: bool,
    pub(super) settings: Vec<Setting>,
    /// Pairs of chain and key; the key may be in the chain's file.
    pub(super) certificates: Vec<(String, Option<String>, Place)>,
}

/// Listeners, and the nodes that they lead to.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) kind: Kind,
    /// What the original calls the nodes together.
    pub(super) pool: String,
    pub(super) place: Place,
    pub(super) servers: Vec<Server>,
    pub(super) listeners: Vec<Listener>,
}

/// Whether Remora takes this as a path of a listener.
pub(super) fn is_path(path: &str) -> bool {
    let is_of_path = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b'?';
    let path = environment::filled(path, "/a");
    path.starts_with('/') && path.bytes().all(is_of_path)
}

/// Whether Remora takes this as an origin: in small letters, without a path and the usual port.
pub(super) fn is_origin(text: &str) -> bool {
    let text = environment::filled(text, "a");
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (host, port) = rest.split_once(':').unwrap_or((rest, "1"));
    let usual = if scheme == "https" { "443" } else { "80" };
    let is_port = port != usual && !port.starts_with('0') && port_number(port).is_some();
    let is_small = !host.bytes().any(|byte| byte.is_ascii_uppercase());
    ["http", "https"].contains(&scheme)
        && is_port
        && is_small
        && is_host(host)
        && !host.contains(':')
        && !host.ends_with('.')
}

/// Whether Remora takes this as a name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.trim() == name && !name.chars().any(char::is_control)
}
