//! Parses the addresses of nodes, whose schemes say whether TLS and WebSocket are used.

use toml::de::DeValue;

use super::address::{HostPort, is_path, split, text};
use super::meant::{self, Role, Url, is_host_name, shown};
use super::reader::{Leaf, Mismatch, quoted, string};
use super::words::suggested;
use crate::cluster;
use crate::control::HOST_OF_FOUND;

/// The address of a node's TLS listener: an IP address or a host name, and a port.
pub(super) struct NodePass;

/// A node's MQTT listener: `HOST:PORT`, or `mqtts://HOST:PORT` with TLS. The second part of the output is whether it uses TLS.
pub(super) struct NodeMqtt;

/// A node's WebSocket listener: `HOST:PORT`, or `ws://HOST:PORT/PATH` if its path differs from the client's; `wss://` with TLS.
pub(super) struct NodeWs;

/// A node's HTTP API: `http://HOST:PORT`, or `https://` with TLS. The second part of the output is whether it uses TLS.
pub(super) struct NodeApiUrl;

/// The admin listener of another balancer: `http://HOST:PORT`. The output is the host and the port.
pub(super) struct PeerUrl;

/// What stands for the host of each node that is found.
pub(super) const HOST_PLACE: &str = "{host}";

/// A parsed [`NodeWs`].
#[derive(Debug)]
pub(super) struct NodeWsAddress {
    pub(super) address: cluster::NodeAddress,
    pub(super) path: Option<String>,
    pub(super) has_tls: bool,
}

impl Leaf for NodePass {
    type Output = cluster::NodeAddress;

    fn parse(value: &DeValue<'_>) -> Result<cluster::NodeAddress, Mismatch> {
        let written = text(
            value,
            Role::MQTTS,
            "write one address, or a host name that has all of them",
        )?;
        let url = Url::of(written);
        if url.scheme.is_some() {
            return Err(Mismatch::new(
                format!("{} is a URL, not an address", shown(written)),
                format!(
                    "write {}: what is passed is the clients' own TLS",
                    suggested(&meant::address(url.host, Role::MQTTS))
                ),
            ));
        }
        of_node(written, written, |address| address, Role::MQTTS)
    }
}

/// An address of a node, without a scheme; `whole` is all that was written, and `url` makes a suggestion of an address.
fn of_node(
    written: &str,
    whole: &str,
    url: impl Fn(String) -> String,
    role: Role,
) -> Result<cluster::NodeAddress, Mismatch> {
    if let Some(port) = written.strip_prefix(HOST_PLACE).and_then(|rest| rest.strip_prefix(':'))
        && let Ok(port @ 1..) = port.parse()
    {
        return Ok(cluster::NodeAddress::Host(HOST_OF_FOUND.to_owned(), port));
    }
    let suggestion = suggested(&url(meant::address(written, role)));
    let refuse = |message: &str, hint: String| Err(Mismatch::new(format!("{} {message}", shown(whole)), hint));
    match split(written, whole, url, role)? {
        HostPort::Ip(address) if address.ip().is_unspecified() => refuse(
            "is an address to listen on, not the address of a node",
            format!("write the node's own address, such as {suggestion}"),
        ),
        HostPort::Name("" | "*", _) => refuse(
            "has no host",
            format!("write the node's own host, such as {suggestion}"),
        ),
        HostPort::Name(host, _) if !is_host_name(host) => refuse(
            "is neither an IP address nor a host name with a port",
            format!("write it like {suggestion}"),
        ),
        HostPort::Ip(address) if address.port() != 0 => Ok(cluster::NodeAddress::Socket(address)),
        HostPort::Name(host, port) if port != 0 => Ok(cluster::NodeAddress::Host(host.to_owned(), port)),
        HostPort::Ip(_) | HostPort::Name(..) => refuse(
            "has port 0, where no node listens",
            format!("write the node's port, usually {suggestion}"),
        ),
    }
}

impl Leaf for NodeMqtt {
    type Output = (cluster::NodeAddress, bool);

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch> {
        let several = "write one address, or a host name that has all of them; a [[nodes]] is one node";
        let written = text(value, Role::MQTT, several)?;
        if let Some(rest) = written
            .strip_prefix("mqtts://")
            .filter(|rest| !rest.contains(['/', '@']))
        {
            let address = of_node(rest, written, |address| format!("mqtts://{address}"), Role::MQTTS)?;
            return Ok((address, true));
        }
        let url = Url::of(written);
        let Some(scheme) = url.scheme else {
            return Ok((of_node(written, written, |address| address, Role::MQTT)?, false));
        };
        let plain = suggested(&meant::address(url.host, Role::MQTT));
        let secured = suggested(&format!("mqtts://{}", meant::address(url.host, Role::MQTTS)));
        let (message, hint) = match url.known() {
            Some(known) if known.is_ws => {
                let (ws, scheme, mqtt) = match known.has_tls {
                    true => (Role::WSS, "wss", format!("mqtts://{}", usual(url.host, Role::MQTTS))),
                    false => (Role::WS, "ws", usual(url.host, Role::MQTT)),
                };
                let path = if is_path(url.path) { url.path } else { "" };
                let ws = suggested(&format!("{scheme}://{}{path}", meant::address(url.host, ws)));
                (
                    "is the address of a WebSocket listener".to_owned(),
                    format!(
                        "write the node's MQTT listener, usually {}, and add ws = {ws}",
                        suggested(&mqtt)
                    ),
                )
            }
            Some(known) if known.has_tls => ("is not how TLS is written here".to_owned(), format!("write {secured}")),
            Some(_) => ("is a URL, not an address".to_owned(), format!("write {plain}")),
            None => (
                format!("is a URL, and {} is not MQTT over TCP", quoted(scheme)),
                format!("write {plain}, or {secured} if the node expects TLS there"),
            ),
        };
        Err(Mismatch::new(format!("{} {message}", shown(written)), hint))
    }
}

/// The host of an address with the usual port of another listener.
fn usual(host: &str, role: Role) -> String {
    let address = meant::address(host, role);
    match address.rsplit_once(':') {
        Some((host, _)) => format!("{host}:{}", role.port),
        None => address,
    }
}

impl Leaf for NodeApiUrl {
    type Output = (cluster::NodeAddress, bool);

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch> {
        let written = text(value, Role::API, "one URL, that of the node's own API")?;
        let url = Url::of(written);
        let has_tls = url.known().is_some_and(|known| known.has_tls);
        let whole = |address: String| match has_tls {
            true => format!("https://{address}"),
            false => format!("http://{address}"),
        };
        match (url.scheme, url.path) {
            (Some("http" | "https"), "" | "/") if !written.contains('@') => {
                Ok((of_node(url.host, written, whole, Role::API)?, has_tls))
            }
            _ => Err(Mismatch::new(
                format!(
                    "{} is not the URL of an API: http:// or https://, host and port",
                    shown(written)
                ),
                format!("write {}", suggested(&whole(meant::address(url.host, Role::API)))),
            )),
        }
    }
}

impl Leaf for PeerUrl {
    type Output = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let written = string(value, "a URL", "a string such as \"http://10.0.0.6:9883\"")?;
        let url = Url::of(written);
        let whole = |address: String| format!("http://{address}");
        match (url.scheme, url.path) {
            (Some("http"), "" | "/") if !written.contains('@') => {
                match of_node(url.host, written, whole, Role::PEER)? {
                    cluster::NodeAddress::Host(host, _) if host == HOST_OF_FOUND => Err(Mismatch::new(
                        format!("{} has no host", shown(written)),
                        "write the host of the other balancer's admin listener",
                    )),
                    _ => Ok(url.host.to_owned()),
                }
            }
            _ => Err(Mismatch::new(
                format!(
                    "{} is not the URL of an admin listener: http://, host and port",
                    shown(written)
                ),
                format!("write {}", suggested(&whole(meant::address(url.host, Role::PEER)))),
            )),
        }
    }
}

impl Leaf for NodeWs {
    type Output = NodeWsAddress;

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch> {
        let written = text(
            value,
            Role::WS,
            "write one address, or a host name that has all of them",
        )?;
        let url = Url::of(written);
        let has_tls = match url.scheme {
            None | Some("ws") => false,
            Some("wss") => true,
            Some(scheme) => {
                let known = url.known();
                let has_tls = known.is_some_and(|known| known.has_tls);
                let (role, prefix) = match has_tls {
                    true => (Role::WSS, "wss://"),
                    false => (Role::WS, "ws://"),
                };
                let is_http = known.is_some_and(|known| known.is_ws);
                // The port of another listener would lead to that.
                let address = match is_http {
                    true => meant::address(url.host, role),
                    false => usual(url.host, role),
                };
                let path = if is_path(url.path) { url.path } else { "" };
                let suggestion = suggested(&format!("{prefix}{address}{path}"));
                let (message, hint) = match is_http {
                    true => (
                        "is not how a WebSocket is written here".to_owned(),
                        format!("write {suggestion}"),
                    ),
                    false => (
                        format!("is a URL, and {} is not WebSocket", quoted(scheme)),
                        format!(
                            "write the node's WebSocket listener, usually {suggestion}; its MQTT listener is address"
                        ),
                    ),
                };
                return Err(Mismatch::new(format!("{} {message}", shown(written)), hint));
            }
        };
        let path = url.path;
        let role = if has_tls { Role::WSS } else { Role::WS };
        let prefix = match (url.scheme, path) {
            (Some(scheme), _) => format!("{scheme}://"),
            (None, "") => String::new(),
            (None, _) => "ws://".to_owned(),
        };
        let valid_path = if is_path(path) { path } else { "" };
        let whole = |address: String| format!("{prefix}{address}{valid_path}");
        // Behind a user name, which is not sent.
        let has_user = written.split('/').any(|part| part.contains('@'));
        if has_user && !path.contains('@') {
            return Err(Mismatch::new(
                format!("{} has a user name", shown(written)),
                format!(
                    "write {}: clients have their own",
                    suggested(&whole(meant::address(url.host, role)))
                ),
            ));
        }
        let address = of_node(url.host, written, whole, role)?;
        if !path.is_empty() && !is_path(path) {
            let suggestion = suggested(&format!("{}://{}/mqtt", if has_tls { "wss" } else { "ws" }, url.host));
            return Err(Mismatch::new(
                format!("{} has {} for a path", shown(written), quoted(path)),
                format!("write a path that begins with a slash and has no spaces, such as {suggestion}"),
            ));
        }
        Ok(NodeWsAddress {
            address,
            path: (!path.is_empty()).then(|| path.to_owned()),
            has_tls,
        })
    }
}
