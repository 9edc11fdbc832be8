//! PROXY headers before what a client sends, of either version: the small nodes skip them.

use super::upgrade::Head;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, its end included.
const BYTES_MAX_V1: usize = 107;

/// Version 2: the signature, version and command, family, and the length of the rest.
const FIXED_BYTES_V2: usize = SIGNATURE_V2.len() + 4;

/// Finds the end of a header.
pub(super) fn header(bytes: &[u8]) -> Head {
    let begins = |signature: &[u8]| {
        let length = bytes.len().min(signature.len());
        bytes[..length] == signature[..length]
    };
    if begins(SIGNATURE_V2) {
        let Some(fixed) = bytes.first_chunk::<FIXED_BYTES_V2>() else {
            return Head::NeedMore;
        };
        let rest = u16::from_be_bytes([fixed[FIXED_BYTES_V2 - 2], fixed[FIXED_BYTES_V2 - 1]]);
        let length = FIXED_BYTES_V2 + usize::from(rest);
        return if bytes.len() < length {
            Head::NeedMore
        } else {
            Head::Is(length)
        };
    }
    if !begins(SIGNATURE_V1) {
        return Head::Junk;
    }
    match bytes
        .windows(2)
        .take(BYTES_MAX_V1 - 1)
        .position(|window| window == b"\r\n")
    {
        Some(start) => Head::Is(start + 2),
        None if bytes.len() >= BYTES_MAX_V1 => Head::Junk,
        None => Head::NeedMore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_header_is_found_behind_every_prefix() {
        let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 1883\r\n".to_vec();
        let v2 = [SIGNATURE_V2, &[0x21, 0x11, 0, 12], &[7; 12]].concat();
        for header_bytes in [v1, v2] {
            let length = header_bytes.len();
            let whole = [&header_bytes[..], b"\x10\x0c\0\x04MQTT"].concat();
            for end in 1..length {
                assert_eq!(header(&whole[..end]), Head::NeedMore, "{end}");
            }
            for end in length..=whole.len() {
                assert_eq!(header(&whole[..end]), Head::Is(length), "{end}");
            }
        }
        let endless = [SIGNATURE_V1, &[b'1'; BYTES_MAX_V1]].concat();
        for other in [&b"\x10\x0c\0\x04MQTT"[..], b"GET / HTTP/1.1", b"PRIVATE", &endless] {
            assert_eq!(header(other), Head::Junk);
        }
    }
}
