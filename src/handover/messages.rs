//! What one process tells the next: plain data, in Protocol Buffers, whose rules for new fields hold here.
//!
//! A field that may be missing, and may be skipped by a process that does not know it, gets a new number. One that must not be
//! skipped also gets a name in [`FEATURES`], and [`Manifest::requires`] names it: a process that does not know the name refuses before
//! anything has moved. Numbers are never used again. Times are ages, since clocks begin with a process; nodes and listeners are places
//! in the lists of the [`Manifest`], since their numbers are a process's own.

use std::fmt;
use std::time::Duration;

use prost::{Message, Oneof};

/// The version that this program speaks, and the oldest that it understands.
pub const VERSION: u32 = 1;
/// The oldest version that is understood.
pub const VERSION_OLDEST: u32 = 1;

/// What a [`Manifest`] may require of the process that takes over.
pub const FEATURES: &[&str] = &["relays", "frames"];

/// The most descriptors that the kernel takes with one message (SCM_MAX_FD, unix(7)).
pub const DESCRIPTORS_MAX: usize = 253;

/// The most relays of one message: two descriptors each.
pub const RELAYS_MAX: usize = DESCRIPTORS_MAX / 2;

/// The most bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The most entries of one message: relays, states, placements, counters and the like.
pub const ENTRIES_MAX: usize = 16_384;

/// A time as messages have it; the longest one if it is longer.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One message, of either side.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// What it says; `None` if it is of a kind that this program does not know.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub body: Option<Body>,
}

/// What a message says.
#[derive(Clone, PartialEq, Oneof)]
#[allow(
    clippy::large_enum_variant,
    reason = "a conversation has one manifest, and one message at a time"
)]
pub enum Body {
    /// Of the process that takes over: who it is. The first message.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// Of the process that gives: what there is. Nothing has moved yet.
    #[prost(message, tag = "2")]
    Manifest(Manifest),
    /// Of either: no, and why. Nothing follows, and nothing has changed.
    #[prost(message, tag = "3")]
    Refused(Refused),
    /// Listening sockets, one descriptor for each entry, in order.
    #[prost(message, tag = "4")]
    Sockets(Sockets),
    /// Relays, two descriptors for each: the client's, the node's. They are still relayed by the giver.
    #[prost(message, tag = "5")]
    Relays(Relays),
    /// So many messages with descriptors were received: the giver sends no more than a few ahead.
    #[prost(message, tag = "6")]
    Received(Received),
    /// Placements.
    #[prost(message, tag = "7")]
    Placements(Placements),
    /// Of the giver: all of this was sent.
    #[prost(message, tag = "16")]
    Prepare(Empty),
    /// Of the taker: everything before is in place. From here on the giver freezes what moves.
    #[prost(message, tag = "8")]
    Prepared(Prepared),
    /// What has changed of the relays, which are frozen.
    #[prost(message, tag = "9")]
    States(States),
    /// What is known beside relays.
    #[prost(message, tag = "10")]
    Knowledge(Knowledge),
    /// Of the giver: all of this round was sent.
    #[prost(message, tag = "11")]
    Complete(Complete),
    /// Of the taker: it holds everything and has moved nothing yet.
    #[prost(message, tag = "12")]
    Adopted(Adopted),
    /// Of the giver: it is yours.
    #[prost(message, tag = "13")]
    Go(Empty),
    /// Of the taker, sent before it moves the first byte: it is mine.
    #[prost(message, tag = "14")]
    Running(Running),
    /// Of the giver: no more rounds.
    #[prost(message, tag = "15")]
    Bye(Empty),
}

impl Body {
    /// The name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Manifest(_) => "manifest",
            Self::Refused(_) => "refused",
            Self::Sockets(_) => "sockets",
            Self::Relays(_) => "relays",
            Self::Received(_) => "received",
            Self::Placements(_) => "placements",
            Self::Prepare(_) => "prepare",
            Self::Prepared(_) => "prepared",
            Self::States(_) => "states",
            Self::Knowledge(_) => "knowledge",
            Self::Complete(_) => "complete",
            Self::Adopted(_) => "adopted",
            Self::Go(_) => "go",
            Self::Running(_) => "running",
            Self::Bye(_) => "bye",
        }
    }

    /// How many descriptors it must come with.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Sockets(sockets) => sockets.sockets.len(),
            Self::Relays(relays) => relays.relays.len() * 2,
            _ => 0,
        }
    }
}

/// Nothing but the message itself.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// Who takes over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// The newest version that it speaks.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The oldest version that it speaks.
    #[prost(uint32, tag = "2")]
    pub version_oldest: u32,
    /// Its program's version, for the log.
    #[prost(string, tag = "3")]
    pub program: String,
    /// Its process id in its own name space, for the log and for systemd.
    #[prost(uint32, tag = "4")]
    pub pid: u32,
    /// The most files that it may open.
    #[prost(uint64, tag = "5")]
    pub descriptors_max: u64,
}

/// What there is to take over.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Manifest {
    /// The version that both speak from here on.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// What the taker must know, by the names in [`FEATURES`].
    #[prost(string, repeated, tag = "2")]
    pub requires: Vec<String>,
    /// The giver's program version, for the log.
    #[prost(string, tag = "3")]
    pub program: String,
    /// For how long the giver's clock has run, in milliseconds: the taker's goes on from there.
    #[prost(uint64, tag = "4")]
    pub age_ms: u64,
    /// The last number of a connection on each worker.
    #[prost(uint64, repeated, tag = "5")]
    pub numbers: Vec<u64>,
    /// Every node that relays, placements and ends name, by place.
    #[prost(string, repeated, tag = "6")]
    pub nodes: Vec<String>,
    /// Every listener, by place.
    #[prost(message, repeated, tag = "7")]
    pub listeners: Vec<Listener>,
    /// How many relays there are about now.
    #[prost(uint64, tag = "8")]
    pub relays: u64,
    /// How many sockets listen, those of the admin listener included.
    #[prost(uint64, tag = "9")]
    pub sockets: u64,
    /// What the operator wishes for nodes, in the form of the state file.
    #[prost(message, repeated, tag = "10")]
    pub wishes: Vec<Wish>,
    /// Endpoints that are down.
    #[prost(message, repeated, tag = "11")]
    pub down: Vec<Endpoint>,
    /// Endpoints that have answered a client or a probe.
    #[prost(message, repeated, tag = "12")]
    pub answered: Vec<Endpoint>,
    /// Nodes whose own API says that they are to get no new clients, by name.
    #[prost(string, repeated, tag = "13")]
    pub drained_by_api: Vec<String>,
    /// How many clients connect in a thousand seconds usually.
    #[prost(uint64, tag = "40")]
    pub usual_connects: u64,
    /// Who is asked for nodes.
    #[prost(string, tag = "41")]
    pub found_source: String,
    /// The nodes that were found there, which hold until the taker finds them.
    #[prost(message, repeated, tag = "43")]
    pub found: Vec<FoundNode>,
    /// What look-ups of host names have found, the same.
    #[prost(message, repeated, tag = "44")]
    pub addresses: Vec<FoundAddress>,
    /// Nodes that have come back.
    #[prost(message, repeated, tag = "45")]
    pub came_back: Vec<CameBack>,
    /// What the doctor found last.
    #[prost(message, optional, tag = "42")]
    pub examined: Option<Examined>,
}

/// An examination by the doctor.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Examined {
    /// When it ended, in milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// Its report, in JSON, as the API has it.
    #[prost(string, tag = "2")]
    pub report: String,
}

/// A node that was found.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FoundNode {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its host; `None` if the source says all of a node.
    #[prost(string, optional, tag = "2")]
    pub host: Option<String>,
    /// For how long it has been missing, in milliseconds.
    #[prost(uint64, optional, tag = "3")]
    pub missing_ms: Option<u64>,
}

/// One of the addresses that a look-up has found.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FoundAddress {
    /// The name of the node.
    #[prost(string, tag = "1")]
    pub node: String,
    /// What was looked up, as `host:1883`.
    #[prost(string, tag = "2")]
    pub asked: String,
    /// As `192.0.2.1:1883`.
    #[prost(string, tag = "3")]
    pub address: String,
}

/// A node that has come back.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CameBack {
    /// Its name.
    #[prost(string, tag = "1")]
    pub node: String,
    /// How long ago, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub age_ms: u64,
}

/// A listener.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Listener {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it is configured.
    #[prost(string, tag = "2")]
    pub configured: String,
    /// Where it is bound.
    #[prost(string, tag = "3")]
    pub bound: String,
    /// It is closed, and has relays still.
    #[prost(bool, tag = "4")]
    pub is_removed: bool,
}

/// What the operator wishes for a node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Wish {
    /// Its name.
    #[prost(string, tag = "1")]
    pub node: String,
    /// Its weight instead of the configured one.
    #[prost(uint32, optional, tag = "2")]
    pub weight: Option<u32>,
    /// Whether it is draining.
    #[prost(bool, tag = "3")]
    pub is_draining: bool,
}

/// An endpoint of a node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Endpoint {
    /// The name of its node.
    #[prost(string, tag = "1")]
    pub node: String,
    /// Its kind, as metrics name it.
    #[prost(string, tag = "2")]
    pub endpoint: String,
}

/// Why not.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refused {
    /// In words, for an operator.
    #[prost(string, tag = "1")]
    pub why: String,
}

/// Sockets that listen.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sockets {
    /// One for each descriptor.
    #[prost(message, repeated, tag = "1")]
    pub sockets: Vec<ListenSocket>,
}

/// A socket that listens.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListenSocket {
    /// The listener's place in the manifest; `None` for one of the admin listener or of the handover itself.
    #[prost(uint32, optional, tag = "1")]
    pub listener: Option<u32>,
    /// Otherwise: `admin`, `admin-socket` or `handover`, and where it is bound.
    #[prost(string, tag = "2")]
    pub other: String,
    /// Where it is bound.
    #[prost(string, tag = "3")]
    pub bound: String,
}

/// So many messages were received.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Received {
    /// Since the beginning.
    #[prost(uint64, tag = "1")]
    pub messages: u64,
}

/// Relays that may move.
#[derive(Clone, PartialEq, Message)]
pub struct Relays {
    /// Two descriptors for each.
    #[prost(message, repeated, tag = "1")]
    pub relays: Vec<Relay>,
}

/// The place of no node.
pub const NO_NODE: u32 = u32::MAX;

/// What does not change while a connection is relayed.
#[derive(Clone, PartialEq, Message)]
pub struct Relay {
    /// The connection's number: its name in this protocol.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The worker that it is on.
    #[prost(uint32, tag = "2")]
    pub worker: u32,
    /// The listener's place in the manifest.
    #[prost(uint32, tag = "3")]
    pub listener: u32,
    /// The node's place in the manifest; of an end without a node, [`NO_NODE`].
    #[prost(uint32, tag = "4")]
    pub node: u32,
    /// The client's address, as `192.0.2.1:1883`.
    #[prost(string, tag = "5")]
    pub client: String,
    /// Microseconds since it was accepted.
    #[prost(uint64, tag = "6")]
    pub age_us: u64,
    /// What is kept of its CONNECT.
    #[prost(message, optional, tag = "7")]
    pub connect: Option<Connected>,
    /// Why its node was chosen, as the log names it.
    #[prost(string, optional, tag = "8")]
    pub decision: Option<String>,
    /// How often the CONNECT was replayed.
    #[prost(uint32, tag = "9")]
    pub retries: u32,
    /// The code of the last CONNACK.
    #[prost(uint32, optional, tag = "10")]
    pub code: Option<u32>,
    /// Microseconds of peek, pace, dial and greet.
    #[prost(uint32, repeated, tag = "11")]
    pub steps: Vec<u32>,
    /// Seconds of silence after which the client is disconnected.
    #[prost(uint32, optional, tag = "12")]
    pub idle_limit: Option<u32>,
    /// What is known of its TLS, by an upstream proxy.
    #[prost(message, optional, tag = "13")]
    pub identity: Option<Identity>,
}

/// What is kept of a CONNECT and its CONNACK.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Connected {
    /// The client id as it is kept: all of it, or its start.
    #[prost(bytes = "vec", tag = "1")]
    pub client_id: Vec<u8>,
    /// The length and the hash of a client id of which only the start is kept.
    #[prost(message, optional, tag = "2")]
    pub long_id: Option<LongId>,
    /// The protocol level.
    #[prost(uint32, tag = "3")]
    pub version: u32,
    /// Keep Alive in seconds.
    #[prost(uint32, tag = "4")]
    pub keep_alive: u32,
    /// Clean Start.
    #[prost(bool, tag = "5")]
    pub clean_start: bool,
    /// The key of its placement: 16 bytes, big-endian; empty for none.
    #[prost(bytes = "vec", tag = "6")]
    pub placement: Vec<u8>,
    /// Where its affinity key is on the ring.
    #[prost(uint64, tag = "7")]
    pub ring_hash: u64,
    /// Seconds for which its session outlives it.
    #[prost(uint32, tag = "8")]
    pub session_expiry: u32,
}

/// A client id of which only the start is kept.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LongId {
    /// The bytes of the whole id.
    #[prost(uint64, tag = "1")]
    pub length: u64,
    /// The hash of the whole id (XXH3).
    #[prost(uint64, tag = "2")]
    pub hash: u64,
}

/// What is known of a client's TLS.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Identity {
    /// The server name that it asked for.
    #[prost(string, optional, tag = "1")]
    pub server_name: Option<String>,
    /// Its TLS, which ended at an upstream proxy.
    #[prost(message, optional, tag = "2")]
    pub tls: Option<Tls>,
}

/// TLS that ended at an upstream proxy.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Tls {
    /// Its version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its cipher suite.
    #[prost(string, optional, tag = "2")]
    pub cipher: Option<String>,
    /// Whether there was a certificate.
    #[prost(bool, tag = "3")]
    pub has_certificate: bool,
    /// The certificate's common name.
    #[prost(string, optional, tag = "4")]
    pub common_name: Option<String>,
    /// Its other names.
    #[prost(string, repeated, tag = "5")]
    pub names: Vec<String>,
    /// It was sent on this connection.
    #[prost(bool, tag = "6")]
    pub on_this_connection: bool,
}

/// What has become of relays that were sent, now that they are frozen. A relay that has none in its round has ended, or stays.
#[derive(Clone, PartialEq, Message)]
pub struct States {
    /// One for each relay that moves.
    #[prost(message, repeated, tag = "1")]
    pub states: Vec<State>,
}

/// What changes of a connection while it is relayed.
#[derive(Clone, PartialEq, Message)]
pub struct State {
    /// The connection's number.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What was read of the client.
    #[prost(message, optional, tag = "2")]
    pub client: Option<Side>,
    /// What was read of the node.
    #[prost(message, optional, tag = "3")]
    pub node: Option<Side>,
    /// Seconds since the client, the node, and a message of the node were last heard of.
    #[prost(uint32, repeated, tag = "4")]
    pub silences: Vec<u32>,
    /// The frames of a client over WebSocket, whose node gets plain MQTT.
    #[prost(message, optional, tag = "5")]
    pub frames: Option<Frames>,
    /// The client's last bytes seem to be a DISCONNECT, on which its node closes.
    #[prost(bool, tag = "6")]
    pub ends_with_disconnect: bool,
}

/// What was read of one side.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Side {
    /// Still to be sent to the other side, before anything that is read from now on.
    #[prost(bytes = "vec", tag = "1")]
    pub unsent: Vec<u8>,
    /// Bytes read by copying.
    #[prost(uint64, tag = "2")]
    pub copied: u64,
    /// Bytes read by splicing.
    #[prost(uint64, tag = "3")]
    pub spliced: u64,
    /// The part of `copied` that is in the counters already.
    #[prost(uint64, tag = "4")]
    pub counted_copied: u64,
    /// The part of `spliced` that is in the counters already.
    #[prost(uint64, tag = "5")]
    pub counted_spliced: u64,
}

/// Where the reader of a client's frames is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Frames {
    /// The last fragment of the present message is still to come.
    #[prost(bool, tag = "1")]
    pub fragmented: bool,
    /// Bytes of a header that has not all arrived.
    #[prost(bytes = "vec", tag = "2")]
    pub header: Vec<u8>,
    /// Bytes of the payload that are still to come, of a frame whose header was read.
    #[prost(uint64, optional, tag = "3")]
    pub left: Option<u64>,
    /// Its mask.
    #[prost(fixed32, tag = "4")]
    pub mask: u32,
    /// Bytes of its payload that came before, modulo 4.
    #[prost(uint32, tag = "5")]
    pub at: u32,
    /// The opcode of a control frame, or 0 for data.
    #[prost(uint32, tag = "6")]
    pub control: u32,
    /// The payload of the control frame that has arrived, unmasked.
    #[prost(bytes = "vec", tag = "7")]
    pub payload: Vec<u8>,
}

/// Clients that are on another node than their home.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Placements {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub placements: Vec<Placement>,
}

/// A client that is on another node than its home.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Placement {
    /// The hash of its affinity key: 16 bytes, big-endian.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// The node's place in the manifest.
    #[prost(uint32, tag = "2")]
    pub node: u32,
    /// The number of the connection that it belongs to.
    #[prost(uint64, tag = "3")]
    pub owner: u64,
    /// Milliseconds until it is forgotten; `None` while its client is connected, and 0 if it was forgotten since it was sent last.
    #[prost(uint64, optional, tag = "4")]
    pub expires_ms: Option<u64>,
    /// It was made for an id that a node has assigned.
    #[prost(bool, tag = "5")]
    pub is_assigned: bool,
    /// The source that it counts for: a number that is the same for one source within this handover.
    #[prost(uint32, tag = "6")]
    pub source: u32,
}

/// The taker is ready.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Prepared {
    /// The places of listeners in the manifest that the taker does not have: the giver accepts the clients that wait there. One that
    /// does not know this field closes them with the others.
    #[prost(uint32, repeated, tag = "1")]
    pub closing: Vec<u32>,
}

/// What is known beside relays and placements.
#[derive(Clone, PartialEq, Message)]
pub struct Knowledge {
    /// What was counted, so that no metric falls: a stable name each, as the metrics have it, and a number.
    #[prost(message, repeated, tag = "1")]
    pub counters: Vec<Counter>,
    /// How connections ended lately, the newest last.
    #[prost(message, repeated, tag = "2")]
    pub ends: Vec<End>,
    /// With the last of it: the connections that stay with the giver, and with those before it.
    #[prost(message, repeated, tag = "40")]
    pub left: Vec<Left>,
}

/// Connections that stay with a process.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Left {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub connections: u64,
    /// How long it takes, in milliseconds, until their process has closed the last of them.
    #[prost(uint64, tag = "2")]
    pub ends_within_ms: u64,
}

/// What was counted under one name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Counter {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The node or listener that it is of, by name; empty for the whole process.
    #[prost(string, tag = "2")]
    pub of: String,
    /// The label, or the bucket of a histogram; empty if there is none.
    #[prost(string, tag = "3")]
    pub label: String,
    /// How many.
    #[prost(uint64, tag = "4")]
    pub count: u64,
}

/// How a connection ended.
#[derive(Clone, PartialEq, Message)]
pub struct End {
    /// What was known of it.
    #[prost(message, optional, tag = "1")]
    pub relay: Option<Relay>,
    /// The cause, as metrics name it.
    #[prost(string, tag = "2")]
    pub cause: String,
    /// Milliseconds since then.
    #[prost(uint64, tag = "3")]
    pub ago_ms: u64,
}

/// All of a round was sent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Complete {
    /// How many states were sent in it.
    #[prost(uint64, tag = "1")]
    pub states: u64,
    /// The last number of a connection on each worker, now that no more are accepted; also on those that only processes before had.
    #[prost(uint64, repeated, tag = "2")]
    pub numbers: Vec<u64>,
    /// In the first round: what the operator has ordered and is not over. A taker that does not know it drops it.
    #[prost(message, repeated, tag = "20")]
    pub closings: Vec<Closing>,
}

/// Connections that are being closed at a rate, at the operator's order.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Closing {
    /// Which: `rebalance`, `drain` or `close-node`. A taker leaves out what it does not know.
    #[prost(string, tag = "1")]
    pub order: String,
    /// The name of the node whose clients are brought home, or whose connections are closed; `None` for a rebalance of all nodes.
    #[prost(string, optional, tag = "2")]
    pub node: Option<String>,
    /// Connections closed per second.
    #[prost(uint32, tag = "3")]
    pub rate: u32,
    /// The last number of a connection on each worker when it was ordered: those that came later are not closed. Empty for a drain, which
    /// closes all.
    #[prost(uint64, repeated, tag = "4")]
    pub numbers: Vec<u64>,
    /// Of a rebalance: how many connections were to be closed.
    #[prost(uint64, tag = "5")]
    pub selected: u64,
    /// Of a rebalance: how many of them were ordered to close.
    #[prost(uint64, tag = "6")]
    pub closed: u64,
    /// Of a rebalance: it is over, and is only looked at.
    #[prost(bool, tag = "7")]
    pub is_over: bool,
}

/// All of a round is held.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Adopted {
    /// Numbers of the relays that cannot be taken, and stay with the giver: a connection that was reset meanwhile, for one.
    #[prost(uint64, repeated, tag = "1")]
    pub left: Vec<u64>,
}

/// The taker relays from here on.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Running {
    /// How many relays it has adopted in this round.
    #[prost(uint64, tag = "1")]
    pub relays: u64,
}

/// A message that cannot be what its sender meant: which part of it, in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}", self.0)
    }
}

impl std::error::Error for Invalid {}
