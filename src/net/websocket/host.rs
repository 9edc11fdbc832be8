//! The Host of an upgrade request, which is passed on to the node.

use std::net::Ipv6Addr;

/// The most bytes of a host name (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Whether `field` is a host and perhaps a port (RFC 9110, 7.2): an IPv6 address in brackets, or a name of letters, digits, `-`, `.`
/// and `_`, which an IPv4 address is as well. RFC 3986 allows a name further characters, which no host has; a node, or what stands
/// before it, might take them for the end of the host.
pub(super) fn is_host(field: &[u8]) -> bool {
    let (is_host, port) = match field.strip_prefix(b"[") {
        Some(bracketed) => {
            let Some(end) = bracketed.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let address = str::from_utf8(&bracketed[..end]).ok();
            let is_address = address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
            (is_address, &bracketed[end + 1..])
        }
        None => {
            let end = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
            let name = &field[..end];
            let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(is_part);
            (is_name, &field[end..])
        }
    };
    is_host && is_port(port)
}

/// Whether `port` is nothing, or a colon and a port.
fn is_port(port: &[u8]) -> bool {
    let Some(digits) = port.strip_prefix(b":") else {
        return port.is_empty();
    };
    let is_short = (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_short && str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        let long = "a".repeat(NAME_BYTES_MAX);
        let hosts = [
            "a",
            "mqtt.example",
            "mqtt.example.:8083",
            "my_broker-1.example:65535",
            "xn--bcher-kva.example",
            "192.0.2.7",
            "192.0.2.7:80",
            "[2001:db8::7]",
            "[::1]:8083",
            &long,
        ];
        for host in hosts {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        let longer = "a".repeat(NAME_BYTES_MAX + 1);
        let others = [
            "",
            ":8083",
            "a:",
            "a:0x50",
            "a:65536",
            "a:000080",
            "a:80:80",
            "a b",
            "a/b",
            "a@b",
            "a,b",
            "a?b",
            "a#b",
            "a%20b",
            "a\\b",
            "a\tb",
            "http://a",
            "bücher.example",
            "::1",
            "[::1",
            "[::1]a",
            "[a]",
            "[fe80::1%25eth0]",
            "]",
            &longer,
        ];
        for other in others {
            assert!(!is_host(other.as_bytes()), "{other}");
        }
        assert!(!is_host(b"a\xff"));
    }
}
