//! What is known of one connection: filled in station by station, kept beside its relay, said once at its end.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{Decision, NodeId};
use crate::identity::Identity;
use crate::log::{Shown, ShownStart};
use crate::mqtt::Version;

/// Bytes of a client id that are kept for logs and look-up.
const CLIENT_ID_KEPT_MAX: usize = 256;

/// The facts of one connection.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique in this process, in order of acceptance per worker.
    pub number: u64,
    /// Where it came in.
    pub listener: ListenerId,
    /// The client's true address: a balancer's before this one until its PROXY header is read.
    pub client: SocketAddr,
    /// What the client's TLS said, where there is something to say.
    pub identity: Option<Box<Identity>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// What the CONNECT said, once it was read.
    pub connect: Option<Connected>,
    /// Why it went where it went, once it was routed.
    pub decision: Option<Decision>,
    /// The node that it was last dialled to.
    pub node: Option<NodeId>,
    /// How often the CONNECT was replayed to another node.
    pub retries: u8,
    /// How long each step took.
    pub steps: Steps,
}

impl Record {
    /// The common name of the client's certificate.
    pub fn common_name(&self) -> Option<&str> {
        self.identity.as_deref().and_then(Identity::common_name)
    }
}

/// What is kept of a CONNECT and its CONNACK.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The client id, as the client gave it or was given it.
    pub client_id: KeptId,
    /// The protocol level.
    pub version: Version,
    /// Where a placement of this client is kept.
    pub placement: PlacementKey,
    /// How long the session outlives the connection, as far as is known; none when it does not.
    pub session_expiry: Option<Duration>,
}

/// A listener as a small number, stable for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// The hash under which placements are kept: XXH3-128 of the affinity key; none for a client without one.
///
/// In two halves, which keeps a [`Record`] aligned to 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlacementKey(pub Option<[u64; 2]>);

/// Microseconds that each step took; 0 for one that was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// From accept to a CONNECT read as far as needed.
    pub peek: u32,
    /// Connecting to the node that took the client.
    pub dial: u32,
    /// From the CONNECT sent to the CONNACK read, by the node that took the client.
    pub greet: u32,
}

impl Steps {
    /// A duration as it is kept here; more than an hour is an hour.
    pub fn micros(duration: Duration) -> u32 {
        u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
    }
}

impl PlacementKey {
    /// The key of `affinity_key`; none when that is empty.
    pub fn of(affinity_key: &[u8]) -> Self {
        Self((!affinity_key.is_empty()).then(|| {
            let hash = xxhash_rust::xxh3::xxh3_128(affinity_key);
            [(hash >> 64) as u64, hash as u64]
        }))
    }

    /// The hash as one number.
    pub fn hash(self) -> Option<u128> {
        self.0
            .map(|[high, low]| (u128::from(high) << 64) | u128::from(low))
    }
}

/// A client id, kept for logs and look-up: whole, or of a long one the start.
#[derive(Clone, Debug)]
pub enum KeptId {
    /// All of it; empty for an anonymous client that was given none.
    Whole(Box<[u8]>),
    /// The start of a long one, and what tells it apart from others.
    Start(Box<Start>),
}

/// What is kept of a long client id.
#[derive(Clone, Debug)]
pub struct Start {
    bytes: [u8; CLIENT_ID_KEPT_MAX],
    length: usize,
    hash: u64,
}

impl KeptId {
    /// What is kept of `client_id`.
    pub fn of(client_id: &[u8]) -> Self {
        match client_id.first_chunk() {
            Some(start) if client_id.len() > CLIENT_ID_KEPT_MAX => Self::Start(Box::new(Start {
                bytes: *start,
                length: client_id.len(),
                hash: xxhash_rust::xxh3::xxh3_64(client_id),
            })),
            _ => Self::Whole(client_id.into()),
        }
    }
}

impl fmt::Display for KeptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => Shown(bytes).fmt(f),
            Self::Start(start) => ShownStart {
                start: &start.bytes,
                bytes: start.length,
                hash: start.hash,
            }
            .fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_id_is_shown_as_the_whole_one_would_be() {
        for length in [0, 1, 128, 129, 255, 256, 257, 65_535] {
            let id: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let kept = KeptId::of(&id);
            assert_eq!(kept.to_string(), Shown(&id).to_string(), "{length}");
        }
        assert_eq!(size_of::<KeptId>(), size_of::<Box<[u8]>>());
    }
}
