//! Places where a test can make the process panic or hang, to see what that ends and what it does not. A leaf.
//!
//! Without the feature `failpoints`, these functions do nothing.

use crate::base::task::Task;

/// A place. Its environment variable holds a number N: the Nth passage panics, counted across all workers. With `REMORA_HANG_IN_` for
/// `REMORA_PANIC_IN_`, passages are counted from when the file exists that `REMORA_HANG_WHILE` names, and the Nth takes until it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// After a node has answered, before the relay starts: `REMORA_PANIC_IN_SETUP`.
    SetUp,
    /// In a relay's turn: `REMORA_PANIC_IN_RELAY`.
    Relay,
    /// After a worker was ordered to close relays, before it closes them: `REMORA_PANIC_IN_CLOSE`.
    Close,
    /// When a closing listener has stopped taking new handshakes: `REMORA_PANIC_IN_NO_MORE`.
    NoMore,
    /// Before `remora top` draws a frame: `REMORA_PANIC_IN_TOP`.
    Top,
    /// Before a turn of a critical task: `REMORA_PANIC_IN_` and its name in capitals.
    Task(Task),
}

/// Marks a place; does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_: Place) {}

/// Marks a place.
///
/// # Panics
/// Once, at the passage that the environment variable names.
#[cfg(feature = "failpoints")]
pub fn pass(place: Place) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The passages that are left until the panic, or until the hanging one, for each place whose variable is set.
    static PANICS: LazyLock<Vec<(Place, AtomicU64)>> = LazyLock::new(|| passages("PANIC"));
    static HANGS: LazyLock<Vec<(Place, AtomicU64)>> = LazyLock::new(|| passages("HANG"));

    fn passages(what: &str) -> Vec<(Place, AtomicU64)> {
        let no_tasks = [Place::SetUp, Place::Relay, Place::Close, Place::NoMore, Place::Top];
        let places = no_tasks.into_iter().chain(Task::ALL.map(Place::Task));
        let from_environment = |place: Place| {
            let name = place.name().to_uppercase();
            let count = std::env::var(format!("REMORA_{what}_IN_{name}")).ok()?;
            Some((place, AtomicU64::new(count.parse().ok()?)))
        };
        places.filter_map(from_environment).collect()
    }

    let is_due = |passages: &[(Place, AtomicU64)]| {
        let left = passages.iter().find(|(other, _)| *other == place);
        left.is_some_and(|(_, left)| left.fetch_sub(1, Ordering::Relaxed) == 1)
    };
    let holds = || {
        let file = std::env::var_os("REMORA_HANG_WHILE").unwrap_or_default();
        std::path::Path::new(&file).exists()
    };
    if !HANGS.is_empty() && holds() && is_due(&HANGS) {
        while holds() {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
    }
    if is_due(&PANICS) {
        panic!("test panic in {place:?}");
    }
}

#[cfg(feature = "failpoints")]
impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::SetUp => "setup",
            Self::Relay => "relay",
            Self::Close => "close",
            Self::NoMore => "no_more",
            Self::Top => "top",
            Self::Task(task) => task.name(),
        }
    }
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn delay_report() {}

/// Waits 100 ms between a panic and its report, so that tests fail if code relies on the report coming first.
#[cfg(feature = "failpoints")]
pub(crate) fn delay_report() {
    std::thread::park_timeout(std::time::Duration::from_millis(100));
}
