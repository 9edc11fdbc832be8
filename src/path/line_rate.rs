//! Limits the rate of log lines on connections that ended before they were routed: a client that sends one byte and closes, thousands
//! of times a second, must not fill a disk or drown the other lines.

use std::cell::Cell;

/// So many seconds' worth of lines may be written at once, after as long without any: enough to show an incident in full.
const BURST_SECONDS: u32 = 60;

/// Seconds between two lines that tell how many were kept back.
const TOLD_EVERY: u32 = 10;

/// The lines that one worker may write.
#[derive(Debug)]
pub(super) struct LineRate {
    per_second: Cell<u32>,
    left: Cell<u32>,
    kept_back: Cell<u64>,
    /// Seconds until it may be told how many were kept back.
    told_in: Cell<u32>,
}

impl LineRate {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second: Cell::new(per_second),
            left: Cell::new(burst(per_second)),
            kept_back: Cell::new(0),
            told_in: Cell::new(0),
        }
    }

    pub(super) fn set(&self, per_second: u32) {
        self.per_second.set(per_second);
        self.left.update(|left| left.min(burst(per_second)));
    }

    /// Whether one more line may be written; otherwise counts it as kept back.
    pub(super) fn take(&self) -> bool {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                true
            }
            None => {
                self.kept_back.update(|kept_back| kept_back + 1);
                false
            }
        }
    }

    /// A second has passed. Returns how many lines were kept back since this was last told, if it is to be told now.
    pub(super) fn second(&self) -> Option<u64> {
        let per_second = self.per_second.get();
        let left = self.left.get().saturating_add(per_second);
        self.left.set(left.min(burst(per_second)));
        self.told_in.update(|seconds| seconds.saturating_sub(1));
        if self.kept_back.get() == 0 || self.told_in.get() > 0 {
            return None;
        }
        self.told_in.set(TOLD_EVERY);
        Some(self.kept_back.take())
    }
}

fn burst(per_second: u32) -> u32 {
    per_second.saturating_mul(BURST_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &LineRate, wanted: usize) -> usize {
        (0..wanted).filter(|_| rate.take()).count()
    }

    #[test]
    fn after_a_burst_lines_have_a_rate_and_those_kept_back_are_counted() {
        let rate = LineRate::new(2);
        assert_eq!(rate.second(), None);
        assert_eq!(taken(&rate, 200), 120);
        assert_eq!(rate.second(), Some(80));
        let mut told = Vec::new();
        for second in 1..=25 {
            assert_eq!(taken(&rate, 10), 2, "{second}");
            told.extend(rate.second().map(|kept_back| (second, kept_back)));
        }
        assert_eq!(told, [(10, 80), (20, 80)]);
        // The flood is over, and the rest is told.
        let rest = (0..10).find_map(|_| rate.second());
        assert_eq!(rest, Some(40));
        (0..100).for_each(|_| assert_eq!(rate.second(), None));
        assert_eq!(taken(&rate, 200), 120, "quiet gives a burst again, and no more");
    }

    #[test]
    fn another_rate_applies_at_once() {
        let rate = LineRate::new(2);
        rate.set(0);
        assert_eq!(taken(&rate, 10), 0);
        assert_eq!(rate.second(), Some(10));
        assert_eq!(taken(&rate, 10), 0);
        rate.set(1);
        rate.second();
        assert_eq!(taken(&rate, 10), 1);
    }
}
