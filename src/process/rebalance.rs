//! A rebalance in the background, for operators who do not wait for it: one at a time, which can be looked at and stopped, and which
//! goes on in a process that takes over.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::closing_gate::ClosingGate;
use super::drain::Closing;
use crate::cluster::NodeId;
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

/// What is to be closed.
pub(super) struct Order {
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) gate: ClosingGate,
    /// The node whose clients are brought home, if not those of all nodes, and its name.
    pub(super) home: Option<(NodeId, String)>,
    /// Connections per second.
    pub(super) rate: u32,
    /// Only connections up to these numbers, by worker.
    pub(super) numbers: Arc<[u64]>,
}

#[derive(Debug)]
struct Job {
    node: Option<String>,
    rate: u32,
    numbers: Arc<[u64]>,
    progress: Arc<Progress>,
    /// `None` if it was over in the process before.
    task: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct Progress {
    selected: AtomicU64,
    closed: AtomicU64,
    is_over: AtomicBool,
}

impl Job {
    fn status(&self) -> RebalanceStatus {
        let is_over = self.progress.is_over.load(Ordering::Relaxed);
        RebalanceStatus {
            node: self.node.clone(),
            rate: self.rate,
            selected: self.progress.selected.load(Ordering::Relaxed),
            closed: self.progress.closed.load(Ordering::Relaxed),
            is_running: !is_over && self.task.as_ref().is_some_and(|task| !task.is_finished()),
        }
    }

    fn stop(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Background {
    /// Starts a rebalance instead of one that is running, and returns once it is known how many connections it is to close.
    pub(super) async fn start(&self, runtime: &Runtime, order: Order) -> io::Result<RebalanceStatus> {
        self.stop();
        let (reply, selected) = oneshot::channel();
        let job = order.begin(runtime, Progress::default(), reply);
        selected.await.map_err(io::Error::other)??;
        let status = job.status();
        self.replace(job);
        Ok(status)
    }

    /// Goes on with a rebalance of the process before, from so many connections on.
    pub(super) fn resume(&self, runtime: &Runtime, order: Order, selected: u64, closed: u64) {
        let progress = Progress {
            selected: selected.into(),
            closed: closed.into(),
            is_over: AtomicBool::new(false),
        };
        let (reply, _) = oneshot::channel();
        self.replace(order.begin(runtime, progress, reply));
    }

    /// Remembers a rebalance of the process before, which goes on no more.
    pub(super) fn remember(&self, status: RebalanceStatus) {
        self.replace(Job {
            node: status.node,
            rate: status.rate,
            numbers: Arc::default(),
            progress: Arc::new(Progress {
                selected: status.selected.into(),
                closed: status.closed.into(),
                is_over: AtomicBool::new(true),
            }),
            task: None,
        });
    }

    /// The last one, if there was one.
    pub(super) fn status(&self) -> Option<RebalanceStatus> {
        self.lock().as_ref().map(Job::status)
    }

    /// The last one, with the numbers up to which it closes connections.
    pub(super) fn to_carry(&self) -> Option<(RebalanceStatus, Arc<[u64]>)> {
        let job = self.lock();
        job.as_ref().map(|job| (job.status(), Arc::clone(&job.numbers)))
    }

    /// Stops it.
    pub(super) fn stop(&self) {
        if let Some(job) = &*self.lock() {
            job.stop();
        }
    }

    fn replace(&self, job: Job) {
        if let Some(before) = self.lock().replace(job) {
            before.stop();
        }
    }

    /// A thread that panicked with the lock has left the job as it was.
    fn lock(&self) -> MutexGuard<'_, Option<Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order {
    /// Closes in the background, and replies once it is known how many connections.
    fn begin(self, runtime: &Runtime, progress: Progress, reply: oneshot::Sender<io::Result<()>>) -> Job {
        let progress = Arc::new(progress);
        let (rate, numbers) = (self.rate, Arc::clone(&self.numbers));
        let node = self.home.as_ref().map(|(_, name)| name.clone());
        let task = runtime.spawn(self.run(Arc::clone(&progress), reply)).abort_handle();
        Job {
            node,
            rate,
            numbers,
            progress,
            task: Some(task),
        }
    }

    async fn run(self, progress: Arc<Progress>, reply: oneshot::Sender<io::Result<()>>) {
        let off_home = Selector::OffHome(self.home.map(|(node, _)| node));
        let selector = Selector::Before(self.numbers, Box::new(off_home));
        let closing = Closing::new((&self.workers, &self.gate), selector, Ended::Closed, self.rate).await;
        let mut closing = match closing {
            Ok(closing) => closing,
            Err(error) => {
                // If nobody waits for it: the worker has been reported, and the process ends.
                let _ = reply.send(Err(error));
                return;
            }
        };
        let before = progress.closed.load(Ordering::Relaxed);
        let selected = before.saturating_add(closing.left());
        // Of one that goes on, some may have ended before.
        progress.selected.fetch_max(selected, Ordering::Relaxed);
        let _ = reply.send(Ok(()));
        loop {
            let round = closing.round().await;
            let closed = before.saturating_add(closing.count());
            progress.closed.store(closed, Ordering::Relaxed);
            match round {
                // While the round is held, no connections change hands: the next process is told all of this.
                Ok(round) if round.is_last => return progress.is_over.store(true, Ordering::Relaxed),
                Ok(_) => {}
                // If a worker has ended, so does the process.
                Err(_) => return,
            }
        }
    }
}
