//! Through the front door: a subscriber with a client id of its own connects through the balancer and restarts some times, while a
//! publisher on each node, and one through the balancer, send it messages.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::access::{Access, NotReached, Target};
use super::peer::{self, Event, Peer, What};
use super::settings::Settings;
use crate::cluster::EndpointKind;
use crate::mqtt::{NodePacket, PublishPacket, subscribe, unsubscribe};

/// The time between two messages of a publisher that was not received yet: nodes learn of a subscription a little later.
const PACE: Duration = Duration::from_millis(100);

/// The name of the publisher that connects through the balancer.
pub const THROUGH: &str = "through the balancer";

/// The URL of a listener: `mqtt`, `mqtts`, `ws` or `wss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontUrl {
    /// Whether it has TLS.
    pub has_tls: bool,
    /// Its path, if it has WebSocket.
    pub path: Option<String>,
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for FrontUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "write it like mqtt://10.0.0.5:1883, or with mqtts, ws or wss";
        let error = |why: &str| format!("{why}; {EXAMPLE}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error("there is no scheme"))?;
        let (has_tls, is_ws, port) = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" | "tcp" => (false, false, 1883),
            "mqtts" | "ssl" | "tls" => (true, false, 8883),
            "ws" => (false, true, 8083),
            "wss" => (true, true, 8084),
            _ => return Err(error("the scheme is none of them")),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed
                    .split_once(']')
                    .ok_or_else(|| error("a bracket is not closed"))?;
                (host, rest.strip_prefix(':').map_or(Ok(port), str::parse))
            }
            None => match authority.rsplit_once(':') {
                Some((host, written)) => (host, written.parse()),
                None => (authority, Ok(port)),
            },
        };
        let port = port.map_err(|_| error("the port is not a number below 65536"))?;
        if host.is_empty() || host.contains(['@', '?', '#']) || path.contains(|c: char| c.is_whitespace()) {
            return Err(error("there is no host"));
        }
        if !is_ws && !matches!(path, "" | "/") {
            return Err(error("only ws and wss have a path"));
        }
        let path = match path {
            "" => "/mqtt",
            path => path,
        };
        Ok(Self {
            has_tls,
            path: is_ws.then(|| path.to_owned()),
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for FrontUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.path, self.has_tls) {
            (None, false) => "mqtt",
            (None, true) => "mqtts",
            (Some(_), false) => "ws",
            (Some(_), true) => "wss",
        })?;
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "://{}{}{}:{}", brackets.0, self.host, brackets.1, self.port)?;
        f.write_str(self.path.as_deref().unwrap_or_default())
    }
}

impl FrontUrl {
    /// Which kind of endpoint it is.
    pub fn kind(&self) -> EndpointKind {
        match self.path {
            Some(_) => EndpointKind::Ws,
            None => EndpointKind::Mqtt,
        }
    }
}

/// What became of the messages to a subscriber that restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontReport {
    /// How often it was there with its subscription.
    pub restarts: u32,
    /// After how many restarts it received a message of each publisher.
    pub received: Vec<(String, u32)>,
    /// What kept it from going on.
    pub trouble: Option<FrontTrouble>,
}

/// Why a subscriber did not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontTrouble {
    /// It was not accepted.
    NotReached(NotReached),
    /// It was not allowed to subscribe, with this code.
    Forbidden(u8),
    /// Its connection ended; why, in words.
    Ended(String),
    /// Its SUBSCRIBE was not answered.
    Stalled,
}

/// Where the subscriber connects, and where the publishers do.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// How the balancer is reached.
    pub front: (&'a Access, &'a Target),
    /// How the nodes are reached; one that cannot be has no publisher.
    pub nodes: (&'a Access, &'a [Target]),
}

/// The subscriber's number among the clients; publishers have those from 1 on.
const SUBSCRIBER: usize = 0;

/// Restarts a subscriber so often. It must run in a [`tokio::task::LocalSet`].
pub async fn front_check(stage: Stage<'_>, settings: &Settings, restarts: u32) -> FrontReport {
    let (to_check, events) = peer::events();
    let mut report = FrontReport::default();
    let (access, target) = stage.front;
    let run = format!("{:08x}", fastrand::u32(..));
    let mut publishers = Vec::new();
    let through = (
        THROUGH.to_owned(),
        access.client(target, &format!("{run}-publisher")).await,
    );
    let mut clients = vec![through];
    for node in stage.nodes.1 {
        let client = stage.nodes.0.client(node, &run).await;
        clients.push((node.node.to_string(), client));
    }
    for (name, client) in clients {
        match client {
            Ok(client) => {
                let peer = Peer::start(publishers.len() + 1, client, to_check.clone());
                publishers.push(peer);
                report.received.push((name, 0));
            }
            Err(why) if name == THROUGH => {
                report.trouble = Some(FrontTrouble::NotReached(why));
                return report;
            }
            // The route check says so.
            Err(_) => {}
        }
    }
    let mut check = Check {
        events,
        publishers,
        topic: format!("{}/{:08x}-{run}/front", settings.topic, access.instance),
        timeout: settings.timeout,
        subacks: HashMap::new(),
        unsubacks: BTreeSet::new(),
        arrived: BTreeSet::new(),
        ended: None,
    };
    for restart in 0..restarts {
        let client = match access.client(target, &run).await {
            Ok(client) => client,
            Err(why) => {
                report.trouble = Some(FrontTrouble::NotReached(why));
                break;
            }
        };
        check.ended = None;
        let mut subscriber = Peer::start(SUBSCRIBER, client, to_check.clone());
        if let Err(trouble) = check.subscribe(&mut subscriber).await {
            report.trouble = Some(trouble);
            break;
        }
        report.restarts += 1;
        for number in check.receive(restart).await {
            report.received[number - 1].1 += 1;
        }
        check.unsubscribe(&mut subscriber).await;
    }
    report
}

struct Check {
    events: mpsc::Receiver<Event>,
    publishers: Vec<Peer>,
    topic: String,
    timeout: Duration,
    /// The code for the filter, by the number of the SUBSCRIBE. Each subscriber begins with the same number.
    subacks: HashMap<u16, u8>,
    unsubacks: BTreeSet<u16>,
    /// The publishers whose message has arrived, with the restart.
    arrived: BTreeSet<(u32, usize)>,
    /// Why the subscriber's connection has ended.
    ended: Option<String>,
}

impl Check {
    async fn until(&mut self, due: Instant, is_done: impl Fn(&Self) -> bool) {
        while !is_done(self) {
            match tokio::time::timeout_at(due, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, Event { of, what, .. }: Event) {
        if of != SUBSCRIBER {
            return;
        }
        match what {
            What::Packet(NodePacket::Publish { payload, .. }) => self.arrived.extend(read(&payload)),
            What::Packet(NodePacket::Suback { packet_id, codes }) => {
                self.subacks.insert(packet_id, codes.first().copied().unwrap_or(0x80));
            }
            What::Packet(NodePacket::Unsuback { packet_id }) => {
                self.unsubacks.insert(packet_id);
            }
            What::Packet(NodePacket::Disconnect { code }) => {
                self.ended = Some(format!("it was sent a DISCONNECT with code {code:#04x}"));
            }
            What::Packet(_) => {}
            What::Ended(why) => self.ended = Some(why),
        }
    }

    async fn subscribe(&mut self, subscriber: &mut Peer) -> Result<(), FrontTrouble> {
        self.subacks.clear();
        let id = subscriber.next_id();
        if let Some(packet) = subscribe(subscriber.version, id, std::slice::from_ref(&self.topic)) {
            subscriber.send(packet);
        }
        let due = Instant::now() + self.timeout;
        self.until(due, |check| check.subacks.contains_key(&id) || check.ended.is_some())
            .await;
        match (self.subacks.get(&id), &self.ended) {
            (Some(code), _) if *code >= 0x80 => Err(FrontTrouble::Forbidden(*code)),
            (Some(_), _) => Ok(()),
            (None, Some(why)) => Err(FrontTrouble::Ended(why.clone())),
            (None, None) => Err(FrontTrouble::Stalled),
        }
    }

    /// Publishes until a message of each publisher has arrived, or the time is over; whose arrived.
    async fn receive(&mut self, restart: u32) -> Vec<usize> {
        let due = Instant::now() + self.timeout;
        let count = self.publishers.len();
        let is_done = |check: &Self| (1..=count).all(|number| check.arrived.contains(&(restart, number)));
        while Instant::now() < due && !is_done(self) && self.ended.is_none() {
            for number in 1..=count {
                if !self.arrived.contains(&(restart, number)) {
                    self.publish(restart, number);
                }
            }
            let next = due.min(Instant::now() + PACE);
            self.until(next, |check| is_done(check) || check.ended.is_some()).await;
        }
        (1..=count)
            .filter(|number| self.arrived.contains(&(restart, *number)))
            .collect()
    }

    fn publish(&mut self, restart: u32, number: usize) {
        let peer = &mut self.publishers[number - 1];
        let payload = format!("{restart} {number}");
        let packet = PublishPacket {
            topic: &self.topic,
            payload: payload.as_bytes(),
            packet_id: Some(peer.next_id()),
            retain: false,
            expiry: None,
        };
        if let Some(packet) = packet.encode(peer.version) {
            peer.send(packet);
        }
    }

    async fn unsubscribe(&mut self, subscriber: &mut Peer) {
        self.unsubacks.clear();
        let id = subscriber.next_id();
        if let Some(packet) = unsubscribe(subscriber.version, id, std::slice::from_ref(&self.topic)) {
            subscriber.send(packet);
        }
        let due = Instant::now() + PACE;
        self.until(due, |check| check.unsubacks.contains(&id) || check.ended.is_some())
            .await;
    }
}

/// The restart and the publisher that a message names.
fn read(payload: &[u8]) -> Option<(u32, usize)> {
    let (restart, number) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some((restart.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_listeners_are_read_and_written() {
        for (text, written) in [
            ("mqtt://10.0.0.5", "mqtt://10.0.0.5:1883"),
            ("mqtts://broker.example:18883/", "mqtts://broker.example:18883"),
            ("ws://[::1]:8000", "ws://[::1]:8000/mqtt"),
            ("WSS://broker.example/path?a=b", "wss://broker.example:8084/path?a=b"),
        ] {
            let url: FrontUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), written);
            assert_eq!(written.parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_no_url_of_a_listener_is_refused_with_an_example() {
        for text in [
            "10.0.0.5:1883",
            "http://a",
            "mqtt://",
            "mqtt://a:b",
            "mqtt://a:65536",
            "mqtt://[::1",
            "mqtt://a/b",
            "mqtt://u@h",
        ] {
            let error = text.parse::<FrontUrl>().expect_err(text);
            assert!(
                error.ends_with("write it like mqtt://10.0.0.5:1883, or with mqtts, ws or wss"),
                "{error}"
            );
        }
    }
}
