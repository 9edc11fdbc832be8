//! An MQTT client of our own on a connection that a node has accepted: sends packets, and reads those of the node.

use std::net::SocketAddr;

use super::error::Cause;
use super::received::Received;
use super::{NodeConnection, NodeStream, framed};
use crate::mqtt::{NodePacket, NodeVerdict, Version, read_node_packet};

/// The most bytes of a packet from a node: no more is expected than what was published, and an acknowledgement.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// A client whose CONNECT a node has accepted. Keep Alive is not looked after: it is for less time than that.
#[derive(Debug)]
pub struct NodeClient {
    stream: NodeStream,
    received: Received,
    address: SocketAddr,
    version: Version,
    /// What was read last; kept for its memory.
    read: Vec<u8>,
}

impl NodeClient {
    pub(super) fn new(connection: NodeConnection, received: Received, version: Version) -> Self {
        Self {
            stream: connection.stream,
            received,
            address: connection.address,
            version,
            read: Vec::new(),
        }
    }

    /// The node's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The version that the node accepted.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Sends packets.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&self, packets: &[u8]) -> Result<(), Cause> {
        let bytes = framed(self.stream.framing, packets);
        Ok(self.stream.socket.send_all(&bytes).await?)
    }

    /// The node's next packet. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The node closed the connection or sent something that a client cannot read, or the connection failed.
    pub async fn recv(&mut self) -> Result<NodePacket, Cause> {
        loop {
            if let Some(fault) = self.received.fault() {
                return Err(Cause::InvalidFrames(fault));
            }
            match read_node_packet(self.received.mqtt(), self.version) {
                NodeVerdict::Packet(packet, length) => {
                    self.received.forget(length);
                    return Ok(packet);
                }
                NodeVerdict::NeedMore(enough) if enough <= PACKET_BYTES_MAX => {}
                NodeVerdict::NeedMore(_) | NodeVerdict::Malformed => return Err(Cause::InvalidPacket),
            }
            if self.received.has_close_frame() {
                return Err(Cause::Closed);
            }
            self.read.clear();
            if self.stream.socket.recv_more(&mut self.read).await? == 0 {
                return Err(Cause::Closed);
            }
            self.received.push(&self.read);
        }
    }

    /// Sends a DISCONNECT, closes, and waits at most a second until the node has closed as well.
    pub async fn close(self) {
        self.stream.close().await;
    }
}
