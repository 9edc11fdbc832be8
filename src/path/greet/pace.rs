//! Waits until a node may get another CONNECT: its rate is shared by all workers, and each client takes a slot of it before its dial. And
//! holds the CONNECTs of clients that connect in a loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::PendingClient;
use super::{ClientInfo, Greeter};
use crate::base::clock::{self, Seconds};
use crate::base::rate_table::Allowed;
use crate::cluster::{Choice, NodeLoad, NodeState, Slot};
use crate::path::ended::Ended;
use crate::path::record::KeptId;

/// The longest wait for one node. Behind that, another node is closer than this one.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// How often a client that waits looks whether its node still takes clients.
const LOOK: Duration = Duration::from_secs(1);

/// The longest that a CONNECT is held because its client connects too often.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// A client that connects too often is one line in this time, in seconds.
const TELL_INTERVAL: u32 = 60;

/// The most such clients that have lines.
const TOLD_MAX: usize = 256;

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
    /// Holds the CONNECT of a client whose id has come more than `times` in a minute from its source: the longer, the more often, and for
    /// [`HOLD_MAX`] at most. Of its source, since anybody can send its id.
    ///
    /// # Errors
    /// How the client's connection ended meanwhile.
    pub(super) async fn hold_back(
        &self,
        client: &mut PendingClient,
        times: u32,
        info: ClientInfo<'_>,
        second: Seconds,
    ) -> Result<(), Ended> {
        let witness = info.witness(Some(client.id()));
        let Some(id) = witness.client_id else {
            return Ok(());
        };
        let allowed = Allowed {
            times,
            within: Duration::from_secs(60),
            early_max: HOLD_MAX,
        };
        let now = Instant::now();
        let early = self
            .connects
            .come((client.id(), witness.source), allowed, clock::since_start(now));
        if early.is_zero() {
            return Ok(());
        }
        self.counters.held_back.add(1);
        if self.is_to_be_told(id, second) {
            let client_id = KeptId::of(client.id());
            tracing::warn!(client = %info.address, %client_id, "client connects too often; its CONNECTs are held");
        }
        let held = early.min(HOLD_MAX).min(self.settings.deadline / 4);
        Box::pin(async {
            tokio::select! {
                biased;
                ended = client.until_left() => Err(ended),
                () = tokio::time::sleep(held) => Ok(()),
            }
        })
        .await
    }

    /// Whether a line on this client is due.
    fn is_to_be_told(&self, id: u64, now: Seconds) -> bool {
        let mut told = self.told.borrow_mut();
        let is_old = |at: &Seconds| now.0.saturating_sub(at.0) >= TELL_INTERVAL;
        if told.len() >= TOLD_MAX {
            told.retain(|_, at| !is_old(at));
        }
        let is_due = match told.get(&id) {
            Some(at) => is_old(at),
            None => told.len() < TOLD_MAX,
        };
        if is_due {
            told.insert(id, now);
        }
        is_due
    }

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
                    self.release(waiting.choice).await;
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

    /// Lets go a client whose slot has come: at once, unless so many slots came while workers were busy that the node would see more than
    /// its rate; then at its place among them.
    async fn release(&self, choice: &Choice) {
        let (now, load) = (Instant::now(), &choice.load);
        let since_start = clock::since_start(now);
        let slot = choice
            .connect_rate
            .and_then(|rate| load.released.take(rate, since_start, Duration::MAX));
        if let Some(slot) = slot.filter(|slot| slot.at > since_start) {
            tokio::time::sleep_until(now + (slot.at - since_start)).await;
        }
    }

    /// Whether the node still is what it was when it was chosen: one that is down or draining is chosen only where no other is left.
    fn takes_clients(&self, choice: &Choice) -> bool {
        let cluster = self.clusters.current();
        let state = cluster.node(choice.id).and_then(|node| node.state_for(choice.kind));
        let is_up = state == Some(NodeState::Up);
        is_up || cluster.up(choice.kind).next().is_none()
    }
}
