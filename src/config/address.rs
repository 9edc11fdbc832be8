//! Addresses, networks and names, and what people write instead of them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use toml::de::DeValue;

use super::reader::{Leaf, Mismatch, quoted, string};
use crate::cluster;

/// Where to listen: an IP address and a port, which may be 0.
pub(super) struct ListenerAddress;

/// Where a node is: an IP address or a host name, and a port.
pub(super) struct NodeAddress;

/// An IP address of this machine.
pub(super) struct SourceAddress;

/// A network, or an IP address that stands for itself.
pub(super) struct Network;

/// A node's MQTT listener: `HOST:PORT`, or `mqtts://HOST:PORT` where it speaks TLS; which of them is the second part.
pub(super) struct NodeMqtt;

/// A node's WebSocket listener: `HOST:PORT`, or `ws://HOST:PORT/PATH` where the path is not the client's; `wss://` where it
/// speaks TLS.
pub(super) struct NodeWs;

/// A node's WebSocket listener, as it is meant.
#[derive(Debug)]
pub(super) struct NodeWsAddress {
    pub(super) address: cluster::NodeAddress,
    pub(super) path: Option<String>,
    pub(super) has_tls: bool,
}

/// A path of a WebSocket listener.
pub(super) struct WsPath;

/// Where pages come from that may connect: `https://example.com`.
pub(super) struct Origin;

/// What a listener or a node is called in logs, in metrics and on the ring.
pub(super) struct Name;

/// MQTT's own port, for what is suggested.
const PORT_USUAL: u16 = 1883;

/// A host and a port, before anyone asked what kind of host would do.
enum HostPort<'t> {
    Ip(SocketAddr),
    Name(&'t str, u16),
}

impl Leaf for ListenerAddress {
    type Meaning = SocketAddr;

    fn parse(value: &DeValue<'_>) -> Result<SocketAddr, Mismatch> {
        let written = string(value, "an address", "a string such as \"0.0.0.0:1883\"")?;
        match split(written)? {
            HostPort::Ip(address) => Ok(address),
            HostPort::Name("" | "*", port) => Err(Mismatch::new(
                format!("{} has no IP address", quoted(written)),
                format!(
                    "write \"0.0.0.0:{port}\" or \"[::]:{port}\" for every address of this machine"
                ),
            )),
            HostPort::Name(_, port) => Err(Mismatch::new(
                format!("{} is not an IP address", quoted(written)),
                format!("write an IP address of this machine, such as \"127.0.0.1:{port}\""),
            )),
        }
    }
}

impl Leaf for NodeAddress {
    type Meaning = cluster::NodeAddress;

    fn parse(value: &DeValue<'_>) -> Result<cluster::NodeAddress, Mismatch> {
        let written = string(value, "an address", "a string such as \"10.0.0.11:1883\"")?;
        let refuse = |message: &str, hint: &str| {
            Err(Mismatch::new(
                format!("{} {message}", quoted(written)),
                hint,
            ))
        };
        match split(written)? {
            HostPort::Ip(address) if address.ip().is_unspecified() => refuse(
                "says where to listen, not where a node is",
                "write the node's own address, such as \"127.0.0.1:1883\"",
            ),
            HostPort::Name("", _) => refuse(
                "has no host",
                "write an IP address or a host name before the colon",
            ),
            HostPort::Name(host, _) if !is_host_name(host) => refuse(
                "is neither an IP address nor a host name with a port",
                "write it like \"10.0.0.11:1883\" or \"emqx1.example.com:1883\"",
            ),
            HostPort::Ip(address) if address.port() != 0 => {
                Ok(cluster::NodeAddress::Socket(address))
            }
            HostPort::Name(host, port) if port != 0 => {
                Ok(cluster::NodeAddress::Host(host.to_owned(), port))
            }
            HostPort::Ip(_) | HostPort::Name(..) => refuse(
                "has port 0, where no node listens",
                "write the node's MQTT port, usually 1883",
            ),
        }
    }
}

impl Leaf for NodeMqtt {
    type Meaning = (cluster::NodeAddress, bool);

    fn parse(value: &DeValue<'_>) -> Result<Self::Meaning, Mismatch> {
        let secured = value
            .as_str()
            .and_then(|text| text.strip_prefix("mqtts://"));
        match secured {
            Some(rest) => Ok((NodeAddress::parse(&DeValue::String(rest.into()))?, true)),
            None => Ok((NodeAddress::parse(value)?, false)),
        }
    }
}

impl Leaf for NodeWs {
    type Meaning = NodeWsAddress;

    fn parse(value: &DeValue<'_>) -> Result<Self::Meaning, Mismatch> {
        let example = "a string such as \"10.0.0.11:8083\" or \"ws://10.0.0.11:8083/mqtt\"";
        let written = string(value, "an address", example)?;
        let secured = written.strip_prefix("wss://");
        let rest = secured.unwrap_or(written.strip_prefix("ws://").unwrap_or(written));
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let address = NodeAddress::parse(&DeValue::String(host.into()))?;
        if !path.is_empty() {
            check_path(path)?;
        }
        Ok(NodeWsAddress {
            address,
            path: (!path.is_empty()).then(|| path.to_owned()),
            has_tls: secured.is_some(),
        })
    }
}

impl Leaf for WsPath {
    type Meaning = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let written = string(value, "a path", "a string such as \"/mqtt\"")?;
        check_path(written)?;
        if written.contains('?') {
            return Err(Mismatch::new(
                format!("{} has a query", quoted(written)),
                "write the path alone: clients may add any query",
            ));
        }
        Ok(written.to_owned())
    }
}

impl Leaf for Origin {
    type Meaning = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        let example = "a string such as \"https://example.com\"";
        let written = string(value, "an origin", example)?;
        let host = written.split_once("://").map_or("", |(_, host)| host);
        let plain = written.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains('/') || !plain {
            return Err(Mismatch::new(
                format!("{} is not an origin", quoted(written)),
                "write scheme, host and perhaps port, as browsers send it: \"https://example.com\"",
            ));
        }
        Ok(written.to_owned())
    }
}

fn check_path(path: &str) -> Result<(), Mismatch> {
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.starts_with('/') && plain {
        return Ok(());
    }
    Err(Mismatch::new(
        format!("{} is not a path", quoted(path)),
        "write it from its first slash on, without spaces: \"/mqtt\"",
    ))
}

impl Leaf for SourceAddress {
    type Meaning = IpAddr;

    fn parse(value: &DeValue<'_>) -> Result<IpAddr, Mismatch> {
        let written = string(value, "an IP address", "a string such as \"10.0.0.2\"")?;
        match written.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() => Ok(address),
            Ok(_) => Err(Mismatch::new(
                format!("{} is not an address of its own", quoted(written)),
                "leave sources empty to let the kernel choose",
            )),
            Err(_) if written.parse::<SocketAddr>().is_ok() => Err(Mismatch::new(
                format!("{} has a port", quoted(written)),
                "write the address alone; the kernel chooses the ports",
            )),
            Err(_) => Err(Mismatch::new(
                format!("{} is not an IP address", quoted(written)),
                "write an IP address of this machine, such as \"10.0.0.2\"",
            )),
        }
    }
}

impl Leaf for Network {
    type Meaning = IpNet;

    fn parse(value: &DeValue<'_>) -> Result<IpNet, Mismatch> {
        let written = string(value, "a network", "a string such as \"10.0.0.0/8\"")?;
        if let Ok(address) = written.parse::<IpAddr>() {
            return Ok(IpNet::from(address));
        }
        // Bits behind the prefix are dropped: "10.1.2.3/8" is a common way to say "10.0.0.0/8".
        written
            .parse::<IpNet>()
            .map(|network| network.trunc())
            .map_err(|_| {
                Mismatch::new(
                    format!("{} is not a network", quoted(written)),
                    "write it like \"10.0.0.0/8\", \"2001:db8::/32\" or \"10.0.0.7\"",
                )
            })
    }
}

impl Leaf for Name {
    type Meaning = String;

    fn parse(value: &DeValue<'_>) -> Result<String, Mismatch> {
        /// Names are labels of metrics and fields of log lines: longer ones help nobody.
        const BYTES_MAX: usize = 255;
        let written = string(value, "a name", "a string such as \"emqx1\"")?;
        let refuse = |message: String, hint: &str| Err(Mismatch::new(message, hint));
        if written.is_empty() {
            return refuse(
                "a name cannot be empty".to_owned(),
                "write a name such as \"emqx1\"",
            );
        }
        if written.len() > BYTES_MAX {
            let message = format!("{} is {} bytes long", quoted(written), written.len());
            return refuse(message, &format!("a name has at most {BYTES_MAX} bytes"));
        }
        if written.chars().any(char::is_control) {
            let message = format!("{} has a control character", quoted(written));
            return refuse(message, "write it without line breaks, tabs and the like");
        }
        if written.trim() != written {
            let message = format!("{} begins or ends with a space", quoted(written));
            return refuse(message, &format!("write {}", quoted(written.trim())));
        }
        Ok(written.to_owned())
    }
}

/// Splits what is meant as a host and a port, and names the usual slips.
fn split(written: &str) -> Result<HostPort<'_>, Mismatch> {
    if let Ok(address) = written.parse::<SocketAddr>() {
        return Ok(HostPort::Ip(address));
    }
    let refuse = |message: &str, hint: String| {
        Err(Mismatch::new(
            format!("{} {message}", quoted(written)),
            hint,
        ))
    };
    if let Some((_, rest)) = written.split_once("://") {
        return refuse(
            "is a URL, not an address",
            format!("write {}", quoted(rest)),
        );
    }
    let unbracketed = written.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = unbracketed.parse::<IpAddr>() {
        return refuse(
            "has no port",
            format!("write \"{}\"", SocketAddr::new(ip, PORT_USUAL)),
        );
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        return match written.parse::<u16>() {
            Ok(port) => refuse("has no host", format!("write it like \"10.0.0.11:{port}\"")),
            Err(_) => refuse(
                "has no port",
                format!("write a port behind it, such as :{PORT_USUAL}"),
            ),
        };
    };
    // `parse` would take a sign.
    match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(HostPort::Name(host, number))
        }
        _ => refuse(
            &format!("has {} for a port", quoted(port)),
            format!("write a number up to {} behind the colon", u16::MAX),
        ),
    }
}

/// Whether a resolver could know this name: letters, digits, hyphens and (as container networks use them) underscores,
/// and not a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
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
    use toml::Value;

    use super::*;

    fn read<T: Leaf>(written: &str) -> Result<T::Meaning, String> {
        let quoted = Value::from(written).to_string();
        let value = DeValue::parse(&quoted).expect("TOML");
        T::parse(value.get_ref()).map_err(|m| format!("{}; {}", m.message, m.hint))
    }

    fn refused<T: Leaf>(written: &str, part: &str) {
        match read::<T>(written) {
            Ok(_) => panic!("{written:?} was taken"),
            Err(said) => assert!(said.contains(part), "{written:?}: {said}"),
        }
    }

    #[test]
    fn listeners_take_ip_addresses() {
        for written in [
            "0.0.0.0:1883",
            "[::]:1883",
            "127.0.0.1:0",
            "[fe80::1%2]:1883",
        ] {
            let address = written.parse::<SocketAddr>().expect("an address");
            assert_eq!(read::<ListenerAddress>(written), Ok(address));
        }
        let refused = refused::<ListenerAddress>;
        refused("0.0.0.0", "has no port; write \"0.0.0.0:1883\"");
        refused("::1", "has no port; write \"[::1]:1883\"");
        refused("[::1]", "has no port; write \"[::1]:1883\"");
        refused("1883", "has no host; write it like \"10.0.0.11:1883\"");
        refused(":1883", "has no IP address; write \"0.0.0.0:1883\"");
        refused("*:1883", "has no IP address");
        refused("localhost:1883", "is not an IP address");
        refused("0.0.0.0:66000", "has \"66000\" for a port");
        refused("0.0.0.0:+1", "has \"+1\" for a port");
        refused(
            "tcp://0.0.0.0:1883",
            "is a URL, not an address; write \"0.0.0.0:1883\"",
        );
        refused("", "has no port");
    }

    #[test]
    fn nodes_take_ip_addresses_and_host_names() {
        let socket = |text: &str| {
            Ok(cluster::NodeAddress::Socket(
                text.parse().expect("an address"),
            ))
        };
        assert_eq!(
            read::<NodeAddress>("10.0.0.1:1883"),
            socket("10.0.0.1:1883")
        );
        assert_eq!(
            read::<NodeAddress>("[2001:db8::1]:1883"),
            socket("[2001:db8::1]:1883")
        );
        for host in [
            "emqx1",
            "emqx-1.example.com",
            "emqx_1",
            "example.com.",
            "1a.b2",
        ] {
            let expected = Ok(cluster::NodeAddress::Host(host.to_owned(), 1883));
            assert_eq!(read::<NodeAddress>(&format!("{host}:1883")), expected);
        }
        let refused = refused::<NodeAddress>;
        refused("10.0.0.4", "has no port; write \"10.0.0.4:1883\"");
        refused("emqx1", "has no port");
        refused(
            "10.0.0.256:1883",
            "is neither an IP address nor a host name",
        );
        refused("emqx 1:1883", "is neither");
        refused("-a:1883", "is neither");
        refused("a..b:1883", "is neither");
        refused(&format!("{}:1883", "a".repeat(64)), "is neither");
        refused(":1883", "has no host");
        refused("emqx1:", "has \"\" for a port");
        refused("emqx1:mqtt", "has \"mqtt\" for a port");
        refused("emqx1:0", "has port 0");
        refused("10.0.0.1:0", "has port 0");
        refused("0.0.0.0:1883", "says where to listen");
        refused(
            "mqtt://emqx1:1883",
            "is a URL, not an address; write \"emqx1:1883\"",
        );
    }

    #[test]
    fn a_bare_ip_is_a_network_of_one() {
        let network = |text: &str| Ok(text.parse::<IpNet>().expect("a network"));
        assert_eq!(read::<Network>("10.0.0.7"), network("10.0.0.7/32"));
        assert_eq!(read::<Network>("::1"), network("::1/128"));
        assert_eq!(read::<Network>("10.1.2.3/8"), network("10.0.0.0/8"));
        for written in ["10.0.0.0/33", "10.0.0/8", "everyone", "10.0.0.7:80", ""] {
            refused::<Network>(written, "is not a network");
        }
    }

    #[test]
    fn sources_are_addresses_of_their_own() {
        assert!(read::<SourceAddress>("10.0.0.2").is_ok());
        refused::<SourceAddress>("0.0.0.0", "is not an address of its own");
        refused::<SourceAddress>("10.0.0.2:0", "has a port");
        refused::<SourceAddress>("eth0", "is not an IP address");
    }

    #[test]
    fn names_are_short_and_printable() {
        for written in ["emqx1", "emqx@10.0.0.1", "знак", "a b", &"x".repeat(255)] {
            assert_eq!(read::<Name>(written), Ok(written.to_owned()));
        }
        refused::<Name>("", "cannot be empty");
        refused::<Name>(&"x".repeat(256), "is 256 bytes long");
        refused::<Name>("a\u{7}b", "has a control character");
        refused::<Name>("emqx1 ", "begins or ends with a space; write \"emqx1\"");
    }
}
