//! A node's endpoints by protocol: as the operator wrote them, and as they are in a snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Seconds;
use crate::base::sync::{AtomicBool, AtomicU64, Ordering};
use crate::proxy_protocol;

/// What an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointKind {
    /// MQTT, over TCP or TLS.
    Mqtt,
    /// MQTT in WebSocket frames.
    Ws,
    /// TLS of clients, which ends at the node.
    Pass,
}

impl EndpointKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Mqtt, Self::Ws, Self::Pass];

    /// The name in log lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Ws => "ws",
            Self::Pass => "pass",
        }
    }
}

/// Where a node is, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAddress {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A host name and port, resolved by control.
    Host(String, u16),
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// One value for each endpoint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints<T> {
    /// Its MQTT listener.
    pub mqtt: T,
    /// Its WebSocket listener, if it has one.
    pub ws: Option<T>,
    /// Its TLS listener, for clients whose TLS ends at the node, if it has one.
    pub pass: Option<T>,
}

impl<T> Endpoints<T> {
    /// The endpoints of a node with MQTT only.
    pub fn only(mqtt: T) -> Self {
        Self {
            mqtt,
            ws: None,
            pass: None,
        }
    }

    /// The value of this kind.
    pub fn get(&self, kind: EndpointKind) -> Option<&T> {
        match kind {
            EndpointKind::Mqtt => Some(&self.mqtt),
            EndpointKind::Ws => self.ws.as_ref(),
            EndpointKind::Pass => self.pass.as_ref(),
        }
    }

    /// The value of this kind, mutable.
    pub fn get_mut(&mut self, kind: EndpointKind) -> Option<&mut T> {
        match kind {
            EndpointKind::Mqtt => Some(&mut self.mqtt),
            EndpointKind::Ws => self.ws.as_mut(),
            EndpointKind::Pass => self.pass.as_mut(),
        }
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = (EndpointKind, &T)> {
        let ws = self.ws.iter().map(|ws| (EndpointKind::Ws, ws));
        let pass = self.pass.iter().map(|pass| (EndpointKind::Pass, pass));
        [(EndpointKind::Mqtt, &self.mqtt)].into_iter().chain(ws).chain(pass)
    }

    /// All values, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (EndpointKind, &mut T)> {
        let ws = self.ws.iter_mut().map(|ws| (EndpointKind::Ws, ws));
        let pass = self.pass.iter_mut().map(|pass| (EndpointKind::Pass, pass));
        [(EndpointKind::Mqtt, &mut self.mqtt)].into_iter().chain(ws).chain(pass)
    }

    /// Maps each value.
    pub fn map<U>(&self, mut make: impl FnMut(EndpointKind, &T) -> U) -> Endpoints<U> {
        Endpoints {
            mqtt: make(EndpointKind::Mqtt, &self.mqtt),
            ws: self.ws.as_ref().map(|ws| make(EndpointKind::Ws, ws)),
            pass: self.pass.as_ref().map(|pass| make(EndpointKind::Pass, pass)),
        }
    }
}

/// TLS to an endpoint. The trusted roots and the balancer's own certificate are the same for all nodes, and not part of
/// the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointTls {
    /// The name that its certificate must be for: a host name or an IP address.
    pub server_name: Arc<str>,
    /// Its certificate is verified.
    pub is_verified: bool,
}

/// An endpoint as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEndpoint {
    /// Where it is: an IP address or a host name, and a port.
    pub address: NodeAddress,
    /// The WebSocket path to request; `None` requests the client's.
    pub path: Option<Arc<str>>,
    /// The PROXY header that it expects, if any.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// TLS to it, if any.
    pub tls: Option<EndpointTls>,
}

impl MemberEndpoint {
    /// An endpoint without PROXY header and without TLS.
    pub fn plain(address: NodeAddress) -> Self {
        Self {
            address,
            path: None,
            proxy_protocol: None,
            tls: None,
        }
    }

    /// As it is shown to the operator who wrote it.
    pub fn shown(&self, kind: EndpointKind) -> impl fmt::Display + use<'_> {
        fmt::from_fn(move |f| {
            f.write_str(match (kind, &self.tls) {
                (EndpointKind::Mqtt, None) | (EndpointKind::Pass, _) => "",
                (EndpointKind::Mqtt, Some(_)) => "mqtts://",
                (EndpointKind::Ws, None) => "ws://",
                (EndpointKind::Ws, Some(_)) => "wss://",
            })?;
            write!(f, "{}", self.address)?;
            f.write_str(self.path.as_deref().unwrap_or_default())?;
            match self.proxy_protocol {
                Some(version) => write!(f, " (PROXY {})", version.name()),
                None => Ok(()),
            }
        })
    }
}

/// Where a node's HTTP API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeApi {
    /// An IP address or a host name, and a port.
    pub address: NodeAddress,
    /// TLS to it, if any.
    pub tls: Option<EndpointTls>,
}

impl fmt::Display for NodeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// An endpoint in a snapshot.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its addresses now; empty while its host name has never been resolved.
    pub addresses: Arc<[SocketAddr]>,
    /// The WebSocket path to request; `None` requests the client's.
    pub path: Option<Arc<str>>,
    /// The PROXY header that it expects, if any.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// TLS to it, if any.
    pub tls: Option<EndpointTls>,
    /// It does not answer: it gets no clients while another node does.
    pub is_down: bool,
    /// What the path has observed of it.
    pub passive: Arc<PassiveHealth>,
}

/// What was observed of an endpoint, by every worker: shared by all snapshots for as long as it is at the same address.
#[derive(Debug, Default)]
pub struct PassiveHealth {
    /// Something failed there since it answered last, and control was told.
    pub has_failed: AtomicBool,
    /// It has answered a client or a probe since it came to this address.
    pub has_answered: AtomicBool,
    /// How long it took to answer a client's CONNECT lately.
    pub pace: Pace,
}

/// How long one of the last CONNECTs was waiting for its CONNACK. At most one a second is noted, so that a storm of clients
/// does not pass one line of memory between all cores.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// How old a note may be that still says something, in seconds.
    const AGE_MAX: u32 = 60;

    /// Notes that an answer took so long, in the second `now`.
    pub(crate) fn note(&self, took: Duration, now: Seconds) {
        let noted = self.0.load(Ordering::Relaxed);
        if noted == 0 || (noted >> 32) as u32 != now.0 {
            let milliseconds = u32::try_from(took.as_millis()).unwrap_or(u32::MAX).max(1);
            self.0
                .store(u64::from(now.0) << 32 | u64::from(milliseconds), Ordering::Relaxed);
        }
    }

    /// Whether it answered within `most` lately.
    pub(crate) fn is_within(&self, most: Duration, now: Seconds) -> bool {
        let noted = self.0.load(Ordering::Relaxed);
        let (second, milliseconds) = ((noted >> 32) as u32, noted as u32);
        milliseconds > 0
            && now.0.saturating_sub(second) <= Self::AGE_MAX
            && Duration::from_millis(milliseconds.into()) < most
    }
}

impl Endpoint {
    /// An endpoint without PROXY header and without TLS.
    pub fn plain(addresses: Arc<[SocketAddr]>) -> Self {
        Self {
            addresses,
            path: None,
            proxy_protocol: None,
            tls: None,
            is_down: false,
            passive: Arc::default(),
        }
    }

    /// Whether it has answered a client or a probe, and is not down.
    pub(crate) fn is_answering(&self) -> bool {
        !self.is_down && self.passive.has_answered.load(Ordering::Relaxed)
    }

    /// Whether its address is known.
    pub(crate) fn has_address(&self) -> bool {
        !self.addresses.is_empty()
    }
}
