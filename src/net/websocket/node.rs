//! Requests a WebSocket upgrade from a node (RFC 6455, section 4.1) and accepts only a valid 101.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::StatusCode;
use tungstenite::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};

use super::{HEAD_BYTES_MAX, SUBPROTOCOLS, Upgrade, elements, head_end};
use crate::net::socket::Socket;

/// Why a node did not upgrade.
#[derive(Debug)]
pub(crate) enum NodeUpgradeError {
    /// The node answered with something other than a valid 101.
    Rejected(Rejection),
    /// The node closed the connection.
    Closed,
    /// The connection failed.
    Lost(io::Error),
}

/// A response that is not a valid 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Another HTTP status.
    Status(StatusCode),
    /// Not an HTTP response, or a 101 that violates RFC 6455.
    Invalid(&'static str),
}

impl Rejection {
    /// Whether it is a fault of the node's, if one can tell: not of the request.
    pub(crate) fn is_server_error(&self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error(),
            Self::Invalid(_) => true,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Invalid(what) => f.write_str(what),
        }
    }
}

/// An upgrade request.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// The bytes of the request.
    pub bytes: Vec<u8>,
    key: String,
    offered: Vec<&'static str>,
}

impl UpgradeRequest {
    /// A request on behalf of the client at address `client`, which sent the request `upgrade`, with TLS if `is_secured`. It asks
    /// for `path`, or for the path that the client requested if `path` is `None`.
    ///
    /// The client's own X-Forwarded fields are not passed on, since EMQX trusts the first one that it finds.
    pub fn for_client(path: Option<&str>, upgrade: &Upgrade, client: SocketAddr, is_secured: bool) -> Self {
        let key = generate_key();
        let mqtt = SUBPROTOCOLS[0];
        let offered = match upgrade.subprotocol {
            // EMQX does not know this one; it uses the others for MQTT 3.1.
            "mqttv3.1" => vec!["mqttv3.1", "mqtt-v3", mqtt],
            granted if granted == mqtt => vec![mqtt],
            // Only EMQX knows the others.
            granted => vec![granted, mqtt],
        };
        let path = path.unwrap_or(&upgrade.target);
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {}\r\nX-Forwarded-For: {}\r\n\
             X-Forwarded-Port: {}\r\nX-Forwarded-Proto: {}\r\n",
            offered.join(", "),
            client.ip(),
            client.port(),
            if is_secured { "https" } else { "http" },
        )
        .into_bytes();
        for (name, value) in &upgrade.fields {
            request.extend_from_slice(name.as_str().as_bytes());
            request.extend_from_slice(b": ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        Self {
            bytes: request,
            key,
            offered,
        }
    }

    /// A request that Remora makes for itself, for `path`, with this `Host` field.
    pub fn own(path: &str, host: &str) -> Self {
        let key = generate_key();
        let subprotocol = SUBPROTOCOLS[0];
        let bytes = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
        )
        .into_bytes();
        Self {
            bytes,
            key,
            offered: vec![subprotocol],
        }
    }

    /// Checks the head of the node's response.
    ///
    /// # Errors
    /// How the node rejected the upgrade.
    pub fn check(&self, head: &[u8]) -> Result<(), Rejection> {
        let response = match Response::try_parse(head) {
            // A head whose lines end without carriage returns would end earlier than `head`, and the rest would be lost.
            Ok(Some((end, response))) if end == head.len() => response,
            _ => return Err(Rejection::Invalid("something that is not HTTP")),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Rejection::Status(response.status()));
        }
        let headers = response.headers();
        let has = |name, expected: &str| elements(headers, name).any(|value| value.eq_ignore_ascii_case(expected));
        if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
            return Err(Rejection::Invalid("a 101 that upgrades to another protocol"));
        }
        let accept = derive_accept_key(self.key.as_bytes());
        if headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|given| *given != accept) {
            return Err(Rejection::Invalid("a 101 with a wrong key"));
        }
        if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return Err(Rejection::Invalid("a 101 with an extension that was not offered"));
        }
        let mut granted = elements(headers, SEC_WEBSOCKET_PROTOCOL);
        match (granted.next(), granted.next()) {
            (Some(one), None) if self.offered.contains(&one) => Ok(()),
            (None, None) => Err(Rejection::Invalid("a 101 without a subprotocol")),
            _ => Err(Rejection::Invalid("a 101 with another subprotocol")),
        }
    }
}

/// Sends the rest of the request, of which `sent` bytes were already sent, and waits for the 101. Returns the bytes that followed
/// it.
///
/// # Errors
/// The node rejected the upgrade or closed the connection, or the connection failed.
pub(crate) async fn upgrade(node: &Socket, request: &UpgradeRequest, sent: usize) -> Result<Vec<u8>, NodeUpgradeError> {
    node.send_all(&request.bytes[sent..])
        .await
        .map_err(NodeUpgradeError::Lost)?;
    let mut bytes = Vec::new();
    loop {
        let searched = bytes.len();
        if node.recv_more(&mut bytes).await.map_err(NodeUpgradeError::Lost)? == 0 {
            return Err(NodeUpgradeError::Closed);
        }
        if let Some(end) = head_end(&bytes, searched) {
            request.check(&bytes[..end]).map_err(NodeUpgradeError::Rejected)?;
            bytes.drain(..end);
            return Ok(bytes);
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(NodeUpgradeError::Rejected(Rejection::Invalid(
                "a head of more than 32 KiB",
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subprotocol: &'static str) -> UpgradeRequest {
        let upgrade = Upgrade {
            target: "/mqtt?a=1".to_owned(),
            fields: Vec::new(),
            subprotocol,
        };
        UpgradeRequest::for_client(None, &upgrade, SocketAddr::from(([192, 0, 2, 7], 4711)), false)
    }

    fn valid(request: &UpgradeRequest) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
            derive_accept_key(request.key.as_bytes())
        )
    }

    #[test]
    fn the_request_names_the_client() {
        let text = String::from_utf8(request("mqtt").bytes).expect("text");
        assert!(text.starts_with("GET /mqtt?a=1 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("X-Forwarded-For: 192.0.2.7\r\n"));
        assert!(text.contains("X-Forwarded-Port: 4711\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        assert!(!text.contains("Extensions"));
    }

    #[test]
    fn a_request_of_our_own_names_no_client() {
        let text = String::from_utf8(UpgradeRequest::own("/mqtt", "emqx1:8083").bytes).expect("text");
        assert!(text.starts_with("GET /mqtt HTTP/1.1\r\nHost: emqx1:8083\r\n"), "{text}");
        assert!(text.ends_with("Sec-WebSocket-Protocol: mqtt\r\n\r\n"), "{text}");
        assert!(!text.contains("X-Forwarded"));
    }

    #[test]
    fn nothing_but_a_valid_101_is_accepted() {
        let request = request("mqtt");
        let valid = valid(&request);
        assert_eq!(request.check(valid.as_bytes()), Ok(()));
        for (from, to) in [
            ("101 Switching Protocols", "200 OK"),
            ("101 Switching Protocols", "404 Not Found"),
            ("HTTP/1.1", "SMTP/1.1"),
            ("Upgrade: WebSocket", "Upgrade: h2c"),
            ("Connection: upgrade", "Connection: close"),
            ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x"),
            ("Sec-WebSocket-Protocol: mqtt\r\n", ""),
            ("Protocol: mqtt", "Protocol: chat"),
            ("Protocol: mqtt", "Protocol: mqtt, mqtt"),
            ("Protocol: mqtt", "Protocol: mqtt\r\nSec-WebSocket-Protocol: m\u{f6}tt"),
            ("Protocol: mqtt", "Protocol: mqtt\n\nlost"),
            (
                "Protocol: mqtt",
                "Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate",
            ),
        ] {
            let wrong = valid.replacen(from, to, 1);
            assert_ne!(wrong, valid, "{from}");
            assert!(request.check(wrong.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn mqtt_3_1_is_offered_under_each_of_its_names() {
        let request = request("mqttv3.1");
        assert_eq!(request.check(valid(&request).as_bytes()), Ok(()));
        let text = String::from_utf8_lossy(&request.bytes).into_owned();
        assert!(text.contains("Sec-WebSocket-Protocol: mqttv3.1, mqtt-v3, mqtt\r\n"));
    }

    #[test]
    fn a_node_that_knows_mqtt_alone_is_offered_it_whatever_the_client_was_granted() {
        for (granted, offered) in [
            ("mqtt", "mqtt"),
            ("mqtt-v5", "mqtt-v5, mqtt"),
            ("mqtt-v3.1.1", "mqtt-v3.1.1, mqtt"),
            ("mqtt-v3", "mqtt-v3, mqtt"),
        ] {
            let request = request(granted);
            assert_eq!(request.check(valid(&request).as_bytes()), Ok(()));
            let text = String::from_utf8_lossy(&request.bytes).into_owned();
            assert!(
                text.contains(&format!("Sec-WebSocket-Protocol: {offered}\r\n")),
                "{text}"
            );
        }
    }
}
