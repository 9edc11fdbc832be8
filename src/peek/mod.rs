//! Reads as much of the CONNECT as the affinity key needs, under a cap and a deadline, and keeps every byte for replay.

use std::time::Duration;

/// How much of an undecided client is held, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From accept to routed: PROXY header, TLS, upgrade and CONNECT together.
    pub deadline: Duration,
    /// Bytes held for all undecided connections together; when full, the largest holder is closed.
    pub held_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            held_bytes_max: 64 * 1024 * 1024,
        }
    }
}
