//! MQTT packets as the bench writes and reads them: whole small packets, and PUBLISH as a head and a streamed body.
//!
//! Written by hand where every message passes, and compared with mqttbytes in tests. mqttbytes reads CONNACK, once a
//! connection.

use std::io::Write as _;

use bytes::BytesMut;
use mqttbytes::{v4, v5};

use super::clock::Nanos;

/// The protocol versions that the bench can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// The beginning of every payload that the bench sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// When it was due to be sent.
    pub(super) intended: Nanos,
    /// When it was sent.
    pub(super) sent: Nanos,
    /// The number of the client that sent it.
    pub(super) sender: u32,
    /// How many messages that client had sent before.
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

/// A whole PINGREQ.
pub(super) const PINGREQ: [u8; 2] = [kind::PINGREQ << 4, 0];
/// A whole PINGRESP.
pub(super) const PINGRESP: [u8; 2] = [kind::PINGRESP << 4, 0];
/// A whole DISCONNECT, in every version.
pub(super) const DISCONNECT: [u8; 2] = [kind::DISCONNECT << 4, 0];

/// The fields of a CONNECT.
pub(super) struct Connect<'a> {
    pub(super) version: Version,
    pub(super) client_id: &'a str,
    pub(super) keep_alive_s: u16,
    pub(super) clean: bool,
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
}

/// Appends a CONNECT.
pub(super) fn write_connect(packet: &mut Vec<u8>, connect: &Connect<'_>) {
    let mut body = b"\x00\x04MQTT".to_vec();
    body.push(match connect.version {
        Version::V4 => 4,
        Version::V5 => 5,
    });
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
    body.push(flag(connect.username.is_some(), 7) | flag(connect.password.is_some(), 6) | flag(connect.clean, 1));
    body.extend_from_slice(&connect.keep_alive_s.to_be_bytes());
    if connect.version == Version::V5 {
        if connect.clean {
            body.push(0);
        } else {
            // Session Expiry Interval: an hour, so that a client that returns finds its session.
            body.extend_from_slice(&[5, 0x11, 0, 0, 14, 16]);
        }
    }
    write_text(&mut body, connect.client_id);
    for text in [connect.username, connect.password].into_iter().flatten() {
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

/// The fields of a PUBLISH, except for the body that follows its stamp.
pub(super) struct Message<'a> {
    pub(super) version: Version,
    pub(super) topic: &'a [u8],
    pub(super) qos: u8,
    pub(super) packet_id: u16,
    pub(super) stamp: Stamp,
    pub(super) body_bytes: usize,
}

/// Appends a PUBLISH up to the end of its stamp; `body_bytes` bytes must follow.
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

/// The fields of an accepting CONNACK.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Connack {
    pub(super) session_present: bool,
    /// The node's name, if it reports one.
    pub(super) node: Option<String>,
    /// Receive Maximum: how many messages with QoS 1 may be unconfirmed.
    pub(super) receive_max: Option<u16>,
}

/// Why a CONNACK does not accept the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoConnack {
    /// It refuses the client, with this code.
    Refused(u8),
    Malformed,
}

/// Reads a whole CONNACK.
///
/// Once a connection, mqttbytes is fast enough.
pub(super) fn read_connack(whole: &[u8], version: Version) -> Result<Connack, NoConnack> {
    // mqttbytes does not know every code that refuses.
    if whole.len() >= 4 && whole[2] <= 1 && whole[3] != 0 {
        return Err(NoConnack::Refused(whole[3]));
    }
    let mut stream = BytesMut::from(whole);
    match version {
        Version::V4 => match v4::read(&mut stream, whole.len()) {
            Ok(v4::Packet::ConnAck(connack)) => Ok(Connack {
                session_present: connack.session_present,
                node: None,
                receive_max: None,
            }),
            _ => Err(NoConnack::Malformed),
        },
        Version::V5 => match v5::read(&mut stream, whole.len()) {
            Ok(v5::Packet::ConnAck(connack)) => Ok(Connack {
                session_present: connack.session_present,
                receive_max: connack
                    .properties
                    .as_ref()
                    .and_then(|properties| properties.receive_max),
                node: connack.properties.and_then(|properties| {
                    let mut told = properties.user_properties.into_iter();
                    let (_, node) = told.find(|(name, _)| name == NODE_PROPERTY)?;
                    Some(node)
                }),
            }),
            _ => Err(NoConnack::Malformed),
        },
    }
}

/// DISCONNECT of a client that does not return. In MQTT 5 it ends the session, too; MQTT 3.1.1 cannot.
pub(super) fn last_disconnect(version: Version) -> &'static [u8] {
    match version {
        Version::V4 => &DISCONNECT,
        Version::V5 => &[kind::DISCONNECT << 4, 7, 0, 5, 0x11, 0, 0, 0, 0],
    }
}

/// Writes an id or topic into `text`, with `index` in place of each `%i`.
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

/// A length in two bytes. The command line has rejected longer texts.
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

/// The beginning of a stream of packets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'a> {
    /// The first packet is incomplete; if it is a PUBLISH, the part before its body.
    NeedMore,
    /// Not MQTT.
    Junk,
    /// A whole packet of any kind but PUBLISH.
    Packet {
        /// The high nibble of its first byte.
        kind: u8,
        /// What follows the fixed header.
        body: &'a [u8],
        /// The whole packet.
        whole: &'a [u8],
    },
    /// A PUBLISH, up to its body.
    Publish(Published<'a>),
}

/// The head of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published<'a> {
    /// The bytes read: fixed header, topic, packet id, properties and stamp.
    pub(super) head: &'a [u8],
    pub(super) topic: &'a [u8],
    pub(super) qos: u8,
    pub(super) packet_id: u16,
    /// Absent if the message is too short to be the bench's.
    pub(super) stamp: Option<Stamp>,
    /// The length of the body that follows.
    pub(super) body_bytes: usize,
}

/// Reads the first packet of a stream.
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
        return if remaining < 2 { Read::Junk } else { Read::NeedMore };
    };
    let mut at = header + 2 + usize::from(u16::from_be_bytes(topic_length));
    let topic = header + 2..at;
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
    let stamp_bytes = if payload < STAMP_BYTES { 0 } else { STAMP_BYTES };
    match bytes.get(..at + stamp_bytes) {
        Some(head) => Read::Publish(Published {
            head,
            topic: &head[topic],
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

/// An accepting CONNACK that names the node in a user property.
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

/// The user property of CONNACK in which a node reports its name.
pub(super) const NODE_PROPERTY: &str = "node";

#[cfg(test)]
mod tests {
    use mqttbytes::QoS;
    use proptest::prelude::*;

    use super::*;

    const STAMP: Stamp = Stamp {
        intended: 1,
        sent: 2,
        sender: 3,
        sequence: 4,
    };

    fn publish(version: Version, qos: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let message = Message {
            version,
            topic: b"bench/7",
            qos,
            packet_id: 9,
            stamp: STAMP,
            body_bytes: body.len(),
        };
        write_publish_head(&mut packet, &message);
        packet.extend_from_slice(body);
        packet
    }

    fn connect(version: Version) -> Vec<u8> {
        let mut packet = Vec::new();
        let connect = Connect {
            version,
            client_id: "bench-1",
            keep_alive_s: 60,
            clean: version == Version::V4,
            username: Some("user"),
            password: Some("secret"),
        };
        write_connect(&mut packet, &connect);
        packet
    }

    #[test]
    fn mqttbytes_reads_what_is_written_for_v4() {
        let mut stream = BytesMut::new();
        stream.extend_from_slice(&connect(Version::V4));
        let mut subscribe = Vec::new();
        write_subscribe(&mut subscribe, Version::V4, "bench/1", 1);
        stream.extend_from_slice(&subscribe);
        stream.extend_from_slice(&publish(Version::V4, 1, b"body"));
        let Ok(v4::Packet::Connect(connect)) = v4::read(&mut stream, 1000) else {
            panic!("no CONNECT");
        };
        assert_eq!((connect.client_id.as_str(), connect.keep_alive), ("bench-1", 60));
        assert!(connect.clean_session);
        assert!(
            connect
                .login
                .is_some_and(|login| login.username == "user" && login.password == "secret")
        );
        let Ok(v4::Packet::Subscribe(subscribe)) = v4::read(&mut stream, 1000) else {
            panic!("no SUBSCRIBE");
        };
        assert_eq!(subscribe.filters[0].path, "bench/1");
        let Ok(v4::Packet::Publish(publish)) = v4::read(&mut stream, 1000) else {
            panic!("no PUBLISH");
        };
        assert_eq!((publish.topic.as_str(), publish.pkid), ("bench/7", 9));
        assert_eq!(Stamp::read(&publish.payload), Some(STAMP));
        assert!(stream.is_empty());
    }

    #[test]
    fn mqttbytes_reads_what_is_written_for_v5() {
        let mut stream = BytesMut::new();
        stream.extend_from_slice(&connect(Version::V5));
        let mut subscribe = Vec::new();
        write_subscribe(&mut subscribe, Version::V5, "bench/1", 1);
        stream.extend_from_slice(&subscribe);
        stream.extend_from_slice(&publish(Version::V5, 0, b"body"));
        stream.extend_from_slice(&connack_with_node("node1"));
        let Ok(v5::Packet::Connect(connect)) = v5::read(&mut stream, 1000) else {
            panic!("no CONNECT");
        };
        let expiry = connect
            .properties
            .and_then(|properties| properties.session_expiry_interval);
        assert_eq!((connect.client_id.as_str(), expiry), ("bench-1", Some(3600)));
        assert!(matches!(v5::read(&mut stream, 1000), Ok(v5::Packet::Subscribe(_))));
        let Ok(v5::Packet::Publish(publish)) = v5::read(&mut stream, 1000) else {
            panic!("no PUBLISH");
        };
        assert_eq!(Stamp::read(&publish.payload), Some(STAMP));
        let Ok(v5::Packet::ConnAck(connack)) = v5::read(&mut stream, 1000) else {
            panic!("no CONNACK");
        };
        let properties = connack.properties.map(|properties| properties.user_properties);
        assert_eq!(properties, Some(vec![("node".into(), "node1".into())]));
        assert!(stream.is_empty());
    }

    #[test]
    fn a_connack_tells_session_and_node() {
        let read = |whole: &[u8], version| read_connack(whole, version);
        let welcome = |session_present, node: Option<&str>| {
            Ok(Connack {
                session_present,
                node: node.map(str::to_owned),
                receive_max: None,
            })
        };
        assert_eq!(
            read(&connack_with_node("node7"), Version::V5),
            welcome(false, Some("node7"))
        );
        assert_eq!(read(&[0x20, 3, 1, 0, 0], Version::V5), welcome(true, None));
        assert_eq!(read(&[0x20, 2, 1, 0], Version::V4), welcome(true, None));
        let limited = read(&[0x20, 6, 0, 0, 3, 0x21, 0, 32], Version::V5);
        assert_eq!(limited.unwrap().receive_max, Some(32));
        assert_eq!(read(&[0x20, 2, 0, 5], Version::V4), Err(NoConnack::Refused(5)));
        // A code that MQTT does not know.
        assert_eq!(read(&[0x20, 3, 0, 0xff, 0], Version::V5), Err(NoConnack::Refused(0xff)));
        assert_eq!(read(&[0x20, 1, 0], Version::V4), Err(NoConnack::Malformed));
        assert_eq!(read(&[0x20, 3, 0, 0, 9], Version::V5), Err(NoConnack::Malformed));
    }

    #[test]
    fn the_last_disconnect_ends_the_session() {
        let mut stream = BytesMut::from(last_disconnect(Version::V5));
        let Ok(v5::Packet::Disconnect(disconnect)) = v5::read(&mut stream, 100) else {
            panic!("no DISCONNECT");
        };
        let expiry = disconnect
            .properties
            .and_then(|properties| properties.session_expiry_interval);
        assert_eq!(expiry, Some(0));
    }

    #[test]
    fn a_publish_is_read_as_soon_as_its_stamp_is_there() {
        for (version, qos, size) in [
            (Version::V4, 0, 0),
            (Version::V4, 1, 100),
            (Version::V5, 0, 20_000),
            (Version::V5, 1, 1 << 20),
        ] {
            let packet = publish(version, qos, &vec![7; size]);
            let head = packet.len() - size;
            for cut in 0..head {
                assert_eq!(read(&packet[..cut], version), Read::NeedMore, "{cut} bytes");
            }
            let expected = Read::Publish(Published {
                head: &packet[..head],
                topic: b"bench/7",
                qos,
                packet_id: if qos > 0 { 9 } else { 0 },
                stamp: Some(STAMP),
                body_bytes: size,
            });
            assert_eq!(read(&packet[..head], version), expected);
        }
    }

    #[test]
    fn other_packets_are_read_whole() {
        for packet in [connect(Version::V5), connack_with_node("node1"), PINGREQ.to_vec()] {
            for cut in 0..packet.len() {
                assert_eq!(read(&packet[..cut], Version::V5), Read::NeedMore, "{cut} bytes");
            }
            let followed = [packet.as_slice(), &PINGRESP].concat();
            let Read::Packet { kind, whole, .. } = read(&followed, Version::V5) else {
                panic!("no packet");
            };
            assert_eq!((kind, whole), (packet[0] >> 4, packet.as_slice()));
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_junk() {
        for bytes in [
            &[0x20, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            // A PUBLISH too short for its topic's length, for its topic, and for its packet id.
            &[0x30, 1, 0],
            &[0x30, 3, 0, 9, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x32, 3, 0, 1, b'a', 0, 0],
        ] {
            assert_eq!(read(bytes, Version::V4), Read::Junk, "{bytes:x?}");
        }
    }

    #[test]
    fn a_message_of_others_has_no_stamp() {
        let foreign = [0x30, 5, 0, 1, b'a', b'h', b'i'];
        let expected = Read::Publish(Published {
            head: &foreign[..5],
            topic: b"a",
            qos: 0,
            packet_id: 0,
            stamp: None,
            body_bytes: 2,
        });
        assert_eq!(read(&foreign, Version::V4), expected);
    }

    proptest! {
        #[test]
        fn a_publish_reads_as_mqttbytes_wrote_it(
            topic in "[a-z/]{1,200}",
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            is_confirmed in any::<bool>(),
            property in proptest::option::of("[a-z]{0,200}"),
        ) {
            let qos = if is_confirmed { QoS::AtLeastOnce } else { QoS::AtMostOnce };
            for version in [Version::V4, Version::V5] {
                let mut bytes = BytesMut::new();
                if version == Version::V4 {
                    let mut publish = v4::Publish::new(&topic, qos, payload.clone());
                    publish.pkid = 77;
                    publish.write(&mut bytes).unwrap();
                } else {
                    let mut publish = v5::Publish::new(&topic, qos, payload.clone());
                    publish.pkid = if is_confirmed { 77 } else { 0 };
                    publish.properties = property.clone().map(|text| v5::PublishProperties {
                        payload_format_indicator: None,
                        message_expiry_interval: Some(9),
                        topic_alias: None,
                        response_topic: None,
                        correlation_data: None,
                        user_properties: vec![(text.clone(), text)],
                        subscription_identifiers: Vec::new(),
                        content_type: None,
                    });
                    publish.write(&mut bytes).unwrap();
                }
                let Read::Publish(published) = read(&bytes, version) else {
                    panic!("no PUBLISH: {bytes:?}");
                };
                let stamp_bytes = published.stamp.map_or(0, |_| STAMP_BYTES);
                prop_assert_eq!(published.topic, topic.as_bytes());
                prop_assert_eq!(published.qos, u8::from(is_confirmed));
                prop_assert_eq!(published.packet_id, if is_confirmed { 77 } else { 0 });
                prop_assert_eq!(stamp_bytes + published.body_bytes, payload.len());
                let body = &bytes[published.head.len()..];
                prop_assert_eq!(body, &payload[stamp_bytes..]);
                // Whatever is missing, it is never junk, nor another packet.
                for cut in 0..published.head.len() {
                    prop_assert_eq!(read(&bytes[..cut], version), Read::NeedMore);
                }
            }
        }
    }

    #[test]
    fn templates_are_filled_in() {
        for (template, filled) in [("bench-%i", "bench-42"), ("%i/%i", "42/42"), ("fixed", "fixed")] {
            let mut text = b"old".to_vec();
            fill(template, 42, &mut text);
            assert_eq!(text, filled.as_bytes());
        }
    }
}
