//! The two sides of a connection, moved as a whole from greeting to the relay, and from one worker's relay to
//! another's. Depends on no station.

use std::io;

use crate::net::socket::{Detached, Socket};
use crate::net::websocket::frames::Frames;

/// A client and its node, at rest between two owners.
#[derive(Debug)]
pub struct Sides<S> {
    /// The client's side.
    pub client: Side<S>,
    /// The node's side.
    pub node: Side<S>,
    /// The decoder of the client's WebSocket frames, if the node does not use WebSocket.
    pub frames: Option<Frames>,
}

/// One side: a socket and what was read from it.
#[derive(Debug)]
pub struct Side<S> {
    /// The socket.
    pub socket: S,
    /// Still to be sent to the other side, before anything that is read from now on.
    pub unsent: Vec<u8>,
    /// The peer's end of stream was read.
    pub ended: bool,
    /// What was read so far.
    pub moved: Moved,
    /// The part of `moved` that is in the metrics already.
    pub counted: Moved,
}

/// Bytes read from one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// By copying.
    pub copied: u64,
    /// By splicing.
    pub spliced: u64,
}

/// Bytes read from both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// From the client.
    pub from_client: Moved,
    /// From the node.
    pub from_node: Moved,
}

impl<S> Side<S> {
    /// A side from which `read` bytes were read during set-up, none of which are in the metrics yet.
    pub fn new(socket: S, unsent: Vec<u8>, read: u64, ended: bool) -> Self {
        Self {
            socket,
            unsent,
            ended,
            moved: Moved {
                copied: read,
                spliced: 0,
            },
            counted: Moved::default(),
        }
    }
}

impl Side<Detached> {
    fn attach(self) -> io::Result<Side<Socket>> {
        Ok(Side {
            socket: self.socket.attach()?,
            unsent: self.unsent,
            ended: self.ended,
            moved: self.moved,
            counted: self.counted,
        })
    }
}

impl Sides<Detached> {
    /// Registers both sockets with this thread's runtime.
    ///
    /// # Errors
    /// epoll refuses one of them; the connection is lost.
    pub(crate) fn attach(self) -> io::Result<Sides<Socket>> {
        Ok(Sides {
            client: self.client.attach()?,
            node: self.node.attach()?,
            frames: self.frames,
        })
    }
}

impl Moved {
    /// Copied and spliced bytes together.
    pub(crate) fn total(self) -> u64 {
        self.copied + self.spliced
    }

    /// What was moved since the count was `before`.
    fn since(self, before: Self) -> Self {
        Self {
            copied: self.copied - before.copied,
            spliced: self.spliced - before.spliced,
        }
    }
}

impl Bytes {
    /// What was moved since the count was `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            from_client: self.from_client.since(before.from_client),
            from_node: self.from_node.since(before.from_node),
        }
    }
}
