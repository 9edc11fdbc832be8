//! The exchange of packets between the clients and the target: dials, connects, publishes, and answers what arrives. It
//! knows no phases: the driver decides when to do what.

use std::io;
use std::mem;

use crate::clock::{self, Nanos, SECOND};
use crate::failure::{Failure, Stage};
use crate::interrupt::Interrupts;
use crate::link::Link;
use crate::packet::{self, NoConnack, Stamp, kind};
use crate::plan::{CloseMode, Plan, Then};
use crate::poll::{Poll, Ready};
use crate::wire::{Body, Wire};

use super::clients::{Clients, Order, State};
use super::incoming::{self, Incoming};
use super::recorder::Recorder;
use super::schedule::Messages;
use super::sender::{Sender, packet_id};

/// How much is read at once: enough that bulk is cheap, and still in the processor's cache.
const READ_BYTES: usize = 256 * 1024;

/// Messages sent before sockets are looked at again, when the schedule is behind.
const BURST: u32 = 64;

/// The clients with their sockets, and what they send and receive.
pub(crate) struct Exchange<'a> {
    plan: &'a Plan,
    poll: Poll,
    pub(crate) clients: Clients<'a>,
    pub(crate) messages: Messages,
    pub(crate) recorder: Recorder,
    sender: Sender<'a>,
    buffer: Vec<u8>,
}

impl<'a> Exchange<'a> {
    /// Of a run that begins now.
    pub(crate) fn new(plan: &'a Plan, interrupts: Option<&Interrupts>, now: Nanos) -> io::Result<Self> {
        let poll = Poll::new()?;
        if let Some(interrupts) = interrupts {
            poll.add_waker(interrupts)?;
        }
        Ok(Self {
            plan,
            poll,
            clients: Clients::new(plan),
            messages: Messages::new(plan),
            recorder: Recorder::new(now),
            sender: Sender::new(plan),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Waits for sockets, at most until `due`.
    pub(crate) fn wait(&mut self, now: Nanos, due: Nanos, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.poll.wait(now, due, ready)
    }

    /// Whether nothing is in flight, and nothing falls due any more.
    pub(crate) fn is_quiet(&self) -> bool {
        let under_way = self.clients.in_flight() + u64::from(self.clients.connecting()) + self.messages.owed();
        under_way == 0 && self.messages.next_due().is_none()
    }

    /// Dials for a client, which was due at `due`, in this round of dials.
    pub(crate) fn dial(&mut self, index: u32, due: Nanos, round: u32) {
        self.clients[index].since = due;
        let moved = if self.plan.roam { round } else { 0 };
        let source = self.plan.sources.of(index.wrapping_add(moved));
        let tls = self.plan.tls.as_ref();
        match Link::dial(self.plan.target, source, tls, &self.poll, u64::from(index)) {
            Ok(link) => self.clients.dialed(index, Wire::new(link)),
            Err(error) => {
                self.clients.failed_to_dial(index);
                self.recorder.fail(error.into(), Stage::Tcp);
            }
        }
    }

    /// Does what a socket is ready for.
    pub(crate) fn turn(&mut self, event: Ready) {
        let index = event.token as u32;
        if let Err(failure) = self.serve(index, event) {
            self.lose(index, failure);
        }
    }

    /// Begins the traffic: closed loops fill their windows.
    pub(crate) fn start_traffic(&mut self) {
        self.messages.start(clock::now());
        for index in 0..self.plan.publishers {
            self.publish_allowed(index);
        }
    }

    /// In an open loop, sends what is due by now; not all at once, so that answers are read in between.
    pub(crate) fn publish_due(&mut self, now: Nanos) {
        for _ in 0..BURST {
            let Some(index) = self.messages.take_due(now) else {
                return;
            };
            if self.clients[index].state == State::Connected {
                self.messages.owe();
                self.publish_allowed(index);
            } else {
                self.recorder.fail(Failure::NotSent, Stage::Connected);
            }
        }
    }

    /// Gives up on those of the first `dialed` clients that take too long to connect, and keeps the silent ones alive.
    pub(crate) fn sweep(&mut self, dialed: u32, now: Nanos) {
        let silence_max = u64::from(self.plan.keep_alive_s) * SECOND * 3 / 4;
        for index in 0..dialed {
            let client = &self.clients[index];
            let lasts = now.saturating_sub(client.since);
            match client.state {
                State::Absent | State::Closed => {}
                State::Connected if silence_max == 0 || lasts < silence_max => {}
                State::Connected => self.ping(index, now),
                _ if lasts < self.plan.connect_timeout => {}
                _ => self.lose(index, Failure::Timeout),
            }
        }
    }

    /// The time to connect is over: clients that have not connected fail, as do `never_dialed` more.
    pub(crate) fn end_connecting(&mut self, never_dialed: u32) {
        self.clients.never_dialed(never_dialed);
        self.recorder
            .fail_often(Failure::Timeout, Stage::Tcp, never_dialed.into());
        for index in 0..self.plan.clients {
            let client = &self.clients[index];
            if client.wire.is_some() && client.state != State::Connected {
                self.lose(index, Failure::Timeout);
            }
        }
    }

    /// Resets every connection, as a network that fails.
    pub(crate) fn cut_off(&mut self, now: Nanos) {
        for wire in self.clients.reset() {
            wire.close(CloseMode::Reset);
        }
        self.recorder.cut_off(now);
    }

    /// Closes every connection that is left.
    pub(crate) fn close_all(&mut self) {
        for wire in self.clients.end() {
            // The peer may have closed already; the run is over either way.
            let _ = self.sender.leave_for_good(wire);
        }
    }

    /// Asks EMQX on which node each client is. Takes its time: not for the measured time.
    pub(crate) fn ask_for_nodes(&mut self) {
        let Some(emqx) = self.plan.emqx.as_ref().filter(|_| self.clients.connected() > 0) else {
            return;
        };
        let nodes = match emqx.nodes() {
            Ok(nodes) => nodes,
            Err(problem) => {
                self.recorder.measured.nodes_problem = Some(problem);
                return;
            }
        };
        for index in 0..self.plan.clients {
            let client = &mut self.clients[index];
            if client.state == State::Connected {
                let node = nodes.get(self.sender.client_id(index)).map(String::as_str);
                client.node = self.recorder.node(node, client.node);
            }
        }
    }

    fn serve(&mut self, index: u32, event: Ready) -> Result<(), Failure> {
        let client = &mut self.clients[index];
        let Some(wire) = &mut client.wire else {
            return Ok(());
        };
        if client.state == State::Dialing {
            if event.writable {
                wire.begin(index, &self.sender.outgoing)?;
                client.state = State::Upgrading;
                self.connect_when_open(index)?;
            }
        } else if event.writable {
            wire.flush(&self.sender.outgoing)?;
            self.publish_allowed(index);
        }
        if event.readable {
            self.read(index, event.hangup)
        } else {
            Ok(())
        }
    }

    /// Sends CONNECT as soon as MQTT may be sent.
    fn connect_when_open(&mut self, index: u32) -> Result<(), Failure> {
        let client = &mut self.clients[index];
        match &mut client.wire {
            Some(wire) if client.state == State::Upgrading && wire.is_open() => {
                client.state = State::AwaitingConnack;
                self.sender.connect(wire, index)
            }
            _ => Ok(()),
        }
    }

    /// Reads until the socket is empty.
    fn read(&mut self, index: u32, hangup: bool) -> Result<(), Failure> {
        let mut buffer = mem::take(&mut self.buffer);
        let result = self.read_with(index, hangup, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn read_with(&mut self, index: u32, hangup: bool, buffer: &mut [u8]) -> Result<(), Failure> {
        loop {
            let client = &mut self.clients[index];
            let Some(wire) = &mut client.wire else {
                return Ok(());
            };
            let filled = wire.fill(buffer, &mut self.sender.outgoing);
            if let Some(handshake) = wire.handshake() {
                self.recorder.handshake(handshake, client.since, clock::now());
            }
            let Some(filled) = filled? else {
                return Ok(());
            };
            self.connect_when_open(index)?;
            self.packets(index, &buffer[filled.mqtt])?;
            // A short read left the socket empty, but an end of stream that arrived with it must still be read.
            if !(filled.more || hangup) {
                return Ok(());
            }
        }
    }

    /// Takes packet after packet off what was read.
    fn packets(&mut self, index: u32, bytes: &[u8]) -> Result<(), Failure> {
        let now = clock::now();
        let mut rest = bytes;
        loop {
            let client = &mut self.clients[index];
            let Some(wire) = &mut client.wire else {
                return Ok(());
            };
            let awaits_connack = client.state == State::AwaitingConnack;
            let pattern = &self.sender.outgoing.pattern;
            match incoming::next(wire, &mut rest, awaits_connack, self.plan.version, pattern)? {
                Some(Incoming::Packet { kind, body, whole }) => self.packet(index, kind, body, whole, now)?,
                Some(Incoming::Message(message)) => self.message(index, &message, now)?,
                None => return Ok(()),
            }
        }
    }

    fn packet(&mut self, index: u32, kind: u8, body: &[u8], whole: &[u8], now: Nanos) -> Result<(), Failure> {
        match (self.clients[index].state, kind) {
            (State::AwaitingConnack, kind::CONNACK) => self.connack(index, whole, now)?,
            (State::Subscribing, kind::SUBACK) => {
                // Refusals of a filter are codes from 128 on, in every version.
                if let Some(&code) = body.last().filter(|&&code| code >= 0x80) {
                    return Err(Failure::NotSubscribed(code));
                }
                self.connected(index, now);
            }
            (State::Pinging, kind::PINGRESP) => self.connected(index, now),
            (State::Connected, kind::PINGRESP) => {}
            (State::Connected, kind::PUBACK) => self.puback(index, body, now),
            (_, kind::DISCONNECT) => return Err(Failure::Disconnected(body.first().copied().unwrap_or(0))),
            _ => return Err(Failure::Junk),
        }
        Ok(())
    }

    fn connack(&mut self, index: u32, whole: &[u8], now: Nanos) -> Result<(), Failure> {
        let connack = packet::read_connack(whole, self.plan.version).map_err(|wrong| match wrong {
            NoConnack::Refused(code) => Failure::NotAccepted(code),
            NoConnack::Malformed => Failure::Junk,
        })?;
        let client = &mut self.clients[index];
        self.recorder
            .accepted(client.since, client.known, connack.session_present, now);
        client.known = true;
        client.unacked = 0;
        client.unacked_max = connack.receive_max.unwrap_or(u16::MAX);
        // Either CONNACK or EMQX's API names the node; with both, a return would count twice.
        if self.plan.emqx.is_none() {
            client.node = self.recorder.node(connack.node.as_deref(), client.node);
        }
        let Some(wire) = &mut client.wire else {
            return Ok(());
        };
        if self.plan.subscribes(index) {
            client.state = State::Subscribing;
            return self.sender.subscribe(wire, index);
        }
        match self.plan.then {
            Then::Leave => match self.clients.leave(index) {
                Some(wire) => self.sender.leave(wire),
                None => Ok(()),
            },
            Then::Ping => {
                client.state = State::Pinging;
                self.sender.ping(wire)
            }
            Then::Stay | Then::Return(_) => {
                self.connected(index, now);
                Ok(())
            }
        }
    }

    /// The client is connected, and stays.
    fn connected(&mut self, index: u32, now: Nanos) {
        self.clients.connect(index, now);
        self.recorder.connected(now);
    }

    /// A message has arrived whole.
    fn message(&mut self, index: u32, message: &Body, now: Nanos) -> Result<(), Failure> {
        if message.qos > 0
            && let Some(wire) = &mut self.clients[index].wire
        {
            self.sender.confirm(wire, message.packet_id)?;
        }
        let Some(stamp) = message.stamp else {
            return Ok(());
        };
        if !self.clients.mixes_publishers() {
            match self.clients[index].note_received(stamp.sequence) {
                Order::Next => {}
                Order::Again => self.recorder.fail(Failure::OutOfOrder, Stage::Connected),
                Order::Skipped(missing) => {
                    self.recorder
                        .fail_often(Failure::OutOfOrder, Stage::Connected, missing.into());
                    // They are waited for no longer.
                    self.clients.land(stamp.sender, missing);
                }
            }
        }
        self.recorder.received(message.bytes, now);
        self.ended(stamp, now);
        Ok(())
    }

    /// The target has confirmed a message, which ends it where no client of this run subscribes to it.
    fn puback(&mut self, index: u32, body: &[u8], now: Nanos) {
        let Some(&id) = body.first_chunk() else {
            return;
        };
        let id = u16::from_be_bytes(id);
        let client = &mut self.clients[index];
        let was_full = client.unacked == client.unacked_max;
        client.unacked = client.unacked.saturating_sub(1);
        let unconfirmed = &mut client.unconfirmed;
        let found = unconfirmed.iter().position(|stamp| packet_id(stamp.sequence) == id);
        if let Some(stamp) = found.and_then(|at| unconfirmed.remove(at)) {
            self.recorder.confirmed(now);
            self.ended(stamp, now);
        } else if was_full {
            self.publish_allowed(index);
        }
    }

    /// A message, or a copy of it, has come to its end: its sender may send the next.
    fn ended(&mut self, stamp: Stamp, now: Nanos) {
        if self.clients.contains(stamp.sender) {
            self.clients.land(stamp.sender, 1);
            self.recorder.ended(stamp, now);
            self.publish_allowed(stamp.sender);
        }
    }

    /// Sends what the schedule and the client's window allow.
    fn publish_allowed(&mut self, index: u32) {
        while self.messages.is_on_for(index) {
            let now = clock::now();
            let copies = self.clients.copies(index);
            let client = &self.clients[index];
            let is_answered = self.plan.qos > 0 || copies > 0;
            let Some(permit) = self.messages.permit(index, client.sent, is_answered, now) else {
                return;
            };
            // Each copy of a message is in flight for itself.
            let window = permit.window.saturating_mul(copies.max(1));
            if !client.may_publish(window, self.plan.qos) || !self.publish(index, permit.intended, copies, now) {
                return;
            }
        }
    }

    /// Sends a message; `false` if that failed, and with it the client.
    fn publish(&mut self, index: u32, intended: Nanos, copies: u32, now: Nanos) -> bool {
        let client = &mut self.clients[index];
        let Some(wire) = &mut client.wire else {
            return false;
        };
        let stamp = Stamp {
            intended,
            sent: now,
            sender: index,
            sequence: client.sent,
        };
        if let Err(failure) = self.sender.publish(wire, stamp) {
            self.lose(index, failure);
            return false;
        }
        let is_confirmed = copies == 0 && self.plan.qos > 0;
        let in_flight = if is_confirmed { 1 } else { copies };
        self.clients.note_sent(index, stamp, in_flight, is_confirmed, now);
        self.messages.note_sent();
        self.recorder.sent(in_flight == 0, now);
        true
    }

    fn ping(&mut self, index: u32, now: Nanos) {
        let client = &mut self.clients[index];
        client.since = now;
        if let Some(wire) = &mut client.wire
            && let Err(failure) = self.sender.ping(wire)
        {
            self.lose(index, failure);
        }
    }

    /// Closes a client that failed.
    fn lose(&mut self, index: u32, failure: Failure) {
        let client = &mut self.clients[index];
        self.recorder.fail(failure, client.stage());
        let problem = &mut self.recorder.measured.handshakes.problem;
        if matches!(failure, Failure::NotTrusted | Failure::Tls) && problem.is_none() {
            *problem = client.wire.as_mut().and_then(Wire::tls_problem);
        }
        if client.state == State::Connected {
            let unsent = self.messages.note_lost(index, client.sent);
            self.recorder.fail_often(Failure::NotSent, Stage::Connected, unsent);
        }
        self.clients.lose(index);
    }
}
