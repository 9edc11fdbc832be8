//! One endpoint's health as the path observes it: a state machine that is told the time.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;
use crate::cluster::Observed;

/// What has been observed of one of a node's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It failed too often in a row.
    Down {
        /// How long it stays down before its next trial.
        backoff: Duration,
        /// When the next trial is offered, or offered again because nobody has reported on the last.
        trial_at: Instant,
    },
}

/// What follows from an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It went down.
    WentDown,
    /// It came back.
    CameBack,
}

impl Health {
    /// Whether it gets no clients but trials.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Down { .. })
    }

    /// Learns what the path has seen.
    pub fn observe(
        &mut self,
        observed: Observed,
        settings: &Settings,
        now: Instant,
    ) -> Option<Change> {
        match observed {
            Observed::Answered => self.answered(),
            Observed::Failed { in_a_row, trial } => self.failed(in_a_row, trial, settings, now),
        }
    }

    /// A dial or a greeting failed: the `in_a_row`th, and perhaps the trial of one that was down.
    fn failed(
        &mut self,
        in_a_row: u32,
        trial: bool,
        settings: &Settings,
        now: Instant,
    ) -> Option<Change> {
        match self {
            Self::Up if in_a_row >= settings.failures_max => {
                *self = Self::down(settings.down_min, now);
                Some(Change::WentDown)
            }
            Self::Down { backoff, .. } if trial => {
                *self = Self::down((*backoff * 2).min(settings.down_max), now);
                None
            }
            // Dials that were under way when the node went down say nothing new.
            Self::Up | Self::Down { .. } => None,
        }
    }

    fn answered(&mut self) -> Option<Change> {
        match self {
            Self::Up => None,
            Self::Down { .. } => {
                *self = Self::Up;
                Some(Change::CameBack)
            }
        }
    }

    /// Whether a trial is to be offered now; the next one, should nobody report on it, comes `patience` later.
    pub fn trial_is_due(&mut self, patience: Duration, now: Instant) -> bool {
        match self {
            Self::Down { trial_at, .. } if *trial_at <= now => {
                *trial_at = now + patience;
                true
            }
            Self::Up | Self::Down { .. } => false,
        }
    }

    /// When [`Health::trial_is_due`] will say yes; never for one that is up.
    pub fn next_trial(&self) -> Option<Instant> {
        match self {
            Self::Up => None,
            Self::Down { trial_at, .. } => Some(*trial_at),
        }
    }

    fn down(backoff: Duration, now: Instant) -> Self {
        Self::Down {
            backoff,
            trial_at: now + backoff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn three_failures_in_a_row_make_a_node_down() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut health = Health::Up;
        assert_eq!(health.failed(1, false, &settings, now), None);
        assert_eq!(health.failed(2, false, &settings, now), None);
        let change = health.failed(3, false, &settings, now);
        assert_eq!(change, Some(Change::WentDown));
        assert!(health.is_down());
    }

    #[test]
    fn each_failed_trial_doubles_the_wait_up_to_the_longest() {
        let (settings, mut now) = (Settings::default(), Instant::now());
        let mut health = Health::down(settings.down_min, now);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let due = health.next_trial().expect("a node that is down");
            assert_eq!(due - now, seconds(expected));
            now = due;
            assert!(health.trial_is_due(PATIENCE, now));
            assert_eq!(health.failed(9, true, &settings, now), None);
        }
    }

    #[test]
    fn dials_that_were_under_way_do_not_lengthen_the_wait() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut health = Health::down(settings.down_min, now);
        let before = health.clone();
        assert_eq!(health.failed(4, false, &settings, now + seconds(1)), None);
        assert_eq!(health, before);
    }

    #[test]
    fn a_trial_without_a_report_is_offered_again() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut health = Health::down(settings.down_min, now);
        let due = now + settings.down_min;
        assert!(!health.trial_is_due(PATIENCE, now));
        assert!(health.trial_is_due(PATIENCE, due));
        assert!(!health.trial_is_due(PATIENCE, due + seconds(9)));
        assert!(health.trial_is_due(PATIENCE, due + PATIENCE));
    }

    #[test]
    fn an_answer_brings_a_node_back() {
        let mut health = Health::down(seconds(4), Instant::now());
        assert_eq!(health.answered(), Some(Change::CameBack));
        assert_eq!(health, Health::Up);
        assert_eq!(health.answered(), None);
    }
}
