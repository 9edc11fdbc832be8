//! Asks a node for an upgrade (RFC 6455, section 4.1) on behalf of a client, and believes nothing but its 101.

use std::io;
use std::net::SocketAddr;

use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::StatusCode;
use tungstenite::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};

use super::{HEAD_BYTES_MAX, Upgrade, elements, head_end};
use crate::socket::Socket;

/// Why a node did not upgrade.
#[derive(Debug)]
pub enum Unwilling {
    /// It answered something else than a right 101.
    Answered(String),
    /// It closed or was lost.
    Gone(io::Result<()>),
}

/// A request that is on its way to a node.
#[derive(Debug)]
pub struct Asking {
    /// The request.
    pub bytes: Vec<u8>,
    key: String,
    offered: Vec<&'static str>,
}

impl Asking {
    /// What to ask a node for, at `path` or else at the client's, on behalf of the client at `client` that asked for `upgrade`,
    /// with TLS (`is_secured`) or without.
    ///
    /// The fields that say where a request comes from are ours alone: EMQX believes the first that it finds.
    pub fn new(
        path: Option<&str>,
        upgrade: &Upgrade,
        client: SocketAddr,
        is_secured: bool,
    ) -> Self {
        let key = generate_key();
        let offered = match upgrade.subprotocol {
            // EMQX does not know it, and calls MQTT 3.1 by the others.
            "mqttv3.1" => vec!["mqttv3.1", "mqtt-v3", "mqtt"],
            granted => vec![granted],
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

    fn judge(&self, head: &[u8]) -> Result<(), String> {
        let response = match Response::try_parse(head) {
            // What is behind an end without carriage returns would be lost.
            Ok(Some((end, response))) if end == head.len() => response,
            _ => return Err("something that is no HTTP".to_owned()),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(response.status().to_string());
        }
        let headers = response.headers();
        let says = |name, expected: &str| {
            elements(headers, name).any(|value| value.eq_ignore_ascii_case(expected))
        };
        if !says(UPGRADE, "websocket") || !says(CONNECTION, "upgrade") {
            return Err("a 101 to another protocol".to_owned());
        }
        let accept = derive_accept_key(self.key.as_bytes());
        if headers
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_none_or(|given| *given != accept)
        {
            return Err("a 101 with a wrong key".to_owned());
        }
        if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return Err("a 101 with an extension that nobody asked for".to_owned());
        }
        let mut echoed = elements(headers, SEC_WEBSOCKET_PROTOCOL);
        match (echoed.next(), echoed.next()) {
            (Some(one), None) if self.offered.contains(&one) => Ok(()),
            (None, None) => Err("a 101 without a subprotocol".to_owned()),
            _ => Err("a 101 with another subprotocol".to_owned()),
        }
    }
}

/// Sends the rest of the request, of which the node has `sent` bytes, and waits for the 101; what came behind it.
///
/// # Errors
/// The node will not, or has gone.
pub async fn upgrade(node: &Socket, asking: &Asking, sent: usize) -> Result<Vec<u8>, Unwilling> {
    let gone = |error| Unwilling::Gone(Err(error));
    node.send_all(&asking.bytes[sent..]).await.map_err(gone)?;
    let mut bytes = Vec::new();
    loop {
        if node.recv_more(&mut bytes).await.map_err(gone)? == 0 {
            return Err(Unwilling::Gone(Ok(())));
        }
        if let Some(end) = head_end(&bytes) {
            asking.judge(&bytes[..end]).map_err(Unwilling::Answered)?;
            bytes.drain(..end);
            return Ok(bytes);
        }
        if bytes.len() > HEAD_BYTES_MAX {
            let why = format!("a head of more than {HEAD_BYTES_MAX} bytes");
            return Err(Unwilling::Answered(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(subprotocol: &'static str) -> Asking {
        let upgrade = Upgrade {
            target: "/mqtt?a=1".to_owned(),
            fields: Vec::new(),
            subprotocol,
        };
        Asking::new(
            None,
            &upgrade,
            SocketAddr::from(([192, 0, 2, 7], 4711)),
            false,
        )
    }

    fn right(asking: &Asking) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
            derive_accept_key(asking.key.as_bytes())
        )
    }

    #[test]
    fn the_request_says_who_the_client_is() {
        let text = String::from_utf8(asking("mqtt").bytes).expect("text");
        assert!(text.starts_with("GET /mqtt?a=1 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("X-Forwarded-For: 192.0.2.7\r\n"));
        assert!(text.contains("X-Forwarded-Port: 4711\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        assert!(!text.contains("Extensions"));
    }

    #[test]
    fn nothing_but_a_right_101_is_believed() {
        let asking = asking("mqtt");
        let right = right(&asking);
        assert_eq!(asking.judge(right.as_bytes()), Ok(()));
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
            ("Protocol: mqtt", "Protocol: mqtt\n\nlost"),
            (
                "Protocol: mqtt",
                "Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate",
            ),
        ] {
            let wrong = right.replacen(from, to, 1);
            assert_ne!(wrong, right, "{from}");
            assert!(asking.judge(wrong.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn mqtt_3_1_is_offered_under_each_of_its_names() {
        let asking = asking("mqttv3.1");
        assert_eq!(asking.judge(right(&asking).as_bytes()), Ok(()));
        let text = String::from_utf8_lossy(&asking.bytes).into_owned();
        assert!(text.contains("Sec-WebSocket-Protocol: mqttv3.1, mqtt-v3, mqtt\r\n"));
    }
}
