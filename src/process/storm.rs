//! Tells when a storm of clients begins and ends: far more connect than usual, or more than nodes may get.
//!
//! It compares sums of counters that there are anyway, once a second, on control's thread. A connection costs nothing more.

use std::collections::VecDeque;

use crate::base::events::{Change, Events};

/// The seconds over which the rate is taken, and in which clients must have waited without a pause.
const BEGINS_AFTER: usize = 3;

/// The seconds in a row that must be calm before a storm has ended.
const ENDS_AFTER: u32 = 10;

/// A storm has so many times the usual rate.
const TIMES_USUAL: f64 = 10.0;

/// Fewer clients per second than this are no storm, however few are usual.
const RATE_MIN: f64 = 100.0;

/// It is calm below this part of the rate at which a storm begins.
const CALM_SHARE: f64 = 1.0 / 3.0;

/// The usual rate follows that of each second by this part: what lasts for ten minutes is usual.
const USUAL_SHARE: f64 = 1.0 / 600.0;

/// What is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Clients that have connected since the start of the process.
    pub(super) connects: u64,
    /// Clients that wait for their turn at nodes.
    pub(super) waiting: usize,
}

/// Whether there is a storm.
#[derive(Debug, Default)]
pub(super) struct Storm {
    /// The last samples, the newest at the end.
    last: VecDeque<Sample>,
    /// Clients that connect per second, over a long time.
    usual: f64,
    /// The storm that goes on.
    now: Option<Going>,
}

#[derive(Debug)]
struct Going {
    seconds: u64,
    connects_before: u64,
    /// For so many seconds it has been calm.
    calm: u32,
}

impl Storm {
    /// Knows already how many clients connect per second usually.
    pub(super) fn of_usual(usual: f64) -> Self {
        Self {
            usual,
            ..Self::default()
        }
    }

    /// How many clients connect per second usually.
    pub(super) fn usual(&self) -> f64 {
        self.usual
    }

    /// Whether there is one.
    pub(super) fn is_going(&self) -> bool {
        self.now.is_some()
    }

    /// Takes the sample of this second, tells of a change, and writes the line on it.
    pub(super) fn check(&mut self, sample: Sample, events: &Events) {
        let Some(change) = self.look(sample) else {
            return;
        };
        match &change {
            Change::StormBegun {
                connects_per_second,
                usual_per_second,
                waiting,
            } => tracing::warn!(
                event = Change::STORM_BEGUN,
                connects_per_second,
                usual_per_second,
                waiting,
                "far more clients connect than usual, or more than nodes may get"
            ),
            Change::StormEnded { seconds, connects } => tracing::info!(
                event = Change::STORM_ENDED,
                seconds,
                connects,
                "no more clients connect than usual"
            ),
            _ => {}
        }
        events.push(change);
    }

    /// Takes the sample of this second. Returns whether a storm has begun or ended, if either.
    fn look(&mut self, sample: Sample) -> Option<Change> {
        let newest = self.last.back().copied();
        let oldest = self.last.front().copied();
        self.last.push_back(sample);
        let (Some(newest), Some(oldest)) = (newest, oldest) else {
            return None;
        };
        let seconds = self.last.len() - 1;
        if seconds == BEGINS_AFTER {
            self.last.pop_front();
        }
        let rate = sample.connects.saturating_sub(oldest.connects) as f64 / seconds as f64;
        let begins_at = (TIMES_USUAL * self.usual).max(RATE_MIN);
        let connects = sample.connects.saturating_sub(newest.connects);
        self.usual += (connects as f64 - self.usual) * USUAL_SHARE;
        let Some(going) = &mut self.now else {
            let is_full = seconds == BEGINS_AFTER;
            let has_waited = self.last.iter().all(|sample| sample.waiting > 0);
            if !is_full || rate < begins_at && !has_waited {
                return None;
            }
            self.now = Some(Going {
                seconds: 0,
                connects_before: oldest.connects,
                calm: 0,
            });
            return Some(Change::StormBegun {
                connects_per_second: rate.round() as u64,
                usual_per_second: self.usual.round() as u64,
                waiting: sample.waiting,
            });
        };
        going.seconds += 1;
        let is_calm = sample.waiting == 0 && rate < begins_at * CALM_SHARE;
        going.calm = if is_calm { going.calm + 1 } else { 0 };
        if going.calm < ENDS_AFTER {
            return None;
        }
        let ended = Change::StormEnded {
            seconds: going.seconds,
            connects: sample.connects.saturating_sub(going.connects_before),
        };
        self.now = None;
        Some(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds in which storms begin (`true`) and end, if each second has so many connects and so many that wait.
    fn changes(seconds: impl IntoIterator<Item = (u64, usize)>) -> Vec<(usize, bool)> {
        let mut storm = Storm::default();
        let mut connects = 0;
        storm.look(Sample::default());
        let mut changes = Vec::new();
        for (second, (more, waiting)) in seconds.into_iter().enumerate() {
            connects += more;
            match storm.look(Sample { connects, waiting }) {
                Some(Change::StormBegun { .. }) => changes.push((second, true)),
                Some(Change::StormEnded { .. }) => changes.push((second, false)),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            assert_eq!(storm.is_going(), changes.last().is_some_and(|(_, begun)| *begun));
        }
        changes
    }

    fn times(count: usize, second: (u64, usize)) -> impl Iterator<Item = (u64, usize)> + Clone {
        std::iter::repeat_n(second, count)
    }

    #[test]
    fn three_seconds_of_far_more_clients_than_usual_are_a_storm_until_ten_are_calm() {
        let usual = times(1_800, (20, 0));
        let storm = usual.clone().chain(times(30, (2_000, 0))).chain(times(60, (20, 0)));
        // The first second of it makes a mean of 680, which is more than ten times 19.
        assert_eq!(changes(storm), [(1_800, true), (1_841, false)]);
        let twice = usual.clone().chain(times(60, (40, 0)));
        assert_eq!(changes(twice), []);
        let few = times(60, (99, 0));
        assert_eq!(changes(few), []);
    }

    #[test]
    fn a_pause_in_a_storm_does_not_end_it() {
        let wave = times(5, (5_000, 0)).chain(times(8, (0, 0)));
        let waves = times(60, (1, 0)).chain(wave.clone()).chain(wave.clone()).chain(wave);
        assert_eq!(changes(waves.chain(times(20, (0, 0)))), [(60, true), (102, false)]);
    }

    #[test]
    fn a_rate_that_lasts_becomes_usual() {
        let found = changes(times(1_200, (1_000, 0)).chain(times(1_200, (3_000, 0))));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], (2, true));
        assert!((120..600).contains(&found[1].0), "{found:?}");
    }

    #[test]
    fn clients_that_wait_for_their_turn_are_a_storm_and_a_single_moment_is_none() {
        let waiting = times(5, (50, 0)).chain(times(4, (50, 7)));
        // In the first second behind them, the mean is still 37.
        assert_eq!(changes(waiting.chain(times(20, (10, 0)))), [(7, true), (19, false)]);
        let moment = times(5, (50, 0)).chain(times(2, (50, 900))).chain(times(9, (50, 0)));
        assert_eq!(changes(moment), []);
    }

    #[test]
    fn its_end_says_how_many_came() {
        let mut storm = Storm::default();
        let mut connects = 0;
        let mut ended = None;
        for second in 0..40 {
            connects += if second < 10 { 500 } else { 0 };
            ended = ended.or(storm
                .look(Sample { connects, waiting: 0 })
                .filter(|change| matches!(change, Change::StormEnded { .. })));
        }
        // The first sample has nothing before it.
        assert_eq!(
            ended,
            Some(Change::StormEnded {
                seconds: 18,
                connects: 4_500
            })
        );
    }
}
