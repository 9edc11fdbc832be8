//! The packets of a client of our own, behind its CONNECT: writes what it sends, and reads what a node sends to it (MQTT 3.1.1 and 5,
//! sections 3.3 to 3.14). QoS 2 is left out, since nothing here uses it.
//!
//! mqttbytes writes. It does not read: it rejects reason codes that it has no name for, and a DISCONNECT without one.

use bytes::BytesMut;
use mqttbytes::{QoS, v4, v5};

use super::Version;
use super::fields::{Cursor, Stop};

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const DISCONNECT: u8 = 14;

/// A PUBLISH of QoS 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishPacket<'a> {
    /// The topic.
    pub topic: &'a str,
    /// What is published.
    pub payload: &'a [u8],
    /// The packet's number asks for QoS 1; none is QoS 0.
    pub packet_id: Option<u16>,
    /// The node keeps it for later subscribers.
    pub retain: bool,
    /// After so many seconds the node forgets it; only MQTT 5 has this.
    pub expiry: Option<u32>,
}

impl PublishPacket<'_> {
    /// The bytes of the packet; `None` if the topic is longer than 65,535 bytes.
    pub fn encode(&self, version: Version) -> Option<Vec<u8>> {
        let topic = fitting(self.topic)?;
        let qos = match self.packet_id {
            None => QoS::AtMostOnce,
            Some(_) => QoS::AtLeastOnce,
        };
        let packet_id = self.packet_id.unwrap_or_default();
        let mut out = BytesMut::new();
        let written = if version == Version::V5 {
            let mut publish = v5::Publish::new(topic, qos, self.payload);
            publish.pkid = packet_id;
            publish.retain = self.retain;
            publish.properties = self.expiry.map(expiring_after);
            publish.write(&mut out)
        } else {
            let mut publish = v4::Publish::new(topic, qos, self.payload);
            publish.pkid = packet_id;
            publish.retain = self.retain;
            publish.write(&mut out)
        };
        written.ok().map(|_| out.into())
    }
}

/// A SUBSCRIBE to these topic filters with QoS 1; `None` if one is longer than 65,535 bytes.
pub fn subscribe(version: Version, packet_id: u16, filters: &[String]) -> Option<Vec<u8>> {
    let paths = all_fitting(filters)?;
    let mut out = BytesMut::new();
    let written = if version == Version::V5 {
        let filter = |path: &String| v5::SubscribeFilter::new(path.clone(), QoS::AtLeastOnce);
        let mut subscribe = v5::Subscribe::new_many(paths.iter().map(filter));
        subscribe.pkid = packet_id;
        subscribe.write(&mut out)
    } else {
        let filter = |path: &String| v4::SubscribeFilter::new(path.clone(), QoS::AtLeastOnce);
        let mut subscribe = v4::Subscribe::new_many(paths.iter().map(filter));
        subscribe.pkid = packet_id;
        subscribe.write(&mut out)
    };
    written.ok().map(|_| out.into())
}

/// An UNSUBSCRIBE from these topic filters; `None` if one is longer than 65,535 bytes.
pub fn unsubscribe(version: Version, packet_id: u16, filters: &[String]) -> Option<Vec<u8>> {
    let paths = all_fitting(filters)?.to_vec();
    let mut out = BytesMut::new();
    let written = if version == Version::V5 {
        let unsubscribe = v5::Unsubscribe {
            pkid: packet_id,
            filters: paths,
            properties: None,
        };
        unsubscribe.write(&mut out)
    } else {
        let unsubscribe = v4::Unsubscribe {
            pkid: packet_id,
            topics: paths,
        };
        unsubscribe.write(&mut out)
    };
    written.ok().map(|_| out.into())
}

/// The acknowledgement of a message with QoS 1, the same in both versions.
pub fn puback(packet_id: u16) -> Vec<u8> {
    let mut out = BytesMut::new();
    // Four bytes, with nothing in them that could be refused.
    let _ = v4::PubAck::new(packet_id).write(&mut out);
    out.into()
}

fn expiring_after(seconds: u32) -> v5::PublishProperties {
    v5::PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: Some(seconds),
        topic_alias: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
        subscription_identifiers: Vec::new(),
        content_type: None,
    }
}

/// The string, if its length can be written: mqttbytes would cut the number.
fn fitting(string: &str) -> Option<&str> {
    (string.len() <= usize::from(u16::MAX)).then_some(string)
}

fn all_fitting(strings: &[String]) -> Option<&[String]> {
    strings
        .iter()
        .all(|string| fitting(string).is_some())
        .then_some(strings)
}

/// A packet from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePacket {
    /// A message.
    Publish {
        /// Its topic.
        topic: Vec<u8>,
        /// Its payload.
        payload: Vec<u8>,
        /// To be acknowledged with this number: its QoS is 1.
        packet_id: Option<u16>,
        /// It was kept for this subscriber.
        retain: bool,
    },
    /// A message was taken, or refused.
    Puback {
        /// Of the PUBLISH.
        packet_id: u16,
        /// From 0x80 on it was refused. MQTT 3.1.1 cannot say so.
        code: u8,
    },
    /// Subscriptions were taken, or refused.
    Suback {
        /// Of the SUBSCRIBE.
        packet_id: u16,
        /// One for each filter; from 0x80 on it was refused.
        codes: Vec<u8>,
    },
    /// Subscriptions were ended.
    Unsuback {
        /// Of the UNSUBSCRIBE.
        packet_id: u16,
    },
    /// The node ends the connection, which only MQTT 5 has.
    Disconnect {
        /// Why.
        code: u8,
    },
    /// Any other, by its type.
    Other(u8),
}

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeVerdict {
    /// A packet of so many bytes.
    Packet(NodePacket, usize),
    /// The verdict cannot change before this many bytes (in all) have arrived.
    NeedMore(usize),
    /// Not a packet, or one that a client need not expect.
    Malformed,
}

/// Reads the first packet of `bytes`, which came from a node behind its CONNACK.
pub fn read_node_packet(bytes: &[u8], version: Version) -> NodeVerdict {
    let Some(first) = bytes.first() else {
        return NodeVerdict::NeedMore(1);
    };
    match read(*first, bytes, version) {
        Ok((packet, length)) => NodeVerdict::Packet(packet, length),
        Err(Stop::NeedMore(enough)) => NodeVerdict::NeedMore(enough),
        Err(Stop::Malformed) => NodeVerdict::Malformed,
    }
}

fn read(first: u8, bytes: &[u8], version: Version) -> Result<(NodePacket, usize), Stop> {
    let mut cursor = Cursor::behind_fixed_header(bytes)?;
    let end = cursor.end();
    let mut whole = cursor;
    whole.skip(end - cursor.start())?;
    let has_properties = version == Version::V5;
    let rest = |mut cursor: Cursor<'_>| {
        let span = cursor.skip(end - cursor.start());
        span.map(|span| span.of(bytes).to_vec())
    };
    let packet = match first >> 4 {
        PUBLISH => {
            let topic = cursor.string()?.of(bytes).to_vec();
            let packet_id = match first >> 1 & 3 {
                0 => None,
                1 => Some(cursor.two_bytes()?),
                _ => return Err(Stop::Malformed),
            };
            if has_properties {
                cursor.properties()?;
            }
            NodePacket::Publish {
                topic,
                payload: rest(cursor)?,
                packet_id,
                retain: first & 1 != 0,
            }
        }
        PUBACK => NodePacket::Puback {
            packet_id: cursor.two_bytes()?,
            code: if cursor.is_at_end() { 0 } else { cursor.byte()? },
        },
        SUBACK => {
            let packet_id = cursor.two_bytes()?;
            if has_properties {
                cursor.properties()?;
            }
            NodePacket::Suback {
                packet_id,
                codes: rest(cursor)?,
            }
        }
        UNSUBACK => NodePacket::Unsuback {
            packet_id: cursor.two_bytes()?,
        },
        DISCONNECT => NodePacket::Disconnect {
            code: if cursor.is_at_end() { 0 } else { cursor.byte()? },
        },
        other => NodePacket::Other(other),
    };
    Ok((packet, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

    #[test]
    fn packets_are_written_byte_for_byte_as_the_standard_has_them() {
        let filters = ["a/b".to_owned(), "$share/g/c".to_owned()];
        let (v311, v5) = (Version::V311, Version::V5);
        let written = |packet: Option<Vec<u8>>| packet.expect("short enough");
        let listed = b"\0\x03a/b\x01\0\x0a$share/g/c\x01";
        assert_eq!(
            written(subscribe(v311, 7, &filters)),
            [b"\x82\x15\0\x07", &listed[..]].concat()
        );
        assert_eq!(
            written(subscribe(v5, 7, &filters)),
            [b"\x82\x16\0\x07\0", &listed[..]].concat()
        );
        let listed = b"\0\x03a/b\0\x0a$share/g/c";
        assert_eq!(
            written(unsubscribe(v311, 8, &filters)),
            [b"\xa2\x13\0\x08", &listed[..]].concat()
        );
        assert_eq!(
            written(unsubscribe(v5, 8, &filters)),
            [b"\xa2\x14\0\x08\0", &listed[..]].concat()
        );
        let publish = |packet_id, retain, expiry| PublishPacket {
            topic: "a/b",
            payload: b"hello",
            packet_id,
            retain,
            expiry,
        };
        let plain = publish(None, false, None);
        assert_eq!(written(plain.encode(v311)), b"\x30\x0a\0\x03a/bhello");
        assert_eq!(written(plain.encode(v5)), b"\x30\x0b\0\x03a/b\0hello");
        let kept = publish(Some(9), true, Some(60));
        assert_eq!(
            written(kept.encode(v311)),
            b"\x33\x0c\0\x03a/b\0\x09hello",
            "it has no expiry"
        );
        assert_eq!(
            written(kept.encode(v5)),
            b"\x33\x12\0\x03a/b\0\x09\x05\x02\0\0\0\x3chello"
        );
        assert_eq!(puback(0x10a), b"\x40\x02\x01\x0a");
    }

    #[test]
    fn a_topic_that_does_not_fit_is_not_cut() {
        for version in VERSIONS {
            for (length, fits) in [(65_535, true), (65_536, false)] {
                let topic = "t".repeat(length);
                let publish = PublishPacket {
                    topic: &topic,
                    payload: b"",
                    packet_id: None,
                    retain: false,
                    expiry: None,
                };
                assert_eq!(publish.encode(version).is_some(), fits);
                let filters = ["short".to_owned(), topic];
                assert_eq!(subscribe(version, 1, &filters).is_some(), fits);
                assert_eq!(unsubscribe(version, 1, &filters).is_some(), fits);
            }
        }
    }

    #[test]
    fn messages_are_read_wherever_they_are_split() {
        for version in VERSIONS {
            for packet_id in [None, Some(300)] {
                let written = PublishPacket {
                    topic: "remora/doctor",
                    payload: &[b'x'; 200],
                    packet_id,
                    retain: true,
                    expiry: Some(60),
                };
                let bytes = written.encode(version).expect("short");
                for end in 0..bytes.len() {
                    let verdict = read_node_packet(&bytes[..end], version);
                    assert!(
                        matches!(verdict, NodeVerdict::NeedMore(enough) if enough > end && enough <= bytes.len()),
                        "{end}: {verdict:?}"
                    );
                }
                let read = NodePacket::Publish {
                    topic: b"remora/doctor".to_vec(),
                    payload: vec![b'x'; 200],
                    packet_id,
                    retain: true,
                };
                let more = [&bytes[..], b"more"].concat();
                assert_eq!(read_node_packet(&more, version), NodeVerdict::Packet(read, bytes.len()));
            }
        }
    }

    #[test]
    fn answers_are_read_with_their_codes() {
        let cases: &[(Version, &[u8], NodePacket)] = &[
            (
                Version::V311,
                &[0x40, 2, 0, 9],
                NodePacket::Puback { packet_id: 9, code: 0 },
            ),
            (
                Version::V5,
                &[0x40, 4, 0, 9, 0x87, 0],
                NodePacket::Puback {
                    packet_id: 9,
                    code: 0x87,
                },
            ),
            (
                Version::V311,
                &[0x90, 4, 0, 7, 1, 0x80],
                NodePacket::Suback {
                    packet_id: 7,
                    codes: vec![1, 0x80],
                },
            ),
            (
                Version::V5,
                &[0x90, 4, 0, 7, 0, 0x87],
                NodePacket::Suback {
                    packet_id: 7,
                    codes: vec![0x87],
                },
            ),
            (
                Version::V5,
                &[0xB0, 4, 0, 8, 0, 0],
                NodePacket::Unsuback { packet_id: 8 },
            ),
            (Version::V5, &[0xE0, 0], NodePacket::Disconnect { code: 0 }),
            (Version::V5, &[0xE0, 2, 0x8E, 0], NodePacket::Disconnect { code: 0x8E }),
            (Version::V5, &[0xD0, 0], NodePacket::Other(13)),
        ];
        for (version, bytes, packet) in cases {
            let expected = NodeVerdict::Packet(packet.clone(), bytes.len());
            assert_eq!(read_node_packet(bytes, *version), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_no_answer_to_this_client_is_malformed() {
        for bytes in [
            &[0x34, 5, 0, 1, b'a', 0, 1][..],
            &[0x30, 1, 0],
            &[0x40, 1, 0],
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF],
        ] {
            assert_eq!(
                read_node_packet(bytes, Version::V311),
                NodeVerdict::Malformed,
                "{bytes:02x?}"
            );
        }
    }
}
