//! The clients of a run: the state of each, and what is counted over all of them. Sends and reads nothing.

use std::collections::VecDeque;
use std::mem;
use std::ops::{Index, IndexMut};

use crate::clock::Nanos;
use crate::failure::Stage;
use crate::packet::Stamp;
use crate::plan::{Audience, Plan};
use crate::wire::Wire;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not dialed in this round.
    Absent,
    Dialing,
    /// The link is up; the answer to the WebSocket upgrade is awaited, where there is one.
    Upgrading,
    AwaitingConnack,
    Subscribing,
    Pinging,
    Connected,
    Closed,
}

/// One client. There may be a million of them, so it is kept small.
pub(crate) struct Client {
    pub(crate) wire: Option<Wire>,
    pub(crate) state: State,
    /// When it was due to dial; once it is connected, when it last sent.
    pub(crate) since: Nanos,
    /// Messages sent; wraps.
    pub(crate) sent: u32,
    /// The sequence number that its next message should have; wraps.
    pub(crate) received: u32,
    /// Its messages, each copy counted, that have not come to their end.
    pub(crate) in_flight: u32,
    /// The node that accepted it last, as a number; zero is unknown.
    pub(crate) node: u16,
    /// It has been accepted before.
    pub(crate) known: bool,
    /// Messages that the target has not confirmed, and how many of those it takes.
    pub(crate) unacked: u16,
    pub(crate) unacked_max: u16,
    /// Messages to be confirmed; empty where clients of this run subscribe to them.
    pub(crate) unconfirmed: VecDeque<Stamp>,
}

impl Client {
    fn absent() -> Self {
        Self {
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
        }
    }

    /// Whether it may publish at this moment: connected, with fewer messages in flight than `window`, and none waiting
    /// that the target or the socket has no room for.
    pub(crate) fn may_publish(&self, window: u32, qos: u8) -> bool {
        let has_room = self.wire.as_ref().is_some_and(Wire::has_room);
        // A target closes the connection of a client that sends more than it takes.
        let is_full = qos > 0 && self.unacked >= self.unacked_max;
        self.state == State::Connected && self.in_flight < window && has_room && !is_full
    }

    /// How far its connection has come, as failures are told apart.
    pub(crate) fn stage(&self) -> Stage {
        let is_handshaking = self.wire.as_ref().is_some_and(Wire::is_handshaking);
        match self.state {
            State::Absent | State::Dialing => Stage::Tcp,
            State::Upgrading | State::AwaitingConnack if is_handshaking => Stage::Tls,
            State::Upgrading => Stage::Upgrade,
            State::AwaitingConnack => Stage::Connect,
            State::Subscribing => Stage::Subscribe,
            State::Pinging | State::Connected | State::Closed => Stage::Connected,
        }
    }

    /// Notes a message that arrived; how it fits in with those before it.
    pub(crate) fn note_received(&mut self, sequence: u32) -> Order {
        let missing = sequence.wrapping_sub(self.received);
        self.received = sequence.wrapping_add(1);
        // Half the numbers are ahead, the others behind: those have arrived before.
        match missing {
            0 => Order::Next,
            1..=0x7FFF_FFFF => Order::Skipped(missing),
            _ => Order::Again,
        }
    }
}

/// How a message fits in with those that a client received before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is the next one.
    Next,
    /// So many before it never arrived.
    Skipped(u32),
    /// It, or a later one, has arrived before.
    Again,
}

/// All clients, by number.
pub(crate) struct Clients<'a> {
    plan: &'a Plan,
    list: Vec<Client>,
    /// Dialed, and neither connected nor failed yet.
    connecting: u32,
    /// Connected, left or failed in this round.
    settled: u32,
    connected: u32,
    /// Messages in flight, of all clients.
    in_flight: u64,
    /// All publish to one topic.
    has_one_topic: bool,
    /// Connected subscribers of each publisher's topic, or of the one topic; empty where each client is its own.
    subscribers: Vec<u32>,
}

impl Index<u32> for Clients<'_> {
    type Output = Client;

    fn index(&self, index: u32) -> &Client {
        &self.list[index as usize]
    }
}

impl IndexMut<u32> for Clients<'_> {
    fn index_mut(&mut self, index: u32) -> &mut Client {
        &mut self.list[index as usize]
    }
}

impl<'a> Clients<'a> {
    /// The clients of a plan, none of them dialed.
    pub(crate) fn new(plan: &'a Plan) -> Self {
        let has_one_topic = plan.has_one_topic();
        let topics = match plan.audience {
            Audience::Others if has_one_topic => 1,
            Audience::Others => plan.publishers as usize,
            Audience::None | Audience::Sender => 0,
        };
        Self {
            plan,
            list: (0..plan.clients).map(|_| Client::absent()).collect(),
            connecting: 0,
            settled: 0,
            connected: 0,
            in_flight: 0,
            has_one_topic,
            subscribers: vec![0; topics],
        }
    }

    /// How many were dialed, and have neither connected nor failed yet.
    pub(crate) fn connecting(&self) -> u32 {
        self.connecting
    }

    /// How many are connected.
    pub(crate) fn connected(&self) -> u32 {
        self.connected
    }

    /// How many messages are in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether every client has connected, left or failed in this round.
    pub(crate) fn all_settled(&self) -> bool {
        self.settled == self.plan.clients
    }

    /// Whether messages of several publishers arrive mixed, so that no client can tell whether one is missing.
    pub(crate) fn mixes_publishers(&self) -> bool {
        self.plan.audience == Audience::Others && self.has_one_topic
    }

    /// How many copies of each message of this client arrive.
    pub(crate) fn copies(&self, index: u32) -> u32 {
        match self.plan.audience {
            Audience::None => 0,
            Audience::Sender => 1,
            Audience::Others => self.subscribers[self.topic(index)],
        }
    }

    /// A client dials.
    pub(crate) fn dialed(&mut self, index: u32, wire: Wire) {
        let client = &mut self[index];
        client.wire = Some(wire);
        client.state = State::Dialing;
        self.connecting += 1;
    }

    /// A client could not dial.
    pub(crate) fn failed_to_dial(&mut self, index: u32) {
        self[index].state = State::Closed;
        self.settled += 1;
    }

    /// So many clients were never dialed, and count as failed.
    pub(crate) fn never_dialed(&mut self, count: u32) {
        self.settled += count;
    }

    /// A client has connected, and stays.
    pub(crate) fn connect(&mut self, index: u32, now: Nanos) {
        let client = &mut self[index];
        client.state = State::Connected;
        client.since = now;
        self.connecting -= 1;
        self.settled += 1;
        self.connected += 1;
        if let Some(topic) = self.subscribed_topic(index) {
            self.subscribers[topic] += 1;
        }
    }

    /// A client that was accepted leaves at once: its wire, to be closed.
    pub(crate) fn leave(&mut self, index: u32) -> Option<Wire> {
        self.connecting -= 1;
        self.settled += 1;
        let client = &mut self[index];
        client.state = State::Closed;
        client.wire.take()
    }

    /// A client has failed: closes it, and forgets what it had in flight.
    pub(crate) fn lose(&mut self, index: u32) {
        let client = &mut self[index];
        let in_flight = mem::take(&mut client.in_flight);
        client.wire = None;
        client.unconfirmed = VecDeque::new();
        let state = mem::replace(&mut client.state, State::Closed);
        self.in_flight -= u64::from(in_flight);
        match state {
            State::Connected => {
                self.connected -= 1;
                self.lose_subscriber(index);
            }
            State::Dialing | State::Upgrading | State::AwaitingConnack | State::Subscribing | State::Pinging => {
                self.connecting -= 1;
                self.settled += 1;
            }
            State::Absent | State::Closed => {}
        }
    }

    /// Puts all clients back to where they were before they dialed: the wires, to be closed.
    pub(crate) fn reset(&mut self) -> impl Iterator<Item = Wire> {
        (self.connecting, self.settled, self.connected) = (0, 0, 0);
        self.take_wires(State::Absent)
    }

    /// Ends all clients: the wires, to be closed.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = Wire> {
        self.connected = 0;
        self.take_wires(State::Closed)
    }

    /// A client has sent a message.
    pub(crate) fn note_sent(&mut self, index: u32, stamp: Stamp, in_flight: u32, is_confirmed: bool, now: Nanos) {
        let needs_ack = self.plan.qos > 0;
        self.in_flight += u64::from(in_flight);
        let client = &mut self[index];
        client.sent = client.sent.wrapping_add(1);
        client.unacked += u16::from(needs_ack);
        client.since = now;
        client.in_flight += in_flight;
        if is_confirmed {
            client.unconfirmed.push_back(stamp);
        }
    }

    /// So many messages of a client, copies counted, are in flight no more.
    pub(crate) fn land(&mut self, sender: u32, count: u32) {
        if let Some(sender) = self.list.get_mut(sender as usize) {
            let count = sender.in_flight.min(count);
            sender.in_flight -= count;
            self.in_flight -= u64::from(count);
        }
    }

    /// Whether there is a client with this number.
    pub(crate) fn contains(&self, index: u32) -> bool {
        index < self.plan.clients
    }

    fn take_wires(&mut self, state: State) -> impl Iterator<Item = Wire> {
        self.list.iter_mut().filter_map(move |client| {
            client.state = state;
            client.wire.take()
        })
    }

    /// Messages in flight to a subscriber that is lost are waited for no longer.
    fn lose_subscriber(&mut self, index: u32) {
        let Some(topic) = self.subscribed_topic(index) else {
            return;
        };
        self.subscribers[topic] -= 1;
        let publishers = if self.has_one_topic {
            0..self.plan.publishers
        } else {
            topic as u32..topic as u32 + 1
        };
        for publisher in publishers {
            let in_flight = mem::take(&mut self[publisher].in_flight);
            self.in_flight -= u64::from(in_flight);
        }
    }

    /// The topic of other clients that a client subscribes to, as an index of `subscribers`.
    fn subscribed_topic(&self, index: u32) -> Option<usize> {
        let is_subscriber = self.plan.audience == Audience::Others && self.plan.subscribes(index);
        is_subscriber.then(|| self.topic(index))
    }

    fn topic(&self, index: u32) -> usize {
        match self.has_one_topic {
            true => 0,
            false => self.plan.topic_number(index) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle client costs this and what its wire owns; a run may have a million of them.
    #[test]
    fn a_client_is_small() {
        assert!(size_of::<Client>() <= 184, "{} bytes", size_of::<Client>());
    }

    #[test]
    fn messages_out_of_order_are_told_apart() {
        let mut client = Client::absent();
        client.received = u32::MAX;
        assert_eq!(client.note_received(u32::MAX), Order::Next);
        assert_eq!(client.note_received(0), Order::Next);
        assert_eq!(client.note_received(4), Order::Skipped(3));
        assert_eq!(client.note_received(2), Order::Again);
    }
}
