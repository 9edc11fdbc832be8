//! A connection to a node, step by step: dialed, with TLS if the endpoint has it, upgraded to WebSocket, and accepted as an
//! MQTT client.
//!
//! Each step is a value that the next one consumes: [`Dialed`], then [`NodeStream`]. The path stops there, since it sends a
//! client's CONNECT. Probes and the doctor continue with a [`NodeConnection`] and send a CONNECT of their own.

mod client;
mod error;
mod received;

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Endpoint;
use crate::mqtt::{Connack, ConnectPacket, NodeVerdict, read_node_packet};
use crate::net::dial::{Dialed, Dialer};
use crate::net::socket::Socket;
use crate::net::websocket::{Framing, NodeUpgradeError, UpgradeRequest, frames, upgrade_at_node};
use crate::proxy_protocol::{self, Source};

pub use client::NodeClient;
pub use error::{Cause, NodeError, Step};
pub use received::{FirstPacket, Received};

/// The path that is requested if the endpoint has none.
const PATH_USUAL: &str = "/mqtt";

/// A DISCONNECT, the same in MQTT 3.1.1 and in MQTT 5 (normal disconnection, without properties).
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// A connection to a node that is ready for MQTT.
#[derive(Debug)]
pub struct NodeStream {
    /// The node's socket.
    pub socket: Socket,
    /// How MQTT is carried on it.
    pub framing: Framing,
    /// How many of the bytes to send were already sent.
    pub sent: usize,
    /// The bytes that the node has already sent.
    pub received: Vec<u8>,
}

impl Dialed {
    /// Continues with plain MQTT: the first bytes were MQTT.
    pub fn raw(self) -> NodeStream {
        NodeStream {
            socket: self.socket,
            framing: Framing::Raw,
            sent: self.sent,
            received: Vec::new(),
        }
    }

    /// Sends the rest of `request`, whose start was sent as the first bytes, and waits until `due` for the node's 101.
    ///
    /// # Errors
    /// The node rejected the upgrade, closed the connection, or did not answer in time, or the connection failed.
    pub async fn upgrade(self, request: &UpgradeRequest, due: Instant) -> Result<NodeStream, NodeError> {
        let upgrade = upgrade_at_node(&self.socket, request, self.sent);
        let upgraded = tokio::time::timeout_at(due, upgrade).await;
        match upgraded.unwrap_or_else(|elapsed| Err(NodeUpgradeError::Lost(elapsed.into()))) {
            Ok(received) => Ok(NodeStream {
                socket: self.socket,
                framing: Framing::WebSocket,
                sent: 0,
                received,
            }),
            Err(error) => Err(NodeError {
                step: Step::Upgrade,
                address: Some(self.address),
                cause: error.into(),
            }),
        }
    }
}

/// How Remora's own connections to nodes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the endpoint expects WebSocket.
    pub framing: Framing,
    /// The limit for all steps together, up to the CONNACK.
    pub timeout: Duration,
    /// Where the endpoint expects a PROXY header: whether it names this machine as the client. Some nodes never answer a header that
    /// names none (LOCAL).
    pub names_client: bool,
}

/// A connection to a node that Remora makes for itself, not for a client.
#[derive(Debug)]
pub struct NodeConnection {
    stream: NodeStream,
    address: SocketAddr,
    due: Instant,
}

/// Connects to the first address of `endpoint` that can be reached.
///
/// # Errors
/// The step that failed, and why.
pub async fn connect(dialer: &Dialer, endpoint: &Endpoint, settings: &Settings) -> Result<NodeConnection, NodeError> {
    let due = Instant::now() + settings.timeout;
    let header = own_header(endpoint, settings.names_client);
    let dialed = dialer.dial(endpoint, &header, &[], Some(due)).await?;
    let address = dialed.address;
    let stream = match settings.framing {
        Framing::Raw => dialed.raw(),
        Framing::WebSocket => {
            let path = endpoint.path.as_deref().unwrap_or(PATH_USUAL);
            let host = match &endpoint.tls {
                None => address.to_string(),
                Some(tls) => format!("{}:{}", tls.server_name, address.port()),
            };
            dialed.upgrade(&UpgradeRequest::own(path, &host), due).await?
        }
    };
    Ok(NodeConnection { stream, address, due })
}

/// The PROXY header that `endpoint` expects, for a client on this machine, or for none; empty if it expects none.
pub fn own_header(endpoint: &Endpoint, names_client: bool) -> Vec<u8> {
    let Some(version) = endpoint.proxy_protocol else {
        return Vec::new();
    };
    let named = endpoint.addresses.first().filter(|_| names_client);
    let source = named.and_then(|node| {
        let client = local_address(*node).ok()?;
        Some(Source { client, local: *node })
    });
    proxy_protocol::write(version, source, None)
}

/// An address of this machine from which `node` is reached. A connected UDP socket knows it, and sends nothing.
fn local_address(node: SocketAddr) -> io::Result<SocketAddr> {
    let any: IpAddr = match node {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(node)?;
    socket.local_addr()
}

impl NodeConnection {
    /// The node's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a CONNECT and waits for the CONNACK, within the timeout of the whole connection.
    ///
    /// # Errors
    /// The node refused the CONNECT, closed the connection, answered with something else, or did not answer in time, or the
    /// connection failed.
    pub async fn mqtt_connect(&mut self, connect: &ConnectPacket<'_>) -> Result<Connack, NodeError> {
        self.accepted(connect).await.map(|(connack, _)| connack)
    }

    /// Like [`NodeConnection::mqtt_connect`], and goes on as a client.
    ///
    /// # Errors
    /// As there.
    pub async fn into_client(mut self, connect: &ConnectPacket<'_>) -> Result<NodeClient, NodeError> {
        let (_, mut received) = self.accepted(connect).await?;
        // The CONNACK, which has been read.
        if let NodeVerdict::Packet(_, length) = read_node_packet(received.mqtt(), connect.version) {
            received.forget(length);
        }
        Ok(NodeClient::new(self, received, connect.version))
    }

    /// The CONNACK, and all that the node has sent.
    async fn accepted(&mut self, connect: &ConnectPacket<'_>) -> Result<(Connack, Received), NodeError> {
        let due = self.due;
        let exchange = tokio::time::timeout_at(due, self.exchange(connect)).await;
        exchange.unwrap_or(Err(Cause::TimedOut)).map_err(|cause| NodeError {
            step: Step::Mqtt,
            address: Some(self.address),
            cause,
        })
    }

    async fn exchange(&mut self, connect: &ConnectPacket<'_>) -> Result<(Connack, Received), Cause> {
        let packet = connect.encode().ok_or(Cause::FieldTooLong)?;
        self.stream
            .socket
            .send_all(&framed(self.stream.framing, &packet))
            .await?;
        let mut received = Received::new(self.stream.framing, &std::mem::take(&mut self.stream.received));
        let mut bytes = Vec::new();
        loop {
            match received.first_packet(connect.version) {
                FirstPacket::Connack(connack) if connack.code == 0 => return Ok((connack, received)),
                FirstPacket::Connack(connack) => return Err(Cause::Refused(connack.code)),
                FirstPacket::Closed => return Err(Cause::Closed),
                FirstPacket::InvalidFrames(fault) => return Err(Cause::InvalidFrames(fault)),
                FirstPacket::NotMqtt | FirstPacket::Other => return Err(Cause::NotConnack),
                FirstPacket::Incomplete => {}
            }
            bytes.clear();
            if self.stream.socket.recv_more(&mut bytes).await? == 0 {
                return Err(Cause::Closed);
            }
            received.push(&bytes);
        }
    }

    /// Sends a DISCONNECT, closes, and waits at most a second until the node has closed as well.
    pub async fn close(self) {
        self.stream.close().await;
    }
}

impl NodeStream {
    async fn close(self) {
        self.socket.close_after(&framed(self.framing, &DISCONNECT)).await;
    }
}

/// MQTT as it is carried on a connection.
fn framed(framing: Framing, mqtt: &[u8]) -> Cow<'_, [u8]> {
    match framing {
        Framing::Raw => mqtt.into(),
        Framing::WebSocket => frames::masked_binary(mqtt, mask_key()).into(),
    }
}

/// A frame's mask (RFC 6455, 5.3). It need not be unpredictable here, since no page in a browser chooses what is sent.
fn mask_key() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

#[cfg(test)]
mod tests;
