//! Writes a CONNECT of our own, for probes and the doctor (MQTT 3.1, 3.1.1 and 5, section 3.1 of each). mqttbytes cannot write those of
//! MQTT 3.1, nor a password that is no text.

use super::Version;

const CONNECT: u8 = 0x10;
const CLEAN: u8 = 0x02;
const HAS_PASSWORD: u8 = 0x40;
const HAS_USERNAME: u8 = 0x80;

/// A CONNECT without a will.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConnectPacket<'a> {
    /// The protocol level.
    pub version: Version,
    /// If empty, the node assigns one, which MQTT 3 allows only with a clean session.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password. MQTT 3 allows one only with a user name.
    pub password: Option<&'a [u8]>,
    /// In seconds; 0 turns it off.
    pub keep_alive: u16,
    /// Clean Start (5), Clean Session (3.x).
    pub clean_start: bool,
}

impl ConnectPacket<'_> {
    /// The bytes of the packet; `None` if a field is longer than 65,535 bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let name = match self.version {
            Version::V31 => "MQIsdp",
            Version::V311 | Version::V5 | Version::Unknown(_) => "MQTT",
        };
        let mut flags = 0;
        for (is_set, flag) in [
            (self.clean_start, CLEAN),
            (self.password.is_some(), HAS_PASSWORD),
            (self.username.is_some(), HAS_USERNAME),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        let mut body = Vec::new();
        put(&mut body, name.as_bytes())?;
        body.extend([self.version.level(), flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == Version::V5 {
            // No properties.
            body.push(0);
        }
        put(&mut body, self.client_id.as_bytes())?;
        for field in [self.username.map(str::as_bytes), self.password].into_iter().flatten() {
            put(&mut body, field)?;
        }
        let mut packet = vec![CONNECT];
        put_length(&mut packet, body.len());
        packet.extend(body);
        Some(packet)
    }
}

/// Appends a two-byte length and the field.
fn put(bytes: &mut Vec<u8>, field: &[u8]) -> Option<()> {
    bytes.extend(u16::try_from(field.len()).ok()?.to_be_bytes());
    bytes.extend(field);
    Some(())
}

/// Appends a Remaining Length (MQTT 3.1.1, 2.2.3). Three fields of 65,535 bytes and a header are within its limit.
fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length > 0x7F {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Need, Verdict, read_connect};

    #[test]
    fn our_own_reader_finds_every_field_in_every_version() {
        let long = "u".repeat(65_535);
        for version in [Version::V31, Version::V311, Version::V5] {
            for (client_id, username) in [("", "user"), ("probe", "user"), ("probe", &long)] {
                let packet = ConnectPacket {
                    version,
                    client_id,
                    username: Some(username),
                    password: Some(b"secret"),
                    keep_alive: 300,
                    clean_start: true,
                };
                let bytes = packet.encode().expect("short enough");
                let Verdict::Complete(read) = read_connect(&bytes, Need::Username) else {
                    panic!("not a CONNECT: {bytes:02x?}");
                };
                assert_eq!(read.version(), version);
                assert_eq!(read.client_id(&bytes), client_id.as_bytes());
                assert_eq!(read.username(&bytes), Some(username.as_bytes()));
                assert_eq!(read.keep_alive(), 300);
                assert!(read.clean_start());
                assert_eq!(read.packet_end(), bytes.len());
                assert!(bytes.ends_with(b"\0\x06secret"));
            }
        }
    }

    #[test]
    fn a_field_that_does_not_fit_is_not_cut() {
        let packet = ConnectPacket {
            version: Version::V5,
            client_id: &"c".repeat(65_536),
            username: None,
            password: None,
            keep_alive: 0,
            clean_start: true,
        };
        assert_eq!(packet.encode(), None);
    }
}
