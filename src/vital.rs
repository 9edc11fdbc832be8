//! Tasks that a balancer cannot live without. One that panics would be missed in silence: a door that accepts nobody, a sweep
//! that never comes. So it is said aloud, and told to whoever started the balancer, who ends the process.

use std::any::Any;
use std::future::{self, Future};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use tokio::sync::watch;

use crate::failpoint::{self, Place};

/// A task that a balancer cannot live without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Accepts the clients of one listener on one worker.
    Accept,
    /// Closes a listener on one worker.
    Unlisten,
    /// Looks at all relays of a worker once a second.
    Sweep,
    /// Does what a worker is told.
    Orders,
    /// Decides what the cluster is.
    Control,
    /// Keeps the placements within their bounds.
    Placements,
    /// Answers operators.
    Admin,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Accept,
        Self::Unlisten,
        Self::Sweep,
        Self::Orders,
        Self::Control,
        Self::Placements,
        Self::Admin,
    ];

    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Unlisten => "unlisten",
            Self::Sweep => "sweep",
            Self::Orders => "orders",
            Self::Control => "control",
            Self::Placements => "placements",
            Self::Admin => "admin",
        }
    }
}

/// Where the vital tasks of one balancer are guarded.
#[derive(Clone, Debug)]
pub struct Vitals {
    lost: watch::Sender<Option<Task>>,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            lost: watch::Sender::new(None),
        }
    }
}

impl Vitals {
    /// Runs `work`; if it panics, says so and ends.
    pub async fn guard(self, task: Task, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        let end = future::poll_fn(|cx| {
            let turn = AssertUnwindSafe(|| {
                failpoint::pass(Place::Task(task));
                work.as_mut().poll(cx)
            });
            // It is not polled again, and what it shares with others is no better off for their having gone on without it. What an
            // async fn has in hand is dropped on the way here: who waits for an answer of it hears that there is none before the
            // task counts as lost.
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
                "a task panicked that nothing works without"
            );
            failpoint::linger();
            self.lose(task);
        }
    }

    /// Notes that a task has panicked.
    pub fn lose(&self, task: Task) {
        self.lost.send_replace(Some(task));
    }

    /// The task that has panicked, if one has.
    pub fn lost_now(&self) -> Option<Task> {
        *self.lost.borrow()
    }

    /// Waits until a task has panicked; which one.
    pub fn lost(&self) -> impl Future<Output = Task> + use<> {
        let mut lost = self.lost.subscribe();
        async move {
            if let Ok(lost) = lost.wait_for(Option::is_some).await
                && let Some(task) = *lost
            {
                return task;
            }
            // The balancer has gone, and all of its tasks.
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
    async fn a_task_that_panics_is_told_and_one_that_ends_is_not() {
        let vitals = Vitals::default();
        let mut lost = pin!(vitals.lost());
        vitals.clone().guard(Task::Control, async {}).await;
        let nobody = tokio::time::timeout(std::time::Duration::ZERO, &mut lost);
        assert!(nobody.await.is_err());
        assert_eq!(vitals.lost_now(), None);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on its second turn");
        };
        vitals.clone().guard(Task::Sweep, panics).await;
        assert_eq!(lost.await, Task::Sweep);
        assert_eq!(vitals.lost().await, Task::Sweep, "whoever asks later");
        assert_eq!(vitals.lost_now(), Some(Task::Sweep));
    }

    #[test]
    fn a_message_is_told_in_either_form() {
        let text = |panic: Box<dyn Any + Send>| message(&*panic).to_owned();
        assert_eq!(text(Box::new("fixed")), "fixed");
        assert_eq!(text(Box::new(String::from("made"))), "made");
        assert_eq!(text(Box::new(7)), "no message");
    }
}
