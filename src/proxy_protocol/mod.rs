//! The PROXY protocol (HAProxy's `proxy-protocol.txt`, versions 1 and 2): a header that gives a client's address before its first
//! byte.
//!
//! Pure functions that read and write headers. `accept` decides which peers may send one, `cluster` knows which nodes expect one.

mod read;
mod write;

pub use read::{BYTES_MAX, Header, Verdict, Wrong, read};
pub use write::{Source, write};

/// The version of a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text with the addresses only.
    V1,
    /// Binary: the addresses, and facts about the client's TLS.
    V2,
}

impl Version {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The first bytes of version 2 (2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, command, family, and the length of what follows.
const FIXED_BYTES: usize = 16;

/// The most bytes of a line of version 1 (2.1), including CR LF.
const LINE_BYTES_MAX: usize = 107;

// Commands (2.2): the version in the high half, which is 2.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

// Families and transports (2.2).
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DGRAM: u8 = 0x32;

// The length of two addresses and two ports, or of two paths, by family.
const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

// TLVs after the addresses (2.2.1 and below).
const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;

// Sub-TLVs of [`TLV_SSL`] (2.2.5).
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;

// The client used TLS; it sent a certificate on this connection, or on one of the same TLS session.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;

/// The bytes before the sub-TLVs of [`TLV_SSL`]: flags, and the result of verification.
const SSL_FIXED_BYTES: usize = 5;
