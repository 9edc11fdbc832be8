//! What carries one client's MQTT: the link itself, or WebSocket messages over it. At rest a wire owns the link, and
//! nothing else.

use std::mem;
use std::ops::Range;

use super::failure::Failure;
use super::frames::{Peer, Reader, Writer};
use super::link::Link;
use super::packet::Stamp;
use super::pattern::Pattern;
use super::plan::CloseMode;
use super::session::Handshake;
use super::upgrade::{Endpoint, Head, UpgradeRequest, head};

/// A client's stream of MQTT.
pub(super) struct Wire {
    link: Link,
    carried: Carried,
    /// The beginning of an incomplete packet, or of an incomplete answer to the upgrade.
    held: Vec<u8>,
    /// The message whose body is arriving.
    pub(super) body: Option<Box<Body>>,
}

/// What the link carries now.
enum Carried {
    Mqtt,
    /// The answer to the upgrade is awaited.
    Upgrade,
    Frames(Reader),
}

/// A message, and how much of its body has arrived.
pub(super) struct Body {
    pub(super) stamp: Option<Stamp>,
    pub(super) qos: u8,
    pub(super) packet_id: u16,
    /// Where the next byte is in the pattern.
    pub(super) at: usize,
    /// How many bytes have not arrived yet.
    pub(super) missing: usize,
    /// The length of the whole body.
    pub(super) bytes: usize,
}

/// What all clients of a run send from.
pub(super) struct Outgoing {
    pub(super) pattern: Pattern,
    websocket: Option<WebSocket>,
}

struct WebSocket {
    upgrade: UpgradeRequest,
    writer: Writer,
    /// The pattern, masked.
    masked: Vec<u8>,
}

impl Outgoing {
    /// For bodies up to this size, with frames for a WebSocket endpoint.
    pub(super) fn new(body_bytes: usize, endpoint: Option<&Endpoint>) -> Self {
        let pattern = Pattern::new(body_bytes);
        let websocket = endpoint.map(|endpoint| {
            let writer = Writer::new();
            WebSocket {
                upgrade: UpgradeRequest::new(endpoint),
                masked: writer.masked(&pattern.bytes),
                writer,
            }
        });
        Self { pattern, websocket }
    }

    /// The pattern as it is sent.
    fn bytes(&self) -> &[u8] {
        match &self.websocket {
            Some(websocket) => &websocket.masked,
            None => &self.pattern.bytes,
        }
    }
}

impl Wire {
    /// Over a link that is connecting.
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            carried: Carried::Mqtt,
            held: Vec::new(),
            body: None,
        }
    }

    /// The link may have connected: requests the upgrade, if WebSocket is used.
    pub(super) fn begin(&mut self, index: u32, outgoing: &Outgoing) -> Result<(), Failure> {
        self.link.connected()?;
        if let Some(websocket) = &outgoing.websocket {
            self.carried = Carried::Upgrade;
            self.link.send(&websocket.upgrade.request(index), 0..0, &[])?;
        }
        Ok(())
    }

    /// How the TLS handshake ended; returned once.
    pub(super) fn handshake(&mut self) -> Option<Handshake> {
        self.link.handshake()
    }

    /// Whether the TLS handshake has not ended yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.link.is_handshaking()
    }

    /// What was wrong with TLS, in words.
    pub(super) fn tls_problem(&mut self) -> Option<String> {
        self.link.tls_problem()
    }

    /// Whether MQTT may be sent. During a TLS handshake it waits for the end of that.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.carried, Carried::Upgrade)
    }

    /// Whether another message may be sent: `false` while too many wait.
    pub(super) fn has_room(&self) -> bool {
        self.link.has_room()
    }

    /// Sends a packet: `head` and this part of the pattern. What the socket does not take waits for the next flush.
    pub(super) fn send(&mut self, head: &[u8], body: Range<usize>, outgoing: &mut Outgoing) -> Result<(), Failure> {
        match &mut outgoing.websocket {
            Some(websocket) => {
                let framed = websocket.writer.frame(head, &body);
                self.link.send(framed, body, &websocket.masked)?;
            }
            None => self.link.send(head, body, &outgoing.pattern.bytes)?,
        }
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, outgoing: &Outgoing) -> Result<(), Failure> {
        Ok(self.link.flush(outgoing.bytes())?)
    }

    /// Reads behind the bytes that were held; returns where MQTT is in `buffer`, and whether the link may have more.
    pub(super) fn fill(&mut self, buffer: &mut [u8], outgoing: &mut Outgoing) -> Result<Option<Filled>, Failure> {
        let kept = self.held.len();
        let of_frame = match &self.carried {
            Carried::Frames(reader) if reader.is_closed() => return Err(Failure::Closed),
            Carried::Frames(reader) => reader.held(),
            _ => 0,
        };
        // Fails when more is held than the beginning of any packet.
        let room = buffer.get_mut(kept + of_frame..).filter(|room| !room.is_empty());
        let Some(arrived) = self.link.read(room.ok_or(Failure::Junk)?)? else {
            return Ok(None);
        };
        buffer[..kept].copy_from_slice(&mem::take(&mut self.held));
        let end = kept + of_frame + arrived.count;
        let mut more = arrived.more;
        let (kept, begins) = match &self.carried {
            Carried::Mqtt => return Ok(Some(Filled { mqtt: 0..end, more })),
            Carried::Frames(_) => (kept, 0),
            Carried::Upgrade => match self.upgraded(&buffer[..end], outgoing)? {
                Some(length) => (0, length),
                None => {
                    self.hold(&buffer[..end]);
                    return Ok(Some(Filled { mqtt: 0..0, more }));
                }
            },
        };
        let Carried::Frames(reader) = &mut self.carried else {
            return Err(Failure::Other);
        };
        reader.restore(&mut buffer[kept..]);
        let frames = &mut buffer[begins..end];
        let opened = reader.open(frames, kept, end - begins).map_err(|_| Failure::Junk)?;
        // The next read returns the close; the packets before it come first.
        more |= reader.is_closed();
        if let (Some(content), Some(websocket)) = (opened.ping, &mut outgoing.websocket) {
            self.link.send(websocket.writer.pong(&content), 0..0, &[])?;
        }
        let mqtt = begins + opened.payload.start..begins + opened.payload.end;
        Ok(Some(Filled { mqtt, more }))
    }

    /// Goes on to frames once the answer to the upgrade is complete; returns the length of the answer.
    fn upgraded(&mut self, bytes: &[u8], outgoing: &Outgoing) -> Result<Option<usize>, Failure> {
        let upgrade = outgoing.websocket.as_ref().map(|websocket| &websocket.upgrade);
        let upgrade = upgrade.ok_or(Failure::Other)?;
        match head(bytes, b"HTTP/1.1 ") {
            Head::NeedMore => Ok(None),
            Head::Junk => Err(Failure::Junk),
            Head::Is(length) => {
                upgrade.check_response(&bytes[..length])?;
                self.carried = Carried::Frames(Reader::new(Peer::Server));
                Ok(Some(length))
            }
        }
    }

    /// Keeps the beginning of a packet until the rest arrives.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held = bytes.to_vec();
    }

    /// Sends a last packet, and closes.
    pub(super) fn leave(
        mut self,
        packet: &[u8],
        close_mode: CloseMode,
        outgoing: &mut Outgoing,
    ) -> Result<(), Failure> {
        let sent = match &mut outgoing.websocket {
            // Before the upgrade there is no MQTT connection to end.
            Some(_) if !self.is_open() => Ok(()),
            Some(websocket) => self.link.send(websocket.writer.last(packet), 0..0, &[]),
            None => self.link.send(packet, 0..0, &[]),
        };
        self.link.close(close_mode);
        Ok(sent?)
    }

    /// Closes without a last packet.
    pub(super) fn close(self, close_mode: CloseMode) {
        self.link.close(close_mode);
    }
}

/// What [`Wire::fill`] read.
pub(super) struct Filled {
    pub(super) mqtt: Range<usize>,
    pub(super) more: bool,
}
