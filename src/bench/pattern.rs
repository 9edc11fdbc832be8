//! The content of messages: bytes that do not repeat, so that a lost, doubled or moved stretch is seen.

use super::packet::Stamp;

/// Where a message's body may begin in the pattern: consecutive messages begin at different places.
const STARTS: usize = 4096;

/// The bytes that every body is a stretch of.
pub(super) struct Pattern {
    pub(super) bytes: Vec<u8>,
}

impl Pattern {
    /// Enough for bodies of this size.
    pub(super) fn new(body_bytes: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let bytes = (0..body_bytes + STARTS).map(|_| {
            // Xorshift: any generator would do, as long as every run has the same bytes.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        Self {
            bytes: bytes.collect(),
        }
    }

    /// Where the body behind this stamp begins.
    pub(super) fn start(&self, stamp: Stamp) -> usize {
        (stamp.sender as usize * 31 + stamp.sequence as usize * 97) % STARTS
    }
}
