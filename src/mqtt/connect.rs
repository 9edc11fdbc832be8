//! Reads the CONNECT packet up to where the affinity key ends (MQTT 3.1, 3.1.1 and 5, section 3.1 of each).
//!
//! Never stricter than EMQX: what is not needed is not read. Flags, UTF-8, the low nibble of the first byte, the length of a
//! number and everything after the key are left to the node to check.

use super::fields::{Cursor, Property, Span, Stop};

/// The protocol level of a CONNECT, without the bridge bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5 (`MQTT`, level 5).
    V5,
    /// A known protocol name with another level: routed as an anonymous client, so that the node answers.
    Unknown(u8),
}

impl Version {
    /// That of this protocol level.
    pub(crate) fn of_level(level: u8) -> Self {
        match level {
            3 => Self::V31,
            4 => Self::V311,
            5 => Self::V5,
            other => Self::Unknown(other),
        }
    }

    /// The protocol level.
    pub(crate) fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
            Self::Unknown(level) => level,
        }
    }
}

/// How far a CONNECT must be read before it can be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Up to the end of the client id.
    ClientId,
    /// Up to the end of the user name (or to where it would be, in a CONNECT without one).
    Username,
}

/// The fields of a CONNECT that routing needs. Only [`read_connect`] creates one, so every value has been checked.
///
/// Client id and user name are positions in the bytes that it was read from, so that reading allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    version: Version,
    bridge: bool,
    clean_start: bool,
    keep_alive: u16,
    client_id: Span,
    username: Option<Span>,
    session_expiry: Option<u32>,
    packet_end: usize,
}

/// A peer that is not an MQTT client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stranger {
    /// A TLS ClientHello (`16 03`) on a plain listener.
    Tls,
    /// An unexpected PROXY protocol header, version 1 or 2.
    Proxy,
    /// An HTTP request.
    Http,
    /// A CONNECT with an unknown protocol name, or one whose client id cannot be read because its lengths contradict each other.
    Malformed,
    /// Anything else.
    Junk,
}

/// The reader's verdict on the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that is needed has arrived.
    Complete(Connect),
    /// The verdict cannot change before this many bytes (in all, from the first) have arrived.
    NeedMore(usize),
    /// The peer is not an MQTT client.
    Stranger(Stranger),
}

impl Connect {
    /// The protocol level.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the client declares itself a bridge (the level's highest bit, a mosquitto extension).
    pub fn bridge(&self) -> bool {
        self.bridge
    }

    /// Clean Start (5), Clean Session (3.x).
    pub fn clean_start(&self) -> bool {
        self.clean_start
    }

    /// Keep Alive in seconds; 0 turns it off.
    pub fn keep_alive(&self) -> u16 {
        self.keep_alive
    }

    /// The client id in `bytes`, from which the CONNECT was read; empty for an anonymous client.
    pub fn client_id<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.client_id.of(bytes)
    }

    /// The user name in `bytes`; `None` if it was not needed or the CONNECT has none.
    pub fn username<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.username.map(|username| username.of(bytes))
    }

    /// Session Expiry Interval in seconds (MQTT 5, 3.1.2.11.2), if the CONNECT has one.
    pub fn session_expiry(&self) -> Option<u32> {
        self.session_expiry
    }

    /// The length of the whole packet, which may not have arrived completely.
    pub fn packet_end(&self) -> usize {
        self.packet_end
    }
}

/// Reads `bytes`, everything that has arrived so far from the first byte on.
///
/// A caller that waits for as many bytes as [`Verdict::NeedMore`] asks for calls this at most thirty times, however the packet is
/// split.
pub fn read_connect(bytes: &[u8], need: Need) -> Verdict {
    match bytes {
        [] => return Verdict::NeedMore(1),
        // A remaining length of 3 has no room for a CONNECT.
        [0x16, 0x03, ..] => return Verdict::Stranger(Stranger::Tls),
        [first, ..] if first >> 4 != CONNECT => return name_stranger(bytes),
        _ => {}
    }
    match read_packet(bytes, need) {
        Ok(connect) => Verdict::Complete(connect),
        Err(Stop::NeedMore(enough)) => Verdict::NeedMore(enough),
        Err(Stop::Malformed) => Verdict::Stranger(Stranger::Malformed),
    }
}

/// The packet type, in the high nibble of the first byte. The low nibble is reserved and ignored.
const CONNECT: u8 = 1;

const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const USERNAME: u8 = 0x80;
const BRIDGE: u8 = 0x80;

fn read_packet(bytes: &[u8], need: Need) -> Result<Connect, Stop> {
    let mut cursor = Cursor::behind_fixed_header(bytes)?;
    let packet_end = cursor.end();
    // The name has four or six letters. With any other length, no more bytes are waited for.
    let mut length = cursor;
    if !matches!(length.two_bytes()?, 4 | 6) {
        return Err(Stop::Malformed);
    }
    if !matches!(cursor.string()?.of(bytes), b"MQTT" | b"MQIsdp") {
        return Err(Stop::Malformed);
    }
    let level = cursor.byte()?;
    let bridge = level & BRIDGE != 0;
    let version = Version::of_level(level & !BRIDGE);
    if let Version::Unknown(_) = version {
        return Ok(Connect {
            version,
            bridge,
            clean_start: true,
            keep_alive: 0,
            client_id: Span::default(),
            username: None,
            session_expiry: None,
            packet_end,
        });
    }
    let flags = cursor.byte()?;
    let keep_alive = cursor.two_bytes()?;
    let properties = match version {
        Version::V5 => Some(cursor.properties()?),
        _ => None,
    };
    let client_id = cursor.string()?;
    let username = match need {
        Need::Username if flags & USERNAME != 0 => read_username(&mut cursor, version, flags)?,
        Need::Username | Need::ClientId => None,
    };
    Ok(Connect {
        version,
        bridge,
        clean_start: flags & CLEAN_START != 0,
        keep_alive,
        client_id,
        username,
        session_expiry: properties.and_then(find_session_expiry),
        packet_end,
    })
}

/// The user name, which follows the will; `None` if lengths contradict each other, since the client id can be used instead.
fn read_username(cursor: &mut Cursor<'_>, version: Version, flags: u8) -> Result<Option<Span>, Stop> {
    let mut read = || {
        if flags & WILL != 0 {
            if version == Version::V5 {
                cursor.properties()?;
            }
            cursor.string()?;
            cursor.string()?;
        }
        cursor.string()
    };
    match read() {
        Ok(username) => Ok(Some(username)),
        Err(Stop::Malformed) => Ok(None),
        Err(more) => Err(more),
    }
}

fn find_session_expiry(mut properties: Cursor<'_>) -> Option<u32> {
    std::iter::from_fn(|| properties.property()).find_map(|property| match property {
        Property::SessionExpiryInterval(seconds) => Some(seconds),
        _ => None,
    })
}

/// The first bytes of other protocols that arrive at an MQTT port by mistake, at most six of each.
const STRANGERS: &[(&[u8], Stranger)] = &[
    (b"PROXY ", Stranger::Proxy),
    (b"\r\n\r\n", Stranger::Proxy),
    (b"GET ", Stranger::Http),
    (b"PUT ", Stranger::Http),
    (b"HEAD ", Stranger::Http),
    (b"POST ", Stranger::Http),
    (b"PRI * ", Stranger::Http),
    (b"PATCH ", Stranger::Http),
    (b"TRACE ", Stranger::Http),
    (b"DELETE", Stranger::Http),
    (b"OPTION", Stranger::Http),
    (b"CONNEC", Stranger::Http),
];

/// Identifies the protocol, and asks for more bytes as long as that takes.
fn name_stranger(bytes: &[u8]) -> Verdict {
    let mut like = STRANGERS
        .iter()
        .filter(|(start, _)| start.iter().zip(bytes).all(|(a, b)| a == b));
    match like.next() {
        Some((start, stranger)) if bytes.len() >= start.len() => Verdict::Stranger(*stranger),
        Some(_) => Verdict::NeedMore(bytes.len() + 1),
        None => Verdict::Stranger(Stranger::Junk),
    }
}
