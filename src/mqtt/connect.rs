//! Reads the CONNECT packet up to where the affinity key ends (MQTT 3.1, 3.1.1 and 5, section 3.1 of each).

/// The protocol level of a CONNECT, without the bridge bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
    /// MQTT 5 (`MQTT`, level 5).
    V5,
    /// A known protocol name with another level: routed as anonymous, the node answers.
    Unknown(u8),
}

/// How far a CONNECT must be read before it can be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Up to the end of the client id.
    ClientId,
    /// Up to the end of the user name (or the end of the packet where there is none).
    Username,
}

/// What a CONNECT says, as far as routing cares. Only [`read_connect`] makes one, so holding one is the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {}

/// Who is there instead of an MQTT client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stranger {
    /// A TLS ClientHello (`16 03`) on a plain listener.
    Tls,
    /// A PROXY protocol header, version 1 or 2, where none is expected.
    Proxy,
    /// An HTTP request.
    Http,
    /// `CONNECT` of an unknown protocol name, or a malformed packet whose client id cannot be known.
    Malformed,
    /// Anything else.
    Junk,
}

/// The reader's verdict on the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As much as was needed has arrived.
    Complete(Connect),
    /// The verdict cannot change before this many bytes (in all, from the first) have arrived.
    NeedMore(usize),
    /// This is no MQTT client.
    Stranger(Stranger),
}

/// Reads `bytes`, everything that has arrived so far from the first byte on.
pub fn read_connect(_bytes: &[u8], _need: Need) -> Verdict {
    Verdict::NeedMore(1)
}
