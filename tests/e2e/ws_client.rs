//! A client that speaks WebSocket, in whatever pieces the test wants.

use std::io::Read;
use std::net::SocketAddr;

use tungstenite::handshake::derive_accept_key;

use crate::client::Client;
use crate::packets::{self, Connect};
use crate::ws_frames::{self, BINARY};

pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A right request.
pub(crate) const REQUEST: &str = "GET /mqtt?x=1 HTTP/1.1\r\nHost: mqtt.example:8083\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate\r\nOrigin: https://page.example\r\n\
    Cookie: a=b; c=d\r\nUser-Agent: by hand\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Port: 5\r\n\
    X-Forwarded-Proto: https\r\n\r\n";

#[derive(Debug)]
pub(crate) struct WsClient {
    pub tcp: Client,
}

impl WsClient {
    /// A client that was upgraded.
    #[track_caller]
    pub(crate) fn to(balancer: SocketAddr) -> Self {
        Self::with(balancer, REQUEST)
    }

    #[track_caller]
    pub(crate) fn with(balancer: SocketAddr, request: &str) -> Self {
        Self::on(Client::to(balancer), request)
    }

    /// A client that asks for its upgrade on this connection.
    #[track_caller]
    pub(crate) fn on(tcp: Client, request: &str) -> Self {
        let mut client = Self { tcp };
        client.tcp.send(request.as_bytes());
        let head = client.tcp.read_until(b"\r\n\r\n");
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let accept = derive_accept_key(KEY.as_bytes());
        let field = |line: &str| head.lines().any(|l| l.eq_ignore_ascii_case(line));
        assert!(field(&format!("Sec-WebSocket-Accept: {accept}")), "{head}");
        assert!(!head.to_ascii_lowercase().contains("extensions"), "{head}");
        client
    }

    /// A client whose CONNECT was accepted.
    #[track_caller]
    pub(crate) fn accepted(balancer: SocketAddr, connect: &Connect) -> Self {
        let mut client = Self::to(balancer);
        client.send(&connect.bytes());
        client.expect(BINARY, &packets::connack(connect.level, 0));
        client
    }

    /// Sends MQTT in one frame.
    #[track_caller]
    pub(crate) fn send(&mut self, mqtt: &[u8]) {
        self.frame(BINARY, mqtt);
    }

    #[track_caller]
    pub(crate) fn frame(&mut self, first: u8, payload: &[u8]) {
        self.tcp.send(&ws_frames::masked(first, payload, [1, 2, 3, 4]));
    }

    /// The next frame: its first byte, and its payload. It must not be masked.
    #[track_caller]
    pub(crate) fn read_frame(&mut self) -> (u8, Vec<u8>) {
        let mut bytes = self.tcp.read(2);
        assert_eq!(bytes[1] & 0x80, 0, "a server does not mask: {bytes:02x?}");
        let more = match bytes[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        bytes.extend(self.tcp.read(more));
        let length = match bytes[1] {
            126 | 127 => bytes[2..].iter().fold(0, |all, byte| all << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        (bytes[0], self.tcp.read(length))
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, first: u8, payload: &[u8]) {
        let frame = self.read_frame();
        assert!(
            frame == (first, payload.to_vec()),
            "{:02x} with {} bytes, not {first:02x} {payload:02x?}",
            frame.0,
            frame.1.len()
        );
    }

    /// Waits for a close frame with this code, and nothing before or behind it but the end.
    #[track_caller]
    pub(crate) fn closed(&mut self, code: u16) {
        self.expect(ws_frames::CLOSE, &code.to_be_bytes());
        self.tcp.end();
    }

    /// MQTT out of so many payload bytes of data frames, all whole.
    #[track_caller]
    pub(crate) fn read_mqtt(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let (first, payload) = self.read_frame();
            if first == BINARY {
                all.extend(payload);
            }
        }
        all
    }

    /// What can be read now and here, however little.
    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> usize {
        self.tcp.stream.read(buffer).expect("bytes")
    }
}
