//! An opening: a client whose CONNECT was read as far as routing needs, every byte still to be replayed.

use crate::held::Share;
use crate::mqtt::Connect;
use crate::socket::Socket;
use crate::websocket::Upgrade;
use crate::websocket::frames::{Control, Fault, Frames, Part, Sender, close, pong};

/// What `peek` makes and `greet` takes to a node.
#[derive(Debug)]
pub struct Opening {
    /// The client's socket.
    pub client: Socket,
    /// Everything that the client has sent so far.
    pub said: Said,
    /// What its CONNECT says.
    pub connect: Connect,
    /// What it asked for when it upgraded; none for a client that speaks MQTT over TCP.
    pub upgrade: Option<Box<Upgrade>>,
    /// The account of what is held for it.
    pub share: Share,
}

/// A client whose TLS ends at the node.
#[derive(Debug)]
pub struct Passing {
    /// Its socket.
    pub client: Socket,
    /// What it has said so far, its ClientHello included.
    pub said: Vec<u8>,
    /// The server name that it asks for.
    pub server_name: Option<Box<str>>,
    /// The account of what it said.
    pub share: Share,
}

/// How MQTT is carried on one of the two legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// As it is.
    Tcp,
    /// In WebSocket frames.
    Ws,
}

/// What a client has said, in each way in which a node may want to hear it.
#[derive(Debug)]
pub enum Said {
    /// MQTT as it is.
    Plain(Vec<u8>),
    /// MQTT in WebSocket frames.
    Framed(Box<Framed>),
}

/// What a client has said in WebSocket frames.
#[derive(Debug)]
pub struct Framed {
    /// What was in the frames.
    mqtt: Vec<u8>,
    /// The frames as they came, but for control frames: those are answered here.
    data_frames: Vec<u8>,
    frames: Frames,
    /// What is there of a control frame that is not whole.
    control: Vec<u8>,
    /// Answers that the client has not got yet.
    replies: Vec<u8>,
    /// All bytes that came.
    heard: u64,
}

/// Answers that wait for a client at most: one that asks and does not listen is none to wait for.
const REPLIES_BYTES_MAX: usize = 4 * 1024;

impl Said {
    /// Nothing yet, on a leg of this kind.
    pub fn nothing(leg: Leg) -> Self {
        match leg {
            Leg::Tcp => Self::Plain(Vec::new()),
            Leg::Ws => Self::Framed(Box::new(Framed {
                mqtt: Vec::new(),
                data_frames: Vec::new(),
                frames: Frames::new(Sender::Client),
                control: Vec::new(),
                replies: Vec::new(),
                heard: 0,
            })),
        }
    }

    /// How the client speaks.
    pub fn leg(&self) -> Leg {
        match self {
            Self::Plain(_) => Leg::Tcp,
            Self::Framed(_) => Leg::Ws,
        }
    }

    /// The MQTT in it.
    pub fn mqtt(&self) -> &[u8] {
        match self {
            Self::Plain(mqtt) => mqtt,
            Self::Framed(framed) => &framed.mqtt,
        }
    }

    /// What a node on this leg is to hear.
    pub fn on(&self, leg: Leg) -> &[u8] {
        match (self, leg) {
            (Self::Framed(framed), Leg::Ws) => &framed.data_frames,
            _ => self.mqtt(),
        }
    }

    /// Adds bytes as they came from the client.
    ///
    /// # Errors
    /// They are no frames that may be here.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Plain(mqtt) => {
                mqtt.extend_from_slice(bytes);
                Ok(())
            }
            Self::Framed(framed) => framed.hear(bytes),
        }
    }

    /// How many bytes came from the client.
    pub fn heard(&self) -> u64 {
        match self {
            Self::Plain(mqtt) => mqtt.len() as u64,
            Self::Framed(framed) => framed.heard,
        }
    }

    /// How many bytes are kept of it: frames beside what is in them. Never less than before.
    pub fn held(&self) -> usize {
        match self {
            Self::Plain(mqtt) => mqtt.len(),
            Self::Framed(framed) => framed.mqtt.len() + framed.data_frames.len(),
        }
    }

    /// Whether the client has said that it will say no more.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Framed(framed) if framed.frames.is_closed())
    }

    /// Sends the client the answers to its pings, as far as it takes them now. False when it takes none while it goes on
    /// asking.
    pub fn reply(&mut self, client: &Socket) -> bool {
        let Self::Framed(framed) = self else {
            return true;
        };
        let replies = &mut framed.replies;
        if replies.is_empty() {
            return true;
        }
        // A client that is lost is heard of when it is read.
        let sent = client.send_now(replies).unwrap_or(0);
        replies.drain(..sent);
        replies.len() <= REPLIES_BYTES_MAX
    }

    /// What is said to the client at the end: first the rest of the answers to its pings, which may have gone out in part.
    pub fn last_words(&mut self, words: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain(_) => words.to_vec(),
            Self::Framed(framed) => {
                let mut all = std::mem::take(&mut framed.replies);
                all.extend_from_slice(words);
                all
            }
        }
    }

    /// Ends the hearing for a node on this leg that has heard `sent` bytes of it: what it has still to hear, what the client
    /// has still to hear first, and how the stream of frames stands.
    pub fn into_rest(self, leg: Leg, sent: usize) -> Rest {
        let after = |mut bytes: Vec<u8>| match sent == bytes.len() {
            true => Vec::new(),
            false => bytes.split_off(sent),
        };
        match self {
            Self::Plain(mqtt) => Rest {
                to_node: after(mqtt),
                to_client: Vec::new(),
                frames: None,
            },
            Self::Framed(framed) => {
                let Framed {
                    mqtt,
                    data_frames,
                    frames,
                    control,
                    replies,
                    ..
                } = *framed;
                let (to_node, frames) = match leg {
                    Leg::Tcp => (after(mqtt), Some(frames)),
                    Leg::Ws => {
                        let mut rest = after(data_frames);
                        // A control frame that goes on is the node's to answer: the rest of it passes untouched.
                        rest.extend_from_slice(&control);
                        (rest, None)
                    }
                };
                Rest {
                    to_node,
                    to_client: replies,
                    frames,
                }
            }
        }
    }
}

/// What is left of a hearing.
#[derive(Debug)]
pub struct Rest {
    /// What the node has still to hear.
    pub to_node: Vec<u8>,
    /// What the client has still to hear before anything of the node.
    pub to_client: Vec<u8>,
    /// How the client's stream of frames stands, where they are opened for the node.
    pub frames: Option<Frames>,
}

impl Framed {
    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        self.heard += bytes.len() as u64;
        while !bytes.is_empty() && !self.frames.is_closed() {
            let (here, part) = self.frames.next(bytes)?;
            let (taken, rest) = bytes.split_at(here);
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
                        Control::Ping(payload) => self.replies.extend(pong(&payload)),
                        Control::Pong => {}
                        Control::Close(payload) => self.replies.extend(close(&payload)),
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Need, Verdict, read_connect};

    /// A frame of a client with an all-zero mask, so that its payload can be read.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn control_frames_are_answered_and_not_replayed_however_they_are_cut() {
        let one = frame(0x02, b"on");
        let ping = frame(0x89, b"?");
        let other = frame(0x80, b"e");
        let all = [one.as_slice(), &ping, &other].concat();
        let data = [one.as_slice(), &other].concat();
        for cut in 0..all.len() {
            let mut said = Said::nothing(Leg::Ws);
            said.hear(&all[..cut]).expect("frames");
            said.hear(&all[cut..]).expect("frames");
            assert_eq!(said.mqtt(), b"one");
            assert_eq!(said.on(Leg::Ws), data);
            let rest = said.into_rest(Leg::Ws, data.len() - 1);
            assert_eq!(rest.to_node, b"e");
            assert_eq!(rest.to_client, [0x8A, 1, b'?']);
        }
    }

    #[test]
    fn a_control_frame_that_goes_on_is_left_to_the_node_from_its_first_byte() {
        let one = frame(0x82, b"one");
        let ping = frame(0x89, b"?!");
        for cut in 1..ping.len() {
            let mut said = Said::nothing(Leg::Ws);
            said.hear(&[one.as_slice(), &ping[..cut]].concat())
                .expect("frames");
            let rest = said.into_rest(Leg::Ws, one.len());
            assert_eq!(rest.to_node, &ping[..cut]);
            assert!(rest.to_client.is_empty());
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
                    let mut said = Said::nothing(Leg::Ws);
                    said.hear(&all[..cut]).expect("frames");
                    said.hear(&all[cut..]).expect("frames");
                    assert_eq!(said.mqtt(), connect);
                    assert_eq!(said.on(Leg::Ws), data);
                    assert_eq!(read_connect(said.mqtt(), need), whole);
                }
            }
        }
    }

    #[test]
    fn nothing_is_heard_after_a_close() {
        let mut said = Said::nothing(Leg::Ws);
        let close = frame(0x88, &[3, 0xE8]);
        said.hear(&[close.as_slice(), b"junk"].concat())
            .expect("frames");
        assert!(said.is_closed());
        assert_eq!(said.mqtt(), b"");
    }
}
