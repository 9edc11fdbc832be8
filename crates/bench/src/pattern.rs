//! The content of messages: bytes that do not repeat, so that lost, doubled or moved bytes are noticed.

use super::packet::Stamp;

/// How many places of the pattern a body may begin at. Consecutive messages begin at different places.
const STARTS: usize = 4096;

/// The bytes that every body is a part of.
pub(super) struct Pattern {
    pub(super) bytes: Vec<u8>,
}

impl Pattern {
    /// For bodies up to this size.
    pub(super) fn new(body_bytes: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let bytes = (0..body_bytes + STARTS).map(|_| {
            // Xorshift. Any generator would do that gives every run the same bytes.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        Self { bytes: bytes.collect() }
    }

    /// Where the body behind this stamp begins.
    pub(super) fn start(&self, stamp: Stamp) -> usize {
        (stamp.sender as usize * 31 + stamp.sequence as usize * 97) % STARTS
    }
}
