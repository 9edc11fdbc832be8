//! A client that no node has accepted yet. What it sends meanwhile is kept for replays, up to a cap. If its CONNECT, or the WebSocket
//! message with it, goes on beyond the cap, it is passed on to one node, and no other can be asked.

use std::task::{Context, Poll, ready};

use crate::mqtt::Connect;
use crate::net::held::{HeldReader, Reservation};
use crate::net::socket::Socket;
use crate::net::websocket::Upgrade;
use crate::net::websocket::frames::Fault;
use crate::path::ended::Ended;
use crate::path::opening::{Framing, Opening, Replay};

/// The most client bytes kept for replays beyond those received before routing. A client that has sent its CONNECT and
/// this much more is not read until a node has answered.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// A client that no node has accepted yet.
pub(crate) struct PendingClient {
    pub socket: Socket,
    pub replay: Replay,
    pub connect: Connect,
    pub upgrade: Option<Box<Upgrade>>,
    /// Its FIN was read.
    pub fin_received: bool,
    /// The account of the bytes held for it.
    reservation: Reservation,
    /// The fault in its frames that ends the connection. The close frame has not been sent yet.
    fault: Option<Fault>,
    kept_max: usize,
    /// The most bytes that were held at a time; so many are in the account.
    held_max: usize,
    /// Not everything that it has sent is kept.
    is_streamed: bool,
}

impl PendingClient {
    pub(crate) fn new(opening: Opening) -> Self {
        let Opening {
            client,
            replay,
            connect,
            upgrade,
            reservation,
        } = opening;
        Self {
            kept_max: kept(&replay) + KEPT_BYTES_MAX,
            held_max: replay.held_bytes(),
            is_streamed: false,
            socket: client,
            replay,
            connect,
            upgrade,
            fin_received: false,
            fault: None,
            reservation,
        }
    }

    /// Closes the connection, which ended like this, over WebSocket with a close frame that says why.
    pub(crate) async fn close(mut self, ended: Ended) {
        self.replay.close(&self.socket, ended, self.fault, &[]).await;
    }

    /// Reads from the client while no node can answer it, until its connection must end. Returns the cause.
    ///
    /// A FIN ends the connection here: no client half-closes a WebSocket, and no node has received anything to answer.
    pub(crate) async fn until_ended(&mut self) -> Ended {
        loop {
            if self.fin_received {
                return Ended::ClientClosed;
            }
            let received = std::future::poll_fn(|cx| self.poll_receive(cx));
            if let Err(ended) = received.await {
                return ended;
            }
        }
    }

    /// Reads from the client while it waits for a node, until it has left. Returns how.
    ///
    /// A FIN behind more than a CONNECT is no leave over TCP: what it has sent is still to be delivered, as by a client that publishes
    /// and does not wait for an answer.
    pub(crate) async fn until_left(&mut self) -> Ended {
        loop {
            if self.fin_received {
                let has_more = self.replay.mqtt().len() > self.connect.packet_end();
                match has_more && self.upgrade.is_none() {
                    true => std::future::pending().await,
                    false => return Ended::ClientClosed,
                }
            }
            let received = std::future::poll_fn(|cx| self.poll_receive(cx));
            if let Err(ended) = received.await {
                return ended;
            }
        }
    }

    /// The client id.
    pub(crate) fn id(&self) -> &[u8] {
        self.connect.client_id(self.replay.mqtt())
    }

    /// Whether the whole CONNECT has arrived, so that a node with this framing that receives it must answer: on WebSocket with
    /// the rest of its message, before which nodes read none of it.
    pub(crate) fn has_whole_connect(&self, framing: Framing) -> bool {
        self.replay.readable_bytes(framing) >= self.connect.packet_end()
    }

    /// Whether the cap allows more to be read.
    pub(crate) fn has_room(&self) -> bool {
        kept(&self.replay) < self.kept_max
    }

    /// Whether one node has received what is not kept for others.
    pub(crate) fn is_streamed(&self) -> bool {
        self.is_streamed
    }

    /// Makes room for as much more, once a node has received everything that is kept.
    pub(crate) fn forget_sent(&mut self) {
        self.replay.forget();
        self.kept_max = kept(&self.replay) + KEPT_BYTES_MAX;
        self.is_streamed = true;
    }

    /// Reads what the client sends, up to the cap. After a FIN or at the cap, this is never ready.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.fin_received || !self.has_room() {
            return Poll::Pending;
        }
        let room = self.kept_max - kept(&self.replay);
        let Self {
            socket,
            replay,
            reservation,
            fault,
            held_max,
            ..
        } = self;
        let read = HeldReader::new(socket, reservation).poll_read(cx, room, |bytes| {
            replay.push(bytes).map_err(|found| {
                *fault = Some(found);
                Ended::FrameFault
            })?;
            let held = replay.held_bytes();
            let more = held.saturating_sub(*held_max);
            *held_max += more;
            Ok::<_, Ended>(more)
        });
        if ready!(read)? == 0 {
            self.fin_received = true;
        } else if !replay.send_replies(socket) || replay.is_closed() {
            return Poll::Ready(Err(Ended::ClientClosed));
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes that count towards the cap: all that were received, so that a client cannot send pings without limit.
fn kept(replay: &Replay) -> usize {
    usize::try_from(replay.received_bytes()).unwrap_or(usize::MAX)
}
