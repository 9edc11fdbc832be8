//! One thread's clients: dials, greets, publishes and reads as the plan says, and measures. It knows no workload by name.

use std::io;
use std::mem;

use nix::errno::Errno;

use super::clock::{self, Nanos, SECOND};
use super::link::{Body, Link};
use super::measured::{Failure, Measured};
use super::packet::{self, Hello, Message, Read, STAMP_BYTES, Stamp, kind};
use super::pattern::Pattern;
use super::plan::{Arrival, Plan, Then, Traffic};
use super::poll::{Poll, Ready};
use super::process::{self, Usage};

/// How long messages under way are waited for at the end.
const DRAIN: Nanos = 2 * SECOND;

/// How much is read at once: enough that bulk is cheap, and still in the processor's cache.
const READ_BYTES: usize = 256 * 1024;

/// Messages sent between two looks at the sockets, when the schedule is behind.
const BURST: u32 = 64;

/// Runs a plan; returns when it is over.
pub(super) fn run(plan: &Plan) -> io::Result<Outcome> {
    let mut driver = Driver::new(plan)?;
    driver.look(Moment::Start);
    driver.run()?;
    Ok(Outcome {
        measured: driver.measured,
        looks: driver.looks,
    })
}

/// What a run leaves behind.
pub(super) struct Outcome {
    pub(super) measured: Measured,
    pub(super) looks: Vec<Look>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
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
    Greeting,
    Subscribing,
    Pinging,
    Here,
    Gone,
}

struct Client {
    link: Option<Link>,
    state: State,
    /// When it was to dial; once it is here, when it last sent.
    since: Nanos,
    sent: u32,
    received: u32,
    in_flight: u32,
}

struct Driver<'a> {
    plan: &'a Plan,
    poll: Poll,
    clients: Vec<Client>,
    pattern: Pattern,
    phase: Phase,
    phase_ends: Nanos,
    began: Nanos,
    next_sweep: Nanos,
    /// The next client to dial, how many are under way, and how many arrived or failed to.
    next_dial: u32,
    dialing: u32,
    settled: u32,
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
    looks: Vec<Look>,
    buffer: Vec<u8>,
    packet: Vec<u8>,
    text: Vec<u8>,
}

impl<'a> Driver<'a> {
    fn new(plan: &'a Plan) -> io::Result<Self> {
        let absent = || Client {
            link: None,
            state: State::Absent,
            since: 0,
            sent: 0,
            received: 0,
            in_flight: 0,
        };
        Ok(Self {
            plan,
            poll: Poll::new()?,
            clients: (0..plan.clients).map(|_| absent()).collect(),
            pattern: Pattern::new(plan.size),
            phase: Phase::Connecting,
            phase_ends: Nanos::MAX,
            began: clock::now(),
            next_sweep: 0,
            next_dial: 0,
            dialing: 0,
            settled: 0,
            traffic: false,
            traffic_began: 0,
            due: 0,
            owed: 0,
            measured_from: Nanos::MAX,
            measured_until: Nanos::MAX,
            in_flight: 0,
            measured: Measured::new(),
            looks: Vec::new(),
            buffer: vec![0; READ_BYTES],
            packet: Vec::new(),
            text: Vec::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        self.began = clock::now();
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
                self.next_sweep = now + SECOND;
            }
            let due = self.next_due(now);
            self.poll.wait(now, due, &mut ready)?;
            for event in &ready {
                self.turn(*event);
            }
        }
    }

    /// Goes on to the next phase when this one is over.
    fn advance(&mut self, now: Nanos) {
        let all_here = self.settled == self.plan.clients;
        let next = match self.phase {
            Phase::Connecting if all_here && self.plan.then == Then::Leave => Phase::Draining,
            Phase::Connecting if all_here => Phase::WarmingUp,
            Phase::Connecting if now >= self.phase_ends => Phase::Draining,
            Phase::WarmingUp if now >= self.phase_ends => Phase::Measuring,
            Phase::Measuring if now >= self.phase_ends => Phase::Draining,
            Phase::Draining if now >= self.phase_ends || self.is_quiet() => Phase::Settling,
            Phase::Settling if now >= self.phase_ends => Phase::Over,
            _ => return,
        };
        self.enter(next);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let lasts = match phase {
            Phase::Connecting | Phase::Over => 0,
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
                self.close_all();
                self.plan.settle
            }
        };
        if phase == Phase::Over {
            self.look(Moment::Settled);
        }
        self.phase_ends = clock::now() + lasts;
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
        let clients = u64::from(self.plan.clients);
        (self.due + clients - 1 - u64::from(index)) / clients
    }

    fn look(&mut self, moment: Moment) {
        let processes = self
            .plan
            .pids
            .iter()
            .map(|&pid| process::usage(pid))
            .collect();
        self.looks.push(Look {
            moment,
            machine: process::machine(),
            processes,
        });
    }

    fn next_due(&self, now: Nanos) -> Nanos {
        let mut due = self.phase_ends.min(self.next_sweep);
        if self.phase == Phase::Draining && self.is_quiet() {
            return now;
        }
        if self.settled == self.plan.clients && self.phase == Phase::Connecting {
            return now;
        }
        if let Arrival::PerSecond(rate) = self.plan.arrival
            && self.phase == Phase::Connecting
            && self.next_dial < self.plan.clients
        {
            due = due.min(self.began + at_rate(u64::from(self.next_dial), rate));
        }
        self.next_message().map_or(due, |message| due.min(message))
    }

    fn dial_due(&mut self, now: Nanos) {
        if self.phase != Phase::Connecting {
            return;
        }
        while self.next_dial < self.plan.clients {
            let intended = match self.plan.arrival {
                Arrival::AtOnce(most) if self.dialing >= most => return,
                Arrival::AtOnce(_) => clock::now(),
                Arrival::PerSecond(rate) => self.began + at_rate(u64::from(self.next_dial), rate),
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
        match Link::dial(self.plan.target, None, &self.poll, u64::from(index)) {
            Ok(link) => {
                client.link = Some(link);
                client.state = State::Dialing;
                self.dialing += 1;
            }
            Err(error) => {
                client.state = State::Gone;
                self.settled += 1;
                self.measured.fail(failure_of(&error));
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
        let Some(link) = &mut client.link else {
            return Ok(());
        };
        if client.state == State::Dialing {
            if event.writable {
                link.connected().map_err(|error| failure_of(&error))?;
                client.state = State::Greeting;
                self.greet(index)?;
            }
        } else if event.writable {
            link.flush(&self.pattern.bytes)
                .map_err(|error| failure_of(&error))?;
            self.publish_allowed(index);
        }
        if event.readable {
            self.hear(index, event.hangup)
        } else {
            Ok(())
        }
    }

    fn greet(&mut self, index: u32) -> Result<(), Failure> {
        packet::fill(&self.plan.client_id, index, &mut self.text);
        self.packet.clear();
        packet::write_connect(
            &mut self.packet,
            &Hello {
                version: self.plan.version,
                client_id: str::from_utf8(&self.text).unwrap_or_default(),
                keep_alive_s: self.plan.keep_alive_s,
                clean: true,
                username: self.plan.username.as_deref(),
                password: self.plan.password.as_deref(),
            },
        );
        self.send_packet(index)
    }

    /// Sends what was written into `self.packet`.
    fn send_packet(&mut self, index: u32) -> Result<(), Failure> {
        match &mut self.clients[index as usize].link {
            Some(link) => link
                .send(&self.packet, 0..0, &self.pattern.bytes)
                .map_err(|error| failure_of(&error)),
            None => Ok(()),
        }
    }

    fn hear(&mut self, index: u32, hangup: bool) -> Result<(), Failure> {
        let mut buffer = mem::take(&mut self.buffer);
        let mut result = Ok(());
        while let Some(link) = &mut self.clients[index as usize].link {
            let filled = match link.fill(&mut buffer) {
                Ok(Some(filled)) => filled,
                Ok(None) => break,
                Err(error) => {
                    result = Err(failure_of(&error));
                    break;
                }
            };
            result = self.read_all(index, &buffer[..filled.bytes]);
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
            let Some(link) = &mut self.clients[index as usize].link else {
                return Ok(());
            };
            if let Some(body) = link.body.take() {
                rest = self.read_body(index, *body, rest, now)?;
                continue;
            }
            match packet::read(rest, self.plan.version) {
                Read::NeedMore if rest.len() == READ_BYTES => return Err(Failure::Junk),
                Read::NeedMore => {
                    link.hold(rest);
                    return Ok(());
                }
                Read::Junk => return Err(Failure::Junk),
                Read::Packet { kind, body, whole } => {
                    rest = &rest[whole.len()..];
                    self.heard(index, kind, body, now)?;
                }
                Read::Publish(published) => {
                    rest = &rest[published.head.len()..];
                    let body = Body {
                        stamp: published.stamp,
                        qos: published.qos,
                        packet_id: published.packet_id,
                        at: published.stamp.map_or(0, |stamp| self.pattern.start(stamp)),
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
            && self.pattern.bytes.get(body.at..body.at + here.len()) != Some(here)
        {
            return Err(Failure::Corrupt);
        }
        body.at += here.len();
        body.missing -= here.len();
        if body.missing > 0 {
            if let Some(link) = &mut self.clients[index as usize].link {
                link.body = Some(Box::new(body));
            }
        } else {
            self.arrived(index, &body, now)?;
        }
        Ok(rest)
    }

    fn heard(&mut self, index: u32, kind: u8, body: &[u8], now: Nanos) -> Result<(), Failure> {
        let state = self.clients[index as usize].state;
        match (state, kind) {
            (State::Greeting, kind::CONNACK) => self.greeted(index, body, now),
            (State::Subscribing, kind::SUBACK) => {
                self.arrive(index, now);
                Ok(())
            }
            (State::Pinging, kind::PINGRESP) => {
                self.arrive(index, now);
                Ok(())
            }
            (State::Here, kind::PINGRESP | kind::PUBACK) => Ok(()),
            _ => Err(Failure::Junk),
        }
    }

    fn greeted(&mut self, index: u32, connack: &[u8], now: Nanos) -> Result<(), Failure> {
        if connack.get(1) != Some(&0) {
            return Err(Failure::NotAccepted);
        }
        let client = &mut self.clients[index as usize];
        self.measured
            .connect
            .record(now.saturating_sub(client.since));
        self.measured.accepted += 1;
        self.measured.connecting = now - self.began;
        self.packet.clear();
        if self.plan.subscribes {
            client.state = State::Subscribing;
            packet::fill(&self.plan.topic, index, &mut self.text);
            let filter = str::from_utf8(&self.text).unwrap_or_default();
            packet::write_subscribe(&mut self.packet, self.plan.version, filter, self.plan.qos);
            return self.send_packet(index);
        }
        match self.plan.then {
            Then::Leave => {
                self.packet.extend_from_slice(&packet::DISCONNECT);
                let sent = self.send_packet(index);
                self.part(index);
                sent
            }
            Then::Ping => {
                client.state = State::Pinging;
                self.packet.extend_from_slice(&packet::PINGREQ);
                self.send_packet(index)
            }
            Then::Stay => {
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
        self.dial_due(now);
    }

    /// Closes a client that has done what it came for.
    fn part(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        client.state = State::Gone;
        if let Some(link) = client.link.take() {
            link.part(self.plan.parting);
        }
        self.dialing -= 1;
        self.settled += 1;
        self.dial_due(clock::now());
    }

    /// Closes a client that failed.
    fn lose(&mut self, index: u32, failure: Failure) {
        let missing = self.due_by(index);
        let client = &mut self.clients[index as usize];
        self.measured.fail(failure);
        if client.state == State::Here {
            let missing = missing.saturating_sub(u64::from(client.sent));
            self.measured.fail_often(Failure::NotSent, missing);
            self.owed -= missing.min(self.owed);
        }
        self.in_flight -= u64::from(client.in_flight);
        client.in_flight = 0;
        client.link = None;
        match mem::replace(&mut client.state, State::Gone) {
            State::Here => {}
            _ => {
                self.dialing -= 1;
                self.settled += 1;
            }
        }
    }

    fn start_traffic(&mut self) {
        self.traffic = self.plan.traffic != Traffic::None;
        self.traffic_began = clock::now();
        for index in 0..self.plan.clients {
            self.publish_allowed(index);
        }
    }

    /// In an open loop, sends what is due by now; not all at once, so that answers are read in between.
    fn publish_due(&mut self, now: Nanos) {
        for _ in 0..BURST {
            if self.next_message().is_none_or(|due| due > now) {
                return;
            }
            let index = (self.due % u64::from(self.plan.clients)) as u32;
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
        while self.traffic {
            let client = &self.clients[index as usize];
            let now = clock::now();
            let (window, intended) = match self.plan.traffic {
                Traffic::None => return,
                Traffic::Window(window) => (window, now),
                Traffic::PerSecond { .. } if u64::from(client.sent) >= self.due_by(index) => return,
                Traffic::PerSecond { rate, window } => {
                    let number =
                        u64::from(client.sent) * u64::from(self.plan.clients) + u64::from(index);
                    (window, self.traffic_began + at_rate(number, rate))
                }
            };
            let has_room = client.link.as_ref().is_some_and(Link::has_room);
            if client.in_flight >= window || !has_room || !self.publish(index, intended, now) {
                return;
            }
        }
    }

    /// Sends a message; `false` when the client is not here (any more).
    fn publish(&mut self, index: u32, intended: Nanos, now: Nanos) -> bool {
        let client = &mut self.clients[index as usize];
        let Some(link) = client.link.as_mut().filter(|_| client.state == State::Here) else {
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
                packet_id: (client.sent % 65_535 + 1) as u16,
                stamp,
                body_bytes,
            },
        );
        let start = self.pattern.start(stamp);
        match link.send(&self.packet, start..start + body_bytes, &self.pattern.bytes) {
            Ok(()) => {
                client.sent = client.sent.wrapping_add(1);
                client.since = now;
                client.in_flight += 1;
                self.in_flight += 1;
                self.owed = self.owed.saturating_sub(1);
                self.measured.sent += u64::from(self.measures(now));
                true
            }
            Err(error) => {
                self.lose(index, failure_of(&error));
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
        let client = &mut self.clients[index as usize];
        if stamp.sender == index {
            if stamp.sequence != client.received {
                self.measured.fail(Failure::OutOfOrder);
            }
            client.received = stamp.sequence.wrapping_add(1);
            let under_way = client.in_flight.min(1);
            client.in_flight -= under_way;
            self.in_flight -= u64::from(under_way);
        }
        if self.measures(now) {
            self.measured.received += 1;
            self.measured.received_bytes += (message.bytes + STAMP_BYTES) as u64;
        }
        if self.measures(stamp.intended) {
            self.measured
                .message
                .record(now.saturating_sub(stamp.intended));
            self.measured
                .message_from_send
                .record(now.saturating_sub(stamp.sent));
        }
        self.publish_allowed(index);
        Ok(())
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
        for client in &mut self.clients {
            if let Some(mut link) = client.link.take() {
                // The peer may be gone; the run is over either way.
                let _ = link.send(&packet::DISCONNECT, 0..0, &self.pattern.bytes);
                link.part(self.plan.parting);
            }
            client.state = State::Gone;
        }
    }
}

/// When the event with this number is due, at so many a second.
fn at_rate(number: u64, rate: f64) -> Nanos {
    (number as f64 * SECOND as f64 / rate) as Nanos
}

fn failure_of(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Failure::Closed;
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => Failure::Refused,
        Some(Errno::ECONNRESET | Errno::EPIPE) => Failure::Reset,
        Some(Errno::ETIMEDOUT) => Failure::Timeout,
        Some(Errno::EMFILE | Errno::ENFILE) => Failure::NoFiles,
        Some(Errno::EADDRNOTAVAIL) => Failure::NoPorts,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use super::super::nodes::{Nodes, Stall};
    use super::super::packet::Version;
    use super::super::plan::{Parting, Then};
    use super::*;

    /// A node in a thread of its own, which ends with it.
    struct FakeNode {
        address: SocketAddr,
        over: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl FakeNode {
        fn start(stall: Option<Stall>) -> Self {
            let mut nodes = Nodes::bind(1, stall).unwrap();
            let address = nodes.addresses().unwrap()[0];
            let over = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&over);
            let thread = thread::spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    nodes.turn().unwrap();
                }
            });
            Self {
                address,
                over,
                thread: Some(thread),
            }
        }
    }

    impl Drop for FakeNode {
        fn drop(&mut self) {
            self.over.store(true, Ordering::Relaxed);
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap();
            }
        }
    }

    fn plan(target: SocketAddr, clients: u32) -> Plan {
        Plan {
            target,
            clients,
            version: Version::V4,
            client_id: "test-%i".into(),
            topic: "test/%i".into(),
            keep_alive_s: 60,
            username: None,
            password: None,
            arrival: Arrival::AtOnce(8),
            connect_timeout: 5 * SECOND,
            then: Then::Stay,
            parting: Parting::Reset,
            subscribes: false,
            traffic: Traffic::None,
            qos: 0,
            size: 100,
            warm_up: 0,
            duration: SECOND / 10,
            settle: 0,
            pids: Vec::new(),
        }
    }

    fn failures(measured: &Measured) -> Vec<(&'static str, u64)> {
        let counts = Failure::ALL.map(|failure| (failure.name(), measured.failed(failure)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_storm_connects_every_client_once() {
        let node = FakeNode::start(None);
        let plan = Plan {
            then: Then::Leave,
            duration: 30 * SECOND,
            ..plan(node.address, 500)
        };
        let measured = run(&plan).unwrap().measured;
        assert_eq!(failures(&measured), []);
        assert_eq!(measured.accepted, 500);
    }

    #[test]
    fn every_message_returns_whole_and_in_order() {
        let node = FakeNode::start(None);
        for (version, qos, size) in [
            (Version::V4, 0, STAMP_BYTES),
            (Version::V4, 1, 100),
            (Version::V5, 0, 100_000),
            (Version::V5, 1, 1 << 20),
        ] {
            let plan = Plan {
                version,
                qos,
                size,
                subscribes: true,
                traffic: Traffic::Window(3),
                ..plan(node.address, 4)
            };
            let measured = run(&plan).unwrap().measured;
            assert_eq!(failures(&measured), []);
            assert_eq!(measured.cut_off, 0);
            assert!(measured.received > 0, "{size} bytes");
            assert_eq!(measured.received_bytes, measured.received * size as u64);
        }
    }

    #[test]
    fn an_open_loop_keeps_its_schedule() {
        let node = FakeNode::start(None);
        let plan = Plan {
            traffic: Traffic::PerSecond {
                rate: 2_000.0,
                window: u32::MAX,
            },
            duration: SECOND / 2,
            ..plan(node.address, 10)
        };
        let measured = run(&plan).unwrap().measured;
        assert_eq!(failures(&measured), []);
        // A second's half at 2,000 a second; a message more or less at either end.
        assert!(
            (990..=1_010).contains(&measured.message.count()),
            "{}",
            measured.message.count()
        );
    }

    /// Ten windows of one message: while the node stalls ten messages wait, and all others are not even sent.
    #[test]
    fn a_stall_shows_in_the_latency_from_the_intended_time() {
        let node = FakeNode::start(Some(Stall {
            every: Duration::from_secs(10),
            lasts: Duration::from_secs(1),
        }));
        let plan = Plan {
            traffic: Traffic::PerSecond {
                rate: 1_000.0,
                window: 1,
            },
            duration: 10 * SECOND,
            ..plan(node.address, 10)
        };
        let measured = run(&plan).unwrap().measured;
        assert_eq!(failures(&measured), []);
        let corrected = measured.message.quantile_us(0.99);
        let uncorrected = measured.message_from_send.quantile_us(0.99);
        assert!(corrected >= 800_000.0, "{corrected} µs");
        assert!(uncorrected < 200_000.0, "{uncorrected} µs: it shows no lie");
    }

    #[test]
    fn a_target_that_refuses_is_counted_and_the_run_ends() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let measured = run(&plan(address, 20)).unwrap().measured;
        assert_eq!(failures(&measured), [("refused", 20)]);
    }

    #[test]
    fn a_target_that_says_nothing_is_a_timeout() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let plan = Plan {
            connect_timeout: SECOND / 10,
            ..plan(listener.local_addr().unwrap(), 3)
        };
        assert_eq!(failures(&run(&plan).unwrap().measured), [("timeout", 3)]);
    }
}
