//! Closes connections: those of the whole process when it drains, those of one node, of one client, or a single one. They close
//! all at once, or at a pace.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::closing_gate::{ClosingGate, Passing};
use crate::base::pace::Pace;
use crate::path::ended::Ended;
use crate::path::relay::RowId;
use crate::worker::{Close, Order, Selector, WorkerHandle};

/// The interval between two rounds of closing.
const ROUND: Duration = Duration::from_millis(50);

/// How a draining balancer closes its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long it goes on accepting after `/readyz` reports that it is draining, so that upstream load balancers can
    /// take it out of rotation.
    pub delay: Duration,
    /// Connections closed per second, so that the other balancers and the nodes are not overloaded by reconnecting
    /// clients.
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

/// Closes the selected connections at once. Returns how many were ordered to close.
pub(super) async fn close(workers: &[WorkerHandle], selector: Selector) -> io::Result<usize> {
    let mut closed = 0;
    for worker in workers {
        let rows = worker.request(|reply| Order::Select(selector.clone(), reply)).await?;
        let close = Close {
            most: rows.len(),
            rows,
            at_rest: false,
            cause: Ended::Closed,
        };
        closed += worker.request(|reply| Order::Close(close, reply)).await?.count;
    }
    Ok(closed)
}

/// Closes connections of all workers at a pace, in rounds: those that were selected when it began, and after [`Closing::select`] those
/// that are selected then. It waits, and is not late afterwards, while connections change hands.
pub(super) struct Closing<'a> {
    workers: &'a [WorkerHandle],
    gate: &'a ClosingGate,
    selector: Selector,
    cause: Ended,
    pace: Pace,
    began: Instant,
    /// What is left to close, by worker.
    left: Vec<VecDeque<RowId>>,
}

impl<'a> Closing<'a> {
    /// Selects the connections to close.
    pub(super) async fn new(
        (workers, gate): (&'a [WorkerHandle], &'a ClosingGate),
        selector: Selector,
        cause: Ended,
        rate: u32,
    ) -> io::Result<Self> {
        let mut closing = Self {
            workers,
            gate,
            selector,
            cause,
            pace: Pace::new(rate),
            began: Instant::now(),
            left: Vec::new(),
        };
        closing.select().await?;
        Ok(closing)
    }

    /// Selects again.
    pub(super) async fn select(&mut self) -> io::Result<()> {
        self.left.clear();
        for worker in self.workers {
            let selector = self.selector.clone();
            self.left
                .push(worker.request(|reply| Order::Select(selector, reply)).await?);
        }
        Ok(())
    }

    /// How long ago it began, without the time in which it waited.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many connections are left to close.
    pub(super) fn left(&self) -> u64 {
        self.left.iter().map(|left| left.len() as u64).sum()
    }

    /// How many connections were ordered to close.
    pub(super) fn count(&self) -> u64 {
        self.pace.count()
    }

    /// Waits for the next round, then closes as many connections as are due: those at rest on any worker before others.
    pub(super) async fn round(&mut self) -> io::Result<Round> {
        tokio::time::sleep(ROUND).await;
        let due = Instant::now();
        let passing = self.gate.pass().await;
        self.began += due.elapsed();
        for at_rest in [true, false] {
            for (worker, left) in self.workers.iter().zip(&mut self.left) {
                let most = self.pace.due(self.began.elapsed());
                if most == 0 || left.is_empty() {
                    continue;
                }
                let close = Close {
                    rows: std::mem::take(left),
                    most,
                    at_rest,
                    cause: self.cause,
                };
                let closed = worker.request(|reply| Order::Close(close, reply)).await?;
                self.pace.closed(closed.count);
                *left = closed.left;
            }
        }
        Ok(Round {
            is_last: self.left.iter().all(VecDeque::is_empty),
            _passing: passing,
        })
    }
}

/// What one round has done. As long as it is held, no connection changes hands.
pub(super) struct Round {
    /// All selected connections were ordered to close, or have ended.
    pub(super) is_last: bool,
    _passing: Passing,
}
