//! Reads PROXY headers from upstream proxies: strictly, and in pieces of any size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    CLIENT_CERT_CONN, CLIENT_CERT_SESS, CLIENT_SSL, FIXED_BYTES, INET_BYTES, INET6_BYTES, LINE_BYTES_MAX, LOCAL, PROXY,
    SIGNATURE, SSL_CIPHER, SSL_CN, SSL_FIXED_BYTES, SSL_VERSION, TCP4, TCP6, TLV_AUTHORITY, TLV_CRC32C, TLV_SSL,
    TLV_UNIQUE_ID, UDP4, UDP6, UNIX_BYTES, UNIX_DGRAM, UNIX_STREAM, UNSPEC,
};
use crate::identity::{Certificate, Identity, Tls, is_plain};

/// A longer header is refused. Addresses, a server name and TLS facts take some 500 bytes; nginx, with which most senders are
/// compatible, has the same limit.
pub const BYTES_MAX: usize = 4096;

/// The start of a version 1 header, including the space.
const WORD: &[u8] = b"PROXY ";

/// The most bytes of a unique id (2.2.4).
const UNIQUE_ID_BYTES_MAX: usize = 128;

/// The result of reading the first bytes of a connection. Unless it is [`Verdict::NeedMore`], it stays the same when more bytes
/// follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The header is incomplete.
    NeedMore,
    /// The bytes begin with a header.
    Header(Header),
    /// The bytes do not begin with a valid header.
    Wrong(Wrong),
}

/// A complete header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length.
    pub bytes: usize,
    /// The client's address. `None` if the header has no address, or is for the sender's own connection: then the sender is the
    /// client.
    pub client: Option<SocketAddr>,
    /// Facts about the TLS between client and sender.
    pub identity: Option<Box<Identity>>,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is missing or violates the specification; with the reason.
    Header(&'static str),
    /// The common name of the client's certificate is not plain text.
    CommonName,
}

/// Reads the header that `bytes` begin with.
pub fn read(bytes: &[u8]) -> Verdict {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    let read = if begins(&SIGNATURE) {
        binary(bytes)
    } else if begins(WORD) {
        line(bytes)
    } else {
        Err(Wrong::Header("no PROXY header"))
    };
    match read {
        Ok(Some(header)) => Verdict::Header(header),
        Ok(None) => Verdict::NeedMore,
        Err(wrong) => Verdict::Wrong(wrong),
    }
}

/// Reads a header of version 1 (2.1); `None` if it is incomplete.
fn line(bytes: &[u8]) -> Result<Option<Header>, Wrong> {
    let wrong = |why| Err(Wrong::Header(why));
    let head = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let end = head.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let text = match end {
        None if bytes.len() >= LINE_BYTES_MAX => return wrong("a line of more than 107 bytes"),
        None => return Ok(None),
        Some(end) => match head[end..] {
            [b'\r', b'\n', ..] => &head[..end],
            [b'\r'] if head.len() < LINE_BYTES_MAX => return Ok(None),
            [b'\r'] => return wrong("a line of more than 107 bytes"),
            _ => return wrong("a line that does not end in CR LF"),
        },
    };
    let header = |client| {
        Ok(Some(Header {
            bytes: text.len() + b"\r\n".len(),
            client,
            identity: None,
        }))
    };
    let rest = text.strip_prefix(WORD).unwrap_or_default();
    // Everything after UNKNOWN is to be ignored.
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return header(None);
    }
    let Ok(rest) = std::str::from_utf8(rest) else {
        return wrong("a line that is not UTF-8");
    };
    let mut words = rest.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (family, from, to, from_port, to_port) = (next(), next(), next(), next(), next());
    if words.next().is_some() {
        return wrong("a line of more than six words");
    }
    let ips = match family {
        "TCP4" => [ipv4(from), ipv4(to)],
        "TCP6" => [ipv6(from), ipv6(to)],
        _ => return wrong("a family other than TCP4, TCP6 and UNKNOWN"),
    };
    let [Some(client), Some(_)] = ips else {
        return wrong("an invalid address");
    };
    let (Some(port), Some(_)) = (port(from_port), port(to_port)) else {
        return wrong("an invalid port");
    };
    header(Some(SocketAddr::new(client.to_canonical(), port)))
}

fn ipv4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn ipv6(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// Parses a port without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|_| digits)?;
    (text == "0" || !text.starts_with('0')).then_some(port)
}

/// Reads a header of version 2 (2.2); `None` if it is incomplete.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Wrong> {
    let wrong = |why| Err(Wrong::Header(why));
    // Errors are reported as soon as their bytes have arrived.
    if let Some(command) = bytes.get(SIGNATURE.len())
        && ![LOCAL, PROXY].contains(command)
    {
        return wrong("a version other than 2, or an unknown command");
    }
    let Some([.., command, family, high, low]) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let end = FIXED_BYTES + length;
    if end > BYTES_MAX {
        return wrong("a header of more than 4096 bytes");
    }
    let address_bytes = match *family {
        // The family of a LOCAL header is to be ignored, like everything after it.
        _ if *command == LOCAL => 0,
        UNSPEC => 0,
        TCP4 | UDP4 => INET_BYTES,
        TCP6 | UDP6 => INET6_BYTES,
        UNIX_STREAM | UNIX_DGRAM => UNIX_BYTES,
        _ => return wrong("an unknown family"),
    };
    if length < address_bytes {
        return wrong("a length too short for the addresses");
    }
    let Some(header) = bytes.get(..end) else {
        return Ok(None);
    };
    let (addresses, more) = header[FIXED_BYTES..].split_at(address_bytes);
    let client = match *family {
        _ if *command == LOCAL => None,
        TCP4 => addresses
            .first_chunk()
            .map(|ip: &[u8; 4]| (IpAddr::from(*ip), port_at(addresses, 8))),
        TCP6 => addresses
            .first_chunk()
            .map(|ip: &[u8; 16]| (IpAddr::from(*ip), port_at(addresses, 32))),
        // Not the address of a TCP client: treated as missing (2.2, "falls back to the UNSPEC mode").
        _ => None,
    };
    let identity = match client {
        Some(_) => tlvs(header, more)?,
        None => None,
    };
    Ok(Some(Header {
        bytes: end,
        client: client.map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port)),
        identity,
    }))
}

fn port_at(addresses: &[u8], at: usize) -> u16 {
    let bytes = addresses[at..].first_chunk().copied().unwrap_or_default();
    u16::from_be_bytes(bytes)
}

/// Reads the TLVs after the addresses of `header`.
fn tlvs(header: &[u8], mut more: &[u8]) -> Result<Option<Box<Identity>>, Wrong> {
    let mut identity = Identity::default();
    let mut seen = [false; 256];
    while let Some((kind, value)) = next_tlv(&mut more)? {
        let is_known = [TLV_AUTHORITY, TLV_CRC32C, TLV_SSL].contains(&kind);
        if std::mem::replace(&mut seen[usize::from(kind)], true) && is_known {
            return Err(Wrong::Header("a repeated TLV"));
        }
        match kind {
            TLV_AUTHORITY => {
                let name = std::str::from_utf8(value).ok().filter(|name| is_plain(name));
                identity.server_name = name.map(Into::into);
            }
            TLV_CRC32C => check_sum(header, value)?,
            TLV_UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => {
                return Err(Wrong::Header("a unique id of more than 128 bytes"));
            }
            TLV_SSL => identity.tls = tls(value)?,
            _ => {}
        }
    }
    Ok((identity != Identity::default()).then(|| Box::new(identity)))
}

/// Splits the next TLV off `more`; `None` at the end.
fn next_tlv<'a>(more: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, Wrong> {
    if more.is_empty() {
        return Ok(None);
    }
    let past_end = Wrong::Header("a TLV past the end of the header");
    let ([kind, high, low], rest) = more.split_first_chunk().ok_or(past_end)?;
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, rest) = rest.split_at_checked(length).ok_or(past_end)?;
    *more = rest;
    Ok(Some((*kind, value)))
}

/// Reads the facts about the client's TLS (2.2.5); `None` for a client without TLS.
fn tls(value: &[u8]) -> Result<Option<Tls>, Wrong> {
    let short = Wrong::Header("a TLS TLV that is too short");
    let ([flags, verify @ ..], mut more) = value.split_first_chunk::<SSL_FIXED_BYTES>().ok_or(short)?;
    let is_verified = *verify == [0; 4];
    let (mut version, mut common_name, mut cipher) = (None, None, None);
    while let Some((kind, value)) = next_tlv(&mut more)? {
        let field = match kind {
            SSL_VERSION => &mut version,
            SSL_CN => &mut common_name,
            SSL_CIPHER => &mut cipher,
            _ => continue,
        };
        if field.replace(value).is_some() {
            return Err(Wrong::Header("a repeated sub-TLV of TLS"));
        }
    }
    if flags & CLIENT_SSL == 0 {
        return Ok(None);
    }
    let text = |value: Option<&[u8]>| {
        let text = value.map(std::str::from_utf8).transpose();
        let text = text.map(|text| text.filter(|text| is_plain(text)).map(Box::from));
        text.map_err(|_| Wrong::Header("a TLS version or cipher that is not UTF-8"))
    };
    // A certificate that was not verified proves nothing.
    let certificate = match flags & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) {
        0 => None,
        _ if !is_verified => None,
        flags => Some(Certificate {
            common_name: common_name.map(common_name_of).transpose()?,
            names: Vec::new(),
            on_this_connection: flags & CLIENT_CERT_CONN != 0,
        }),
    };
    Ok(Some(Tls {
        version: text(version)?.unwrap_or_default(),
        cipher: text(cipher)?,
        certificate,
    }))
}

fn common_name_of(value: &[u8]) -> Result<Box<str>, Wrong> {
    match std::str::from_utf8(value) {
        Ok(name) if is_plain(name) => Ok(name.into()),
        _ => Err(Wrong::CommonName),
    }
}

/// Verifies the checksum of the whole header, in which the checksum itself counts as zeros (2.2.3).
fn check_sum(header: &[u8], value: &[u8]) -> Result<(), Wrong> {
    let expected: [u8; 4] = value
        .try_into()
        .map_err(|_| Wrong::Header("a checksum that is not 4 bytes long"))?;
    // `value` is a slice of `header`.
    let at = value.as_ptr() as usize - header.as_ptr() as usize;
    let bytes = header.iter().enumerate();
    let sum = crc32c(bytes.map(|(i, byte)| match i.wrapping_sub(at) {
        0..4 => 0,
        _ => *byte,
    }));
    match sum.to_be_bytes() == expected {
        true => Ok(()),
        false => Err(Wrong::Header("a wrong checksum")),
    }
}

/// CRC-32C (RFC 3720, B.4). Bit by bit, since headers have some 100 bytes and few senders include a checksum.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// The polynomial 0x1EDC6F41 with its bits reversed.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ (POLYNOMIAL * (sum & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::{Source, Version, write};

    /// What is expected of some bytes.
    enum Expected {
        /// A header of all of them, from this client.
        Client(&'static str),
        /// A header of all of them without the client's address.
        Socket,
        NeedMore,
        Wrong,
        CommonName,
    }
    use Expected::{Client, CommonName, NeedMore, Socket};

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = (block.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
    }

    fn inet(tlvs: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 9, 0xC7, 0x38, 0x07, 0x5B];
        [&addresses[..], tlvs].concat()
    }

    fn inet6() -> Vec<u8> {
        let client: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        let local: Ipv6Addr = "2001:db8::9".parse().expect("an address");
        let ports = [0xC7, 0x38, 0x07, 0x5B];
        [&client.octets()[..], &local.octets(), &ports].concat()
    }

    fn proxy(tlvs: &[u8]) -> Vec<u8> {
        v2(PROXY, TCP4, &inet(tlvs))
    }

    fn ssl(flags: u8, verify: u32, more: &[u8]) -> Vec<u8> {
        tlv(TLV_SSL, &[&[flags], &verify.to_be_bytes()[..], more].concat())
    }

    fn line(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    /// A header with this checksum, or with the right one.
    fn summed(sum: Option<[u8; 4]>) -> Vec<u8> {
        let mut header = proxy(&tlv(TLV_CRC32C, &[0; 4]));
        let right = crc32c(header.iter().copied()).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum.unwrap_or(right));
        header
    }

    // One line each, so that it reads as a table.
    #[rustfmt::skip]
    fn table() -> Vec<(&'static str, Vec<u8>, Expected)> {
        let padded = |bytes: usize| {
            let text = format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes));
            line(&text)
        };
        let unended = |bytes: usize, more: &[u8]| {
            [b"PROXY UNKNOWN ", &vec![b'x'; bytes][..], more].concat()
        };
        let cn = |value: &[u8]| proxy(&ssl(7, 0, &tlv(SSL_CN, value)));
        let mut early = proxy(&[]);
        early.truncate(15);
        let same = || Client("192.0.2.7:51000");
        vec![
            ("v1 TCP4", line("PROXY TCP4 192.0.2.7 198.51.100.9 51000 1883\r\n"), same()),
            ("v1 TCP6", line("PROXY TCP6 2001:db8::7 2001:db8::9 51000 1883\r\n"), Client("[2001:db8::7]:51000")),
            ("v1 TCP6, long", line("PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0007 ::1 1 2\r\n"), Client("[2001:db8::7]:1")),
            ("v1 TCP6, mapped", line("PROXY TCP6 ::ffff:192.0.2.7 ::1 51000 2\r\n"), same()),
            ("v1 ports 0 and 65535", line("PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\n"), Client("1.2.3.4:0")),
            ("v1 UNKNOWN", line("PROXY UNKNOWN\r\n"), Socket),
            ("v1 UNKNOWN with addresses", line("PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\r\n"), Socket),
            ("v1 UNKNOWN with anything", b"PROXY UNKNOWN \xff\x00 ?\r\n".to_vec(), Socket),
            ("v1 of 107 bytes", padded(91), Socket),
            ("v1 of 108 bytes", padded(92), Expected::Wrong),
            ("v1 of 107 bytes without an end", unended(93, b""), Expected::Wrong),
            ("v1 of 106 bytes without an end", unended(92, b""), NeedMore),
            ("v1 whose 107th byte is CR", unended(92, b"\r"), Expected::Wrong),
            ("v1 with LF only", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"), Expected::Wrong),
            ("v1 UNKNOWN with LF only", line("PROXY UNKNOWN\n"), Expected::Wrong),
            ("v1 with CR only", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx"), Expected::Wrong),
            ("v1 with CR at the end", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r"), NeedMore),
            ("v1 with two spaces", line("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 with a space at the end", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n"), Expected::Wrong),
            ("v1 with a tab", line("PROXY TCP4 1.2.3.4 5.6.7.8 1\t2\r\n"), Expected::Wrong),
            ("v1 with +1", line("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n"), Expected::Wrong),
            ("v1 with +1000 behind", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 +1000\r\n"), Expected::Wrong),
            ("v1 with -1", line("PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n"), Expected::Wrong),
            ("v1 with port 01", line("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n"), Expected::Wrong),
            ("v1 with port 00", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 00\r\n"), Expected::Wrong),
            ("v1 with port 65536", line("PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n"), Expected::Wrong),
            ("v1 with a port that is text", line("PROXY TCP4 1.2.3.4 5.6.7.8 mqtt 2\r\n"), Expected::Wrong),
            ("v1 without the last port", line("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"), Expected::Wrong),
            ("v1 with an empty port", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n"), Expected::Wrong),
            ("v1 with a seventh word", line("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n"), Expected::Wrong),
            ("v1 with leading zeros in an address", line("PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 with 256", line("PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 with three parts", line("PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 with a wrong destination", line("PROXY TCP4 1.2.3.4 x 1 2\r\n"), Expected::Wrong),
            ("v1 TCP4 with IPv6", line("PROXY TCP4 ::1 ::1 1 2\r\n"), Expected::Wrong),
            ("v1 TCP6 with IPv4", line("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 TCP6 with a zone", line("PROXY TCP6 fe80::1%1 ::1 1 2\r\n"), Expected::Wrong),
            ("v1 TCP6 in brackets", line("PROXY TCP6 [::1] [::1] 1 2\r\n"), Expected::Wrong),
            ("v1 UDP4", line("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 UNKNOWNX", line("PROXY UNKNOWNX\r\n"), Expected::Wrong),
            ("v1 in small letters", line("proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 with a small family", line("PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n"), Expected::Wrong),
            ("v1 with nothing", line("PROXY \r\n"), Expected::Wrong),
            ("v1 after a space", line(" PROXY UNKNOWN\r\n"), Expected::Wrong),
            ("v1, cut", line("PROX"), NeedMore),
            ("v1 that is another word", line("PROXX"), Expected::Wrong),
            ("nothing", Vec::new(), NeedMore),
            ("MQTT", b"\x10\x0c\x00\x04MQTT".to_vec(), Expected::Wrong),
            ("TLS", b"\x16\x03\x01".to_vec(), Expected::Wrong),
            ("HTTP", line("GET /mqtt HTTP/1.1\r\n"), Expected::Wrong),
            ("HTTP, PUT", line("PUT / HTTP/1.1\r\n"), Expected::Wrong),
            ("v2 TCP4", proxy(&[]), same()),
            ("v2 TCP6", v2(PROXY, TCP6, &inet6()), Client("[2001:db8::7]:51000")),
            ("v2 TCP6, mapped", v2(PROXY, TCP6, &[&[0; 10], &[255, 255, 192, 0, 2, 7][..], &[0; 16], &[0xC7, 0x38, 0, 1]].concat()), same()),
            ("v2 LOCAL", v2(LOCAL, UNSPEC, &[]), Socket),
            ("v2 LOCAL with an address", v2(LOCAL, TCP4, &inet(&[])), Socket),
            ("v2 LOCAL with a short address", v2(LOCAL, TCP4, &[1, 2, 3]), Socket),
            ("v2 LOCAL of an unknown family", v2(LOCAL, 0xFF, &inet(&[])), Socket),
            ("v2 LOCAL with TLVs past the end", v2(LOCAL, UNSPEC, &[TLV_SSL, 0xFF, 0xFF]), Socket),
            ("v2 LOCAL with TLS", v2(LOCAL, TCP4, &inet(&ssl(7, 0, &tlv(SSL_CN, b"x\n")))), Socket),
            ("v2 UNSPEC", v2(PROXY, UNSPEC, &[]), Socket),
            ("v2 UNSPEC with an address", v2(PROXY, UNSPEC, &inet(&[])), Socket),
            ("v2 unix stream", v2(PROXY, UNIX_STREAM, &[b'/'; 216]), Socket),
            ("v2 unix dgram", v2(PROXY, UNIX_DGRAM, &[0; 216]), Socket),
            ("v2 unix, short", v2(PROXY, UNIX_STREAM, &[b'/'; 215]), Expected::Wrong),
            ("v2 UDP4", v2(PROXY, UDP4, &inet(&[])), Socket),
            ("v2 UDP6", v2(PROXY, UDP6, &inet6()), Socket),
            ("v2 UDP4, short", v2(PROXY, UDP4, &[]), Expected::Wrong),
            ("v2 TCP4, empty", v2(PROXY, TCP4, &[]), Expected::Wrong),
            ("v2 TCP4, short", v2(PROXY, TCP4, &inet(&[])[..11]), Expected::Wrong),
            ("v2 TCP6, empty", v2(PROXY, TCP6, &[]), Expected::Wrong),
            ("v2 TCP6 with IPv4", v2(PROXY, TCP6, &inet(&[])), Expected::Wrong),
            ("v2 of family 0x01", v2(PROXY, 0x01, &inet(&[])), Expected::Wrong),
            ("v2 of family 0x10", v2(PROXY, 0x10, &inet(&[])), Expected::Wrong),
            ("v2 of family 0x13", v2(PROXY, 0x13, &inet(&[])), Expected::Wrong),
            ("v2 of family 0x41", v2(PROXY, 0x41, &inet(&[])), Expected::Wrong),
            ("v2 of family 0xFF", v2(PROXY, 0xFF, &inet(&[])), Expected::Wrong),
            ("v2 of command 2", v2(0x22, TCP4, &inet(&[])), Expected::Wrong),
            ("v2 of command 15", v2(0x2F, TCP4, &inet(&[])), Expected::Wrong),
            ("v2 of version 1", v2(0x11, TCP4, &inet(&[])), Expected::Wrong),
            ("v2 of version 3", v2(0x31, TCP4, &inet(&[])), Expected::Wrong),
            ("v2, cut before its length", early, NeedMore),
            ("v2 of a wrong signature", b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Expected::Wrong),
            ("v2 of 4096 bytes", v2(LOCAL, UNSPEC, &[0; BYTES_MAX - 16]), Socket),
            ("v2 of 4097 bytes", v2(LOCAL, UNSPEC, &[0; BYTES_MAX - 15]), Expected::Wrong),
            ("v2 of 65551 bytes, its start", v2(PROXY, TCP4, &[0; 65_535])[..16].to_vec(), Expected::Wrong),
            ("v2 with a TLV past the end", proxy(&[4, 0, 1]), Expected::Wrong),
            ("v2 with a TLV past the end by far", proxy(&[4, 0xFF, 0xFF, 0]), Expected::Wrong),
            ("v2 with half a TLV", proxy(&[4, 0]), Expected::Wrong),
            ("v2 with a byte behind", proxy(&[4]), Expected::Wrong),
            ("v2 with NOOP", proxy(&tlv(4, &[0; 9])), same()),
            ("v2 with an empty NOOP", proxy(&tlv(4, &[])), same()),
            ("v2 with unknown TLVs", proxy(&[tlv(0xEA, b"vpce"), tlv(0xEA, b"")].concat()), same()),
            ("v2 with a unique id of 128 bytes", proxy(&tlv(TLV_UNIQUE_ID, &[1; 128])), same()),
            ("v2 with a unique id of 129 bytes", proxy(&tlv(TLV_UNIQUE_ID, &[1; 129])), Expected::Wrong),
            ("v2 with its checksum", summed(None), same()),
            ("v2 with another checksum", summed(Some([1, 2, 3, 4])), Expected::Wrong),
            ("v2 with a checksum of 3 bytes", proxy(&tlv(TLV_CRC32C, &[0; 3])), Expected::Wrong),
            ("v2 with two checksums", proxy(&[tlv(TLV_CRC32C, &[0; 4]), tlv(TLV_CRC32C, &[0; 4])].concat()), Expected::Wrong),
            ("v2 with two names", proxy(&[tlv(TLV_AUTHORITY, b"a"), tlv(TLV_AUTHORITY, b"b")].concat()), Expected::Wrong),
            ("v2 with TLS twice", proxy(&[ssl(1, 1, &[]), ssl(1, 1, &[])].concat()), Expected::Wrong),
            ("v2 with TLS", proxy(&ssl(1, 1, &[])), same()),
            ("v2 with TLS of 4 bytes", proxy(&tlv(TLV_SSL, &[1, 0, 0, 0])), Expected::Wrong),
            ("v2 with TLS past its end", proxy(&ssl(1, 1, &[SSL_CN, 0, 9, b'x'])), Expected::Wrong),
            ("v2 with two common names", proxy(&ssl(7, 0, &[tlv(SSL_CN, b"a"), tlv(SSL_CN, b"b")].concat())), Expected::Wrong),
            ("v2 with a common name", cn(b"gauge-7"), same()),
            ("v2 with LF in the common name", cn(b"gauge\n7"), CommonName),
            ("v2 with NUL in the common name", cn(b"gauge\x007"), CommonName),
            ("v2 with a common name that is no text", cn(b"\xff"), CommonName),
            ("v2 with a common name of 1025 bytes", cn(&[b'x'; 1025]), CommonName),
            ("v2 with LF in the name of nobody", proxy(&ssl(7, 1, &tlv(SSL_CN, b"\n"))), same()),
            ("v2 with LF in the server name", proxy(&tlv(TLV_AUTHORITY, b"a\nb")), same()),
        ]
    }

    fn is(verdict: &Verdict, expected: &Expected, bytes: usize) -> bool {
        let header = |client: Option<SocketAddr>| match verdict {
            Verdict::Header(header) => header.bytes == bytes && header.client == client,
            _ => false,
        };
        match expected {
            Client(address) => header(Some(address.parse().expect("an address"))),
            Socket => header(None),
            NeedMore => *verdict == Verdict::NeedMore,
            Expected::Wrong => matches!(verdict, Verdict::Wrong(Wrong::Header(_))),
            CommonName => *verdict == Verdict::Wrong(Wrong::CommonName),
        }
    }

    #[test]
    fn the_table_of_headers() {
        let table = table();
        for (name, bytes, expected) in &table {
            let verdict = read(bytes);
            assert!(is(&verdict, expected, bytes.len()), "{name}: {verdict:?}");
        }
        assert!(table.len() >= 100, "{}", table.len());
    }

    #[test]
    fn pieces_of_any_size_and_what_follows_change_no_verdict() {
        let follows: [&[u8]; 3] = [b"\x10\x0c", b"PROXY UNKNOWN\r\n", &proxy(&[])];
        for (name, bytes, expected) in table() {
            let whole = read(&bytes);
            for split in 0..bytes.len() {
                let start = read(&bytes[..split]);
                // What is wrong may be seen before all of it is there; a header only when it is.
                let is_right = start == Verdict::NeedMore || (start == whole && matches!(start, Verdict::Wrong(_)));
                assert!(is_right, "{name} at {split}: {start:?}");
            }
            if !matches!(expected, NeedMore) {
                for more in follows {
                    assert_eq!(read(&[&bytes, more].concat()), whole, "{name}");
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let addresses = [
            "192.0.2.7:51000",
            "[2001:db8::7]:51000",
            "198.51.100.9:1883",
            "[2001:db8::9]:1883",
        ];
        let addresses = addresses.map(|address| address.parse::<SocketAddr>().expect("an address"));
        let identity = |certificate| Identity {
            server_name: Some("mqtt.example".into()),
            tls: Some(Tls {
                version: "TLSv1.2".into(),
                cipher: Some("ECDHE-ECDSA-AES128-GCM-SHA256".into()),
                certificate,
            }),
        };
        let certificate = |on_this_connection| Certificate {
            common_name: Some("gauge-7".into()),
            names: Vec::new(),
            on_this_connection,
        };
        let identities = [
            None,
            Some(identity(None)),
            Some(identity(Some(certificate(true)))),
            Some(identity(Some(certificate(false)))),
        ];
        for client in addresses {
            for local in addresses {
                for identity in &identities {
                    let source = Some(Source { client, local });
                    let header = write(Version::V2, source, identity.as_ref());
                    let expected = Verdict::Header(Header {
                        bytes: header.len(),
                        client: Some(client),
                        identity: identity.clone().map(Box::new),
                    });
                    assert_eq!(read(&header), expected);
                    let line = write(Version::V1, source, identity.as_ref());
                    let expected = Verdict::Header(Header {
                        bytes: line.len(),
                        client: Some(client),
                        identity: None,
                    });
                    assert_eq!(read(&line), expected);
                }
            }
        }
        for version in [Version::V1, Version::V2] {
            let header = write(version, None, None);
            assert!(is(&read(&header), &Socket, header.len()));
        }
    }

    #[test]
    fn a_certificate_counts_only_when_it_was_verified() {
        let name = tlv(SSL_CN, b"gauge-7");
        let cases = [
            (7, 0, Some(true)),
            (5, 0, Some(false)),
            (3, 0, Some(true)),
            // Not verified, no certificate, no TLS.
            (7, 1, None),
            (1, 0, None),
            (6, 0, None),
        ];
        for (flags, verify, on_this_connection) in cases {
            let Verdict::Header(header) = read(&proxy(&ssl(flags, verify, &name))) else {
                panic!("{flags} is a header");
            };
            let identity = header.identity.unwrap_or_default();
            assert_eq!(identity.tls.is_some(), flags & CLIENT_SSL != 0, "{flags}");
            let certificate = identity.tls.and_then(|tls| tls.certificate);
            let expected = on_this_connection.map(|on_this_connection| Certificate {
                common_name: Some("gauge-7".into()),
                names: Vec::new(),
                on_this_connection,
            });
            assert_eq!(certificate, expected, "{flags} {verify}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c([0; 32].into_iter()), 0x8A91_36AA);
        assert_eq!(crc32c([0xFF; 32].into_iter()), 0x62A8_AB43);
        assert_eq!(crc32c(0..32), 0x46DD_794E);
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xE306_9283);
    }
}
