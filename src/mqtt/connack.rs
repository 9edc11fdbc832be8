//! Reads the node's first packet: is it a CONNACK, and what does it say (MQTT 3.1.1 and 5, section 3.2)?

use super::Version;

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

/// Reads `bytes`, everything the node has sent so far, as the answer to a CONNECT of `version`.
pub fn read_connack(_bytes: &[u8], _version: Version) -> ConnackVerdict {
    ConnackVerdict::NeedMore(1)
}
