//! One thread's clients: dials, greets, publishes and reads as the plan says, and measures. It knows no workload by name.

use std::collections::VecDeque;
use std::io;
use std::mem;

use super::clock::{self, Nanos, SECOND};
use super::files::Listener;
use super::interrupt::Interrupts;
use super::link::Link;
use super::live::{Live, Progress};
use super::measured::{Failure, Latencies, Measured, Slice};
use super::packet::{self, Hello, Message, Read, STAMP_BYTES, Stamp, kind};
use super::plan::{Arrival, Audience, Parting, Plan, Then, Traffic};
use super::poll::{Poll, Ready};
use super::process::{self, Usage};
use super::wire::{Body, Outgoing, Wire};

/// How long messages under way are waited for at the end.
const DRAIN: Nanos = 2 * SECOND;

/// How much is read at once: enough that bulk is cheap, and still in the processor's cache.
const READ_BYTES: usize = 256 * 1024;

/// How often clients are looked at that took too long or were quiet for long.
const SWEEP: Nanos = SECOND / 4;

/// Messages sent between two looks at the sockets, when the schedule is behind.
const BURST: u32 = 64;

/// Runs a plan; returns when it is over, or soon after an interrupt.
pub(super) fn run(
    plan: &Plan,
    live: &Live,
    interrupts: Option<&Interrupts>,
) -> io::Result<Outcome> {
    // Before there is a client, so that the bench's own memory is counted too.
    let start = Look::at(plan, Moment::Start);
    let mut driver = Driver::new(plan, live, interrupts)?;
    driver.looks.push(start);
    driver.run()?;
    Ok(Outcome {
        measured: driver.measured,
        looks: driver.looks,
        files: driver.files,
    })
}

/// What a run leaves behind.
pub(super) struct Outcome {
    pub(super) measured: Measured,
    pub(super) looks: Vec<Look>,
    pub(super) files: Option<Files>,
}

/// What the target's process has open, when it is on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files {
    pub(super) listener: Listener,
    pub(super) before: u64,
    /// While so many clients were here.
    pub(super) during: Option<(u64, u32)>,
}

/// When processes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the first dial.
    Start,
    /// The measured time begins.
    Begin,
    /// The measured time ends.
    End,
    /// All clients are gone, and the time to settle is over.
    Settled,
}

/// The processes and the machine at one moment.
pub(super) struct Look {
    pub(super) moment: Moment,
    pub(super) machine: process::Machine,
    pub(super) processes: Vec<Usage>,
}

impl Look {
    fn at(plan: &Plan, moment: Moment) -> Self {
        Self {
            moment,
            machine: process::machine(),
            processes: plan.pids.iter().map(|&pid| process::usage(pid)).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// All are here, and about to be cut off.
    Resting,
    WarmingUp,
    Measuring,
    Draining,
    Settling,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Dialing,
    /// It has asked for WebSocket.
    Upgrading,
    Greeting,
    Subscribing,
    Pinging,
    Here,
    Gone,
}

struct Client {
    wire: Option<Wire>,
    state: State,
    /// When it was to dial; once it is here, when it last sent.
    since: Nanos,
    sent: u32,
    received: u32,
    in_flight: u32,
    /// The node that accepted it last, as a number; zero is unknown.
    node: u16,
    /// It has been accepted before.
    known: bool,
    /// Messages that the target has not confirmed, and how many of those it takes.
    unacked: u16,
    unacked_max: u16,
    /// Messages to be confirmed; empty where somebody subscribes to them.
    unconfirmed: VecDeque<Stamp>,
}

struct Driver<'a> {
    plan: &'a Plan,
    live: &'a Live,
    interrupts: Option<&'a Interrupts>,
    poll: Poll,
    clients: Vec<Client>,
    outgoing: Outgoing,
    phase: Phase,
    phase_ends: Nanos,
    began: Nanos,
    next_sweep: Nanos,
    /// The next client to dial, how many are under way, and how many arrived or failed to.
    next_dial: u32,
    dialing: u32,
    settled: u32,
    /// How many are here.
    here: u32,
    /// Subscribers that are here: of each publisher's topic, or of the one topic.
    audiences: Vec<u32>,
    /// How many times all were cut off, and when that was the last time.
    cuts: u32,
    cut_at: Nanos,
    traffic: bool,
    /// Of the open loop: when it began, and how many messages of all clients were due since.
    traffic_began: Nanos,
    due: u64,
    /// How many of those are still to be sent by clients that are here.
    owed: u64,
    /// The measured time; messages that were to be sent in it count, even those that arrive later.
    measured_from: Nanos,
    measured_until: Nanos,
    in_flight: u64,
    measured: Measured,
    /// What the slice of time that runs has seen, and when it ends.
    slice: Slice,
    slice_latency: Latencies,
    slice_ends: Nanos,
    errors_before: u64,
    looks: Vec<Look>,
    files: Option<Files>,
    buffer: Vec<u8>,
    packet: Vec<u8>,
    text: Vec<u8>,
}

impl<'a> Driver<'a> {
    fn new(plan: &'a Plan, live: &'a Live, interrupts: Option<&'a Interrupts>) -> io::Result<Self> {
        let absent = || Client {
            wire: None,
            state: State::Absent,
            since: 0,
            sent: 0,
            received: 0,
            in_flight: 0,
            node: 0,
            known: false,
            unacked: 0,
            unacked_max: u16::MAX,
            unconfirmed: VecDeque::new(),
        };
        let poll = Poll::new()?;
        if let Some(interrupts) = interrupts {
            poll.add_waker(interrupts)?;
        }
        let audiences = match plan.audience {
            Audience::Others if plan.has_one_topic() => 1,
            Audience::Others => plan.publishers as usize,
            _ => 0,
        };
        Ok(Self {
            plan,
            live,
            interrupts,
            poll,
            clients: (0..plan.clients).map(|_| absent()).collect(),
            outgoing: Outgoing::new(plan.size, plan.websocket.as_ref()),
            phase: Phase::Connecting,
            phase_ends: Nanos::MAX,
            began: clock::now(),
            next_sweep: 0,
            next_dial: 0,
            dialing: 0,
            settled: 0,
            here: 0,
            audiences: vec![0; audiences],
            cuts: 0,
            cut_at: 0,
            traffic: false,
            traffic_began: 0,
            due: 0,
            owed: 0,
            measured_from: Nanos::MAX,
            measured_until: Nanos::MAX,
            in_flight: 0,
            measured: Measured::new(),
            slice: Slice::default(),
            slice_latency: Latencies::new(),
            slice_ends: 0,
            errors_before: 0,
            looks: Vec::new(),
            files: Listener::find(plan.target).and_then(|listener| {
                Some(Files {
                    listener,
                    before: listener.open_files()?,
                    during: None,
                })
            }),
            buffer: vec![0; READ_BYTES],
            packet: Vec::new(),
            text: Vec::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        self.began = clock::now();
        self.slice_ends = self.began + self.measured.series.every;
        self.phase_ends = self.began + self.plan.connecting_max;
        if self.plan.then == Then::Leave {
            self.phase_ends = self.began + self.plan.duration;
            self.begin_measuring();
        }
        loop {
            let now = clock::now();
            self.advance(now);
            if self.phase == Phase::Over {
                return Ok(());
            }
            self.dial_due(now);
            self.publish_due(now);
            if now >= self.next_sweep {
                self.sweep(now);
                self.next_sweep = now + SWEEP;
            }
            if now >= self.slice_ends {
                self.end_slice(now);
            }
            let due = self.next_due(now);
            self.poll.wait(now, due, &mut ready)?;
            for event in &ready {
                self.turn(*event);
            }
            if self.interrupts.is_some_and(Interrupts::came) {
                self.measured.interrupted = true;
            }
        }
    }

    /// Goes on to the next phase when this one is over.
    fn advance(&mut self, now: Nanos) {
        let all_settled = self.settled == self.plan.clients;
        let ended = now >= self.phase_ends;
        let next = match self.phase {
            Phase::Draining if self.measured.interrupted => Phase::Settling,
            Phase::Settling if self.measured.interrupted => Phase::Over,
            _ if self.measured.interrupted => Phase::Draining,
            Phase::Connecting if ended && !all_settled => {
                self.end_connecting();
                return;
            }
            Phase::Connecting if all_settled => self.after_connecting(now),
            Phase::Resting if ended => {
                self.cut(now);
                Phase::Connecting
            }
            // Nobody is left to measure with.
            Phase::WarmingUp | Phase::Measuring if self.here == 0 => Phase::Draining,
            Phase::WarmingUp if ended => Phase::Measuring,
            Phase::Measuring if ended => Phase::Draining,
            Phase::Draining if ended || self.is_quiet() => Phase::Settling,
            Phase::Settling if ended => Phase::Over,
            _ => return,
        };
        self.enter(next);
    }

    /// What follows when every client is here, or has failed to be.
    fn after_connecting(&mut self, now: Nanos) -> Phase {
        if self.cuts > 0 {
            self.measured.returns.rounds.push(now - self.cut_at);
        }
        self.ask_for_nodes();
        match self.plan.then {
            Then::Leave => Phase::Draining,
            Then::Return(times) if self.cuts < times && self.here > 0 => Phase::Resting,
            Then::Return(_) => Phase::Draining,
            Then::Ping | Then::Stay => Phase::WarmingUp,
        }
    }

    /// Asks EMQX on which node each client is, in a moment in which nothing is measured.
    fn ask_for_nodes(&mut self) {
        let Some(emqx) = self.plan.emqx.as_ref().filter(|_| self.here > 0) else {
            return;
        };
        let nodes = match emqx.nodes() {
            Ok(nodes) => nodes,
            Err(problem) => {
                self.measured.nodes_problem = Some(problem);
                return;
            }
        };
        for index in 0..self.plan.clients {
            if self.clients[index as usize].state == State::Here {
                packet::fill(&self.plan.client_id, index, &mut self.text);
                let client_id = str::from_utf8(&self.text).unwrap_or_default();
                let node = nodes.get(client_id).map(String::as_str);
                let node = self.measured.note_node(node);
                self.note_return(index, node);
            }
        }
    }

    /// Notes the node that a client is on now, and whether it is the one it was on before.
    fn note_return(&mut self, index: u32, node: u16) {
        let client = &mut self.clients[index as usize];
        if node == 0 {
            return;
        }
        if self.cuts > 0 && client.node != 0 {
            self.measured.returns.known += 1;
            self.measured.returns.same_node += u64::from(client.node == node);
        }
        client.node = node;
    }

    /// The time to connect is over: who is not here has failed, unless connecting until now was all there was to do.
    fn end_connecting(&mut self) {
        if self.plan.then == Then::Leave {
            self.enter(Phase::Draining);
            return;
        }
        let left = mem::replace(&mut self.next_dial, self.plan.clients);
        let left = self.plan.clients - left;
        self.settled += left;
        self.measured.fail_often(Failure::Timeout, left.into());
        for index in 0..self.plan.clients {
            if self.clients[index as usize].wire.is_some()
                && self.clients[index as usize].state != State::Here
            {
                self.lose(index, Failure::Timeout);
            }
        }
    }

    /// Cuts everyone off without a word, as a network does that fails.
    fn cut(&mut self, now: Nanos) {
        if self.cuts == 0 {
            self.begin_measuring();
        }
        for client in &mut self.clients {
            if let Some(wire) = client.wire.take() {
                wire.part(Parting::Reset);
            }
            client.state = State::Absent;
        }
        self.cuts += 1;
        self.cut_at = now;
        (self.next_dial, self.dialing, self.settled, self.here) = (0, 0, 0, 0);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let lasts = match phase {
            Phase::Over => 0,
            Phase::Connecting => self.plan.connecting_max,
            Phase::Resting => self.plan.warm_up,
            Phase::WarmingUp => {
                self.start_traffic();
                self.plan.warm_up
            }
            Phase::Measuring => {
                self.begin_measuring();
                self.plan.duration
            }
            Phase::Draining => {
                self.end_measuring();
                DRAIN
            }
            Phase::Settling => {
                self.measured.cut_off += self.in_flight + self.owed;
                let not_here = self.plan.clients - self.next_dial + self.dialing;
                self.measured.cut_off_connects += u64::from(not_here);
                self.close_all();
                self.plan.settle
            }
        };
        if phase == Phase::Over {
            self.look(Moment::Settled);
            self.end_slice(clock::now());
        }
        if matches!(phase, Phase::Resting | Phase::WarmingUp) {
            self.count_files();
        }
        self.phase_ends = clock::now() + lasts;
    }

    fn count_files(&mut self) {
        if let Some(files) = &mut self.files
            && files.during.is_none()
        {
            files.during = files.listener.open_files().map(|open| (open, self.here));
        }
    }

    /// Notes what the slice of time that is over has seen.
    fn end_slice(&mut self, now: Nanos) {
        let every = self.measured.series.every;
        let mut slice = mem::take(&mut self.slice);
        slice.p99_us = self.slice_latency.quantile_us(0.99);
        slice.errors = self.measured.failed_in_all() - self.errors_before;
        self.errors_before += slice.errors;
        self.slice_latency.clear();
        let lasts = now - (self.slice_ends - every);
        let seconds = lasts as f64 / SECOND as f64;
        self.live.show(
            self.plan.name,
            &Progress {
                phase: match self.phase {
                    Phase::Connecting => "connecting",
                    Phase::Resting | Phase::WarmingUp => "warming up",
                    Phase::Measuring => "measuring",
                    Phase::Draining | Phase::Settling | Phase::Over => "ending",
                },
                elapsed: now - self.began,
                here: self.here,
                clients: self.plan.clients,
                connects_per_s: slice.connects as f64 / seconds,
                messages_per_s: slice.messages as f64 / seconds,
                p99_us: slice.p99_us,
                errors: self.measured.failed_in_all(),
            },
        );
        self.measured.series.push(slice, lasts);
        self.slice_ends = now + self.measured.series.every;
    }

    fn begin_measuring(&mut self) {
        self.look(Moment::Begin);
        self.measured_from = clock::now();
    }

    fn end_measuring(&mut self) {
        self.measured_until = clock::now();
        self.look(Moment::End);
        self.measured.measuring = self.measured_until.saturating_sub(self.measured_from);
        // A closed loop is over. An open one goes on until all that was due by now is sent: to drop what waits would hide
        // the very stall that made it wait.
        self.traffic = matches!(self.plan.traffic, Traffic::PerSecond { .. }) && self.traffic;
    }

    /// Whether nothing is under way any more.
    fn is_quiet(&self) -> bool {
        self.in_flight + u64::from(self.dialing) + self.owed == 0 && self.next_message().is_none()
    }

    /// When the open loop's next message is due, as long as messages still fall due.
    fn next_message(&self) -> Option<Nanos> {
        let Traffic::PerSecond { rate, .. } = self.plan.traffic else {
            return None;
        };
        let due = self.traffic_began + at_rate(self.due, rate);
        (self.traffic && due < self.measured_until).then_some(due)
    }

    /// How many messages of a client the open loop's schedule has called for.
    fn due_by(&self, index: u32) -> u64 {
        let publishers = u64::from(self.plan.publishers);
        if index >= self.plan.publishers {
            return 0;
        }
        (self.due + publishers - 1 - u64::from(index)) / publishers
    }

    fn look(&mut self, moment: Moment) {
        self.looks.push(Look::at(self.plan, moment));
    }

    fn next_due(&self, now: Nanos) -> Nanos {
        let mut due = self.phase_ends.min(self.next_sweep).min(self.slice_ends);
        if self.phase == Phase::Draining && self.is_quiet() {
            return now;
        }
        if self.settled == self.plan.clients && self.phase == Phase::Connecting
            || self.here == 0 && matches!(self.phase, Phase::WarmingUp | Phase::Measuring)
            || self.measured.interrupted
        {
            return now;
        }
        if let Arrival::PerSecond(rate) = self.plan.arrival
            && self.phase == Phase::Connecting
            && self.next_dial < self.plan.clients
        {
            due = due.min(self.dials_from() + at_rate(u64::from(self.next_dial), rate));
        }
        self.next_message().map_or(due, |message| due.min(message))
    }

    /// When this round of dials began.
    fn dials_from(&self) -> Nanos {
        self.began.max(self.cut_at)
    }

    fn dial_due(&mut self, now: Nanos) {
        if self.phase != Phase::Connecting {
            return;
        }
        while self.next_dial < self.plan.clients {
            let intended = match self.plan.arrival {
                Arrival::AtOnce(most) if self.dialing >= most => return,
                Arrival::AtOnce(_) => clock::now(),
                Arrival::PerSecond(rate) => {
                    self.dials_from() + at_rate(u64::from(self.next_dial), rate)
                }
            };
            if intended > now && matches!(self.plan.arrival, Arrival::PerSecond(_)) {
                return;
            }
            self.dial(self.next_dial, intended);
            self.next_dial += 1;
        }
    }

    fn dial(&mut self, index: u32, intended: Nanos) {
        let client = &mut self.clients[index as usize];
        client.since = intended;
        let moved = if self.plan.roam { self.cuts } else { 0 };
        let source = self.plan.sources.of(index.wrapping_add(moved));
        let tls = self.plan.tls.as_ref();
        match Link::dial(self.plan.target, source, tls, &self.poll, u64::from(index)) {
            Ok(link) => {
                client.wire = Some(Wire::new(link));
                client.state = State::Dialing;
                self.dialing += 1;
            }
            Err(error) => {
                client.state = State::Gone;
                self.settled += 1;
                self.measured.fail(error.into());
            }
        }
    }

    fn turn(&mut self, event: Ready) {
        let index = event.token as u32;
        if let Err(failure) = self.serve(index, event) {
            self.lose(index, failure);
        }
    }

    fn serve(&mut self, index: u32, event: Ready) -> Result<(), Failure> {
        let client = &mut self.clients[index as usize];
        let Some(wire) = &mut client.wire else {
            return Ok(());
        };
        if client.state == State::Dialing {
            if event.writable {
                wire.begin(index, &self.outgoing)?;
                client.state = State::Upgrading;
                self.greet_when_open(index)?;
            }
        } else if event.writable {
            wire.flush(&self.outgoing)?;
            self.publish_allowed(index);
        }
        if event.readable {
            self.hear(index, event.hangup)
        } else {
            Ok(())
        }
    }

    /// Sends CONNECT as soon as MQTT may be sent.
    fn greet_when_open(&mut self, index: u32) -> Result<(), Failure> {
        let client = &mut self.clients[index as usize];
        if client.state != State::Upgrading || !client.wire.as_ref().is_some_and(Wire::is_open) {
            return Ok(());
        }
        client.state = State::Greeting;
        packet::fill(&self.plan.client_id, index, &mut self.text);
        self.packet.clear();
        packet::write_connect(
            &mut self.packet,
            &Hello {
                version: self.plan.version,
                client_id: str::from_utf8(&self.text).unwrap_or_default(),
                keep_alive_s: self.plan.keep_alive_s,
                clean: self.plan.clean,
                username: self.plan.username.as_deref(),
                password: self.plan.password.as_deref(),
            },
        );
        self.send_packet(index)
    }

    /// Sends what was written into `self.packet`.
    fn send_packet(&mut self, index: u32) -> Result<(), Failure> {
        match &mut self.clients[index as usize].wire {
            Some(wire) => wire.send(&self.packet, 0..0, &mut self.outgoing),
            None => Ok(()),
        }
    }

    fn hear(&mut self, index: u32, hangup: bool) -> Result<(), Failure> {
        let mut buffer = mem::take(&mut self.buffer);
        let mut result = Ok(());
        while let Some(wire) = &mut self.clients[index as usize].wire {
            let filled = wire.fill(&mut buffer, &mut self.outgoing);
            if let Some(handshake) = wire.handshake() {
                let latency = clock::now().saturating_sub(self.clients[index as usize].since);
                self.measured.handshakes.note(handshake, latency);
            }
            let filled = match filled {
                Ok(Some(filled)) => filled,
                Ok(None) => break,
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            };
            result = self
                .greet_when_open(index)
                .and_then(|()| self.read_all(index, &buffer[filled.mqtt]));
            // A short read left the socket empty, but an end of stream that came along must still be read.
            if result.is_err() || !(filled.more || hangup) {
                break;
            }
        }
        self.buffer = buffer;
        result
    }

    /// Reads packet after packet; what is left at the end waits for the rest of it.
    fn read_all(&mut self, index: u32, bytes: &[u8]) -> Result<(), Failure> {
        let now = clock::now();
        let mut rest = bytes;
        while !rest.is_empty() {
            let client = &mut self.clients[index as usize];
            let Some(wire) = &mut client.wire else {
                return Ok(());
            };
            if let Some(body) = wire.body.take() {
                rest = self.read_body(index, *body, rest, now)?;
                continue;
            }
            // Whoever speaks no MQTT may never complete what it began.
            if client.state == State::Greeting && rest[0] != kind::CONNACK << 4 {
                return Err(Failure::Junk);
            }
            match packet::read(rest, self.plan.version) {
                Read::NeedMore => {
                    wire.hold(rest);
                    return Ok(());
                }
                Read::Junk => return Err(Failure::Junk),
                Read::Packet { kind, body, whole } => {
                    rest = &rest[whole.len()..];
                    self.heard(index, kind, body, whole, now)?;
                }
                Read::Publish(published) => {
                    rest = &rest[published.head.len()..];
                    let body = Body {
                        stamp: published.stamp,
                        qos: published.qos,
                        packet_id: published.packet_id,
                        at: published
                            .stamp
                            .map_or(0, |stamp| self.outgoing.pattern.start(stamp)),
                        missing: published.body_bytes,
                        bytes: published.body_bytes,
                    };
                    rest = self.read_body(index, body, rest, now)?;
                }
            }
        }
        Ok(())
    }

    /// Checks what came of a message's body, and counts the message when that was the last of it.
    fn read_body<'b>(
        &mut self,
        index: u32,
        mut body: Body,
        bytes: &'b [u8],
        now: Nanos,
    ) -> Result<&'b [u8], Failure> {
        let (here, rest) = bytes.split_at(body.missing.min(bytes.len()));
        if body.stamp.is_some()
            && self
                .outgoing
                .pattern
                .bytes
                .get(body.at..body.at + here.len())
                != Some(here)
        {
            return Err(Failure::Corrupt);
        }
        body.at += here.len();
        body.missing -= here.len();
        if body.missing > 0 {
            if let Some(wire) = &mut self.clients[index as usize].wire {
                wire.body = Some(Box::new(body));
            }
        } else {
            self.arrived(index, &body, now)?;
        }
        Ok(rest)
    }

    fn heard(
        &mut self,
        index: u32,
        kind: u8,
        body: &[u8],
        whole: &[u8],
        now: Nanos,
    ) -> Result<(), Failure> {
        let state = self.clients[index as usize].state;
        match (state, kind) {
            (State::Greeting, kind::CONNACK) => self.greeted(index, whole, now),
            (State::Subscribing, kind::SUBACK) => {
                // Refusals of a filter are codes from 128 on, in every version.
                if body.last().is_some_and(|&code| code >= 0x80) {
                    return Err(Failure::NotAccepted);
                }
                self.arrive(index, now);
                Ok(())
            }
            (State::Pinging, kind::PINGRESP) => {
                self.arrive(index, now);
                Ok(())
            }
            (State::Here, kind::PINGRESP) => Ok(()),
            (State::Here, kind::PUBACK) => {
                self.confirmed(index, body, now);
                Ok(())
            }
            (_, kind::DISCONNECT) => Err(Failure::Closed),
            _ => Err(Failure::Junk),
        }
    }

    fn greeted(&mut self, index: u32, connack: &[u8], now: Nanos) -> Result<(), Failure> {
        let welcome = packet::read_connack(connack, self.plan.version)
            .map_err(|()| Failure::Junk)?
            .ok_or(Failure::NotAccepted)?;
        let client = &mut self.clients[index as usize];
        let latency = now.saturating_sub(client.since);
        self.measured.connect.record(latency);
        self.measured.accepted += 1;
        self.slice.connects += 1;
        if self.phase != Phase::Measuring {
            self.slice_latency.record(latency);
        }
        if self.cuts == 0 {
            self.measured.connecting = now - self.began;
        } else if client.known {
            let returns = &mut self.measured.returns;
            returns.count += 1;
            returns.session_present += u64::from(welcome.session_present);
        }
        client.known = true;
        client.unacked = 0;
        client.unacked_max = welcome.receive_max.unwrap_or(u16::MAX);
        // One of the two tells the node; were it both, a return would count twice.
        if self.plan.emqx.is_none() {
            let node = self.measured.note_node(welcome.node.as_deref());
            self.note_return(index, node);
        }
        let client = &mut self.clients[index as usize];
        self.packet.clear();
        if self.plan.subscribes(index) {
            client.state = State::Subscribing;
            packet::fill(
                &self.plan.topic,
                self.plan.topic_number(index),
                &mut self.text,
            );
            let filter = str::from_utf8(&self.text).unwrap_or_default();
            packet::write_subscribe(&mut self.packet, self.plan.version, filter, self.plan.qos);
            return self.send_packet(index);
        }
        match self.plan.then {
            Then::Leave => self.part(index),
            Then::Ping => {
                client.state = State::Pinging;
                self.packet.extend_from_slice(&packet::PINGREQ);
                self.send_packet(index)
            }
            Then::Stay | Then::Return(_) => {
                self.arrive(index, now);
                Ok(())
            }
        }
    }

    /// The client is here to stay.
    fn arrive(&mut self, index: u32, now: Nanos) {
        let client = &mut self.clients[index as usize];
        client.state = State::Here;
        client.since = now;
        self.dialing -= 1;
        self.settled += 1;
        self.here += 1;
        if self.cuts > 0 {
            self.measured.returns.latency.record(now - self.cut_at);
        }
        if let Some(audience) = self.audience_of(index) {
            self.audiences[audience] += 1;
        }
        self.dial_due(now);
    }

    /// The topic that a client subscribes to as one of others, as an index of the audiences.
    fn audience_of(&self, index: u32) -> Option<usize> {
        let is_listener = self.plan.audience == Audience::Others && self.plan.subscribes(index);
        is_listener.then(|| self.topic_index(index))
    }

    fn topic_index(&self, index: u32) -> usize {
        if self.plan.has_one_topic() {
            0
        } else {
            self.plan.topic_number(index) as usize
        }
    }

    /// How often a message of this client arrives.
    fn copies(&self, index: u32) -> u32 {
        match self.plan.audience {
            Audience::None => 0,
            Audience::Sender => 1,
            Audience::Others => self.audiences[self.topic_index(index)],
        }
    }

    /// Closes a client that has done what it came for.
    fn part(&mut self, index: u32) -> Result<(), Failure> {
        let client = &mut self.clients[index as usize];
        client.state = State::Gone;
        let wire = client.wire.take();
        let sent = wire.map_or(Ok(()), |wire| {
            wire.leave(&packet::DISCONNECT, self.plan.parting, &mut self.outgoing)
        });
        self.dialing -= 1;
        self.settled += 1;
        self.dial_due(clock::now());
        sent
    }

    /// Closes a client that failed.
    fn lose(&mut self, index: u32, failure: Failure) {
        let missing = self.due_by(index);
        let client = &mut self.clients[index as usize];
        self.measured.fail(failure);
        let problem = &mut self.measured.handshakes.problem;
        if matches!(failure, Failure::NotTrusted | Failure::Tls) && problem.is_none() {
            *problem = client.wire.as_mut().and_then(Wire::tls_problem);
        }
        if client.state == State::Here {
            let missing = missing.saturating_sub(u64::from(client.sent));
            self.measured.fail_often(Failure::NotSent, missing);
            self.owed -= missing.min(self.owed);
        }
        self.in_flight -= u64::from(client.in_flight);
        client.in_flight = 0;
        client.wire = None;
        client.unconfirmed = VecDeque::new();
        match mem::replace(&mut client.state, State::Gone) {
            State::Here => {
                self.here -= 1;
                self.lose_listener(index);
            }
            State::Dialing
            | State::Upgrading
            | State::Greeting
            | State::Subscribing
            | State::Pinging => {
                self.dialing -= 1;
                self.settled += 1;
            }
            State::Absent | State::Gone => {}
        }
    }

    /// Nobody waits any longer for what was under way to a listener that is gone.
    fn lose_listener(&mut self, index: u32) {
        let Some(audience) = self.audience_of(index) else {
            return;
        };
        self.audiences[audience] -= 1;
        let publishers = if self.plan.has_one_topic() {
            0..self.plan.publishers
        } else {
            audience as u32..audience as u32 + 1
        };
        for publisher in publishers {
            let in_flight = mem::take(&mut self.clients[publisher as usize].in_flight);
            self.in_flight -= u64::from(in_flight);
        }
    }

    fn start_traffic(&mut self) {
        self.traffic = self.plan.traffic != Traffic::None;
        self.traffic_began = clock::now();
        for index in 0..self.plan.publishers {
            self.publish_allowed(index);
        }
    }

    /// In an open loop, sends what is due by now; not all at once, so that answers are read in between.
    fn publish_due(&mut self, now: Nanos) {
        for _ in 0..BURST {
            if self.next_message().is_none_or(|due| due > now) {
                return;
            }
            let index = (self.due % u64::from(self.plan.publishers)) as u32;
            self.due += 1;
            if self.clients[index as usize].state == State::Here {
                self.owed += 1;
                self.publish_allowed(index);
            } else {
                self.measured.fail(Failure::NotSent);
            }
        }
    }

    /// Sends what the client's window has room for: in an open loop only what is due, with the time it was due at.
    fn publish_allowed(&mut self, index: u32) {
        while self.traffic && index < self.plan.publishers {
            let client = &self.clients[index as usize];
            let now = clock::now();
            let (window, intended) = match self.plan.traffic {
                Traffic::None => return,
                // Without a word from the target there is nothing to close the loop with.
                Traffic::Window(_) if self.plan.qos == 0 && self.copies(index) == 0 => return,
                Traffic::Window(window) => (window, now),
                Traffic::PerSecond { .. } if u64::from(client.sent) >= self.due_by(index) => return,
                Traffic::PerSecond { rate, window } => {
                    let number =
                        u64::from(client.sent) * u64::from(self.plan.publishers) + u64::from(index);
                    (window, self.traffic_began + at_rate(number, rate))
                }
            };
            // Each copy of a message is under way for itself.
            let window = window.saturating_mul(self.copies(index).max(1));
            let has_room = client.wire.as_ref().is_some_and(Wire::has_room);
            // Whoever sends more than the target takes is thrown out.
            let is_full = self.plan.qos > 0 && client.unacked >= client.unacked_max;
            if client.in_flight >= window
                || is_full
                || !has_room
                || !self.publish(index, intended, now)
            {
                return;
            }
        }
    }

    /// Sends a message; `false` when the client is not here (any more).
    fn publish(&mut self, index: u32, intended: Nanos, now: Nanos) -> bool {
        let copies = self.copies(index);
        let is_confirmed = copies == 0 && self.plan.qos > 0;
        let client = &mut self.clients[index as usize];
        let Some(wire) = client.wire.as_mut().filter(|_| client.state == State::Here) else {
            return false;
        };
        let stamp = Stamp {
            intended,
            sent: now,
            sender: index,
            sequence: client.sent,
        };
        let body_bytes = self.plan.size - STAMP_BYTES;
        packet::fill(&self.plan.topic, index, &mut self.text);
        self.packet.clear();
        packet::write_publish_head(
            &mut self.packet,
            &Message {
                version: self.plan.version,
                topic: &self.text,
                qos: self.plan.qos,
                packet_id: packet_id(stamp.sequence),
                stamp,
                body_bytes,
            },
        );
        let start = self.outgoing.pattern.start(stamp);
        match wire.send(&self.packet, start..start + body_bytes, &mut self.outgoing) {
            Ok(()) => {
                client.sent = client.sent.wrapping_add(1);
                client.unacked += u16::from(self.plan.qos > 0);
                client.since = now;
                let under_way = if is_confirmed { 1 } else { copies };
                if is_confirmed {
                    client.unconfirmed.push_back(stamp);
                }
                client.in_flight += under_way;
                self.in_flight += u64::from(under_way);
                self.owed = self.owed.saturating_sub(1);
                self.measured.sent += u64::from(self.measures(now));
                // What nobody confirms and nobody receives is over with the send.
                self.slice.messages += u64::from(under_way == 0);
                true
            }
            Err(failure) => {
                self.lose(index, failure);
                false
            }
        }
    }

    /// A message has come whole.
    fn arrived(&mut self, index: u32, message: &Body, now: Nanos) -> Result<(), Failure> {
        if message.qos > 0 {
            self.packet.clear();
            packet::write_puback(&mut self.packet, message.packet_id);
            self.send_packet(index)?;
        }
        let Some(stamp) = message.stamp else {
            return Ok(());
        };
        // One topic for all mixes the sequences of its publishers.
        if !(self.plan.audience == Audience::Others && self.plan.has_one_topic()) {
            let client = &mut self.clients[index as usize];
            let missing = stamp.sequence.wrapping_sub(client.received);
            client.received = stamp.sequence.wrapping_add(1);
            // Half the numbers are ahead, the others behind: those have come before.
            if missing > u32::MAX / 2 {
                self.measured.fail(Failure::OutOfOrder);
            } else if missing > 0 {
                self.measured
                    .fail_often(Failure::OutOfOrder, missing.into());
                self.give_up(stamp.sender, missing);
            }
        }
        if self.measures(now) {
            self.measured.received += 1;
            self.measured.received_bytes += (message.bytes + STAMP_BYTES) as u64;
        }
        self.done(stamp, now);
        Ok(())
    }

    /// The target has confirmed a message: its end, where nobody of this run subscribes to it.
    fn confirmed(&mut self, index: u32, puback: &[u8], now: Nanos) {
        let Some(&id) = puback.first_chunk() else {
            return;
        };
        let id = u16::from_be_bytes(id);
        let client = &mut self.clients[index as usize];
        let was_full = client.unacked == client.unacked_max;
        client.unacked = client.unacked.saturating_sub(1);
        let unconfirmed = &mut client.unconfirmed;
        let found = unconfirmed
            .iter()
            .position(|stamp| packet_id(stamp.sequence) == id);
        if let Some(stamp) = found.and_then(|at| unconfirmed.remove(at)) {
            self.measured.confirmed += u64::from(self.measures(now));
            self.done(stamp, now);
        } else if was_full {
            self.publish_allowed(index);
        }
    }

    /// Waits no longer for messages of this client: later ones have come.
    fn give_up(&mut self, sender: u32, count: u32) {
        if let Some(sender) = self.clients.get_mut(sender as usize) {
            let count = sender.in_flight.min(count);
            sender.in_flight -= count;
            self.in_flight -= u64::from(count);
        }
    }

    /// A message, or a copy of it, has come to its end: its sender may send the next.
    fn done(&mut self, stamp: Stamp, now: Nanos) {
        let Some(sender) = self.clients.get_mut(stamp.sender as usize) else {
            return;
        };
        let under_way = sender.in_flight.min(1);
        sender.in_flight -= under_way;
        self.in_flight -= u64::from(under_way);
        let latency = now.saturating_sub(stamp.intended);
        self.slice.messages += 1;
        self.slice_latency.record(latency);
        if self.measures(stamp.intended) {
            self.measured.message.record(latency);
            self.measured
                .message_from_send
                .record(now.saturating_sub(stamp.sent));
        }
        self.publish_allowed(stamp.sender);
    }

    /// Whether a moment is in the measured time.
    fn measures(&self, moment: Nanos) -> bool {
        (self.measured_from..self.measured_until).contains(&moment)
    }

    /// Once a second: gives up on clients that took too long, and keeps the quiet ones alive.
    fn sweep(&mut self, now: Nanos) {
        let quiet = u64::from(self.plan.keep_alive_s) * SECOND * 3 / 4;
        for index in 0..self.next_dial {
            let client = &self.clients[index as usize];
            match client.state {
                State::Absent | State::Gone => {}
                State::Here if quiet == 0 || now.saturating_sub(client.since) < quiet => {}
                State::Here => self.ping(index, now),
                _ if now.saturating_sub(client.since) < self.plan.connect_timeout => {}
                _ => self.lose(index, Failure::Timeout),
            }
        }
    }

    fn ping(&mut self, index: u32, now: Nanos) {
        self.clients[index as usize].since = now;
        self.packet.clear();
        self.packet.extend_from_slice(&packet::PINGREQ);
        if let Err(failure) = self.send_packet(index) {
            self.lose(index, failure);
        }
    }

    fn close_all(&mut self) {
        let disconnect = packet::last_disconnect(self.plan.version);
        for client in &mut self.clients {
            if let Some(wire) = client.wire.take() {
                // The peer may be gone; the run is over either way.
                let _ = wire.leave(disconnect, self.plan.parting, &mut self.outgoing);
            }
            client.state = State::Gone;
        }
        self.here = 0;
    }
}

/// Packet ids come again after 65,535 messages: long after the first with it was confirmed.
fn packet_id(sequence: u32) -> u16 {
    (sequence % 65_535 + 1) as u16
}

/// When the event with this number is due, at so many a second.
fn at_rate(number: u64, rate: f64) -> Nanos {
    (number as f64 * SECOND as f64 / rate) as Nanos
}

#[cfg(test)]
mod tests;
