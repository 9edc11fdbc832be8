//! A relay of another process that is held here until its state comes. Also the states of flows in messages, in both directions.

use crate::base::clock::Seconds;
use crate::cluster::NodeId;
use crate::handover::messages::{self, Invalid};
use crate::net::socket::Socket;
use crate::net::websocket::frames::{FramePosition, Frames, Position};
use crate::path::record::Record;
use crate::path::relay::activity::Activity;
use crate::path::relay::relayed::Relayed;
use crate::path::sides::{Moved, Side, Sides};

/// More bytes than any connection moves; sums of several such numbers are still numbers.
const MOVED_MAX: u64 = 1 << 60;

/// A relay of another process: its sockets are registered, and neither read nor written.
#[derive(Debug)]
pub(crate) struct Parked {
    /// The client's socket.
    pub client: Socket,
    /// The node's.
    pub node: Socket,
    /// A client that is silent for this long is disconnected; `None` means never.
    pub idle_limit: Option<Seconds>,
    /// Its node.
    pub node_id: NodeId,
    /// What is known of the connection.
    pub record: Box<Record>,
}

/// A relay of another process with its state: what a frozen row is made of.
#[derive(Debug)]
pub(crate) struct Adopted {
    /// Its sides.
    pub(super) relayed: Relayed<Socket>,
    /// When its peers last sent something.
    pub(super) activity: Activity,
    /// The last bytes of the client seem to be a DISCONNECT.
    pub(super) ends_with_disconnect: bool,
}

impl Parked {
    /// The relay with its state.
    ///
    /// # Errors
    /// No relay can have this state.
    pub(crate) fn with(self, state: messages::State, now: Seconds) -> Result<Adopted, Invalid> {
        let messages::State {
            number,
            client,
            node,
            silences,
            frames,
            ends_with_disconnect,
        } = state;
        if number != self.record.number {
            return Err(Invalid("number of a state"));
        }
        let [client_silence, node_silence, message_silence] = silences[..] else {
            return Err(Invalid("silences"));
        };
        let heard = |silence: u32| Seconds(now.0.saturating_sub(silence));
        let activity = Activity {
            client: heard(client_silence),
            node: heard(node_silence),
            message: heard(message_silence),
        };
        let side = |socket, message: Option<messages::Side>| side(socket, message.ok_or(Invalid("side"))?);
        Ok(Adopted {
            relayed: Relayed {
                sides: Sides {
                    client: side(self.client, client)?,
                    node: side(self.node, node)?,
                    frames: frames.map(frames_of).transpose()?,
                },
                idle_limit: self.idle_limit,
                activity: Some(activity),
                node_id: self.node_id,
                record: self.record,
            },
            activity,
            ends_with_disconnect,
        })
    }

    /// What is known of the connection.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }
}

impl Adopted {
    /// What is known of the connection.
    pub(crate) fn record(&self) -> &Record {
        &self.relayed.record
    }
}

/// One side, as a message.
pub(super) fn side_message(unsent: &[u8], moved: Moved, counted: Moved) -> messages::Side {
    messages::Side {
        unsent: unsent.to_vec(),
        copied: moved.copied,
        spliced: moved.spliced,
        counted_copied: counted.copied,
        counted_spliced: counted.spliced,
    }
}

fn side(socket: Socket, message: messages::Side) -> Result<Side<Socket>, Invalid> {
    let messages::Side {
        unsent,
        copied,
        spliced,
        counted_copied,
        counted_spliced,
    } = message;
    let is_sound = copied.max(spliced) <= MOVED_MAX && counted_copied <= copied && counted_spliced <= spliced;
    if !is_sound {
        return Err(Invalid("count of bytes"));
    }
    Ok(Side {
        socket,
        unsent,
        ended: false,
        moved: Moved { copied, spliced },
        counted: Moved {
            copied: counted_copied,
            spliced: counted_spliced,
        },
    })
}

/// Where the parser of a client's frames is, as a message.
pub(super) fn frames_message(position: &Position) -> messages::Frames {
    let frame = position.frame.as_ref();
    messages::Frames {
        fragmented: position.fragmented,
        header: position.header.clone(),
        left: frame.map(|frame| frame.left),
        mask: frame.map_or(0, |frame| u32::from_be_bytes(frame.mask)),
        at: frame.map_or(0, |frame| frame.at.into()),
        control: frame.map_or(0, |frame| frame.control.into()),
        payload: frame.map_or(Vec::new(), |frame| frame.payload.clone()),
    }
}

fn frames_of(message: messages::Frames) -> Result<Frames, Invalid> {
    const INVALID: Invalid = Invalid("place in a client's frames");
    let messages::Frames {
        fragmented,
        header,
        left,
        mask,
        at,
        control,
        payload,
    } = message;
    let small = |number: u32| u8::try_from(number).map_err(|_| INVALID);
    let frame = match left {
        None => None,
        Some(left) => Some(FramePosition {
            control: small(control)?,
            left,
            mask: mask.to_be_bytes(),
            at: small(at)?,
            payload,
        }),
    };
    let position = Position {
        fragmented,
        header,
        frame,
    };
    Frames::resume(&position).ok_or(INVALID)
}
