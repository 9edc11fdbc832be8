//! Supervises critical tasks. If one of them panicked unnoticed, a listener would accept no clients, or idle connections would stay
//! for ever. So the panic is logged and reported to the owner of the balancer, which ends the process.

use std::any::Any;
use std::future::{self, Future};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use tokio::sync::watch;

use crate::base::failpoint::{self, Place};

pub use crate::base::task::Task;

/// Guards the critical tasks of one balancer.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    panicked: watch::Sender<Option<Task>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self {
            panicked: watch::Sender::new(None),
        }
    }
}

impl Supervisor {
    /// Runs `work`. If it panics, logs and reports the panic, and returns.
    pub(crate) async fn guard(self, task: Task, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        let end = future::poll_fn(|cx| {
            let turn = AssertUnwindSafe(|| {
                failpoint::pass(Place::Task(task));
                work.as_mut().poll(cx)
            });
            // Unwind safe: the task is not polled again, and the process ends. An async fn drops what it owns while it unwinds, so
            // a task that waits for its answer finds the channel closed before the panic is reported.
            match catch_unwind(turn) {
                Ok(poll) => poll.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            }
        });
        if let Err(panic) = end.await {
            tracing::error!(
                task = task.name(),
                thread = std::thread::current().name(),
                panic = message(&*panic),
                "a critical task panicked"
            );
            failpoint::delay_report();
            self.report_panic(task);
        }
    }

    /// Notes that a task has panicked.
    pub(crate) fn report_panic(&self, task: Task) {
        self.panicked.send_replace(Some(task));
    }

    /// The task that has panicked, if any.
    pub(crate) fn panicked_now(&self) -> Option<Task> {
        *self.panicked.borrow()
    }

    /// Waits until a task has panicked, and returns it.
    pub(crate) fn panicked(&self) -> impl Future<Output = Task> + use<> {
        let mut panicked = self.panicked.subscribe();
        async move {
            if let Ok(panicked) = panicked.wait_for(Option::is_some).await
                && let Some(task) = *panicked
            {
                return task;
            }
            // The balancer and all of its tasks have ended.
            future::pending().await
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_reported_and_one_that_ends_is_not() {
        let supervisor = Supervisor::default();
        let mut panicked = pin!(supervisor.panicked());
        supervisor.clone().guard(Task::Control, async {}).await;
        let early = tokio::time::timeout(std::time::Duration::ZERO, &mut panicked);
        assert!(early.await.is_err());
        assert_eq!(supervisor.panicked_now(), None);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on its second turn");
        };
        supervisor.clone().guard(Task::Sweep, panics).await;
        assert_eq!(panicked.await, Task::Sweep);
        assert_eq!(supervisor.panicked().await, Task::Sweep, "asked later");
        assert_eq!(supervisor.panicked_now(), Some(Task::Sweep));
    }

    #[test]
    fn a_message_is_told_in_either_form() {
        let text = |panic: Box<dyn Any + Send>| message(&*panic).to_owned();
        assert_eq!(text(Box::new("fixed")), "fixed");
        assert_eq!(text(Box::new(String::from("made"))), "made");
        assert_eq!(text(Box::new(7)), "no message");
    }
}
