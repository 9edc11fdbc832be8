//! How a balancer empties itself: what is waited for, and how fast connections are closed. A leaf.

use std::time::Duration;

/// How a balancer that is to end lets go of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long it goes on accepting after `/readyz` says that it drains, so that whoever stands before it can turn away.
    pub delay: Duration,
    /// Connections closed in a second, so that the other balancers and the nodes are not stampeded.
    pub rate: u32,
    /// How long closing may take; what is left then is closed at once.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            rate: 500,
            grace: Duration::from_secs(30),
        }
    }
}

/// How many connections are to be closed when.
#[derive(Debug)]
pub struct Pace {
    rate: u32,
    closed: u64,
}

impl Pace {
    /// Nothing is closed yet.
    pub fn new(rate: u32) -> Self {
        Self { rate, closed: 0 }
    }

    /// How many more may be closed when this much time has passed.
    pub fn due(&self, elapsed: Duration) -> usize {
        let due = u128::from(self.rate) * elapsed.as_micros() / 1_000_000;
        let more = due.saturating_sub(u128::from(self.closed));
        usize::try_from(more).unwrap_or(usize::MAX)
    }

    /// So many were closed.
    pub fn closed(&mut self, count: usize) {
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
        // A round that came late makes up for it.
        assert_eq!(pace.due(Duration::from_millis(200)), 30);
        pace.closed(20);
        assert_eq!(pace.due(Duration::from_millis(200)), 10);
        pace.closed(10);
        assert_eq!(pace.due(Duration::from_secs(5)), 960);
    }
}
