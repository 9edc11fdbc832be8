//! The only MQTT that the balancer itself says to a client: a refusing CONNACK.

use super::Version;

/// The bytes of a CONNACK that says "server unavailable" in the client's version: 3 for 3.x, 0x88 for 5.
pub fn refusal(version: Version) -> &'static [u8] {
    match version {
        Version::V5 => &[0x20, 0x03, 0x00, 0x88, 0x00],
        Version::V31 | Version::V311 | Version::Unknown(_) => &[0x20, 0x02, 0x00, 0x03],
    }
}
