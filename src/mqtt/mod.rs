//! Reads the MQTT packets that routing and greeting need: pure functions of bytes, which never allocate by a length that a peer
//! merely claims. Writes two packets: a refusing CONNACK, and a CONNECT of our own.

mod connack;
mod connect;
mod connect_packet;
mod expiry;
pub(crate) mod fields;
mod refusal;

pub use connack::{Connack, ConnackVerdict, connack_reason, read_connack};
pub use connect::{Connect, Need, Stranger, Verdict, Version, read_connect};
pub use connect_packet::ConnectPacket;
pub use expiry::SessionExpiry;
pub(crate) use expiry::{keep_alive, keep_alive_limit};
pub use refusal::{malformed, refusal};
