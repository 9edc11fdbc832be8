//! A rebalance in the background, for operators who do not wait for it: one at a time, which can be looked at and stopped.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::drain::Closing;
use crate::path::ended::Ended;
use crate::worker::{Selector, WorkerHandle};

/// A rebalance, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebalanceStatus {
    /// The node whose clients are brought home; `None` for those of all nodes.
    pub node: Option<String>,
    /// Connections closed per second.
    pub rate: u32,
    /// How many connections were to be closed when it began.
    pub selected: u64,
    /// How many of them were ordered to close. The others have ended before.
    pub closed: u64,
    /// Whether it goes on.
    pub is_running: bool,
}

/// The last rebalance that was started.
#[derive(Debug, Default)]
pub(super) struct Background(Mutex<Option<Job>>);

#[derive(Debug)]
struct Job {
    node: Option<String>,
    rate: u32,
    selected: u64,
    progress: Arc<Progress>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Progress {
    closed: AtomicU64,
    is_over: AtomicBool,
}

impl Job {
    fn status(&self) -> RebalanceStatus {
        let is_over = self.progress.is_over.load(Ordering::Relaxed) || self.task.is_finished();
        RebalanceStatus {
            node: self.node.clone(),
            rate: self.rate,
            selected: self.selected,
            closed: self.progress.closed.load(Ordering::Relaxed),
            is_running: !is_over,
        }
    }
}

impl Background {
    /// Starts to close the connections of `workers` that this selects, for `node`, and returns once it is known how many they are.
    pub(super) async fn start(
        &self,
        runtime: &Runtime,
        workers: Vec<WorkerHandle>,
        (selector, node): (Selector, Option<&str>),
        rate: u32,
    ) -> io::Result<RebalanceStatus> {
        self.stop();
        let progress = Arc::<Progress>::default();
        let (reply, selected) = oneshot::channel();
        let noted = Arc::clone(&progress);
        let task = runtime.spawn(async move {
            let mut closing = match Closing::new(&workers, selector, Ended::Closed, rate).await {
                Ok(closing) => closing,
                Err(error) => {
                    // The receiver waits for this.
                    let _ = reply.send(Err(error));
                    return;
                }
            };
            let _ = reply.send(Ok(closing.left()));
            // If a worker has ended, so does the process.
            while let Ok(false) = closing.round().await {
                noted.closed.store(closing.count(), Ordering::Relaxed);
            }
            noted.closed.store(closing.count(), Ordering::Relaxed);
            noted.is_over.store(true, Ordering::Relaxed);
        });
        let selected = selected.await.map_err(io::Error::other)??;
        let job = Job {
            node: node.map(str::to_owned),
            rate,
            selected,
            progress,
            task: task.abort_handle(),
        };
        let status = job.status();
        if let Some(before) = self.lock().replace(job) {
            before.task.abort();
        }
        Ok(status)
    }

    /// The last one, if there was one.
    pub(super) fn status(&self) -> Option<RebalanceStatus> {
        self.lock().as_ref().map(Job::status)
    }

    /// Stops it.
    pub(super) fn stop(&self) {
        if let Some(job) = &*self.lock() {
            job.task.abort();
        }
    }

    /// A thread that panicked with the lock has left the job as it was.
    fn lock(&self) -> MutexGuard<'_, Option<Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
