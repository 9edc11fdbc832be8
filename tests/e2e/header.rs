//! PROXY headers as the tests write and read them: by the specification, and by nothing of the balancer's.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::wait::uninterrupted;

/// What version 2 begins with.
pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The version that a node expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Version {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// A header that a node was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// From where, and to where; none for LOCAL and UNKNOWN.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// What is behind the addresses: types and values.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

impl Header {
    /// Takes the header that a connection must begin with off it; none for one that was closed before. The first bytes must
    /// be there with it.
    pub(crate) fn take(mut stream: &TcpStream, version: Version) -> Option<Self> {
        let mut seen = [0; 4096];
        let count = uninterrupted(|| stream.peek(&mut seen))
            .ok()
            .filter(|count| *count > 0)?;
        let seen = &seen[..count];
        let (header, end) = match version {
            Version::V1 => line(seen),
            Version::V2 => binary(seen),
        };
        assert!(end < count, "the first bytes come with the header");
        stream.read_exact(&mut vec![0; end]).expect("what was seen");
        Some(header)
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.addresses.expect("a header with addresses").0
    }

    /// The one value of this type.
    pub(crate) fn tlv(&self, kind: u8) -> Option<&[u8]> {
        let mut found = self.tlvs.iter().filter(|(is, _)| *is == kind);
        let one = found.next().map(|(_, value)| &value[..]);
        assert!(found.next().is_none(), "type {kind} is there once");
        one
    }
}

fn line(seen: &[u8]) -> (Header, usize) {
    let end = seen.windows(2).position(|two| two == b"\r\n");
    let end = end.expect("a line");
    assert!(end + 2 <= 107, "a line of {end} bytes");
    let line = std::str::from_utf8(&seen[..end]).expect("text");
    let words: Vec<&str> = line.split(' ').collect();
    let addresses = match words[..] {
        ["PROXY", "UNKNOWN"] => None,
        ["PROXY", family, from, to, from_port, to_port] => {
            let ip = |text: &str| {
                let ip: IpAddr = text.parse().expect("an address");
                assert_eq!(ip.is_ipv4(), family == "TCP4", "{line}");
                assert!(["TCP4", "TCP6"].contains(&family), "{line}");
                ip
            };
            let port = |text: &str| text.parse::<u16>().expect("a port");
            Some((
                SocketAddr::new(ip(from), port(from_port)),
                SocketAddr::new(ip(to), port(to_port)),
            ))
        }
        _ => panic!("not a header: {line:?}"),
    };
    let tlvs = Vec::new();
    (Header { addresses, tlvs }, end + 2)
}

fn binary(seen: &[u8]) -> (Header, usize) {
    assert!(seen.starts_with(SIGNATURE), "no header: {seen:02x?}");
    let end = 16 + usize::from(u16::from_be_bytes([seen[14], seen[15]]));
    let block = &seen[16..end];
    let (ip_bytes, from, to): (usize, IpAddr, IpAddr) = match (seen[12], seen[13]) {
        (0x20, 0x00) => {
            assert!(block.is_empty(), "LOCAL says nothing: {block:02x?}");
            let header = Header {
                addresses: None,
                tlvs: Vec::new(),
            };
            return (header, end);
        }
        (0x21, 0x11) => {
            let ip = |at: usize| <[u8; 4]>::try_from(&block[at..at + 4]).expect("four bytes");
            (4, ip(0).into(), ip(4).into())
        }
        (0x21, 0x21) => {
            let ip = |at: usize| <[u8; 16]>::try_from(&block[at..at + 16]).expect("16 bytes");
            (16, ip(0).into(), ip(16).into())
        }
        other => panic!("EMQX takes no such header: {other:02x?}"),
    };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let ports = 2 * ip_bytes;
    let header = Header {
        addresses: Some((SocketAddr::new(from, port(ports)), SocketAddr::new(to, port(ports + 2)))),
        tlvs: tlvs(&block[ports + 4..]),
    };
    (header, end)
}

/// All of these bytes as types and values.
pub(crate) fn tlvs(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[1], bytes[2]]));
        all.push((bytes[0], bytes[3..3 + length].to_vec()));
        bytes = &bytes[3 + length..];
    }
    all
}

pub(crate) fn v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, to) = match client {
        SocketAddr::V4(_) => ("TCP4", "198.51.100.9"),
        SocketAddr::V6(_) => ("TCP6", "2001:db8::9"),
    };
    let (ip, port) = (client.ip(), client.port());
    format!("PROXY {family} {ip} {to} {port} 1883\r\n").into_bytes()
}

pub(crate) fn v2(client: &str, tlvs: &[u8]) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, mut block) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [198, 51, 100, 9]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [9; 16]].concat()),
    };
    block.extend(client.port().to_be_bytes());
    block.extend(1883_u16.to_be_bytes());
    block.extend(tlvs);
    raw(0x21, family, &block)
}

pub(crate) fn local() -> Vec<u8> {
    raw(0x20, 0, &[])
}

pub(crate) fn raw(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, block].concat()
}

pub(crate) fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// What a balancer says of a client with a verified certificate of this common name.
pub(crate) fn ssl(common_name: &[u8]) -> Vec<u8> {
    let mut value = vec![7, 0, 0, 0, 0];
    value.extend(tlv(0x21, b"TLSv1.3"));
    value.extend(tlv(0x22, common_name));
    value.extend(tlv(0x23, b"TLS_AES_128_GCM_SHA256"));
    tlv(0x20, &value)
}
