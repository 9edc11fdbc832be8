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
    /// A turn of a vital task: `REMORA_PANIC_IN_` and its name, in capitals.
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

    const PLACES: usize = 2 + Task::ALL.len();

    /// Passings until the panic; wrapped around where there is none.
    static LEFT: LazyLock<[AtomicU64; PLACES]> = LazyLock::new(|| {
        std::array::from_fn(|index| {
            let name = match index {
                0 => "SETUP".to_owned(),
                1 => "RELAY".to_owned(),
                more => Task::ALL[more - 2].name().to_uppercase(),
            };
            let wish = std::env::var(format!("REMORA_PANIC_IN_{name}")).ok();
            let count = wish.and_then(|count| count.parse().ok());
            AtomicU64::new(count.unwrap_or(u64::MAX))
        })
    });
    let index = match place {
        Place::SetUp => 0,
        Place::Relay => 1,
        Place::Task(task) => 2 + task as usize,
    };
    if LEFT[index].fetch_sub(1, Ordering::Relaxed) == 1 {
        panic!("a panic in {place:?}, as wished");
    }
}
