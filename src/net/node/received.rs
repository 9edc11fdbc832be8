//! The bytes that a node has sent, with or without WebSocket frames, and the first MQTT packet in them. Pure.

use crate::mqtt::{Connack, ConnackVerdict, Version, read_connack};
use crate::net::websocket::Framing;
use crate::net::websocket::frames::{Control, Fault, Frames, Part, Sender};

/// The most bytes of a CONNACK.
const CONNACK_BYTES_MAX: usize = 16 * 1024;

/// The most bytes of a CONNACK with its frames: headers, pings, pongs.
const FRAMED_BYTES_MAX: usize = 8 * CONNACK_BYTES_MAX;

/// What a node has sent so far.
#[derive(Debug)]
pub struct Received {
    /// All bytes, as received.
    bytes: Vec<u8>,
    unframed: Option<Unframed>,
}

/// The contents of a node's frames.
#[derive(Debug)]
struct Unframed {
    mqtt: Vec<u8>,
    frames: Frames,
    /// Set when the frames are invalid; nothing more is read from them.
    fault: Option<Fault>,
    has_close_frame: bool,
}

/// The first packet of a node.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// Not all of it has arrived.
    Incomplete,
    /// A CONNACK.
    Connack(Connack),
    /// The node sent a close frame instead.
    Closed,
    /// The frames around it are invalid.
    InvalidFrames(Fault),
    /// The answer to another question: no packet that MQTT allows here.
    NotMqtt,
    /// The start of enhanced authentication, or a CONNACK that cannot be read or is too large.
    Other,
}

impl Received {
    /// The first `bytes` from a node with this framing.
    pub fn new(framing: Framing, bytes: &[u8]) -> Self {
        let mut received = Self {
            bytes: Vec::new(),
            unframed: (framing == Framing::WebSocket).then(|| Unframed {
                mqtt: Vec::new(),
                frames: Frames::new(Sender::Node),
                fault: None,
                has_close_frame: false,
            }),
        };
        received.push(bytes);
        received
    }

    /// Appends bytes as received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if let Some(unframed) = &mut self.unframed {
            unframed.push(bytes);
        }
    }

    /// Whether nothing has been received yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The MQTT bytes, without frames.
    pub fn mqtt(&self) -> &[u8] {
        match &self.unframed {
            Some(unframed) => &unframed.mqtt,
            None => &self.bytes,
        }
    }

    /// Forgets so many MQTT bytes, which have been read, and the frames that carried them.
    pub(super) fn forget(&mut self, length: usize) {
        match &mut self.unframed {
            Some(unframed) => {
                unframed.mqtt.drain(..length);
                self.bytes.clear();
            }
            None => drop(self.bytes.drain(..length)),
        }
    }

    /// What is wrong with its frames.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.unframed.as_ref().and_then(|unframed| unframed.fault)
    }

    /// The node has announced that it closes.
    pub(super) fn has_close_frame(&self) -> bool {
        self.unframed.as_ref().is_some_and(|unframed| unframed.has_close_frame)
    }

    /// Like [`Received::mqtt`], by value.
    pub(crate) fn into_mqtt(self) -> Vec<u8> {
        match self.unframed {
            Some(unframed) => unframed.mqtt,
            None => self.bytes,
        }
    }

    /// All bytes, as received.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The node's first packet, as the answer to a CONNECT of `version`.
    pub(crate) fn first_packet(&self, version: Version) -> FirstPacket {
        if let Some(fault) = self.fault() {
            return FirstPacket::InvalidFrames(fault);
        }
        let has_close_frame = self.has_close_frame();
        let mqtt = self.mqtt();
        // A larger CONNACK is not read, however it was split.
        let readable = &mqtt[..mqtt.len().min(CONNACK_BYTES_MAX)];
        match read_connack(readable, version) {
            ConnackVerdict::NeedMore(_) if has_close_frame && mqtt.is_empty() => FirstPacket::Closed,
            ConnackVerdict::NeedMore(enough)
                if enough <= CONNACK_BYTES_MAX
                    && !has_close_frame
                    && (self.unframed.is_none() || self.bytes.len() < FRAMED_BYTES_MAX) =>
            {
                FirstPacket::Incomplete
            }
            ConnackVerdict::Connack(connack) => FirstPacket::Connack(connack),
            ConnackVerdict::Stranger => FirstPacket::NotMqtt,
            ConnackVerdict::NeedMore(_) | ConnackVerdict::Auth | ConnackVerdict::Unreadable => FirstPacket::Other,
        }
    }
}

impl Unframed {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.fault.is_none() {
            match self.frames.next(bytes) {
                Ok((length, part)) => {
                    match part {
                        Part::Data(_) => self.mqtt.extend_from_slice(&bytes[..length]),
                        Part::Control(Some(Control::Close(_))) => self.has_close_frame = true,
                        Part::Header | Part::Control(_) => {}
                    }
                    bytes = &bytes[length..];
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

    fn first(framing: Framing, bytes: &[u8]) -> FirstPacket {
        Received::new(framing, bytes).first_packet(Version::V311)
    }

    #[test]
    fn a_connack_is_found_behind_pings_and_wherever_it_is_split() {
        let framed = [&[0x89, 1, b'?', 0x02, 1][..], &CONNACK[..1], &[0x80, 3], &CONNACK[1..]].concat();
        for (framing, bytes) in [(Framing::Raw, &CONNACK[..]), (Framing::WebSocket, &framed)] {
            for end in 0..bytes.len() {
                assert_eq!(first(framing, &bytes[..end]), FirstPacket::Incomplete, "{end}");
                let mut received = Received::new(framing, &bytes[..end]);
                received.push(&bytes[end..]);
                let packet = received.first_packet(Version::V311);
                assert!(matches!(packet, FirstPacket::Connack(_)), "{end}: {packet:?}");
                assert_eq!(received.into_mqtt(), CONNACK);
            }
        }
    }

    #[test]
    fn what_is_no_connack_is_told_apart() {
        assert_eq!(first(Framing::Raw, b"HTTP/1.1"), FirstPacket::NotMqtt);
        assert_eq!(
            first(Framing::Raw, &[0xF0, 0]),
            FirstPacket::NotMqtt,
            "only MQTT 5 has AUTH"
        );
        assert_eq!(first(Framing::WebSocket, &[0x88, 0]), FirstPacket::Closed);
        assert_eq!(first(Framing::WebSocket, &[0x82, 1, 0x20, 0x88, 0]), FirstPacket::Other);
        let masked = first(Framing::WebSocket, &[0x82, 0x81]);
        assert_eq!(masked, FirstPacket::InvalidFrames(Fault::Protocol));
        let claims_too_much = [0x20, 0xFF, 0xFF, 0x7F];
        assert_eq!(first(Framing::Raw, &claims_too_much), FirstPacket::Other);
    }
}
