//! The queue through which the path reports failures and answers of nodes to control.

use tokio::sync::mpsc;

use crate::cluster::{Choice, Failure, Report};

/// The most reports that wait for control.
const REPORTS_MAX: usize = 1024;

/// The sending end of the queue. If it is full, a report is dropped, since the next failure reports the same.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::Sender<Report>);

impl Reports {
    /// Creates the queue; control reads from the receiver.
    pub fn new() -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(REPORTS_MAX);
        (Self(sender), receiver)
    }

    /// Something failed at the endpoint.
    pub fn failed(&self, choice: &Choice, failure: Failure) {
        self.send(choice.failed(failure));
        choice.note_failed();
    }

    /// The endpoint answered.
    pub fn answered(&self, choice: &Choice) {
        if let Some(report) = choice.answered() {
            self.send(report);
        }
    }

    fn send(&self, report: Report) {
        // Full or closed: control is behind or has ended, and the path never waits for it.
        let _ = self.0.try_send(report);
    }
}
