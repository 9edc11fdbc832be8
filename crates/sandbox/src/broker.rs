//! The state of the nodes: sessions, subscriptions, retained messages, and the routing between nodes. Packets in,
//! packets out; sockets and clocks are left to `node`.
//!
//! One value holds all nodes, so that they need no protocol to agree. Each session, connection and retained message
//! still belongs to one of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mqttbytes::QoS;
use tokio::time::Instant;

use super::packet::{
    Connect, Delivery, Filter, FromClient, Message, RetainHandling, Subscribe, ToClient, Version, Will, reason,
};
use super::topic::{self, Subscriptions};

/// Most messages that wait for one session; then the oldest is dropped.
pub(super) const QUEUE_MAX: usize = 1_000;

/// Most bytes of messages that wait for one session.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most messages that are sent to one client and not acknowledged. The client may set a lower bound.
const INFLIGHT_MAX: usize = 100;

/// Most bytes of messages that are sent to one client and not acknowledged. A single message may be larger.
const INFLIGHT_BYTES_MAX: usize = 1024 * 1024;

/// Most sessions over all nodes; then new clients are refused.
const SESSIONS_MAX: usize = 100_000;

/// Most filters of one session.
const FILTERS_MAX: usize = 1_000;

/// Most retained messages of one node; further ones are delivered, but not kept.
const RETAINED_MAX: usize = 10_000;

/// The index of a node.
pub(super) type NodeIndex = usize;

/// A client's connection to a node, from CONNECT on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct SessionId(u64);

/// What has happened at one node since the sandbox was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients connected now.
    pub connections: u64,
    /// CONNECTs accepted.
    pub connects: u64,
    /// CONNECTs that were not accepted because of the behaviour that was set.
    pub turned_away: u64,
    /// CONNECTs that ended a connection of the same client to this node.
    pub takeovers_within: u64,
    /// CONNECTs whose client had its session on another node, which a balancer should avoid.
    pub takeovers_across: u64,
    /// Messages that clients of this node published.
    pub messages_in: u64,
    /// Messages sent to clients of this node.
    pub messages_out: u64,
    /// Messages from another node, for a subscription on this one.
    pub messages_across: u64,
    /// Messages dropped because their client reads too slowly, or is disconnected for too long.
    pub messages_dropped: u64,
}

/// The state of all nodes.
#[derive(Debug)]
pub(super) struct Broker {
    nodes: Vec<Node>,
    /// While this is set, nodes share nothing.
    routing_is_cut: bool,
    sessions: BTreeMap<SessionId, Session>,
    /// While routing is cut, a client may have a session on each node.
    by_client: HashMap<(NodeIndex, Box<[u8]>), SessionId>,
    subscriptions: Subscriptions<SessionId, Subscription>,
    connections: HashMap<ConnectionId, Connection>,
    next_number: u64,
    out: Vec<(ConnectionId, ToClient)>,
}

#[derive(Debug)]
struct Node {
    name: String,
    is_alive: bool,
    retained: BTreeMap<Arc<str>, Message>,
    counts: Counts,
}

#[derive(Debug)]
struct Connection {
    node: NodeIndex,
    session: SessionId,
}

/// MQTT's session (MQTT 5, 4.1).
#[derive(Debug)]
struct Session {
    client_id: Box<[u8]>,
    node: NodeIndex,
    connection: Option<ConnectionId>,
    filters: BTreeSet<String>,
    queue: VecDeque<Delivery>,
    queue_bytes: usize,
    inflight: VecDeque<Delivery>,
    inflight_bytes: usize,
    inflight_max: usize,
    last_packet_id: u16,
    /// In seconds, as in CONNECT.
    expiry: u32,
    expires_at: Option<Instant>,
    will: Option<Will>,
    /// A will that is published at that time, unless the client reconnects before.
    will_due: Option<(Instant, Message)>,
}

/// A subscription's options.
#[derive(Clone, Copy, Debug)]
struct Subscription {
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    id: Option<usize>,
}

impl Broker {
    pub(super) fn new(names: &[String]) -> Self {
        let node = |name: &String| Node {
            name: name.clone(),
            is_alive: true,
            retained: BTreeMap::new(),
            counts: Counts::default(),
        };
        Self {
            nodes: names.iter().map(node).collect(),
            routing_is_cut: false,
            sessions: BTreeMap::new(),
            by_client: HashMap::new(),
            subscriptions: Subscriptions::new(),
            connections: HashMap::new(),
            next_number: 0,
            out: Vec::new(),
        }
    }

    /// Takes the packets that are to be sent, in order.
    pub(super) fn take_out(&mut self) -> Vec<(ConnectionId, ToClient)> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn counts(&self, node: NodeIndex) -> Counts {
        self.nodes[node].counts
    }

    /// Counts a CONNECT that the broker did not get.
    pub(super) fn note_turned_away(&mut self, node: NodeIndex) {
        self.nodes[node].counts.turned_away += 1;
    }

    /// Counts a message as dropped instead of sent, since its client reads too slowly.
    pub(super) fn note_dropped(&mut self, node: NodeIndex) {
        let counts = &mut self.nodes[node].counts;
        counts.messages_out -= 1;
        counts.messages_dropped += 1;
    }

    /// Makes nodes share neither sessions nor messages from now on, or share them again. What they missed is not sent
    /// later.
    pub(super) fn cut_routing(&mut self, cut: bool) {
        self.routing_is_cut = cut;
    }

    /// A node dies, and loses what only it had in memory.
    pub(super) fn node_died(&mut self, node: NodeIndex) {
        let gone: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.node == node)
            .map(|(&id, _)| id)
            .collect();
        for id in gone {
            // A dead node publishes no will.
            drop(self.remove_session(id));
        }
        self.connections.retain(|_, connection| connection.node != node);
        let node = &mut self.nodes[node];
        node.counts.connections = 0;
        node.retained.clear();
        node.is_alive = false;
    }

    /// A node was started again, and copies retained messages from another one.
    pub(super) fn node_returned(&mut self, node: NodeIndex) {
        let others = self.nodes.iter().enumerate();
        let living = others
            .filter(|(index, other)| *index != node && other.is_alive && !self.routing_is_cut)
            .map(|(_, other)| &other.retained)
            .next();
        let retained = living.cloned().unwrap_or_default();
        self.nodes[node].retained = retained;
        self.nodes[node].is_alive = true;
    }

    /// A CONNECT; fails with the reason code of a refusal.
    pub(super) fn connect(&mut self, node: NodeIndex, connect: Connect, now: Instant) -> Result<ConnectionId, u8> {
        let (client_id, assigned) = self.client_id(node, &connect)?;
        let found = self.find_sessions(node, &client_id);
        if found.is_empty() && self.sessions.len() >= SESSIONS_MAX {
            return Err(reason::QUOTA_EXCEEDED);
        }
        let connection = ConnectionId(self.next_number());
        let kept = self.take_over(node, &found, connect.clean_start, now);
        let session_present = kept.is_some();
        let id = kept.unwrap_or_else(|| self.new_session(node, client_id));
        self.connections.insert(connection, Connection { node, session: id });
        let counts = &mut self.nodes[node].counts;
        counts.connections += 1;
        counts.connects += 1;
        self.send(
            connection,
            ToClient::Accepted {
                session_present,
                assigned,
            },
        );
        if let Some(session) = self.sessions.get_mut(&id) {
            session.connection = Some(connection);
            session.inflight_max = INFLIGHT_MAX.min(connect.receive_max.into());
            session.expiry = connect.session_expiry;
            session.expires_at = None;
            session.will = connect.will;
            session.will_due = None;
            self.send_again(id);
            self.send_queued(id);
        }
        Ok(connection)
    }

    /// The client id, and also as text if the node has assigned it.
    fn client_id(&mut self, node: NodeIndex, connect: &Connect) -> Result<(Box<[u8]>, Option<String>), u8> {
        if !connect.client_id.is_empty() {
            return Ok((connect.client_id.clone(), None));
        }
        // 3.1: section 3.1 there; 3.1.1: 3.1.3.1 there.
        match connect.version {
            Version::V5 => {}
            Version::V311 if connect.clean_start => {}
            _ => return Err(reason::CLIENT_ID_INVALID),
        }
        let number = self.next_number();
        let assigned = format!("{}-assigned-{number}", self.nodes[node].name);
        Ok((assigned.as_bytes().into(), Some(assigned)))
    }

    /// The sessions of a client that `node` can reach, its own first.
    fn find_sessions(&self, node: NodeIndex, client_id: &[u8]) -> Vec<SessionId> {
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        std::iter::once(node)
            .chain(others)
            .filter(|&other| self.reaches(node, other))
            .filter_map(|at| self.by_client.get(&(at, client_id.into())).copied())
            .collect()
    }

    /// Ends the connections of these sessions, and moves the first one to `node` unless the client wants a clean start.
    fn take_over(
        &mut self,
        node: NodeIndex,
        found: &[SessionId],
        clean_start: bool,
        now: Instant,
    ) -> Option<SessionId> {
        let mut kept = None;
        for &id in found {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            let counts = &mut self.nodes[node].counts;
            if session.node != node {
                counts.takeovers_across += 1;
            } else if session.connection.is_some() {
                counts.takeovers_within += 1;
            }
            if let Some(loser) = session.connection {
                self.send(loser, ToClient::Disconnect(reason::TAKEN_OVER));
                self.lost(loser, now);
            }
            if clean_start || kept.is_some() {
                self.end_session(id);
            } else if let Some(session) = self.sessions.get_mut(&id) {
                self.by_client.remove(&(session.node, session.client_id.clone()));
                self.by_client.insert((node, session.client_id.clone()), id);
                session.node = node;
                kept = Some(id);
            }
        }
        kept
    }

    fn new_session(&mut self, node: NodeIndex, client_id: Box<[u8]>) -> SessionId {
        let id = SessionId(self.next_number());
        self.by_client.insert((node, client_id.clone()), id);
        let session = Session {
            client_id,
            node,
            connection: None,
            filters: BTreeSet::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            inflight_max: INFLIGHT_MAX,
            last_packet_id: 0,
            expiry: 0,
            expires_at: None,
            will: None,
            will_due: None,
        };
        self.sessions.insert(id, session);
        id
    }

    /// A packet of a client that is connected.
    pub(super) fn packet(&mut self, connection: ConnectionId, packet: FromClient, now: Instant) {
        let Some(&Connection { node, session: id }) = self.connections.get(&connection) else {
            // The session was taken over a moment ago: what the client sent meanwhile is lost, as in any cluster.
            return;
        };
        match packet {
            FromClient::Publish { message, packet_id } => {
                self.nodes[node].counts.messages_in += 1;
                if message.qos != QoS::AtMostOnce {
                    self.send(connection, ToClient::Puback(packet_id));
                }
                self.publish(node, Some(id), message);
            }
            FromClient::Puback(packet_id) => self.acknowledged(id, packet_id),
            FromClient::Subscribe(subscribe) => self.subscribe(connection, node, id, subscribe),
            FromClient::Unsubscribe(unsubscribe) => {
                let codes = unsubscribe.filters.iter();
                let codes = codes.map(|filter| self.unsubscribe(id, filter)).collect();
                let packet_id = unsubscribe.packet_id;
                self.send(connection, ToClient::Unsuback { packet_id, codes });
            }
            FromClient::Pingreq => self.send(connection, ToClient::Pingresp),
            FromClient::Disconnect(disconnect) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    // A session that was to end with its connection cannot be given more time (MQTT 5, 3.14.2.2.2).
                    if session.expiry > 0 {
                        session.expiry = disconnect.session_expiry.unwrap_or(session.expiry);
                    }
                    if !disconnect.with_will {
                        session.will = None;
                    }
                }
                self.lost(connection, now);
            }
            // A second CONNECT is a protocol error (3.1), which the reader has rejected already.
            FromClient::Connect(_) => self.lost(connection, now),
        }
    }

    /// A connection has ended for any reason; its will is published unless it was removed.
    pub(super) fn lost(&mut self, connection: ConnectionId, now: Instant) {
        let Some(Connection { node, session: id }) = self.connections.remove(&connection) else {
            return;
        };
        self.nodes[node].counts.connections -= 1;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.connection = None;
        let will = session.will.take();
        let expiry = session.expiry;
        if expiry < u32::MAX {
            session.expires_at = Some(now + Duration::from_secs(expiry.into()));
        }
        if let Some(Will { message, delay }) = will {
            let due = now + Duration::from_secs(delay.into());
            if due > now {
                session.will_due = Some((due, message));
            } else {
                self.publish(node, None, message);
            }
        }
        if expiry == 0 {
            self.end_session(id);
        }
    }

    /// Publishes the wills that are due, and ends the sessions that have expired.
    pub(super) fn tick(&mut self, now: Instant) {
        let mut wills = Vec::new();
        let mut expired = Vec::new();
        for (&id, session) in &mut self.sessions {
            if let Some((_, will)) = session.will_due.take_if(|(due, _)| *due <= now) {
                wills.push((session.node, will));
            }
            if session.expires_at.is_some_and(|at| at <= now) {
                expired.push(id);
            }
        }
        for (node, will) in wills {
            self.publish(node, None, will);
        }
        for id in expired {
            self.end_session(id);
        }
    }

    /// Removes a session; a will that waits is published now (MQTT 5, 3.1.3.2.2).
    fn end_session(&mut self, id: SessionId) {
        let Some(session) = self.remove_session(id) else {
            return;
        };
        if let Some((_, will)) = session.will_due {
            self.publish(session.node, None, will);
        }
    }

    fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        let mut session = self.sessions.remove(&id)?;
        for filter in &session.filters {
            self.subscriptions.remove(filter, &id);
        }
        let key = (session.node, std::mem::take(&mut session.client_id));
        self.by_client.remove(&key);
        Some(session)
    }

    fn subscribe(&mut self, connection: ConnectionId, node: NodeIndex, id: SessionId, subscribe: Subscribe) {
        let mut codes = Vec::new();
        let mut retained = Vec::new();
        for filter in subscribe.filters {
            let Filter {
                filter,
                qos,
                no_local,
                retain_as_published,
                retain_handling,
            } = filter;
            let subscription = Subscription {
                qos: smaller(qos, QoS::AtLeastOnce),
                no_local,
                retain_as_published,
                id: subscribe.id,
            };
            match self.add_subscription(id, &filter, subscription) {
                Ok(is_new) => {
                    codes.push(subscription.qos as u8);
                    if retain_handling == RetainHandling::Always
                        || (retain_handling == RetainHandling::OnlyIfNew && is_new)
                    {
                        retained.push((filter, subscription));
                    }
                }
                Err(reason) => codes.push(reason),
            }
        }
        let packet_id = subscribe.packet_id;
        self.send(connection, ToClient::Suback { packet_id, codes });
        for (filter, subscription) in retained {
            let matching: Vec<_> = self.nodes[node]
                .retained
                .values()
                .filter(|message| topic::matches(&filter, &message.topic))
                .map(|message| delivery(message, subscription, true))
                .collect();
            for delivery in matching {
                self.deliver(id, delivery);
            }
        }
    }

    /// Returns whether the subscription is new, or the reason code of a failure.
    fn add_subscription(&mut self, id: SessionId, filter: &str, subscription: Subscription) -> Result<bool, u8> {
        if !topic::is_filter(filter) {
            return Err(reason::FILTER_INVALID);
        }
        if filter.starts_with("$share/") {
            return Err(reason::NO_SHARED_SUBSCRIPTIONS);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(reason::QUOTA_EXCEEDED);
        };
        let is_new = !session.filters.contains(filter);
        if is_new && session.filters.len() >= FILTERS_MAX {
            return Err(reason::QUOTA_EXCEEDED);
        }
        session.filters.insert(filter.to_owned());
        self.subscriptions.insert(filter, id, subscription);
        Ok(is_new)
    }

    fn unsubscribe(&mut self, id: SessionId, filter: &str) -> u8 {
        let session = self.sessions.get_mut(&id);
        if !session.is_some_and(|session| session.filters.remove(filter)) {
            return reason::NO_SUBSCRIPTION;
        }
        self.subscriptions.remove(filter, &id);
        0
    }

    /// Routes a message that arrived at `node` to every matching session.
    fn publish(&mut self, node: NodeIndex, publisher: Option<SessionId>, message: Message) {
        if message.retain {
            self.retain(node, &message);
        }
        // A session with several matching subscriptions gets the message once (MQTT 5, 3.3.4).
        let mut deliveries: BTreeMap<SessionId, Delivery> = BTreeMap::new();
        for (&id, &subscription) in self.subscriptions.of(&message.topic) {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            let is_own = subscription.no_local && publisher == Some(id);
            if is_own || !self.reaches(node, session.node) {
                continue;
            }
            let keeps_retain = message.retain && subscription.retain_as_published;
            match deliveries.get_mut(&id) {
                None => drop(deliveries.insert(id, delivery(&message, subscription, keeps_retain))),
                Some(delivery) => {
                    let asked = smaller(message.qos, subscription.qos);
                    if (asked as u8) > (delivery.qos as u8) {
                        delivery.qos = asked;
                    }
                    delivery.retain |= keeps_retain;
                    delivery.ids.extend(subscription.id);
                }
            }
        }
        let to = deliveries.keys().filter_map(|id| self.sessions.get(id));
        let to: BTreeSet<NodeIndex> = to.map(|session| session.node).collect();
        for other in to.into_iter().filter(|&other| other != node) {
            self.nodes[other].counts.messages_across += 1;
        }
        for (id, delivery) in deliveries {
            self.deliver(id, delivery);
        }
    }

    fn retain(&mut self, node: NodeIndex, message: &Message) {
        for other in 0..self.nodes.len() {
            if !self.reaches(node, other) {
                continue;
            }
            let retained = &mut self.nodes[other].retained;
            if message.payload.is_empty() {
                retained.remove(&message.topic);
            } else if retained.len() < RETAINED_MAX || retained.contains_key(&message.topic) {
                retained.insert(Arc::clone(&message.topic), message.clone());
            }
        }
    }

    fn reaches(&self, node: NodeIndex, other: NodeIndex) -> bool {
        node == other || (!self.routing_is_cut && self.nodes[other].is_alive)
    }

    /// Sends a message to a session's client, or keeps it until it can be sent. With QoS 0 it is not kept.
    fn deliver(&mut self, id: SessionId, delivery: Delivery) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if delivery.qos == QoS::AtMostOnce {
            if let Some(connection) = session.connection {
                self.nodes[session.node].counts.messages_out += 1;
                self.send(connection, ToClient::Publish(Box::new(delivery)));
            }
            return;
        }
        session.queue_bytes += delivery.message.size();
        session.queue.push_back(delivery);
        self.send_queued(id);
        self.shorten_queue(id);
    }

    fn shorten_queue(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        while session.queue.len() > QUEUE_MAX || session.queue_bytes > QUEUE_BYTES_MAX {
            let Some(oldest) = session.queue.pop_front() else {
                break;
            };
            session.queue_bytes -= oldest.message.size();
            self.nodes[session.node].counts.messages_dropped += 1;
        }
    }

    /// Sends what waits for a session's client, as far as the bounds for unacknowledged messages allow.
    fn send_queued(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(connection) = session.connection else {
            return;
        };
        while let Some(next) = session.queue.front() {
            let size = next.message.size();
            let is_room =
                session.inflight.len() < session.inflight_max && session.inflight_bytes + size <= INFLIGHT_BYTES_MAX;
            if !(is_room || session.inflight.is_empty()) {
                return;
            }
            let Some(mut delivery) = session.queue.pop_front() else {
                return;
            };
            session.queue_bytes -= size;
            session.inflight_bytes += size;
            delivery.packet_id = session.next_packet_id();
            session.inflight.push_back(delivery.clone());
            self.nodes[session.node].counts.messages_out += 1;
            self.out.push((connection, ToClient::Publish(Box::new(delivery))));
        }
    }

    /// Sends again what was not acknowledged on an earlier connection (MQTT 5, 4.4).
    ///
    /// All of it, even beyond the bound that the client has set this time: the standard requires the original order.
    fn send_again(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(connection) = session.connection else {
            return;
        };
        for delivery in &mut session.inflight {
            delivery.dup = true;
            self.nodes[session.node].counts.messages_out += 1;
            let publish = ToClient::Publish(Box::new(delivery.clone()));
            self.out.push((connection, publish));
        }
    }

    fn acknowledged(&mut self, id: SessionId, packet_id: u16) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let mut inflight = session.inflight.iter();
        if let Some(place) = inflight.position(|delivery| delivery.packet_id == packet_id)
            && let Some(delivery) = session.inflight.remove(place)
        {
            session.inflight_bytes -= delivery.message.size();
            self.send_queued(id);
        }
    }

    fn send(&mut self, connection: ConnectionId, packet: ToClient) {
        self.out.push((connection, packet));
    }

    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl Session {
    /// A packet id that is not in use. There always is one, since fewer messages are in flight.
    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = self.last_packet_id;
            if !self.inflight.iter().any(|sent| sent.packet_id == id) {
                return id;
            }
        }
    }
}

fn delivery(message: &Message, subscription: Subscription, retain: bool) -> Delivery {
    Delivery {
        qos: smaller(message.qos, subscription.qos),
        message: message.clone(),
        retain,
        ids: subscription.id.into_iter().collect(),
        dup: false,
        packet_id: 0,
    }
}

fn smaller(one: QoS, other: QoS) -> QoS {
    if (one as u8) < (other as u8) { one } else { other }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::packet::{Disconnect, Unsubscribe};
    use super::*;

    /// A broker of three nodes, for clients that a test simulates.
    struct Play {
        broker: Broker,
        now: Instant,
        out: Vec<(ConnectionId, ToClient)>,
    }

    const HOUR: u32 = 3_600;

    fn connect(client_id: &str) -> Connect {
        Connect {
            version: Version::V5,
            client_id: client_id.as_bytes().into(),
            clean_start: false,
            keep_alive: 0,
            session_expiry: HOUR,
            receive_max: u16::MAX,
            packet_bytes_max: usize::MAX,
            will: None,
        }
    }

    fn clean(client_id: &str) -> Connect {
        Connect {
            clean_start: true,
            session_expiry: 0,
            ..connect(client_id)
        }
    }

    fn message(topic: &str, payload: &str, qos: QoS) -> Message {
        Message {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos,
            retain: false,
            properties: None,
        }
    }

    fn filter(filter: &str) -> Filter {
        Filter {
            filter: filter.to_owned(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        }
    }

    fn will(delay: u32) -> Option<Will> {
        Some(Will {
            message: message("will", "gone", QoS::AtLeastOnce),
            delay,
        })
    }

    impl Play {
        fn new() -> Self {
            Self {
                broker: Broker::new(&["a", "b", "c"].map(String::from)),
                now: Instant::now(),
                out: Vec::new(),
            }
        }

        /// Connects; returns whether a session was present.
        fn connect(&mut self, node: NodeIndex, connect: Connect) -> (ConnectionId, bool) {
            let id = self.broker.connect(node, connect, self.now);
            let id = id.expect("accepted");
            let first = self.sent_to(id).remove(0);
            let ToClient::Accepted { session_present, .. } = first else {
                panic!("{first:?} before a CONNACK");
            };
            (id, session_present)
        }

        fn send(&mut self, from: ConnectionId, packet: FromClient) {
            self.broker.packet(from, packet, self.now);
        }

        fn subscribe(&mut self, id: ConnectionId, filters: &[Filter]) -> Vec<u8> {
            let filters = filters.to_vec();
            let subscribe = Subscribe {
                packet_id: 1,
                id: None,
                filters,
            };
            self.send(id, FromClient::Subscribe(subscribe));
            self.collect();
            let place = self
                .out
                .iter()
                .position(|(to, packet)| matches!(packet, ToClient::Suback { .. } if *to == id));
            match self.out.remove(place.expect("a SUBACK")).1 {
                ToClient::Suback { codes, .. } => codes,
                _ => unreachable!(),
            }
        }

        fn publish(&mut self, from: ConnectionId, message: Message) {
            let packet_id = u16::from(message.qos != QoS::AtMostOnce);
            self.send(from, FromClient::Publish { message, packet_id });
        }

        fn collect(&mut self) {
            self.out.extend(self.broker.take_out());
        }

        /// The packets that were sent to this client since the last call.
        fn sent_to(&mut self, id: ConnectionId) -> Vec<ToClient> {
            self.collect();
            let (his, rest) = std::mem::take(&mut self.out).into_iter().partition(|(to, _)| *to == id);
            self.out = rest;
            let his: Vec<(ConnectionId, ToClient)> = his;
            his.into_iter().map(|(_, packet)| packet).collect()
        }

        fn deliveries(&mut self, id: ConnectionId) -> Vec<Delivery> {
            let packets = self.sent_to(id).into_iter();
            let delivery = |packet| match packet {
                ToClient::Publish(delivery) => Some(*delivery),
                _ => None,
            };
            packets.filter_map(delivery).collect()
        }

        /// The payloads of the messages that were sent to this client.
        fn received(&mut self, id: ConnectionId) -> Vec<String> {
            let text = |delivery: Delivery| String::from_utf8(delivery.message.payload.to_vec()).expect("UTF-8");
            self.deliveries(id).into_iter().map(text).collect()
        }

        fn pass(&mut self, seconds: u32) {
            self.now += Duration::from_secs(seconds.into());
            self.broker.tick(self.now);
        }

        fn counts(&self, node: NodeIndex) -> Counts {
            self.broker.counts(node)
        }
    }

    #[test]
    fn a_message_reaches_the_subscribers_of_every_node_once() {
        let mut play = Play::new();
        let (here, _) = play.connect(0, clean("here"));
        let (there, _) = play.connect(2, clean("there"));
        let (other, _) = play.connect(1, clean("other"));
        assert_eq!(play.subscribe(here, &[filter("a/+"), filter("#")]), [1, 1]);
        play.subscribe(there, &[filter("a/b"), filter("a/#")]);
        play.subscribe(other, &[filter("a/c")]);
        play.publish(here, message("a/b", "one", QoS::AtLeastOnce));
        assert_eq!(play.received(here), ["one"]);
        assert_eq!(play.received(there), ["one"]);
        assert_eq!(play.received(other), [""; 0]);
        assert_eq!(play.counts(0).messages_in, 1);
        assert_eq!(play.counts(2).messages_across, 1);
        assert_eq!(play.counts(0).messages_across, 0);
        assert_eq!(play.counts(1).messages_across, 0);
    }

    #[test]
    fn the_smaller_qos_counts_and_a_message_with_it_is_acknowledged() {
        let mut play = Play::new();
        let (publisher, _) = play.connect(0, clean("publisher"));
        let (subscriber, _) = play.connect(0, clean("subscriber"));
        let with_qos = |qos| Filter { qos, ..filter("q") };
        for (asked, published, expected) in [
            (QoS::AtMostOnce, QoS::AtLeastOnce, QoS::AtMostOnce),
            (QoS::AtLeastOnce, QoS::AtMostOnce, QoS::AtMostOnce),
            (QoS::AtLeastOnce, QoS::AtLeastOnce, QoS::AtLeastOnce),
            (QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtLeastOnce),
        ] {
            let codes = play.subscribe(subscriber, &[with_qos(asked)]);
            assert_eq!(codes, [u8::from(asked != QoS::AtMostOnce)]);
            play.publish(publisher, message("q", "", published));
            let delivery = play.deliveries(subscriber).remove(0);
            assert_eq!(delivery.qos, expected);
            let is_numbered = expected != QoS::AtMostOnce;
            assert_eq!(delivery.packet_id != 0, is_numbered);
            let acknowledged = play.sent_to(publisher) == [ToClient::Puback(1)];
            assert_eq!(acknowledged, published != QoS::AtMostOnce);
        }
    }

    #[test]
    fn filters_that_cannot_be_had_are_refused_one_by_one() {
        let mut play = Play::new();
        let (id, _) = play.connect(0, clean("client"));
        let filters = ["ok", "no#", "$share/group/a", "ok/#"].map(filter);
        let codes = play.subscribe(id, &filters);
        assert_eq!(codes, [1, reason::FILTER_INVALID, reason::NO_SHARED_SUBSCRIPTIONS, 1]);
        let many: Vec<_> = (0..FILTERS_MAX).map(|n| filter(&n.to_string())).collect();
        let codes = play.subscribe(id, &many);
        let refused = codes.iter().filter(|&&code| code == reason::QUOTA_EXCEEDED);
        assert_eq!(refused.count(), 2, "two were there before");
    }

    #[test]
    fn unsubscribing_says_whether_there_was_anything() {
        let mut play = Play::new();
        let (id, _) = play.connect(0, clean("client"));
        play.subscribe(id, &[filter("a")]);
        play.send(
            id,
            FromClient::Unsubscribe(Unsubscribe {
                packet_id: 7,
                filters: ["a", "b"].map(String::from).into(),
            }),
        );
        play.publish(id, message("a", "late", QoS::AtMostOnce));
        let expected = ToClient::Unsuback {
            packet_id: 7,
            codes: vec![0, reason::NO_SUBSCRIPTION],
        };
        assert_eq!(play.sent_to(id), [expected]);
    }

    #[test]
    fn no_local_spares_the_publisher_only() {
        let mut play = Play::new();
        let (id, _) = play.connect(0, clean("client"));
        let (other, _) = play.connect(0, clean("other"));
        let no_local = Filter {
            no_local: true,
            ..filter("a")
        };
        play.subscribe(id, &[no_local]);
        play.publish(id, message("a", "own", QoS::AtMostOnce));
        play.publish(other, message("a", "other's", QoS::AtMostOnce));
        assert_eq!(play.received(id), ["other's"]);
    }

    #[test]
    fn a_retained_message_waits_on_every_node_until_it_is_emptied() {
        let mut play = Play::new();
        let (publisher, _) = play.connect(0, clean("publisher"));
        let retained = |payload| Message {
            retain: true,
            ..message("state", payload, QoS::AtLeastOnce)
        };
        play.publish(publisher, retained("on"));
        play.publish(publisher, retained("off"));
        let (late, _) = play.connect(2, clean("late"));
        play.subscribe(late, &[filter("+")]);
        let delivery = play.deliveries(late).remove(0);
        assert_eq!((&*delivery.message.payload, delivery.retain), (&b"off"[..], true));

        // For existing subscriptions it is a message like any other.
        play.publish(publisher, retained("on"));
        assert!(!play.deliveries(late).remove(0).retain);

        let only_if_new = Filter {
            retain_handling: RetainHandling::OnlyIfNew,
            ..filter("+")
        };
        play.subscribe(late, &[only_if_new]);
        assert_eq!(play.received(late), [""; 0]);

        play.publish(publisher, retained(""));
        let (later, _) = play.connect(1, clean("later"));
        play.subscribe(later, &[filter("#")]);
        assert_eq!(play.received(later), [""; 0]);
    }

    #[test]
    fn a_persistent_session_gets_what_it_missed_in_order() {
        let mut play = Play::new();
        let (publisher, _) = play.connect(1, clean("publisher"));
        let (id, present) = play.connect(0, connect("client"));
        assert!(!present);
        play.subscribe(id, &[filter("a")]);
        play.publish(publisher, message("a", "acknowledged", QoS::AtLeastOnce));
        play.publish(publisher, message("a", "under way", QoS::AtLeastOnce));
        let first = play.deliveries(id).remove(0);
        play.send(id, FromClient::Puback(first.packet_id));
        play.broker.lost(id, play.now);
        play.publish(publisher, message("a", "missed", QoS::AtLeastOnce));
        play.publish(publisher, message("a", "not kept", QoS::AtMostOnce));

        let (id, present) = play.connect(0, connect("client"));
        assert!(present);
        // `connect` took the CONNACK and all that followed at once.
        assert_eq!(play.counts(0).takeovers_across, 0);
        assert_eq!(play.counts(0).takeovers_within, 0);
        play.broker.lost(id, play.now);

        let accepted = play.broker.connect(0, connect("client"), play.now);
        let id = accepted.expect("accepted");
        let deliveries = play.deliveries(id);
        let what: Vec<_> = deliveries
            .iter()
            .map(|delivery| (&*delivery.message.payload, delivery.dup))
            .collect();
        assert_eq!(what, [(&b"under way"[..], true), (b"missed", true)]);
    }

    #[test]
    fn a_clean_session_ends_with_its_connection() {
        let mut play = Play::new();
        let (id, _) = play.connect(0, clean("client"));
        play.subscribe(id, &[filter("a")]);
        play.broker.lost(id, play.now);
        let (id, present) = play.connect(0, connect("client"));
        assert!(!present);
        play.publish(id, message("a", "to nobody", QoS::AtLeastOnce));
        assert_eq!(play.received(id), [""; 0]);
        // And a clean start ends a session that was kept.
        play.subscribe(id, &[filter("a")]);
        play.broker.lost(id, play.now);
        assert!(!play.connect(0, clean("client")).1);
        assert_eq!(play.broker.sessions.len(), 1);
    }

    #[test]
    fn a_session_ends_when_its_time_is_over() {
        let mut play = Play::new();
        for (expiry, is_there) in [(HOUR, true), (HOUR - 1, false), (u32::MAX, true)] {
            let connect = Connect {
                session_expiry: expiry,
                ..connect(&expiry.to_string())
            };
            let (id, _) = play.connect(0, connect.clone());
            play.broker.lost(id, play.now);
            play.pass(HOUR - 1);
            assert_eq!(play.connect(0, connect).1, is_there, "{expiry} s");
        }
    }

    #[test]
    fn a_disconnect_can_change_how_long_the_session_lives() {
        let mut play = Play::new();
        let leave = |seconds| {
            FromClient::Disconnect(Disconnect {
                with_will: false,
                session_expiry: Some(seconds),
            })
        };
        let (id, _) = play.connect(0, connect("shorter"));
        play.send(id, leave(0));
        assert!(!play.connect(0, connect("shorter")).1);
        let (id, _) = play.connect(0, clean("longer"));
        play.send(id, leave(HOUR));
        assert!(!play.connect(0, connect("longer")).1);
    }

    #[test]
    fn an_older_connection_of_the_client_is_told_and_counted() {
        let mut play = Play::new();
        let told = [ToClient::Disconnect(reason::TAKEN_OVER)];
        let (first, _) = play.connect(0, connect("client"));
        play.subscribe(first, &[filter("a")]);
        let (second, present) = play.connect(0, connect("client"));
        assert!(present);
        assert_eq!(play.sent_to(first), told);
        assert_eq!(play.counts(0).takeovers_within, 1);

        let (third, present) = play.connect(1, connect("client"));
        assert!(present, "joined nodes share sessions");
        assert_eq!(play.sent_to(second), told);
        assert_eq!(play.counts(1).takeovers_across, 1);
        assert_eq!(play.counts(1).takeovers_within, 0);
        assert_eq!(play.counts(0).connections, 0);
        // The end of the older connection does not end the newer one.
        play.broker.lost(second, play.now);
        play.publish(third, message("a", "mine", QoS::AtMostOnce));
        assert_eq!(play.received(third), ["mine"]);

        // A session without a connection moves from the other node, too.
        play.broker.lost(third, play.now);
        assert!(play.connect(2, connect("client")).1);
        assert_eq!(play.counts(2).takeovers_across, 1);
    }

    #[test]
    fn with_routing_cut_nodes_share_nothing() {
        let mut play = Play::new();
        play.broker.cut_routing(true);
        let (here, _) = play.connect(0, connect("client"));
        let (neighbour, _) = play.connect(0, clean("neighbour"));
        play.subscribe(here, &[filter("#")]);
        let (there, present) = play.connect(1, connect("client"));
        assert!(!present);
        assert_eq!(play.sent_to(here), [], "the other node does not know");
        let retained = Message {
            retain: true,
            ..message("a", "from there", QoS::AtLeastOnce)
        };
        play.publish(there, retained);
        play.publish(neighbour, message("a", "from here", QoS::AtLeastOnce));
        assert_eq!(play.received(here), ["from here"]);
        play.subscribe(neighbour, &[filter("a")]);
        assert_eq!(play.received(neighbour), [""; 0]);
        assert_eq!(play.counts(1).takeovers_across, 0);
        assert_eq!(play.counts(0).messages_across, 0);

        // With routing again, messages are routed, and the next CONNECT leaves one session of the two.
        play.broker.cut_routing(false);
        play.publish(there, message("a", "joined", QoS::AtMostOnce));
        assert_eq!(play.received(here), ["joined"]);
        play.connect(2, connect("client"));
        assert_eq!(play.broker.sessions.len(), 2);
    }

    #[test]
    fn a_will_is_published_when_its_client_is_lost_and_only_then() {
        let with_will = |delay| Connect {
            will: will(delay),
            ..connect("client")
        };
        let leave = |with_will| {
            FromClient::Disconnect(Disconnect {
                with_will,
                session_expiry: None,
            })
        };
        let mut play = Play::new();
        let (watcher, _) = play.connect(2, clean("watcher"));
        play.subscribe(watcher, &[filter("will")]);
        let (id, _) = play.connect(0, with_will(0));
        play.send(id, leave(false));
        assert_eq!(play.received(watcher), [""; 0], "left in order");
        let (id, _) = play.connect(0, with_will(0));
        play.send(id, leave(true));
        assert_eq!(play.received(watcher), ["gone"], "wanted all the same");
        play.connect(0, with_will(0));
        play.connect(1, with_will(10));
        assert_eq!(play.received(watcher), ["gone"], "taken over");

        let (id, _) = play.connect(1, with_will(10));
        play.pass(10);
        assert_eq!(play.received(watcher), [""; 0], "back in time");
        play.broker.lost(id, play.now);
        play.pass(9);
        assert_eq!(play.received(watcher), [""; 0], "not due");
        play.pass(1);
        assert_eq!(play.received(watcher), ["gone"], "due");
        play.pass(10);
        assert_eq!(play.received(watcher), [""; 0], "once");

        // The end of the session does not wait for the will's delay.
        let (id, _) = play.connect(1, with_will(10));
        play.broker.lost(id, play.now);
        play.connect(1, clean("client"));
        assert_eq!(play.received(watcher), ["gone"], "session ended");
    }

    #[test]
    fn what_waits_for_a_session_is_bounded_and_the_newest_stays() {
        let mut play = Play::new();
        let (publisher, _) = play.connect(0, clean("publisher"));
        let (id, _) = play.connect(0, connect("client"));
        play.subscribe(id, &[filter("a")]);
        play.broker.lost(id, play.now);
        for number in 0..QUEUE_MAX + 10 {
            play.publish(publisher, message("a", &number.to_string(), QoS::AtLeastOnce));
        }
        assert_eq!(play.counts(0).messages_dropped, 10);
        let accepted = play.broker.connect(0, connect("client"), play.now);
        let id = accepted.expect("accepted");
        let mut received = Vec::new();
        loop {
            let deliveries = play.deliveries(id);
            if deliveries.is_empty() {
                break;
            }
            assert!(deliveries.len() <= INFLIGHT_MAX, "{}", deliveries.len());
            for delivery in deliveries {
                play.send(id, FromClient::Puback(delivery.packet_id));
                received.push(delivery.message.payload);
            }
        }
        assert_eq!(received.len(), QUEUE_MAX);
        assert_eq!((&*received[0], &*received[QUEUE_MAX - 1]), (&b"10"[..], &b"1009"[..]));
        assert_eq!(play.counts(0).messages_dropped, 10);
    }

    #[test]
    fn what_waits_for_a_session_is_bounded_in_bytes() {
        let mut play = Play::new();
        let (publisher, _) = play.connect(0, clean("publisher"));
        let (id, _) = play.connect(0, connect("client"));
        play.subscribe(id, &[filter("a")]);
        play.broker.lost(id, play.now);
        let large = "x".repeat(QUEUE_BYTES_MAX / 16);
        for _ in 0..20 {
            play.publish(publisher, message("a", &large, QoS::AtLeastOnce));
        }
        let session = play.broker.sessions.values().find(|s| !s.queue.is_empty());
        let session = session.expect("a session with a queue");
        let queued: usize = session.queue.iter().map(|d| d.message.size()).sum();
        assert_eq!((session.queue.len(), session.queue_bytes), (15, queued));
    }

    #[test]
    fn no_more_is_under_way_than_the_client_wants() {
        let mut play = Play::new();
        let (publisher, _) = play.connect(0, clean("publisher"));
        let two = Connect {
            receive_max: 2,
            ..connect("client")
        };
        let (id, _) = play.connect(0, two);
        play.subscribe(id, &[filter("a")]);
        for payload in ["1", "2", "3", "4"] {
            play.publish(publisher, message("a", payload, QoS::AtLeastOnce));
        }
        let deliveries = play.deliveries(id);
        assert_eq!(deliveries.len(), 2);
        // An acknowledgement of a message that is not in flight makes no room.
        play.send(id, FromClient::Puback(999));
        assert_eq!(play.received(id), [""; 0]);
        play.send(id, FromClient::Puback(deliveries[1].packet_id));
        assert_eq!(play.received(id), ["3"]);
    }

    #[test]
    fn an_empty_client_id_is_assigned_where_the_version_allows_it() {
        let mut play = Play::new();
        let empty = |version, clean_start| Connect {
            version,
            clean_start,
            ..connect("")
        };
        let mut assigned = Vec::new();
        for (version, clean_start) in [(Version::V5, false), (Version::V5, true), (Version::V311, true)] {
            let accepted = play.broker.connect(1, empty(version, clean_start), play.now);
            match play.sent_to(accepted.expect("accepted")).remove(0) {
                ToClient::Accepted {
                    session_present: false,
                    assigned: Some(id),
                } => assigned.push(id),
                other => panic!("{other:?}"),
            }
        }
        assigned.sort();
        assigned.dedup();
        assert_eq!(assigned.len(), 3);
        for (version, clean_start) in [(Version::V311, false), (Version::V31, true), (Version::V31, false)] {
            let refused = play.broker.connect(1, empty(version, clean_start), play.now);
            assert_eq!(refused, Err(reason::CLIENT_ID_INVALID));
        }
    }

    #[test]
    fn a_node_that_dies_takes_its_sessions_along_and_learns_what_is_retained() {
        let mut play = Play::new();
        let (watcher, _) = play.connect(1, clean("watcher"));
        play.subscribe(watcher, &[filter("#")]);
        let with_will = Connect {
            will: will(0),
            ..connect("client")
        };
        let (id, _) = play.connect(0, with_will);
        play.broker.node_died(0);
        play.broker.lost(id, play.now);
        assert_eq!(play.received(watcher), [""; 0], "nobody published the will");
        assert_eq!(play.counts(0).connections, 0);
        let retained = Message {
            retain: true,
            ..message("state", "on", QoS::AtMostOnce)
        };
        play.publish(watcher, retained);
        play.broker.node_returned(0);
        let (id, present) = play.connect(0, connect("client"));
        assert!(!present);
        play.subscribe(id, &[filter("state")]);
        assert_eq!(play.received(id), ["on"]);
    }

    #[test]
    fn packets_of_a_connection_that_has_ended_do_nothing() {
        let mut play = Play::new();
        let (watcher, _) = play.connect(0, clean("watcher"));
        play.subscribe(watcher, &[filter("#")]);
        let (id, _) = play.connect(0, clean("client"));
        play.broker.lost(id, play.now);
        play.broker.lost(id, play.now);
        play.publish(id, message("a", "late", QoS::AtLeastOnce));
        assert_eq!(play.received(watcher), [""; 0]);
        assert_eq!(play.sent_to(id), []);
        assert_eq!(play.counts(0).connections, 1);
    }
}
