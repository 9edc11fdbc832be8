//! Places where a test lets the path panic, so that it can be seen that one connection ends and no other. A leaf.
//!
//! Without the feature `failpoints` nothing is there.

/// A place on the path, and the environment variable that says at which passing it panics, counted over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A node has answered, and nothing is relayed yet: `REMORA_PANIC_IN_SETUP`.
    SetUp,
    /// A relay's turn: `REMORA_PANIC_IN_RELAY`.
    Relay,
}

/// Passes a place.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_: Place) {}

/// Passes a place, unless this is the time to panic.
///
/// # Panics
/// Once, where the environment says so.
#[cfg(feature = "failpoints")]
pub fn pass(place: Place) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Passings until the panic; wrapped around where there is none.
    static LEFT: LazyLock<[AtomicU64; 2]> = LazyLock::new(|| {
        ["REMORA_PANIC_IN_SETUP", "REMORA_PANIC_IN_RELAY"].map(|variable| {
            let wish = std::env::var(variable).ok();
            let count = wish.and_then(|count| count.parse().ok());
            AtomicU64::new(count.unwrap_or(u64::MAX))
        })
    });
    if LEFT[place as usize].fetch_sub(1, Ordering::Relaxed) == 1 {
        panic!("a panic in {place:?}, as wished");
    }
}
