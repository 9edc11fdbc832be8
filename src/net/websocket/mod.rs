//! WebSocket (RFC 6455), as far as MQTT needs it: the handshakes with clients and nodes, and the frame format. After the
//! handshakes, frames are passed on unchanged.

use tungstenite::http::{HeaderMap, HeaderName};

pub mod frames;
mod health_check;
mod host;
mod node;
mod origin;
mod target;
mod upgrade;

pub use health_check::Readiness;
pub(crate) use node::{NodeUpgradeError, upgrade as upgrade_at_node};
pub use node::{Rejection, UpgradeRequest};
pub use origin::{OriginFault, check_origin};
pub(crate) use upgrade::upgrade as upgrade_client;
pub use upgrade::{AcceptPolicy, Rejected, Upgrade, UpgradeError, answer};

/// How MQTT is carried between Remora and a client, or Remora and a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// MQTT packets directly on the stream.
    Raw,
    /// MQTT packets in WebSocket frames.
    WebSocket,
}

/// The subprotocols that stand for MQTT. The first is the registered one (MQTT 5, 6.0); the others are used by EMQX and by MQTT 3.1
/// clients.
const SUBPROTOCOLS: [&str; 5] = ["mqtt", "mqttv3.1", "mqtt-v3", "mqtt-v3.1.1", "mqtt-v5"];

/// The most bytes of an HTTP head, if nothing else is configured: as much as nginx takes (4 buffers of 8 KiB).
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// The bytes that end a head (RFC 9112, 2.1).
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The elements of a list-valued header field, which may be split over several lines (RFC 9110, 5.3).
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        // What is not text is an element all the same, and one that means nothing.
        .map(|value| value.to_str().unwrap_or("?"))
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The length of the head in `bytes`; `None` if it is incomplete. The first `searched` bytes are known not to contain its end, so
/// that a peer that sends single bytes does not make this search all of them each time.
fn head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(HEAD_END.len() - 1);
    bytes[from..]
        .windows(HEAD_END.len())
        .position(|window| window == HEAD_END)
        .map(|start| from + start + HEAD_END.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nmore";
        let end = head.len() - b"\r\nmore".len();
        for searched in 0..end {
            for len in searched..=head.len() {
                let expected = (len >= end).then_some(end);
                assert_eq!(head_end(&head[..len], searched), expected, "{searched} of {len}");
            }
        }
    }

    #[test]
    fn what_was_searched_is_not_searched_again() {
        // The end in it was not there before, or this would have been called with less.
        let bytes = [&[b'a'; 100][..], HEAD_END, &[b'b'; 100]].concat();
        assert_eq!(head_end(&bytes, bytes.len() - 1), None);
    }
}
