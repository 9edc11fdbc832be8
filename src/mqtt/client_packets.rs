//! The packets of a client of our own, behind its CONNECT: writes what it sends, and reads what a node sends to it (MQTT 3.1.1 and 5,
//! sections 3.3 to 3.14). QoS 2 is left out, since nothing here uses it.

use super::Version;
use super::connect_packet::{put, put_length};
use super::fields::{Cursor, Stop};

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const DISCONNECT: u8 = 14;

/// Message Expiry Interval (MQTT 5, 3.3.2.3.3).
const MESSAGE_EXPIRY: u8 = 0x02;

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
        let mut body = Vec::new();
        put(&mut body, self.topic.as_bytes())?;
        body.extend(self.packet_id.iter().flat_map(|id| id.to_be_bytes()));
        if version == Version::V5 {
            match self.expiry {
                None => body.push(0),
                Some(seconds) => {
                    body.extend([5, MESSAGE_EXPIRY]);
                    body.extend(seconds.to_be_bytes());
                }
            }
        }
        body.extend(self.payload);
        let qos = u8::from(self.packet_id.is_some());
        Some(packet(PUBLISH << 4 | qos << 1 | u8::from(self.retain), &body))
    }
}

/// A SUBSCRIBE to these topic filters with QoS 1; `None` if one is longer than 65,535 bytes.
pub fn subscribe(version: Version, packet_id: u16, filters: &[String]) -> Option<Vec<u8>> {
    let mut body = head(version, packet_id);
    for filter in filters {
        put(&mut body, filter.as_bytes())?;
        body.push(1);
    }
    Some(packet(0x82, &body))
}

/// An UNSUBSCRIBE from these topic filters; `None` if one is longer than 65,535 bytes.
pub fn unsubscribe(version: Version, packet_id: u16, filters: &[String]) -> Option<Vec<u8>> {
    let mut body = head(version, packet_id);
    for filter in filters {
        put(&mut body, filter.as_bytes())?;
    }
    Some(packet(0xA2, &body))
}

/// The acknowledgement of a message with QoS 1, the same in both versions.
pub fn puback(packet_id: u16) -> Vec<u8> {
    packet(PUBACK << 4, &packet_id.to_be_bytes())
}

fn head(version: Version, packet_id: u16) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        // No properties.
        body.push(0);
    }
    body
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    put_length(&mut packet, body.len());
    packet.extend(body);
    packet
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
    use bytes::BytesMut;
    use mqttbytes::v4;

    use super::*;

    const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

    #[test]
    fn another_reader_finds_what_was_written() {
        let filters = ["a/b".to_owned(), "$share/g/a/c".to_owned()];
        let publish = |packet_id| PublishPacket {
            topic: "a/b",
            payload: b"hello",
            packet_id,
            retain: packet_id.is_some(),
            expiry: Some(60),
        };
        let bytes = [
            subscribe(Version::V311, 7, &filters).expect("short"),
            unsubscribe(Version::V311, 8, &filters).expect("short"),
            publish(None).encode(Version::V311).expect("short"),
            publish(Some(9)).encode(Version::V311).expect("short"),
            puback(10),
        ]
        .concat();
        let mut stream = BytesMut::from(&bytes[..]);
        let mut next = || v4::read(&mut stream, 1000).expect("a packet");
        let v4::Packet::Subscribe(read) = next() else {
            panic!("a SUBSCRIBE");
        };
        assert_eq!(read.pkid, 7);
        let read: Vec<_> = read.filters.iter().map(|filter| filter.path.clone()).collect();
        assert_eq!(read, filters);
        let v4::Packet::Unsubscribe(read) = next() else {
            panic!("an UNSUBSCRIBE");
        };
        assert_eq!((read.pkid, read.topics), (8, filters.to_vec()));
        for (number, is_retained) in [(0, false), (9, true)] {
            let v4::Packet::Publish(read) = next() else {
                panic!("a PUBLISH");
            };
            assert_eq!((read.pkid, read.retain), (number, is_retained));
            assert_eq!((&*read.topic, &read.payload[..]), ("a/b", &b"hello"[..]));
        }
        assert_eq!(next(), v4::Packet::PubAck(v4::PubAck::new(10)));
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
