//! Takes a routed client to a node that accepts it: dials a node, replays the CONNECT, reads the CONNACK, and tries the
//! next node if that may help.
//!
//! [`Attempts`] decides what comes next; this file does the I/O.

mod attempts;
mod budget;
mod client;
mod exchange;
mod failures;
mod pace;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use crate::base::clock::{Clock, Seconds};
use crate::base::log::Throttled;
use crate::base::rate_table::RateTable;
use crate::cluster::{Choice, Clusters, ConnectionPermit, Decision, Endpoint, EndpointKind, Failure, NodeId, Witness};
use crate::identity::Identity;
use crate::mqtt::{Connack, keep_alive, refusal};
use crate::net::dial::{Dialed, Dialer};
use crate::net::held::source_of;
use crate::net::node::{NodeError, NodeStream};
use crate::net::reports::Reports;
use crate::net::socket::Socket;
use crate::net::websocket::UpgradeRequest;
use crate::net::websocket::frames::{self, NORMAL_CLOSURE};
use crate::path::counters::{Counters, Fault, NodeCounters, Retry};
use crate::path::ended::Ended;
use crate::path::opening::{Framing, Opening, Passing, Unsent};
use crate::path::sides::{Side, Sides};
use crate::proxy_protocol::{self, Source};

pub use attempts::{Attempts, Next, Outcome, RetryAt};
pub use budget::Budget;
use client::PendingClient;
use exchange::{Answer, Answered, exchange};
use failures::Warning;
use pace::Turn;

/// Retries per second, over all workers, that need no accepted CONNECT.
const FREE_RETRIES_PER_SECOND: u64 = 10;

/// How long a client whose id is locked in the cluster waits before it is taken to the same node again, in milliseconds.
const BUSY_WAIT_MS: RangeInclusive<u64> = 200..=500;

/// How long nodes have to answer, and what the client gets if none accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From the whole CONNECT sent to the CONNACK, per node: as long once more, if no other node is known to be faster.
    pub timeout: Duration,
    /// From accept to the accepting CONNACK, over all nodes.
    pub deadline: Duration,
    /// What the client gets when no node accepted it.
    pub refuse: Refuse,
    /// How often a client id may connect from one source in a minute before its CONNECTs are held; `None` means no limit.
    pub connects_per_id_per_minute: Option<u32>,
}

/// What the client gets when no node accepted it, whether nodes refused it, did not answer, or could not be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// A close, after which every client connects again.
    #[default]
    Close,
    /// The last CONNACK with which a node refused it. Without one, a CONNACK of our own ([`refusal`]) if no node could be reached or
    /// answered in time, and a close if one closed the connection, which says that the CONNECT is malformed. Some clients do not
    /// connect again after a CONNACK.
    Connack,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(20),
            refuse: Refuse::default(),
            connects_per_id_per_minute: None,
        }
    }
}

/// What is known about a client besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientInfo<'a> {
    /// When it was accepted.
    pub accepted: Instant,
    /// Its true address.
    pub address: SocketAddr,
    /// Its identity from TLS, or from the PROXY header of an upstream proxy.
    pub identity: Option<&'a Identity>,
}

impl ClientInfo<'_> {
    fn source(&self) -> IpAddr {
        source_of(self.address.ip())
    }

    /// This client as a witness of a node's failure.
    fn witness(&self, client_id: Option<&[u8]>) -> Witness {
        let client_id = client_id.filter(|id| !id.is_empty()).map(|id| {
            let mut hasher = DefaultHasher::new();
            id.hash(&mut hasher);
            hasher.finish()
        });
        Witness {
            client_id,
            source: self.source(),
        }
    }
}

/// What a greeting did, whether or not a node accepted the client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GreetReport {
    /// The node that was tried last, or waited for, and why.
    pub tried: Option<(NodeId, Decision)>,
    /// How long the client waited for its turn at nodes.
    pub pace: Duration,
    /// Replays to another node, including one that a limit prevented.
    pub retries: u8,
    /// Connecting to the node that accepted the client; zero if none did.
    pub dial: Duration,
    /// From the CONNECT sent to the CONNACK read, by the node that accepted the client; zero if none did.
    pub greet: Duration,
    /// The code of the last CONNACK that was read.
    pub code: Option<u8>,
}

/// A client and the node that accepted it.
#[derive(Debug)]
pub struct Greeted {
    /// Both sockets, and what was read from them. Everything read from the node is still to be sent to the client.
    pub sides: Sides<Socket>,
    /// Which node, and why.
    pub choice: Choice,
    /// The connection counted on that node.
    pub permit: ConnectionPermit,
    /// Keep Alive as the node has granted it, in seconds; 0 if there is none, or if it is not known.
    pub keep_alive: u16,
    /// The node's CONNACK, if it could be read.
    pub connack: Option<Connack>,
    /// Another node refused the client before, for a reason that may last.
    pub refused_elsewhere: bool,
}

impl Greeted {
    /// Whether the client is on another node than its home for a reason that may last.
    pub fn is_exception(&self) -> bool {
        self.refused_elsewhere || matches!(self.choice.decision, Decision::Placement | Decision::Full)
    }
}

/// Greets clients for one worker.
#[derive(Debug)]
pub(crate) struct Greeter {
    settings: Settings,
    dialer: Dialer,
    reports: Reports,
    clusters: Arc<Clusters>,
    budget: RefCell<Budget>,
    warnings: RefCell<HashMap<(NodeId, EndpointKind, Warning), Throttled>>,
    counters: Arc<Counters>,
    connects: Arc<RateTable>,
    /// The clients that connect too often, by a hash, and when that was logged.
    told: RefCell<HashMap<u64, Seconds>>,
}

/// A node that has answered with something to relay.
struct Accepted {
    node: Socket,
    framing: Framing,
    /// How many of the client's bytes were sent to the node.
    sent: usize,
    /// Everything that the node has sent.
    received: Vec<u8>,
    connack: Option<Connack>,
    /// The node has answered with MQTT.
    is_mqtt: bool,
    node_ended: bool,
    dial: Duration,
    greet: Duration,
}

/// Why a node did not accept a client.
enum Failed {
    /// The attempt failed; another one may succeed.
    Attempt(Outcome),
    /// The same: the node sent a CONNACK with this code.
    Refused(u8, Outcome),
    /// The client's connection ended meanwhile.
    Connection(Ended),
}

impl From<Outcome> for Failed {
    fn from(outcome: Outcome) -> Self {
        Self::Attempt(outcome)
    }
}

impl From<Ended> for Failed {
    fn from(ended: Ended) -> Self {
        Self::Connection(ended)
    }
}

impl Greeter {
    /// A greeter for one of `workers` workers.
    pub(crate) fn new(
        settings: Settings,
        dialer: Dialer,
        reports: Reports,
        clusters: Arc<Clusters>,
        counters: Arc<Counters>,
        connects: Arc<RateTable>,
        workers: usize,
    ) -> Self {
        let free = FREE_RETRIES_PER_SECOND.div_ceil(workers.max(1) as u64);
        Self {
            settings,
            dialer,
            reports,
            clusters,
            budget: RefCell::new(Budget::new(free)),
            warnings: RefCell::default(),
            counters,
            connects,
            told: RefCell::default(),
        }
    }

    /// Tries the nodes of `route` in order, until one accepts the client or refuses it for a reason that no other node
    /// would change.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub(crate) async fn greet(
        &self,
        opening: Opening,
        mut route: impl Iterator<Item = Choice>,
        info: ClientInfo<'_>,
        clock: &Clock,
    ) -> (GreetReport, Result<Greeted, Ended>) {
        let mut client = PendingClient::new(opening);
        let mut attempts = Attempts::new(info.accepted + self.settings.deadline);
        let mut report = GreetReport::default();
        if let Some(times) = self.settings.connects_per_id_per_minute {
            let came = Instant::now();
            let held = self.hold_back(&mut client, times, info, clock.now()).await;
            report.pace += came.elapsed();
            if let Err(ended) = held {
                Box::pin(client.close(ended)).await;
                return (report, Err(ended));
            }
        }
        let mut next = route.next();
        while let Some(choice) = next {
            let Some(permit) = choice.try_permit() else {
                let decided = attempts.note(Outcome::Full, Instant::now(), || false);
                next = self.follow(decided, choice, &mut route).await;
                continue;
            };
            let before = report.tried.replace((choice.id, choice.decision));
            let outcome = match self
                .attempt(&mut client, &choice, info, clock, attempts.deadline(), &mut report.pace)
                .await
            {
                Err(Failed::Attempt(Outcome::NoTurn)) => {
                    report.tried = before;
                    Outcome::NoTurn
                }
                Ok(accepted) => {
                    self.note_accepted(&choice, &accepted, info, clock.now());
                    (report.dial, report.greet) = (accepted.dial, accepted.greet);
                    report.code = accepted.connack.as_ref().map(|connack| connack.code);
                    let refused_elsewhere = attempts.was_refused();
                    let greeted = accepted.into_greeted(client, choice, permit, refused_elsewhere);
                    return (report, Ok(greeted));
                }
                Err(Failed::Attempt(outcome)) => outcome,
                Err(Failed::Refused(code, outcome)) => {
                    report.code = Some(code);
                    outcome
                }
                Err(Failed::Connection(ended)) => {
                    Box::pin(client.close(ended)).await;
                    return (report, Err(ended));
                }
            };
            let take = || !client.is_streamed() && self.budget.borrow_mut().take(clock.now().0, info.source());
            let decided = attempts.note(outcome, Instant::now(), take);
            report.retries = attempts.retries();
            next = self.follow(decided, choice, &mut route).await;
        }
        let ended = attempts.ended();
        Box::pin(self.refuse(client, attempts)).await;
        (report, Err(ended))
    }

    /// Takes a client whose TLS ends at the node to the first node of `route` that can be reached. The node's answer is
    /// not read.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub(crate) async fn pass_through(
        &self,
        passing: Passing,
        mut route: impl Iterator<Item = Choice>,
        info: ClientInfo<'_>,
        clock: &Clock,
    ) -> (GreetReport, Result<Greeted, Ended>) {
        let Passing { client, received, .. } = passing;
        let mut attempts = Attempts::new(info.accepted + self.settings.deadline);
        let mut report = GreetReport::default();
        let mut next = route.next();
        while let Some(choice) = next {
            let Some(permit) = choice.try_permit() else {
                let decided = attempts.note(Outcome::Full, Instant::now(), || false);
                next = self.follow(decided, choice, &mut route).await;
                continue;
            };
            let came = Instant::now();
            // What it sends meanwhile is not read, so neither is its end.
            let turn = self
                .await_turn(&choice, attempts.deadline(), std::future::pending())
                .await;
            let started = Instant::now();
            report.pace += started - came;
            if turn == Ok(Turn::Never) {
                let decided = attempts.note(Outcome::NoTurn, started, || false);
                next = self.follow(decided, choice, &mut route).await;
                continue;
            }
            report.tried = Some((choice.id, choice.decision));
            let header = header(&choice.endpoint, &client, info);
            let dial = self.dialer.dial(&choice.endpoint, &header, &received, None);
            let outcome = match tokio::time::timeout_at(attempts.deadline(), dial).await {
                Ok(Ok(dialed)) => {
                    self.reports.answered(&choice);
                    report.dial = started.elapsed();
                    let unsent = received[dialed.sent..].to_vec();
                    let greeted = Greeted {
                        sides: Sides {
                            client: Side::new(client, unsent, received.len() as u64, false),
                            node: Side::new(dialed.socket, Vec::new(), 0, false),
                            frames: None,
                        },
                        choice,
                        permit,
                        keep_alive: 0,
                        connack: None,
                        refused_elsewhere: false,
                    };
                    return (report, Ok(greeted));
                }
                Ok(Err(error)) => match self.note_failed(error.into(), &choice, info.witness(None)) {
                    Ok(outcome) => outcome,
                    Err(ended) => return (report, Err(ended)),
                },
                Err(_elapsed) => Outcome::DeadlinePassed,
            };
            let take = || self.budget.borrow_mut().take(clock.now().0, info.source());
            let decided = attempts.note(outcome, Instant::now(), take);
            next = self.follow(decided, choice, &mut route).await;
        }
        (report, Err(attempts.ended()))
    }

    /// Does what was decided after an attempt at `choice`; returns the choice to try next.
    async fn follow(&self, next: Next, choice: Choice, route: &mut impl Iterator<Item = Choice>) -> Option<Choice> {
        match next {
            Next::GiveUp => None,
            // Nothing was sent, so this is a retry only if there is another node.
            Next::OtherNode(reason @ (Retry::Dial | Retry::Pace | Retry::Full)) => {
                let next = route.next();
                let count = next.is_some().into();
                let counted = |node: &NodeCounters| node.retries(reason).add(count);
                self.counters.of_node(choice.id, counted);
                next
            }
            Next::OtherNode(reason) => {
                self.counters.of_node(choice.id, |node| node.retries(reason).add(1));
                route.next()
            }
            Next::SameNode => {
                self.counters
                    .of_node(choice.id, |node| node.retries(Retry::Busy).add(1));
                tokio::time::sleep(Duration::from_millis(fastrand::u64(BUSY_WAIT_MS))).await;
                Some(choice)
            }
        }
    }

    /// Waits for the client's turn at one node, dials it and asks it to accept the client. The wait is added to `paced`.
    async fn attempt(
        &self,
        client: &mut PendingClient,
        choice: &Choice,
        info: ClientInfo<'_>,
        clock: &Clock,
        due: Instant,
        paced: &mut Duration,
    ) -> Result<Accepted, Failed> {
        if choice.connect_rate.is_some() {
            let came = Instant::now();
            let turn = self.await_turn(choice, due, client.until_left()).await;
            *paced += came.elapsed();
            if turn? == Turn::Never {
                return Err(Outcome::NoTurn.into());
            }
        }
        let started = Instant::now();
        let witness = info.witness(Some(client.id()));
        let node = self.dial(client, choice, witness, info, due).await?;
        let dialed = Instant::now();
        let framing = node.framing;
        let Answered {
            answer,
            node,
            sent,
            received,
        } = exchange(client, node, self.settings.timeout, due, |has_all| {
            // What the node has not received it cannot answer, and why it does not read may be the client's doing.
            let failure = match has_all {
                true => Failure::Of(witness),
                false => Failure::Suspected,
            };
            self.reports.failed(choice, failure);
            self.count(choice, Fault::Late);
            self.has_faster(choice, clock.now())
        })
        .await?;
        let failed = match answer {
            Answer::Relay {
                connack,
                node_ended,
                is_mqtt,
            } => {
                return Ok(Accepted {
                    is_mqtt,
                    node,
                    framing,
                    sent,
                    received: received.into_bytes(),
                    connack,
                    node_ended,
                    dial: dialed - started,
                    greet: dialed.elapsed(),
                });
            }
            Answer::Refused { code, retry } => {
                self.reports.answered(choice);
                self.counters.of_node(choice.id, |node| node.connacks(code).add(1));
                let connack = received.into_mqtt();
                Failed::Refused(code, Outcome::Refused { retry, connack })
            }
            answer @ (Answer::SilentClose | Answer::NotMqtt) => {
                self.reports.failed(choice, Failure::Of(witness));
                self.count(
                    choice,
                    match answer {
                        Answer::NotMqtt => Fault::NotMqtt,
                        _ => Fault::Silent,
                    },
                );
                Outcome::SilentClose.into()
            }
            // Reported when it was.
            Answer::TimedOut => Outcome::TimedOut.into(),
            Answer::DeadlinePassed => Outcome::DeadlinePassed.into(),
        };
        node.send_close_notify();
        // Nothing that was sent to it matters any more, and a reset keeps no source port.
        node.reset_on_close();
        Err(failed)
    }

    /// Connects to the node, with the first of the client's bytes on their way.
    async fn dial(
        &self,
        client: &mut PendingClient,
        choice: &Choice,
        witness: Witness,
        info: ClientInfo<'_>,
        due: Instant,
    ) -> Result<NodeStream, Failed> {
        let endpoint = &choice.endpoint;
        let header = header(endpoint, &client.socket, info);
        let dial = async {
            match (&client.upgrade, choice.kind) {
                // If both sides use frames, they are relayed unchanged.
                (Some(upgrade), EndpointKind::Ws) => {
                    // TLS ends here, or at an upstream proxy.
                    let is_secured = info.identity.is_some_and(|identity| identity.tls.is_some());
                    let path = endpoint.path.as_deref();
                    let request = UpgradeRequest::for_client(path, upgrade, info.address, is_secured);
                    // Boxed, to keep the set-up future of a client without WebSocket small.
                    let dial = Box::pin(self.dial_websocket(endpoint, &header, &request));
                    // The client may close meanwhile, or send more.
                    tokio::select! {
                        biased;
                        dialed = dial => Ok(dialed),
                        ended = Box::pin(client.until_ended()) => Err(ended),
                    }
                }
                _ => {
                    let bytes = client.replay.bytes_for(Framing::Raw);
                    let dialed = self.dialer.dial(endpoint, &header, bytes, None).await;
                    Ok(dialed.map(Dialed::raw).map_err(NodeError::from))
                }
            }
        };
        match tokio::time::timeout_at(due, dial).await {
            Ok(Ok(Ok(node))) => Ok(node),
            Ok(Ok(Err(error))) => Err(self.note_failed(error, choice, witness)?.into()),
            Ok(Err(ended)) => Err(ended.into()),
            // The client's deadline has passed, which is not the node's fault.
            Err(_elapsed) => Err(Outcome::DeadlinePassed.into()),
        }
    }

    async fn dial_websocket(
        &self,
        endpoint: &Endpoint,
        header: &[u8],
        request: &UpgradeRequest,
    ) -> Result<NodeStream, NodeError> {
        let dialed = self.dialer.dial(endpoint, header, &request.bytes, None).await?;
        dialed.upgrade(request, Instant::now() + self.settings.timeout).await
    }

    /// Whether another node than `choice` is known to answer within the time that this one had.
    fn has_faster(&self, choice: &Choice, now: Seconds) -> bool {
        let cluster = self.clusters.current();
        cluster.has_faster(choice.kind, choice.id, self.settings.timeout, now)
    }

    /// Counts the client as accepted, and tells control that the node has answered, if it has.
    fn note_accepted(&self, choice: &Choice, accepted: &Accepted, info: ClientInfo<'_>, second: Seconds) {
        if accepted.is_mqtt {
            self.reports.answered(choice);
        }
        let Some(connack) = &accepted.connack else {
            return;
        };
        self.counters
            .of_node(choice.id, |node| node.connacks(connack.code).add(1));
        if connack.code == 0 {
            choice.endpoint.passive.pace.note(accepted.greet, second);
            self.budget.borrow_mut().accepted(second.0, info.source());
        }
    }

    /// Closes the connection of a client that no node accepted, with a CONNACK and a close frame where they are due.
    ///
    /// A node that closed without a CONNACK has most likely judged the CONNECT to be malformed, which must not be answered
    /// (MQTT-3.1.4-1), and is no reason to try again.
    async fn refuse(&self, mut client: PendingClient, attempts: Attempts) {
        let was_dropped = attempts.was_dropped();
        let mut bytes = match (self.settings.refuse, attempts.last_connack()) {
            (Refuse::Close, _) => Vec::new(),
            (Refuse::Connack, Some(connack)) => connack,
            (Refuse::Connack, None) if was_dropped => Vec::new(),
            (Refuse::Connack, None) => refusal(client.connect.version()).to_vec(),
        };
        if client.replay.framing() == Framing::WebSocket {
            if !bytes.is_empty() {
                bytes = frames::binary(&bytes);
            }
            let code = if was_dropped { PROTOCOL_ERROR } else { TRY_AGAIN_LATER };
            bytes.extend(frames::close(code));
            bytes = client.replay.closing_bytes(&bytes);
        }
        match &bytes[..] {
            [] => client.socket.send_close_notify(),
            bytes => client.socket.close_after(bytes).await,
        }
    }
}

impl Accepted {
    /// The two connections as the relay takes them over.
    fn into_greeted(
        self,
        client: PendingClient,
        choice: Choice,
        permit: ConnectionPermit,
        refused_elsewhere: bool,
    ) -> Greeted {
        let received = self.received;
        let (from_client, from_node) = (client.replay.received_bytes(), received.len() as u64);
        let Unsent {
            to_node,
            mut to_client,
            frames,
        } = client.replay.into_unsent(self.framing, self.sent);
        if frames.is_some() && !received.is_empty() {
            to_client.extend(frames::binary(&received));
        } else {
            to_client.extend(received);
        }
        if frames.is_some() && self.node_ended {
            to_client.extend(frames::close(NORMAL_CLOSURE));
        }
        Greeted {
            keep_alive: keep_alive(&client.connect, self.connack.as_ref()),
            sides: Sides {
                client: Side::new(client.socket, to_node, from_client, client.fin_received),
                node: Side::new(self.node, to_client, from_node, self.node_ended),
                frames,
            },
            choice,
            permit,
            connack: self.connack,
            refused_elsewhere,
        }
    }
}

/// The PROXY header that an endpoint expects for this client; empty if it expects none.
fn header(endpoint: &Endpoint, client: &Socket, info: ClientInfo<'_>) -> Vec<u8> {
    let Some(version) = endpoint.proxy_protocol else {
        return Vec::new();
    };
    // A connection that was reset meanwhile has no addresses: the source is then unknown.
    let local = SockRef::from(client).local_addr().ok();
    let source = local.and_then(|local| local.as_socket()).map(|local| Source {
        client: info.address,
        local,
    });
    proxy_protocol::write(version, source, info.identity)
}

/// A WebSocket close code: the client has violated the protocol (RFC 6455, 7.4.1).
const PROTOCOL_ERROR: u16 = 1002;

/// "Try again later" as a WebSocket close code (from the registry that RFC 6455, 7.4.2 set up).
const TRY_AGAIN_LATER: u16 = 1013;
