//! Connections to peers: sockets, dialing, TLS, WebSocket handshakes, and the limits on descriptors and held bytes.

pub mod descriptors;
pub mod dial;
pub mod held;
pub mod http;
pub(crate) mod network;
pub mod node;
pub mod reports;
pub mod socket;
pub mod tls;
pub mod unix;
pub mod websocket;
