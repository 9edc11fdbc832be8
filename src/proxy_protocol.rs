//! The PROXY protocol (HAProxy's specification of 2020): who a client is, said before its first byte.

/// How a PROXY header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text: addresses and nothing else.
    V1,
    /// Binary: addresses, and what the client's TLS said.
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
