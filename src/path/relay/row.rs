//! One relay as plain data: two halves, and how far its end has come. The table owns it and a future takes turns at it.
//!
//! # A turn
//!
//! A turn moves what can be moved now and never waits. The same steps each time, first from the client to the node, then
//! from the node to the client:
//!
//! 1. **Flush.** What the receiver had no room for last time goes first. If it still does not fit, this direction is done for
//!    now and nothing more is read: that is how a slow receiver slows its sender, and why a connection holds one read at most.
//! 2. **Read and send**, until the sender's socket is empty, the receiver's is full, or as much work was done as moving
//!    256 KiB takes. Frames count for more than their bytes, since a read may contain thousands of them. Then the worker
//!    looks for events of its sockets, and the other connections get their turn before this one has its next.
//! 3. **End.** Once the sender's FIN was read and everything before it was sent, the receiver gets a FIN. The other direction
//!    goes on. A node that was sent a DISCONNECT closes by itself, so its FIN is awaited first: who closes first keeps a port.
//!
//! After both directions, the phase decides whether the relay is over. For example, a client that sends DISCONNECT and its FIN
//! while the node is still sending:
//!
//! | turn | client to node                  | node to client         | phase behind it                      |
//! | ---- | ------------------------------- | ---------------------- | ------------------------------------ |
//! | 1    | reads DISCONNECT, sends it      | reads a PUBLISH: 40 KiB are sent, 8 KiB wait for room | relaying |
//! | 2    | reads the FIN                   | the 8 KiB do not fit   | awaiting the node, 1 s               |
//! | 3    | nothing is left to do           | sends the 8 KiB, reads the node's FIN, sends one | over: `client_closed` |
//!
//! The first direction to end names the cause, since the second only follows. If the node had not closed within the second,
//! the sweep would have sent it the FIN (half-closed); and if the 8 KiB had not fitted within 5 s more (`timeouts.linger`),
//! it would have ended the relay all the same.
//!
//! # Errors
//!
//! A failed *read* ends the relay at once: everything that came before the error has been passed on. A failed *write*
//! breaks only that direction: what the peer sent before is still read, and passed on to its end. The failed write
//! already shows whether the peer reset the connection or closed it gracefully (`EPIPE`). This is kept as the cause,
//! since the kernel reports each error once.

mod handed;

use std::io;
use std::task::{Context, Waker};

use crate::base::clock::Seconds;
use crate::base::turn;
use crate::cluster::NodeId;
use crate::net::socket::{Detached, Socket};
use crate::net::websocket::frames::{Fault, close};
use crate::path::ended::{Details, Ended};
use crate::path::record::Record;
use crate::path::relay::activity::Activity;
use crate::path::relay::closing::Closing;
use crate::path::relay::coding::Coding;
use crate::path::relay::flow::{Flow, Tools, Turn};
use crate::path::relay::ports::ends_with_disconnect;
use crate::path::relay::relayed::{Finished, RelayView, Relayed};
use crate::path::sides::{Bytes, Moved, Side, Sides};

/// Bytes that may wait for a client while it is still read: answers to its pings come on top of what the node has sent.
const REPLIES_BYTES_MAX: usize = 64 * 1024;

/// "Going away" (RFC 6455, 7.4.1): the balancer ends the connection.
const GOING_AWAY: u16 = 1001;

/// "Policy violation" (RFC 6455, 7.4.1): the client sends frames without anything in them.
const POLICY_VIOLATION: u16 = 1008;

/// How long a node may take to close after a client's DISCONNECT and FIN before it gets the FIN as well.
const NODE_CLOSE_MAX: Seconds = Seconds(1);

/// A client that has sent nothing for longer than this has sent nothing that its node has not read.
const NODE_READ_MAX: Seconds = Seconds(2);

/// What is kept of the memory for replies to clients' pings.
const REPLIES_BYTES_KEPT: usize = 16 * 1024;

/// A relay.
#[derive(Debug)]
pub(crate) struct Row {
    client: Half,
    node: Half,
    phase: Phase,
    activity: Activity,
    /// A client that is silent for this long is disconnected. No `Option`, which would take four bytes more.
    idle_limit: Seconds,
    /// Both sockets have the keepalive options of a relayed connection.
    watched: bool,
    handed: Handed,
    node_close: NodeClose,
    node_id: NodeId,
    waker: Option<Waker>,
    record: Box<Record>,
}

/// The sockets of a relay whose keepalive options are to be set.
#[derive(Clone, Copy, Debug)]
pub struct ToWatch<'a> {
    /// The client's, which has those of its listener.
    pub client: &'a Socket,
    /// The node's, which has none.
    pub node: &'a Socket,
    /// For how long the client may be silent; `None` means no limit.
    pub idle_limit: Option<Seconds>,
}

/// One side: its socket, and what flows from it to the other side.
#[derive(Debug)]
struct Half {
    socket: Socket,
    flow: Flow,
    /// The part of the moved bytes that is in the metrics already.
    counted: Moved,
}

/// How far the end of a relay has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Both directions are open.
    Relaying,
    /// The client has sent a DISCONNECT and its FIN, and the node has got neither FIN nor reset. It closes by itself, or
    /// gets the FIN at this time. The same without a DISCONNECT, if ports are scarce.
    AwaitingNode { until: Seconds },
    /// One direction has ended with this cause; the other may go on until this time.
    HalfClosed { cause: Ended, until: Seconds },
    /// The relay was ordered to end: it ends once everything that has arrived was passed on, or at this time.
    Draining { cause: Ended, until: Seconds },
    /// A limit has passed: one more turn is taken.
    Overdue { cause: Ended },
}

impl Phase {
    /// The phase after one direction has ended. Only the first end counts.
    fn half_closed(self, cause: Ended, until: Seconds) -> Self {
        match self {
            Self::Relaying => Self::HalfClosed { cause, until },
            Self::AwaitingNode { .. } => Self::HalfClosed {
                cause: Ended::ClientClosed,
                until,
            },
            Self::HalfClosed { .. } | Self::Draining { .. } | Self::Overdue { .. } => self,
        }
    }

    /// The phase after an order to end at `by`. An earlier limit stands.
    fn ordered_to_end(self, cause: Ended, by: Seconds) -> Self {
        match self {
            Self::Relaying | Self::Overdue { .. } => Self::Draining { cause, until: by },
            Self::AwaitingNode { until } | Self::HalfClosed { until, .. } | Self::Draining { until, .. } => {
                Self::Draining { cause, until }
            }
        }
    }

    /// The phase after a limit has passed. A half-closed relay keeps its own limit, and passes on what arrives until
    /// then.
    fn overdue(self, cause: Ended) -> Self {
        match self {
            Self::Relaying | Self::Overdue { .. } => Self::Overdue { cause },
            Self::AwaitingNode { until } | Self::HalfClosed { until, .. } | Self::Draining { until, .. } => {
                Self::Draining { cause, until }
            }
        }
    }

    /// The cause, if the phase has taken too long.
    fn timed_out(self, now: Seconds) -> Option<Ended> {
        match self {
            Self::HalfClosed { cause, until } | Self::Draining { cause, until } => (now > until).then_some(cause),
            Self::Relaying | Self::AwaitingNode { .. } | Self::Overdue { .. } => None,
        }
    }

    fn is_ordered_to_end(self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Overdue { .. })
    }
}

/// How far a relay is on its way from one process to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// No other process has ever had its sockets.
    No,
    /// Another process may have duplicates of its sockets, for as long as it likes. It goes on here.
    Offered,
    /// Another process may go on with it, or has not begun yet. Nothing is read or written here.
    Frozen,
}

/// Who closes the connection to the node first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeClose {
    /// That is open.
    Open,
    /// The last bytes of the client seem to be a DISCONNECT, on which the node closes.
    ByNode,
    /// The node was sent a FIN before its own was read.
    ByBalancer,
}

/// Whose half it is, which decides the name of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Client,
    Node,
}

impl Peer {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Node,
            Self::Node => Self::Client,
        }
    }

    /// The peer closed its connection.
    fn closed(self) -> Ended {
        match self {
            Self::Client => Ended::ClientClosed,
            Self::Node => Ended::NodeClosed,
        }
    }

    /// The peer's connection could not be read.
    fn read_failed(self, error: &io::Error) -> Ended {
        match (self, error.kind()) {
            (Self::Client, _) => Ended::of_client(error),
            (Self::Node, io::ErrorKind::TimedOut) => Ended::NodeVanished,
            // Only TLS calls bytes invalid.
            (Self::Node, io::ErrorKind::InvalidData) => Ended::NodeTlsFault,
            (Self::Node, _) => Ended::NodeReset,
        }
    }

    /// The peer's connection takes no more bytes. `EPIPE` means that it was closed before; any other error is the end
    /// itself, and reading will only find the end of the stream.
    fn write_failed(self, error: &io::Error) -> Ended {
        match error.kind() {
            io::ErrorKind::BrokenPipe => self.closed(),
            _ => self.read_failed(error),
        }
    }
}

/// The result of one direction's turn.
enum Passed {
    /// It goes on, or has nothing left to do.
    On,
    /// The sender's end was read, and everything before it was sent. The receiver gets a FIN, unless it has ended itself.
    Fin,
    /// It has ended.
    Ended(Ended),
    /// The whole relay has ended.
    Over(Ended),
    /// The whole relay has ended: the sender's frames are invalid.
    Fault(Fault),
    /// The whole relay has ended: the sender sends far too many frames without anything in them.
    Flood,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// The cause.
    pub cause: Ended,
    /// A close frame with the reason is on its way to the client.
    has_close_frame: bool,
}

impl Over {
    fn with_close_frame(cause: Ended) -> Self {
        Self {
            cause,
            has_close_frame: true,
        }
    }
}

impl From<Ended> for Over {
    fn from(cause: Ended) -> Self {
        Self {
            cause,
            has_close_frame: false,
        }
    }
}

impl Half {
    fn new(side: Side<Socket>) -> Self {
        let Side {
            socket,
            unsent,
            ended,
            moved,
            counted,
        } = side;
        Self {
            socket,
            flow: Flow::new(unsent, moved, ended),
            counted,
        }
    }

    fn detach(self, unsent: Vec<u8>) -> Side<Detached> {
        Side {
            socket: self.socket.detach(),
            unsent,
            ended: self.flow.has_ended(),
            moved: self.flow.moved(),
            counted: self.counted,
        }
    }

    /// Moves what can be moved now from this half, which is `peer`'s, to the other one.
    fn pass_on(&mut self, to: &Half, peer: Peer, tools: &mut Tools, cx: &mut Context<'_>) -> Passed {
        if self.flow.broken().is_some() || (self.flow.has_passed_on_its_end() && self.has_passed_all_on(to)) {
            return Passed::On;
        }
        match self.flow.turn(&self.socket, &to.socket, tools, cx) {
            Turn::Waiting => Passed::On,
            Turn::Spent => {
                turn::take_next(cx);
                Passed::On
            }
            Turn::Ended => {
                // A write to this peer has failed before. Unless the peer had closed gracefully, that error is the
                // cause: the kernel reports it once, and this read found only the end.
                if let Some(cause) = to.flow.broken()
                    && cause != peer.closed()
                {
                    return Passed::Over(cause);
                }
                Passed::Fin
            }
            Turn::Fault(fault) => Passed::Fault(fault),
            Turn::Flood => Passed::Flood,
            Turn::ReadFailed(error) => {
                tools.details = Details::of_socket(&error);
                Passed::Over(peer.read_failed(&error))
            }
            Turn::WriteFailed(error) => {
                let cause = peer.other().write_failed(&error);
                self.flow.set_broken(cause);
                Passed::Ended(cause)
            }
        }
    }

    /// Whether nothing waits to be sent to `to`, or `to` takes no more bytes.
    fn has_passed_all_on(&self, to: &Half) -> bool {
        self.flow.broken().is_some() || (self.flow.is_at_rest() && !to.socket.holds())
    }

    /// Whether nothing more comes from this half that could be passed on.
    fn is_done(&self, to: &Half) -> bool {
        (self.flow.has_ended() || self.flow.broken().is_some()) && self.has_passed_all_on(to)
    }

    /// Whether no byte read from this half waits to be sent on, and none is buffered for its own socket.
    fn is_at_rest(&self) -> bool {
        self.flow.is_at_rest() && !self.socket.holds()
    }
}

impl Row {
    /// A row for a relay that begins, or that was moved here.
    pub(crate) fn new(relayed: Relayed<Socket>, now: Seconds) -> Self {
        let Relayed {
            sides: Sides { client, node, frames },
            idle_limit,
            activity,
            node_id,
            record,
        } = relayed;
        let mut row = Self {
            node_close: match ends_with_disconnect(&client.unsent) {
                true => NodeClose::ByNode,
                false => NodeClose::Open,
            },
            client: Half::new(client),
            node: Half::new(node),
            phase: Phase::Relaying,
            activity: Activity {
                client: now,
                ..activity.unwrap_or(Activity::new(now))
            },
            idle_limit: idle_limit.unwrap_or(Seconds::FOR_EVER),
            watched: false,
            handed: Handed::No,
            node_id,
            waker: None,
            record,
        };
        if let Some(frames) = frames {
            row.node.flow.set_coding(match frames.is_closed() {
                true => Coding::Discard,
                false => Coding::Frame,
            });
            row.client.flow.set_coding(Coding::unframe(frames));
        }
        row
    }

    /// The relay as it is now.
    pub(crate) fn view(&self) -> RelayView<'_> {
        RelayView {
            node_id: self.node_id,
            record: &self.record,
            bytes: self.bytes(),
            activity: self.activity,
            idle_limit: self.idle_limit(),
        }
    }

    fn idle_limit(&self) -> Option<Seconds> {
        (self.idle_limit != Seconds::FOR_EVER).then_some(self.idle_limit)
    }

    /// Its node, and what is known of the connection.
    pub(crate) fn facts(&self) -> (NodeId, &Record) {
        (self.node_id, &self.record)
    }

    /// Bytes moved each way.
    fn bytes(&self) -> Bytes {
        Bytes {
            from_client: self.client.flow.moved(),
            from_node: self.node.flow.moved(),
        }
    }

    /// What was moved since the last sweep, if anything was. Called by each sweep.
    pub(crate) fn swept(&mut self, now: Seconds) -> Option<Bytes> {
        let moved = self.take_uncounted()?;
        self.activity.swept(moved.from_node.total(), now);
        Some(moved)
    }

    /// What was moved since the last call, if anything was.
    fn take_uncounted(&mut self) -> Option<Bytes> {
        let bytes = self.bytes();
        let before = Bytes {
            from_client: std::mem::replace(&mut self.client.counted, bytes.from_client),
            from_node: std::mem::replace(&mut self.node.counted, bytes.from_node),
        };
        (bytes != before).then(|| bytes.since(before))
    }

    /// Both sockets, if their keepalive options are not set yet: the caller sets them next.
    pub(crate) fn sockets_to_watch(&mut self) -> Option<ToWatch<'_>> {
        let lacks_options = !std::mem::replace(&mut self.watched, true);
        lacks_options.then(|| ToWatch {
            client: &self.client.socket,
            node: &self.node.socket,
            idle_limit: self.idle_limit(),
        })
    }

    /// Whether nothing waits for a receiver.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.client.is_at_rest() && self.node.is_at_rest()
    }

    /// Whether it was ordered to end, or its time is over.
    pub(crate) fn is_ordered_to_end(&self) -> bool {
        self.phase.is_ordered_to_end()
    }

    /// Ends the relay once everything that has arrived was passed on, so that its end is a FIN and loses nothing; at
    /// `by` even if bytes are still in flight.
    pub(crate) fn order_to_end(&mut self, cause: Ended, by: Seconds) {
        self.phase = self.phase.ordered_to_end(cause, by);
        self.wake();
    }

    /// Ends the relay if it has been half-closed or silent for too long.
    pub(crate) fn end_if_overdue(&mut self, now: Seconds, linger: Seconds) {
        if let Phase::AwaitingNode { until } = self.phase
            && now > until
        {
            self.close_node_first();
            self.phase = self.phase.half_closed(Ended::ClientClosed, now.after(linger));
        }
        let is_due = now > self.activity.client.after(self.idle_limit);
        let is_silent = is_due && !self.has_unread_bytes_of_client();
        if let Some(cause) = self.phase.timed_out(now).or(is_silent.then_some(Ended::Idle)) {
            self.phase = self.phase.overdue(cause);
            self.wake();
        }
    }

    /// Whether the client has sent bytes that its node's slowness, or this process's, has kept from being read. Asked only of a
    /// client that seems to be silent.
    fn has_unread_bytes_of_client(&self) -> bool {
        !self.client.has_passed_all_on(&self.node) || (!self.is_held_back() && self.client.socket.unread() > 0)
    }

    /// What waits for receivers without room. Ends the relay if the client takes too little of it.
    pub(crate) fn sample(&mut self, now: Seconds, rate_min: u64) -> usize {
        let (client, node) = (&self.client.socket, &self.node.socket);
        let to_node = self.client.flow.sample(client, node, 0, now);
        let to_client = self.node.flow.sample(node, client, rate_min, now);
        if to_client.is_stalled {
            self.end_now(Ended::ClientStalled);
        }
        to_node.bytes + to_client.bytes
    }

    /// What waits for receivers that have had no room since `before` or earlier, as of the last sweep.
    pub(crate) fn waiting_since(&self, before: Seconds) -> usize {
        self.client.flow.waiting_since(before) + self.node.flow.waiting_since(before)
    }

    /// Ends the relay with its next turn, unless it was ordered to end.
    pub(crate) fn end_now(&mut self, cause: Ended) {
        if !self.is_ordered_to_end() {
            self.phase = Phase::Overdue { cause };
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Takes a turn in both directions. Returns how the relay ended, if it did.
    pub(crate) fn turn(&mut self, tools: &mut Tools, cx: &mut Context<'_>) -> Option<Over> {
        if self.waker.is_none() {
            self.waker = Some(cx.waker().clone());
        }
        if self.is_frozen() {
            return None;
        }
        match self.phase {
            Phase::Relaying | Phase::AwaitingNode { .. } | Phase::HalfClosed { .. } => self.relay(tools, cx),
            Phase::Draining { cause, until } => self.drain(cause, tools.now <= until, tools, cx),
            Phase::Overdue { cause } => self.drain(cause, false, tools, cx),
        }
    }

    fn relay(&mut self, tools: &mut Tools, cx: &mut Context<'_>) -> Option<Over> {
        let was_held_back = self.is_held_back();
        if let Some(over) = self.pass_on(tools, cx) {
            return Some(over);
        }
        if was_held_back && !self.is_held_back() {
            // What the client has sent meanwhile causes no new event.
            cx.waker().wake_by_ref();
        }
        match self.phase {
            Phase::HalfClosed { cause, .. } if self.client.is_done(&self.node) && self.node.is_done(&self.client) => {
                Some(cause.into())
            }
            Phase::AwaitingNode { .. }
                if self.node_close == NodeClose::Open && self.is_at_rest() && tools.ports.is_scarce(self.node_id) =>
            {
                Some(Ended::ClientClosed.into())
            }
            _ => None,
        }
    }

    /// A turn of a relay that was ordered to end. It goes on for as long as anything moves or waits for room, if it may.
    fn drain(&mut self, cause: Ended, may_go_on: bool, tools: &mut Tools, cx: &mut Context<'_>) -> Option<Over> {
        let before = self.bytes();
        let over = self.pass_on(tools, cx);
        let has_moved = self.bytes() != before;
        let has_passed_all_on =
            || self.client.has_passed_all_on(&self.node) && self.node.has_passed_all_on(&self.client);
        if over.is_some() || !may_go_on || (!has_moved && has_passed_all_on()) {
            let mut has_close_frame = over.is_some_and(|over| over.has_close_frame);
            if !has_close_frame && self.wants_close_frame() {
                self.send_close_frame(GOING_AWAY);
                has_close_frame = true;
            }
            return Some(Over { cause, has_close_frame });
        }
        if has_moved {
            // Only a turn that finds nothing more shows that all was passed on.
            turn::take_next(cx);
        }
        None
    }

    /// Both directions once, whatever the phase.
    fn pass_on(&mut self, tools: &mut Tools, cx: &mut Context<'_>) -> Option<Over> {
        let passed = self.pass_on_to_node(tools, cx);
        if let Some(over) = self.note(passed, Peer::Client, tools) {
            return Some(over);
        }
        let passed = self.node.pass_on(&self.client, Peer::Node, tools, cx);
        self.note(passed, Peer::Node, tools)
    }

    /// The client's direction, and what it brings about in the other.
    fn pass_on_to_node(&mut self, tools: &mut Tools, cx: &mut Context<'_>) -> Passed {
        if self.is_held_back() {
            return Passed::On;
        }
        let before = self.client.flow.moved();
        tools.ends_with_disconnect = None;
        let passed = self.client.pass_on(&self.node, Peer::Client, tools, cx);
        if let Some(ends) = tools.ends_with_disconnect {
            self.node_close = if ends { NodeClose::ByNode } else { NodeClose::Open };
        }
        if self.client.flow.moved() != before {
            self.activity.client = tools.now;
        }
        if !tools.replies.is_empty() {
            // After the node's end, a close frame was sent to the client, and nothing may follow it.
            if !self.node.flow.has_ended() {
                self.node.flow.reply(&tools.replies, &self.client.socket);
            }
            tools.replies.clear();
            tools.replies.shrink_to(REPLIES_BYTES_KEPT);
        }
        if self.client.flow.is_closed() {
            self.node.flow.set_coding(Coding::Discard);
        }
        passed
    }

    /// A client that sends pings and does not read the pongs is not read until it does.
    fn is_held_back(&self) -> bool {
        self.client.flow.unwraps_frames() && self.node.flow.waiting() > REPLIES_BYTES_MAX
    }

    /// Records the result of the direction that begins at `peer`. Returns how the relay ended, if it did.
    fn note(&mut self, passed: Passed, peer: Peer, tools: &mut Tools) -> Option<Over> {
        match passed {
            Passed::On => None,
            Passed::Fin if peer == Peer::Client => {
                self.end_of_client(tools);
                None
            }
            Passed::Fin => {
                if !self.client.flow.has_ended() {
                    self.client.socket.shutdown_write();
                }
                self.phase = self.phase.half_closed(peer.closed(), tools.now.after(tools.linger));
                None
            }
            Passed::Ended(cause) => {
                self.phase = self.phase.half_closed(cause, tools.now.after(tools.linger));
                None
            }
            Passed::Over(cause) => Some(cause.into()),
            Passed::Fault(fault) => {
                tools.details = Some(Details::of_words(fault.words()));
                self.send_close_frame(fault.close_code());
                Some(Over::with_close_frame(Ended::FrameFault))
            }
            Passed::Flood => {
                self.send_close_frame(POLICY_VIOLATION);
                Some(Over::with_close_frame(Ended::FrameFlood))
            }
        }
    }

    /// The client has sent its FIN, and the node has everything before it. The side that closes the connection to the node
    /// first keeps its source port in TIME_WAIT, so that is left to the node where it loses nothing.
    fn end_of_client(&mut self, tools: &Tools) {
        let until = tools.now.after(tools.linger);
        match self.phase {
            Phase::AwaitingNode { .. } => {}
            // Where ports are scarce, the node is reset once nothing is on its way any more.
            Phase::Relaying
                if !self.node.flow.has_ended()
                    && (self.node_close == NodeClose::ByNode || tools.ports.is_scarce(self.node_id)) =>
            {
                let until = tools.now.after(tools.linger.min(NODE_CLOSE_MAX));
                self.phase = Phase::AwaitingNode { until };
            }
            _ => {
                if !self.node.flow.has_ended() {
                    self.close_node_first();
                }
                self.phase = self.phase.half_closed(Ended::ClientClosed, until);
            }
        }
    }

    fn close_node_first(&mut self) {
        self.node.socket.shutdown_write();
        self.node_close = NodeClose::ByBalancer;
    }

    /// Whether the node's connection ends with a reset, which keeps no port: if the client's was reset, or if the node has not
    /// closed and a reset can overtake nothing that it has not read.
    fn resets_node(&self, cause: Ended, tools: &Tools) -> bool {
        if cause == Ended::ClientReset {
            return true;
        }
        let is_open = !self.node.flow.has_ended() && self.client.flow.broken().is_none();
        let has_read_all = tools.now > self.activity.client.after(NODE_READ_MAX) && self.client.is_at_rest();
        is_open && (has_read_all || tools.ports.is_scarce(self.node_id))
    }

    /// Whether the client's frames are still open in both directions.
    fn wants_close_frame(&self) -> bool {
        self.client.flow.unwraps_frames() && !self.node.flow.has_ended() && !self.client.flow.is_closed()
    }

    /// Sends the client a close frame with the reason. The relay ends next.
    fn send_close_frame(&mut self, code: u16) {
        // After the node's end, the client was sent one already.
        if !self.node.flow.has_ended() {
            self.node.flow.send_last(close(code), &self.client.socket);
        }
    }

    /// Closes both sockets, as the cause asks for.
    pub(crate) fn finish(mut self, over: Over, tools: &Tools) -> Finished {
        let Over { cause, has_close_frame } = over;
        let resets_node = self.resets_node(cause, tools);
        let node_is_gone =
            self.client.flow.broken().is_some() || matches!(cause, Ended::NodeReset | Ended::NodeVanished);
        let node_closed_first = self.node.flow.has_ended() && self.node_close != NodeClose::ByBalancer;
        let keeps_port = !resets_node && !node_is_gone && !node_closed_first;
        let time_wait = keeps_port.then_some(self.node_id);
        let uncounted = self.take_uncounted().unwrap_or_default();
        let bytes = self.bytes();
        let is_shared = self.handed != Handed::No;
        let Self {
            client, node, record, ..
        } = self;
        let (client, node, mut to_client) = (client.socket, node.socket, node.flow);
        if cause != Ended::ClientReset {
            node.send_close_notify();
        }
        let left_of_node = if resets_node {
            reset(node)
        } else {
            close_shared(node, is_shared);
            None
        };
        let left = match cause {
            Ended::ClientReset => left_of_node,
            Ended::NodeReset => reset(client),
            // What waits for such a client must not go on waiting in the kernel.
            Ended::ClientStalled | Ended::WaitingBytesFull => {
                client.reset_on_close();
                left_of_node
            }
            // What it has sent meanwhile would make the close a reset, which overtakes the close frame.
            _ if has_close_frame => Some(Closing::Gracefully(
                client,
                // Frames are never in a pipe, the only thing that can fail.
                to_client.take_unsent().unwrap_or_default(),
            )),
            _ => {
                client.send_close_notify();
                close_shared(client, is_shared);
                left_of_node
            }
        };
        Finished {
            cause,
            details: None,
            record,
            bytes,
            uncounted,
            left,
            time_wait,
        }
    }

    /// The bytes that were read and not sent, for the node and for the client. The future of this row is woken, finds
    /// the row gone, and ends.
    ///
    /// # Errors
    /// Bytes in a pipe could not be taken out.
    pub(crate) fn take_unsent(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok((self.client.flow.take_unsent()?, self.node.flow.take_unsent()?))
    }

    /// Detaches the relay from its runtime, with the bytes that [`Row::take_unsent`] returned.
    pub(crate) fn detach(mut self, (to_node, to_client): (Vec<u8>, Vec<u8>)) -> Relayed<Detached> {
        Relayed {
            idle_limit: self.idle_limit(),
            sides: Sides {
                frames: self.client.flow.take_frames(),
                client: self.client.detach(to_node),
                node: self.node.detach(to_client),
            },
            activity: Some(self.activity),
            node_id: self.node_id,
            record: self.record,
        }
    }
}

/// Closes `socket`. If another process may have a duplicate, which keeps the connection open, the FIN is sent all the same.
fn close_shared(socket: Socket, is_shared: bool) {
    if is_shared {
        socket.shutdown_write();
    }
}

/// Resets `socket`: at once if everything sent was acknowledged, or else through the returned [`Closing`].
fn reset(socket: Socket) -> Option<Closing> {
    if socket.unacknowledged() == 0 {
        socket.reset_on_close();
        None
    } else {
        Some(Closing::Reset(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_no_more_than_this() {
        assert!(size_of::<Row>() <= 248, "{} bytes", size_of::<Row>());
        // The allocator has a size of 160 bytes; the next one is 192.
        assert!(size_of::<Record>() <= 160, "{} bytes", size_of::<Record>());
    }

    #[test]
    fn the_first_direction_to_end_names_the_cause_and_the_limit() {
        let (soon, late) = (Seconds(7), Seconds(9));
        let first = Phase::Relaying.half_closed(Ended::ClientClosed, soon);
        assert_eq!(first.half_closed(Ended::NodeClosed, late), first);
        assert_eq!(first.timed_out(soon), None);
        assert_eq!(first.timed_out(late), Some(Ended::ClientClosed));
    }

    #[test]
    fn what_was_ordered_to_end_keeps_its_cause_and_never_gets_more_time() {
        let (soon, late) = (Seconds(7), Seconds(9));
        for before in [
            Phase::Relaying.half_closed(Ended::NodeClosed, soon),
            Phase::Relaying.ordered_to_end(Ended::Closed, soon),
        ] {
            let ordered = before.ordered_to_end(Ended::Shutdown, late);
            let expected = Phase::Draining {
                cause: Ended::Shutdown,
                until: soon,
            };
            assert_eq!(ordered, expected);
            assert_eq!(ordered.half_closed(Ended::ClientClosed, late), ordered);
        }
    }

    #[test]
    fn silence_ends_what_is_relayed_with_one_more_turn_and_leaves_what_is_half_closed_its_limit() {
        let idle = Ended::Idle;
        assert_eq!(Phase::Relaying.overdue(idle), Phase::Overdue { cause: idle });
        let half_closed = Phase::Relaying.half_closed(Ended::ClientClosed, Seconds(7));
        let expected = Phase::Draining {
            cause: idle,
            until: Seconds(7),
        };
        assert_eq!(half_closed.overdue(idle), expected);
    }
}
