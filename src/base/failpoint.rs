//! Places where a test can make the process panic, hang or die, to see what that ends and what it does not. A leaf.
//!
//! Without the feature `failpoints`, these functions do nothing.

use crate::base::task::Task;

/// A place. Its environment variable holds a number N: the Nth passage panics, counted across all workers. With `REMORA_KILL_IN_` for
/// `REMORA_PANIC_IN_`, the process kills itself there, as `kill -9` would. With `REMORA_HANG_IN_`, passages are counted from when the
/// file exists that `REMORA_HANG_WHILE` names, and the Nth takes until it is gone.
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
    /// Before the giver of a handover sends this message, or after it has received it: `REMORA_PANIC_IN_GIVE_STATES`.
    Give(&'static str),
    /// The same in the process that takes over: `REMORA_PANIC_IN_TAKE_STATES`. `REMORA_PANIC_IN_TAKE_RUN` comes after it has said that
    /// it runs, before it does.
    Take(&'static str),
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

    use rustix::process::{Signal, getpid, kill_process};

    /// The passages that are left until the panic, the end, or the hanging one, by the name of each place whose variable is set.
    type Passages = LazyLock<Vec<(String, AtomicU64)>>;
    static PANICS: Passages = LazyLock::new(|| passages("REMORA_PANIC_IN_"));
    static KILLS: Passages = LazyLock::new(|| passages("REMORA_KILL_IN_"));
    static HANGS: Passages = LazyLock::new(|| passages("REMORA_HANG_IN_"));

    fn passages(prefix: &str) -> Vec<(String, AtomicU64)> {
        let of_variable = |(variable, count): (std::ffi::OsString, std::ffi::OsString)| {
            let place = variable.to_str()?.strip_prefix(prefix)?.to_lowercase();
            Some((place, AtomicU64::new(count.to_str()?.parse().ok()?)))
        };
        std::env::vars_os().filter_map(of_variable).collect()
    }

    let is_due = |passages: &[(String, AtomicU64)]| {
        let left = passages.iter().find(|(other, _)| place.is_called(other));
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
    if is_due(&KILLS) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    if is_due(&PANICS) {
        panic!("test panic in {place:?}");
    }
}

#[cfg(feature = "failpoints")]
impl Place {
    fn is_called(self, name: &str) -> bool {
        match self {
            Self::SetUp => name == "setup",
            Self::Relay => name == "relay",
            Self::Close => name == "close",
            Self::NoMore => name == "no_more",
            Self::Top => name == "top",
            Self::Task(task) => name == task.name(),
            Self::Give(message) => name.strip_prefix("give_") == Some(message),
            Self::Take(message) => name.strip_prefix("take_") == Some(message),
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
