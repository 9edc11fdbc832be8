//! What is known of one connection: filled in step by step, kept beside its relay, logged once at its end.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::log::{Escaped, EscapedStart};
use crate::cluster::{Decision, NodeId};
use crate::identity::{self, Identity};
use crate::mqtt::{Connack, Connect, SessionExpiry, Version};
use crate::path::ended::Ended;

/// Bytes of a client id that are kept for logs and look-up.
const CLIENT_ID_KEPT_MAX: usize = 256;

/// The most bytes of a client id (MQTT 5, 1.5.4).
const CLIENT_ID_MAX: usize = u16::MAX as usize;

/// The facts of one connection.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique in this process, in order of acceptance per worker.
    pub number: u64,
    /// Where it was accepted.
    pub listener: ListenerId,
    /// The client's true address: that of an upstream load balancer until its PROXY header is read.
    pub client: SocketAddr,
    /// The client's identity, from its TLS or from an upstream load balancer.
    pub identity: Option<Box<Identity>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// What is kept of the CONNECT, once it was read.
    pub connect: Option<Connected>,
    /// Why its node was chosen, once it was routed.
    pub decision: Option<Decision>,
    /// The node that was last dialled for it.
    pub node: Option<NodeId>,
    /// How often the CONNECT was replayed to another node.
    pub retries: u8,
    /// The code of the last CONNACK that was read.
    pub code: Option<u8>,
    /// How long each step took.
    pub steps: Steps,
}

impl Record {
    /// The record of a connection that has just been accepted.
    pub fn new(number: u64, listener: ListenerId, client: SocketAddr, accepted: Instant) -> Self {
        Self {
            number,
            listener,
            client,
            identity: None,
            accepted,
            connect: None,
            decision: None,
            node: None,
            retries: 0,
            code: None,
            steps: Steps::default(),
        }
    }

    /// Whether the common name of the client's certificate can be logged and passed on.
    ///
    /// # Errors
    /// [`Ended::CertificateName`]: the name could forge a log line, or a field that is passed on.
    pub(crate) fn check_common_name(&self) -> Result<(), Ended> {
        match self.common_name() {
            Some(name) if !identity::is_plain(name) => Err(Ended::CertificateName),
            _ => Ok(()),
        }
    }

    /// Records the time: the CONNECT was read, or the ClientHello of a client whose TLS ends at the node.
    pub(crate) fn peeked(&mut self) {
        self.steps.peek = Steps::micros(self.accepted.elapsed());
    }

    /// The client's id, if it has one.
    pub(crate) fn client_id(&self) -> Option<&KeptId> {
        let id = &self.connect.as_ref()?.client_id;
        (!id.is_empty()).then_some(id)
    }

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
    /// Keep Alive in seconds, as the client asked for it or the node granted it; 0 for none.
    pub keep_alive: u16,
    /// Clean Start (5), Clean Session (3.x).
    pub clean_start: bool,
    /// Where a placement of this client is kept.
    pub placement: PlacementKey,
    /// Where the affinity key is on the ring; without meaning for a client without one.
    pub ring_hash: u64,
    /// How long the session outlives the connection, as far as is known.
    pub session_expiry: SessionExpiry,
}

impl Connected {
    /// What is kept of a CONNECT that was read from `bytes`, of a client that is at `ring_hash` on the ring.
    pub fn new(connect: &Connect, bytes: &[u8], placement: PlacementKey, ring_hash: u64) -> Self {
        Self {
            client_id: KeptId::of(connect.client_id(bytes)),
            version: connect.version(),
            keep_alive: connect.keep_alive(),
            clean_start: connect.clean_start(),
            placement,
            ring_hash,
            session_expiry: SessionExpiry::of(connect),
        }
    }

    /// Records an accepting CONNACK. Returns the client id that it assigns to a client without an affinity key.
    pub fn accepted<'a>(&mut self, connack: &'a Connack) -> Option<&'a [u8]> {
        if let Some(seconds) = connack.session_expiry {
            self.session_expiry = SessionExpiry(seconds);
        }
        self.keep_alive = connack.server_keep_alive.unwrap_or(self.keep_alive);
        let assigned = connack.assigned_client_id.as_deref();
        let assigned = assigned.filter(|_| self.placement.hash().is_none())?;
        self.client_id = KeptId::of(assigned);
        Some(assigned)
    }
}

/// A listener as a small number, stable for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// The hash under which placements are kept: XXH3-128 of the affinity key, or `NONE` for a client without one.
///
/// In two halves, which keeps a [`Record`] aligned to 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlacementKey(pub Option<[u64; 2]>);

/// Microseconds that each step took; 0 for one that was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// From accept to a CONNECT read as far as needed.
    pub peek: u32,
    /// Waiting for its turn at nodes.
    pub pace: u32,
    /// Connecting to the node that took the client.
    pub dial: u32,
    /// From the CONNECT sent to the CONNACK read, by the node that took the client.
    pub greet: u32,
}

impl Steps {
    /// A duration in microseconds, capped at one hour.
    pub(crate) fn micros(duration: Duration) -> u32 {
        u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
    }
}

impl PlacementKey {
    /// No placement of the client is kept.
    pub(crate) const NONE: Self = Self(None);

    /// The key for `affinity_key`; `NONE` if that is empty.
    pub fn of(affinity_key: &[u8]) -> Self {
        match affinity_key.is_empty() {
            true => Self::NONE,
            false => Self::of_hash(xxhash_rust::xxh3::xxh3_128(affinity_key)),
        }
    }

    /// The key with this hash.
    pub(crate) fn of_hash(hash: u128) -> Self {
        Self(Some([(hash >> 64) as u64, hash as u64]))
    }

    /// The hash as one number.
    pub fn hash(self) -> Option<u128> {
        self.0.map(|[high, low]| (u128::from(high) << 64) | u128::from(low))
    }
}

/// A client id, kept for logs and look-up: the whole id, or the start of a long one. Two values are equal if the whole
/// ids are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeptId {
    /// The whole id; empty for an anonymous client that was given none.
    Whole(Box<[u8]>),
    /// The start of a long id, and its length and hash.
    Start(Box<Start>),
}

/// What is kept of a long client id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Start {
    bytes: [u8; CLIENT_ID_KEPT_MAX],
    length: usize,
    hash: u64,
}

/// Keyed at random, so that no client can choose ids with the same hash.
static ID_HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl KeptId {
    /// A hash, the same in every thread of this process and another one in the next.
    pub(crate) fn short_hash(&self) -> u32 {
        let mut hasher = ID_HASHER.build_hasher();
        // One write: two would cost twice as much.
        match self {
            Self::Whole(bytes) => hasher.write(bytes),
            Self::Start(start) => hasher.write_u64(start.hash),
        }
        hasher.finish() as u32
    }

    /// Whether it is the id of a client that gave none and was given none.
    pub fn is_empty(&self) -> bool {
        self.kept().is_empty()
    }

    /// The bytes that are kept: the whole id, or the first 256 bytes of a longer one.
    pub fn kept(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Start(start) => &start.bytes,
        }
    }

    /// The length and the hash of the whole id, if only its start is kept.
    pub(crate) fn long(&self) -> Option<(usize, u64)> {
        match self {
            Self::Whole(_) => None,
            Self::Start(start) => Some((start.length, start.hash)),
        }
    }

    /// An id as it was kept elsewhere, with the length and the hash of a long one; `None` if no id is kept like that.
    pub(crate) fn kept_elsewhere(kept: &[u8], long: Option<(usize, u64)>) -> Option<Self> {
        match long {
            None => (kept.len() <= CLIENT_ID_KEPT_MAX).then(|| Self::Whole(kept.into())),
            Some((length, hash)) => {
                let bytes = kept.try_into().ok()?;
                let is_long = (CLIENT_ID_KEPT_MAX + 1..=CLIENT_ID_MAX).contains(&length);
                is_long.then(|| Self::Start(Box::new(Start { bytes, length, hash })))
            }
        }
    }

    /// Whether this is the whole id.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// Keeps `client_id`, or its start if it is long.
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
            Self::Whole(bytes) => Escaped(bytes).fmt(f),
            Self::Start(start) => EscapedStart {
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
    fn kept_ids_are_equal_if_the_whole_ids_are() {
        let id = |length: usize, last: u8| {
            let mut id = vec![b'x'; length];
            id.push(last);
            KeptId::of(&id)
        };
        for length in [0, 1, 255, 256, 257, 1_000] {
            assert_eq!(id(length, b'a'), id(length, b'a'), "{length}");
            assert_ne!(id(length, b'a'), id(length, b'b'), "{length}");
            assert_ne!(id(length, b'x'), id(length + 1, b'x'), "{length}");
        }
    }

    #[test]
    fn a_kept_id_is_shown_as_the_whole_one_would_be() {
        for length in [0, 1, 128, 129, 255, 256, 257, 65_535] {
            let id: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let kept = KeptId::of(&id);
            assert_eq!(kept.to_string(), Escaped(&id).to_string(), "{length}");
        }
        assert_eq!(size_of::<KeptId>(), size_of::<Box<[u8]>>());
    }
}
