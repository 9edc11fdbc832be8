//! WebSocket (RFC 6455), as far as MQTT needs it: the handshakes at both ends, and what frames are made of. After them,
//! frames pass untouched.

use tungstenite::http::{HeaderMap, HeaderName};

pub mod frames;
mod node;
mod upgrade;

pub use node::{Asking, Unwilling, upgrade as upgrade_at_node};
pub use upgrade::{Door, Refused, Upgrade, upgrade as upgrade_client};

/// The subprotocols under which clients and nodes mean MQTT. The first is the registered one (MQTT 5, 6.0), the others are
/// EMQX's and those of MQTT 3.1 clients.
const SUBPROTOCOLS: [&str; 5] = ["mqtt", "mqttv3.1", "mqtt-v3", "mqtt-v3.1.1", "mqtt-v5"];

/// The most bytes of a head, and how a head ends (RFC 9112, 2.1).
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The elements of a list in a header field, however they are spread over lines (RFC 9110, 5.3).
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Where the head ends, if its end is here.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)
        .map(|start| start + HEAD_END.len())
}
