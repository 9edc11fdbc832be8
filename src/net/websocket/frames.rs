//! Parses WebSocket frames (RFC 6455, section 5) from a stream that may be split anywhere, without changing them. Pure.

mod position;

use std::fmt;
use std::ops::Deref;

pub use position::{FramePosition, Position};

/// Who sends the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client, whose frames are masked (5.3).
    Client,
    /// A node, whose frames are not masked.
    Node,
}

/// "Normal closure" (7.4.1): the node has ended the connection.
pub(crate) const NORMAL_CLOSURE: u16 = 1000;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A protocol violation: a missing or unexpected mask, reserved bits, an unknown opcode, fragments out of order.
    Protocol,
    /// A text message: MQTT is binary (MQTT 5, 6.0).
    Text,
}

impl Fault {
    /// What the sender did, for the log.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Protocol => {
                "a frame violates the protocol: mask, reserved bits, opcode, length or order of fragments"
            }
            Self::Text => "a text message, and MQTT is binary",
        }
    }

    /// The status code for a close frame (7.4.1).
    pub(crate) fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Text => 1003,
        }
    }
}

/// A complete control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A ping, to be answered with a pong of the same payload (5.5.2).
    Ping(ControlPayload),
    /// A pong, solicited or not; it needs no reaction.
    Pong,
    /// A close frame: its sender sends no more. With the payload for the answer (5.5.1).
    Close(ControlPayload),
}

/// The payload of a control frame, which is never on the heap.
#[derive(Clone)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_BYTES_MAX],
    length: u8,
}

impl ControlPayload {
    const EMPTY: Self = Self {
        bytes: [0; CONTROL_BYTES_MAX],
        length: 0,
    };

    /// Appends masked bytes and unmasks them. No more than fit are passed.
    fn push(&mut self, masked: &[u8], mask: Mask) {
        let start = usize::from(self.length);
        let added = &mut self.bytes[start..start + masked.len()];
        added.copy_from_slice(masked);
        mask.apply(added);
        self.length += masked.len() as u8;
    }
}

impl Deref for ControlPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl From<&[u8]> for ControlPayload {
    /// The first 125 bytes of `bytes`.
    fn from(bytes: &[u8]) -> Self {
        let mut payload = Self::EMPTY;
        payload.push(&bytes[..bytes.len().min(CONTROL_BYTES_MAX)], Mask::default());
        payload
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ControlPayload {}

impl fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The kind of the first bytes of some input.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Part of the header of a data frame.
    Header,
    /// Payload of a data frame, still masked.
    Data(Mask),
    /// Part of a control frame; the last part comes with the whole frame.
    Control(Option<Control>),
}

/// The mask of a payload; all zeros if it is not masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    key: [u8; 4],
    /// How many bytes of the frame's payload came before. Only this number modulo 4 matters.
    at: usize,
}

impl Mask {
    /// Masks or unmasks `payload`; both are the same operation (5.3).
    pub fn apply(self, payload: &mut [u8]) {
        if self.key == [0; 4] {
            return;
        }
        let mut key = self.key;
        key.rotate_left(self.at % 4);
        let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
        let (words, rest) = payload.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
    }
}

/// The most bytes of a control frame's payload (5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// The longest header: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// Parses a stream of frames. Between two frames it holds nothing on the heap.
#[derive(Clone, Debug)]
pub struct Frames {
    sender: Sender,
    /// Whether the last fragment of the current message is still to come.
    fragmented: bool,
    /// Whether the close frame was read; its sender sends no more (5.5.1).
    closed: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Header {
        bytes: [u8; HEADER_BYTES_MAX],
        have: u8,
    },
    Data {
        left: u64,
        mask: Mask,
    },
    /// A pong, whose payload is of no use.
    Pong {
        left: u8,
    },
    /// A ping or close frame whose payload has not all arrived. Only such a one is on the heap.
    Control(Box<Pending>),
}

#[derive(Clone, Debug)]
struct Pending {
    opcode: u8,
    left: usize,
    mask: Mask,
    payload: ControlPayload,
}

impl Pending {
    /// Takes what belongs to this frame. Returns how many bytes that is, and the frame if it is complete.
    fn take(&mut self, bytes: &[u8]) -> (usize, Option<Control>) {
        let here = bytes.len().min(self.left);
        self.payload.push(&bytes[..here], self.mask);
        self.mask.at += here;
        self.left -= here;
        let complete = self.left == 0;
        (here, complete.then(|| control(self.opcode, self.payload.clone())))
    }
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

impl Frames {
    /// A parser for the frames of `sender`, from the first one on.
    pub fn new(sender: Sender) -> Self {
        Self {
            sender,
            fragmented: false,
            closed: false,
            state: State::Header {
                bytes: [0; HEADER_BYTES_MAX],
                have: 0,
            },
        }
    }

    /// Whether the close frame was read. Everything after it is to be ignored.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the last message is complete, and nothing of a frame behind it was read.
    pub(crate) fn is_between_messages(&self) -> bool {
        !self.fragmented && matches!(self.state, State::Header { have: 0, .. })
    }

    /// Takes as many of `bytes` as are of one kind. Returns how many, and their kind. `bytes` must not be empty.
    ///
    /// # Errors
    /// The frame is not allowed here; nothing after it can be read.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, Part), Fault> {
        match &mut self.state {
            State::Header { .. } => self.header(bytes),
            State::Data { left, mask } => {
                let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let part = Part::Data(*mask);
                *left -= here as u64;
                mask.at = (mask.at + here) % 4;
                if *left == 0 {
                    self.between();
                }
                Ok((here, part))
            }
            State::Pong { left } => {
                let here = bytes.len().min(usize::from(*left));
                *left -= here as u8;
                let complete = *left == 0;
                if complete {
                    self.between();
                }
                Ok((here, Part::Control(complete.then_some(Control::Pong))))
            }
            State::Control(pending) => {
                let (here, control) = pending.take(bytes);
                if control.is_some() {
                    self.closed |= pending.opcode == CLOSE;
                    self.between();
                }
                Ok((here, Part::Control(control)))
            }
        }
    }

    fn between(&mut self) {
        self.state = State::Header {
            bytes: [0; HEADER_BYTES_MAX],
            have: 0,
        };
    }

    fn header(&mut self, bytes: &[u8]) -> Result<(usize, Part), Fault> {
        let State::Header { bytes: header, have } = &mut self.state else {
            return Err(Fault::Protocol);
        };
        let mut taken = 0;
        let complete = loop {
            let had = usize::from(*have);
            // Each of the first two bytes is checked as soon as it is there; they say how many follow.
            let needed = match had {
                0 | 1 => had + 1,
                _ => header_bytes(header[1]),
            };
            if had == needed {
                break true;
            }
            let here = (needed - had).min(bytes.len() - taken);
            if here == 0 {
                break false;
            }
            header[had..had + here].copy_from_slice(&bytes[taken..taken + here]);
            *have += here as u8;
            taken += here;
            check(&header[..had + here], self.sender, self.fragmented)?;
        };
        let opcode = header[0] & 0x0F;
        if !complete {
            let part = match is_control(opcode) {
                true => Part::Control(None),
                false => Part::Header,
            };
            return Ok((taken, part));
        }
        let (left, mask) = length_and_mask(&header[..usize::from(*have)])?;
        if !is_control(opcode) {
            self.fragmented = header[0] & FIN == 0;
            match left {
                0 => self.between(),
                left => self.state = State::Data { left, mask },
            }
            return Ok((taken, Part::Header));
        }
        // At most 125, so the casts are lossless. Mostly the payload follows at once, and nothing need be kept of it.
        if opcode == PONG {
            let here = (left as usize).min(bytes.len() - taken);
            let complete = here == left as usize;
            match complete {
                true => self.between(),
                false => {
                    self.state = State::Pong {
                        left: left as u8 - here as u8,
                    }
                }
            }
            return Ok((taken + here, Part::Control(complete.then_some(Control::Pong))));
        }
        let mut pending = Pending {
            opcode,
            left: left as usize,
            mask,
            payload: ControlPayload::EMPTY,
        };
        let (here, control) = pending.take(&bytes[taken..]);
        match control {
            Some(_) => {
                self.closed |= opcode == CLOSE;
                self.between();
            }
            None => self.state = State::Control(Box::new(pending)),
        }
        Ok((taken + here, Part::Control(control)))
    }
}

fn is_control(opcode: u8) -> bool {
    opcode & 0x08 != 0
}

/// Checks the start of a header, whose last byte is new.
fn check(header: &[u8], sender: Sender, fragmented: bool) -> Result<(), Fault> {
    match *header {
        [first] => {
            let (fin, reserved, opcode) = (first & FIN != 0, first & 0x70, first & 0x0F);
            // No extension was negotiated that would use these bits.
            if reserved != 0 {
                return Err(Fault::Protocol);
            }
            match opcode {
                CONTINUATION if fragmented => Ok(()),
                BINARY if !fragmented => Ok(()),
                TEXT if !fragmented => Err(Fault::Text),
                CLOSE | PING | PONG if fin => Ok(()),
                _ => Err(Fault::Protocol),
            }
        }
        [first, second] => {
            let masked = second & MASKED != 0;
            let long_control = is_control(first & 0x0F) && usize::from(second & !MASKED) > CONTROL_BYTES_MAX;
            if masked != (sender == Sender::Client) || long_control {
                return Err(Fault::Protocol);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The length of a header with this second byte.
fn header_bytes(second: u8) -> usize {
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & MASKED != 0 { 4 } else { 0 };
    2 + length + mask
}

fn length_and_mask(header: &[u8]) -> Result<(u64, Mask), Fault> {
    let (length, rest) = match *header {
        [_, second, a, b, ref rest @ ..] if second & !MASKED == 126 => (u64::from(u16::from_be_bytes([a, b])), rest),
        [_, second, a, b, c, d, e, f, g, h, ref rest @ ..] if second & !MASKED == 127 => {
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]), rest)
        }
        [_, second, ref rest @ ..] => (u64::from(second & !MASKED), rest),
        _ => return Err(Fault::Protocol),
    };
    // The highest bit must be 0 (5.2).
    if length > u64::MAX >> 1 {
        return Err(Fault::Protocol);
    }
    let key = rest.first_chunk().copied().unwrap_or_default();
    Ok((length, Mask { key, at: 0 }))
}

fn control(opcode: u8, payload: ControlPayload) -> Control {
    match opcode {
        PING => Control::Ping(payload),
        PONG => Control::Pong,
        _ => Control::Close(payload),
    }
}

/// The header of an unmasked binary message with a payload of this many bytes. Returns a buffer and the length of the header at
/// its start.
pub(crate) fn binary_header(payload_bytes: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | BINARY;
    let length = payload_bytes as u64;
    let header_bytes = match payload_bytes {
        0..126 => {
            header[1] = length as u8;
            2
        }
        126..0x1_0000 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&length.to_be_bytes());
            10
        }
    };
    (header, header_bytes)
}

/// A server's binary message: `payload` in one frame.
pub(crate) fn binary(payload: &[u8]) -> Vec<u8> {
    let (header, header_bytes) = binary_header(payload.len());
    [&header[..header_bytes], payload].concat()
}

/// A client's binary message: `payload` in one frame, masked with `key`.
pub(crate) fn masked_binary(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let (mut header, header_bytes) = binary_header(payload.len());
    header[1] |= MASKED;
    let mut frame = [&header[..header_bytes], &key, payload].concat();
    Mask { key, at: 0 }.apply(&mut frame[header_bytes + key.len()..]);
    frame
}

/// Appends a server's pong, with the payload of the ping, to `frames`.
pub fn push_pong(frames: &mut Vec<u8>, payload: &[u8]) {
    push_control(frames, PONG, payload);
}

/// A server's pong, with the payload of the ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    push_pong(&mut frame, payload);
    frame
}

/// A server's close frame with this status code.
pub(crate) fn close(code: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    push_control(&mut frame, CLOSE, &code.to_be_bytes());
    frame
}

/// A server's answer to a close frame with this payload (5.5.1): the same status code, without the reason; none if it had none. A
/// payload that may not be in a close frame is a protocol violation.
pub fn close_reply(payload: &[u8]) -> Vec<u8> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        if payload.is_empty() {
            let mut frame = Vec::new();
            push_control(&mut frame, CLOSE, payload);
            return frame;
        }
        // One byte is no code.
        return close(Fault::Protocol.close_code());
    };
    let code = u16::from_be_bytes(*code);
    match may_be_sent(code) && str::from_utf8(reason).is_ok() {
        true => close(code),
        false => close(Fault::Protocol.close_code()),
    }
}

/// Whether a close frame may have this status code (7.4): one of the registry, without those that stand for an end without a close
/// frame (1005, 1006, 1015), or one of a library or an application.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

fn push_control(frames: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    frames.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
    frames.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(MASKED | short as u8),
            middle @ 126..0x1_0000 => {
                frame.push(MASKED | 126);
                frame.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                frame.push(MASKED | 127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&key);
        let start = frame.len();
        frame.extend_from_slice(payload);
        for (place, byte) in frame[start..].iter_mut().enumerate() {
            *byte ^= key[place % 4];
        }
        frame
    }

    /// All data, unmasked, and all control frames of a stream that arrives in `pieces`.
    fn taken(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<Control>), Fault> {
        let mut frames = Frames::new(Sender::Client);
        let (mut data, mut controls) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                let (here, part) = frames.next(&piece[at..])?;
                assert!(here > 0, "it goes on");
                match part {
                    Part::Header | Part::Control(None) => {}
                    Part::Data(mask) => {
                        let start = data.len();
                        data.extend_from_slice(&piece[at..at + here]);
                        mask.apply(&mut data[start..]);
                    }
                    Part::Control(Some(control)) => controls.push(control),
                }
                at += here;
            }
        }
        Ok((data, controls))
    }

    fn stream() -> (Vec<u8>, Vec<u8>, Vec<Control>) {
        let long: Vec<u8> = (0..70_000u32).map(|i| (i * 7) as u8).collect();
        let mut bytes = Vec::new();
        bytes.extend(frame(0x82, b"one", [1, 2, 3, 4]));
        bytes.extend(frame(0x82, b"", [9; 4]));
        bytes.extend(frame(0x02, b"tw", [5, 6, 7, 8]));
        bytes.extend(frame(0x89, b"are you there?", [4, 3, 2, 1]));
        bytes.extend(frame(0x00, &[7; 300], [0, 1, 0, 1]));
        bytes.extend(frame(0x8A, b"", [4, 3, 2, 1]));
        bytes.extend(frame(0x80, b"o", [5, 6, 7, 8]));
        bytes.extend(frame(0x82, &long, [0xFF, 0, 0xAA, 3]));
        bytes.extend(frame(0x88, &[3, 0xE8], [4, 3, 2, 1]));
        let mut data = b"onetw".to_vec();
        data.extend([7; 300]);
        data.extend(b"o");
        data.extend(long);
        let controls = vec![
            Control::Ping(b"are you there?"[..].into()),
            Control::Pong,
            Control::Close([3, 0xE8][..].into()),
        ];
        (bytes, data, controls)
    }

    #[test]
    fn frames_are_taken_apart_however_they_are_cut() {
        let (bytes, data, controls) = stream();
        let expected = Ok((data, controls));
        assert_eq!(taken(&[&bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(taken(&single), expected);
        for cut in 0..400 {
            assert_eq!(taken(&[&bytes[..cut], &bytes[cut..]]), expected, "{cut}");
        }
        let chunks: Vec<&[u8]> = bytes.chunks(1_000).collect();
        assert_eq!(taken(&chunks), expected);
    }

    #[test]
    fn what_may_not_be_there_is_a_fault_at_its_first_wrong_byte() {
        let cases: &[(&[u8], Fault)] = &[
            (&[0x81], Fault::Text),
            (&[0x01], Fault::Text),
            (&[0xC2], Fault::Protocol),
            (&[0xA2], Fault::Protocol),
            (&[0x92], Fault::Protocol),
            (&[0x80], Fault::Protocol),
            (&[0x83], Fault::Protocol),
            (&[0x8B], Fault::Protocol),
            (&[0x09], Fault::Protocol),
            (&[0x08], Fault::Protocol),
            (&[0x82, 0x01], Fault::Protocol),
            (&[0x89, 0xFE], Fault::Protocol),
            (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], Fault::Protocol),
        ];
        for (bytes, fault) in cases {
            assert_eq!(taken(&[bytes]), Err(*fault), "{bytes:02x?}");
            if bytes.len() < 14 {
                assert!(taken(&[&bytes[..bytes.len() - 1]]).is_ok(), "{bytes:02x?}");
            }
        }
        let begun = frame(0x02, b"a", [1; 4]);
        let again = [begun.as_slice(), &[0x82]].concat();
        assert_eq!(taken(&[&again]), Err(Fault::Protocol));
    }

    #[test]
    fn a_node_does_not_mask() {
        let mut frames = Frames::new(Sender::Node);
        let (header, header_bytes) = binary_header(4);
        let bytes = [&header[..header_bytes], &[0x20, 2, 0, 0]].concat();
        assert_eq!(frames.next(&bytes), Ok((2, Part::Header)));
        assert_eq!(frames.next(&bytes[2..]), Ok((4, Part::Data(Mask::default()))));
        assert!(matches!(frames.state, State::Header { have: 0, .. }), "between frames");
        assert_eq!(frames.next(&[0x82, 0x81]), Err(Fault::Protocol));
    }

    #[test]
    fn a_masked_message_is_read_as_it_was_written() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let frame = masked_binary(&payload, [0xFF, 0, 0xAA, 3]);
            assert_eq!(taken(&[&frame]), Ok((payload, Vec::new())));
        }
    }

    #[test]
    fn headers_name_every_length() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 40] {
            let (header, header_bytes) = binary_header(length);
            let header = &header[..header_bytes];
            assert_eq!(super::header_bytes(header[1]), header.len());
            let (read, _) = length_and_mask(header).expect("a header");
            assert_eq!(read, length as u64);
        }
    }

    #[test]
    fn a_close_frame_is_answered_with_its_code_alone_or_with_a_protocol_error() {
        let valid = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
        let valid: Vec<u16> = valid.collect();
        for code in 0..=u16::MAX {
            let answered = if valid.contains(&code) { code } else { 1002 };
            let expected = [&[0x88, 2][..], &answered.to_be_bytes()].concat();
            assert_eq!(close_reply(&code.to_be_bytes()), expected, "{code}");
            let with_reason = [&code.to_be_bytes()[..], "adieu, é".as_bytes()].concat();
            assert_eq!(close_reply(&with_reason), expected, "{code} with a reason");
        }
        let protocol_error = [0x88, 2, 3, 0xEA];
        assert_eq!(close_reply(b""), [0x88, 0]);
        assert_eq!(close_reply(&[3]), protocol_error);
        assert_eq!(close_reply(&[3, 0xE8, 0xCE, 0xBA, 0xED, 0xA0, 0x80]), protocol_error);
    }
}
