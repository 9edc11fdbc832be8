//! Accepts clients: a listener per worker thread, and who may come in. Who they are (PROXY) and opening them (TLS,
//! WebSocket) are the next steps of the same station.

mod census;
mod door;
mod handshakes;
mod header;
mod open;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

pub use census::{Admitted, Census, Limits, Population, Undecided};
pub use door::{Accepted, Door, bind};
pub use handshakes::{Handshake, Handshakes};
pub use header::take_header;
pub use open::{Opened, Opener, Speaker};

use crate::cluster::EndpointKind;
use crate::ended::Ended;
use crate::{tls, websocket};

/// A bound address that yields accepted connections, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Shown in logs and metrics; the address where the file names none.
    pub name: String,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What clients speak below MQTT.
    pub transport: Transport,
    /// TLS below the transport; none on a plain listener.
    pub tls: Option<Tls>,
    /// Networks that may come in; empty means everyone.
    pub allow: Vec<IpNet>,
    /// Networks that may not, even if allowed.
    pub deny: Vec<IpNet>,
    /// Networks of balancers before this one: they must begin with a PROXY header, and nobody else may come in. Empty means
    /// that clients come themselves, and a header is none of what they may say.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Connections of this listener at once; none means no limit of its own.
    pub connections_max: Option<usize>,
}

impl Listener {
    /// MQTT over TCP at `address`, for everyone.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            address,
            transport: Transport::Tcp,
            tls: None,
            allow: Vec::new(),
            deny: Vec::new(),
            proxy_protocol_from: Vec::new(),
            connections_max: None,
        }
    }
}

/// What becomes of a client's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It ends here.
    End(Arc<tls::Door>),
    /// It ends at the node: the server name is read, and everything passed on untouched.
    Pass,
}

/// What clients of a listener speak below MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// MQTT directly over TCP.
    Tcp,
    /// MQTT in WebSocket frames, after an upgrade.
    Ws(websocket::Door),
}

impl Listener {
    /// What its clients come by.
    pub fn kind(&self) -> EndpointKind {
        match (&self.tls, &self.transport) {
            (Some(Tls::Pass), _) => EndpointKind::Pass,
            (_, Transport::Tcp) => EndpointKind::Mqtt,
            (_, Transport::Ws(_)) => EndpointKind::Ws,
        }
    }

    /// Whether a peer speaks for its clients, and must say in a PROXY header who they are.
    ///
    /// # Errors
    /// [`Ended::Denied`]: only such peers may come in here, and this is none.
    pub fn speaks_for_others(&self, peer: IpAddr) -> Result<bool, Ended> {
        match &self.proxy_protocol_from[..] {
            [] => Ok(false),
            from if from.iter().any(|network| network.contains(&peer)) => Ok(true),
            _ => Err(Ended::Denied),
        }
    }

    /// Whether the networks of this listener let `client` in, by its true address.
    ///
    /// # Errors
    /// [`Ended::Denied`].
    pub fn admit(&self, client: IpAddr) -> Result<(), Ended> {
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
            transport: Transport::Tcp,
            tls: None,
            allow: Vec::new(),
            deny: Vec::new(),
            proxy_protocol_from: Vec::new(),
            connections_max: None,
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
            let admitted = listener.admit(client);
            assert_eq!(admitted.is_ok(), comes_in, "{listener:?}");
        }
    }

    #[test]
    fn only_listed_peers_speak_for_others_and_nobody_else_comes_in() {
        let from = |networks: &[&str]| Listener {
            proxy_protocol_from: networks
                .iter()
                .map(|network| network.parse().expect("a network"))
                .collect(),
            ..listener()
        };
        let peer = IpAddr::from([10, 0, 0, 7]);
        assert_eq!(from(&[]).speaks_for_others(peer), Ok(false));
        let listed = from(&["::1/128", "10.0.0.0/8"]);
        assert_eq!(listed.speaks_for_others(peer), Ok(true));
        let other = from(&["10.1.0.0/16"]);
        assert_eq!(other.speaks_for_others(peer), Err(Ended::Denied));
    }
}
