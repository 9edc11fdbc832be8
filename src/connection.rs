//! One connection, said in order: accepted, opened, peeked, routed, dialed, greeted, relayed, ended.

use std::cell::RefCell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::accept::{Accepted, Admitted, Listener, Population};
use crate::clock::{Clock, Seconds};
use crate::cluster::{Clusters, NodeId};
use crate::dial;
use crate::ended::Ended;
use crate::greet::{Greeted, Greeter};
use crate::log::{self, Shown};
use crate::mqtt::Version;
use crate::opening::Opening;
use crate::peek::Peek;
use crate::record::{self, Connected, ListenerId, PlacementKey, Record, Steps};
use crate::relay::{self, Bytes, Finished, Outcome, Relayed, RowId, Table};
use crate::route::{self, Key, Placements, Route};
use crate::socket::Socket;

/// How long a reset waits for what was sent before it.
const RESET_WAIT_MAX: Duration = Duration::from_secs(1);

/// When a reset that waits looks again for the first time; each time after that it waits twice as long. A peer may delay
/// its last acknowledgement by 40 ms.
const RESET_LOOK_FIRST: Duration = Duration::from_millis(5);

/// What all connections of one worker share.
#[derive(Debug)]
pub struct Path {
    /// By [`ListenerId`].
    pub listeners: Vec<(Listener, Arc<Population>)>,
    /// Reads CONNECTs.
    pub peek: Peek,
    /// The newest snapshot.
    pub clusters: Arc<Clusters>,
    /// What ties a client to a node.
    pub key: Key,
    /// The remembered exceptions.
    pub placements: Arc<Placements>,
    /// Takes clients to nodes.
    pub greeter: Greeter,
    /// How sockets to nodes are watched.
    pub dialing: dial::Settings,
    /// How bytes are moved.
    pub relaying: relay::Settings,
    /// The time, to the second.
    pub clock: Clock,
    /// What is relayed.
    pub table: RefCell<Table>,
    /// Which lines a connection writes.
    pub log: log::Connections,
}

/// A connection on its way to a relay. However its set-up ends, a panic included, it is reported once.
struct SettingUp {
    path: Rc<Path>,
    record: Option<Box<Record>>,
}

impl Path {
    /// Serves one client from accept to the beginning of its relay, and leaves the relay to a task of its own, so that
    /// nothing of the set-up lives on.
    pub async fn serve(self: Rc<Self>, accepted: Accepted, listener: ListenerId, number: u64) {
        let mut setting_up = SettingUp::new(&self, &accepted, listener, number);
        let Some(record) = setting_up.record.as_mut() else {
            return;
        };
        match self.run(accepted, record).await {
            Ok(set_up) => {
                if let Some(record) = setting_up.record.take() {
                    self.adopt(set_up, record);
                }
            }
            Err(ended) => setting_up.end(ended),
        }
    }

    /// `?` means "it ended here".
    async fn run(&self, accepted: Accepted, record: &mut Record) -> Result<SetUp, Ended> {
        let (listener, population) = &self.listeners[usize::from(record.listener.0)];
        let admitted = listener.admit(accepted.client.ip(), population)?;
        let client = Socket::new(accepted.socket).map_err(|_| Ended::DescriptorsExhausted)?;
        let opening = self.peek.opening(client, accepted.at).await?;
        let affinity = self.note_connect(&opening, record);
        let route = self.route(&affinity);
        let home = route.home().map(|node| node.id);
        let greeted = self
            .greeter
            .through(opening, route, self.clock.now(), record)
            .await?;
        self.remember(&affinity, home, &greeted, record);
        Ok(SetUp { greeted, admitted })
    }

    /// Keeps what the connection's record needs of the CONNECT; the affinity key.
    fn note_connect(&self, opening: &Opening, record: &mut Record) -> Affinity {
        let Opening { connect, bytes, .. } = opening;
        let client_id = connect.client_id(bytes);
        let key = match self.key {
            Key::ClientId => client_id.to_vec(),
            Key::Username => match connect.username(bytes) {
                None | Some([]) => client_id.to_vec(),
                Some(username) => username.to_vec(),
            },
            Key::ClientAddress => match record.client.ip() {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            },
        };
        let placement = PlacementKey::of(&key);
        record.steps.peek = Steps::micros(record.accepted.elapsed());
        record.connect = Some(Connected {
            client_id: record::kept(client_id),
            version: connect.version(),
            placement,
            session_expiry: session_expiry(
                connect.version(),
                connect.clean_start(),
                connect.session_expiry(),
            ),
        });
        let placed = placement
            .hash()
            .and_then(|hash| self.placements.find(hash, Instant::now()));
        Affinity { key, placed }
    }

    fn route(&self, affinity: &Affinity) -> Route {
        let cluster = self.clusters.current();
        if affinity.key.is_empty() {
            return route::route_anonymous(cluster, [fastrand::u64(..), fastrand::u64(..)]);
        }
        route::route(cluster, &affinity.key, affinity.placed)
    }

    /// Notes what the CONNACK said, and remembers only what the ring would not say again.
    fn remember(
        &self,
        affinity: &Affinity,
        home: Option<NodeId>,
        greeted: &Greeted,
        record: &mut Record,
    ) {
        let (Some(connack), Some(connect)) = (&greeted.connack, &mut record.connect) else {
            return;
        };
        if connack.code != 0 {
            return;
        }
        if let Some(expiry) = connack.session_expiry {
            connect.session_expiry = expires_after(expiry);
        }
        let mut is_exception = greeted.is_exception();
        let mut home = home;
        if let (true, Some(assigned)) = (affinity.key.is_empty(), &connack.assigned_client_id) {
            // The client may come back with the id that it was given, which belongs to some other node by the ring.
            connect.client_id = record::kept(assigned);
            connect.placement = PlacementKey::of(assigned);
            home = route::route(self.clusters.current(), assigned, None)
                .home()
                .map(|node| node.id);
            is_exception = true;
        }
        let Some(hash) = connect.placement.hash() else {
            return;
        };
        let node = greeted.choice.id;
        if is_exception && home != Some(node) {
            self.placements.remember(hash, node, record.number);
        } else if affinity.placed.is_some() {
            // The session has moved with the client: what was remembered is no longer so.
            self.placements.forget(hash);
        }
    }

    /// Set-up ends here; the worker's table owns the relay, and a small future takes turns at it.
    fn adopt(self: Rc<Self>, set_up: SetUp, record: Box<Record>) {
        let SetUp { greeted, admitted } = set_up;
        let Greeted {
            client,
            node,
            choice,
            seat,
            to_node,
            to_client,
            from_client,
            client_ended,
            node_ended,
            connack,
            keep_alive,
            ..
        } = greeted;
        let keep_alive = connack
            .and_then(|connack| connack.server_keep_alive)
            .unwrap_or(keep_alive);
        if self.log == log::Connections::Both {
            self.say(&record, None, Bytes::default());
        }
        let bytes = Bytes {
            from_client_copied: from_client,
            from_node_copied: to_client.len() as u64,
            ..Bytes::default()
        };
        let idle_limit = idle_limit(keep_alive, &self.relaying);
        seat.keep();
        admitted.keep();
        self.relay(Relayed {
            client,
            node,
            to_node,
            to_client,
            bytes,
            client_ended,
            node_ended,
            idle_limit,
            node_id: choice.id,
            record,
        });
    }

    /// Goes on with a relay that another worker has detached.
    pub fn resume(self: Rc<Self>, relayed: Relayed<OwnedFd>) {
        match relayed.register() {
            Ok(relayed) => self.relay(relayed),
            Err(record) => self.leave(Ended::DescriptorsExhausted, &record, Bytes::default()),
        }
    }

    fn relay(self: Rc<Self>, relayed: Relayed<Socket>) {
        let id = self.table.borrow_mut().adopt(relayed, self.clock.now());
        tokio::task::spawn_local(Relay { path: self, id });
    }

    /// A relay has ended.
    fn finished(&self, finished: Finished) {
        let Finished {
            cause,
            record,
            bytes,
            to_reset,
        } = finished;
        if let Some(socket) = to_reset {
            tokio::task::spawn_local(reset_once_acknowledged(socket));
        }
        self.leave(cause, &record, bytes);
    }

    /// Takes a connection that was relayed off every account, and says so.
    fn leave(&self, cause: Ended, record: &Record, bytes: Bytes) {
        if let Some(known) = record
            .node
            .and_then(|id| self.clusters.current().known(id).cloned())
        {
            known.live.leave();
        }
        if let Some((_, population)) = self.listeners.get(usize::from(record.listener.0)) {
            population.leave();
        }
        if let Some(connect) = &record.connect
            && let Some(hash) = connect.placement.hash()
        {
            self.placements
                .ended(hash, record.number, connect.session_expiry, Instant::now());
        }
        self.ended(cause, record, bytes);
    }

    /// The one place where connections end.
    fn ended(&self, cause: Ended, record: &Record, bytes: Bytes) {
        if self.log != log::Connections::None {
            self.say(record, Some(cause), bytes);
        }
    }

    /// One line on a connection: at its end with the cause, at its relay's beginning without.
    fn say(&self, record: &Record, cause: Option<Ended>, bytes: Bytes) {
        let listener = self
            .listeners
            .get(usize::from(record.listener.0))
            .map_or("-", |(listener, _)| listener.name.as_str());
        let cluster = self.clusters.current();
        let node = record
            .node
            .and_then(|id| cluster.known(id))
            .map_or("-", |known| &*known.name);
        let connect = record.connect.as_ref();
        let version = connect.map_or("-", |connect| version_name(connect.version));
        let client_id = Shown(connect.map_or(&[], |connect| &*connect.client_id));
        let client = record.client;
        let route = record.decision.map_or("-", |decision| decision.name());
        let Steps { peek, dial, greet } = record.steps;
        match cause {
            None => tracing::info!(
                target: "remora::connection",
                %client, listener, %client_id, version, node, route, retries = record.retries,
                peek_us = peek, dial_us = dial, greet_us = greet,
                "connection relayed"
            ),
            Some(cause) => tracing::info!(
                target: "remora::connection",
                cause = cause.name(),
                %client, listener, %client_id, version, node, route, retries = record.retries,
                from_client = bytes.from_client_copied + bytes.from_client_spliced,
                from_node = bytes.from_node_copied + bytes.from_node_spliced,
                peek_us = peek, dial_us = dial, greet_us = greet,
                seconds = record.accepted.elapsed().as_secs_f32(),
                "connection ended"
            ),
        }
    }
}

/// A client's affinity key, empty for an anonymous one, and the node that is remembered for it.
struct Affinity {
    key: Vec<u8>,
    placed: Option<NodeId>,
}

/// A connection whose set-up is over.
struct SetUp {
    greeted: Greeted,
    admitted: Admitted,
}

impl SettingUp {
    fn new(path: &Rc<Path>, accepted: &Accepted, listener: ListenerId, number: u64) -> Self {
        Self {
            path: Rc::clone(path),
            record: Some(Box::new(Record {
                number,
                listener,
                client: accepted.client,
                accepted: accepted.at,
                connect: None,
                decision: None,
                node: None,
                retries: 0,
                steps: Steps::default(),
            })),
        }
    }

    fn end(&mut self, cause: Ended) {
        if let Some(record) = self.record.take() {
            self.path.ended(cause, &record, Bytes::default());
        }
    }
}

impl Drop for SettingUp {
    fn drop(&mut self) {
        let cause = if std::thread::panicking() {
            Ended::Internal
        } else {
            // Only a runtime that goes down drops a set-up half-way.
            Ended::Shutdown
        };
        self.end(cause);
    }
}

/// Takes turns at one row of the table until it is gone; holds nothing else.
struct Relay {
    path: Rc<Path>,
    id: RowId,
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.path.clock.now();
        let outcome = self.path.table.borrow_mut().turn(self.id, now, cx);
        match outcome {
            Outcome::Goes => Poll::Pending,
            Outcome::Gone => Poll::Ready(()),
            Outcome::Finished(finished) => {
                self.path.finished(finished);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Gone already, unless its turn panicked or the runtime goes down with relays in the table.
        let cause = if std::thread::panicking() {
            Ended::Internal
        } else {
            Ended::Shutdown
        };
        let left = self.path.table.borrow_mut().finish(self.id, cause);
        if let Some(finished) = left {
            self.path.finished(finished);
        }
    }
}

/// Resets `socket` once its peer has everything that was sent before, so that the reset overtakes nothing.
async fn reset_once_acknowledged(socket: Socket) {
    let due = Instant::now() + RESET_WAIT_MAX;
    let mut pause = RESET_LOOK_FIRST;
    while socket.unacknowledged() > 0 && Instant::now() < due {
        tokio::time::sleep_until(due.min(Instant::now() + pause)).await;
        pause *= 2;
    }
    socket.reset_on_close();
}

/// Silence of a client that ends its connection: one and a half times Keep Alive and a slack, so that the node's own
/// limit comes first (MQTT 5, 3.1.2.10). Keep Alive 0 leaves only the ceiling, where there is one.
fn idle_limit(keep_alive: u16, settings: &relay::Settings) -> Option<Seconds> {
    let from_keep_alive = (keep_alive > 0)
        .then(|| Duration::from_millis(u64::from(keep_alive) * 1_500) + settings.idle_slack);
    let limit = match (from_keep_alive, settings.idle_max) {
        (Some(one), Some(other)) => one.min(other),
        (one, other) => one.or(other)?,
    };
    Some(Seconds::at_least(limit))
}

/// How long a session outlives its connection, by the CONNECT alone; none when it does not.
fn session_expiry(version: Version, clean_start: bool, expiry: Option<u32>) -> Option<Duration> {
    match version {
        Version::V5 => expires_after(expiry.unwrap_or(0)),
        Version::V31 | Version::V311 => (!clean_start).then_some(Duration::MAX),
        Version::Unknown(_) => None,
    }
}

/// A Session Expiry Interval (MQTT 5, 3.1.2.11.2).
fn expires_after(seconds: u32) -> Option<Duration> {
    match seconds {
        0 => None,
        u32::MAX => Some(Duration::MAX),
        seconds => Some(Duration::from_secs(seconds.into())),
    }
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
        Version::Unknown(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_limit_is_later_than_the_nodes_own() {
        let settings = relay::Settings {
            idle_slack: Duration::from_secs(35),
            ..relay::Settings::default()
        };
        assert_eq!(idle_limit(60, &settings), Some(Seconds(125)));
        assert_eq!(idle_limit(1, &settings), Some(Seconds(37)));
        assert_eq!(idle_limit(0, &settings), None);
        let capped = relay::Settings {
            idle_max: Some(Duration::from_secs(100)),
            ..settings
        };
        assert_eq!(idle_limit(60, &capped), Some(Seconds(100)));
        assert_eq!(idle_limit(0, &capped), Some(Seconds(100)));
    }

    #[test]
    fn what_a_session_outlives() {
        let ever = Some(Duration::MAX);
        let hour = Some(Duration::from_secs(3_600));
        assert_eq!(session_expiry(Version::V311, true, None), None);
        assert_eq!(session_expiry(Version::V311, false, None), ever);
        assert_eq!(session_expiry(Version::V5, false, None), None);
        assert_eq!(session_expiry(Version::V5, true, Some(3_600)), hour);
        assert_eq!(session_expiry(Version::V5, true, Some(u32::MAX)), ever);
    }
}
