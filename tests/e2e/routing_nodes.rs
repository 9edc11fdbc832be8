//! Fake nodes that route messages to each other, as a cluster does, and the faults that can be planted in them.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::header::SIGNATURE;
use crate::node::own_address;
use crate::packets;

/// What is wrong with a node, or between it and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is a cluster of its own.
    Unjoined,
    /// Its messages do not reach the last node.
    OneWay,
    /// It accepts everything, and delivers nothing.
    Mute,
    /// Every second of its messages with QoS 0 does not reach the last node.
    Lossy,
    /// It answers SUBSCRIBE with this code.
    ForbidsSubscribe(u8),
    /// It answers PUBLISH with this code, and drops the message.
    RefusesPublish(u8),
    /// It does not hand out retained messages of others.
    KeepsRetainedToItself,
    /// Each node delivers its messages to a member of its own of a shared subscription.
    SharesByNode,
    /// It has no shared subscriptions, and ends the connection of who asks for one: no fault, but what ejabberd does.
    SharesNothing,
    /// It does not answer SUBSCRIBE.
    StallsAtSubscribe,
    /// It reads and sends nothing more from the second PUBLISH with QoS 1 on.
    StallsInTheMiddle,
    /// It reads so slowly that messages are late, as EMQX does with a client that is over its limit.
    Throttles,
    /// It does not answer CONNECT.
    StallsAtConnect,
    /// It announces a packet that is larger than any that was sent, at the first PUBLISH.
    AnnouncesTooMuch,
    /// It closes the connection at the first PUBLISH.
    ClosesAtPublish,
    /// Its port refuses connections.
    Dead,
    /// It wants a PROXY header, and is not said to.
    ExpectsHeader,
    /// It is said to want a PROXY header, and does not.
    ExpectsNoHeader,
    /// It answers CONNECT with this code.
    Refuses(u8),
    /// It answers as an HTTP server.
    IsHttp,
    /// It knows MQTT 3.1.1 only: no fault, but another way to be used.
    IsOld,
}

/// The number of the last packet with QoS 1 that a node answers which stalls: 1 was the SUBSCRIBE, 2 the first message.
const STALLS_AFTER: u8 = 2;

/// The time between two messages that a node takes which throttles: of ten with each QoS, some take longer than any test waits.
const THROTTLED: Duration = Duration::from_millis(250);

/// How many packets may wait for a client: more than all that a test sends to one.
const PACKETS_MAX: usize = 8192;

/// A cluster, until it is dropped.
pub(crate) struct RoutingNodes {
    pub addresses: Vec<SocketAddr>,
    faults: Faults,
    state: Arc<Mutex<State>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    subscriptions: Vec<Subscription>,
    /// By node and topic.
    retained: HashMap<(usize, String), Vec<u8>>,
    /// Messages of each node with QoS 0.
    unacknowledged: HashMap<usize, usize>,
    /// Of shared subscriptions.
    turn: usize,
    next_client: usize,
    connects: Vec<Vec<u8>>,
    disconnects: usize,
    retained_ever: usize,
    /// Of nodes that do not.
    asked_to_share: usize,
}

struct Subscription {
    node: usize,
    client: usize,
    filter: String,
    level: u8,
    packets: mpsc::Sender<Vec<u8>>,
}

impl RoutingNodes {
    pub(crate) fn of(count: usize, faults: Vec<(Fault, usize)>) -> Self {
        let listeners: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind((own_address(), 0)).expect("a free port"))
            .collect();
        let addresses = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("an address"));
        let addresses: Vec<SocketAddr> = addresses.collect();
        let (state, faults) = (Arc::<Mutex<State>>::default(), Arc::new(Mutex::new(faults)));
        let (stop, stopped) = oneshot::channel();
        let shared = (Arc::clone(&state), Arc::clone(&faults));
        // The address of a dead node stays its own, and refuses connections before this returns: nobody else listens there.
        let is_dead = |node: usize| planted(&shared.1).contains(&(Fault::Dead, node));
        let mut listeners: Vec<_> = listeners.into_iter().enumerate().collect();
        listeners.retain(|(node, _)| !is_dead(*node));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                for (node, listener) in listeners {
                    listener.set_nonblocking(true).expect("an option");
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                    tokio::spawn(accept(node, count, listener, shared.clone()));
                }
                // Dropped with the cluster.
                let _ = stopped.await;
            });
        });
        Self {
            addresses,
            faults,
            state,
            _stop: stop,
        }
    }

    /// The configuration of a balancer before them, with these further tables.
    pub(crate) fn toml(&self, tables: &str) -> String {
        let mut toml = format!("{tables}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n");
        for (node, address) in self.addresses.iter().enumerate() {
            let header = match planted(&self.faults).contains(&(Fault::ExpectsNoHeader, node)) {
                true => "v2",
                false => "off",
            };
            toml += &format!(
                "\n[[nodes]]\nname = \"node{node}\"\naddress = \"{address}\"\nproxy_protocol = \"{header}\"\n"
            );
        }
        toml
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, there are no faults.
    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What is left at the nodes: subscriptions and retained messages.
    pub(crate) fn left(&self) -> (usize, usize) {
        let state = self.state();
        (state.subscriptions.len(), state.retained.len())
    }

    /// Every CONNECT that came.
    pub(crate) fn connects(&self) -> Vec<Vec<u8>> {
        self.state().connects.clone()
    }

    /// How many retained messages ever came.
    pub(crate) fn retained_ever(&self) -> usize {
        self.state().retained_ever
    }

    /// How often nodes without shared subscriptions were asked for one.
    pub(crate) fn asked_to_share(&self) -> usize {
        self.state().asked_to_share
    }

    /// How many clients said that they go.
    pub(crate) fn disconnects(&self) -> usize {
        self.state().disconnects
    }
}

/// The faults, and the nodes that they are planted in.
type Faults = Arc<Mutex<Vec<(Fault, usize)>>>;

type Shared = (Arc<Mutex<State>>, Faults);

fn planted(faults: &Faults) -> Vec<(Fault, usize)> {
    faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn accept(node: usize, count: usize, listener: tokio::net::TcpListener, shared: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        let (packets, to_send) = mpsc::channel(PACKETS_MAX);
        let client = {
            let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.next_client += 1;
            state.next_client
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let serving = Serving {
                node,
                count,
                client,
                shared: shared.clone(),
                packets,
                level: 0,
            };
            // A client that goes is no error.
            let _ = serving.run(stream, to_send).await;
            let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.subscriptions.retain(|subscription| subscription.client != client);
        });
    }
}

struct Serving {
    node: usize,
    count: usize,
    client: usize,
    shared: Shared,
    packets: mpsc::Sender<Vec<u8>>,
    level: u8,
}

/// What follows a packet.
#[derive(PartialEq, Eq)]
enum Next {
    Packet,
    /// The connection stays, and nothing is read any more.
    Stall,
    Close,
}

impl Serving {
    fn has(&self, fault: Fault) -> bool {
        planted(&self.shared.1).contains(&(fault, self.node))
    }

    /// The code of the first fault that `of` has one for.
    fn code(&self, of: impl Fn(Fault) -> Option<u8>) -> Option<u8> {
        let all = planted(&self.shared.1);
        let own = all.iter().filter(|(_, node)| *node == self.node);
        own.into_iter().find_map(|(fault, _)| of(*fault))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(mut self, stream: TcpStream, mut to_send: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
        let (mut from_client, mut to_client) = stream.into_split();
        let mut bytes = Vec::new();
        let mut owes_header = self.has(Fault::ExpectsHeader);
        loop {
            if self.has(Fault::IsHttp) && !bytes.is_empty() {
                return to_client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
            if owes_header && bytes.len() >= 16 {
                if !bytes.starts_with(SIGNATURE) {
                    return Ok(());
                }
                let end = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
                if bytes.len() >= end {
                    bytes.drain(..end);
                    owes_header = false;
                }
            }
            while !owes_header && let Some(end) = packets::packet_end(&bytes).filter(|end| bytes.len() >= *end) {
                let packet: Vec<u8> = bytes.drain(..end).collect();
                if packet[0] >> 4 == 3 && self.has(Fault::Throttles) {
                    let due = Instant::now() + THROTTLED;
                    while let Ok(Some(packet)) = timeout_at(due, to_send.recv()).await {
                        to_client.write_all(&packet).await?;
                    }
                }
                match self.answer(&packet) {
                    Next::Packet => {}
                    Next::Stall => return std::future::pending().await,
                    Next::Close => {
                        // What was answered before is sent.
                        while let Ok(packet) = to_send.try_recv() {
                            to_client.write_all(&packet).await?;
                        }
                        return Ok(());
                    }
                }
            }
            tokio::select! {
                read = from_client.read_buf(&mut bytes) => if read? == 0 {
                    return Ok(());
                },
                Some(packet) = to_send.recv() => to_client.write_all(&packet).await?,
            }
        }
    }

    fn send(&self, packet: Vec<u8>) {
        // It may be gone.
        let _ = self.packets.try_send(packet);
    }

    fn answer(&mut self, packet: &[u8]) -> Next {
        let body = &packet[packet
            .iter()
            .skip(1)
            .position(|byte| byte & 0x80 == 0)
            .expect("a length")
            + 2..];
        match packet[0] >> 4 {
            1 => self.connect(packet),
            3 => self.publish(packet[0], body),
            8 => self.subscribe(body),
            10 => {
                self.unsubscribe(body);
                Next::Packet
            }
            4 => Next::Packet,
            14 => {
                self.state().disconnects += 1;
                Next::Close
            }
            _ => Next::Close,
        }
    }

    fn connect(&mut self, packet: &[u8]) -> Next {
        self.state().connects.push(packet.to_vec());
        self.level = packets::level(packet);
        if self.has(Fault::StallsAtConnect) {
            return Next::Stall;
        }
        if self.has(Fault::IsOld) && self.level == 5 {
            self.send(vec![0x20, 2, 0, 1]);
            return Next::Close;
        }
        let code = self.code(|fault| match fault {
            Fault::Refuses(code) => Some(code),
            _ => None,
        });
        self.send(packets::connack(self.level, code.unwrap_or_default()));
        if code.is_some() { Next::Close } else { Next::Packet }
    }

    /// The fields of a body behind a packet's number, and the properties of MQTT 5, of which there are none.
    fn behind_id<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &body[if self.level == 5 { 3 } else { 2 }..]
    }

    fn acknowledge(&self, first: u8, id: &[u8], code: Option<u8>) {
        let mut body = id.to_vec();
        if self.level == 5 && first != 0x40 {
            body.push(0);
        }
        body.extend(code);
        self.send(packets::packet(first, &body));
    }

    fn subscribe(&self, body: &[u8]) -> Next {
        if self.has(Fault::StallsAtSubscribe) {
            return Next::Stall;
        }
        let code = self.code(|fault| match fault {
            Fault::ForbidsSubscribe(code) => Some(code),
            _ => None,
        });
        let mut codes = Vec::new();
        let mut kept = Vec::new();
        let mut rest = self.behind_id(body);
        while let Some((filter, others)) = field(rest) {
            if filter.starts_with("$share/") && self.has(Fault::SharesNothing) {
                self.state().asked_to_share += 1;
                return Next::Close;
            }
            rest = &others[1..];
            codes.push(code.unwrap_or(1));
            if code.is_some() {
                continue;
            }
            let mut state = self.state();
            let subscription = Subscription {
                node: self.node,
                client: self.client,
                filter: filter.clone(),
                level: self.level,
                packets: self.packets.clone(),
            };
            state
                .subscriptions
                .retain(|other| (other.client, &other.filter) != (self.client, &filter));
            state.subscriptions.push(subscription);
            let faults = planted(&self.shared.1);
            let to_itself = |from: usize| !faults.contains(&(Fault::KeepsRetainedToItself, from));
            for ((from, topic), payload) in &state.retained {
                let is_own = *from == self.node;
                if *topic == filter && (is_own || to_itself(*from)) && self.passes(*from, self.node, true) {
                    kept.push((filter.clone(), payload.clone()));
                }
            }
        }
        let mut answer = body[..2].to_vec();
        if self.level == 5 {
            answer.push(0);
        }
        answer.extend(codes);
        self.send(packets::packet(0x90, &answer));
        for (topic, payload) in kept {
            self.send(publish(self.level, &topic, &payload, None, true));
        }
        Next::Packet
    }

    fn unsubscribe(&self, body: &[u8]) {
        let mut rest = self.behind_id(body);
        while let Some((filter, others)) = field(rest) {
            rest = others;
            let mut state = self.state();
            state
                .subscriptions
                .retain(|other| (other.client, &other.filter) != (self.client, &filter));
        }
        self.acknowledge(0xB0, &body[..2], (self.level == 5).then_some(0));
    }

    /// Whether messages pass from one node to another; those with QoS 0 may be lost.
    fn passes(&self, from: usize, to: usize, is_kept: bool) -> bool {
        let last = self.count - 1;
        planted(&self.shared.1).iter().all(|(fault, at)| match fault {
            Fault::Unjoined => (from == *at) == (to == *at),
            Fault::OneWay => (from, to) != (*at, last),
            Fault::Mute => to != *at,
            Fault::Lossy => is_kept || (from, to) != (*at, last),
            _ => true,
        })
    }

    fn publish(&self, first: u8, body: &[u8]) -> Next {
        if self.has(Fault::ClosesAtPublish) {
            return Next::Close;
        }
        if self.has(Fault::AnnouncesTooMuch) {
            // One MiB.
            self.send(vec![0x30, 0x80, 0x80, 0x40]);
            return Next::Packet;
        }
        let (topic, rest) = field(body).expect("a topic");
        let has_id = first >> 1 & 3 == 1;
        let (id, rest) = rest.split_at(if has_id { 2 } else { 0 });
        let payload = match self.level {
            5 => &rest[1 + usize::from(rest[0])..],
            _ => rest,
        };
        let refused = self.code(|fault| match fault {
            Fault::RefusesPublish(code) => Some(code),
            _ => None,
        });
        if self.has(Fault::StallsInTheMiddle) && id.last().is_some_and(|id| *id > STALLS_AFTER) {
            return Next::Stall;
        }
        if has_id {
            let code = refused.filter(|_| self.level == 5);
            self.acknowledge(0x40, id, code);
        }
        if refused.is_some() {
            return Next::Packet;
        }
        let mut state = self.state();
        if first & 1 != 0 {
            state.retained_ever += 1;
            match payload {
                [] => state.retained.remove(&(self.node, topic.clone())),
                payload => state.retained.insert((self.node, topic.clone()), payload.to_vec()),
            };
        }
        let number = state.unacknowledged.entry(self.node).or_default();
        *number += usize::from(!has_id);
        let is_kept = has_id || number.is_multiple_of(2);
        let is_for = |subscription: &&Subscription, filter: &str| {
            subscription.filter == filter && self.passes(self.node, subscription.node, is_kept)
        };
        let plain = state
            .subscriptions
            .iter()
            .filter(|subscription| is_for(subscription, &topic));
        for subscription in plain {
            subscription.deliver(&topic, payload, has_id);
        }
        let filter = format!("$share/remora-doctor/{topic}");
        let members: Vec<&Subscription> = state
            .subscriptions
            .iter()
            .filter(|subscription| is_for(subscription, &filter))
            .collect();
        if self.has(Fault::SharesByNode) {
            members
                .iter()
                .for_each(|member| member.deliver(&topic, payload, has_id));
        } else if !members.is_empty() {
            members[state.turn % members.len()].deliver(&topic, payload, has_id);
        }
        state.turn += 1;
        Next::Packet
    }
}

impl Subscription {
    fn deliver(&self, topic: &str, payload: &[u8], has_id: bool) {
        // The number may be any: nothing is sent again.
        let packet = publish(self.level, topic, payload, has_id.then_some(7), false);
        let _ = self.packets.try_send(packet);
    }
}

fn publish(level: u8, topic: &str, payload: &[u8], id: Option<u16>, retain: bool) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    if level == 5 {
        body.push(0);
    }
    body.extend(payload);
    packets::packet(0x30 | u8::from(id.is_some()) << 1 | u8::from(retain), &body)
}

/// A field with its length before it, and what follows.
fn field(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (field, rest) = rest.split_at(u16::from_be_bytes(*length).into());
    Some((String::from_utf8(field.to_vec()).expect("text"), rest))
}
