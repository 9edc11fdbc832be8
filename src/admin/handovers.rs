//! What was counted of handovers, and its metrics. The next process goes on counting.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::MetricType;

use super::page::Page;
use crate::path::relay::Stays;

/// What was counted of handovers.
#[derive(Debug, Default)]
pub struct Handovers {
    completed: AtomicU64,
    failed: AtomicU64,
    moved: AtomicU64,
    left: [AtomicU64; Stays::ALL.len()],
    /// Of the last one, in microseconds.
    pause_us: AtomicU64,
}

impl Handovers {
    /// A handover has failed.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A handover is over.
    pub(crate) fn completed(&self, moved: u64, left: &[(Stays, u64)], pause: Duration) {
        self.completed.fetch_add(1, Ordering::Relaxed);
        self.moved.fetch_add(moved, Ordering::Relaxed);
        for (stays, count) in left {
            if let Some(place) = Stays::ALL.iter().position(|other| other == stays) {
                self.left[place].fetch_add(*count, Ordering::Relaxed);
            }
        }
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        self.pause_us.store(micros, Ordering::Relaxed);
    }

    /// Every count, by a name that stays the same.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let left = Stays::ALL.iter().zip(&self.left);
        let left = left.map(move |(stays, count)| ("handover_left", stays.name(), read(count)));
        let others = [
            ("handovers", "completed", read(&self.completed)),
            ("handovers", "failed", read(&self.failed)),
            ("handover_moved", "", read(&self.moved)),
            ("handover_pause_us", "", read(&self.pause_us)),
        ];
        others.into_iter().chain(left)
    }

    /// Adds what another process has counted under such a name. Returns whether it is one of these.
    pub(crate) fn learn(&self, name: &str, label: &str, count: u64) -> bool {
        let add = |to: &AtomicU64| {
            to.fetch_add(count, Ordering::Relaxed);
        };
        match (name, label) {
            ("handovers", "completed") => add(&self.completed),
            ("handovers", "failed") => add(&self.failed),
            ("handover_moved", _) => add(&self.moved),
            ("handover_pause_us", _) => self.pause_us.store(count, Ordering::Relaxed),
            ("handover_left", reason) => {
                let mut all = Stays::ALL.iter().zip(&self.left);
                if let Some((_, to)) = all.find(|(stays, _)| stays.name() == reason) {
                    add(to);
                }
            }
            _ => return false,
        }
        true
    }

    pub(super) fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let results = [("completed", &self.completed), ("failed", &self.failed)];
        page.counters(
            "handovers",
            "Handovers to another process, by result",
            results
                .into_iter()
                .map(|(result, count)| ([("result", result)], read(count))),
        )?;
        let left = Stays::ALL.iter().zip(&self.left);
        let left = left.map(|(stays, count)| ([("result", "left"), ("reason", stays.name())], read(count)));
        let moved = ([("result", "moved"), ("reason", "")], read(&self.moved));
        page.counters(
            "handover_connections",
            "Connections at handovers: moved, or left with the old process",
            [moved].into_iter().chain(left),
        )?;
        let mut pause = page.family(
            "handover_pause_seconds",
            "The longest time in which connections were not relayed, of the last handover",
            MetricType::Gauge,
        )?;
        pause.encode_gauge(&Duration::from_micros(read(&self.pause_us)).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_goes_on_counting() {
        let (giver, taker) = (Handovers::default(), Handovers::default());
        giver.failed();
        giver.completed(7, &[(Stays::Tls, 2)], Duration::from_millis(3));
        taker.failed();
        for (name, label, count) in giver.counts() {
            assert!(taker.learn(name, label, count), "{name}");
        }
        let counts: Vec<_> = taker.counts().filter(|(_, _, count)| *count > 0).collect();
        let expected = [
            ("handovers", "completed", 1),
            ("handovers", "failed", 2),
            ("handover_moved", "", 7),
            ("handover_pause_us", "", 3_000),
            ("handover_left", "tls", 2),
        ];
        assert_eq!(counts, expected);
        assert!(!taker.learn("ends", "", 1));
    }
}
