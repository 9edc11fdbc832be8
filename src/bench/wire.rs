//! What carries one client's MQTT: a link as it is, or WebSocket messages over it. At rest it owns the link and nothing else.

use std::mem;
use std::ops::Range;

use super::frames::{Reader, Reads, Writer};
use super::link::Link;
use super::measured::Failure;
use super::packet::Stamp;
use super::pattern::Pattern;
use super::plan::Parting;
use super::session::Handshake;
use super::upgrade::{Asking, Endpoint, Head, head};

/// A client's stream of MQTT.
pub(super) struct Wire {
    link: Link,
    carries: Carries,
    /// The beginning of a packet that came in part; before it, of the answer to the upgrade.
    held: Vec<u8>,
    /// The message whose body is under way.
    pub(super) body: Option<Box<Body>>,
}

/// What the link carries.
enum Carries {
    Mqtt,
    /// The answer to the upgrade is awaited.
    Upgrade,
    Frames(Reader),
}

/// The body of a message that has not come whole.
pub(super) struct Body {
    pub(super) stamp: Option<Stamp>,
    pub(super) qos: u8,
    pub(super) packet_id: u16,
    /// Where its next byte is in the pattern.
    pub(super) at: usize,
    /// How many bytes are missing.
    pub(super) missing: usize,
    /// How long it is in all.
    pub(super) bytes: usize,
}

/// What all clients of a run send from.
pub(super) struct Outgoing {
    pub(super) pattern: Pattern,
    websocket: Option<WebSocket>,
}

struct WebSocket {
    asking: Asking,
    writer: Writer,
    /// The pattern as it is sent.
    masked: Vec<u8>,
}

impl Outgoing {
    /// Bodies up to this size, as they are or to a WebSocket endpoint.
    pub(super) fn new(body_bytes: usize, endpoint: Option<&Endpoint>) -> Self {
        let pattern = Pattern::new(body_bytes);
        let websocket = endpoint.map(|endpoint| {
            let writer = Writer::new();
            WebSocket {
                asking: Asking::new(endpoint),
                masked: writer.masked(&pattern.bytes),
                writer,
            }
        });
        Self { pattern, websocket }
    }

    /// The bytes that stretches of the pattern are sent from.
    fn bytes(&self) -> &[u8] {
        match &self.websocket {
            Some(websocket) => &websocket.masked,
            None => &self.pattern.bytes,
        }
    }
}

impl Wire {
    /// Over a link that connects.
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            carries: Carries::Mqtt,
            held: Vec::new(),
            body: None,
        }
    }

    /// The link may have connected: asks for the upgrade, where there is to be one.
    pub(super) fn begin(&mut self, index: u32, outgoing: &Outgoing) -> Result<(), Failure> {
        self.link.connected()?;
        if let Some(websocket) = &outgoing.websocket {
            self.carries = Carries::Upgrade;
            self.link
                .send(&websocket.asking.request(index), 0..0, &[])?;
        }
        Ok(())
    }

    /// How the link's TLS handshake ended: told once.
    pub(super) fn handshake(&mut self) -> Option<Handshake> {
        self.link.handshake()
    }

    /// What was wrong with the link's TLS, in words.
    pub(super) fn tls_problem(&mut self) -> Option<String> {
        self.link.tls_problem()
    }

    /// Whether MQTT may be sent; with TLS, behind the handshake.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.carries, Carries::Upgrade)
    }

    /// Whether another message may be sent, or too many wait already.
    pub(super) fn has_room(&self) -> bool {
        self.link.has_room()
    }

    /// Sends a packet: `head` and that part of the pattern. What the link does not take is sent when it has room.
    pub(super) fn send(
        &mut self,
        head: &[u8],
        body: Range<usize>,
        outgoing: &mut Outgoing,
    ) -> Result<(), Failure> {
        match &mut outgoing.websocket {
            Some(websocket) => {
                let framed = websocket.writer.frame(head, &body);
                self.link.send(framed, body, &websocket.masked)?;
            }
            None => self.link.send(head, body, &outgoing.pattern.bytes)?,
        }
        Ok(())
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self, outgoing: &Outgoing) -> Result<(), Failure> {
        Ok(self.link.flush(outgoing.bytes())?)
    }

    /// Reads behind what was held: where in `buffer` MQTT is now, and whether the link may have more.
    pub(super) fn fill(
        &mut self,
        buffer: &mut [u8],
        outgoing: &mut Outgoing,
    ) -> Result<Option<Filled>, Failure> {
        let kept = self.held.len();
        let of_frame = match &self.carries {
            Carries::Frames(reader) if reader.is_closed() => return Err(Failure::Closed),
            Carries::Frames(reader) => reader.held(),
            _ => 0,
        };
        // What is held is longer than the beginning of any packet.
        let room = buffer
            .get_mut(kept + of_frame..)
            .filter(|room| !room.is_empty());
        let Some(arrived) = self.link.read(room.ok_or(Failure::Junk)?)? else {
            return Ok(None);
        };
        buffer[..kept].copy_from_slice(&mem::take(&mut self.held));
        let end = kept + of_frame + arrived.count;
        let mut more = arrived.more;
        let (kept, begins) = match &self.carries {
            Carries::Mqtt => return Ok(Some(Filled { mqtt: 0..end, more })),
            Carries::Frames(_) => (kept, 0),
            Carries::Upgrade => match self.upgraded(&buffer[..end], outgoing)? {
                Some(length) => (0, length),
                None => {
                    self.hold(&buffer[..end]);
                    return Ok(Some(Filled { mqtt: 0..0, more }));
                }
            },
        };
        let Carries::Frames(reader) = &mut self.carries else {
            return Err(Failure::Other);
        };
        reader.restore(&mut buffer[kept..]);
        let frames = &mut buffer[begins..end];
        let opened = reader
            .open(frames, kept, end - begins)
            .map_err(|_| Failure::Junk)?;
        // The next read says so; what came before is to be heard first.
        more |= reader.is_closed();
        if let (Some(content), Some(websocket)) = (opened.ping, &mut outgoing.websocket) {
            self.link.send(websocket.writer.pong(&content), 0..0, &[])?;
        }
        let mqtt = begins + opened.payload.start..begins + opened.payload.end;
        Ok(Some(Filled { mqtt, more }))
    }

    /// Goes on to frames once the answer to the upgrade has come whole: how long it is.
    fn upgraded(&mut self, bytes: &[u8], outgoing: &Outgoing) -> Result<Option<usize>, Failure> {
        let asking = outgoing
            .websocket
            .as_ref()
            .map(|websocket| &websocket.asking);
        let asking = asking.ok_or(Failure::Other)?;
        match head(bytes, b"HTTP/1.1 ") {
            Head::NeedMore => Ok(None),
            Head::Junk => Err(Failure::Junk),
            Head::Is(length) => {
                asking.judge(&bytes[..length])?;
                self.carries = Carries::Frames(Reader::new(Reads::Servers));
                Ok(Some(length))
            }
        }
    }

    /// Keeps the beginning of a packet until the rest of it comes.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held = bytes.to_vec();
    }

    /// Sends a last packet, and closes.
    pub(super) fn leave(
        mut self,
        packet: &[u8],
        parting: Parting,
        outgoing: &mut Outgoing,
    ) -> Result<(), Failure> {
        let sent = match &mut outgoing.websocket {
            // Whoever has not been let in has nothing to take leave of.
            Some(_) if !self.is_open() => Ok(()),
            Some(websocket) => self.link.send(websocket.writer.last(packet), 0..0, &[]),
            None => self.link.send(packet, 0..0, &[]),
        };
        self.link.part(parting);
        Ok(sent?)
    }

    /// Closes without a word.
    pub(super) fn part(self, parting: Parting) {
        self.link.part(parting);
    }
}

/// What [`Wire::fill`] read.
pub(super) struct Filled {
    pub(super) mqtt: Range<usize>,
    pub(super) more: bool,
}
