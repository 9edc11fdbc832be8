//! One connection, said in order: accepted, opened, peeked, routed, dialed, greeted, relayed, ended.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use crate::accept::{
    self, Accepted, Admitted, Census, Handshakes, Listener, Opened, Opener, Population, Speaker,
    Undecided,
};
use crate::clock::{Clock, Seconds};
use crate::cluster::{Clusters, EndpointKind, NodeId, Reports};
use crate::dial::{self, Dialer};
use crate::ended::{Ended, SetUpEnded};
use crate::failpoint;
use crate::greet::{self, Greeted, Greeter};
use crate::held::Held;
use crate::identity;
use crate::log::{self, Shown};
use crate::memory::Tide;
use crate::metrics::{ListenerTally, Step, Tally, Verdict, version_name};
use crate::mqtt::{Need, Version};
use crate::opening::{Opening, Passing};
use crate::peek::{self, Peek};
use crate::record::{Connected, KeptId, ListenerId, PlacementKey, Record, Steps};
use crate::relay::{self, Bytes, Finished, Left, Outcome, Relayed, RowId, Table};
use crate::route::{self, Key, Placements, Route, Settled};
use crate::socket::{Detached, Socket};
use crate::tls::Turnstile;

/// How long a reset waits for what was sent before it.
const RESET_WAIT_MAX: Duration = Duration::from_secs(1);

/// When a reset that waits looks again for the first time; each time after that it waits twice as long. A peer may delay
/// its last acknowledgement by 40 ms.
const RESET_LOOK_FIRST: Duration = Duration::from_millis(5);

/// What all connections of one worker share.
#[derive(Debug)]
pub struct Path {
    shared: Shared,
    /// By [`ListenerId`]; a listener that was removed stays, for the connections that came in there.
    listeners: RefCell<Vec<Rc<Listening>>>,
    stations: RefCell<Rc<Stations>>,
    opener: Opener,
    /// The time, to the second.
    pub clock: Clock,
    /// What is relayed.
    pub table: RefCell<Table>,
    tide: RefCell<Tide>,
    /// What is counted here.
    pub tally: Arc<Tally>,
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Connections, counted over all workers.
    pub census: Arc<Census>,
    /// TLS handshakes under way, counted over all workers.
    pub handshakes: Arc<Handshakes>,
    /// The account of held bytes.
    pub held: Arc<Held>,
    /// The newest snapshot.
    pub clusters: Arc<Clusters>,
    /// Where control hears of nodes.
    pub reports: Reports,
    /// What ties a client to a node.
    pub key: Key,
    /// The remembered exceptions.
    pub placements: Arc<Placements>,
    /// How many workers there are.
    pub workers: usize,
}

/// What a reload may change about the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many connections there may be.
    pub limits: accept::Limits,
    /// How much of a client is read before it is routed.
    pub peek: peek::Limits,
    /// How nodes are reached.
    pub dial: dial::Settings,
    /// How a node's first answer is awaited.
    pub greet: greet::Settings,
    /// How bytes are moved.
    pub relay: relay::Settings,
    /// Which lines a connection writes.
    pub log: log::Connections,
}

/// The stations, as the newest settings have them. A connection keeps those that it began with until it is relayed.
#[derive(Debug)]
struct Stations {
    limits: accept::Limits,
    peek: Peek,
    greeter: Greeter,
    dial: dial::Settings,
    relay: relay::Settings,
    log: log::Connections,
}

/// A listener as one worker knows it.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Its settings.
    pub listener: Arc<Listener>,
    /// Its connections, over all workers.
    pub population: Arc<Population>,
    /// What this worker counts of it.
    pub tally: Arc<ListenerTally>,
}

impl Stations {
    fn new(settings: Settings, shared: &Shared, tally: &Arc<Tally>) -> Self {
        let Settings {
            limits,
            peek,
            dial,
            greet,
            relay,
            log,
        } = settings;
        let need = match shared.key {
            Key::ClientId | Key::ClientAddress | Key::CertificateCn => Need::ClientId,
            Key::Username => Need::Username,
        };
        let dialer = Dialer::new(dial.clone());
        let (reports, tally) = (shared.reports.clone(), Arc::clone(tally));
        Self {
            limits,
            peek: Peek::new(need, &peek),
            greeter: Greeter::new(greet, dialer, reports, tally, shared.workers),
            dial,
            relay,
            log,
        }
    }
}

/// A connection on its way to a relay. However its set-up ends, a panic included, it is reported once.
struct SettingUp {
    path: Rc<Path>,
    record: Option<Box<Record>>,
}

impl Path {
    /// A path with these settings and no listener yet.
    pub fn new(shared: Shared, settings: Settings, tally: Arc<Tally>) -> Self {
        let table = RefCell::new(Table::new(&settings.relay));
        let stations = Stations::new(settings, &shared, &tally);
        let opener = Opener {
            held: Arc::clone(&shared.held),
            handshakes: Arc::clone(&shared.handshakes),
            turnstile: Turnstile::default(),
        };
        Self {
            shared,
            opener,
            listeners: RefCell::default(),
            stations: RefCell::new(Rc::new(stations)),
            clock: Clock::default(),
            table,
            tide: RefCell::default(),
            tally,
        }
    }

    /// Serves the connections of set-ups that begin from now on with other settings, and relays with them at once.
    pub fn reconfigure(&self, settings: Settings) {
        self.table.borrow_mut().reconfigure(&settings.relay);
        let stations = Stations::new(settings, &self.shared, &self.tally);
        *self.stations.borrow_mut() = Rc::new(stations);
    }

    /// Knows one more listener. Ids are given out in order.
    pub fn know(&self, id: ListenerId, listening: Listening) {
        let mut listeners = self.listeners.borrow_mut();
        debug_assert_eq!(
            usize::from(id.0),
            listeners.len(),
            "ids are given out in order"
        );
        listeners.push(Rc::new(listening));
    }

    /// Lets clients in on a listener by other settings.
    pub fn relisten(&self, id: ListenerId, listener: Arc<Listener>) {
        if let Some(listening) = self.listeners.borrow_mut().get_mut(usize::from(id.0)) {
            *listening = Rc::new(Listening {
                listener,
                ..Listening::clone(listening)
            });
        }
    }

    /// Once a second: the time, what was silent for too long, and what was moved since.
    pub fn sweep(&self) {
        self.clock.tick();
        let stations = self.stations();
        let mut table = self.table.borrow_mut();
        table.sweep(self.clock.now(), |node| {
            // A connection that has just ended is not worth watching.
            let _ = stations.dial.watch(SockRef::from(node));
        });
        table.count(|record, moved| self.count_bytes(record, moved));
        self.tide.borrow_mut().at(table.len());
    }

    fn stations(&self) -> Rc<Stations> {
        Rc::clone(&self.stations.borrow())
    }

    fn listening(&self, id: ListenerId) -> Option<Rc<Listening>> {
        self.listeners
            .borrow()
            .get(usize::from(id.0))
            .map(Rc::clone)
    }

    /// Serves one client from accept to the beginning of its relay, and leaves the relay to a task of its own, so that
    /// nothing of the set-up lives on.
    pub async fn serve(self: Rc<Self>, accepted: Accepted, listener: ListenerId, number: u64) {
        let Some(listening) = self.listening(listener) else {
            debug_assert!(false, "a door opens after its listener is known");
            return;
        };
        listening.tally.accepted.add(1);
        let stations = self.stations();
        let mut setting_up = SettingUp::new(&self, &accepted, listener, number);
        let Some(record) = setting_up.record.as_mut() else {
            return;
        };
        match self.run(accepted, &listening, &stations, record).await {
            Ok(set_up) => {
                if let Some(record) = setting_up.record.take() {
                    self.adopt(set_up, record, &stations);
                }
            }
            Err(ended) => setting_up.end(ended),
        }
    }

    /// `?` means "it ended here".
    async fn run(
        &self,
        accepted: Accepted,
        listening: &Listening,
        stations: &Stations,
        record: &mut Record,
    ) -> Result<SetUp, SetUpEnded> {
        let due = stations.peek.due(accepted.at);
        let Known {
            client,
            admitted,
            undecided,
        } = self
            .admit(accepted, listening, stations, due, record)
            .await?;
        let handshakes_max = stations.limits.handshakes_max;
        let (listener, tally) = (&listening.listener, &listening.tally);
        let opened = self
            .opener
            .open(client, listener, handshakes_max, tally, due);
        let Speaker {
            client,
            leg,
            upgrade,
            identity,
            share,
        } = match opened.await? {
            Opened::Mqtt(speaker) => speaker,
            Opened::Pass(passing) => {
                drop(undecided);
                let greeted = Box::pin(self.pass(passing, stations, record)).await?;
                return Ok(SetUp { greeted, admitted });
            }
        };
        if identity.is_some() {
            record.identity = identity;
        }
        check_name(record).inspect_err(|_| client.say_end())?;
        let opening = stations
            .peek
            .opening(client, leg, upgrade, share, due)
            .await?;
        drop(undecided);
        let affinity = self.note_connect(&opening, record);
        let route = self.route(listener.kind(), &affinity);
        let home = route.home().map(|node| node.id);
        let greeted = stations
            .greeter
            .through(opening, route, self.clock.now(), record)
            .await?;
        failpoint::pass(failpoint::Place::SetUp);
        self.remember(&affinity, home, &greeted, record);
        Ok(SetUp { greeted, admitted })
    }

    /// A client whose TLS ends at the node: its address is all that ties it to one, and nothing of it is read.
    async fn pass(
        &self,
        passing: Passing,
        stations: &Stations,
        record: &mut Record,
    ) -> Result<Greeted, Ended> {
        record.steps.peek = Steps::micros(record.accepted.elapsed());
        // What a balancer before this one has said of the client's address still holds.
        let identity = record.identity.get_or_insert_default();
        identity.server_name = passing.server_name.clone().or(identity.server_name.take());
        let affinity = Affinity {
            key: address_key(record.client.ip()),
            placed: None,
        };
        let route = self.route(EndpointKind::Pass, &affinity);
        let greeted = stations.greeter.pass(passing, route, record).await?;
        self.tally.routes(greeted.choice.decision).add(1);
        self.tally
            .steps(Step::Peek)
            .observe(record.steps.peek.into());
        self.tally
            .steps(Step::Dial)
            .observe(record.steps.dial.into());
        Ok(greeted)
    }

    /// Finds out who the client is, and lets it in if it may come in. Lists and limits for each source are about clients,
    /// not about a balancer before this one that speaks for them.
    async fn admit(
        &self,
        accepted: Accepted,
        listening: &Listening,
        stations: &Stations,
        due: Instant,
        record: &mut Record,
    ) -> Result<Known, SetUpEnded> {
        let listener = &listening.listener;
        let has_header = listener.speaks_for_others(record.client.ip())?;
        if !has_header {
            listener.admit(record.client.ip())?;
        }
        let (mut admitted, undecided) = self.shared.census.enter(
            &listening.population,
            listener.connections_max,
            &stations.limits,
        )?;
        if !has_header {
            admitted.enter_source(record.client.ip(), &stations.limits)?;
        }
        let client = Socket::new(accepted.socket).map_err(|_| Ended::DescriptorsExhausted)?;
        if has_header {
            // Boxed, so that the set-up of a client that comes itself is not as large.
            let header = Box::pin(accept::take_header(&client, due, &self.shared.held));
            let header = header.await?;
            record.client = header.client.unwrap_or(record.client);
            record.identity = header.identity;
            listener.admit(record.client.ip())?;
            admitted.enter_source(record.client.ip(), &stations.limits)?;
        }
        Ok(Known {
            client,
            admitted,
            undecided,
        })
    }

    /// Keeps what the connection's record needs of the CONNECT; the affinity key.
    fn note_connect(&self, opening: &Opening, record: &mut Record) -> Affinity {
        let Opening { connect, said, .. } = opening;
        let bytes = said.mqtt();
        let client_id = connect.client_id(bytes);
        let key = match self.shared.key {
            Key::ClientId => client_id.to_vec(),
            Key::Username => match connect.username(bytes) {
                None | Some([]) => client_id.to_vec(),
                Some(username) => username.to_vec(),
            },
            Key::CertificateCn => match record.common_name() {
                None | Some("") => client_id.to_vec(),
                Some(name) => name.as_bytes().to_vec(),
            },
            Key::ClientAddress => address_key(record.client.ip()),
        };
        let placement = PlacementKey::of(&key);
        record.steps.peek = Steps::micros(record.accepted.elapsed());
        record.connect = Some(Connected {
            client_id: KeptId::of(client_id),
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
            .and_then(|hash| self.shared.placements.find(hash, Instant::now()));
        Affinity { key, placed }
    }

    fn route(&self, kind: EndpointKind, affinity: &Affinity) -> Route {
        let cluster = self.shared.clusters.current();
        if affinity.key.is_empty() {
            let draws = [fastrand::u64(..), fastrand::u64(..)];
            return route::route_anonymous(cluster, kind, draws);
        }
        route::route(cluster, kind, &affinity.key, affinity.placed)
    }

    /// Notes what the CONNACK said, and remembers only what the ring would not say again.
    fn remember(
        &self,
        affinity: &Affinity,
        home: Option<NodeId>,
        greeted: &Greeted,
        record: &mut Record,
    ) {
        let Some(connect) = &mut record.connect else {
            return;
        };
        let verdict = match &greeted.connack {
            Some(connack) if connack.code == 0 => Verdict::Accepted,
            Some(_) => Verdict::Refused,
            None => Verdict::Unread,
        };
        self.tally.connects(connect.version, verdict).add(1);
        self.tally.routes(greeted.choice.decision).add(1);
        let steps = [
            (Step::Peek, record.steps.peek),
            (Step::Dial, record.steps.dial),
            (Step::Greet, record.steps.greet),
        ];
        for (step, us) in steps {
            self.tally.steps(step).observe(us.into());
        }
        let Some(connack) = greeted.connack.as_ref().filter(|connack| connack.code == 0) else {
            return;
        };
        if let Some(expiry) = connack.session_expiry {
            connect.session_expiry = expires_after(expiry);
        }
        let assigned = connack.assigned_client_id.as_deref();
        let assigned = assigned.filter(|_| affinity.key.is_empty());
        if let Some(assigned) = assigned {
            connect.client_id = KeptId::of(assigned);
        }
        let settled = Settled {
            placement: connect.placement,
            home,
            node: greeted.choice.id,
            is_exception: greeted.is_exception(),
            assigned,
            owner: record.number,
        };
        let cluster = self.shared.clusters.current();
        connect.placement = route::settle(&self.shared.placements, &cluster, settled);
    }

    /// Set-up ends here; the worker's table owns the relay, and a small future takes turns at it.
    fn adopt(self: Rc<Self>, set_up: SetUp, record: Box<Record>, stations: &Stations) {
        let SetUp { greeted, admitted } = set_up;
        let Greeted {
            client,
            node,
            choice,
            seat,
            to_node,
            to_client,
            from_client,
            from_node,
            frames,
            client_ended,
            node_ended,
            connack,
            keep_alive,
            ..
        } = greeted;
        let keep_alive = connack
            .and_then(|connack| connack.server_keep_alive)
            .unwrap_or(keep_alive);
        if stations.log == log::Connections::Both {
            self.say(&record, None, false, Bytes::default());
        }
        let bytes = Bytes {
            from_client_copied: from_client,
            from_node_copied: from_node,
            ..Bytes::default()
        };
        let idle_limit = idle_limit(keep_alive, &stations.relay);
        seat.keep();
        admitted.keep();
        self.relay(Relayed {
            client,
            node,
            to_node,
            to_client,
            bytes,
            counted: Bytes::default(),
            frames,
            client_ended,
            node_ended,
            idle_limit,
            node_id: choice.id,
            record,
        });
    }

    /// Goes on with a relay that another worker has detached.
    pub fn resume(self: Rc<Self>, relayed: Relayed<Detached>) {
        match relayed.register() {
            Ok(relayed) => self.relay(relayed),
            Err(record) => self.leave(Ended::DescriptorsExhausted, &record, Bytes::default()),
        }
    }

    fn relay(self: Rc<Self>, relayed: Relayed<Socket>) {
        let id = self.table.borrow_mut().adopt(relayed, self.clock.now());
        tokio::task::spawn_local(Relay { path: self, id });
    }

    /// A relay has ended, and is in no table any more.
    pub fn finished(&self, finished: Finished) {
        let Finished {
            cause,
            record,
            bytes,
            uncounted,
            left,
        } = finished;
        self.count_bytes(&record, uncounted);
        if let Some(left) = left {
            tokio::task::spawn_local(leave(left));
        }
        self.leave(cause, &record, bytes);
    }

    /// Takes a connection that was relayed off every account, and says so.
    fn leave(&self, cause: Ended, record: &Record, bytes: Bytes) {
        if let Some(known) = record
            .node
            .and_then(|id| self.shared.clusters.current().known(id).cloned())
        {
            known.live.leave();
        }
        if let Some(listening) = self.listening(record.listener) {
            let client = record.client.ip();
            self.shared.census.leave(&listening.population, client);
        }
        if let Some(connect) = &record.connect
            && let Some(hash) = connect.placement.hash()
        {
            self.shared.placements.ended(
                hash,
                record.number,
                connect.session_expiry,
                Instant::now(),
            );
        }
        self.ended(cause, false, record, bytes);
    }

    /// The one place where connections end.
    fn ended(&self, cause: Ended, in_silence: bool, record: &Record, bytes: Bytes) {
        self.tally.ends(cause).add(1);
        if cause == Ended::Internal {
            self.tally.panics().add(1);
        }
        if let Some(listening) = self.listening(record.listener) {
            listening.tally.ended.add(1);
        }
        if self.stations().log != log::Connections::None {
            self.say(record, Some(cause), in_silence, bytes);
        }
    }

    fn count_bytes(&self, record: &Record, moved: Bytes) {
        let Some(listening) = self.listening(record.listener) else {
            return;
        };
        let tally = &listening.tally;
        tally.to_node_copied.add(moved.from_client_copied);
        tally.to_node_spliced.add(moved.from_client_spliced);
        tally.to_client_copied.add(moved.from_node_copied);
        tally.to_client_spliced.add(moved.from_node_spliced);
    }

    /// One line on a connection: at its end with the cause, at its relay's beginning without. Weather, where the client only
    /// looked whether somebody is here: each of a balancer's health checks does.
    fn say(&self, record: &Record, cause: Option<Ended>, in_silence: bool, bytes: Bytes) {
        if in_silence && !tracing::enabled!(target: "remora::connection", tracing::Level::DEBUG) {
            return;
        }
        let listening = self.listening(record.listener);
        let listener = listening
            .as_ref()
            .map_or("-", |listening| listening.listener.name.as_str());
        let cluster = self.shared.clusters.current();
        let node = record
            .node
            .and_then(|id| cluster.known(id))
            .map_or("-", |known| &*known.name);
        let connect = record.connect.as_ref();
        let version = connect.map_or("-", |connect| version_name(connect.version));
        let anonymous = KeptId::of(&[]);
        let client_id = connect.map_or(&anonymous, |connect| &connect.client_id);
        let client = record.client;
        // Not in the line at all for the many clients that have none.
        let shown = |name: Option<&'_ str>| name.map(|name| Shown(name.as_bytes()).to_string());
        let identity = record.identity.as_deref();
        let server_name = shown(identity.and_then(|identity| identity.server_name.as_deref()));
        let certificate_cn = shown(record.common_name());
        let names = identity.map_or(&[][..], |identity| identity.names());
        let certificate_names = (!names.is_empty()).then(|| names.join(","));
        let certificate_names = shown(certificate_names.as_deref());
        let route = record.decision.map_or("-", |decision| decision.name());
        let Steps { peek, dial, greet } = record.steps;
        // A line's level is a constant.
        macro_rules! ended {
            ($level:ident, $cause:expr) => {
                tracing::$level!(
                    target: "remora::connection",
                    cause = $cause.name(),
                    %client, listener, %client_id, version, node, route, retries = record.retries,
                    from_client = bytes.from_client_copied + bytes.from_client_spliced,
                    from_node = bytes.from_node_copied + bytes.from_node_spliced,
                    peek_us = peek, dial_us = dial, greet_us = greet,
                    seconds = log::seconds(record.accepted.elapsed()), server_name, certificate_cn,
                    certificate_names,
                    "connection ended"
                )
            };
        }
        match cause {
            None => tracing::info!(
                target: "remora::connection",
                %client, listener, %client_id, version, node, route, retries = record.retries,
                peek_us = peek, dial_us = dial, greet_us = greet, server_name, certificate_cn,
                certificate_names,
                "connection relayed"
            ),
            Some(cause) if in_silence => ended!(debug, cause),
            Some(cause) => ended!(info, cause),
        }
    }
}

/// An address as an affinity key.
fn address_key(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A client that may come in, and is counted.
struct Known {
    client: Socket,
    admitted: Admitted,
    undecided: Undecided,
}

/// Nobody whose name could forge a line or a field elsewhere goes on.
fn check_name(record: &Record) -> Result<(), Ended> {
    match record.common_name() {
        Some(name) if !identity::is_plain(name) => Err(Ended::CertificateName),
        _ => Ok(()),
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
                identity: None,
                accepted: accepted.at,
                connect: None,
                decision: None,
                node: None,
                retries: 0,
                steps: Steps::default(),
            })),
        }
    }

    fn end(&mut self, ended: SetUpEnded) {
        let SetUpEnded { cause, in_silence } = ended;
        if let Some(record) = self.record.take() {
            if let Some(connect) = &record.connect {
                let verdict = Verdict::Failed;
                self.path.tally.connects(connect.version, verdict).add(1);
            }
            self.path
                .ended(cause, in_silence, &record, Bytes::default());
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
        self.end(cause.into());
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

async fn leave(left: Left) {
    match left {
        Left::Reset(socket) => reset_once_acknowledged(socket).await,
        Left::Tell(socket, words) => socket.farewell(&words).await,
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
