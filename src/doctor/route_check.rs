//! The route check: a client on each node subscribes to a private topic, and each publishes to it. What arrived where and when is
//! noted; what that means is up to `verdict`.
//!
//! Traffic is bounded: for each node a few dozen messages of some bytes, and as many for each pair.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::access::{Access, NotReached, Target};
use super::matrix::{Matrix, Qos};
use super::peer::{self, Event, Peer, What};
use super::settings::Settings;
use crate::mqtt::{NodePacket, PublishPacket, subscribe, unsubscribe};

/// The most nodes of a check: of more, so many are drawn. The messages grow with the square of the nodes.
pub const NODES_MAX: usize = 16;

/// The time between two messages of a node.
const PACE: Duration = Duration::from_millis(20);

/// The time between two messages that only find out whether routes are there yet: a node learns of subscriptions at another one a
/// little later.
const WARM_UP_PACE: Duration = Duration::from_millis(100);

/// It grows to this: where a route is lost, all nodes send such messages until `timeout`, and some limit the rate of a client.
const WARM_UP_PACE_MAX: Duration = Duration::from_millis(400);

/// How long copies of a message to a shared subscription are awaited that should not be there.
const COPIES_MAX: Duration = Duration::from_millis(150);

/// Messages of each node to the shared subscription.
const SHARED_EACH: u32 = 5;

/// The name of the group of the shared subscription.
const SHARED_GROUP: &str = "remora-doctor";

/// A retained message that could not be taken back is forgotten by then, where nodes have MQTT 5.
const RETAINED_EXPIRY: Duration = Duration::from_secs(60);

/// How long the nodes may take to end the subscriptions.
const LEAVE_MAX: Duration = Duration::from_millis(500);

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Messages of each node with each QoS.
    rounds: u32,
    /// Whether a shared subscription is checked as well: nodes that have none write a line into their log.
    pub has_shared: bool,
}

impl Extent {
    /// What an operator wants to know.
    pub const FULL: Self = Self {
        rounds: 10,
        has_shared: true,
    };

    /// What is checked again and again.
    pub const REPEATED: Self = Self {
        rounds: 2,
        has_shared: true,
    };
}

/// Why a node's routes could not be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No client of the doctor was accepted.
    NotReached(NotReached),
    /// It forbids the topic.
    Forbidden(Action, u8),
    /// It took a packet and never answered it.
    Stalled(Action),
    /// It limits what the doctor may send, with this code.
    Limited(u8),
    /// It ended the connection; why, in words.
    Ended(String),
}

/// What a client of the doctor did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Subscribed.
    Subscribe,
    /// Published.
    Publish,
}

/// Messages of one node to a shared subscription that has a member on each node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Messages sent.
    pub sent: u32,
    /// Delivered to one member.
    pub once: u32,
    /// Delivered to several.
    pub several: u32,
}

/// What a route check has seen.
#[derive(Clone, Debug)]
pub struct RouteReport {
    /// The nodes that were checked.
    pub nodes: Vec<Arc<str>>,
    /// How many there are.
    pub nodes_in_all: usize,
    /// What kept a node from being measured.
    pub troubles: Vec<Option<Trouble>>,
    /// All nodes, with nothing sent from and to those with a trouble.
    pub routes: Matrix,
    /// Retained messages, where they are allowed: one from each node to each.
    pub retained: Option<Matrix>,
    /// The shared subscription, by the publishing node; `None` if it was not checked, or the nodes do not have any.
    pub shared: Option<Vec<Shared>>,
    /// How long it took.
    pub took: Duration,
}

/// Checks the routes between these nodes, of which there are `nodes_in_all`. It must run in a [`tokio::task::LocalSet`].
pub async fn route_check(
    access: &Access,
    settings: &Settings,
    targets: &[Target],
    nodes_in_all: usize,
    extent: Extent,
) -> RouteReport {
    let began = Instant::now();
    let mut check = Check::connect(access, settings, targets).await;
    check.subscribe().await;
    check.warm_up().await;
    check.measure(extent.rounds).await;
    // From here on the routes are known, and what a node lacks does not speak against it.
    check.is_measured = true;
    let retained = check.retained().await;
    let shared = match extent.has_shared {
        true => check.shared().await,
        false => None,
    };
    check.leave().await;
    RouteReport {
        nodes: targets.iter().map(|target| Arc::clone(&target.node)).collect(),
        nodes_in_all,
        routes: check.routes,
        troubles: check.members.into_iter().map(|member| member.trouble).collect(),
        retained,
        shared,
        took: began.elapsed(),
    }
}

/// Which nodes are checked: all, or as many as a check may have, drawn anew each time; in their order.
pub fn drawn(count: usize) -> Vec<usize> {
    match count <= NODES_MAX {
        true => (0..count).collect(),
        false => {
            let mut drawn = fastrand::choose_multiple(0..count, NODES_MAX);
            drawn.sort_unstable();
            drawn
        }
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    WarmUp,
    Measured(Qos),
    Retained,
    Shared,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    kind: Kind,
    from: usize,
    number: u32,
}

impl Message {
    fn payload(self) -> String {
        let kind = match self.kind {
            Kind::WarmUp => "warm-up",
            Kind::Measured(Qos::Zero) => "qos0",
            Kind::Measured(Qos::One) => "qos1",
            Kind::Retained => "retained",
            Kind::Shared => "shared",
        };
        format!("{kind} {} {}", self.from, self.number)
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "warm-up" => Kind::WarmUp,
            "qos0" => Kind::Measured(Qos::Zero),
            "qos1" => Kind::Measured(Qos::One),
            "retained" => Kind::Retained,
            "shared" => Kind::Shared,
            _ => return None,
        };
        let (from, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { kind, from, number })
    }
}

/// A client of the check, or the reason that there is none.
#[derive(Debug, Default)]
struct Member {
    peer: Option<Peer>,
    trouble: Option<Trouble>,
    /// The answers so far, by the numbers of the packets.
    subacks: HashMap<u16, Vec<u8>>,
    pubacks: HashMap<u16, u8>,
    unsubacks: HashSet<u16>,
    /// When the last acknowledgement of a message came.
    last_puback: Option<Instant>,
    /// Whether its node had not answered every message in time: what is asked of it then waits for those.
    is_behind: bool,
    /// Whether its subscription to the plain topic was taken.
    is_subscribed: bool,
}

impl Member {
    /// A client that goes on.
    fn is_live(&self) -> bool {
        self.peer.is_some() && self.trouble.is_none()
    }
}

struct Check {
    members: Vec<Member>,
    events: mpsc::Receiver<Event>,
    /// What the topics of this check begin with.
    base: String,
    timeout: Duration,
    sent: HashMap<Message, Instant>,
    /// When a message arrived first, and how often, by the receiving client.
    arrived: HashMap<(Message, usize), (Instant, u32)>,
    /// Those that arrived as retained ones.
    kept: HashSet<(usize, usize)>,
    /// Routes on which nothing has arrived yet.
    cold: HashSet<(usize, usize)>,
    /// Measured messages that have not arrived yet.
    awaited: HashSet<(Message, usize)>,
    routes: Matrix,
    is_measured: bool,
}

impl Check {
    async fn connect(access: &Access, settings: &Settings, targets: &[Target]) -> Self {
        let (to_check, events) = peer::events();
        let run = format!("{:08x}", fastrand::u32(..));
        let mut connecting = tokio::task::JoinSet::new();
        for (number, target) in targets.iter().enumerate() {
            let (access, target, run) = (access.clone(), target.clone(), run.clone());
            connecting.spawn_local(async move { (number, access.client(&target, &run).await) });
        }
        let mut members: Vec<Member> = targets.iter().map(|_| Member::default()).collect();
        while let Some(joined) = connecting.join_next().await {
            // A panic would be a fault of ours; the node then has no client and no trouble, and is not measured.
            let Ok((number, result)) = joined else { continue };
            match result {
                Ok(client) => members[number].peer = Some(Peer::start(number, client, to_check.clone())),
                Err(why) => members[number].trouble = Some(Trouble::NotReached(why)),
            }
        }
        Self {
            members,
            events,
            base: format!("{}/{:08x}-{run}", settings.topic, access.instance),
            timeout: settings.timeout,
            sent: HashMap::new(),
            arrived: HashMap::new(),
            kept: HashSet::new(),
            cold: HashSet::new(),
            awaited: HashSet::new(),
            routes: Matrix::new(targets.iter().map(|target| Arc::clone(&target.node)).collect()),
            is_measured: false,
        }
    }

    fn topic(&self, what: &str) -> String {
        format!("{}/{what}", self.base)
    }

    fn topic_of(&self, message: Message) -> String {
        match message.kind {
            Kind::WarmUp | Kind::Measured(_) => self.topic("route"),
            Kind::Retained => self.topic(&format!("retained/{}", message.from)),
            Kind::Shared => self.topic("shared"),
        }
    }

    fn shared_filter(&self) -> String {
        format!("$share/{SHARED_GROUP}/{}", self.topic("shared"))
    }

    /// The clients that go on.
    fn live(&self) -> Vec<usize> {
        (0..self.members.len())
            .filter(|number| self.members[*number].is_live())
            .collect()
    }

    /// Takes events until `is_done`, or until `due`; says whether it was done.
    async fn until(&mut self, due: Instant, is_done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if is_done(self) {
                return true;
            }
            match tokio::time::timeout_at(due, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                // All clients have ended.
                Ok(None) => return is_done(self),
                Err(_) => return false,
            }
        }
    }

    fn take(&mut self, Event { of, at, what }: Event) {
        let member = &mut self.members[of];
        match what {
            What::Packet(NodePacket::Publish { payload, retain, .. }) => {
                if let Some(message) = Message::read(&payload) {
                    let (_, count) = self.arrived.entry((message, of)).or_insert((at, 0));
                    *count += 1;
                    self.awaited.remove(&(message, of));
                    self.cold.remove(&(message.from, of));
                    if retain && message.kind == Kind::Retained {
                        self.kept.insert((message.from, of));
                    }
                }
            }
            What::Packet(NodePacket::Puback { packet_id, code }) => {
                member.pubacks.insert(packet_id, code);
                member.last_puback = Some(at);
                if code >= 0x80 && !self.is_measured {
                    member.fails(of_refusal(Action::Publish, code));
                }
            }
            What::Packet(NodePacket::Suback { packet_id, codes }) => {
                member.subacks.insert(packet_id, codes);
            }
            What::Packet(NodePacket::Unsuback { packet_id }) => {
                member.unsubacks.insert(packet_id);
            }
            What::Packet(NodePacket::Disconnect { code }) => {
                member.peer = None;
                if !self.is_measured {
                    let action = match member.is_subscribed {
                        true => Action::Publish,
                        false => Action::Subscribe,
                    };
                    member.fails(match code {
                        0x87 | 0x96 | 0x97 => of_refusal(action, code),
                        code => Trouble::Ended(format!("the node sent a DISCONNECT with code {code:#04x}")),
                    });
                }
            }
            What::Packet(NodePacket::Other(_)) => {}
            What::Ended(why) => {
                member.peer = None;
                if !self.is_measured {
                    member.fails(Trouble::Ended(why));
                }
            }
        }
    }

    /// Subscribes each client to these filters; the numbers of the packets.
    fn send_subscribe(&mut self, filters: &[String]) -> HashMap<usize, u16> {
        let mut ids = HashMap::new();
        for number in self.live() {
            if let Some(peer) = &mut self.members[number].peer {
                let id = peer.next_id();
                if subscribe(peer.version, id, filters).is_some_and(|packet| peer.send(packet)) {
                    ids.insert(number, id);
                }
            }
        }
        ids
    }

    /// Whether every client that goes on has an answer to its SUBSCRIBE.
    fn are_subscribed(&self, ids: &HashMap<usize, u16>) -> bool {
        ids.iter().all(|(number, id)| {
            let member = &self.members[*number];
            !member.is_live() || member.subacks.contains_key(id)
        })
    }

    async fn subscribe(&mut self) {
        let ids = self.send_subscribe(&[self.topic("route")]);
        let due = Instant::now() + self.timeout;
        self.until(due, |check| check.are_subscribed(&ids)).await;
        for (number, id) in ids {
            let member = &mut self.members[number];
            match member.subacks.get(&id).and_then(|codes| codes.first()).copied() {
                Some(code) if code >= 0x80 => member.fails(of_refusal(Action::Subscribe, code)),
                Some(_) => member.is_subscribed = true,
                None => member.fails(Trouble::Stalled(Action::Subscribe)),
            }
        }
    }

    /// Publishes a message, if its client goes on.
    fn publish(&mut self, message: Message, retain: bool) {
        let topic = self.topic_of(message);
        let payload = message.payload();
        let is_acknowledged = !matches!(message.kind, Kind::WarmUp | Kind::Measured(Qos::Zero));
        if self
            .send_publish(message.from, &topic, payload.as_bytes(), is_acknowledged, retain)
            .is_some()
        {
            self.sent.insert(message, Instant::now());
        }
    }

    /// The number of the packet; 0 if it is not acknowledged.
    fn send_publish(
        &mut self,
        from: usize,
        topic: &str,
        payload: &[u8],
        is_acknowledged: bool,
        retain: bool,
    ) -> Option<u16> {
        let peer = self.members[from].peer.as_mut()?;
        let packet = PublishPacket {
            topic,
            payload,
            packet_id: is_acknowledged.then(|| peer.next_id()),
            retain,
            expiry: retain.then_some(RETAINED_EXPIRY.as_secs() as u32),
        };
        let is_sent = peer.send(packet.encode(peer.version)?);
        is_sent.then(|| packet.packet_id.unwrap_or_default())
    }

    /// Each two clients that go on.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let live = self.live();
        let all = live.clone();
        all.into_iter()
            .flat_map(move |from| live.clone().into_iter().map(move |to| (from, to)))
    }

    /// Waits until every route is there, or none comes any more.
    async fn warm_up(&mut self) {
        self.cold = self.pairs().collect();
        let due = Instant::now() + self.timeout;
        let mut pace = WARM_UP_PACE;
        for number in 0.. {
            for from in self.live() {
                let kind = Kind::WarmUp;
                self.publish(Message { kind, from, number }, false);
            }
            let next = due.min(Instant::now() + pace);
            pace = WARM_UP_PACE_MAX.min(pace * 3 / 2);
            if self.until(next, |check| check.cold.is_empty()).await || Instant::now() >= due {
                return;
            }
        }
    }

    async fn measure(&mut self, rounds: u32) {
        let mut messages = Vec::new();
        for number in 0..rounds {
            for from in self.live() {
                for kind in Qos::ALL.map(Kind::Measured) {
                    let message = Message { kind, from, number };
                    messages.push(message);
                    let to = self.live().into_iter();
                    self.awaited.extend(to.map(|to| (message, to)));
                    self.publish(message, false);
                }
            }
            self.until(Instant::now() + PACE, |_| false).await;
        }
        // No other message asked for an answer so far.
        let mut asked = vec![0; self.members.len()];
        for message in &messages {
            if message.kind == Kind::Measured(Qos::One) && self.sent.contains_key(message) {
                asked[message.from] += 1;
            }
        }
        let sent = Instant::now();
        self.until(sent + self.timeout, |check| {
            check.awaited.is_empty() && check.have_answered(&asked)
        })
        .await;
        for number in self.live() {
            let member = &mut self.members[number];
            member.is_behind = member.pubacks.len() < asked[number];
            // One that is slow, or limits the rate, has answered some meanwhile.
            if member.is_behind && member.last_puback.is_none_or(|last| last < sent) {
                member.fails(Trouble::Stalled(Action::Publish));
            }
        }
        let live = self.live();
        for message in messages {
            let (Some(sent), Kind::Measured(qos)) = (self.sent.get(&message).copied(), message.kind) else {
                continue;
            };
            if !live.contains(&message.from) {
                continue;
            }
            for to in live.iter().copied() {
                let took = self.arrived.get(&(message, to));
                let took = took.map(|(at, _)| at.saturating_duration_since(sent));
                let took = took.filter(|took| *took <= self.timeout);
                self.routes.note(message.from, to, qos, took);
            }
        }
    }

    /// Whether each client that goes on has an answer to so many messages.
    fn have_answered(&self, asked: &[usize]) -> bool {
        let mut members = self.members.iter().zip(asked).filter(|(member, _)| member.is_live());
        members.all(|(member, asked)| member.pubacks.len() >= *asked)
    }

    /// A retained message of each client, for which all subscribe anew.
    async fn retained(&mut self) -> Option<Matrix> {
        let mut live = self.live();
        live.retain(|number| !self.members[*number].is_behind);
        let of = |from| Message {
            kind: Kind::Retained,
            from,
            number: 0,
        };
        let mut ids = HashMap::new();
        for from in live.iter().copied() {
            let (topic, payload) = (self.topic_of(of(from)), of(from).payload());
            if let Some(id) = self.send_publish(from, &topic, payload.as_bytes(), true, true) {
                ids.insert(from, id);
            }
        }
        let due = Instant::now() + self.timeout;
        self.until(due, |check| check.are_taken(&ids)).await;
        let publishers: Vec<usize> = live
            .iter()
            .copied()
            .filter(|from| {
                let id = ids.get(from);
                let code = id.and_then(|id| self.members[*from].pubacks.get(id));
                code.is_some_and(|code| *code < 0x80)
            })
            .collect();
        let filters: Vec<String> = publishers.iter().map(|from| self.topic_of(of(*from))).collect();
        let mut matrix = Matrix::new(self.routes.names().to_vec());
        if !filters.is_empty() {
            // What other messages do not reach, these need not either.
            let expected: Vec<(usize, usize)> = publishers
                .iter()
                .flat_map(|from| live.iter().map(|to| (*from, *to)))
                .filter(|(from, to)| self.routes.way(*from, *to).is_open())
                .collect();
            let due = Instant::now() + self.timeout;
            loop {
                self.send_subscribe(&filters);
                let next = due.min(Instant::now() + 2 * WARM_UP_PACE);
                let is_done = |check: &Self| expected.iter().all(|pair| check.kept.contains(pair));
                if self.until(next, is_done).await || Instant::now() >= due {
                    break;
                }
            }
            for (from, to) in expected {
                if self.members[from].is_live() && self.members[to].is_live() {
                    let took = self.kept.contains(&(from, to)).then_some(Duration::ZERO);
                    matrix.note(from, to, Qos::One, took);
                }
            }
            self.send_unsubscribe(&filters);
        }
        self.take_back(&ids).await;
        (!filters.is_empty()).then_some(matrix)
    }

    /// Clears the retained messages of these clients.
    async fn take_back(&mut self, published: &HashMap<usize, u16>) {
        let mut ids = HashMap::new();
        for from in published.keys().copied() {
            let topic = self.topic(&format!("retained/{from}"));
            if let Some(id) = self.send_publish(from, &topic, &[], true, true) {
                ids.insert(from, id);
            }
        }
        let due = Instant::now() + self.timeout;
        self.until(due, |check| check.are_taken(&ids)).await;
    }

    /// Whether every client that goes on has an answer to its PUBLISH.
    fn are_taken(&self, ids: &HashMap<usize, u16>) -> bool {
        ids.iter().all(|(number, id)| {
            let member = &self.members[*number];
            !member.is_live() || member.pubacks.contains_key(id)
        })
    }

    /// A shared subscription with a member on each node.
    async fn shared(&mut self) -> Option<Vec<Shared>> {
        let ids = self.send_subscribe(&[self.shared_filter()]);
        let due = Instant::now() + self.timeout;
        self.until(due, |check| check.are_subscribed(&ids)).await;
        let is_member = |check: &Self, number: &usize| {
            let member = &check.members[*number];
            let code = ids.get(number).and_then(|id| member.subacks.get(id)?.first());
            member.is_live() && code.is_some_and(|code| *code < 0x80)
        };
        let members: Vec<usize> = self
            .live()
            .into_iter()
            .filter(|number| is_member(self, number))
            .collect();
        // Some nodes end the connection instead.
        if members.is_empty() || members.len() < ids.len() {
            return None;
        }
        let mut messages = Vec::new();
        for number in 0..SHARED_EACH {
            for from in members.iter().copied() {
                let kind = Kind::Shared;
                messages.push(Message { kind, from, number });
            }
        }
        for message in &messages {
            self.publish(*message, false);
        }
        let copies = |check: &Self, message: &Message| {
            let to = members.iter().filter_map(|to| check.arrived.get(&(*message, *to)));
            to.map(|(_, count)| count).sum::<u32>()
        };
        let due = Instant::now() + self.timeout;
        self.until(due, |check| messages.iter().all(|message| copies(check, message) > 0))
            .await;
        self.until(Instant::now() + COPIES_MAX, |_| false).await;
        let mut rows = vec![Shared::default(); self.members.len()];
        for message in &messages {
            let row = &mut rows[message.from];
            row.sent += 1;
            match copies(self, message) {
                0 => {}
                1 => row.once += 1,
                _ => row.several += 1,
            }
        }
        // A node that takes the filter for a topic's name delivers nothing: it has no shared subscriptions.
        let has_any = rows.iter().any(|row| row.once + row.several > 0);
        has_any.then_some(rows)
    }

    fn send_unsubscribe(&mut self, filters: &[String]) -> HashMap<usize, u16> {
        let mut ids = HashMap::new();
        for number in 0..self.members.len() {
            if let Some(peer) = &mut self.members[number].peer {
                let id = peer.next_id();
                if unsubscribe(peer.version, id, filters).is_some_and(|packet| peer.send(packet)) {
                    ids.insert(number, id);
                }
            }
        }
        ids
    }

    /// Ends the subscriptions and the connections.
    async fn leave(&mut self) {
        let filters = [self.topic("route"), self.shared_filter()];
        let ids = self.send_unsubscribe(&filters);
        self.until(Instant::now() + LEAVE_MAX, |check| {
            ids.iter().all(|(number, id)| {
                let member = &check.members[*number];
                member.peer.is_none() || member.unsubacks.contains(id)
            })
        })
        .await;
        for member in &mut self.members {
            member.peer = None;
        }
        // Until the last has sent its DISCONNECT: each then drops its end of the events.
        self.until(Instant::now() + LEAVE_MAX, |_| false).await;
    }
}

impl Member {
    /// The first trouble counts.
    fn fails(&mut self, trouble: Trouble) {
        self.trouble.get_or_insert(trouble);
    }
}

/// What a refusing code means (MQTT 5, 2.4); MQTT 3.1.1 has only 0x80.
fn of_refusal(action: Action, code: u8) -> Trouble {
    match code {
        0x96 | 0x97 => Trouble::Limited(code),
        code => Trouble::Forbidden(action, code),
    }
}
