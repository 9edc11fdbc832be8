//! The bench's clock: nanoseconds of the machine's monotonic clock, the same in every process and in timerfd.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started.
///
/// Plain numbers, because they travel inside messages: a subscriber in another process of the same machine can tell a
/// message's age.
pub(super) type Nanos = u64;

/// One second.
pub(super) const SECOND: Nanos = 1_000_000_000;

/// The time now.
pub(super) fn now() -> Nanos {
    // Linux always has this clock, so the zero is never used.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| nanos(Duration::from(time)))
}

/// A duration as nanoseconds, capped at the largest number, which is more than 500 years.
pub(super) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
