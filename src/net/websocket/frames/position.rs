//! Where the parser of a client's frames is: plain values, with which another process goes on in the middle of a frame.

use super::{
    CLOSE, CONTROL_BYTES_MAX, ControlPayload, Frames, HEADER_BYTES_MAX, Mask, PING, PONG, Pending, Sender, State,
};

/// Where the parser of a client's frames is. [`Frames::resume`] checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last fragment of the current message is still to come.
    pub fragmented: bool,
    /// What has arrived of a header.
    pub header: Vec<u8>,
    /// The rest of the frame whose header was read.
    pub frame: Option<FramePosition>,
}

/// Where the parser is in the payload of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FramePosition {
    /// The opcode of a control frame, or 0 for data.
    pub control: u8,
    /// Bytes that are still to come.
    pub left: u64,
    /// The mask.
    pub mask: [u8; 4],
    /// Bytes that came before, modulo 4.
    pub at: u8,
    /// What has arrived of a ping or close frame, unmasked.
    pub payload: Vec<u8>,
}

impl Frames {
    /// Where the parser is. Not for one that has read a close frame: its sender sends no more.
    pub fn position(&self) -> Position {
        debug_assert!(!self.closed, "nothing more is read");
        let (header, frame) = match &self.state {
            State::Header { bytes, have } => (bytes[..usize::from(*have)].to_vec(), None),
            State::Data { left, mask } => (Vec::new(), Some(FramePosition::new(0, *left, *mask, &[]))),
            State::Pong { left } => (
                Vec::new(),
                Some(FramePosition::new(PONG, (*left).into(), Mask::default(), &[])),
            ),
            State::Control(pending) => {
                let Pending {
                    opcode,
                    left,
                    mask,
                    payload,
                } = &**pending;
                let position = FramePosition::new(*opcode, *left as u64, *mask, payload);
                (Vec::new(), Some(position))
            }
        };
        Position {
            fragmented: self.fragmented,
            header,
            frame,
        }
    }

    /// A parser of a client's frames that goes on from `position`; `None` if no parser can be there.
    pub fn resume(position: &Position) -> Option<Self> {
        let mut frames = Self {
            fragmented: position.fragmented,
            ..Self::new(Sender::Client)
        };
        match &position.frame {
            None if position.header.is_empty() => {}
            None => {
                // Bytes of a header that is valid so far and not complete leave the parser in it.
                let taken = (position.header.len() < HEADER_BYTES_MAX).then(|| frames.next(&position.header))?;
                let (taken, _) = taken.ok()?;
                let have = position.header.len();
                let is_within = matches!(frames.state, State::Header { have: now, .. } if usize::from(now) == have);
                (taken == have && is_within).then_some(())?;
            }
            Some(_) if !position.header.is_empty() => return None,
            Some(frame) => frames.state = frame.state()?,
        }
        Some(frames)
    }
}

impl FramePosition {
    fn new(control: u8, left: u64, mask: Mask, payload: &[u8]) -> Self {
        Self {
            control,
            left,
            mask: mask.key,
            at: (mask.at % 4) as u8,
            payload: payload.to_vec(),
        }
    }

    fn state(&self) -> Option<State> {
        let Self {
            control,
            left,
            mask,
            at,
            ref payload,
        } = *self;
        let mask = Mask {
            key: mask,
            at: usize::from(at),
        };
        // A frame of which nothing is left was read.
        if left == 0 || left > u64::MAX >> 1 || at >= 4 {
            return None;
        }
        let small = usize::try_from(left).ok().filter(|left| *left <= CONTROL_BYTES_MAX);
        match control {
            0 if payload.is_empty() => Some(State::Data { left, mask }),
            PONG if payload.is_empty() => Some(State::Pong { left: small? as u8 }),
            CLOSE | PING => {
                let left = small.filter(|left| left + payload.len() <= CONTROL_BYTES_MAX)?;
                Some(State::Control(Box::new(Pending {
                    opcode: control,
                    left,
                    mask,
                    payload: ControlPayload::from(&payload[..]),
                })))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::websocket::frames::{Control, Fault, Part, masked_binary};

    /// What `frames` makes of `bytes`: the payload of data, and the control frames.
    fn read(frames: &mut Frames, mut bytes: &[u8]) -> Result<(Vec<u8>, Vec<Control>), Fault> {
        let (mut data, mut controls) = (Vec::new(), Vec::new());
        while !bytes.is_empty() {
            let (here, part) = frames.next(bytes)?;
            match part {
                Part::Data(mask) => {
                    let start = data.len();
                    data.extend_from_slice(&bytes[..here]);
                    mask.apply(&mut data[start..]);
                }
                Part::Control(control) => controls.extend(control),
                Part::Header => {}
            }
            bytes = &bytes[here..];
        }
        Ok((data, controls))
    }

    #[test]
    fn a_parser_goes_on_from_wherever_another_one_was() {
        let mask = [7, 1, 8, 2];
        let control = |first: u8, length: usize| {
            let mut frame = vec![first, 0x80 | length as u8, 7, 1, 8, 2];
            let mut payload: Vec<u8> = (0..length as u8).collect();
            Mask { key: mask, at: 0 }.apply(&mut payload);
            frame.extend(payload);
            frame
        };
        let mut fragment = masked_binary(b"first of two", mask);
        fragment[0] &= 0x7F;
        let mut rest = masked_binary(b"second of two", mask);
        rest[0] = 0x80;
        let stream = [
            masked_binary(&[9; 200], mask),
            fragment,
            control(0x89, 125),
            control(0x8A, 17),
            rest,
            control(0x8A, 0),
            masked_binary(b"last", mask),
        ]
        .concat();
        let whole = read(&mut Frames::new(Sender::Client), &stream).expect("frames");
        for split in 0..=stream.len() {
            let mut before = Frames::new(Sender::Client);
            let (mut data, mut controls) = read(&mut before, &stream[..split]).expect("frames");
            let position = before.position();
            let mut after = Frames::resume(&position).expect("a place that a parser was in");
            assert_eq!(after.position(), position, "at {split}");
            let (more, more_controls) = read(&mut after, &stream[split..]).expect("frames");
            data.extend(more);
            controls.extend(more_controls);
            assert_eq!((data, controls), whole, "at {split}");
        }
    }

    #[test]
    fn a_place_that_no_parser_can_be_in_is_refused() {
        let header = |bytes: &[u8]| Position {
            header: bytes.to_vec(),
            ..Position::default()
        };
        let frame = |frame: FramePosition| Position {
            frame: Some(frame),
            ..Position::default()
        };
        let data = FramePosition {
            left: 1,
            ..FramePosition::default()
        };
        assert!(Frames::resume(&frame(data.clone())).is_some());
        let wrong = [
            // A whole header, one with more behind it, a text frame, one without a mask, and too many bytes.
            header(&[0x82, 0x81, 1, 2, 3, 4]),
            header(&[0x82, 0x81, 1, 2, 3, 4, 5]),
            header(&[0x81]),
            header(&[0x82, 0x01]),
            header(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]),
            header(&[0x80]),
            Position {
                header: vec![0x82],
                fragmented: true,
                ..Position::default()
            },
            Position {
                header: vec![0x82],
                ..frame(data.clone())
            },
            frame(FramePosition {
                left: 0,
                ..data.clone()
            }),
            frame(FramePosition {
                left: u64::MAX,
                ..data.clone()
            }),
            frame(FramePosition { at: 4, ..data.clone() }),
            frame(FramePosition {
                payload: vec![1],
                ..data.clone()
            }),
            frame(FramePosition {
                control: 11,
                ..data.clone()
            }),
            frame(FramePosition {
                control: PONG,
                left: 126,
                ..data.clone()
            }),
            frame(FramePosition {
                control: PING,
                payload: vec![0; 125],
                ..data.clone()
            }),
            frame(FramePosition {
                control: CLOSE,
                left: u64::MAX >> 1,
                ..data
            }),
        ];
        for position in wrong {
            assert!(Frames::resume(&position).is_none(), "{position:?}");
        }
    }
}
