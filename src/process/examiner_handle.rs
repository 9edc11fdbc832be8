//! Asks for examinations by the doctor, from any thread.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::doctor::examination::Examination;

/// How many operators may wait for an examination.
const WAITING_MAX: usize = 8;

/// A caller that waits for an examination.
pub(super) type Reply = oneshot::Sender<Arc<Examination>>;

/// Asks for examinations.
#[derive(Clone, Debug)]
pub(super) struct ExaminerHandle {
    requests: mpsc::Sender<Reply>,
    config: watch::Sender<Arc<Config>>,
}

impl ExaminerHandle {
    /// A handle, and what the examiner receives by it: requests, and the configuration in force.
    pub(super) fn new(config: Arc<Config>) -> (Self, mpsc::Receiver<Reply>, watch::Receiver<Arc<Config>>) {
        let (requests, asked) = mpsc::channel(WAITING_MAX);
        let config = watch::Sender::new(config);
        let in_force = config.subscribe();
        (Self { requests, config }, asked, in_force)
    }

    /// From now on, this is the configuration in force.
    pub(super) fn reload(&self, config: Arc<Config>) {
        self.config.send_replace(config);
    }

    /// Has the balancer examined, and waits for the result.
    pub(super) async fn examine(&self) -> io::Result<Arc<Examination>> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(reply).map_err(|_| {
            let error = format!("{WAITING_MAX} callers wait for an examination already: ask again in a minute");
            io::Error::new(io::ErrorKind::WouldBlock, error)
        })?;
        answer
            .await
            .map_err(|_| io::Error::other("the doctor has ended, with the balancer or by a fault of its own"))
    }
}
