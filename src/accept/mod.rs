//! Accepts clients: a listener per worker thread, and who may come in. Opening them (PROXY, TLS, WebSocket) is the next
//! step of the same station.

mod census;
mod door;
mod handshakes;
mod open;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

pub use census::{Admitted, Census, Limits, Population, Undecided};
pub use door::{Accepted, Door, bind};
pub use handshakes::{Handshake, Handshakes};
pub use open::{Opened, Opener, Speaker};

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
    /// Whether the networks of this listener let `client` in.
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
}
