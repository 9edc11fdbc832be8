//! One client's socket, plain or with TLS, and the bytes that it has not taken yet. At rest a link owns the socket and
//! what rustls keeps, and nothing else.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};

use super::plan::CloseMode;
use super::poll::Poll;
use super::session::{Arrived, Handshake, Session};
use super::tls::Tls;

/// Most messages that wait for a peer that does not read.
const UNSENT_MAX: usize = 64;

/// A connection to the target.
pub(super) struct Link {
    stream: Stream,
    unsent: VecDeque<Unsent>,
}

struct Stream {
    socket: Socket,
    session: Option<Box<Session>>,
}

struct Unsent {
    head: Vec<u8>,
    body: Range<usize>,
}

impl Link {
    /// Begins to connect; the poll reports when that is over.
    pub(super) fn dial(
        target: SocketAddr,
        source: Option<IpAddr>,
        tls: Option<&Tls>,
        poll: &Poll,
        token: u64,
    ) -> io::Result<Self> {
        let session = match tls {
            Some(tls) => Some(Box::new(Session::new(tls)?)),
            None => None,
        };
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            // The kernel chooses the port when it connects, so that one port can be used for several targets.
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
            stream: Stream { socket, session },
            unsent: VecDeque::new(),
        })
    }

    /// The error of a failed connect.
    pub(super) fn connected(&self) -> io::Result<()> {
        self.stream.socket.take_error()?.map_or(Ok(()), Err)
    }

    /// How the handshake ended; returned once.
    pub(super) fn handshake(&mut self) -> Option<Handshake> {
        self.stream.session.as_mut()?.handshake()
    }

    /// Whether the TLS handshake has not ended yet.
    pub(super) fn is_handshaking(&self) -> bool {
        let session = self.stream.session.as_ref();
        session.is_some_and(|session| session.is_handshaking())
    }

    /// What was wrong with TLS, in words.
    pub(super) fn tls_problem(&mut self) -> Option<String> {
        self.stream.session.as_mut()?.problem()
    }

    /// Whether another message may be sent: `false` while too many wait.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT_MAX
    }

    /// Sends `head` and this part of the pattern. What the socket does not take waits for the next flush.
    pub(super) fn send(&mut self, head: &[u8], body: Range<usize>, pattern: &[u8]) -> io::Result<()> {
        let (mut head, mut rest) = (head, &pattern[body.clone()]);
        if self.unsent.is_empty() {
            self.stream.write(&mut head, &mut rest)?;
        }
        if !head.is_empty() || !rest.is_empty() {
            self.unsent.push_back(Unsent {
                head: head.to_vec(),
                body: body.end - rest.len()..body.end,
            });
        }
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, pattern: &[u8]) -> io::Result<()> {
        if !self.stream.flush()? {
            return Ok(());
        }
        while let Some(first) = self.unsent.front_mut() {
            let (mut head, mut rest) = (first.head.as_slice(), &pattern[first.body.clone()]);
            self.stream.write(&mut head, &mut rest)?;
            first.body.start = first.body.end - rest.len();
            if !head.is_empty() || !rest.is_empty() {
                first.head = head.to_vec();
                return Ok(());
            }
            self.unsent.pop_front();
        }
        // Frees the memory of the queue.
        self.unsent = VecDeque::new();
        Ok(())
    }

    /// Reads what has arrived, as far as it fits; `None` if nothing has.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
        let Stream { socket, session } = &mut self.stream;
        if let Some(session) = session {
            return session.read(socket, buffer);
        }
        match socket.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(Arrived {
                count,
                more: count == buffer.len(),
            })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes the connection.
    pub(super) fn close(self, close_mode: CloseMode) {
        let Stream { socket, session } = self.stream;
        // The peer may have closed already, and then nothing is left to do.
        let _ = match close_mode {
            CloseMode::Reset => socket.set_linger(Some(Duration::ZERO)),
            CloseMode::Fin => {
                if let Some(mut session) = session {
                    session.send_close_notify(&socket);
                }
                socket.shutdown(Shutdown::Write)
            }
        };
    }
}

impl Stream {
    /// Writes until all is sent or the socket is full, and moves both parts past what was sent.
    fn write(&mut self, head: &mut &[u8], body: &mut &[u8]) -> io::Result<()> {
        while !head.is_empty() || !body.is_empty() {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            let result = match &mut self.session {
                Some(session) => session.send(&self.socket, &parts),
                None if body.is_empty() => self.socket.write(head),
                None => self.socket.write_vectored(&parts),
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

    /// Sends the records that wait; returns whether all were sent.
    fn flush(&mut self) -> io::Result<bool> {
        let Some(session) = &mut self.session else {
            return Ok(true);
        };
        match session.flush(&self.socket) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
