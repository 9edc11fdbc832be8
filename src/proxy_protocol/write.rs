//! Writes PROXY headers, for nodes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{
    CLIENT_CERT_CONN, CLIENT_CERT_SESS, CLIENT_SSL, FIXED_BYTES, LOCAL, PROXY, SIGNATURE, SSL_CIPHER, SSL_CN,
    SSL_VERSION, TCP4, TCP6, TLV_AUTHORITY, TLV_SSL, UNSPEC, Version,
};
use crate::identity::{Identity, Tls, is_plain};

/// The result of verification if there is a certificate, which was verified.
const VERIFIED: u32 = 0;

/// The result of verification if there is no verified certificate.
const NOT_VERIFIED: u32 = 1;

/// The addresses of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The client's true address.
    pub client: SocketAddr,
    /// The local address of the connection, on our listener.
    pub local: SocketAddr,
}

/// Writes the header for a client's connection. One without `source`, such as a connection of our own, is LOCAL (in version 1:
/// UNKNOWN), since EMQX closes a connection whose header is PROXY without an address.
///
/// Only version 2 carries facts about the client's TLS. A server name that is not plain text is left out. The common name of a
/// certificate is never left out, so the caller must refuse a client whose common name is not plain text.
pub fn write(version: Version, source: Option<Source>, identity: Option<&Identity>) -> Vec<u8> {
    match (version, source) {
        (Version::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::V1, Some(source)) => line(source),
        (Version::V2, None) => binary(LOCAL, UNSPEC, &[]),
        (Version::V2, Some(source)) => {
            let (family, mut block) = addresses(source);
            if let Some(identity) = identity {
                add_identity(&mut block, identity);
            }
            binary(PROXY, family, &block)
        }
    }
}

fn line(source: Source) -> Vec<u8> {
    let (client, local) = (source.client.port(), source.local.port());
    match one_family(source) {
        Family::Inet(from, to) => format!("PROXY TCP4 {from} {to} {client} {local}\r\n"),
        Family::Inet6(from, to) => format!("PROXY TCP6 {from} {to} {client} {local}\r\n"),
    }
    .into_bytes()
}

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED_BYTES + block.len());
    header.extend(SIGNATURE);
    header.extend([command, family]);
    header.extend(length(block.len()));
    header.extend(block);
    header
}

/// Two addresses of the same family, as a header needs them.
enum Family {
    Inet(std::net::Ipv4Addr, std::net::Ipv4Addr),
    Inet6(Ipv6Addr, Ipv6Addr),
}

/// IPv4 if both addresses are; otherwise an IPv4 address is mapped to IPv6 (RFC 4291, 2.5.5.2).
fn one_family(source: Source) -> Family {
    let client = source.client.ip().to_canonical();
    let local = source.local.ip().to_canonical();
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (client, local) {
        (IpAddr::V4(client), IpAddr::V4(local)) => Family::Inet(client, local),
        _ => Family::Inet6(mapped(client), mapped(local)),
    }
}

fn addresses(source: Source) -> (u8, Vec<u8>) {
    let (family, mut block) = match one_family(source) {
        Family::Inet(client, local) => (TCP4, [client.octets(), local.octets()].concat()),
        Family::Inet6(client, local) => (TCP6, [client.octets(), local.octets()].concat()),
    };
    block.extend(source.client.port().to_be_bytes());
    block.extend(source.local.port().to_be_bytes());
    (family, block)
}

fn add_identity(block: &mut Vec<u8>, identity: &Identity) {
    let Identity { server_name, tls } = identity;
    if let Some(name) = server_name.as_deref().filter(|name| is_plain(name)) {
        add_tlv(block, TLV_AUTHORITY, name.as_bytes());
    }
    let Some(tls) = tls else {
        return;
    };
    let Tls {
        version,
        cipher,
        certificate,
    } = tls;
    let mut flags = CLIENT_SSL;
    let mut verified = NOT_VERIFIED;
    if let Some(certificate) = certificate {
        verified = VERIFIED;
        flags |= CLIENT_CERT_SESS;
        if certificate.on_this_connection {
            flags |= CLIENT_CERT_CONN;
        }
    }
    let mut ssl = vec![flags];
    ssl.extend(verified.to_be_bytes());
    // An upstream proxy may not have reported it.
    if !version.is_empty() {
        add_tlv(&mut ssl, SSL_VERSION, version.as_bytes());
    }
    if let Some(name) = identity.common_name() {
        debug_assert!(is_plain(name), "such a client is refused before");
        add_tlv(&mut ssl, SSL_CN, name.as_bytes());
    }
    if let Some(cipher) = cipher {
        add_tlv(&mut ssl, SSL_CIPHER, cipher.as_bytes());
    }
    add_tlv(block, TLV_SSL, &ssl);
}

fn add_tlv(block: &mut Vec<u8>, kind: u8, value: &[u8]) {
    block.push(kind);
    block.extend(length(value.len()));
    block.extend(value);
}

fn length(bytes: usize) -> [u8; 2] {
    debug_assert!(
        bytes <= usize::from(u16::MAX),
        "plain names are short, and there are few of them"
    );
    (bytes as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Certificate;

    fn source(client: &str, local: &str) -> Option<Source> {
        Some(Source {
            client: client.parse().expect("an address"),
            local: local.parse().expect("an address"),
        })
    }

    fn v4() -> Option<Source> {
        source("192.0.2.7:51000", "198.51.100.9:8883")
    }

    fn identity() -> Identity {
        Identity {
            server_name: Some("mqtt.example".into()),
            tls: Some(Tls {
                version: "TLSv1.3".into(),
                cipher: Some("TLS_AES_128_GCM_SHA256".into()),
                certificate: Some(Certificate {
                    common_name: Some("gauge-7".into()),
                    names: vec!["gauge-7.example".into()],
                    on_this_connection: true,
                }),
            }),
        }
    }

    /// Hexadecimal, with spaces for people.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |byte: u8| (byte as char).to_digit(16).expect("a digit") as u8;
        digits
            .chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }

    /// The signature, by its own name in the specification.
    const SIG: &str = "0D0A0D0A 000D0A51 5549540A";

    #[test]
    fn lines_of_version_1() {
        let line = |source| {
            let header = write(Version::V1, source, Some(&identity()));
            String::from_utf8(header).expect("text")
        };
        let cases = [
            (v4(), "PROXY TCP4 192.0.2.7 198.51.100.9 51000 8883\r\n"),
            (
                source("[2001:db8::7]:1", "[2001:db8::9]:65535"),
                "PROXY TCP6 2001:db8::7 2001:db8::9 1 65535\r\n",
            ),
            (
                source("192.0.2.7:1", "[2001:db8::9]:2"),
                "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::9 1 2\r\n",
            ),
            (
                source("[2001:db8::7]:1", "192.0.2.9:2"),
                "PROXY TCP6 2001:db8::7 ::ffff:192.0.2.9 1 2\r\n",
            ),
            (
                source("192.0.2.7:1", "[::ffff:192.0.2.9]:2"),
                "PROXY TCP4 192.0.2.7 192.0.2.9 1 2\r\n",
            ),
            (None, "PROXY UNKNOWN\r\n"),
        ];
        for (source, expected) in cases {
            assert_eq!(line(source), expected);
        }
    }

    #[test]
    fn headers_of_version_2_byte_for_byte() {
        let plain = "21 11 000C C0000207 C6336409 C738 22B3";
        let tls = |flags: &str, verify: &str, more: &str, lengths: [&str; 2]| {
            format!(
                "21 11 {} C0000207 C6336409 C738 22B3 20 {} {flags} {verify} 21 0007 544C5376312E33 {more}",
                lengths[0], lengths[1]
            )
        };
        let cipher = "23 0016 544C535F4145535F3132385F47434D5F534841323536";
        let name = "22 0007 67617567652D37";
        let only_tls = |certificate: Option<Certificate>, cipher: bool| Identity {
            server_name: None,
            tls: Some(Tls {
                certificate,
                cipher: cipher.then(|| "TLS_AES_128_GCM_SHA256".into()),
                version: "TLSv1.3".into(),
            }),
        };
        let certificate = |common_name: Option<&str>, on_this_connection| {
            Some(Certificate {
                common_name: common_name.map(Into::into),
                names: Vec::new(),
                on_this_connection,
            })
        };
        let authority = |name: &str| Identity {
            server_name: Some(name.into()),
            tls: None,
        };
        let cases = [
            (v4(), None, plain.to_owned()),
            (v4(), Some(Identity::default()), plain.to_owned()),
            (None, Some(identity()), "20 00 0000".to_owned()),
            (
                source("[2001:db8::7]:1", "[2001:db8::9]:65535"),
                None,
                "21 21 0024 20010DB8000000000000000000000007 20010DB8000000000000000000000009 0001 FFFF".to_owned(),
            ),
            (
                source("192.0.2.7:1", "[2001:db8::9]:2"),
                None,
                "21 21 0024 00000000000000000000FFFFC0000207 20010DB8000000000000000000000009 0001 0002".to_owned(),
            ),
            (
                source("[2001:db8::7]:1", "192.0.2.9:2"),
                None,
                "21 21 0024 20010DB8000000000000000000000007 00000000000000000000FFFFC0000209 0001 0002".to_owned(),
            ),
            (
                v4(),
                Some(authority("mqtt.example")),
                "21 11 001B C0000207 C6336409 C738 22B3 02 000C 6D7174742E6578616D706C65".to_owned(),
            ),
            (v4(), Some(authority("mqtt\n.example")), plain.to_owned()),
            // No certificate: not verified, whatever else there is.
            (
                v4(),
                Some(only_tls(None, true)),
                tls("01", "00000001", cipher, ["0037", "0028"]),
            ),
            (
                v4(),
                Some(only_tls(None, false)),
                tls("01", "00000001", "", ["001E", "000F"]),
            ),
            // A certificate on this connection is one of the session as well.
            (
                v4(),
                Some(only_tls(certificate(Some("gauge-7"), true), true)),
                tls("07", "00000000", &format!("{name} {cipher}"), ["0041", "0032"]),
            ),
            (
                v4(),
                Some(only_tls(certificate(Some("gauge-7"), false), true)),
                tls("05", "00000000", &format!("{name} {cipher}"), ["0041", "0032"]),
            ),
            (
                v4(),
                Some(only_tls(certificate(None, true), false)),
                tls("07", "00000000", "", ["001E", "000F"]),
            ),
            (
                v4(),
                Some(identity()),
                format!(
                    "21 11 0050 C0000207 C6336409 C738 22B3 02 000C 6D7174742E6578616D706C65 \
                     20 0032 07 00000000 21 0007 544C5376312E33 {name} {cipher}"
                ),
            ),
        ];
        for (source, identity, expected) in cases {
            let header = write(Version::V2, source, identity.as_ref());
            assert_eq!(header, hex(&format!("{SIG} {expected}")), "{identity:?}");
        }
    }
}
