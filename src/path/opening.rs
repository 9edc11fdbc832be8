//! A client whose CONNECT was read as far as routing needs, and the bytes that are still to be sent to a node.
//!
//! `peek` creates it and `greet` consumes it. The bytes are kept so that they can be sent to one node after another.

use crate::mqtt::Connect;
use crate::net::held::Reservation;
use crate::net::socket::Socket;
use crate::net::websocket::Upgrade;
use crate::net::websocket::frames::{self, Control, Fault, Frames, Part, Sender, close_reply, push_pong};
use crate::path::ended::Ended;

pub use crate::net::websocket::Framing;

/// A client whose CONNECT was read as far as routing needs.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The client's socket.
    pub client: Socket,
    /// Everything that the client has sent so far.
    pub replay: Replay,
    /// Its CONNECT.
    pub connect: Connect,
    /// Its upgrade request; `None` for a client without WebSocket.
    pub upgrade: Option<Box<Upgrade>>,
    /// Its share of the held bytes.
    pub reservation: Reservation,
}

/// A client whose TLS ends at the node.
#[derive(Debug)]
pub(crate) struct Passing {
    /// Its socket.
    pub client: Socket,
    /// Everything that it has sent so far: its ClientHello, and any bytes behind it.
    pub received: Vec<u8>,
    /// The server name in its ClientHello.
    pub server_name: Option<Box<str>>,
    /// Its share of the held bytes.
    #[expect(dead_code, reason = "it is held, not read")]
    pub reservation: Reservation,
}

/// The bytes that a client has sent, kept in each framing in which a node may need them.
#[derive(Debug)]
pub enum Replay {
    /// From a client without WebSocket.
    Raw(RawReplay),
    /// From a client with WebSocket.
    WebSocket(Box<FramedReplay>),
}

/// The bytes that a client without WebSocket has sent.
#[derive(Debug, Default)]
pub struct RawReplay {
    mqtt: Vec<u8>,
    /// How many bytes before them are not kept any more.
    forgotten: usize,
}

/// The bytes that a client has sent in WebSocket frames.
#[derive(Debug)]
pub struct FramedReplay {
    /// The payload of the data frames, unmasked.
    mqtt: Vec<u8>,
    /// How many bytes of payload before it are not kept any more.
    forgotten: usize,
    /// How many bytes of payload were in complete messages, those that are not kept any more included.
    in_messages: usize,
    /// The data frames as received. Control frames are left out: they are answered here.
    data_frames: Vec<u8>,
    frames: Frames,
    /// The start of a control frame that is not complete yet.
    control: Vec<u8>,
    /// Pongs and the answer to a close frame that are still to be sent to the client.
    replies: Vec<u8>,
    received_bytes: u64,
}

/// The most bytes of replies kept for a client. A client that sends more pings and reads no pongs is disconnected.
const REPLIES_BYTES_MAX: usize = 4 * 1024;

impl Replay {
    /// An empty replay, for a client with this framing.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Raw => Self::Raw(RawReplay::default()),
            Framing::WebSocket => Self::WebSocket(Box::new(FramedReplay {
                mqtt: Vec::new(),
                forgotten: 0,
                in_messages: 0,
                data_frames: Vec::new(),
                frames: Frames::new(Sender::Client),
                control: Vec::new(),
                replies: Vec::new(),
                received_bytes: 0,
            })),
        }
    }

    /// The client's framing.
    pub fn framing(&self) -> Framing {
        match self {
            Self::Raw(_) => Framing::Raw,
            Self::WebSocket(_) => Framing::WebSocket,
        }
    }

    /// The MQTT that the client has sent, as far as it is kept.
    pub fn mqtt(&self) -> &[u8] {
        match self {
            Self::Raw(raw) => &raw.mqtt,
            Self::WebSocket(framed) => &framed.mqtt,
        }
    }

    /// How much of the MQTT a node with this framing has received in a form that it reads: on WebSocket, complete messages.
    pub(crate) fn readable_bytes(&self, framing: Framing) -> usize {
        match (self, framing) {
            (Self::WebSocket(framed), Framing::WebSocket) => framed.in_messages,
            (Self::WebSocket(framed), Framing::Raw) => framed.forgotten + framed.mqtt.len(),
            (Self::Raw(raw), _) => raw.forgotten + raw.mqtt.len(),
        }
    }

    /// The bytes to send to a node with this framing. A client without WebSocket is never taken to a node with it.
    pub fn bytes_for(&self, framing: Framing) -> &[u8] {
        match (self, framing) {
            (Self::WebSocket(framed), Framing::WebSocket) => &framed.data_frames,
            _ => self.mqtt(),
        }
    }

    /// Appends bytes as received from the client.
    ///
    /// # Errors
    /// They are not valid WebSocket frames.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Raw(raw) => {
                raw.mqtt.extend_from_slice(bytes);
                Ok(())
            }
            Self::WebSocket(framed) => framed.push(bytes),
        }
    }

    /// How many bytes were received from the client.
    pub fn received_bytes(&self) -> u64 {
        match self {
            Self::Raw(raw) => (raw.forgotten + raw.mqtt.len()) as u64,
            Self::WebSocket(framed) => framed.received_bytes,
        }
    }

    /// Keeps nothing of what a node has received, which is everything so far: no other node can receive it, and client id and user name
    /// cannot be read any more.
    pub(crate) fn forget(&mut self) {
        match self {
            Self::Raw(raw) => {
                raw.forgotten += raw.mqtt.len();
                raw.mqtt.clear();
            }
            Self::WebSocket(framed) => {
                framed.forgotten += framed.mqtt.len();
                framed.mqtt.clear();
                framed.data_frames.clear();
            }
        }
    }

    /// How many bytes are kept: for frames, both the frames and their payload. Only [`Replay::forget`] makes it less.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Raw(raw) => raw.mqtt.len(),
            Self::WebSocket(framed) => framed.mqtt.len() + framed.data_frames.len(),
        }
    }

    /// Whether the client has sent a close frame.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::WebSocket(framed) if framed.frames.is_closed())
    }

    /// Sends the client as many of the pending replies to its control frames as its socket takes now. Returns false if
    /// too many are left: the client sends pings and does not read.
    pub fn send_replies(&mut self, client: &Socket) -> bool {
        let Self::WebSocket(framed) = self else {
            return true;
        };
        let replies = &mut framed.replies;
        if replies.is_empty() {
            return true;
        }
        // If the connection is lost, the next read reports it.
        let sent = client.send_now(replies).unwrap_or(0);
        replies.drain(..sent);
        replies.len() <= REPLIES_BYTES_MAX
    }

    /// The last bytes to send to the client: the pending replies, the first of which may have been sent in part, and
    /// then `last`.
    pub fn closing_bytes(&mut self, last: &[u8]) -> Vec<u8> {
        match self {
            Self::Raw(_) => last.to_vec(),
            Self::WebSocket(framed) => {
                let mut bytes = std::mem::take(&mut framed.replies);
                bytes.extend_from_slice(last);
                bytes
            }
        }
    }

    /// Closes the connection of a client that no node has accepted, over WebSocket with a close frame where there is something to say.
    /// `fault` is what was wrong with its frames, and `answer` is MQTT that it is still to receive, which may be empty.
    pub(crate) async fn close(&mut self, client: &Socket, ended: Ended, fault: Option<Fault>, answer: &[u8]) {
        let code = fault.map(Fault::close_code).or_else(|| close_code(ended));
        match (self.framing(), code) {
            (Framing::WebSocket, Some(code)) => {
                let last = match answer {
                    [] => frames::close(code),
                    mqtt => [frames::binary(mqtt), frames::close(code)].concat(),
                };
                let bytes = self.closing_bytes(&last);
                if ended == Ended::ConnectTimeout {
                    // Everything that it has sent was read, so no reset overtakes this; and it is not waited for any longer.
                    let _ = client.send_now(&bytes);
                    client.send_close_notify();
                } else {
                    client.close_after(&bytes).await;
                }
            }
            // What follows a close frame is ignored, and must not lead to a reset that overtakes the answer.
            (Framing::WebSocket, None) if self.is_closed() => {
                let bytes = self.closing_bytes(&[]);
                client.close_after(&bytes).await;
            }
            (Framing::Raw, _) if !answer.is_empty() => client.close_after(answer).await,
            _ => client.send_close_notify(),
        }
    }

    /// What the relay must still send, after the first `sent` bytes of [`Replay::bytes_for`] were sent to a node with
    /// this framing.
    pub fn into_unsent(self, framing: Framing, sent: usize) -> Unsent {
        let after = |mut bytes: Vec<u8>| match sent == bytes.len() {
            true => Vec::new(),
            false => bytes.split_off(sent),
        };
        match self {
            Self::Raw(raw) => Unsent {
                to_node: after(raw.mqtt),
                to_client: Vec::new(),
                frames: None,
            },
            Self::WebSocket(framed) => {
                let FramedReplay {
                    mqtt,
                    data_frames,
                    frames,
                    control,
                    replies,
                    ..
                } = *framed;
                let (to_node, frames) = match framing {
                    Framing::Raw => (after(mqtt), Some(frames)),
                    Framing::WebSocket => {
                        let mut rest = after(data_frames);
                        // The node answers a control frame that has only arrived in part: the rest is relayed
                        // unchanged.
                        rest.extend_from_slice(&control);
                        (rest, None)
                    }
                };
                Unsent {
                    to_node,
                    to_client: replies,
                    frames,
                }
            }
        }
    }
}

/// The status code for a WebSocket whose MQTT has ended the connection (RFC 6455, 7.4.1); `None` if the client or the connection itself
/// has.
fn close_code(ended: Ended) -> Option<u16> {
    const PROTOCOL_ERROR: u16 = 1002;
    const POLICY_VIOLATION: u16 = 1008;
    const TOO_LARGE: u16 = 1009;
    match ended {
        Ended::Malformed | Ended::NotMqttTls | Ended::NotMqttProxy | Ended::NotMqttHttp | Ended::NotMqttJunk => {
            Some(PROTOCOL_ERROR)
        }
        Ended::ConnectTimeout => Some(POLICY_VIOLATION),
        Ended::ConnectTooLarge => Some(TOO_LARGE),
        _ => None,
    }
}

/// What a relay sends first.
#[derive(Debug)]
pub struct Unsent {
    /// Bytes for the node.
    pub to_node: Vec<u8>,
    /// Bytes for the client, before everything that comes from the node.
    pub to_client: Vec<u8>,
    /// The decoder of the client's frames, if the relay must unwrap them for the node.
    pub frames: Option<Frames>,
}

impl FramedReplay {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        self.received_bytes += bytes.len() as u64;
        while !bytes.is_empty() && !self.frames.is_closed() {
            let (length, part) = self.frames.next(bytes)?;
            let (taken, rest) = bytes.split_at(length);
            bytes = rest;
            match part {
                Part::Header => self.data_frames.extend_from_slice(taken),
                Part::Data(mask) => {
                    self.data_frames.extend_from_slice(taken);
                    let start = self.mqtt.len();
                    self.mqtt.extend_from_slice(taken);
                    mask.apply(&mut self.mqtt[start..]);
                }
                Part::Control(None) => self.control.extend_from_slice(taken),
                Part::Control(Some(control)) => {
                    self.control.clear();
                    match control {
                        Control::Ping(payload) => push_pong(&mut self.replies, &payload),
                        Control::Pong => {}
                        Control::Close(payload) => self.replies.extend(close_reply(&payload)),
                    }
                }
            }
            if self.frames.is_between_messages() {
                self.in_messages = self.forgotten + self.mqtt.len();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Need, Verdict, read_connect};

    /// A client's frame whose mask is all zeros, so that the payload stays readable.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn control_frames_are_answered_and_not_replayed_wherever_they_are_split() {
        let one = frame(0x02, b"on");
        let ping = frame(0x89, b"?");
        let other = frame(0x80, b"e");
        let all = [one.as_slice(), &ping, &other].concat();
        let data = [one.as_slice(), &other].concat();
        for cut in 0..all.len() {
            let mut replay = Replay::new(Framing::WebSocket);
            replay.push(&all[..cut]).expect("frames");
            replay.push(&all[cut..]).expect("frames");
            assert_eq!(replay.mqtt(), b"one");
            assert_eq!(replay.bytes_for(Framing::WebSocket), data);
            let unsent = replay.into_unsent(Framing::WebSocket, data.len() - 1);
            assert_eq!(unsent.to_node, b"e");
            assert_eq!(unsent.to_client, [0x8A, 1, b'?']);
        }
    }

    #[test]
    fn a_control_frame_that_goes_on_is_left_to_the_node_from_its_first_byte() {
        let one = frame(0x82, b"one");
        let ping = frame(0x89, b"?!");
        for cut in 1..ping.len() {
            let mut replay = Replay::new(Framing::WebSocket);
            replay.push(&[one.as_slice(), &ping[..cut]].concat()).expect("frames");
            let unsent = replay.into_unsent(Framing::WebSocket, one.len());
            assert_eq!(unsent.to_node, &ping[..cut]);
            assert!(unsent.to_client.is_empty());
        }
    }

    #[test]
    fn a_connect_is_the_same_however_its_frames_are_cut_and_fragmented() {
        let mut connect = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x82, 0, 60, 0, 6];
        connect.extend(b"sensor\0\x04user");
        connect[1] = connect.len() as u8 - 2;
        for need in [Need::ClientId, Need::Username] {
            let whole = read_connect(&connect, need);
            assert!(matches!(whole, Verdict::Complete(_)), "{whole:?}");
            for split in 0..=connect.len() {
                let frames = [
                    frame(0x02, &connect[..split]),
                    frame(0x89, b"?"),
                    frame(0x00, b""),
                    frame(0x80, &connect[split..]),
                ];
                let data = [&frames[0][..], &frames[2], &frames[3]].concat();
                let all = frames.concat();
                for cut in 0..=all.len() {
                    let mut replay = Replay::new(Framing::WebSocket);
                    replay.push(&all[..cut]).expect("frames");
                    replay.push(&all[cut..]).expect("frames");
                    assert_eq!(replay.mqtt(), connect);
                    assert_eq!(replay.bytes_for(Framing::WebSocket), data);
                    assert_eq!(read_connect(replay.mqtt(), need), whole);
                }
            }
        }
    }

    #[test]
    fn a_node_with_websocket_reads_complete_messages_alone() {
        let one = [
            frame(0x02, b"on"),
            frame(0x00, b"e"),
            frame(0x89, b"?"),
            frame(0x80, b""),
        ]
        .concat();
        let bytes = [&one[..], &frame(0x02, b"two")].concat();
        for end in 0..bytes.len() {
            let mut replay = Replay::new(Framing::WebSocket);
            replay.push(&bytes[..end]).expect("frames");
            let expected = if end < one.len() { 0 } else { 3 };
            assert_eq!(replay.readable_bytes(Framing::WebSocket), expected, "{end}");
            assert_eq!(replay.readable_bytes(Framing::Raw), replay.mqtt().len());
        }
    }

    #[test]
    fn nothing_is_read_after_a_close_frame() {
        let mut replay = Replay::new(Framing::WebSocket);
        let close = frame(0x88, &[3, 0xE8]);
        replay.push(&[close.as_slice(), b"junk"].concat()).expect("frames");
        assert!(replay.is_closed());
        assert_eq!(replay.mqtt(), b"");
    }

    #[test]
    fn what_is_forgotten_still_counts() {
        let bytes = [frame(0x02, b"one"), frame(0x00, b"two"), frame(0x80, b"three")].concat();
        for end in 0..=bytes.len() {
            let mut replay = Replay::new(Framing::WebSocket);
            replay.push(&bytes[..end]).expect("frames");
            let before = replay.mqtt().len();
            replay.forget();
            assert_eq!(replay.held_bytes(), 0);
            replay.push(&bytes[end..]).expect("frames");
            assert_eq!(replay.mqtt(), &b"onetwothree"[before..]);
            assert_eq!(replay.bytes_for(Framing::WebSocket), &bytes[end..]);
            assert_eq!(replay.received_bytes(), bytes.len() as u64);
            for framing in [Framing::Raw, Framing::WebSocket] {
                assert_eq!(replay.readable_bytes(framing), 11, "{end}");
            }
        }
        let mut replay = Replay::new(Framing::Raw);
        replay.push(b"one").expect("no frames");
        replay.forget();
        replay.push(b"two").expect("no frames");
        assert_eq!((replay.mqtt(), replay.received_bytes()), (&b"two"[..], 6));
        assert_eq!(replay.readable_bytes(Framing::Raw), 6);
    }
}
