//! Accepts clients: listening sockets, admission, and the layers below MQTT (PROXY header, TLS, WebSocket).

mod admission;
mod admit;
mod header;
mod listen_socket;
mod open;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use admission::{Admission, Admitted, Limits, ListenerCount};
pub use admit::Client;
pub(crate) use admit::{AdmittedClient, Rules, admit};
pub use listen_socket::{Accepted, bind, probe};
pub(crate) use listen_socket::{ListenSocket, bind_beside, inherit, make_own};
pub(crate) use open::{Opened, OpenedClient, Opener};

use crate::cluster::EndpointKind;
use crate::net::tls;
use crate::net::websocket;
use crate::path::ended::Ended;

/// A bound address that yields accepted connections, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Shown in logs and metrics; the address if none is configured.
    pub name: String,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether the address need not be one of this machine yet (IP_FREEBIND).
    pub freebind: bool,
    /// What carries MQTT.
    pub transport: Transport,
    /// TLS below the transport; `None` on a plain listener.
    pub tls: Option<Tls>,
    /// Networks whose clients may connect; empty means all.
    pub allow: Vec<IpNet>,
    /// Networks whose clients may not connect, even if allowed.
    pub deny: Vec<IpNet>,
    /// Networks of upstream load balancers, whose connections must begin with a PROXY header; no other peer may connect. Empty
    /// means that clients connect directly, and a PROXY header is not accepted.
    pub proxy_protocol_from: Vec<IpNet>,
    /// The most connections of this listener at once; `None` means no limit of its own.
    pub connections_max: Option<usize>,
    /// The time from accept until the CONNECT was read; `None` means that of all listeners.
    pub connect_timeout: Option<Duration>,
}

impl Listener {
    /// MQTT over TCP at `address`, for all clients.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            address,
            freebind: false,
            transport: Transport::Tcp,
            tls: None,
            allow: Vec::new(),
            deny: Vec::new(),
            proxy_protocol_from: Vec::new(),
            connections_max: None,
            connect_timeout: None,
        }
    }
}

/// Where a client's TLS ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// At this balancer.
    End(Arc<tls::Acceptor>),
    /// At the node: only the server name is read, and all bytes are relayed unchanged.
    Pass,
}

/// What carries MQTT on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// MQTT directly over TCP.
    Tcp,
    /// MQTT in WebSocket frames, after an upgrade.
    Ws(websocket::AcceptPolicy),
}

impl Listener {
    /// The kind of endpoint that its clients are routed to.
    pub fn kind(&self) -> EndpointKind {
        match (&self.tls, &self.transport) {
            (Some(Tls::Pass), _) => EndpointKind::Pass,
            (_, Transport::Tcp) => EndpointKind::Mqtt,
            (_, Transport::Ws(_)) => EndpointKind::Ws,
        }
    }

    /// Whether `peer` is an upstream load balancer, whose connections begin with a PROXY header.
    ///
    /// # Errors
    /// [`Ended::Denied`]: only upstream load balancers may connect here, and `peer` is not one.
    pub(crate) fn expects_header(&self, peer: IpAddr) -> Result<bool, Ended> {
        match &self.proxy_protocol_from[..] {
            [] => Ok(false),
            from if from.iter().any(|network| network.contains(&peer)) => Ok(true),
            _ => Err(Ended::Denied),
        }
    }

    /// Checks a client's true address against the lists of this listener.
    ///
    /// # Errors
    /// [`Ended::Denied`].
    pub(crate) fn check_lists(&self, client: IpAddr) -> Result<(), Ended> {
        let among = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        if among(&self.deny) || !(self.allow.is_empty() || among(&self.allow)) {
            return Err(Ended::Denied);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Listener {
        Listener {
            name: "mqtt".into(),
            address: "127.0.0.1:1883".parse().expect("an address"),
            freebind: false,
            transport: Transport::Tcp,
            tls: None,
            allow: Vec::new(),
            deny: Vec::new(),
            proxy_protocol_from: Vec::new(),
            connections_max: None,
            connect_timeout: None,
        }
    }

    #[test]
    fn networks_decide_who_comes_in() {
        let network = |text: &str| vec![text.parse::<IpNet>().expect("a network")];
        let cases = [
            (vec![], vec![], true),
            (network("127.0.0.0/8"), vec![], true),
            (network("10.0.0.0/8"), vec![], false),
            (vec![], network("127.0.0.1/32"), false),
            (network("127.0.0.0/8"), network("127.0.0.1/32"), false),
            (vec![], network("::1/128"), true),
        ];
        for (allow, deny, comes_in) in cases {
            let listener = Listener {
                allow,
                deny,
                ..listener()
            };
            let client = IpAddr::from([127, 0, 0, 1]);
            let admitted = listener.check_lists(client);
            assert_eq!(admitted.is_ok(), comes_in, "{listener:?}");
        }
    }

    #[test]
    fn only_listed_peers_send_a_header_and_no_other_peer_comes_in() {
        let from = |networks: &[&str]| Listener {
            proxy_protocol_from: networks
                .iter()
                .map(|network| network.parse().expect("a network"))
                .collect(),
            ..listener()
        };
        let peer = IpAddr::from([10, 0, 0, 7]);
        assert_eq!(from(&[]).expects_header(peer), Ok(false));
        let listed = from(&["::1/128", "10.0.0.0/8"]);
        assert_eq!(listed.expects_header(peer), Ok(true));
        let other = from(&["10.1.0.0/16"]);
        assert_eq!(other.expects_header(peer), Err(Ended::Denied));
    }
}
