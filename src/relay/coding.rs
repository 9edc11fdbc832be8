//! What becomes of the bytes of one direction on their way: nothing, or WebSocket frames are opened, or made.

use std::ops::Range;

use crate::websocket::frames::{
    Control, Fault, Frames, NORMAL_CLOSURE, Part, binary_header, close, pong,
};

/// Room for the longest header before what is read.
const HEADROOM: usize = 10;

/// What is done with bytes between reading and sending them.
#[derive(Debug, Default)]
pub enum Coding {
    /// They pass as they are.
    #[default]
    Untouched,
    /// A client's frames are opened for a node that speaks MQTT over TCP.
    Open(Box<Frames>),
    /// What such a node says is put into frames.
    Frame,
    /// The client's close frame was answered: nothing may come behind the answer (RFC 6455, 5.5.1).
    Mute,
}

/// What is left to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Coded {
    /// Where it stands.
    pub range: Range<usize>,
    /// The sender has said that it will say no more.
    pub closed: bool,
}

impl Coding {
    /// Where reading has to begin in a buffer.
    pub fn start(&self) -> usize {
        match self {
            Self::Frame => HEADROOM,
            Self::Untouched | Self::Open(_) | Self::Mute => 0,
        }
    }

    /// Whether bytes pass as they are, so that they may be spliced.
    pub fn is_untouched(&self) -> bool {
        matches!(self, Self::Untouched)
    }

    /// Changes the `read` bytes from [`Coding::start`] on where they are; answers to the sender go to `replies`.
    ///
    /// # Errors
    /// They are no frames that may be here.
    pub fn code(
        &mut self,
        buffer: &mut [u8],
        read: usize,
        replies: &mut Vec<u8>,
    ) -> Result<Coded, Fault> {
        match self {
            Self::Untouched => Ok(Coded {
                range: 0..read,
                closed: false,
            }),
            Self::Frame => {
                let (header, header_bytes) = binary_header(read);
                let start = HEADROOM - header_bytes;
                buffer[start..HEADROOM].copy_from_slice(&header[..header_bytes]);
                Ok(Coded {
                    range: start..HEADROOM + read,
                    closed: false,
                })
            }
            Self::Open(frames) => open(frames, &mut buffer[..read], replies),
            Self::Mute => Ok(Coded {
                range: 0..0,
                closed: false,
            }),
        }
    }

    /// What is said to the receiver when the sender has ended.
    pub fn farewell(&self) -> Option<Vec<u8>> {
        match self {
            Self::Frame => Some(close(&NORMAL_CLOSURE.to_be_bytes())),
            Self::Untouched | Self::Open(_) | Self::Mute => None,
        }
    }
}

/// Moves what is in the frames to the front of the buffer.
fn open(frames: &mut Frames, buffer: &mut [u8], replies: &mut Vec<u8>) -> Result<Coded, Fault> {
    let (mut at, mut end) = (0, 0);
    while at < buffer.len() {
        let (here, part) = frames.next(&buffer[at..])?;
        match part {
            Part::Header | Part::Control(None | Some(Control::Pong)) => {}
            Part::Data(mask) => {
                buffer.copy_within(at..at + here, end);
                mask.apply(&mut buffer[end..end + here]);
                end += here;
            }
            Part::Control(Some(Control::Ping(payload))) => replies.extend(pong(&payload)),
            Part::Control(Some(Control::Close(payload))) => {
                replies.extend(close(&payload));
                return Ok(Coded {
                    range: 0..end,
                    closed: true,
                });
            }
        }
        at += here;
    }
    Ok(Coded {
        range: 0..end,
        closed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::frames::Sender;

    #[test]
    fn frames_are_opened_in_place_and_their_control_frames_answered() {
        let key = [1, 2, 3, 4];
        let mut bytes = vec![0x82, 0x83];
        bytes.extend(key);
        bytes.extend([b'a' ^ 1, b'b' ^ 2, b'c' ^ 3]);
        bytes.extend([0x89, 0x81, 0, 0, 0, 0, b'?']);
        bytes.extend([0x82, 0x81, 0, 0, 0, 0, b'd']);
        bytes.extend([0x88, 0x80, 0, 0, 0, 0, 0xFF]);
        let mut coding = Coding::Open(Box::new(Frames::new(Sender::Client)));
        let mut replies = Vec::new();
        let read = bytes.len();
        let coded = coding.code(&mut bytes, read, &mut replies).expect("frames");
        assert_eq!(&bytes[coded.range.clone()], b"abcd");
        assert!(coded.closed, "what is behind the close is not read");
        assert_eq!(replies, [0x8A, 1, b'?', 0x88, 0]);
    }

    #[test]
    fn what_a_node_says_becomes_one_frame() {
        for read in [1, 125, 126, 60_000] {
            let mut buffer = vec![7; HEADROOM + read];
            let coded = Coding::Frame
                .code(&mut buffer, read, &mut Vec::new())
                .expect("no frames to be wrong");
            let frame = &buffer[coded.range];
            let (header, header_bytes) = binary_header(read);
            assert_eq!(&frame[..header_bytes], &header[..header_bytes]);
            assert_eq!(frame.len(), header_bytes + read);
        }
    }
}
