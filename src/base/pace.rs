//! Limits the rate at which connections are closed, without bursts ahead of time. A pure function of the elapsed time.

use std::time::Duration;

/// The pace at which connections are closed.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u32,
    closed: u64,
}

impl Pace {
    /// Closes `rate` connections a second.
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate, closed: 0 }
    }

    /// How many more may be closed after `elapsed` in all.
    pub(crate) fn due(&self, elapsed: Duration) -> usize {
        let due = u128::from(self.rate) * elapsed.as_micros() / 1_000_000;
        let more = due.saturating_sub(u128::from(self.closed));
        usize::try_from(more).unwrap_or(usize::MAX)
    }

    /// How many have been closed so far.
    pub(crate) fn count(&self) -> u64 {
        self.closed
    }

    /// Counts `count` closed connections.
    pub(crate) fn closed(&mut self, count: usize) {
        self.closed += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_never_runs_ahead_and_catches_up() {
        let mut pace = Pace::new(200);
        assert_eq!(pace.due(Duration::ZERO), 0);
        assert_eq!(pace.due(Duration::from_millis(50)), 10);
        pace.closed(10);
        assert_eq!(pace.due(Duration::from_millis(50)), 0);
        // A late round closes more.
        assert_eq!(pace.due(Duration::from_millis(200)), 30);
        pace.closed(20);
        assert_eq!(pace.due(Duration::from_millis(200)), 10);
        pace.closed(10);
        assert_eq!(pace.due(Duration::from_secs(5)), 960);
    }
}
