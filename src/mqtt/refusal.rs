//! The only MQTT packet that the balancer itself sends to a client: a refusing CONNACK.

use super::Version;
use super::fields::Cursor;

/// A CONNACK with the code "server unavailable" of the client's version: 3 for 3.x, 0x88 for 5.
pub fn refusal(version: Version) -> &'static [u8] {
    match version {
        Version::V5 => &[0x20, 0x03, 0x00, 0x88, 0x00],
        Version::V31 | Version::V311 | Version::Unknown(_) => &[0x20, 0x02, 0x00, 0x03],
    }
}

/// A CONNACK with the code "malformed packet" (0x81) for a CONNECT whose client id cannot be read, if it is of MQTT 5, where a server may
/// send one before it closes (3.1.4, 4.13.1). Before MQTT 5 it must not, and what is no CONNECT at all is told nothing.
pub fn malformed(bytes: &[u8]) -> Option<&'static [u8]> {
    let mut cursor = Cursor::behind_fixed_header(bytes).ok()?;
    let name = cursor.string().ok()?.of(bytes);
    let is_version_5 = bytes[0] >> 4 == 1 && name == b"MQTT" && cursor.byte().ok()? & 0x7F == 5;
    is_version_5.then_some(&[0x20, 0x03, 0x00, 0x81, 0x00])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connect_of_version_5_is_told_that_it_is_malformed() {
        let of = |first: u8, name: &[u8; 4], level: u8| {
            let head = [first, 13, 0, 4, name[0], name[1], name[2], name[3], level, 2, 0, 60];
            // Properties that go on behind its end.
            [&head[..], &[9, 1, 1]].concat()
        };
        let told = Some(&[0x20, 0x03, 0x00, 0x81, 0x00][..]);
        for (bytes, expected) in [
            (of(0x10, b"MQTT", 5), told),
            (of(0x10, b"MQTT", 0x85), told),
            (of(0x10, b"MQTT", 4), None),
            (of(0x10, b"HTTP", 5), None),
            (of(0x30, b"MQTT", 5), None),
        ] {
            assert_eq!(malformed(&bytes), expected, "{bytes:02x?}");
            for end in 0..9 {
                assert_eq!(malformed(&bytes[..end]), None);
            }
        }
    }
}
