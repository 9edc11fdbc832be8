//! The taker's side of a handover: what it expects, in which order, and from when on it relays.

use std::os::fd::OwnedFd;

use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::base::failpoint::{self, Place};
use crate::handover::channel::{Channel, Received, Side};
use crate::handover::conversation::{Deadlines, Failure, Offered, Step, UNEXPECTED, within};
use crate::handover::messages::{
    self, Adopted, Body, Complete, FEATURES, Hello, Knowledge, ListenSocket, Manifest, Placement, Placements, Prepared,
    Relays, Running, Sockets, State, States, VERSION, VERSION_OLDEST,
};
use crate::handover::sockets;

/// Descriptors that a process needs beside sockets: files, pipes, runtimes.
const SPARE: u64 = 64;

/// What the process that takes over does for a handover. An error is why it refuses, for the operator: the giver is told, and goes on as
/// before.
#[allow(
    async_fn_in_trait,
    reason = "whether the futures can change threads is for who implements and spawns them"
)]
pub trait Taker {
    /// Who it is. The versions of the protocol are filled in by [`take`].
    fn hello(&self) -> Hello;

    /// What there is. Versions, required features and the number of descriptors were checked.
    async fn begin(&mut self, manifest: Manifest) -> Result<(), String>;

    /// Sockets that listen; that they do was checked.
    async fn sockets(&mut self, sockets: Vec<(ListenSocket, OwnedFd)>) -> Result<(), String>;

    /// Relays to hold, which the giver still relays; that the descriptors are TCP sockets was checked. May come again between `prepare`
    /// and `adopt`.
    async fn relays(&mut self, relays: Vec<Offered>) -> Result<(), String>;

    /// Placements, the same.
    async fn placements(&mut self, placements: Vec<Placement>) -> Result<(), String>;

    /// Starts what can be started before the relays change hands. Returns what it will not have.
    async fn prepare(&mut self) -> Result<Prepared, String>;

    /// States of relays, which the giver has frozen.
    async fn states(&mut self, states: Vec<State>) -> Result<(), String>;

    /// What was counted, and how connections ended.
    async fn knowledge(&mut self, knowledge: Knowledge) -> Result<(), String>;

    /// Makes relays of what is held and has a state, without reading or writing a byte of theirs. Returns the numbers of those that it
    /// cannot take, which stay with the giver.
    async fn adopt(&mut self, complete: Complete) -> Result<Vec<u64>, String>;

    /// It is ours: relays what was adopted, and in the first round accepts clients. Relays that are held without a state are closed
    /// here: they have ended, or stay with the giver.
    async fn run(&mut self);

    /// Nothing of this round is ours: closes what is held and what was adopted, without a trace on the connections.
    async fn discard(&mut self);

    /// How far it is.
    fn progress(&mut self, step: Step);
}

/// What was taken.
#[derive(Debug)]
pub struct Taken {
    /// How many relays.
    pub relays: u64,
    /// In how many rounds.
    pub rounds: u32,
    /// Why there were no more, if the giver has not ended them. What was taken before is relayed.
    pub cut_short: Option<Failure>,
}

/// Takes over from the process behind `socket`, until it has no more. It must not be dropped before it returns.
///
/// # Errors
/// Nothing was taken: the giver goes on, and this process has nothing.
pub async fn take(socket: UnixStream, taker: &mut impl Taker, deadlines: Deadlines) -> Result<Taken, Failure> {
    let mut taking = Taking {
        channel: Channel::new(socket, Side::Taker)?,
        taker,
        deadlines,
        received: 0,
    };
    let mut taken = Taken {
        relays: 0,
        rounds: 0,
        cut_short: None,
    };
    let mut result = taking.hold_what_stays().await;
    loop {
        if result.is_ok() {
            result = taking.round(&mut taken).await;
        }
        match result {
            Ok(Next::Round) => {}
            Ok(Next::End) => return Ok(taken),
            Err(failure) => {
                let failure = taking.channel.explain(failure);
                taking.channel.refuse(&failure).await;
                taking.taker.discard().await;
                if taken.rounds == 0 {
                    return Err(failure);
                }
                taken.cut_short = Some(failure);
                return Ok(taken);
            }
        }
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Round,
    End,
}

struct Taking<'a, T> {
    channel: Channel,
    taker: &'a mut T,
    deadlines: Deadlines,
    /// Messages with descriptors.
    received: u64,
}

impl<T: Taker> Taking<'_, T> {
    /// Holds all that is sent while the giver still relays, and prepares.
    async fn hold_what_stays(&mut self) -> Result<Next, Failure> {
        let hello = Hello {
            version: VERSION,
            version_oldest: VERSION_OLDEST,
            ..self.taker.hello()
        };
        let descriptors_max = hello.descriptors_max;
        self.send(Body::Hello(hello)).await?;
        let manifest = match self.receive().await?.body {
            Body::Manifest(manifest) => manifest,
            _ => return Err(UNEXPECTED),
        };
        check(&manifest, descriptors_max).map_err(Failure::Refusal)?;
        let (of, mut sockets_left) = (manifest.relays, manifest.sockets);
        self.own("the start", async |taker| taker.begin(manifest).await).await?;
        self.taker.progress(Step::Checked);
        let mut sent = 0;
        loop {
            let Received { body, descriptors } = self.receive().await?;
            match body {
                Body::Sockets(Sockets { sockets }) => {
                    let count = sockets.len() as u64;
                    sockets_left = sockets_left
                        .checked_sub(count)
                        .ok_or(Failure::Violation("more sockets than announced"))?;
                    if !descriptors.iter().all(sockets::listens) {
                        return Err(Failure::Violation("a descriptor that is no listening socket"));
                    }
                    let sockets = sockets.into_iter().zip(descriptors).collect();
                    self.own("the sockets", async |taker| taker.sockets(sockets).await)
                        .await?;
                    self.acknowledge().await?;
                    self.taker.progress(Step::Sockets);
                }
                Body::Relays(relays) => {
                    sent += relays.relays.len() as u64;
                    self.hold(relays, descriptors).await?;
                    self.taker.progress(Step::Relays { sent, of });
                }
                Body::Placements(Placements { placements }) => {
                    self.own("the placements", async |taker| taker.placements(placements).await)
                        .await?;
                }
                Body::Prepare(_) => break,
                _ => return Err(UNEXPECTED),
            }
        }
        let prepared = self.own("the start", T::prepare).await?;
        self.taker.progress(Step::Prepared);
        self.send(Body::Prepared(prepared)).await?;
        Ok(Next::Round)
    }

    /// One round, at whose end this process relays what it has taken; or the end of the conversation.
    async fn round(&mut self, taken: &mut Taken) -> Result<Next, Failure> {
        let mut is_begun = taken.rounds == 0;
        let mut states_seen = 0;
        let complete = loop {
            // Between two rounds the giver takes its time: nothing here depends on it.
            let Received { body, descriptors } = match is_begun {
                true => self.receive().await?,
                false => self.channel.receive().await?,
            };
            match body {
                Body::Relays(relays) => self.hold(relays, descriptors).await?,
                Body::Placements(Placements { placements }) => {
                    self.own("the placements", async |taker| taker.placements(placements).await)
                        .await?;
                }
                Body::States(States { states }) => {
                    if states_seen == 0 {
                        self.taker.progress(Step::Frozen);
                    }
                    states_seen += states.len() as u64;
                    self.own("the states", async |taker| taker.states(states).await).await?;
                }
                Body::Knowledge(knowledge) => {
                    self.own("the counters", async |taker| taker.knowledge(knowledge).await)
                        .await?;
                    // The last of it comes without a round.
                    continue;
                }
                Body::Complete(complete) => break complete,
                Body::Bye(_) if !is_begun => {
                    self.taker.progress(Step::Done);
                    return Ok(Next::End);
                }
                Body::Refused(refused) => return Err(Failure::Refused(refused.why)),
                _ => return Err(UNEXPECTED),
            }
            is_begun = true;
        };
        if complete.states != states_seen {
            return Err(Failure::Violation("states are missing"));
        }
        let left = self
            .own("the relays", async |taker| taker.adopt(complete).await)
            .await?;
        let Some(relays) = states_seen.checked_sub(left.len() as u64) else {
            return Err(Failure::Violation("more relays are left than there were"));
        };
        self.send(Body::Adopted(Adopted { left })).await?;
        self.taker.progress(Step::Adopted);
        match self.receive().await?.body {
            Body::Go(_) => {}
            _ => return Err(UNEXPECTED),
        }
        // From the moment in which this is in the giver's queue, the relays are this process's; if it does not get there, the giver's.
        self.send(Body::Running(Running { relays })).await?;
        failpoint::pass(Place::Take("run"));
        self.taker.run().await;
        taken.rounds += 1;
        taken.relays += relays;
        self.taker.progress(Step::Running {
            round: taken.rounds,
            relays,
        });
        Ok(Next::Round)
    }

    /// Holds relays that the giver still has.
    async fn hold(&mut self, relays: Relays, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        if !descriptors.iter().all(sockets::is_connection) {
            return Err(Failure::Violation("a descriptor that is no TCP connection"));
        }
        let mut descriptors = descriptors.into_iter();
        let mut held = Vec::with_capacity(relays.relays.len());
        for relay in relays.relays {
            // There are two for each relay; the reader has counted them.
            if let (Some(client), Some(node)) = (descriptors.next(), descriptors.next()) {
                held.push(Offered { relay, client, node });
            }
        }
        self.own("the relays", async |taker| taker.relays(held).await).await?;
        self.acknowledge().await
    }

    /// Says that a message with descriptors was received.
    async fn acknowledge(&mut self) -> Result<(), Failure> {
        self.received += 1;
        let messages = self.received;
        self.send(Body::Received(messages::Received { messages })).await
    }

    async fn send(&mut self, body: Body) -> Result<(), Failure> {
        self.channel
            .send(body, &[], Instant::now() + self.deadlines.message)
            .await
    }

    async fn receive(&mut self) -> Result<Received, Failure> {
        let receiving = timeout(self.deadlines.message, self.channel.receive()).await;
        let received = receiving.map_err(|_| Failure::TooLate("the giver"))??;
        match received.body {
            Body::Refused(refused) => Err(Failure::Refused(refused.why)),
            _ => Ok(received),
        }
    }

    /// A step of this process, which may refuse.
    async fn own<R>(
        &mut self,
        what: &'static str,
        step: impl AsyncFnOnce(&mut T) -> Result<R, String>,
    ) -> Result<R, Failure> {
        let done = within(self.deadlines.prepare, what, step(self.taker)).await?;
        done.map_err(Failure::Refusal)
    }
}

/// Whether this process can take over what there is, as far as this can be seen here.
fn check(manifest: &Manifest, descriptors_max: u64) -> Result<(), String> {
    let version = manifest.version;
    if !(VERSION_OLDEST..=VERSION).contains(&version) {
        return Err(format!("version {version} of the protocol is not known"));
    }
    let unknown = manifest.requires.iter().find(|name| !FEATURES.contains(&name.as_str()));
    if let Some(name) = unknown {
        return Err(format!("what is required is not known to this version: {name:?}"));
    }
    let relays = manifest.relays.saturating_mul(2);
    let needed = relays.saturating_add(manifest.sockets).saturating_add(SPARE);
    if needed > descriptors_max {
        return Err(format!(
            "the limit of open files is {descriptors_max}, and {needed} are needed"
        ));
    }
    Ok(())
}
