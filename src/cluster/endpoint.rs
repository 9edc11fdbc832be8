//! A node's endpoints: its listeners, by what is spoken there; as the operator wrote them, and as they are in a snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::NodeAddress;
use crate::proxy_protocol;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::tls::ToNode;

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
    /// The name in log lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Ws => "ws",
            Self::Pass => "pass",
        }
    }
}

/// One thing for each endpoint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints<T> {
    /// Its MQTT listener.
    pub mqtt: T,
    /// Its WebSocket listener, where it has one.
    pub ws: Option<T>,
    /// Its TLS listener, for clients whose TLS ends at the node, where it has one.
    pub pass: Option<T>,
}

impl<T> Endpoints<T> {
    /// Those of a node that speaks nothing but MQTT.
    pub fn only(mqtt: T) -> Self {
        Self {
            mqtt,
            ws: None,
            pass: None,
        }
    }

    /// The one of this kind.
    pub fn get(&self, kind: EndpointKind) -> Option<&T> {
        match kind {
            EndpointKind::Mqtt => Some(&self.mqtt),
            EndpointKind::Ws => self.ws.as_ref(),
            EndpointKind::Pass => self.pass.as_ref(),
        }
    }

    /// The one of this kind, to be changed.
    pub fn get_mut(&mut self, kind: EndpointKind) -> Option<&mut T> {
        match kind {
            EndpointKind::Mqtt => Some(&mut self.mqtt),
            EndpointKind::Ws => self.ws.as_mut(),
            EndpointKind::Pass => self.pass.as_mut(),
        }
    }

    /// All that there are.
    pub fn iter(&self) -> impl Iterator<Item = (EndpointKind, &T)> {
        let ws = self.ws.iter().map(|ws| (EndpointKind::Ws, ws));
        let pass = self.pass.iter().map(|pass| (EndpointKind::Pass, pass));
        [(EndpointKind::Mqtt, &self.mqtt)]
            .into_iter()
            .chain(ws)
            .chain(pass)
    }

    /// All that there are, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (EndpointKind, &mut T)> {
        let ws = self.ws.iter_mut().map(|ws| (EndpointKind::Ws, ws));
        let pass = self.pass.iter_mut().map(|pass| (EndpointKind::Pass, pass));
        [(EndpointKind::Mqtt, &mut self.mqtt)]
            .into_iter()
            .chain(ws)
            .chain(pass)
    }

    /// Another thing for each.
    pub fn map<U>(&self, mut make: impl FnMut(EndpointKind, &T) -> U) -> Endpoints<U> {
        Endpoints {
            mqtt: make(EndpointKind::Mqtt, &self.mqtt),
            ws: self.ws.as_ref().map(|ws| make(EndpointKind::Ws, ws)),
            pass: self
                .pass
                .as_ref()
                .map(|pass| make(EndpointKind::Pass, pass)),
        }
    }
}

/// An endpoint as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEndpoint {
    /// Where it is: an IP address or a host name, and a port.
    pub address: NodeAddress,
    /// The path to ask for, where it speaks WebSocket; none asks for the client's.
    pub path: Option<Arc<str>>,
    /// The PROXY header that it expects; none where it expects none.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// TLS to it; none where it speaks none.
    pub tls: Option<Arc<ToNode>>,
}

impl MemberEndpoint {
    /// One that expects what the client says and nothing before it.
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

/// An endpoint in a snapshot.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is now; none while its host name has never been resolved.
    pub addresses: Arc<[SocketAddr]>,
    /// The path to ask for, where it speaks WebSocket; none asks for the client's.
    pub path: Option<Arc<str>>,
    /// The PROXY header that it expects; none where it expects none.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// TLS to it; none where it speaks none.
    pub tls: Option<Arc<ToNode>>,
    /// It failed to answer too often in a row: it gets no clients but one trial at a time.
    pub is_down: bool,
    /// How it answers.
    pub pulse: Arc<Pulse>,
}

/// How an endpoint answers, as every worker sees it: shared by all snapshots for as long as it is at the same address.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Failed dials and greet timeouts in a row.
    pub failures: AtomicU32,
    /// A trial that one connection may take while the endpoint is down.
    pub trial: AtomicBool,
}

impl Pulse {
    /// Takes the trial, if there is one to take.
    pub fn take_trial(&self) -> bool {
        self.trial.load(Ordering::Relaxed) && self.trial.swap(false, Ordering::Relaxed)
    }
}

impl Endpoint {
    /// One that expects what the client says and nothing before it.
    pub fn plain(addresses: Arc<[SocketAddr]>) -> Self {
        Self {
            addresses,
            path: None,
            proxy_protocol: None,
            tls: None,
            is_down: false,
            pulse: Arc::default(),
        }
    }

    /// Whether a client can be taken there now.
    pub fn is_found(&self) -> bool {
        !self.addresses.is_empty()
    }
}
