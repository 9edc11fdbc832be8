//! Reads the node's first packet, which should be a CONNACK (MQTT 3.1.1 and 5, section 3.2).

use super::Version;
use super::fields::{Cursor, Property, Stop};

/// The fields of a CONNACK that greeting needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// The return code (3.x) or reason code (5); 0 is accepted.
    pub code: u8,
    /// Whether the node has a session for this client.
    pub session_present: bool,
    /// Assigned Client Identifier (MQTT 5, 3.2.2.3.7).
    pub assigned_client_id: Option<Box<[u8]>>,
    /// Server Keep Alive in seconds (MQTT 5, 3.2.2.3.14).
    pub server_keep_alive: Option<u16>,
    /// Session Expiry Interval in seconds (MQTT 5, 3.2.2.3.2).
    pub session_expiry: Option<u32>,
}

/// The reader's verdict on the node's bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnackVerdict {
    /// A whole CONNACK has arrived.
    Connack(Connack),
    /// The verdict cannot change before this many bytes (in all) have arrived.
    NeedMore(usize),
    /// An AUTH packet of enhanced authentication (MQTT 5, 4.12).
    Auth,
    /// A malformed CONNACK.
    Unreadable,
    /// Another packet, or no MQTT at all.
    Stranger,
}

/// What a CONNACK's code means, as the standard calls it: MQTT 3.1.1, table 3.1, and MQTT 5, 3.2.2.2. `None` if it has no name.
///
/// A client of MQTT 5 gets a code of 3.1.1 from a server that knows no more.
pub fn connack_reason(code: u8, version: Version) -> Option<&'static str> {
    Some(match code {
        0 if version == Version::V5 => "success",
        0 => "connection_accepted",
        1 => "unacceptable_protocol_version",
        2 => "identifier_rejected",
        3 => "server_unavailable",
        4 => "bad_user_name_or_password",
        5 => "not_authorized",
        0x80 => "unspecified_error",
        0x81 => "malformed_packet",
        0x82 => "protocol_error",
        0x83 => "implementation_specific_error",
        0x84 => "unsupported_protocol_version",
        0x85 => "client_identifier_not_valid",
        0x86 => "bad_user_name_or_password",
        0x87 => "not_authorized",
        0x88 => "server_unavailable",
        0x89 => "server_busy",
        0x8A => "banned",
        0x8C => "bad_authentication_method",
        0x90 => "topic_name_invalid",
        0x95 => "packet_too_large",
        0x97 => "quota_exceeded",
        0x99 => "payload_format_invalid",
        0x9A => "retain_not_supported",
        0x9B => "qos_not_supported",
        0x9C => "use_another_server",
        0x9D => "server_moved",
        0x9F => "connection_rate_exceeded",
        _ => return None,
    })
}

const CONNACK: u8 = 2;
const AUTH: u8 = 15;
const SESSION_PRESENT: u8 = 0x01;

/// Reads `bytes`, everything the node has sent so far, as the answer to a CONNECT of `version`.
pub fn read_connack(bytes: &[u8], version: Version) -> ConnackVerdict {
    match bytes.first().map(|first| first >> 4) {
        None => return ConnackVerdict::NeedMore(1),
        Some(CONNACK) => {}
        Some(AUTH) if version == Version::V5 => return ConnackVerdict::Auth,
        Some(_) => return ConnackVerdict::Stranger,
    }
    match read_packet(bytes, version) {
        Ok(connack) => ConnackVerdict::Connack(connack),
        Err(Stop::NeedMore(enough)) => ConnackVerdict::NeedMore(enough),
        Err(Stop::Malformed) => ConnackVerdict::Unreadable,
    }
}

fn read_packet(bytes: &[u8], version: Version) -> Result<Connack, Stop> {
    let mut cursor = Cursor::behind_fixed_header(bytes)?;
    // A refusal is read only once it is complete, so that it can be passed on or withheld as a whole.
    let mut whole = cursor;
    whole.skip(cursor.end() - cursor.start())?;
    let flags = cursor.byte()?;
    let mut connack = Connack {
        code: cursor.byte()?,
        session_present: flags & SESSION_PRESENT != 0,
        assigned_client_id: None,
        server_keep_alive: None,
        session_expiry: None,
    };
    // A server without MQTT 5 refuses it with the two bytes of 3.1.1.
    if version != Version::V5 || cursor.is_at_end() {
        return Ok(connack);
    }
    let mut properties = cursor.properties()?;
    while let Some(property) = properties.property() {
        match property {
            Property::SessionExpiryInterval(seconds) => connack.session_expiry = Some(seconds),
            Property::AssignedClientIdentifier(id) => {
                connack.assigned_client_id = Some(id.of(bytes).into());
            }
            Property::ServerKeepAlive(seconds) => connack.server_keep_alive = Some(seconds),
            _ => {}
        }
    }
    Ok(connack)
}
