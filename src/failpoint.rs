//! Places where a test lets the process panic, so that it can be seen what a panic ends and what not. A leaf.
//!
//! Without the feature `failpoints` nothing is there.

use crate::vital::Task;

/// A place, and the environment variable that says at which passing it panics, counted over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A node has answered, and nothing is relayed yet: `REMORA_PANIC_IN_SETUP`.
    SetUp,
    /// A relay's turn: `REMORA_PANIC_IN_RELAY`.
    Relay,
    /// A worker was told to end some relays, and has not done so yet: `REMORA_PANIC_IN_CLOSE_SOME`.
    CloseSome,
    /// A listener closes, and takes no new handshakes any more: `REMORA_PANIC_IN_NO_MORE`.
    NoMore,
    /// A turn of a vital task, before it begins: `REMORA_PANIC_IN_` and its name, in capitals.
    Task(Task),
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

    /// Passings until the panic, of the places for which one is wished.
    static LEFT: LazyLock<Vec<(Place, AtomicU64)>> = LazyLock::new(|| {
        let on_the_path = [Place::SetUp, Place::Relay, Place::CloseSome, Place::NoMore];
        let places = on_the_path.into_iter().chain(Task::ALL.map(Place::Task));
        let wished = |place: Place| {
            let name = place.name().to_uppercase();
            let count = std::env::var(format!("REMORA_PANIC_IN_{name}")).ok()?;
            Some((place, AtomicU64::new(count.parse().ok()?)))
        };
        places.filter_map(wished).collect()
    });
    let left = LEFT.iter().find(|(wished, _)| *wished == place);
    if left.is_some_and(|(_, left)| left.fetch_sub(1, Ordering::Relaxed) == 1) {
        panic!("a panic in {place:?}, as wished");
    }
}

#[cfg(feature = "failpoints")]
impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::SetUp => "setup",
            Self::Relay => "relay",
            Self::CloseSome => "close_some",
            Self::NoMore => "no_more",
            Self::Task(task) => task.name(),
        }
    }
}

/// Lets a moment pass.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn linger() {}

/// Lets a moment pass between a panic and the word of it, so that whoever relies on the word coming first is found out.
#[cfg(feature = "failpoints")]
pub fn linger() {
    std::thread::park_timeout(std::time::Duration::from_millis(100));
}
