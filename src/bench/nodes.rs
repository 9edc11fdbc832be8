//! Small nodes for measuring a balancer with no broker in the way: they accept everyone and echo every message to its sender.
//!
//! One thread, no sessions, no routing. A node names itself in CONNACK (MQTT 5), so that stickiness can be seen.

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::clock::{self, Nanos, SECOND};
use super::packet::{self, Read, Version, kind};
use super::poll::{Poll, Ready};

const READ_BYTES: usize = 256 * 1024;

/// Most bytes of a packet that are kept until the rest of it comes.
const HELD_BYTES_MAX: usize = 128 * 1024;

/// Some nodes, each on a port of its own.
pub(super) struct Nodes {
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    stall: Option<Stall>,
    began: Nanos,
}

/// Nodes that do nothing for a while, again and again: what a load tester must not gloss over.
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
    version: Version,
    /// How much of a message's body is still to be echoed.
    echoing: usize,
    held: Vec<u8>,
    /// While any of this waits, nothing is read.
    unsent: Vec<u8>,
}

impl Nodes {
    /// Binds so many nodes on free ports of the loopback.
    pub(super) fn bind(count: usize, stall: Option<Stall>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for node in 0..count {
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM.nonblocking().cloexec(),
                None,
            )?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
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
        })
    }

    /// Where they are, in order.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Waits for clients, a second at most, and answers what they sent.
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
        // Parking may end early; there is nobody who would unpark this thread on purpose.
        while let Some(left) = wakes.checked_sub(clock::now()).filter(|&left| left > 0) {
            thread::park_timeout(Duration::from_nanos(left));
        }
    }

    fn accept(&mut self, node: usize) {
        // Ends with "would block", or with too many files: then clients wait, as they would for any node that is full.
        while let Ok((socket, _)) = self.listeners[node].accept() {
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
                version: Version::V4,
                echoing: 0,
                held: Vec::new(),
                unsent: Vec::new(),
            });
        }
    }

    fn answer(&mut self, slot: usize, event: Ready) {
        let Some(connection) = &mut self.connections[slot] else {
            return;
        };
        if connection.turn(event, &mut self.buffer).is_err() {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

impl Connection {
    /// Reads and answers until the socket is empty, or full. An error is the end of the connection, whatever it was.
    fn turn(&mut self, event: Ready, buffer: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        while self.unsent.is_empty() {
            let held = mem::take(&mut self.held);
            let count = match self.socket.read(&mut buffer[held.len()..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.held = held;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            buffer[..held.len()].copy_from_slice(&held);
            let filled = held.len() + count;
            self.answer(&buffer[..filled])?;
            if filled < buffer.len() && !event.hangup {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        // Messages in a row are echoed with one write, from where they were read.
        let mut echo = 0..0;
        while at < bytes.len() {
            if self.echoing > 0 {
                let here = self.echoing.min(bytes.len() - at);
                self.echoing -= here;
                at += here;
                echo.end = at;
                continue;
            }
            match packet::read(&bytes[at..], self.version) {
                Read::Publish(published) => {
                    at += published.head.len();
                    self.echoing = published.body_bytes;
                    if published.qos > 0 {
                        let mut puback = Vec::new();
                        packet::write_puback(&mut puback, published.packet_id);
                        self.send(&bytes[echo.clone()])?;
                        self.send(&puback)?;
                        echo.start = at - published.head.len();
                    }
                    echo.end = at;
                }
                Read::Packet { kind, body, whole } => {
                    self.send(&bytes[echo.clone()])?;
                    at += whole.len();
                    echo = at..at;
                    self.answer_packet(kind, body)?;
                }
                Read::NeedMore if bytes.len() - at > HELD_BYTES_MAX => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Read::NeedMore => {
                    self.held = bytes[at..].to_vec();
                    break;
                }
                Read::Junk => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.send(&bytes[echo])
    }

    fn answer_packet(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        match kind {
            // The level follows the protocol name.
            kind::CONNECT if body.get(6) == Some(&5) => {
                self.version = Version::V5;
                let name = format!("node{}", self.node + 1);
                self.send(&packet::connack_with_node(&name))
            }
            kind::CONNECT => self.send(&[kind::CONNACK << 4, 2, 0, 0]),
            kind::SUBSCRIBE => {
                let (Some(&high), Some(&low)) = (body.first(), body.get(1)) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                match self.version {
                    Version::V4 => self.send(&[kind::SUBACK << 4, 3, high, low, 0]),
                    Version::V5 => self.send(&[kind::SUBACK << 4, 4, high, low, 0, 0]),
                }
            }
            kind::PINGREQ => self.send(&packet::PINGRESP),
            kind::DISCONNECT => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
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
            self.send(&unsent)?;
        }
        Ok(())
    }
}
