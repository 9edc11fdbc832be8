//! Reads the MQTT packets that routing and greeting need: pure functions of bytes, which never allocate by a length that a peer
//! merely claims. Writes a refusing CONNACK, and the packets of a client of our own.

mod client_packets;
mod connack;
mod connect;
mod connect_packet;
mod expiry;
pub(crate) mod fields;
mod refusal;

pub use client_packets::{NodePacket, NodeVerdict, PublishPacket, puback, read_node_packet, subscribe, unsubscribe};
pub use connack::{Connack, ConnackVerdict, connack_reason, read_connack};
pub use connect::{Connect, Need, Stranger, Verdict, Version, read_connect};
pub use connect_packet::ConnectPacket;
pub use expiry::SessionExpiry;
pub(crate) use expiry::{keep_alive, keep_alive_limit};
pub use refusal::{malformed, refusal};
