//! Closes connections: those of the whole process when it drains, those of one node, of one client, or a single one. They close
//! all at once, or at a pace.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::pace::Pace;
use crate::path::ended::Ended;
use crate::worker::{Close, Order, Round, Selector, WorkerHandle};

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
    let close = Close {
        selector,
        cause: Ended::Closed,
        round: None,
    };
    let mut closed = 0;
    for worker in workers {
        closed += worker.request(|reply| Order::Close(close.clone(), reply)).await?;
    }
    Ok(closed)
}

/// Closes the selected connections of all workers at a pace, in rounds.
pub(super) struct Closing<'a> {
    workers: &'a [WorkerHandle],
    selector: Selector,
    cause: Ended,
    pace: Pace,
    began: Instant,
}

impl<'a> Closing<'a> {
    pub(super) fn new(workers: &'a [WorkerHandle], selector: Selector, cause: Ended, rate: u32) -> Self {
        Self {
            workers,
            selector,
            cause,
            pace: Pace::new(rate),
            began: Instant::now(),
        }
    }

    /// How long ago it began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many connections were ordered to close.
    pub(super) fn count(&self) -> u64 {
        self.pace.count()
    }

    /// Waits for the next round, then closes as many connections as are due: those at rest on any worker before others.
    /// Returns whether all selected connections were ordered to close.
    pub(super) async fn round(&mut self) -> io::Result<bool> {
        tokio::time::sleep(ROUND).await;
        let mut all = true;
        for at_rest in [true, false] {
            for worker in self.workers {
                let most = self.pace.due(self.began.elapsed());
                if most == 0 {
                    all = false;
                    continue;
                }
                let close = Close {
                    selector: self.selector.clone(),
                    cause: self.cause,
                    round: Some(Round { most, at_rest }),
                };
                let closed = worker.request(|reply| Order::Close(close, reply)).await?;
                self.pace.closed(closed);
                // A worker that closed as many as it was allowed may have more.
                all &= at_rest || closed < most;
            }
        }
        Ok(all)
    }
}
