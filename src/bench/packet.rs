//! MQTT packets as the bench writes and reads them: whole small packets, and PUBLISH as a head and a streamed body.
//!
//! Written by hand where every message passes; mqttbytes reads what comes once a connection.

use std::io::Write as _;

use super::clock::Nanos;

/// A protocol version, for the two that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// What every payload of the bench begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When the schedule wanted it sent.
    pub(super) intended: Nanos,
    /// When it was sent.
    pub(super) sent: Nanos,
    /// The number of the client that sent it.
    pub(super) sender: u32,
    /// How many it had sent before.
    pub(super) sequence: u32,
}

/// The length of a [`Stamp`] in a payload.
pub(super) const STAMP_BYTES: usize = 24;

impl Stamp {
    fn write(self, packet: &mut Vec<u8>) {
        packet.extend_from_slice(&self.intended.to_be_bytes());
        packet.extend_from_slice(&self.sent.to_be_bytes());
        packet.extend_from_slice(&self.sender.to_be_bytes());
        packet.extend_from_slice(&self.sequence.to_be_bytes());
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let (intended, rest) = payload.split_first_chunk()?;
        let (sent, rest) = rest.split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (sequence, _) = rest.split_first_chunk()?;
        Some(Self {
            intended: Nanos::from_be_bytes(*intended),
            sent: Nanos::from_be_bytes(*sent),
            sender: u32::from_be_bytes(*sender),
            sequence: u32::from_be_bytes(*sequence),
        })
    }
}

/// The kinds of packets that the bench sends or reads, as their high nibble.
pub(super) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
}

/// PINGREQ, whole.
pub(super) const PINGREQ: [u8; 2] = [kind::PINGREQ << 4, 0];
/// PINGRESP, whole.
pub(super) const PINGRESP: [u8; 2] = [kind::PINGRESP << 4, 0];
/// DISCONNECT, whole, in every version.
pub(super) const DISCONNECT: [u8; 2] = [kind::DISCONNECT << 4, 0];

/// What a CONNECT says.
pub(super) struct Hello<'a> {
    pub(super) version: Version,
    pub(super) client_id: &'a str,
    pub(super) keep_alive_s: u16,
    pub(super) clean: bool,
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
}

/// Appends a CONNECT.
pub(super) fn write_connect(packet: &mut Vec<u8>, hello: &Hello<'_>) {
    let mut body = b"\x00\x04MQTT".to_vec();
    body.push(match hello.version {
        Version::V4 => 4,
        Version::V5 => 5,
    });
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
    body.push(
        flag(hello.username.is_some(), 7)
            | flag(hello.password.is_some(), 6)
            | flag(hello.clean, 1),
    );
    body.extend_from_slice(&hello.keep_alive_s.to_be_bytes());
    if hello.version == Version::V5 {
        if hello.clean {
            body.push(0);
        } else {
            // Session Expiry Interval: an hour, so that a client that returns finds its session.
            body.extend_from_slice(&[5, 0x11, 0, 0, 14, 16]);
        }
    }
    write_text(&mut body, hello.client_id);
    for text in [hello.username, hello.password].into_iter().flatten() {
        write_text(&mut body, text);
    }
    packet.push(kind::CONNECT << 4);
    write_remaining_length(packet, body.len());
    packet.extend_from_slice(&body);
}

/// Appends a SUBSCRIBE with packet id 1.
pub(super) fn write_subscribe(packet: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    let properties = usize::from(version == Version::V5);
    packet.push(kind::SUBSCRIBE << 4 | 2);
    write_remaining_length(packet, 2 + properties + 2 + filter.len() + 1);
    packet.extend_from_slice(&[0, 1]);
    packet.extend_from_slice(&[0][..properties]);
    write_text(packet, filter);
    packet.push(qos);
}

/// What a PUBLISH says, but for the body that follows its stamp.
pub(super) struct Message<'a> {
    pub(super) version: Version,
    pub(super) topic: &'a [u8],
    pub(super) qos: u8,
    pub(super) packet_id: u16,
    pub(super) stamp: Stamp,
    pub(super) body_bytes: usize,
}

/// Appends a PUBLISH up to and with its stamp; `body_bytes` bytes must follow.
pub(super) fn write_publish_head(packet: &mut Vec<u8>, message: &Message<'_>) {
    let id_bytes = if message.qos > 0 { 2 } else { 0 };
    let properties = usize::from(message.version == Version::V5);
    let head = 2 + message.topic.len() + id_bytes + properties + STAMP_BYTES;
    packet.push(kind::PUBLISH << 4 | message.qos << 1);
    write_remaining_length(packet, head + message.body_bytes);
    packet.extend_from_slice(&length_of(message.topic.len()));
    packet.extend_from_slice(message.topic);
    packet.extend_from_slice(&message.packet_id.to_be_bytes()[..id_bytes]);
    packet.extend_from_slice(&[0][..properties]);
    message.stamp.write(packet);
}

/// Appends a PUBACK.
pub(super) fn write_puback(packet: &mut Vec<u8>, packet_id: u16) {
    packet.extend_from_slice(&[kind::PUBACK << 4, 2]);
    packet.extend_from_slice(&packet_id.to_be_bytes());
}

/// Fills in `%i` of an id or topic.
pub(super) fn fill(template: &str, index: u32, text: &mut Vec<u8>) {
    text.clear();
    let mut parts = template.split("%i");
    text.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        // Writing to a vector cannot fail.
        let _ = write!(text, "{index}");
        text.extend_from_slice(part.as_bytes());
    }
}

fn write_text(packet: &mut Vec<u8>, text: &str) {
    packet.extend_from_slice(&length_of(text.len()));
    packet.extend_from_slice(text.as_bytes());
}

/// A length in two bytes; the command line has refused texts that do not fit.
fn length_of(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn write_remaining_length(packet: &mut Vec<u8>, mut length: usize) {
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        if length == 0 {
            packet.push(digit);
            return;
        }
        packet.push(digit | 0x80);
    }
}

/// What the bytes of a stream begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'a> {
    /// The first packet, or of a PUBLISH what comes before its body, is not whole yet.
    NeedMore,
    /// No MQTT.
    Junk,
    /// A whole packet that is no PUBLISH.
    Packet {
        /// The high nibble of its first byte.
        kind: u8,
        /// What follows the fixed header.
        body: &'a [u8],
        /// The whole of it.
        whole: &'a [u8],
    },
    /// A PUBLISH, read up to its body.
    Publish(Published<'a>),
}

/// The head of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published<'a> {
    /// The bytes read: fixed header, topic, packet id, properties and stamp.
    pub(super) head: &'a [u8],
    pub(super) qos: u8,
    pub(super) packet_id: u16,
    /// Absent in messages too short to be the bench's.
    pub(super) stamp: Option<Stamp>,
    /// How many bytes of body follow.
    pub(super) body_bytes: usize,
}

/// Reads what a stream begins with.
pub(super) fn read(bytes: &[u8], version: Version) -> Read<'_> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Read::NeedMore;
    };
    let (remaining, length_bytes) = match read_remaining_length(rest) {
        Length::Is(remaining, bytes) => (remaining, bytes),
        Length::NeedMore => return Read::NeedMore,
        Length::Junk => return Read::Junk,
    };
    let header = 1 + length_bytes;
    if first >> 4 == kind::PUBLISH {
        return read_publish(bytes, header, remaining, version);
    }
    match bytes.get(..header + remaining) {
        Some(whole) => Read::Packet {
            kind: first >> 4,
            body: &whole[header..],
            whole,
        },
        None => Read::NeedMore,
    }
}

fn read_publish(bytes: &[u8], header: usize, remaining: usize, version: Version) -> Read<'_> {
    let qos = bytes[0] >> 1 & 3;
    let Some(&topic_length) = bytes[header..].first_chunk() else {
        return if remaining < 2 {
            Read::Junk
        } else {
            Read::NeedMore
        };
    };
    let mut at = header + 2 + usize::from(u16::from_be_bytes(topic_length));
    let mut packet_id = 0;
    if qos > 0 {
        let Some(&id) = bytes.get(at..).and_then(<[u8]>::first_chunk) else {
            return Read::NeedMore;
        };
        packet_id = u16::from_be_bytes(id);
        at += 2;
    }
    if version == Version::V5 {
        match read_remaining_length(bytes.get(at..).unwrap_or_default()) {
            Length::Is(properties, length_bytes) => at += length_bytes + properties,
            Length::NeedMore => return Read::NeedMore,
            Length::Junk => return Read::Junk,
        }
    }
    let Some(payload) = (header + remaining).checked_sub(at) else {
        return Read::Junk;
    };
    let stamp_bytes = if payload < STAMP_BYTES {
        0
    } else {
        STAMP_BYTES
    };
    match bytes.get(..at + stamp_bytes) {
        Some(head) => Read::Publish(Published {
            head,
            qos,
            packet_id,
            stamp: Stamp::read(&head[at..]),
            body_bytes: payload - stamp_bytes,
        }),
        None => Read::NeedMore,
    }
}

enum Length {
    Is(usize, usize),
    NeedMore,
    Junk,
}

fn read_remaining_length(bytes: &[u8]) -> Length {
    let mut length = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Length::Is(length, index + 1);
        }
    }
    if bytes.len() < 4 {
        Length::NeedMore
    } else {
        Length::Junk
    }
}

/// A CONNACK that accepts, and names the node in a user property.
pub(super) fn connack_with_node(node: &str) -> Vec<u8> {
    let mut properties = vec![0x26];
    write_text(&mut properties, NODE_PROPERTY);
    write_text(&mut properties, node);
    let mut packet = vec![kind::CONNACK << 4];
    let mut length = Vec::new();
    write_remaining_length(&mut length, properties.len());
    write_remaining_length(&mut packet, 2 + length.len() + properties.len());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(&length);
    packet.extend_from_slice(&properties);
    packet
}

/// The user property of CONNACK in which a node that knows it tells its name.
pub(super) const NODE_PROPERTY: &str = "node";
