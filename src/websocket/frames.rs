//! WebSocket frames (RFC 6455, section 5): what passes by is taken apart without being changed, however it is cut. Pure.

/// Who sends the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Its frames are masked (5.3).
    Client,
    /// Its frames are not.
    Node,
}

/// "Normal closure" (7.4.1): the node has ended the connection.
pub const NORMAL_CLOSURE: u16 = 1000;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Against the protocol: a mask that is missing or too much, reserved bits, an unknown opcode, fragments out of order.
    Protocol,
    /// A text message: MQTT is binary (MQTT 5, 6.0).
    Text,
}

impl Fault {
    /// The status code that says so in a close frame (7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Text => 1003,
        }
    }
}

/// A control frame, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// To be answered with a pong of the same payload (5.5.2).
    Ping(Vec<u8>),
    /// An answer, or one without a question; nothing follows from it.
    Pong,
    /// The other side will send no more; with the payload of the answer (5.5.1).
    Close(Vec<u8>),
}

/// What the first bytes of some input are.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Part of the header of a data frame.
    Header,
    /// Payload of a data frame, as it came.
    Data(Mask),
    /// Part of a control frame; the frame itself with its last byte.
    Control(Option<Control>),
}

/// What payload is masked with; nothing where it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    key: [u8; 4],
    /// How much of the frame's payload came before.
    at: usize,
}

impl Mask {
    /// Masks or unmasks `payload`, which is the same (5.3).
    pub fn apply(self, payload: &mut [u8]) {
        if self.key == [0; 4] {
            return;
        }
        let mut key = self.key;
        key.rotate_left(self.at % 4);
        let wide = u64::from_ne_bytes([
            key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
        ]);
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
const CONTROL_BYTES_MAX: u64 = 125;

/// The longest header: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// Takes a stream of frames apart. At rest between two frames it holds nothing on the heap.
#[derive(Clone, Debug)]
pub struct Frames {
    sender: Sender,
    /// A message has begun whose last fragment has not.
    fragmented: bool,
    /// The close frame was taken: its sender says no more (5.5.1).
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
    Control(Box<Pending>),
}

#[derive(Clone, Debug)]
struct Pending {
    opcode: u8,
    left: u64,
    mask: Mask,
    payload: Vec<u8>,
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
    /// The frames of `sender`, from the first on.
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

    /// Whether the next byte is the first of a frame.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    /// Whether the close frame was taken. Nothing that comes after it means anything.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the next byte belongs to a control frame that has begun.
    pub fn is_in_control(&self) -> bool {
        match &self.state {
            State::Header { bytes, have } => *have > 0 && is_control(bytes[0] & 0x0F),
            State::Data { .. } => false,
            State::Control(_) => true,
        }
    }

    /// Takes as many of `bytes`, which are not empty, as are of one kind; says how many, and what they are.
    ///
    /// # Errors
    /// The frame is none that may be here; nothing after it can be read.
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
            State::Control(pending) => {
                // Not more than 125: it fits.
                let here = bytes.len().min(pending.left as usize);
                let start = pending.payload.len();
                pending.payload.extend_from_slice(&bytes[..here]);
                pending.mask.apply(&mut pending.payload[start..]);
                pending.mask.at += here;
                pending.left -= here as u64;
                let control = (pending.left == 0)
                    .then(|| control(pending.opcode, std::mem::take(&mut pending.payload)));
                if let Some(control) = &control {
                    self.closed |= matches!(control, Control::Close(_));
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
        let State::Header {
            bytes: header,
            have,
        } = &mut self.state
        else {
            return Err(Fault::Protocol);
        };
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            header[usize::from(*have)] = *byte;
            *have += 1;
            taken += 1;
            check(&header[..usize::from(*have)], self.sender, self.fragmented)?;
            let needed = header_bytes(&header[..usize::from(*have)]);
            if needed != Some(usize::from(*have)) {
                continue;
            }
            let opcode = header[0] & 0x0F;
            let (left, mask) = length_and_mask(&header[..usize::from(*have)])?;
            if !is_control(opcode) {
                self.fragmented = header[0] & FIN == 0;
                match left {
                    0 => self.between(),
                    left => self.state = State::Data { left, mask },
                }
                return Ok((taken, Part::Header));
            }
            if left == 0 {
                self.closed |= opcode == CLOSE;
                self.between();
                return Ok((taken, Part::Control(Some(control(opcode, Vec::new())))));
            }
            self.state = State::Control(Box::new(Pending {
                opcode,
                left,
                mask,
                payload: Vec::new(),
            }));
            return Ok((taken, Part::Control(None)));
        }
        let part = match is_control(header[0] & 0x0F) {
            true => Part::Control(None),
            false => Part::Header,
        };
        Ok((taken, part))
    }
}

fn is_control(opcode: u8) -> bool {
    opcode & 0x08 != 0
}

/// Judges what is there of a header by the byte that came last.
fn check(header: &[u8], sender: Sender, fragmented: bool) -> Result<(), Fault> {
    match *header {
        [first] => {
            let (fin, reserved, opcode) = (first & FIN != 0, first & 0x70, first & 0x0F);
            // No extension was agreed on that would give these bits a meaning.
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
            let long_control =
                is_control(first & 0x0F) && u64::from(second & !MASKED) > CONTROL_BYTES_MAX;
            if masked != (sender == Sender::Client) || long_control {
                return Err(Fault::Protocol);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// How long the header is, once that can be said.
fn header_bytes(header: &[u8]) -> Option<usize> {
    let second = header.get(1)?;
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & MASKED != 0 { 4 } else { 0 };
    Some(2 + length + mask)
}

fn length_and_mask(header: &[u8]) -> Result<(u64, Mask), Fault> {
    let (length, rest) = match *header {
        [_, second, a, b, ref rest @ ..] if second & !MASKED == 126 => {
            (u64::from(u16::from_be_bytes([a, b])), rest)
        }
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

fn control(opcode: u8, payload: Vec<u8>) -> Control {
    match opcode {
        PING => Control::Ping(payload),
        PONG => Control::Pong,
        _ => Control::Close(payload),
    }
}

/// The header of a binary message of this many bytes, from a server; it is the first of what is returned, which says how
/// long it is.
pub fn binary_header(payload_bytes: usize) -> ([u8; 10], usize) {
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

/// A pong of a server, with the payload of the ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    control_frame(PONG, payload)
}

/// A close frame of a server with a status code, or the answer to one with its payload.
pub fn close(payload: &[u8]) -> Vec<u8> {
    control_frame(CLOSE, payload)
}

fn control_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX as usize)];
    let mut frame = vec![FIN | opcode, payload.len() as u8];
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a client.
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

    /// All data, unmasked, and all control frames, of a stream that is fed in `pieces`.
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
            Control::Ping(b"are you there?".to_vec()),
            Control::Pong,
            Control::Close(vec![3, 0xE8]),
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
            (
                &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
                Fault::Protocol,
            ),
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
        assert_eq!(
            frames.next(&bytes[2..]),
            Ok((4, Part::Data(Mask::default())))
        );
        assert!(frames.is_between());
        assert_eq!(frames.next(&[0x82, 0x81]), Err(Fault::Protocol));
    }

    #[test]
    fn headers_name_every_length() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 40] {
            let (header, header_bytes) = binary_header(length);
            let header = &header[..header_bytes];
            assert_eq!(super::header_bytes(header), Some(header.len()));
            let (read, _) = length_and_mask(header).expect("a header");
            assert_eq!(read, length as u64);
        }
    }
}
