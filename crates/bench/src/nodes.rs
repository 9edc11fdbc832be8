//! Small nodes, to measure a balancer without the cost of a broker. They accept every client and route by exact topic.
//!
//! One thread runs all nodes, which route to each other. There are no wildcards, and a session has no content. A client
//! that is the only subscriber of what it publishes gets its messages back while they arrive; messages to others are
//! routed when they are complete, up to 128 kB. A node reports its name in CONNACK (MQTT 5), so that stickiness can be
//! measured.
//!
//! A PROXY header before everything else is skipped. A client whose first bytes are HTTP is upgraded to WebSocket.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use super::clock::{self, Nanos, SECOND};
use super::frames::{self, Peer, Reader};
use super::introduction;
use super::packet::{self, Read, Version, kind};
use super::poll::{Poll, Ready};
use super::upgrade::{self, Head};

const READ_BYTES: usize = 256 * 1024;

/// Most bytes of a packet that are kept until the rest arrives.
const HELD_BYTES_MAX: usize = 128 * 1024;

/// Most bytes that wait for a client that does not read; messages beyond are dropped.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// Most sessions that are remembered.
const SESSIONS_MAX: usize = 200_000;

/// The nodes, each with its own port.
pub(super) struct Nodes {
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    stall: Option<Stall>,
    began: Nanos,
    topics: Topics,
    /// Clients wait that could not be accepted for want of files.
    is_full: bool,
}

/// Who subscribes to what, and what is on its way to them.
#[derive(Default)]
struct Topics {
    subscribers: HashMap<Vec<u8>, Vec<usize>>,
    deliveries: Vec<(usize, Vec<u8>)>,
    /// Client ids with a session, each on its node.
    sessions: HashSet<(usize, Vec<u8>)>,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    Nobody,
    /// The sender, and no other client.
    Sender,
    Others,
}

impl Topics {
    fn audience(&self, topic: &[u8], sender: usize) -> Audience {
        match self.subscribers.get(topic).map(Vec::as_slice) {
            None | Some([]) => Audience::Nobody,
            Some([only]) if *only == sender => Audience::Sender,
            Some(_) => Audience::Others,
        }
    }

    fn subscribe(&mut self, topic: &[u8], slot: usize) {
        let subscribers = self.subscribers.entry(topic.to_vec()).or_default();
        if !subscribers.contains(&slot) {
            subscribers.push(slot);
        }
    }

    fn leave(&mut self, filters: &[Vec<u8>], slot: usize) {
        for filter in filters {
            if let Some(subscribers) = self.subscribers.get_mut(filter) {
                subscribers.retain(|&subscriber| subscriber != slot);
                if subscribers.is_empty() {
                    self.subscribers.remove(filter);
                }
            }
        }
    }

    fn deliver(&mut self, topic: &[u8], message: &[u8]) {
        for &slot in self.subscribers.get(topic).into_iter().flatten() {
            self.deliveries.push((slot, message.to_vec()));
        }
    }

    /// Begins a session, or ends it if `clean`; returns whether there was one.
    fn session(&mut self, node: usize, client_id: &[u8], clean: bool) -> bool {
        let session = (node, client_id.to_vec());
        if clean {
            self.sessions.remove(&session);
            return false;
        }
        self.sessions.len() < SESSIONS_MAX && !self.sessions.insert(session)
    }
}

/// Regular stalls of the nodes, which a load generator must not hide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    /// From one stall to the next.
    pub(super) every: Duration,
    /// How long nothing is read, at the end of that time.
    pub(super) lasts: Duration,
}

struct Connection {
    socket: TcpStream,
    node: usize,
    slot: usize,
    version: Version,
    filters: Vec<Vec<u8>>,
    /// How much of a message's body has not arrived yet, and whether it is echoed.
    body_left: usize,
    echoes: bool,
    held: Vec<u8>,
    protocol: Protocol,
    /// What waits to be sent; nothing is read meanwhile.
    unsent: Vec<u8>,
}

/// The protocol of a client, which its first bytes show.
enum Protocol {
    /// Nothing has been read but perhaps a part of a PROXY header.
    Introduction,
    Unknown,
    Mqtt,
    Frames(Reader),
}

impl Nodes {
    /// Binds a node to each of these addresses.
    pub(super) fn bind(addresses: &[SocketAddr], stall: Option<Stall>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (node, &address) in addresses.iter().enumerate() {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(address),
                socket2::Type::STREAM.nonblocking().cloexec(),
                None,
            )?;
            socket
                .bind(&address.into())
                .map_err(|error| io::Error::new(error.kind(), format!("cannot serve at {address}: {error}")))?;
            // Accepted sockets inherit it.
            socket.set_tcp_nodelay(true)?;
            socket.listen(4096)?;
            let listener = TcpListener::from(socket);
            poll.add(&listener, node as u64)?;
            listeners.push(listener);
        }
        Ok(Self {
            poll,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; READ_BYTES],
            ready: Vec::new(),
            stall,
            began: clock::now(),
            topics: Topics::default(),
            is_full: false,
        })
    }

    /// The addresses of the nodes, in order.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Waits for clients, for a second at most, and answers what they have sent.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let now = clock::now();
        let mut ready = mem::take(&mut self.ready);
        self.poll.wait(now, now + SECOND, &mut ready)?;
        self.sleep_through_stall();
        for event in &ready {
            let token = event.token as usize;
            match token.checked_sub(self.listeners.len()) {
                None => self.accept(token),
                Some(slot) => self.answer(slot, *event),
            }
        }
        self.ready = ready;
        // The poll does not report them again, and some may have closed meanwhile.
        if mem::take(&mut self.is_full) {
            for node in 0..self.listeners.len() {
                self.accept(node);
            }
        }
        Ok(())
    }

    fn sleep_through_stall(&self) {
        let Some(Stall { every, lasts }) = self.stall else {
            return;
        };
        let since = Duration::from_nanos(clock::now() - self.began);
        let into = Duration::from_nanos((since.as_nanos() % every.as_nanos()) as Nanos);
        let wakes = clock::now() + clock::nanos(every - into);
        if into < every - lasts {
            return;
        }
        // Parking may end early, but nothing unparks this thread on purpose.
        while let Some(left) = wakes.checked_sub(clock::now()).filter(|&left| left > 0) {
            thread::park_timeout(Duration::from_nanos(left));
        }
    }

    fn accept(&mut self, node: usize) {
        loop {
            let socket = match self.listeners[node].accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client has closed already, or the open-file limit is reached and clients wait, as at any full
                // node.
                Err(_) => {
                    self.is_full = true;
                    return;
                }
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = (self.listeners.len() + slot) as u64;
            let watched = socket
                .set_nonblocking(true)
                .and_then(|()| self.poll.add(&socket, token));
            if watched.is_err() {
                self.free.push(slot);
                continue;
            }
            self.connections[slot] = Some(Connection {
                socket,
                node,
                slot,
                version: Version::V4,
                filters: Vec::new(),
                body_left: 0,
                echoes: false,
                held: Vec::new(),
                protocol: Protocol::Introduction,
                unsent: Vec::new(),
            });
        }
    }

    fn answer(&mut self, slot: usize, event: Ready) {
        let Some(connection) = &mut self.connections[slot] else {
            return;
        };
        if connection.turn(event, &mut self.buffer, &mut self.topics).is_err() {
            self.close(slot);
        }
        for (slot, message) in mem::take(&mut self.topics.deliveries) {
            let Some(connection) = &mut self.connections[slot] else {
                continue;
            };
            if connection.unsent.len() < UNSENT_BYTES_MAX && connection.send(&message).is_err() {
                self.close(slot);
            }
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(connection) = self.connections[slot].take() {
            self.topics.leave(&connection.filters, slot);
            self.free.push(slot);
        }
    }
}

impl Connection {
    /// Reads and answers until the socket is empty, or full. Every error ends the connection.
    fn turn(&mut self, event: Ready, buffer: &mut [u8], topics: &mut Topics) -> io::Result<()> {
        self.flush()?;
        while self.unsent.is_empty() {
            let kept = self.held.len();
            let of_frame = match &self.protocol {
                Protocol::Frames(reader) if reader.is_closed() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Protocol::Frames(reader) => reader.held(),
                _ => 0,
            };
            let count = match self.socket.read(&mut buffer[kept + of_frame..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            buffer[..kept].copy_from_slice(&mem::take(&mut self.held));
            let filled = kept + of_frame + count;
            let mqtt = self.open(buffer, kept, filled)?;
            self.answer(&buffer[mqtt], topics)?;
            let is_closed = matches!(&self.protocol, Protocol::Frames(reader) if reader.is_closed());
            if filled < buffer.len() && !event.hangup && !is_closed {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns where MQTT is in `buffer[..end]`; the first `kept` bytes are from before.
    fn open(&mut self, buffer: &mut [u8], kept: usize, mut end: usize) -> io::Result<Range<usize>> {
        if matches!(self.protocol, Protocol::Introduction) {
            match introduction::header(&buffer[..end]) {
                Head::Is(length) => {
                    buffer.copy_within(length..end, 0);
                    end -= length;
                }
                Head::NeedMore => {
                    self.hold(&buffer[..end])?;
                    return Ok(0..0);
                }
                Head::Junk => {}
            }
            self.protocol = Protocol::Unknown;
            if end == 0 {
                return Ok(0..0);
            }
        }
        if matches!(self.protocol, Protocol::Unknown) {
            match upgrade::head(&buffer[..end], b"GET ") {
                // A client may send nothing behind its request before it has the answer (RFC 6455, 4.1).
                Head::Is(length) if length == end => {
                    let (answer, agreed) = upgrade::answer(&buffer[..length]);
                    self.send_raw(&answer)?;
                    if !agreed {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    self.protocol = Protocol::Frames(Reader::new(Peer::Client));
                    return Ok(0..0);
                }
                Head::Is(_) => return Err(io::ErrorKind::InvalidData.into()),
                Head::NeedMore => {
                    self.hold(&buffer[..end])?;
                    return Ok(0..0);
                }
                Head::Junk => self.protocol = Protocol::Mqtt,
            }
        }
        let Protocol::Frames(reader) = &mut self.protocol else {
            return Ok(0..end);
        };
        reader.restore(&mut buffer[kept..]);
        let opened = reader.open(buffer, kept, end).map_err(|_| io::ErrorKind::InvalidData)?;
        if let Some(content) = opened.ping {
            self.send_raw(&[&frames::pong_header(content.len()), &content[..]].concat())?;
        }
        Ok(opened.payload)
    }

    fn answer(&mut self, bytes: &[u8], topics: &mut Topics) -> io::Result<()> {
        let mut at = 0;
        // Consecutive messages are echoed with one write, from the buffer they were read into.
        let mut echo = 0..0;
        while at < bytes.len() {
            if self.body_left > 0 {
                let here = self.body_left.min(bytes.len() - at);
                self.body_left -= here;
                at += here;
                if self.echoes {
                    echo.end = at;
                } else {
                    echo = at..at;
                }
                continue;
            }
            match packet::read(&bytes[at..], self.version) {
                Read::Publish(published) => {
                    let audience = topics.audience(published.topic, self.slot);
                    let head = published.head.len();
                    let whole = bytes.get(at..at + head + published.body_bytes);
                    if audience == Audience::Others && whole.is_none() {
                        self.hold(&bytes[at..])?;
                        break;
                    }
                    let begins = at;
                    at += head;
                    self.body_left = published.body_bytes;
                    self.echoes = audience == Audience::Sender;
                    if published.qos > 0 || !self.echoes {
                        self.send(&bytes[echo.clone()])?;
                        echo = begins..at;
                    }
                    if published.qos > 0 {
                        let mut puback = Vec::new();
                        packet::write_puback(&mut puback, published.packet_id);
                        self.send(&puback)?;
                    }
                    if let Some(whole) = whole.filter(|_| audience == Audience::Others) {
                        topics.deliver(published.topic, whole);
                    }
                    if self.echoes {
                        echo.end = at;
                    } else {
                        echo = at..at;
                    }
                }
                Read::Packet { kind, body, whole } => {
                    self.send(&bytes[echo.clone()])?;
                    at += whole.len();
                    echo = at..at;
                    self.answer_packet(kind, body, topics)?;
                }
                Read::NeedMore => {
                    self.hold(&bytes[at..])?;
                    break;
                }
                Read::Junk => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.send(&bytes[echo])
    }

    /// Keeps the beginning of a packet until the rest arrives.
    fn hold(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > HELD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.held = bytes.to_vec();
        Ok(())
    }

    fn answer_packet(&mut self, kind: u8, body: &[u8], topics: &mut Topics) -> io::Result<()> {
        match kind {
            kind::CONNECT => {
                let connect = Connect::read(body).ok_or(io::ErrorKind::InvalidData)?;
                self.version = connect.version;
                let present = topics.session(self.node, connect.client_id, connect.clean);
                let mut connack = match self.version {
                    Version::V4 => vec![kind::CONNACK << 4, 2, 0, 0],
                    Version::V5 => packet::connack_with_node(&format!("node{}", self.node + 1)),
                };
                connack[2] = present.into();
                self.send(&connack)
            }
            kind::SUBSCRIBE => {
                let (id, filter, qos) = read_subscribe(body, self.version).ok_or(io::ErrorKind::InvalidData)?;
                topics.subscribe(filter, self.slot);
                self.filters.push(filter.to_vec());
                match self.version {
                    Version::V4 => self.send(&[kind::SUBACK << 4, 3, id[0], id[1], qos]),
                    Version::V5 => self.send(&[kind::SUBACK << 4, 4, id[0], id[1], 0, qos]),
                }
            }
            kind::PINGREQ => self.send(&packet::PINGRESP),
            kind::DISCONNECT => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Sends MQTT; over WebSocket as one message, even if it is several packets.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !matches!(self.protocol, Protocol::Frames(_)) {
            return self.send_raw(bytes);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let header = frames::message_header(bytes.len());
        let mut sent = 0;
        if self.unsent.is_empty() {
            let parts = [IoSlice::new(&header), IoSlice::new(bytes)];
            sent = match self.socket.write_vectored(&parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                result => result?,
            };
        }
        self.unsent.extend_from_slice(&header[sent.min(header.len())..]);
        let of_bytes = sent.saturating_sub(header.len());
        if sent < header.len() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        self.send_raw(&bytes[of_bytes..])
    }

    fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes;
        while self.unsent.is_empty() && !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let unsent = mem::take(&mut self.unsent);
            self.send_raw(&unsent)?;
        }
        Ok(())
    }
}

/// The fields of a CONNECT that the nodes use.
struct Connect<'a> {
    version: Version,
    clean: bool,
    client_id: &'a [u8],
}

impl<'a> Connect<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        // Name, level, flags, keep alive.
        let (_, rest) = split_text(body)?;
        let (&[level, flags, _, _], mut rest) = rest.split_first_chunk()?;
        let version = if level == 5 { Version::V5 } else { Version::V4 };
        if version == Version::V5 {
            // The bench's own properties are shorter than 128 bytes.
            let (&length, behind) = rest.split_first()?;
            rest = behind.get(usize::from(length)..)?;
        }
        let (client_id, _) = split_text(rest)?;
        Some(Self {
            version,
            clean: flags & 2 != 0,
            client_id,
        })
    }
}

/// Packet id, the first filter, and its QoS.
fn read_subscribe(body: &[u8], version: Version) -> Option<([u8; 2], &[u8], u8)> {
    let (&id, mut rest) = body.split_first_chunk()?;
    if version == Version::V5 {
        let (&length, behind) = rest.split_first()?;
        rest = behind.get(usize::from(length)..)?;
    }
    let (filter, rest) = split_text(rest)?;
    Some((id, filter, rest.first()? & 3))
}

fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(length).into())
}
