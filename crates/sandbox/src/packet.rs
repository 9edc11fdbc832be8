//! The packets that a node reads and writes.
//!
//! mqttbytes reads and writes most of them. It cannot read some CONNECTs (MQTT 3.1, the bridge bit, binary passwords),
//! prints to standard error for UNSUBSCRIBE of MQTT 5, and rejects a DISCONNECT without a reason.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use mqttbytes::v5::{ConnAckProperties, PublishProperties, RetainForwardRule};
use mqttbytes::{QoS, v4, v5};

use super::fields::{Cursor, FixedHeader, Malformed, Property};
use super::topic;

/// Largest packet, in bytes.
pub(super) const PACKET_BYTES_MAX: usize = 1024 * 1024;

/// The user property of CONNACK in which a node reports its name.
const NODE_PROPERTY: &str = "node";

/// Receive Maximum of a client that does not set it (MQTT 5, 3.1.2.11.3).
const RECEIVE_MAX_DEFAULT: u16 = u16::MAX;

/// The version of MQTT that a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5 (`MQTT`, level 5).
    V5,
}

/// Why the bytes of a connection cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Violates the standard, or is not allowed at this place.
    Malformed,
    /// Larger than [`PACKET_BYTES_MAX`].
    TooLarge,
    /// A CONNECT with a protocol level that is unsupported, or does not match the protocol name.
    UnknownLevel(u8),
    /// QoS 2, which CONNACK does not offer.
    Qos2,
}

/// A published message, independent of publisher and subscribers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Forwarded without interpretation (MQTT 5, 3.3.2.3).
    pub(super) properties: Option<Arc<PublishProperties>>,
}

impl Message {
    /// About how much memory it takes.
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// A packet from a client.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FromClient {
    Connect(Box<Connect>),
    Publish { message: Message, packet_id: u16 },
    Puback(u16),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Pingreq,
    Disconnect(Disconnect),
}

/// A CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Connect {
    pub(super) version: Version,
    pub(super) client_id: Box<[u8]>,
    pub(super) clean_start: bool,
    pub(super) keep_alive: u16,
    /// In seconds, as in MQTT 5: with 0 the session ends with its connection, with the largest number it never expires.
    pub(super) session_expiry: u32,
    pub(super) receive_max: u16,
    /// Maximum Packet Size of the client, in bytes (MQTT 5, 3.1.2.11.4).
    pub(super) packet_bytes_max: usize,
    pub(super) will: Option<Will>,
}

/// The message that is published when a client is lost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Will {
    pub(super) message: Message,
    /// In seconds (MQTT 5, 3.1.3.2.2).
    pub(super) delay: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Subscribe {
    pub(super) packet_id: u16,
    /// Subscription Identifier (MQTT 5, 3.8.2.1.2).
    pub(super) id: Option<usize>,
    pub(super) filters: Vec<Filter>,
}

/// A filter of a SUBSCRIBE, with its options (MQTT 5, 3.8.3.1).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    pub(super) filter: String,
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) retain_handling: RetainHandling,
}

/// Retain Handling: when a subscription receives retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetainHandling {
    Always,
    OnlyIfNew,
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unsubscribe {
    pub(super) packet_id: u16,
    pub(super) filters: Vec<String>,
}

/// A DISCONNECT from a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disconnect {
    /// Reason 0x04: the will is published nevertheless.
    pub(super) with_will: bool,
    pub(super) session_expiry: Option<u32>,
}

/// A packet to a client. The codes are those of MQTT 5; for older versions they are translated.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ToClient {
    Accepted {
        session_present: bool,
        assigned: Option<String>,
    },
    Refused(u8),
    Publish(Box<Delivery>),
    Puback(u16),
    Suback {
        packet_id: u16,
        codes: Vec<u8>,
    },
    Unsuback {
        packet_id: u16,
        codes: Vec<u8>,
    },
    Pingresp,
    /// Not sent before MQTT 5. The connection ends behind it in every version.
    Disconnect(u8),
}

/// A message for one client.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Delivery {
    pub(super) message: Message,
    /// The lower of the message's and the subscription's.
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Identifiers of the matching subscriptions.
    pub(super) ids: Vec<usize>,
    /// Sent before, and not acknowledged.
    pub(super) dup: bool,
    /// 0 with QoS 0.
    pub(super) packet_id: u16,
}

mod kind {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const PUBLISH: u8 = 3;
    pub(super) const PUBACK: u8 = 4;
    pub(super) const SUBSCRIBE: u8 = 8;
    pub(super) const UNSUBSCRIBE: u8 = 10;
    pub(super) const PINGREQ: u8 = 12;
    pub(super) const DISCONNECT: u8 = 14;
}

/// Reason codes of MQTT 5 that a node sends.
pub(super) mod reason {
    pub(in super::super) const MALFORMED: u8 = 0x81;
    pub(in super::super) const NO_SUBSCRIPTION: u8 = 0x11;
    pub(in super::super) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(in super::super) const CLIENT_ID_INVALID: u8 = 0x85;
    pub(in super::super) const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub(in super::super) const SHUTTING_DOWN: u8 = 0x8B;
    pub(in super::super) const TAKEN_OVER: u8 = 0x8E;
    pub(in super::super) const FILTER_INVALID: u8 = 0x8F;
    pub(in super::super) const TOO_LARGE: u8 = 0x95;
    pub(in super::super) const QUOTA_EXCEEDED: u8 = 0x97;
    pub(in super::super) const QOS_NOT_SUPPORTED: u8 = 0x9B;
    pub(in super::super) const NO_SHARED_SUBSCRIPTIONS: u8 = 0x9E;
}

impl Unreadable {
    /// The reason code for an MQTT 5 client.
    pub(super) fn reason(self) -> u8 {
        match self {
            Self::Malformed => reason::MALFORMED,
            Self::TooLarge => reason::TOO_LARGE,
            Self::UnknownLevel(_) => reason::UNSUPPORTED_VERSION,
            Self::Qos2 => reason::QOS_NOT_SUPPORTED,
        }
    }
}

impl From<Malformed> for Unreadable {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<mqttbytes::Error> for Unreadable {
    fn from(_: mqttbytes::Error) -> Self {
        Self::Malformed
    }
}

/// Takes the next packet off `stream`; `None` while it is incomplete. `version` is `None` until a CONNECT was read.
pub(super) fn read(stream: &mut BytesMut, version: Option<Version>) -> Result<Option<FromClient>, Unreadable> {
    let Some(first) = stream.first().copied() else {
        return Ok(None);
    };
    // The first byte suffices to reject another protocol.
    if version.is_none() != (first >> 4 == kind::CONNECT) {
        return Err(Unreadable::Malformed);
    }
    let Some(header) = FixedHeader::read(stream)? else {
        return Ok(None);
    };
    let length = header.packet_bytes;
    if length > PACKET_BYTES_MAX {
        return Err(Unreadable::TooLarge);
    }
    if length > stream.len() {
        return Ok(None);
    }
    // A copy, so that a stored message does not keep everything that arrived with it in memory.
    let packet = Bytes::copy_from_slice(&stream[..length]);
    stream.advance(length);
    let header = mqttbytes::FixedHeader::new(first, header.bytes - 1, length - header.bytes);
    let Some(version) = version else {
        return read_connect(&packet).map(|connect| Some(FromClient::Connect(Box::new(connect))));
    };
    let read = match first >> 4 {
        kind::PUBLISH => read_publish(header, packet, version, first)?,
        kind::PUBACK => FromClient::Puback(Cursor::behind_fixed_header(&packet)?.two_bytes()?),
        kind::SUBSCRIBE => FromClient::Subscribe(read_subscribe(header, packet, version)?),
        kind::UNSUBSCRIBE => FromClient::Unsubscribe(read_unsubscribe(&packet, version)?),
        kind::PINGREQ => FromClient::Pingreq,
        kind::DISCONNECT => FromClient::Disconnect(read_disconnect(&packet, version)?),
        _ => return Err(Unreadable::Malformed),
    };
    Ok(Some(read))
}

const BRIDGE: u8 = 0x80;
const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;

fn read_connect(packet: &Bytes) -> Result<Connect, Unreadable> {
    let mut cursor = Cursor::behind_fixed_header(packet)?;
    let name = cursor.string()?;
    let level = cursor.byte()?;
    let version = match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => Version::V31,
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT" | b"MQIsdp", _) => return Err(Unreadable::UnknownLevel(level)),
        _ => return Err(Unreadable::Malformed),
    };
    let flags = cursor.byte()?;
    let keep_alive = cursor.two_bytes()?;
    let clean_start = flags & CLEAN_START != 0;
    let mut session_expiry = match version {
        Version::V5 => 0,
        _ if clean_start => 0,
        _ => u32::MAX,
    };
    let mut receive_max = RECEIVE_MAX_DEFAULT;
    let mut packet_bytes_max = usize::MAX;
    if version == Version::V5 {
        let mut properties = cursor.properties()?;
        while let Some(property) = properties.property()? {
            match property {
                Property::SessionExpiryInterval(seconds) => session_expiry = seconds,
                Property::ReceiveMaximum(0) | Property::MaximumPacketSize(0) => {
                    return Err(Unreadable::Malformed);
                }
                Property::MaximumPacketSize(max) => packet_bytes_max = max as usize,
                Property::ReceiveMaximum(max) => receive_max = max,
                _ => {}
            }
        }
    }
    let client_id = cursor.string()?.into();
    let will = match flags & WILL {
        0 => None,
        _ => Some(read_will(&mut cursor, packet, version, flags)?),
    };
    for flag in [USERNAME, PASSWORD] {
        if flags & flag != 0 {
            cursor.string()?;
        }
    }
    Ok(Connect {
        version,
        client_id,
        clean_start,
        keep_alive,
        session_expiry,
        receive_max,
        packet_bytes_max,
        will,
    })
}

fn read_will(cursor: &mut Cursor<'_>, packet: &Bytes, version: Version, flags: u8) -> Result<Will, Unreadable> {
    let mut delay = 0;
    if version == Version::V5 {
        let mut properties = cursor.properties()?;
        while let Some(property) = properties.property()? {
            if let Property::WillDelayInterval(seconds) = property {
                delay = seconds;
            }
        }
    }
    let topic = str::from_utf8(cursor.string()?).map_err(|_| Unreadable::Malformed)?;
    if !topic::is_topic(topic) {
        return Err(Unreadable::Malformed);
    }
    let payload = packet.slice_ref(cursor.string()?);
    Ok(Will {
        message: Message {
            topic: topic.into(),
            payload,
            qos: qos_of(flags >> 3 & 3)?,
            retain: flags & WILL_RETAIN != 0,
            properties: None,
        },
        delay,
    })
}

/// Rejects QoS 2.
fn qos_of(number: u8) -> Result<QoS, Unreadable> {
    match mqttbytes::qos(number)? {
        QoS::ExactlyOnce => Err(Unreadable::Qos2),
        qos => Ok(qos),
    }
}

fn read_publish(
    header: mqttbytes::FixedHeader,
    packet: Bytes,
    version: Version,
    first: u8,
) -> Result<FromClient, Unreadable> {
    let qos = qos_of(first >> 1 & 3)?;
    let (topic, payload, retain, packet_id, properties) = match version {
        Version::V5 => {
            let publish = v5::Publish::read(header, packet)?;
            let properties = publish.properties;
            (publish.topic, publish.payload, publish.retain, publish.pkid, properties)
        }
        _ => {
            let publish = v4::Publish::read(header, packet)?;
            (publish.topic, publish.payload, publish.retain, publish.pkid, None)
        }
    };
    // CONNACK offers no topic aliases, and only servers send Subscription Identifiers (MQTT 5, 3.3.2.3.4, 3.3.4).
    let is_servers = |properties: &PublishProperties| {
        properties.topic_alias.is_some() || !properties.subscription_identifiers.is_empty()
    };
    if !topic::is_topic(&topic) || properties.as_ref().is_some_and(is_servers) {
        return Err(Unreadable::Malformed);
    }
    let message = Message {
        topic: topic.into(),
        payload,
        qos,
        retain,
        properties: properties.map(Arc::new),
    };
    Ok(FromClient::Publish { message, packet_id })
}

fn read_subscribe(header: mqttbytes::FixedHeader, packet: Bytes, version: Version) -> Result<Subscribe, Unreadable> {
    let subscribe = match version {
        Version::V5 => {
            let read = v5::Subscribe::read(header, packet)?;
            let filter = |filter: v5::SubscribeFilter| Filter {
                filter: filter.path,
                qos: filter.qos,
                no_local: filter.nolocal,
                retain_as_published: filter.preserve_retain,
                retain_handling: match filter.retain_forward_rule {
                    RetainForwardRule::OnEverySubscribe => RetainHandling::Always,
                    RetainForwardRule::OnNewSubscribe => RetainHandling::OnlyIfNew,
                    RetainForwardRule::Never => RetainHandling::Never,
                },
            };
            Subscribe {
                packet_id: read.pkid,
                id: read.properties.and_then(|properties| properties.id),
                filters: read.filters.into_iter().map(filter).collect(),
            }
        }
        _ => {
            let read = v4::Subscribe::read(header, packet)?;
            let filter = |filter: v4::SubscribeFilter| Filter {
                filter: filter.path,
                qos: filter.qos,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Always,
            };
            Subscribe {
                packet_id: read.pkid,
                id: None,
                filters: read.filters.into_iter().map(filter).collect(),
            }
        }
    };
    if subscribe.filters.is_empty() || subscribe.packet_id == 0 || subscribe.id == Some(0) {
        return Err(Unreadable::Malformed);
    }
    Ok(subscribe)
}

fn read_unsubscribe(packet: &Bytes, version: Version) -> Result<Unsubscribe, Unreadable> {
    let mut cursor = Cursor::behind_fixed_header(packet)?;
    let packet_id = cursor.two_bytes()?;
    if version == Version::V5 {
        cursor.properties()?;
    }
    let mut filters = Vec::new();
    while !cursor.is_at_end() {
        let filter = str::from_utf8(cursor.string()?);
        filters.push(filter.map_err(|_| Unreadable::Malformed)?.to_owned());
    }
    if filters.is_empty() || packet_id == 0 {
        return Err(Unreadable::Malformed);
    }
    Ok(Unsubscribe { packet_id, filters })
}

fn read_disconnect(packet: &Bytes, version: Version) -> Result<Disconnect, Unreadable> {
    const WITH_WILL: u8 = 0x04;
    let mut disconnect = Disconnect::default();
    let mut cursor = Cursor::behind_fixed_header(packet)?;
    if version != Version::V5 || cursor.is_at_end() {
        return Ok(disconnect);
    }
    disconnect.with_will = cursor.byte()? == WITH_WILL;
    if cursor.is_at_end() {
        return Ok(disconnect);
    }
    let mut properties = cursor.properties()?;
    // What comes behind a malformed property is ignored: the connection ends either way.
    while let Ok(Some(property)) = properties.property() {
        if let Property::SessionExpiryInterval(seconds) = property {
            disconnect.session_expiry = Some(seconds);
        }
    }
    Ok(disconnect)
}

/// Appends `packet` in the format of `version`; `node` is the name for CONNACK.
///
/// Nothing that a node sends is too long for a packet, since all of it was read from packets.
pub(super) fn write(
    packet: &ToClient,
    version: Version,
    node: &str,
    out: &mut BytesMut,
) -> Result<(), mqttbytes::Error> {
    let is_v5 = version == Version::V5;
    match packet {
        ToClient::Accepted {
            session_present,
            assigned,
        } if is_v5 => {
            v5::ConnAck {
                session_present: *session_present,
                code: v5::ConnectReturnCode::Success,
                properties: Some(accepting(assigned, node)),
            }
            .write(out)?;
        }
        ToClient::Accepted { session_present, .. } => {
            // MQTT 3.1 has no such flag (section 3.2 there).
            let session_present = *session_present && version != Version::V31;
            v4::ConnAck::new(v4::ConnectReturnCode::Success, session_present).write(out)?;
        }
        // By hand, since a test may ask for any code.
        ToClient::Refused(code) if is_v5 => out.extend_from_slice(&[0x20, 3, 0, *code, 0]),
        ToClient::Refused(code) => out.extend_from_slice(&[0x20, 2, 0, return_code(*code)]),
        ToClient::Publish(delivery) => write_delivery(delivery, version, out)?,
        ToClient::Puback(packet_id) => drop(v4::PubAck::new(*packet_id).write(out)?),
        // By hand, since mqttbytes has types for some codes only.
        ToClient::Suback { packet_id, codes } => {
            let codes = codes.iter().map(|&code| match is_v5 {
                true => code,
                false => code.min(0x80),
            });
            write_codes(0x90, *packet_id, is_v5, codes, out);
        }
        ToClient::Unsuback { packet_id, codes } if is_v5 => {
            write_codes(0xB0, *packet_id, true, codes.iter().copied(), out);
        }
        ToClient::Unsuback { packet_id, .. } => drop(v4::UnsubAck::new(*packet_id).write(out)?),
        ToClient::Pingresp => out.extend_from_slice(&[0xD0, 0]),
        ToClient::Disconnect(reason) if is_v5 => out.extend_from_slice(&[0xE0, 2, *reason, 0]),
        ToClient::Disconnect(_) => {}
    }
    Ok(())
}

/// The properties of an accepting CONNACK: the name of the node, and what it does not support.
fn accepting(assigned: &Option<String>, node: &str) -> ConnAckProperties {
    ConnAckProperties {
        max_qos: Some(1),
        max_packet_size: Some(PACKET_BYTES_MAX as u32),
        assigned_client_identifier: assigned.clone(),
        user_properties: vec![(NODE_PROPERTY.to_owned(), node.to_owned())],
        shared_subscription_available: Some(0),
        ..ConnAckProperties::new()
    }
}

/// The closest return code of MQTT 3.x (3.1.1, table 3.1).
fn return_code(code: u8) -> u8 {
    match code {
        reason::UNSUPPORTED_VERSION => 1,
        reason::CLIENT_ID_INVALID => 2,
        0x86 => 4,
        0x87 => 5,
        _ => 3,
    }
}

fn write_delivery(delivery: &Delivery, version: Version, out: &mut BytesMut) -> Result<(), mqttbytes::Error> {
    let Delivery {
        message,
        qos,
        retain,
        ids,
        dup,
        packet_id,
    } = delivery;
    let topic = String::from(&*message.topic);
    if version == Version::V5 {
        let mut properties = message.properties.as_deref().cloned();
        if !ids.is_empty() {
            let properties = properties.get_or_insert_with(no_properties);
            properties.subscription_identifiers.clone_from(ids);
        }
        let mut publish = v5::Publish::from_bytes(topic, *qos, message.payload.clone());
        (publish.dup, publish.retain) = (*dup, *retain);
        (publish.pkid, publish.properties) = (*packet_id, properties);
        publish.write(out)?;
    } else {
        let mut publish = v4::Publish::from_bytes(topic, *qos, message.payload.clone());
        (publish.dup, publish.retain, publish.pkid) = (*dup, *retain, *packet_id);
        publish.write(out)?;
    }
    Ok(())
}

fn no_properties() -> PublishProperties {
    PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: None,
        topic_alias: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
        subscription_identifiers: Vec::new(),
        content_type: None,
    }
}

/// A packet with a packet id and a code for each filter.
fn write_codes(first: u8, packet_id: u16, is_v5: bool, codes: impl ExactSizeIterator<Item = u8>, out: &mut BytesMut) {
    let mut remaining = 2 + usize::from(is_v5) + codes.len();
    out.extend_from_slice(&[first]);
    loop {
        let digit = (remaining % 128) as u8;
        remaining /= 128;
        out.extend_from_slice(&[if remaining > 0 { digit | 0x80 } else { digit }]);
        if remaining == 0 {
            break;
        }
    }
    out.extend_from_slice(&packet_id.to_be_bytes());
    if is_v5 {
        out.extend_from_slice(&[0]);
    }
    out.extend(codes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const V311: Option<Version> = Some(Version::V311);
    const V5: Option<Version> = Some(Version::V5);

    /// A packet of this first byte, its length written for it.
    fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let mut packet = vec![first];
        let length = u8::try_from(body.len()).expect("a short packet");
        assert!(length < 0x80);
        packet.push(length);
        packet.extend_from_slice(&body);
        packet
    }

    fn all(version: Option<Version>, bytes: &[u8]) -> Result<Option<FromClient>, Unreadable> {
        read(&mut BytesMut::from(bytes), version)
    }

    fn connect(bytes: &[u8]) -> Connect {
        match all(None, bytes) {
            Ok(Some(FromClient::Connect(connect))) => *connect,
            other => panic!("{other:?}"),
        }
    }

    /// Packets of clients, each with the version of its connection; none for CONNECT.
    fn samples() -> Vec<(Option<Version>, Vec<u8>)> {
        let v31 = packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\x3C", b"\0\x03abc"]);
        let bridge = packet(0x10, &[b"\0\x04MQTT\x84\0\0\x0A", b"\0\x03abc"]);
        let with_will = packet(
            0x10,
            &[
                b"\0\x04MQTT\x04\xEE\0\x3C",
                b"\0\x03abc\0\x04will\0\x02\xFF\xFE\0\x01u\0\x02\xC3\x28",
            ],
        );
        let v5 = packet(
            0x10,
            &[
                b"\0\x04MQTT\x05\x04\0\x3C",
                b"\x08\x11\0\0\x0E\x10\x21\0\x05\0\x03abc",
                b"\x05\x18\0\0\0\x07\0\x04will\0\x04gone",
            ],
        );
        vec![
            (None, v31),
            (None, bridge),
            (None, with_will),
            (None, v5),
            (V311, packet(0x33, &[b"\0\x03a/b\0\x07payload"])),
            (V5, packet(0x30, &[b"\0\x03a/b\x05\x03\0\x02ct", b"payload"])),
            (V311, packet(0x82, &[b"\0\x09\0\x03a/b\x01\0\x01#\x00"])),
            (V5, packet(0x82, &[b"\0\x09\x02\x0B\x2A\0\x03a/b\x2D"])),
            (V311, packet(0xA2, &[b"\0\x09\0\x03a/b\0\x01#"])),
            (V5, packet(0xA2, &[b"\0\x09\0\0\x03a/b\0\x01#"])),
            (V311, packet(0x40, &[b"\0\x09"])),
            (V5, packet(0x40, &[b"\0\x09\x10\0"])),
            (V311, packet(0xC0, &[])),
            (V311, packet(0xE0, &[])),
            (V5, packet(0xE0, &[])),
            (V5, packet(0xE0, &[b"\x04\x05\x11\0\0\0\x09"])),
        ]
    }

    #[test]
    fn connects_of_every_version() {
        let samples = samples();
        let [v31, bridge, with_will, v5] = [0, 1, 2, 3].map(|n: usize| connect(&samples[n].1));
        assert_eq!((v31.version, v31.clean_start), (Version::V31, true));
        assert_eq!((v31.session_expiry, v31.keep_alive), (0, 60));
        assert_eq!((bridge.version, bridge.clean_start), (Version::V311, false));
        assert_eq!(bridge.session_expiry, u32::MAX);
        let will = with_will.will.expect("a will");
        assert_eq!((&*will.message.topic, will.delay), ("will", 0));
        assert_eq!(&*will.message.payload, b"\xFF\xFE");
        assert_eq!((will.message.qos, will.message.retain), (QoS::AtLeastOnce, true));
        assert_eq!((v5.session_expiry, v5.receive_max), (3_600, 5));
        assert_eq!(v5.will.map(|will| will.delay), Some(7));
    }

    #[test]
    fn packets_of_a_connected_client() {
        let read: Vec<_> = samples()[4..]
            .iter()
            .map(|(version, bytes)| all(*version, bytes).expect("readable").expect("whole"))
            .collect();
        let FromClient::Publish { message, packet_id } = &read[0] else {
            panic!("{read:?}");
        };
        assert_eq!((&*message.topic, *packet_id), ("a/b", 7));
        assert_eq!((&*message.payload, message.retain), (&b"payload"[..], true));
        let FromClient::Publish { message, .. } = &read[1] else {
            panic!("{read:?}");
        };
        let properties = message.properties.as_ref().expect("properties");
        assert_eq!(properties.content_type.as_deref(), Some("ct"));
        let FromClient::Subscribe(subscribe) = &read[3] else {
            panic!("{read:?}");
        };
        let expected = Filter {
            filter: "a/b".to_owned(),
            qos: QoS::AtLeastOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::Never,
        };
        assert_eq!(subscribe.filters, [expected]);
        assert_eq!(subscribe.id, Some(42));
        let filters = ["a/b", "#"].map(String::from).into();
        let unsubscribe = FromClient::Unsubscribe(Unsubscribe { packet_id: 9, filters });
        assert_eq!(read[4..6], [unsubscribe.clone(), unsubscribe]);
        let left = |with_will, session_expiry| {
            FromClient::Disconnect(Disconnect {
                with_will,
                session_expiry,
            })
        };
        assert_eq!(
            read[6..],
            [
                FromClient::Puback(9),
                FromClient::Puback(9),
                FromClient::Pingreq,
                left(false, None),
                left(false, None),
                left(true, Some(9)),
            ]
        );
    }

    #[test]
    fn a_packet_is_taken_when_it_is_whole_and_not_before() {
        for (version, bytes) in samples() {
            for cut in 0..bytes.len() {
                let mut stream = BytesMut::from(&bytes[..cut]);
                assert_eq!(read(&mut stream, version), Ok(None), "{bytes:02x?} to {cut}");
                assert_eq!(stream.len(), cut);
            }
            let mut stream = BytesMut::from(&[&bytes[..], b"\xC0"].concat()[..]);
            assert!(matches!(read(&mut stream, version), Ok(Some(_))));
            assert_eq!(&*stream, b"\xC0");
        }
    }

    #[test]
    fn no_byte_anywhere_makes_it_panic() {
        let mut verdicts = 0;
        for (version, bytes) in samples() {
            for place in 0..bytes.len() {
                for byte in 0..=u8::MAX {
                    let mut mutated = bytes.clone();
                    mutated[place] = byte;
                    // Any verdict will do, as long as there is one.
                    verdicts += usize::from(all(version, &mutated).is_ok());
                    mutated.truncate(place + 1);
                    verdicts += usize::from(all(version, &mutated).is_ok());
                }
            }
        }
        assert!(verdicts > 10_000, "{verdicts}");
    }

    #[test]
    fn what_a_node_rejects() {
        use Unreadable::{Malformed, Qos2, TooLarge, UnknownLevel};
        let cases: &[(Option<Version>, &[u8], Unreadable)] = &[
            // Another protocol, before its packet is complete; a second CONNECT.
            (None, b"G", Malformed),
            (V311, b"\x10", Malformed),
            (None, b"\x10\x06\0\x04MQTT", Malformed),
            (None, b"\x10\x07\0\x04MQTT\x06", UnknownLevel(6)),
            (None, b"\x10\x07\0\x04MQTX\x04", Malformed),
            (None, b"\x10\xFF\xFF\xFF\x7F", TooLarge),
            (V311, b"\x30\x80\x80\x40", TooLarge),
            (V311, b"\x34\x05\0\x01a\0\x01", Qos2),
            (V311, b"\x36\x05\0\x01a\0\x01", Malformed),
            (V311, b"\x32\x05\0\x01a\0\0", Malformed),
            (V311, b"\x30\x03\0\x01#", Malformed),
            (V311, b"\x30\x02\0\0", Malformed),
            (V5, b"\x30\x07\0\x01a\x03\x23\0\x01", Malformed),
            (V5, b"\x30\x06\0\x01a\x02\x0B\x01", Malformed),
            (V311, b"\x82\x02\0\x01", Malformed),
            (V311, b"\x82\x06\0\0\0\x01a\0", Malformed),
            (V311, b"\xA2\x02\0\x01", Malformed),
            (V311, b"\x40\x01\0", Malformed),
            (V311, b"\x20\x02\0\0", Malformed),
            (V5, b"\xF0\0", Malformed),
        ];
        for (version, bytes, expected) in cases {
            assert_eq!(all(*version, bytes), Err(*expected), "{bytes:02x?}");
        }
    }

    fn written(packet: &ToClient, version: Version) -> BytesMut {
        let mut out = BytesMut::new();
        write(packet, version, "node1", &mut out).expect("written");
        out
    }

    #[test]
    fn connack_has_the_name_of_the_node_and_what_it_does_not_support() {
        let accepted = ToClient::Accepted {
            session_present: true,
            assigned: Some("node1-assigned-7".to_owned()),
        };
        assert_eq!(&*written(&accepted, Version::V31), b"\x20\x02\0\0");
        assert_eq!(&*written(&accepted, Version::V311), b"\x20\x02\x01\0");
        let read = v5::read(&mut written(&accepted, Version::V5), PACKET_BYTES_MAX);
        let Ok(v5::Packet::ConnAck(connack)) = read else {
            panic!("{read:?}");
        };
        let properties = connack.properties.expect("properties");
        assert!(connack.session_present);
        assert_eq!(properties.user_properties, [("node".to_owned(), "node1".to_owned())]);
        assert_eq!(
            properties.assigned_client_identifier.as_deref(),
            Some("node1-assigned-7")
        );
        assert_eq!(properties.max_qos, Some(1));
    }

    #[test]
    fn refusals_and_farewells_in_each_version() {
        let cases: &[(ToClient, &[u8], &[u8])] = &[
            (ToClient::Refused(0x9C), b"\x20\x03\0\x9C\0", b"\x20\x02\0\x03"),
            (ToClient::Refused(0x88), b"\x20\x03\0\x88\0", b"\x20\x02\0\x03"),
            (ToClient::Refused(0x84), b"\x20\x03\0\x84\0", b"\x20\x02\0\x01"),
            (ToClient::Refused(0x85), b"\x20\x03\0\x85\0", b"\x20\x02\0\x02"),
            (ToClient::Disconnect(0x8E), b"\xE0\x02\x8E\0", b""),
            (ToClient::Pingresp, b"\xD0\0", b"\xD0\0"),
            (ToClient::Puback(9), b"\x40\x02\0\x09", b"\x40\x02\0\x09"),
            (
                ToClient::Suback {
                    packet_id: 9,
                    codes: vec![1, 0x8F],
                },
                b"\x90\x05\0\x09\0\x01\x8F",
                b"\x90\x04\0\x09\x01\x80",
            ),
            (
                ToClient::Unsuback {
                    packet_id: 9,
                    codes: vec![0, 0x11],
                },
                b"\xB0\x05\0\x09\0\0\x11",
                b"\xB0\x02\0\x09",
            ),
        ];
        for (packet, v5, v311) in cases {
            assert_eq!(&*written(packet, Version::V5), *v5, "{packet:?}");
            assert_eq!(&*written(packet, Version::V311), *v311, "{packet:?}");
        }
    }

    #[test]
    fn a_delivery_is_what_mqttbytes_reads() {
        let FromClient::Publish { message, .. } = all(V5, &samples()[5].1).expect("readable").expect("whole") else {
            panic!("no PUBLISH");
        };
        let delivery = ToClient::Publish(Box::new(Delivery {
            message,
            qos: QoS::AtLeastOnce,
            retain: true,
            ids: vec![1, 300],
            dup: true,
            packet_id: 17,
        }));
        let read = v5::read(&mut written(&delivery, Version::V5), PACKET_BYTES_MAX);
        let Ok(v5::Packet::Publish(publish)) = read else {
            panic!("{read:?}");
        };
        assert_eq!((&*publish.topic, publish.pkid), ("a/b", 17));
        assert_eq!((publish.dup, publish.retain), (true, true));
        let properties = publish.properties.expect("properties");
        assert_eq!(properties.subscription_identifiers, [1, 300]);
        assert_eq!(properties.content_type.as_deref(), Some("ct"));
        assert_eq!(&*written(&delivery, Version::V311), b"\x3B\x0E\0\x03a/b\0\x11payload");
    }

    #[test]
    fn many_codes_have_a_length_of_two_bytes() {
        let suback = ToClient::Suback {
            packet_id: 1,
            codes: vec![1; 200],
        };
        let read = v4::read(&mut written(&suback, Version::V311), PACKET_BYTES_MAX);
        assert!(matches!(read, Ok(v4::Packet::SubAck(suback)) if suback.return_codes.len() == 200));
    }
}
