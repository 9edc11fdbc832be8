//! WebSocket frames (RFC 6455, 5.2): opens the frames of a peer, and puts packets into frames.
//!
//! Only the headers are tungstenite's: its stream would keep a buffer for each client.

use std::io::Cursor;
use std::mem;
use std::ops::{Deref, Range};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Longest content of a ping, pong or close (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// Longest header.
const HEADER_BYTES_MAX: usize = 14;

/// The peer has sent a frame that is invalid, or that is not allowed at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidFrame;

/// The end of the connection whose frames are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Frames of a client are masked.
    Client,
    /// Frames of a server are not.
    Server,
}

/// Takes the payload of binary messages out of a peer's frames. Between frames it owns no memory.
#[derive(Debug)]
pub(super) struct Reader {
    peer: Peer,
    /// The beginning of a header, or of a ping or close.
    held: Vec<u8>,
    /// How much of a frame's payload has not arrived yet, and the key from there on.
    left: u64,
    key: [u8; 4],
    /// The message continues in another frame.
    continues: bool,
    is_closed: bool,
}

/// What [`Reader::open`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// Where the payload is now.
    pub(super) payload: Range<usize>,
    /// The content of the last ping, to be returned in a pong.
    pub(super) ping: Option<Vec<u8>>,
}

impl Reader {
    /// Begins at the first byte behind the upgrade.
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            held: Vec::new(),
            left: 0,
            key: [0; 4],
            continues: false,
            is_closed: false,
        }
    }

    /// Whether the peer has sent a close frame.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// How many bytes of an incomplete frame are held; they belong before those that arrive next.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Moves what is held to the front of `buffer`.
    pub(super) fn restore(&mut self, buffer: &mut [u8]) {
        let held = mem::take(&mut self.held);
        buffer[..held.len()].copy_from_slice(&held);
    }

    /// Opens the frames in `buffer[kept..end]`, and joins their payload to the `kept` bytes before them.
    ///
    /// If nothing is kept, the payload of the first frame stays in its place: most reads return one frame, and nothing
    /// is moved.
    pub(super) fn open(&mut self, buffer: &mut [u8], kept: usize, end: usize) -> Result<Opened, InvalidFrame> {
        let (mut payload, mut ping, mut at) = (0..kept, None, kept);
        while at < end && !self.is_closed {
            if self.left > 0 {
                let here = usize::try_from(self.left).map_or(end - at, |left| left.min(end - at));
                if self.peer == Peer::Client {
                    mask(&mut buffer[at..at + here], self.key);
                    self.key.rotate_left(here % 4);
                }
                if payload.is_empty() {
                    payload = at..at;
                } else if payload.end != at {
                    buffer.copy_within(at..at + here, payload.end);
                }
                payload.end += here;
                at += here;
                self.left -= here as u64;
                continue;
            }
            let Some(frame) = Frame::read(&buffer[at..end])? else {
                self.held = buffer[at..end].to_vec();
                break;
            };
            let header = &frame.header;
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return Err(InvalidFrame);
            }
            self.key = match (self.peer, header.mask) {
                (Peer::Client, Some(key)) => key,
                (Peer::Server, None) => [0; 4],
                _ => return Err(InvalidFrame),
            };
            let behind = at + frame.header_bytes;
            match header.opcode {
                OpCode::Data(Data::Binary) if !self.continues => {}
                OpCode::Data(Data::Continue) if self.continues => {}
                OpCode::Control(_) if header.is_final && frame.length <= CONTROL_BYTES_MAX => {
                    let content = behind..behind + frame.length as usize;
                    if content.end > end {
                        self.held = buffer[at..end].to_vec();
                        break;
                    }
                    at = content.end;
                    mask(&mut buffer[content.clone()], self.key);
                    match header.opcode {
                        OpCode::Control(Control::Ping) => ping = Some(buffer[content].to_vec()),
                        OpCode::Control(Control::Close) => self.is_closed = true,
                        _ => {}
                    }
                    continue;
                }
                // MQTT is binary (MQTT 5, 6.0).
                _ => return Err(InvalidFrame),
            }
            self.continues = !header.is_final;
            self.left = frame.length;
            at = behind;
        }
        Ok(Opened { payload, ping })
    }
}

struct Frame {
    header: FrameHeader,
    header_bytes: usize,
    length: u64,
}

impl Frame {
    fn read(bytes: &[u8]) -> Result<Option<Self>, InvalidFrame> {
        let mut cursor = Cursor::new(bytes);
        let read = FrameHeader::parse(&mut cursor).map_err(|_| InvalidFrame)?;
        Ok(read.map(|(header, length)| Self {
            header,
            header_bytes: cursor.position() as usize,
            length,
        }))
    }
}

/// Puts the packets of a client into frames: a masked binary message for each.
///
/// RFC 6455 wants a new key for each frame, against scripts that choose their payload to confuse proxies. The payload
/// here is the bench's own, so one key is drawn for the whole run: the pattern that bodies are parts of is masked once,
/// and each frame has the key rotated to fit its part of the pattern.
pub(super) struct Writer {
    key: [u8; 4],
    frame: Vec<u8>,
}

impl Writer {
    /// Draws a key.
    pub(super) fn new() -> Self {
        Self {
            key: fastrand::u32(..).to_ne_bytes(),
            frame: Vec::new(),
        }
    }

    /// The pattern, masked.
    pub(super) fn masked(&self, pattern: &[u8]) -> Vec<u8> {
        let mut masked = pattern.to_vec();
        mask(&mut masked, self.key);
        masked
    }

    /// The frame of a packet, up to its body: the header, and the masked `head`. This part of the masked pattern
    /// follows.
    pub(super) fn frame(&mut self, head: &[u8], body: &Range<usize>) -> &[u8] {
        self.frame.clear();
        let turned = (body.start % 4 + 4 - head.len() % 4) % 4;
        self.append(OpCode::Data(Data::Binary), head, body.len(), turned);
        &self.frame
    }

    /// A whole pong.
    pub(super) fn pong(&mut self, content: &[u8]) -> &[u8] {
        self.frame.clear();
        self.append(OpCode::Control(Control::Pong), content, 0, 0);
        &self.frame
    }

    /// The last packet, and a close frame with status 1000 behind it.
    pub(super) fn last(&mut self, packet: &[u8]) -> &[u8] {
        self.frame(packet, &(0..0));
        let code = 1000_u16.to_be_bytes();
        self.append(OpCode::Control(Control::Close), &code, 0, 0);
        &self.frame
    }

    fn append(&mut self, opcode: OpCode, content: &[u8], more: usize, turned: usize) {
        let mut key = self.key;
        key.rotate_left(turned);
        let header = header(opcode, content.len() + more, Some(key));
        self.frame.extend_from_slice(&header);
        let begins = self.frame.len();
        self.frame.extend_from_slice(content);
        mask(&mut self.frame[begins..], key);
    }
}

/// The header of a frame, on the stack.
pub(super) struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    length: usize,
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The header of a binary message in one frame, as a server sends it.
pub(super) fn message_header(length: usize) -> Header {
    header(OpCode::Data(Data::Binary), length, None)
}

/// The header of a pong, as a server sends it.
pub(super) fn pong_header(length: usize) -> Header {
    header(OpCode::Control(Control::Pong), length, None)
}

fn header(opcode: OpCode, length: usize, mask: Option<[u8; 4]>) -> Header {
    let header = FrameHeader {
        opcode,
        mask,
        ..FrameHeader::default()
    };
    let mut bytes = [0; HEADER_BYTES_MAX];
    let mut room = &mut bytes[..];
    // The longest header fits.
    let _ = header.format(length as u64, &mut room);
    let length = HEADER_BYTES_MAX - room.len();
    Header { bytes, length }
}

/// Masks or unmasks. Eight bytes at a time, so that the compiler can vectorize it.
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = [a, b, c, d, a, b, c, d];
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(wide)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(wide) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tungstenite::protocol::frame::Frame as LibraryFrame;
    use tungstenite::protocol::{Message, Role, WebSocket};

    use super::*;

    /// What a reader opens of a stream that arrives in pieces of these lengths, over and over.
    fn opened(peer: Peer, stream: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, Vec<Vec<u8>>), InvalidFrame> {
        let mut reader = Reader::new(peer);
        let (mut all, mut pings, mut rest) = (Vec::new(), Vec::new(), stream);
        for &piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            // Three bytes of MQTT are kept each time, as if a packet were incomplete.
            let kept = all.len().min(3);
            let mut buffer = all.split_off(all.len() - kept);
            let held = reader.held();
            let (here, behind) = rest.split_at(piece.clamp(1, rest.len()));
            buffer.resize(kept + held, 0);
            reader.restore(&mut buffer[kept..]);
            buffer.extend_from_slice(here);
            let end = buffer.len();
            let opened = reader.open(&mut buffer, kept, end)?;
            all.extend_from_slice(&buffer[opened.payload]);
            pings.extend(opened.ping);
            rest = behind;
        }
        Ok((all, pings))
    }

    fn frame(opcode: OpCode, is_final: bool, content: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
        let header = FrameHeader {
            is_final,
            opcode,
            mask: key,
            ..FrameHeader::default()
        };
        let mut bytes = Vec::new();
        header.format(content.len() as u64, &mut bytes).unwrap();
        let begins = bytes.len();
        bytes.extend_from_slice(content);
        mask(&mut bytes[begins..], key.unwrap_or_default());
        bytes
    }

    proptest! {
        /// However messages are cut into frames, and frames into reads.
        #[test]
        fn the_payload_comes_once_and_in_order(
            messages in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4), 1..6),
            pieces in prop::collection::vec(1_usize..200, 1..8),
            key in any::<[u8; 4]>(),
            is_masked in any::<bool>(),
        ) {
            let (peer, key) = if is_masked { (Peer::Client, Some(key)) } else { (Peer::Server, None) };
            let mut stream = Vec::new();
            for message in &messages {
                for (index, content) in message.iter().enumerate() {
                    let opcode = if index == 0 { Data::Binary } else { Data::Continue };
                    let is_last = index + 1 == message.len();
                    stream.extend(frame(OpCode::Data(opcode), is_last, content, key));
                    // Between the frames of a message, too.
                    stream.extend(frame(OpCode::Control(Control::Pong), true, b"late", key));
                }
            }
            stream.extend(frame(OpCode::Control(Control::Ping), true, b"there?", key));
            let (all, pings) = opened(peer, &stream, &pieces).unwrap();
            prop_assert_eq!(all, messages.concat().concat());
            prop_assert_eq!(pings, [b"there?"]);
        }

        /// No input panics, and no payload is invented.
        #[test]
        fn random_bytes_do_no_harm(stream in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
            for peer in [Peer::Client, Peer::Server] {
                if let Ok((all, _)) = opened(peer, &stream, &[piece]) {
                    prop_assert!(all.len() <= stream.len());
                }
            }
        }

        /// The library opens what is written, wherever in the pattern a body begins.
        #[test]
        fn the_library_reads_the_frames(
            head in prop::collection::vec(any::<u8>(), 1..200),
            start in 0_usize..50,
            length in 0_usize..70_000,
        ) {
            let pattern: Vec<u8> = (0..70_100).map(|byte| (byte % 251) as u8).collect();
            let mut writer = Writer::new();
            let masked = writer.masked(&pattern);
            let body = start..start + length;
            let mut stream = writer.frame(&head, &body).to_vec();
            stream.extend_from_slice(&masked[body.clone()]);
            stream.extend_from_slice(writer.pong(b"here"));
            stream.extend_from_slice(writer.last(&[0xE0, 0]));
            let (sent, bytes) = (stream.len(), Cursor::new(stream));
            let mut library = WebSocket::from_raw_socket(bytes, Role::Server, None);
            let whole = [&head[..], &pattern[body]].concat();
            prop_assert_eq!(library.read().unwrap(), Message::binary(whole));
            prop_assert_eq!(library.read().unwrap(), Message::Pong(b"here"[..].into()));
            prop_assert_eq!(library.read().unwrap(), Message::binary(vec![0xE0, 0]));
            let Message::Close(Some(close)) = library.read().unwrap() else {
                panic!("no close");
            };
            prop_assert_eq!(u16::from(close.code), 1000);
            prop_assert_eq!(library.get_ref().position() as usize, sent);
        }
    }

    #[test]
    fn frames_that_are_not_allowed_are_rejected() {
        let binary = OpCode::Data(Data::Binary);
        let plain = |opcode, is_final, content: &[u8]| frame(opcode, is_final, content, None);
        let mut reserved = plain(binary, true, b"x");
        reserved[0] |= 0x40;
        let mut long_ping = LibraryFrame::ping(vec![0; 126]);
        long_ping.header_mut().mask = None;
        let mut long = Vec::new();
        long_ping.format(&mut long).unwrap();
        for (what, stream) in [
            ("a mask", frame(binary, true, b"x", Some([1, 2, 3, 4]))),
            ("a reserved bit", reserved),
            ("text", plain(OpCode::Data(Data::Text), true, b"x")),
            ("nothing to go on with", plain(OpCode::Data(Data::Continue), true, b"x")),
            (
                "a new message in another",
                [plain(binary, false, b"x"), plain(binary, true, b"x")].concat(),
            ),
            ("a ping in pieces", plain(OpCode::Control(Control::Ping), false, b"x")),
            ("a long ping", long),
            ("an unknown kind", vec![0x83, 0]),
        ] {
            assert_eq!(opened(Peer::Server, &stream, &[1]), Err(InvalidFrame), "{what}");
        }
        let unmasked = plain(binary, true, b"x");
        assert_eq!(opened(Peer::Client, &unmasked, &[9]), Err(InvalidFrame));
    }

    #[test]
    fn frames_behind_a_close_are_ignored() {
        let binary = frame(OpCode::Data(Data::Binary), true, b"x", None);
        let close = frame(OpCode::Control(Control::Close), true, &[3, 232], None);
        let stream = [&binary[..], &close, &binary, &[0xff; 20]].concat();
        assert_eq!(opened(Peer::Server, &stream, &[7]), Ok((b"x".to_vec(), Vec::new())));
    }

    #[test]
    fn the_payload_of_a_single_frame_is_not_moved() {
        let mut stream = frame(OpCode::Data(Data::Binary), true, b"packet", None);
        let end = stream.len();
        let opened = Reader::new(Peer::Server).open(&mut stream, 0, end);
        assert_eq!(opened.unwrap().payload, 2..8);
    }
}
