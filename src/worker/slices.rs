//! Long work of a worker, cut into slices between which other tasks have a turn.

use std::time::Duration;

use tokio::time::Instant;

/// Rows or places of the table that one slice looks at, at most: tens of microseconds.
pub(super) const ROWS_MAX: u32 = 256;

/// Connections that one slice orders to end, at most: each of them wakes a task.
pub(super) const CLOSES_MAX: usize = 64;

/// The slices of one piece of work.
#[derive(Debug, Default)]
pub(super) struct Slices {
    count: u32,
    longest: Duration,
}

impl Slices {
    /// Does one slice, and gives way to other tasks.
    pub(super) async fn next<T>(&mut self, slice: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = slice();
        self.longest = self.longest.max(began.elapsed());
        self.count += 1;
        tokio::task::yield_now().await;
        done
    }

    /// Logs how long they held up the worker, for so many rows or places in all.
    pub(super) fn log(self, order: &'static str, rows: usize) {
        let Self { count, longest } = self;
        tracing::debug!(
            order,
            rows,
            slices = count,
            longest_us = longest.as_micros() as u64,
            "order carried out"
        );
    }
}
