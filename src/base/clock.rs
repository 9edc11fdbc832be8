//! Whole seconds since the process started, with which relays timestamp their bytes; read from a cell, without a system call.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

static EPOCH: OnceLock<Instant> = OnceLock::new();

/// A worker's clock; it advances only when `tick` is called.
#[derive(Debug, Default)]
pub struct Clock(Cell<Seconds>);

/// Whole seconds since the process started, the same in every thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u32);

impl Clock {
    /// Reads the system's clock.
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(*EPOCH.get_or_init(|| now));
        self.0.set(Seconds::at_least(elapsed));
    }

    /// The time of the last tick.
    pub fn now(&self) -> Seconds {
        self.0.get()
    }
}

/// Counts from so long ago on, as the process did that this one takes over from: what is so many seconds old stays so. Returns whether
/// nothing had read the time before, as it must be.
pub fn begin_ago(age: Duration) -> bool {
    let now = Instant::now();
    // Not before the system has started.
    EPOCH.set(now.checked_sub(age).unwrap_or(now)).is_ok()
}

/// How long the process had been running at this time, as every thread counts it.
pub fn since_start(at: Instant) -> Duration {
    at.saturating_duration_since(*EPOCH.get_or_init(Instant::now))
}

/// The processor time that this thread has used; the time in which others had the processor is not in it.
pub fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // Never negative.
    Duration::try_from(used).unwrap_or_default()
}

impl Seconds {
    /// Longer than any process runs.
    pub(crate) const FOR_EVER: Self = Self(u32::MAX);

    /// `duration` in whole seconds, rounded up, so that no limit ends early. A duration that is too long becomes
    /// [`Seconds::FOR_EVER`].
    pub fn at_least(duration: Duration) -> Self {
        let whole = duration
            .as_secs()
            .saturating_add(u64::from(duration.subsec_nanos() > 0));
        u32::try_from(whole).map_or(Self::FOR_EVER, Self)
    }

    /// From `earlier` to this time.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0).into())
    }

    /// This time plus `seconds`.
    pub fn after(self, seconds: Self) -> Self {
        Self(self.0.saturating_add(seconds.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_round_up() {
        assert_eq!(Seconds::at_least(Duration::ZERO), Seconds(0));
        assert_eq!(Seconds::at_least(Duration::from_millis(1)), Seconds(1));
        assert_eq!(Seconds::at_least(Duration::from_secs(2)), Seconds(2));
        assert_eq!(Seconds::at_least(Duration::MAX), Seconds(u32::MAX));
    }
}
