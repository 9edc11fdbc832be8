//! How the bytes of one direction are transformed: not at all, or WebSocket frames are removed or added.

use std::ops::Range;

use crate::base::clock::Seconds;
use crate::net::websocket::frames::{
    Control, Fault, Frames, NORMAL_CLOSURE, Part, binary_header, close, close_reply, push_pong,
};

/// Room for the longest frame header, in front of the bytes that are read.
const HEADROOM: usize = 10;

/// The most frames without a byte of MQTT that a client may send in a row within a second.
///
/// Pings and pongs are legal at any time and for ever, so only their rate can be too high. Clients send a ping every few
/// seconds at most. One that is read again after a minute and a half in which its node took nothing (`user_timeout`)
/// would have to ping more than ten times a second to be ended.
const EMPTY_FRAMES_MAX: u32 = 1_024;

/// What is done with bytes between reading and sending them.
#[derive(Debug, Default)]
pub enum Coding {
    /// They pass unchanged.
    #[default]
    Untouched,
    /// A client's frames are unwrapped for a node with plain MQTT.
    Unframe(Box<Unframing>),
    /// The bytes of such a node are put into frames.
    Frame,
    /// They are discarded: the client's close frame was answered, and nothing may follow the answer (RFC 6455, 5.5.1).
    Discard,
}

/// The decoder of a client's frames, and how many of them lately carried nothing.
#[derive(Debug)]
pub struct Unframing {
    frames: Frames,
    /// Frames since the last byte of MQTT, or since the second began.
    empty: u32,
    second: Seconds,
}

impl Unframing {
    /// Whether the client has sent a close frame.
    pub(crate) fn is_closed(&self) -> bool {
        self.frames.is_closed()
    }

    /// The decoder.
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The decoder alone.
    pub(crate) fn into_frames(self) -> Frames {
        self.frames
    }
}

/// The bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Coded {
    /// Their place in the buffer.
    pub range: Range<usize>,
    /// How many parts of frames were read.
    pub parts: usize,
    /// The sender has sent a close frame, and nothing behind it is read.
    pub closed: bool,
}

impl Coding {
    /// Unwraps a client's frames from here on.
    pub fn unframe(frames: Frames) -> Self {
        Self::Unframe(Box::new(Unframing {
            frames,
            empty: 0,
            second: Seconds::default(),
        }))
    }

    /// The offset in a buffer at which to begin reading.
    pub fn start(&self) -> usize {
        match self {
            Self::Frame => HEADROOM,
            Self::Untouched | Self::Unframe(_) | Self::Discard => 0,
        }
    }

    /// Whether bytes pass unchanged, so that they may be spliced.
    pub fn is_untouched(&self) -> bool {
        matches!(self, Self::Untouched)
    }

    /// Transforms in place the `read` bytes that begin at [`Coding::start`]. Replies to the sender are appended to
    /// `replies`.
    ///
    /// # Errors
    /// The frames are invalid.
    pub fn code(&mut self, buffer: &mut [u8], read: usize, replies: &mut Vec<u8>) -> Result<Coded, Fault> {
        match self {
            Self::Untouched => Ok(Coded {
                range: 0..read,
                parts: 0,
                closed: false,
            }),
            Self::Frame => {
                let (header, header_bytes) = binary_header(read);
                let start = HEADROOM - header_bytes;
                buffer[start..HEADROOM].copy_from_slice(&header[..header_bytes]);
                Ok(Coded {
                    range: start..HEADROOM + read,
                    parts: 1,
                    closed: false,
                })
            }
            Self::Unframe(unframing) => unframe(&mut unframing.frames, &mut buffer[..read], replies),
            Self::Discard => Ok(Coded {
                range: 0..0,
                parts: 0,
                closed: false,
            }),
        }
    }

    /// Counts the frames of a read. Returns whether too many in a row had no byte of MQTT in them.
    pub fn is_flood(&mut self, coded: &Coded, now: Seconds) -> bool {
        let Self::Unframe(unframing) = self else {
            return false;
        };
        if !coded.range.is_empty() || unframing.second != now {
            (unframing.empty, unframing.second) = (0, now);
        }
        if coded.range.is_empty() {
            unframing.empty = unframing
                .empty
                .saturating_add(u32::try_from(coded.parts).unwrap_or(u32::MAX));
        }
        unframing.empty > EMPTY_FRAMES_MAX
    }

    /// The close frame to send to the receiver when the sender has ended.
    pub fn close_after(&self) -> Option<Vec<u8>> {
        match self {
            Self::Frame => Some(close(NORMAL_CLOSURE)),
            Self::Untouched | Self::Unframe(_) | Self::Discard => None,
        }
    }
}

/// Moves the payload of the frames to the front of the buffer.
fn unframe(frames: &mut Frames, buffer: &mut [u8], replies: &mut Vec<u8>) -> Result<Coded, Fault> {
    let (mut at, mut end, mut parts) = (0, 0, 0);
    let mut closed = false;
    while at < buffer.len() && !closed {
        let (here, part) = frames.next(&buffer[at..])?;
        match part {
            Part::Header | Part::Control(None | Some(Control::Pong)) => {}
            Part::Data(mask) => {
                buffer.copy_within(at..at + here, end);
                mask.apply(&mut buffer[end..end + here]);
                end += here;
            }
            Part::Control(Some(Control::Ping(payload))) => push_pong(replies, &payload),
            Part::Control(Some(Control::Close(payload))) => {
                replies.extend(close_reply(&payload));
                closed = true;
            }
        }
        at += here;
        parts += 1;
    }
    Ok(Coded {
        range: 0..end,
        parts,
        closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::allocated::allocations;
    use crate::net::websocket::frames::Sender;

    #[test]
    fn frames_are_opened_in_place_and_their_control_frames_answered() {
        let key = [1, 2, 3, 4];
        let mut bytes = vec![0x82, 0x83];
        bytes.extend(key);
        bytes.extend([b'a' ^ 1, b'b' ^ 2, b'c' ^ 3]);
        bytes.extend([0x89, 0x81, 0, 0, 0, 0, b'?']);
        bytes.extend([0x82, 0x81, 0, 0, 0, 0, b'd']);
        bytes.extend([0x88, 0x80, 0, 0, 0, 0, 0xFF]);
        let mut coding = Coding::unframe(Frames::new(Sender::Client));
        let mut replies = Vec::new();
        let read = bytes.len();
        let coded = coding.code(&mut bytes, read, &mut replies).expect("frames");
        assert_eq!(&bytes[coded.range.clone()], b"abcd");
        assert!(coded.closed, "what is behind the close is not read");
        assert_eq!(replies, [0x8A, 1, b'?', 0x88, 0]);
    }

    /// A client's frame without payload.
    fn empty_frame(first: u8) -> [u8; 6] {
        [first, 0x80, 1, 2, 3, 4]
    }

    /// Whether the last of these reads, each with its time, is one too many.
    fn is_flood(reads: &[(u32, Vec<u8>)]) -> bool {
        let mut coding = Coding::unframe(Frames::new(Sender::Client));
        let mut last = false;
        for (second, bytes) in reads {
            assert!(!last, "only the last read is one too many");
            let mut buffer = bytes.clone();
            let coded = coding.code(&mut buffer, bytes.len(), &mut Vec::new()).expect("frames");
            last = coding.is_flood(&coded, Seconds(*second));
        }
        last
    }

    #[test]
    fn too_many_frames_without_mqtt_in_a_second_are_a_flood_and_pings_for_weeks_are_none() {
        let most = EMPTY_FRAMES_MAX as usize;
        for first in [0x82, 0x89, 0x8A] {
            let frames = empty_frame(first).repeat(most);
            assert!(!is_flood(&[(1, frames.clone())]));
            assert!(is_flood(&[(1, frames.clone()), (1, empty_frame(first).to_vec())]));
            assert!(!is_flood(&[
                (1, frames.clone()),
                (2, frames.clone()),
                (3, frames.clone())
            ]));
            let message = [0x82, 0x81, 0, 0, 0, 0, b'a'].to_vec();
            assert!(!is_flood(&[(1, frames.clone()), (1, message), (1, frames.clone())]));
        }
        let weeks: Vec<_> = (0..1_000_000)
            .map(|second| (second, empty_frame(0x89).to_vec()))
            .collect();
        assert!(!is_flood(&weeks));
    }

    #[test]
    fn pings_and_pongs_allocate_nothing() {
        let ping = [&[0x89, 0x80 | 125, 1, 2, 3, 4][..], &[7; 125]].concat();
        let pong = [&[0x8A, 0x80 | 125, 1, 2, 3, 4][..], &[7; 125]].concat();
        let frames = [ping, pong, empty_frame(0x89).to_vec(), empty_frame(0x8A).to_vec()].concat();
        let mut coding = Coding::unframe(Frames::new(Sender::Client));
        let mut replies = Vec::with_capacity(200);
        for _ in 0..10 {
            let mut buffer = frames.clone();
            let before = allocations();
            let coded = coding.code(&mut buffer, frames.len(), &mut replies).expect("frames");
            assert_eq!(allocations() - before, 0);
            assert_eq!((coded.range.len(), coded.parts), (0, 4));
            assert_eq!(replies.len(), 2 + 125 + 2);
            replies.clear();
        }
    }

    #[test]
    fn what_a_node_sends_becomes_one_frame() {
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
