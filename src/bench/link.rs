//! Bytes into one client's socket and out of it, with those that are half sent. At rest it owns the socket and nothing else.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};

use super::plan::Parting;
use super::poll::Poll;

/// Most messages that may wait for a peer that does not read.
const UNSENT_MAX: usize = 64;

/// A connection to the target.
pub(super) struct Link {
    socket: Socket,
    unsent: VecDeque<Unsent>,
}

struct Unsent {
    head: Vec<u8>,
    body: Range<usize>,
}

impl Link {
    /// Begins to connect; the poll says when that is over.
    pub(super) fn dial(
        target: SocketAddr,
        source: Option<IpAddr>,
        poll: &Poll,
        token: u64,
    ) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            // The port is chosen with the connect: a port of one source serves many targets.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error);
            }
            _ => {}
        }
        poll.add(&socket, token)?;
        Ok(Self {
            socket,
            unsent: VecDeque::new(),
        })
    }

    /// Why the connect failed, if it did.
    pub(super) fn connected(&self) -> io::Result<()> {
        self.socket.take_error()?.map_or(Ok(()), Err)
    }

    /// Whether another message may be sent, or too many wait already.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT_MAX
    }

    /// Sends `head` and that part of the pattern; what the socket does not take is sent when it has room.
    pub(super) fn send(
        &mut self,
        head: &[u8],
        body: Range<usize>,
        pattern: &[u8],
    ) -> io::Result<()> {
        let (mut head, mut rest) = (head, &pattern[body.clone()]);
        if self.unsent.is_empty() {
            write(&self.socket, &mut head, &mut rest)?;
        }
        if !head.is_empty() || !rest.is_empty() {
            self.unsent.push_back(Unsent {
                head: head.to_vec(),
                body: body.end - rest.len()..body.end,
            });
        }
        Ok(())
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self, pattern: &[u8]) -> io::Result<()> {
        while let Some(first) = self.unsent.front_mut() {
            let (mut head, mut rest) = (first.head.as_slice(), &pattern[first.body.clone()]);
            write(&self.socket, &mut head, &mut rest)?;
            first.body.start = first.body.end - rest.len();
            if !head.is_empty() || !rest.is_empty() {
                first.head = head.to_vec();
                return Ok(());
            }
            self.unsent.pop_front();
        }
        // Gives the queue's memory back.
        self.unsent = VecDeque::new();
        Ok(())
    }

    /// Reads what has come, at most as much as fits; nothing has where it returns none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.socket).read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes.
    pub(super) fn part(self, parting: Parting) {
        // The peer may have closed already; then there is nothing to do in order.
        let _ = match parting {
            Parting::Reset => self.socket.set_linger(Some(Duration::ZERO)),
            Parting::Fin => self.socket.shutdown(Shutdown::Write),
        };
    }
}

/// Writes until all is sent or the socket is full, and moves both parts past what was sent.
fn write(mut socket: &Socket, head: &mut &[u8], body: &mut &[u8]) -> io::Result<()> {
    while !head.is_empty() || !body.is_empty() {
        let result = if body.is_empty() {
            socket.write(head)
        } else {
            socket.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])
        };
        match result {
            Ok(count) => {
                let of_head = count.min(head.len());
                *head = &head[of_head..];
                *body = &body[count - of_head..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
