//! Takes a routed client to a node that accepts it: dial, replay, read the CONNACK; the next node where that cures.

mod ask;
mod budget;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;

use crate::clock::Seconds;
use crate::cluster::{Choice, Decision, Endpoint, EndpointKind, NodeId, Reports, Seat};
use crate::dial::{DialError, Dialer};
use crate::ended::Ended;
use crate::log::{self, Seldom};
use crate::metrics::{Retry, Tally};
use crate::mqtt::{Connack, refusal};
use crate::opening::{Leg, Opening, Passing, Rest};
use crate::proxy_protocol::{self, Source};
use crate::record::{Record, Steps};
use crate::socket::Socket;
use crate::websocket::frames::{self, Frames, NORMAL_CLOSURE};
use crate::websocket::{Asking, Unwilling, upgrade_at_node};

use ask::{Answer, Asked, Caller, Cure, Dialled};
use budget::Budget;

/// Nodes that may refuse a client, after the first one did, before it is given up.
const REFUSALS_MORE: u8 = 2;

/// Retries a second that need no accepted CONNECT, over all workers.
const FREE_RETRIES_PER_SECOND: u64 = 10;

/// How long a client whose id is locked in the cluster waits before it asks the same node again, in milliseconds.
const BUSY_WAIT_MS: std::ops::RangeInclusive<u64> = 200..=500;

/// How long nodes have to answer, and what the client hears when none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From the whole CONNECT sent to the CONNACK, per node.
    pub timeout: Duration,
    /// From accept to the accepted CONNACK, over all nodes.
    pub deadline: Duration,
    /// What the client hears when every node refused.
    pub refuse: Refuse,
}

/// What the client hears when every node refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// The connection is closed; every client tries again.
    #[default]
    Close,
    /// The last node's own CONNACK, else 3 or 0x88. MQTT.js never tries again after one.
    Connack,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(12),
            refuse: Refuse::default(),
        }
    }
}

/// A client and the node that answered it.
#[derive(Debug)]
pub struct Greeted {
    /// The client's socket.
    pub client: Socket,
    /// The node's socket.
    pub node: Socket,
    /// Which node, and why.
    pub choice: Choice,
    /// The connection counted on that node.
    pub seat: Seat,
    /// Read from the client and not sent to the node yet.
    pub to_node: Vec<u8>,
    /// Read from the node: all of it is still to be sent to the client.
    pub to_client: Vec<u8>,
    /// All bytes read from the client so far.
    pub from_client: u64,
    /// All bytes read from the node so far.
    pub from_node: u64,
    /// Where the client speaks in frames and the node does not: how the client's stream of frames stands.
    pub frames: Option<Frames>,
    /// The client's FIN was read.
    pub client_ended: bool,
    /// The node's FIN was read.
    pub node_ended: bool,
    /// Keep Alive of the CONNECT, in seconds.
    pub keep_alive: u16,
    /// What the node said, where it was a CONNACK that could be read.
    pub connack: Option<Connack>,
    /// Another node refused the client before this one took it, in a way that may last.
    pub refused_elsewhere: bool,
}

/// Greets clients for one worker.
#[derive(Debug)]
pub struct Greeter {
    settings: Settings,
    dialer: Dialer,
    reports: Reports,
    budget: RefCell<Budget>,
    /// What is said of each node.
    warnings: RefCell<HashMap<(NodeId, EndpointKind, Trouble), Seldom>>,
    tally: Arc<Tally>,
}

/// What an operator is to hear of a node, though not from every client that is taken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    NoTls,
    NoUpgrade,
    SourcePorts,
    NoSocket,
}

/// What was tried so far for one client.
#[derive(Default)]
struct Tried {
    refusals: u8,
    closed_silently: bool,
    busy: bool,
    source_ports: bool,
    /// The last one could not be reached.
    unreached: bool,
    /// A node would not upgrade to a WebSocket.
    unwilling: bool,
    /// The last refusing CONNACK, as it came.
    last_connack: Option<Vec<u8>>,
}

impl Greeter {
    /// A greeter for one of `workers` workers.
    pub fn new(
        settings: Settings,
        dialer: Dialer,
        reports: Reports,
        tally: Arc<Tally>,
        workers: usize,
    ) -> Self {
        let free = FREE_RETRIES_PER_SECOND.div_ceil(workers.max(1) as u64);
        Self {
            settings,
            dialer,
            reports,
            budget: RefCell::new(Budget::new(free)),
            warnings: RefCell::default(),
            tally,
        }
    }

    /// Takes the client through `route` to the first node that accepts it, or refuses it for a reason that no other node
    /// could cure. Notes in `record` where it was tried.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn through(
        &self,
        opening: Opening,
        mut route: impl Iterator<Item = Choice>,
        now: Seconds,
        record: &mut Record,
    ) -> Result<Greeted, Ended> {
        let due = record.accepted + self.settings.deadline;
        let mut caller = Caller::new(opening);
        let mut tried = Tried::default();
        let mut again = None;
        while let Some(choice) = again.take().or_else(|| route.next()) {
            let seat = self.turn_to(&choice, record, &mut tried);
            let dialled = Instant::now();
            let node = self.dial(&mut caller, &choice, record, due, &mut tried);
            let node = match node.await {
                Ok(Some(node)) => node,
                Ok(None) => {
                    if Instant::now() >= due {
                        break;
                    }
                    tried.unreached = true;
                    continue;
                }
                Err(ended) => return Err(Box::pin(caller.end(ended)).await),
            };
            let asked = Instant::now();
            let (leg, timeout) = (node.leg, self.settings.timeout);
            let (asked_for, node) = match ask::ask(&mut caller, node, timeout, due).await {
                Ok(answered) => answered,
                Err(ended) => return Err(Box::pin(caller.end(ended)).await),
            };
            let Asked {
                answer,
                sent,
                bytes,
                opened,
            } = asked_for;
            if !matches!(answer, Answer::Pass { .. }) {
                node.say_end();
            }
            let (cure, reason) = match answer {
                Answer::Pass {
                    connack,
                    node_ended,
                } => {
                    self.accepted(&choice, connack.as_ref(), now);
                    record.steps.dial = Steps::micros(asked - dialled);
                    record.steps.greet = Steps::micros(asked.elapsed());
                    let (from_client, from_node) = (caller.said.heard(), bytes.len() as u64);
                    let Rest {
                        to_node,
                        mut to_client,
                        frames,
                    } = caller.said.into_rest(leg, sent);
                    if frames.is_some() && !bytes.is_empty() {
                        to_client.extend(framed(&bytes));
                    } else {
                        to_client.extend(bytes);
                    }
                    if frames.is_some() && node_ended {
                        to_client.extend(frames::close(&NORMAL_CLOSURE.to_be_bytes()));
                    }
                    return Ok(Greeted {
                        refused_elsewhere: tried.refusals > 0,
                        to_node,
                        client_ended: caller.ended,
                        keep_alive: caller.connect.keep_alive(),
                        client: caller.socket,
                        from_client,
                        from_node,
                        to_client,
                        frames,
                        node,
                        choice,
                        seat,
                        node_ended,
                        connack,
                    });
                }
                Answer::Refuse { code, cure } => {
                    self.reports.answered(&choice);
                    self.tally.connacks(code).add(1);
                    tried.last_connack = Some(match leg {
                        Leg::Tcp => bytes,
                        Leg::Ws => opened,
                    });
                    match cure {
                        Cure::OtherNode => (cure, Retry::Refused),
                        Cure::SameNodeLater => (cure, Retry::Busy),
                    }
                }
                Answer::OutOfTime => break,
                Answer::Silent if tried.closed_silently => break,
                Answer::Silent => {
                    tried.closed_silently = true;
                    (Cure::OtherNode, Retry::Silent)
                }
                Answer::Late => {
                    self.reports.failed(&choice);
                    (Cure::OtherNode, Retry::Late)
                }
            };
            match cure {
                Cure::SameNodeLater if tried.busy => break,
                Cure::SameNodeLater => {
                    tried.busy = true;
                    again = Some(choice);
                }
                Cure::OtherNode => {
                    tried.refusals += u8::from(!matches!(answer, Answer::Late));
                    record.retries += 1;
                    if record.retries > REFUSALS_MORE {
                        break;
                    }
                }
            }
            if !self.budget.borrow_mut().take(now.0) {
                break;
            }
            self.tally.retries(reason).add(1);
            if again.is_some() {
                let wait = Duration::from_millis(fastrand::u64(BUSY_WAIT_MS));
                tokio::time::sleep(wait).await;
            }
        }
        Box::pin(self.refuse(caller, tried)).await
    }

    /// Takes a client whose TLS ends at the node to the first node of `route` that can be reached: what it answers is
    /// between the two. Notes in `record` where it was tried.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn pass(
        &self,
        passing: Passing,
        route: impl Iterator<Item = Choice>,
        record: &mut Record,
    ) -> Result<Greeted, Ended> {
        let Passing { client, said, .. } = passing;
        let due = record.accepted + self.settings.deadline;
        let mut tried = Tried::default();
        for choice in route {
            let seat = self.turn_to(&choice, record, &mut tried);
            let dialled = Instant::now();
            let header = header(&choice.endpoint, &client, record);
            let dial = self.dialer.dial(&choice.endpoint, &header, &said);
            let Ok(dial) = tokio::time::timeout_at(due, dial).await else {
                break;
            };
            let Some((node, sent)) = self.judge_dial(dial, &choice, &mut tried)? else {
                tried.unreached = true;
                continue;
            };
            self.reports.answered(&choice);
            record.steps.dial = Steps::micros(dialled.elapsed());
            return Ok(Greeted {
                refused_elsewhere: false,
                from_client: said.len() as u64,
                to_node: said[sent..].to_vec(),
                client_ended: false,
                keep_alive: 0,
                client,
                from_node: 0,
                to_client: Vec::new(),
                frames: None,
                node,
                choice,
                seat,
                node_ended: false,
                connack: None,
            });
        }
        Err(tried.ended())
    }

    /// Notes that the client is taken to this node next.
    fn turn_to(&self, choice: &Choice, record: &mut Record, tried: &mut Tried) -> Seat {
        if std::mem::take(&mut tried.unreached) {
            self.tally.retries(Retry::Dial).add(1);
        }
        record.node = Some(choice.id);
        record.decision = Some(choice.decision);
        choice.seat()
    }

    /// The node, connected and with the first bytes on their way; none when another node must be tried, if there is time.
    async fn dial(
        &self,
        caller: &mut Caller,
        choice: &Choice,
        record: &Record,
        due: Instant,
        tried: &mut Tried,
    ) -> Result<Option<Dialled>, Ended> {
        let endpoint = &choice.endpoint;
        let dial = async {
            match (&caller.upgrade, choice.kind) {
                // In frames where both ends have them, so that they pass untouched.
                (Some(upgrade), EndpointKind::Ws) =>
                // Boxed, so that the set-up of a client without WebSocket is not as large.
                {
                    let identity = record.identity.as_deref();
                    // Here, or at a balancer before this one.
                    let is_secured = identity.is_some_and(|identity| identity.tls.is_some());
                    let path = endpoint.path.as_deref();
                    let asking = Asking::new(path, upgrade, record.client, is_secured);
                    let header = header(endpoint, &caller.socket, record);
                    let dial = Box::pin(self.dial_ws(choice, header, asking, tried));
                    // The client may go away meanwhile, or say more.
                    tokio::select! {
                        biased;
                        dialled = dial => Ok(dialled),
                        ended = Box::pin(caller.leaves()) => Err(ended),
                    }
                }
                _ => {
                    let words = caller.said.on(Leg::Tcp);
                    let header = header(endpoint, &caller.socket, record);
                    let dialled = self.dialer.dial(endpoint, &header, words).await;
                    Ok(dialled.map(|(socket, sent)| {
                        Some(Dialled {
                            socket,
                            leg: Leg::Tcp,
                            sent,
                            bytes: Vec::new(),
                        })
                    }))
                }
            }
        };
        let Ok(dialled) = tokio::time::timeout_at(due, dial).await else {
            // The client's time is over, which says nothing of the node.
            return Ok(None);
        };
        let dialled = self.judge_dial(dialled?, choice, tried)?;
        Ok(dialled.flatten())
    }

    /// What was dialled; none when another node must be tried.
    fn judge_dial<T>(
        &self,
        dialled: Result<T, DialError>,
        choice: &Choice,
        tried: &mut Tried,
    ) -> Result<Option<T>, Ended> {
        let addresses = &choice.endpoint.addresses;
        match dialled {
            Ok(dialled) => Ok(Some(dialled)),
            Err(DialError::Node(error)) => {
                // Only TLS calls bytes invalid: a certificate that is not believed, most of all, which waiting does not cure.
                let no_tls = error.kind() == ErrorKind::InvalidData;
                if no_tls {
                    let due = self.due(choice, Trouble::NoTls);
                    log::warn_seldom!(due, ?addresses, %error, "no TLS with a node");
                } else {
                    tracing::debug!(?addresses, %error, "dial failed");
                }
                self.reports.failed(choice);
                Ok(None)
            }
            Err(DialError::SourcePorts) => {
                log::warn_seldom!(
                    self.due(choice, Trouble::SourcePorts),
                    ?addresses,
                    "every source port towards the node is in use: add source addresses under [dial]"
                );
                tried.source_ports = true;
                Ok(None)
            }
            Err(DialError::Ours(error)) => {
                let due = self.due(choice, Trouble::NoSocket);
                log::warn_seldom!(due, %error, "no socket for a node");
                Err(Ended::DescriptorsExhausted)
            }
        }
    }

    /// Whether this is to be said of the node as a warning; how many were kept back before it.
    fn due(&self, choice: &Choice, trouble: Trouble) -> Option<u64> {
        let mut warnings = self.warnings.borrow_mut();
        let seldom = warnings
            .entry((choice.id, choice.kind, trouble))
            .or_default();
        seldom.due(Instant::now())
    }

    /// The node's WebSocket listener, upgraded; none when it will not, which says nothing of its health: the path, the origin
    /// and whatever else it may not like are the client's, and who answers may be a proxy whose node is dead.
    async fn dial_ws(
        &self,
        choice: &Choice,
        header: Vec<u8>,
        asking: Asking,
        tried: &mut Tried,
    ) -> Result<Option<Dialled>, DialError> {
        let ws = &choice.endpoint;
        let dial = self.dialer.dial(ws, &header, &asking.bytes);
        let (socket, sent) = dial.await?;
        let upgraded = upgrade_at_node(&socket, &asking, sent);
        match tokio::time::timeout(self.settings.timeout, upgraded).await {
            Ok(Ok(bytes)) => Ok(Some(Dialled {
                socket,
                leg: Leg::Ws,
                sent: 0,
                bytes,
            })),
            Ok(Err(Unwilling::Answered(answer))) => {
                let (due, addresses) = (self.due(choice, Trouble::NoUpgrade), &ws.addresses);
                log::warn_seldom!(
                    due,
                    ?addresses,
                    answer,
                    "node does not upgrade to a WebSocket"
                );
                tried.unwilling = true;
                Ok(None)
            }
            Ok(Err(Unwilling::Gone(Ok(())))) => {
                Err(DialError::Node(ErrorKind::UnexpectedEof.into()))
            }
            Ok(Err(Unwilling::Gone(Err(error)))) => Err(DialError::Node(error)),
            Err(elapsed) => Err(DialError::Node(elapsed.into())),
        }
    }

    /// The node has spoken: it is alive, whatever it said.
    fn accepted(&self, choice: &Choice, connack: Option<&Connack>, now: Seconds) {
        self.reports.answered(choice);
        let Some(connack) = connack else {
            return;
        };
        self.tally.connacks(connack.code).add(1);
        if connack.code == 0 {
            self.budget.borrow_mut().accepted(now.0);
        }
    }

    /// No node is left: says the last words, if there are any to say.
    async fn refuse(&self, mut caller: Caller, tried: Tried) -> Result<Greeted, Ended> {
        let ended = tried.ended();
        let in_frames = caller.said.leg() == Leg::Ws;
        let mut words = Vec::new();
        if self.settings.refuse == Refuse::Connack {
            words = tried
                .last_connack
                .unwrap_or_else(|| refusal(caller.connect.version()).to_vec());
        }
        if in_frames {
            if !words.is_empty() {
                words = framed(&words);
            }
            words.extend(frames::close(&TRY_AGAIN_LATER.to_be_bytes()));
            words = caller.said.last_words(&words);
        }
        match &words[..] {
            [] => caller.socket.say_end(),
            words => caller.socket.farewell(words).await,
        }
        Err(ended)
    }
}

/// The PROXY header that an endpoint expects of this client; empty for none.
fn header(endpoint: &Endpoint, client: &Socket, record: &Record) -> Vec<u8> {
    let Some(version) = endpoint.proxy_protocol else {
        return Vec::new();
    };
    // A connection that was reset meanwhile has no ends any more: its source is not known.
    let local = SockRef::from(client).local_addr().ok();
    let source = local
        .and_then(|local| local.as_socket())
        .map(|local| Source {
            client: record.client,
            local,
        });
    proxy_protocol::write(version, source, record.identity.as_deref())
}

/// "Try again later", as a WebSocket says it (the registry that RFC 6455, 7.4.2 set up).
const TRY_AGAIN_LATER: u16 = 1013;

/// MQTT in one frame.
fn framed(mqtt: &[u8]) -> Vec<u8> {
    let (header, header_bytes) = frames::binary_header(mqtt.len());
    [&header[..header_bytes], mqtt].concat()
}

impl Tried {
    fn ended(&self) -> Ended {
        if self.last_connack.is_some() || self.closed_silently || self.unwilling {
            Ended::Refused
        } else if self.source_ports {
            Ended::SourcePortsExhausted
        } else {
            Ended::NoNode
        }
    }
}

/// Whether the client was taken somewhere else than the ring would say, for a reason that may last.
impl Greeted {
    /// The decision that led here and whether a refusal preceded it.
    pub fn is_exception(&self) -> bool {
        self.refused_elsewhere || self.choice.decision == Decision::Placement
    }
}
