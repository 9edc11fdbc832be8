//! The giver's side of a handover: what it sends, in which order, and whether the taker has the relays.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::handover::channel::{Channel, Side};
use crate::handover::conversation::{Deadlines, Failure, Offered, Step, UNEXPECTED, within};
use crate::handover::messages::{
    Body, Closing, Complete, DESCRIPTORS_MAX, ENTRIES_MAX, Empty, Hello, Knowledge, ListenSocket, Manifest, Placement,
    Placements, Prepared, RELAYS_MAX, Received, Relays, Sockets, State, States, VERSION, VERSION_OLDEST,
};
use crate::handover::wire::batches;

/// The most messages with descriptors that the taker has not received yet: descriptors on their way count against the limit of this
/// process (unix(7), ETOOMANYREFS).
const WINDOW: u64 = 4;

/// What the giving process does for a handover. All descriptors that it returns are duplicates, which are closed when they were sent.
#[allow(
    async_fn_in_trait,
    reason = "whether the futures can change threads is for who implements and spawns them"
)]
pub trait Giver {
    /// What there is to take over, and what a taker must know of it. The version is filled in by [`give`].
    ///
    /// # Errors
    /// Why this taker gets nothing.
    async fn manifest(&mut self, taker: &Hello) -> Result<Manifest, String>;

    /// Every socket that listens.
    ///
    /// # Errors
    /// No descriptor is left.
    async fn sockets(&mut self) -> io::Result<Vec<(ListenSocket, OwnedFd)>>;

    /// Some of the relays that could move now, which go on being relayed; [`RELAYS_MAX`](super::messages::RELAYS_MAX) of them at
    /// most. `None` after the last.
    ///
    /// # Errors
    /// No descriptor is left.
    async fn relays(&mut self) -> io::Result<Option<Vec<Offered>>>;

    /// Some of the placements; `None` after the last.
    async fn placements(&mut self) -> Option<Vec<Placement>>;

    /// The taker is ready, and says what it will not have.
    fn prepared(&mut self, prepared: Prepared);

    /// Stops accepting clients, and stops the relays that move, until [`thaw`](Self::thaw) or [`release`](Self::release). May be cut
    /// short by the deadline: `thaw` follows then.
    ///
    /// # Errors
    /// No descriptor is left, or a worker does not answer; `thaw` follows.
    async fn freeze(&mut self) -> io::Result<Frozen>;

    /// Nothing of this round has moved: undoes `freeze`, even one that has not returned.
    async fn thaw(&mut self);

    /// The taker relays these: forgets them, without closing the connections visibly. In the first round closes the listening sockets,
    /// too, after accepting the clients of those that the taker does not have. Frozen relays that are not among them go on here.
    async fn release(&mut self, numbers: Vec<u64>);

    /// Waits until there are relays for another round, which it should begin no more than ten times a second. `false` if there will be
    /// no more. May be cut short, when the taker is gone.
    async fn has_more(&mut self) -> bool;

    /// What was counted since the last round.
    async fn last_words(&mut self) -> Knowledge;

    /// How far it is.
    fn progress(&mut self, step: Step);
}

/// What changes hands in one round.
#[derive(Debug, Default)]
pub struct Frozen {
    /// Relays that were not sent before. They need states as well.
    pub offered: Vec<Offered>,
    /// The state of each relay that moves. In the first round these were sent before or are in `offered`; later, all are in `offered`.
    pub states: Vec<State>,
    /// Placements that were made or changed since they were sent.
    pub placements: Vec<Placement>,
    /// What was counted, and how connections ended: in all, or since the last round.
    pub knowledge: Knowledge,
    /// The last number of a connection on each worker.
    pub numbers: Vec<u64>,
    /// What the operator has ordered and the taker is to go on with.
    pub closings: Vec<Closing>,
}

/// What has moved.
#[derive(Debug)]
pub struct Given {
    /// The taker's process id, if it is in this process's name space.
    pub peer: Option<u32>,
    /// How many relays have moved.
    pub relays: u64,
    /// The longest time in which what moves was not relayed, for any round.
    pub pause: Duration,
    /// How many rounds there were.
    pub rounds: u32,
    /// Why there were no more, if not for want of relays. What was left then is still with the giver.
    pub cut_short: Option<Failure>,
}

/// Hands over to the process behind `socket`, until there are no more rounds. It must not be dropped before it returns: whose the
/// relays are would be open.
///
/// # Errors
/// Nothing has moved, and the giver goes on as before.
pub async fn give(socket: UnixStream, giver: &mut impl Giver, deadlines: Deadlines) -> Result<Given, Failure> {
    let mut giving = Giving {
        channel: Channel::new(socket, Side::Giver)?,
        giver,
        deadlines,
        sent: 0,
        received: 0,
    };
    if let Err(failure) = giving.send_what_stays().await {
        let failure = giving.channel.explain(failure);
        giving.channel.refuse(&failure).await;
        return Err(failure);
    }
    let mut given = Given {
        peer: giving.channel.peer(),
        relays: 0,
        pause: Duration::ZERO,
        rounds: 0,
        cut_short: None,
    };
    loop {
        let (relays, pause) = match giving.round().await {
            Ok(moved) => moved,
            Err(failure) => {
                let failure = giving.channel.explain(failure);
                giving.channel.refuse(&failure).await;
                return given.after(failure);
            }
        };
        given.rounds += 1;
        given.relays += relays;
        given.pause = given.pause.max(pause);
        giving.giver.progress(Step::Running {
            round: given.rounds,
            relays,
        });
        match giving.is_another_due().await {
            Ok(true) => {}
            Ok(false) => return Ok(given),
            Err(failure) => return given.after(failure),
        }
    }
}

/// Refuses the process behind `socket`, and says why.
pub async fn turn_away(socket: UnixStream, why: String) {
    if let Ok(mut channel) = Channel::new(socket, Side::Giver) {
        channel.refuse(&Failure::Refusal(why)).await;
    }
}

impl Given {
    fn after(self, failure: Failure) -> Result<Self, Failure> {
        if self.rounds == 0 {
            return Err(failure);
        }
        Ok(Self {
            cut_short: Some(failure),
            ..self
        })
    }
}

struct Giving<'a, G> {
    channel: Channel,
    giver: &'a mut G,
    deadlines: Deadlines,
    /// Messages with descriptors that were sent, and those that the taker has received.
    sent: u64,
    received: u64,
}

impl<G: Giver> Giving<'_, G> {
    /// All that can be sent while the giver still relays, until the taker is prepared.
    async fn send_what_stays(&mut self) -> Result<(), Failure> {
        let hello = match self.receive("the taker's first message", self.deadlines.hello).await? {
            Body::Hello(hello) => hello,
            _ => return Err(UNEXPECTED),
        };
        self.giver.progress(Step::Known { pid: hello.pid });
        let version = hello.version.min(VERSION);
        if version < hello.version_oldest.max(VERSION_OLDEST) {
            let (oldest, newest) = (hello.version_oldest, hello.version);
            return Err(Failure::Refusal(format!(
                "no common version of the protocol: {VERSION_OLDEST} to {VERSION} here, {oldest} to {newest} there"
            )));
        }
        let manifest = self
            .own("the manifest", async |giver| giver.manifest(&hello).await)
            .await?;
        let mut manifest = manifest.map_err(Failure::Refusal)?;
        manifest.version = version;
        let of = manifest.relays;
        self.send(Body::Manifest(manifest)).await?;
        self.giver.progress(Step::Checked);

        let sockets = self.own("the sockets", G::sockets).await??;
        let (sockets, mut descriptors): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        for sockets in batches(sockets, DESCRIPTORS_MAX) {
            let rest = descriptors.split_off(sockets.len());
            self.send_with(Body::Sockets(Sockets { sockets }), descriptors).await?;
            descriptors = rest;
        }
        self.giver.progress(Step::Sockets);

        let mut sent = 0;
        while let Some(offered) = self.own("the relays", G::relays).await?? {
            sent += offered.len() as u64;
            self.send_relays(offered).await?;
            self.giver.progress(Step::Relays { sent, of });
        }
        while let Some(placements) = self.own("the placements", G::placements).await? {
            self.send_placements(placements).await?;
        }
        self.send(Body::Prepare(Empty {})).await?;
        match self.receive("the taker to prepare", self.deadlines.prepare).await? {
            Body::Prepared(prepared) => self.giver.prepared(prepared),
            _ => return Err(UNEXPECTED),
        }
        self.giver.progress(Step::Prepared);
        Ok(())
    }

    /// One round, at whose end the relays that it moves have one owner. Returns how many have moved, and for how long nobody relayed
    /// them.
    async fn round(&mut self) -> Result<(u64, Duration), Failure> {
        let began = Instant::now();
        let until = began + self.deadlines.pause;
        let offered = timeout_at(until, self.offer()).await;
        let moving = match offered.unwrap_or(Err(Failure::TooLate("the taker to adopt the relays"))) {
            Ok(moving) => moving,
            Err(failure) => {
                // The taker has not been told to run, so it does not.
                self.giver.thaw().await;
                return Err(failure);
            }
        };
        let ran = timeout_at(until, self.let_run()).await;
        if let Err(failure) = ran.unwrap_or(Err(Failure::TooLate("the taker to run"))) {
            // It may have said that it runs at this moment. From here on it can say nothing, and what it has said is in the queue.
            let said = self.channel.end();
            if !said.iter().any(|body| matches!(body, Body::Running(_))) {
                self.giver.thaw().await;
                return Err(failure);
            }
        }
        let moved = (moving.len() as u64, began.elapsed());
        self.giver.release(moving).await;
        Ok(moved)
    }

    /// Freezes, and sends what has changed, until the taker holds everything. Returns the numbers of the relays that are to move.
    async fn offer(&mut self) -> Result<Vec<u64>, Failure> {
        let frozen = self.giver.freeze().await?;
        self.giver.progress(Step::Frozen);
        let mut moving: HashSet<u64> = frozen.states.iter().map(|state| state.number).collect();
        let complete = Complete {
            states: frozen.states.len() as u64,
            numbers: frozen.numbers,
            closings: frozen.closings,
        };
        self.send_relays(frozen.offered).await?;
        self.send_placements(frozen.placements).await?;
        for states in batches(frozen.states, ENTRIES_MAX) {
            self.send(Body::States(States { states })).await?;
        }
        self.send_knowledge(frozen.knowledge).await?;
        self.send(Body::Complete(complete)).await?;
        let adopted = match self
            .receive("the taker to adopt the relays", self.deadlines.pause)
            .await?
        {
            Body::Adopted(adopted) => adopted,
            _ => return Err(UNEXPECTED),
        };
        for number in adopted.left {
            if !moving.remove(&number) {
                return Err(Failure::Violation("a relay is left that was not offered"));
            }
        }
        self.giver.progress(Step::Adopted);
        Ok(moving.into_iter().collect())
    }

    /// Lets the taker run, until it says that it does.
    async fn let_run(&mut self) -> Result<(), Failure> {
        self.send(Body::Go(Empty {})).await?;
        match self.receive("the taker to run", self.deadlines.pause).await? {
            Body::Running(_) => Ok(()),
            _ => Err(UNEXPECTED),
        }
    }

    /// Waits for another round; says goodbye if there is none.
    async fn is_another_due(&mut self) -> Result<bool, Failure> {
        let has_more = tokio::select! {
            biased;
            // The taker has nothing to say between two rounds.
            received = self.channel.receive() => {
                return Err(match received?.body {
                    Body::Refused(refused) => Failure::Refused(refused.why),
                    _ => UNEXPECTED,
                });
            }
            has_more = self.giver.has_more() => has_more,
        };
        if !has_more {
            let knowledge = self.own("the counters", async |giver| giver.last_words().await).await?;
            self.send_knowledge(knowledge).await?;
            self.send(Body::Bye(Empty {})).await?;
            self.giver.progress(Step::Done);
        }
        Ok(has_more)
    }

    async fn send_relays(&mut self, offered: Vec<Offered>) -> Result<(), Failure> {
        let mut descriptors = VecDeque::with_capacity(offered.len() * 2);
        let mut relays = Vec::with_capacity(offered.len());
        for Offered { relay, client, node } in offered {
            relays.push(relay);
            descriptors.extend([client, node]);
        }
        for relays in batches(relays, RELAYS_MAX) {
            let pairs = descriptors.drain(..relays.len() * 2).collect();
            self.send_with(Body::Relays(Relays { relays }), pairs).await?;
        }
        Ok(())
    }

    async fn send_placements(&mut self, placements: Vec<Placement>) -> Result<(), Failure> {
        for placements in batches(placements, ENTRIES_MAX) {
            self.send(Body::Placements(Placements { placements })).await?;
        }
        Ok(())
    }

    async fn send_knowledge(&mut self, knowledge: Knowledge) -> Result<(), Failure> {
        let nothing = Knowledge::default;
        let counters = batches(knowledge.counters, ENTRIES_MAX).map(|counters| Knowledge { counters, ..nothing() });
        let ends = batches(knowledge.ends, ENTRIES_MAX).map(|ends| Knowledge { ends, ..nothing() });
        let left = batches(knowledge.left, ENTRIES_MAX).map(|left| Knowledge { left, ..nothing() });
        for knowledge in counters.chain(ends).chain(left) {
            self.send(Body::Knowledge(knowledge)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, body: Body) -> Result<(), Failure> {
        self.channel
            .send(body, &[], Instant::now() + self.deadlines.message)
            .await
    }

    /// Sends a message with descriptors, which are closed here, once the taker has received enough of those before.
    async fn send_with(&mut self, body: Body, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        // It may be starting.
        let until = Instant::now() + self.deadlines.prepare;
        while self.sent - self.received >= WINDOW {
            if self.absorb("the taker to receive", until).await?.is_some() {
                return Err(UNEXPECTED);
            }
        }
        self.sent += 1;
        let until = Instant::now() + self.deadlines.message;
        self.channel.send(body, &descriptors, until).await
    }

    /// The next message that does not only say what was received.
    async fn receive(&mut self, what: &'static str, limit: Duration) -> Result<Body, Failure> {
        let until = Instant::now() + limit;
        loop {
            if let Some(body) = self.absorb(what, until).await? {
                return Ok(body);
            }
        }
    }

    /// The next message; `None` if it only says what was received.
    async fn absorb(&mut self, what: &'static str, until: Instant) -> Result<Option<Body>, Failure> {
        let receiving = timeout_at(until, self.channel.receive()).await;
        match receiving.map_err(|_| Failure::TooLate(what))??.body {
            Body::Received(Received { messages }) if (self.received..=self.sent).contains(&messages) => {
                self.received = messages;
                Ok(None)
            }
            Body::Received(_) => Err(Failure::Violation("messages are received that were not sent")),
            Body::Refused(refused) => Err(Failure::Refused(refused.why)),
            body => Ok(Some(body)),
        }
    }

    /// A step of this process.
    async fn own<T>(&mut self, what: &'static str, step: impl AsyncFnOnce(&mut G) -> T) -> Result<T, Failure> {
        within(self.deadlines.message, what, step(self.giver)).await
    }
}
