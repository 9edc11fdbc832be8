//! Accepts clients: a listener per worker thread, and who may come in. Opening them (PROXY, TLS, WebSocket) is the next
//! step of the same station.

use std::net::SocketAddr;

use ipnet::IpNet;

/// A bound address that yields accepted connections, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Shown in logs and metrics; the address where the file names none.
    pub name: String,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What clients speak below MQTT.
    pub transport: Transport,
    /// Networks that may come in; empty means everyone.
    pub allow: Vec<IpNet>,
    /// Networks that may not, even if allowed.
    pub deny: Vec<IpNet>,
    /// Connections of this listener at once; none means no limit of its own.
    pub connections_max: Option<usize>,
}

/// What clients of a listener speak below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// MQTT directly over TCP.
    Tcp,
}
