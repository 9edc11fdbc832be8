//! One connected socket as the path uses it, with TLS on it or without. A leaf: nothing else knows which it is, but for what
//! may be spliced.

mod session;
mod tcp;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::scratch;

use session::Session;
#[cfg(test)]
pub use session::tests::pair as secured_pair;
use tcp::Tcp;
pub use tcp::reset_on_close;

/// How long the last words to a peer may take, and its going.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connected, nonblocking socket, registered with the runtime of the thread that made it.
#[derive(Debug)]
pub struct Socket {
    tcp: Tcp,
    tls: Option<Box<RefCell<Session>>>,
}

/// A socket between two threads' runtimes, or on its way to another process if it has no TLS.
#[derive(Debug)]
pub struct Detached {
    fd: OwnedFd,
    tls: Option<Box<RefCell<Session>>>,
}

impl Detached {
    /// Registers the socket with this thread's runtime.
    ///
    /// # Errors
    /// What epoll says; the connection is lost.
    pub fn attach(self) -> io::Result<Socket> {
        Ok(Socket {
            tcp: Tcp::new(self.fd)?,
            tls: self.tls,
        })
    }
}

impl Socket {
    /// Registers a nonblocking socket without TLS with this thread's runtime.
    ///
    /// # Errors
    /// What epoll says.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            tcp: Tcp::new(fd)?,
            tls: None,
        })
    }

    /// Goes on with TLS, the handshake of which is over, and which has taken so many bytes of which nothing has come out.
    pub fn secured(self, connection: rustls::Connection, sealed: usize) -> Self {
        Self {
            tls: Some(Box::new(RefCell::new(Session::new(connection, sealed)))),
            ..self
        }
    }

    /// Takes the socket out of this thread's runtime.
    pub fn detach(self) -> Detached {
        Detached {
            fd: self.tcp.into_fd(),
            tls: self.tls,
        }
    }

    /// Whether what passes is what is on the wire: only that can be spliced.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_recv(cx, buffer),
            Some(tls) => tls.borrow_mut().poll_recv(&self.tcp, cx, buffer),
        }
    }

    /// Sends what fits of `bytes`. Asks the kernel first and waits only when it is full.
    ///
    /// With TLS, what was taken may wait for room in [`Socket::poll_flush`].
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_send(cx, bytes),
            Some(tls) => tls.borrow_mut().poll_send(&self.tcp, cx, bytes),
        }
    }

    /// Sends the records of TLS that wait for room.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.borrow_mut().poll_flush(&self.tcp, cx),
        }
    }

    /// Whether records of TLS wait for room.
    pub fn holds(&self) -> bool {
        match &self.tls {
            None => false,
            Some(tls) => tls.borrow().holds(),
        }
    }

    /// Bytes that came and of which nothing has come out yet, at most: those of a record of TLS, or of a message of its own,
    /// that is not whole.
    pub fn sealed(&self) -> usize {
        match &self.tls {
            None => 0,
            Some(tls) => tls.borrow().sealed(),
        }
    }

    /// Sends what fits of `bytes` now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits or the connection is not established yet; else what became of the connection.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.send_now(bytes),
            Some(tls) => tls.borrow_mut().send_now(&self.tcp, bytes),
        }
    }

    /// Moves up to `bytes_max` from this socket, which is plain, into a pipe without copying; 0 is the end of the stream.
    pub fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "records cannot be spliced");
        self.tcp.poll_splice_out(cx, pipe, bytes_max)
    }

    /// Moves up to `bytes_max` from a pipe into this socket, which is plain, without copying.
    pub fn poll_splice_in(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "records cannot be spliced");
        self.tcp.poll_splice_in(cx, pipe, bytes_max)
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    ///
    /// # Errors
    /// What became of the connection.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }

    /// Reads what comes next onto the end of `bytes`, through the thread's buffer; 0 is the end of the stream.
    ///
    /// # Errors
    /// What became of the connection.
    pub async fn recv_more(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv_more(cx, bytes)).await
    }

    /// The same, for whoever has something else to do while nothing comes.
    pub fn poll_recv_more(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        scratch::with(|scratch| {
            self.poll_recv(cx, scratch)
                .map(|read| read.inspect(|read| bytes.extend_from_slice(&scratch[..*read])))
        })
    }

    /// Puts up to `room` bytes of what comes next onto the end of `bytes`, and leaves them to be read again; 0 is the end of
    /// the stream. For what is below TLS.
    ///
    /// # Errors
    /// What became of the connection.
    pub async fn peek_more(&self, bytes: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        debug_assert!(self.is_plain(), "records cannot be read twice");
        std::future::poll_fn(|cx| self.tcp.poll_peek(cx, bytes, room)).await
    }

    /// Takes so many bytes off the stream, which were seen there by [`Socket::peek_more`].
    ///
    /// # Errors
    /// What became of the connection.
    pub async fn skip(&self, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            let read = std::future::poll_fn(|cx| {
                scratch::with(|scratch| {
                    let room = bytes.min(scratch.len());
                    self.poll_recv(cx, &mut scratch[..room])
                })
            });
            match read.await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes -= read,
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// What became of the connection; how much was sent before is lost.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = &bytes[sent..];
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says the last `words` and a FIN, and reads until the peer has gone, so that no reset overtakes them. A peer that does
    /// not listen, or does not go, is left all the same after a second.
    pub async fn farewell(&self, words: &[u8]) {
        let leave = async {
            self.send_all(words).await?;
            self.shutdown_write();
            let read =
                || std::future::poll_fn(|cx| scratch::with(|ignored| self.poll_recv(cx, ignored)));
            while read().await? > 0 {}
            io::Result::Ok(())
        };
        // One that is gone need not hear them.
        let _ = tokio::time::timeout(FAREWELL, leave).await;
    }

    /// Puts the end in TLS, where there is TLS, behind what waits for room.
    pub fn prepare_end(&self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().prepare_end();
        }
    }

    /// Says the end, in TLS where there is TLS, and sends a FIN; reading goes on.
    pub fn shutdown_write(&self) {
        self.say_end();
        self.tcp.shutdown_write();
    }

    /// Says the end in TLS, where there is TLS: without it a peer may take the close that comes for an attack.
    pub fn say_end(&self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().say_end(&self.tcp);
        }
    }

    /// Makes the coming close a reset: what is still unsent is thrown away.
    pub fn reset_on_close(&self) {
        reset_on_close(self.tcp.as_fd());
    }

    /// Bytes given to the kernel that the peer has not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        self.tcp.unacknowledged()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// As the handshakes of TLS want it.
impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_recv(cx, buffer.initialize_unfilled())
            .map_ok(|read| buffer.advance(read))
    }
}

/// As the handshakes of TLS want it.
impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    /// All records of a flight at once: packets are saved, and an alert behind another record is not left behind.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "a handshake comes before its TLS");
        self.tcp.poll_send_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.is_plain()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Socket::poll_flush(&self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

/// The two ends of a connection.
#[cfg(test)]
pub fn pair() -> (std::net::TcpStream, Socket) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let near = std::net::TcpStream::connect(address).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    far.set_nonblocking(true).expect("set");
    (near, Socket::new(far.into()).expect("registered"))
}
