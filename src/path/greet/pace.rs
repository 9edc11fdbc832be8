//! Waits until a node may get another CONNECT: its rate is shared by all workers, and each client takes a slot of it before its dial.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Greeter;
use crate::base::clock;
use crate::cluster::{Choice, NodeLoad, NodeState, Slot};
use crate::path::ended::Ended;

/// The longest wait for one node. Behind that, another node is closer than this one.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// How often a client that waits looks whether its node still takes clients.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a client's wait for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is its turn now.
    Now,
    /// Its turn would come too late, or the node takes no clients any more.
    Never,
}

/// A client that waits for its turn; counted on drop.
#[derive(Debug)]
struct Waiting<'a> {
    greeter: &'a Greeter,
    choice: &'a Choice,
    since: Instant,
    /// Given back on drop, unless the client's turn has come.
    slot: Option<Slot>,
}

impl<'a> Waiting<'a> {
    fn new(greeter: &'a Greeter, choice: &'a Choice, since: Instant, slot: Slot) -> Self {
        choice.load.add_waiting();
        Self {
            greeter,
            choice,
            since,
            slot: Some(slot),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let load: &Arc<NodeLoad> = &self.choice.load;
        load.leave_waiting();
        if let Some(slot) = self.slot {
            load.connects.give_back(slot);
        }
        let waited = self.since.elapsed().as_micros();
        self.greeter.counters.of_node(self.choice.id, |node| {
            node.waits.add(1);
            node.wait_us.add(u64::try_from(waited).unwrap_or(u64::MAX));
        });
    }
}

impl Greeter {
    /// Waits for the client's turn at a node, until `due` at the latest, when a node must have accepted it. `left` ends when the
    /// client has left.
    ///
    /// Where the node has no rate this costs nothing, and below its rate one exchange of an atomic.
    ///
    /// # Errors
    /// How the client's connection ended meanwhile.
    pub(super) async fn await_turn(
        &self,
        choice: &Choice,
        due: Instant,
        left: impl Future<Output = Ended>,
    ) -> Result<Turn, Ended> {
        let Some(rate) = choice.connect_rate else {
            return Ok(Turn::Now);
        };
        let now = Instant::now();
        // The node must have its time to answer.
        let answer = self.settings.timeout.min(self.settings.deadline / 2);
        let left_to_wait = due.saturating_duration_since(now).saturating_sub(answer).min(WAIT_MAX);
        let since_start = clock::since_start(now);
        match choice.load.connects.take(rate, since_start, since_start + left_to_wait) {
            None => Ok(Turn::Never),
            Some(slot) if slot.at <= since_start => Ok(Turn::Now),
            // Boxed, to keep the set-up future of a client that need not wait small.
            Some(slot) => {
                let at = now + (slot.at - since_start);
                let waiting = Waiting::new(self, choice, now, slot);
                Box::pin(self.wait(waiting, at, left)).await
            }
        }
    }

    async fn wait(
        &self,
        mut waiting: Waiting<'_>,
        at: Instant,
        left: impl Future<Output = Ended>,
    ) -> Result<Turn, Ended> {
        let turn = async {
            loop {
                let look = Instant::now() + LOOK;
                if at <= look {
                    tokio::time::sleep_until(at).await;
                    return Turn::Now;
                }
                tokio::time::sleep_until(look).await;
                if !self.takes_clients(waiting.choice) {
                    return Turn::Never;
                }
            }
        };
        let turn = tokio::select! {
            biased;
            ended = left => return Err(ended),
            turn = turn => turn,
        };
        if turn == Turn::Now {
            waiting.slot = None;
        }
        Ok(turn)
    }

    /// Whether the node still is what it was when it was chosen: one that is down or draining is chosen only where no other is left.
    fn takes_clients(&self, choice: &Choice) -> bool {
        let cluster = self.clusters.current();
        let state = cluster.node(choice.id).and_then(|node| node.state_for(choice.kind));
        let is_up = state == Some(NodeState::Up);
        is_up || cluster.up(choice.kind).next().is_none()
    }
}
