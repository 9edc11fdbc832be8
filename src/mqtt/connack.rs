//! Reads the node's first packet: is it a CONNACK, and what does it say (MQTT 3.1.1 and 5, section 3.2)?

use super::Version;
use super::fields::{Cursor, Property, Stop};

/// What a CONNACK says, as far as greeting cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// The return code (3.x) or reason code (5); 0 is accepted.
    pub code: u8,
    /// Whether the node kept a session for this client.
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
    /// An AUTH packet: enhanced authentication goes on (MQTT 5, 4.12).
    Auth,
    /// Something that is neither, or a CONNACK that cannot be read.
    Unreadable,
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
        Some(_) => return ConnackVerdict::Unreadable,
    }
    match read_packet(bytes, version) {
        Ok(connack) => ConnackVerdict::Connack(connack),
        Err(Stop::NeedMore(enough)) => ConnackVerdict::NeedMore(enough),
        Err(Stop::Malformed) => ConnackVerdict::Unreadable,
    }
}

fn read_packet(bytes: &[u8], version: Version) -> Result<Connack, Stop> {
    let mut cursor = Cursor::behind_fixed_header(bytes)?;
    // A refusal is judged only when it is all here, so that it can be passed on, or withheld, whole.
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
    // A server that does not speak MQTT 5 refuses it with the two bytes of 3.1.1.
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
