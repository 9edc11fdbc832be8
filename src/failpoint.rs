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

    const PLACES: usize = 4 + Task::ALL.len();

    /// Passings until the panic; wrapped around where there is none.
    static LEFT: LazyLock<[AtomicU64; PLACES]> = LazyLock::new(|| {
        std::array::from_fn(|index| {
            let name = match index {
                0 => "SETUP".to_owned(),
                1 => "RELAY".to_owned(),
                2 => "CLOSE_SOME".to_owned(),
                3 => "NO_MORE".to_owned(),
                more => Task::ALL[more - 4].name().to_uppercase(),
            };
            let wish = std::env::var(format!("REMORA_PANIC_IN_{name}")).ok();
            let count = wish.and_then(|count| count.parse().ok());
            AtomicU64::new(count.unwrap_or(u64::MAX))
        })
    });
    let index = match place {
        Place::SetUp => 0,
        Place::Relay => 1,
        Place::CloseSome => 2,
        Place::NoMore => 3,
        Place::Task(task) => 4 + task as usize,
    };
    if LEFT[index].fetch_sub(1, Ordering::Relaxed) == 1 {
        panic!("a panic in {place:?}, as wished");
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
