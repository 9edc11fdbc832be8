//! A connected socket, with TLS or without. A leaf: callers need not know which, except that only a socket without TLS can be
//! spliced.

pub mod sys;
mod tcp;
mod tls_state;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::scratch;
use crate::net::descriptors;

use tcp::Tcp;
pub(crate) use tcp::reset_on_close;
use tls_state::TlsState;
#[cfg(test)]
pub use tls_state::tests::pair as secured_pair;

/// How long a peer may take to read the last bytes and close.
const CLOSE_AFTER_MAX: Duration = Duration::from_secs(1);

/// The most bytes that are read of a peer meanwhile: more than what a sender has on its way when it learns of the end.
const CLOSE_AFTER_BYTES_MAX: usize = 16 << 20;

/// A connected, nonblocking socket, registered with the runtime of the thread that created it.
#[derive(Debug)]
pub struct Socket {
    tcp: Tcp,
    tls: Option<Box<RefCell<TlsState>>>,
}

/// A socket that is registered with no runtime: on its way to another thread or, if it has no TLS, to another process.
#[derive(Debug)]
pub struct Detached {
    fd: OwnedFd,
    tls: Option<Box<RefCell<TlsState>>>,
}

impl Detached {
    /// Registers the socket with this thread's runtime.
    ///
    /// # Errors
    /// epoll refuses the descriptor. The connection is lost.
    pub(crate) fn attach(self) -> io::Result<Socket> {
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
    /// epoll refuses the descriptor.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            tcp: Tcp::new(fd)?,
            tls: None,
        })
    }

    /// Registers a socket of another process with this thread's runtime. It may have ended since, but it must be what that process
    /// says it is.
    ///
    /// # Errors
    /// `InvalidInput` if this is no nonblocking TCP socket for a connection; epoll refuses the descriptor.
    pub(crate) fn of_another_process(fd: OwnedFd) -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketType, sockopt};
        let is_connection = || {
            let domain = sockopt::socket_domain(&fd)?;
            let is_ip = domain == AddressFamily::INET || domain == AddressFamily::INET6;
            let is_stream = sockopt::socket_type(&fd)? == SocketType::STREAM;
            let is_tcp = sockopt::socket_protocol(&fd)? == Some(rustix::net::ipproto::TCP);
            let is_nonblocking = rustix::fs::fcntl_getfl(&fd)?.contains(rustix::fs::OFlags::NONBLOCK);
            let accepts = sockopt::socket_acceptconn(&fd)?;
            rustix::io::Result::Ok(is_ip && is_stream && is_tcp && is_nonblocking && !accepts)
        };
        match is_connection() {
            Ok(true) => Self::new(fd),
            Ok(false) | Err(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// A second descriptor of the same socket, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicate(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        Ok(descriptors::keep(rustix::io::fcntl_dupfd_cloexec(socket, 0)?)?)
    }

    /// Adds TLS, after its handshake. `connection` has taken in `sealed` bytes that it has not decrypted yet.
    pub fn secured(self, connection: rustls::Connection, sealed: usize) -> Self {
        Self {
            tls: Some(Box::new(RefCell::new(TlsState::new(connection, sealed)))),
            ..self
        }
    }

    /// Deregisters the socket from this thread's runtime.
    pub(crate) fn detach(self) -> Detached {
        Detached {
            fd: self.tcp.into_fd(),
            tls: self.tls,
        }
    }

    /// Whether the socket has no TLS, so that it can be spliced.
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_recv(cx, buffer),
            Some(tls) => tls.borrow_mut().poll_recv(&self.tcp, cx, buffer),
        }
    }

    /// How many bytes were received since the last call that are not plaintext, because TLS has added them.
    pub(crate) fn take_overhead(&self) -> usize {
        match &self.tls {
            None => 0,
            Some(tls) => tls.borrow_mut().take_overhead(),
        }
    }

    /// Sends as many of `bytes` as fit. Waits only if the kernel's buffer is full.
    ///
    /// With TLS, records may remain that [`Socket::poll_flush`] sends.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_send(cx, bytes),
            Some(tls) => tls.borrow_mut().poll_send(&self.tcp, cx, bytes),
        }
    }

    /// Sends the TLS records that wait for room in the kernel's buffer.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.borrow_mut().poll_flush(&self.tcp, cx),
        }
    }

    /// Whether TLS records wait for room in the kernel's buffer.
    pub fn holds(&self) -> bool {
        match &self.tls {
            None => false,
            Some(tls) => tls.borrow().holds(),
        }
    }

    /// An upper bound of the bytes received but not decrypted yet: those of an incomplete TLS record or handshake message.
    pub fn sealed(&self) -> usize {
        match &self.tls {
            None => 0,
            Some(tls) => tls.borrow().sealed(),
        }
    }

    /// Sends as many of `bytes` as fit now.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits or the connection is not established yet; otherwise the error of the connection.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.send_now(bytes),
            Some(tls) => tls.borrow_mut().send_now(&self.tcp, bytes),
        }
    }

    /// Moves up to `bytes_max` bytes from this socket, which must have no TLS, into a pipe without copying; 0 is the end of the
    /// stream.
    pub(crate) fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "records cannot be spliced");
        self.tcp.poll_splice_out(cx, pipe, bytes_max)
    }

    /// Moves up to `bytes_max` bytes from a pipe into this socket, which must have no TLS, without copying.
    pub(crate) fn poll_splice_in(
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
    /// The error of the connection.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }

    /// Reads through the thread's buffer and appends to `bytes`; 0 is the end of the stream.
    ///
    /// # Errors
    /// The error of the connection.
    pub(crate) async fn recv_more(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv_more(cx, bytes)).await
    }

    /// Like [`Socket::recv_more`], for a caller that polls something else as well.
    pub(crate) fn poll_recv_more(&self, cx: &mut Context<'_>, bytes: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        scratch::with(|scratch| {
            self.poll_recv(cx, scratch)
                .map(|read| read.inspect(|read| bytes.extend_from_slice(&scratch[..*read])))
        })
    }

    /// Appends up to `room` received bytes to `bytes` and leaves them in the socket (MSG_PEEK); 0 is the end of the stream. The
    /// socket must have no TLS.
    ///
    /// # Errors
    /// The error of the connection.
    pub(crate) async fn peek_more(&self, bytes: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        debug_assert!(self.is_plain(), "records cannot be read twice");
        std::future::poll_fn(|cx| self.tcp.poll_peek(cx, bytes, room)).await
    }

    /// Discards this many bytes, which were seen by [`Socket::peek_more`].
    ///
    /// # Errors
    /// The error of the connection.
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
    /// The error of the connection. How many bytes were sent before it is unknown.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = &bytes[sent..];
        }
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends the last `bytes` and a FIN, and reads until the peer has closed, so that no reset overtakes the bytes. Gives up
    /// after a second if the peer does not read or does not close, and at once if it sends on and on.
    pub(crate) async fn close_after(&self, bytes: &[u8]) {
        let close = async {
            self.send_all(bytes).await?;
            self.shutdown_write();
            let read = || std::future::poll_fn(|cx| scratch::with(|ignored| self.poll_recv(cx, ignored)));
            let mut left = CLOSE_AFTER_BYTES_MAX;
            while left > 0 {
                match read().await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
                // A peer that goes on sending takes no more than its turns.
                tokio::task::yield_now().await;
            }
            io::Result::Ok(())
        };
        // A peer that has already closed need not get the bytes.
        let _ = tokio::time::timeout(CLOSE_AFTER_MAX, close).await;
    }

    /// With TLS, queues `close_notify` behind the records that wait for room.
    pub(crate) fn prepare_end(&self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().prepare_end();
        }
    }

    /// Sends a FIN, and with TLS a `close_notify` before it; reading goes on.
    pub(crate) fn shutdown_write(&self) {
        self.send_close_notify();
        self.tcp.shutdown_write();
    }

    /// With TLS, sends `close_notify`: without it a peer may take the close that follows for an attack.
    pub fn send_close_notify(&self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().send_close_notify(&self.tcp);
        }
    }

    /// Makes the socket send a RST when it is closed; unsent bytes are discarded.
    pub(crate) fn reset_on_close(&self) {
        reset_on_close(self.tcp.as_fd());
    }

    /// Bytes that the kernel has received and that were not read yet.
    pub(crate) fn unread(&self) -> usize {
        let unread = rustix::io::ioctl_fionread(self.tcp.as_fd());
        // A closed socket has nothing.
        unread.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
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

/// For TLS handshakes.
impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_recv(cx, buffer.initialize_unfilled())
            .map_ok(|read| buffer.advance(read))
    }
}

/// For TLS handshakes.
impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    /// Sends all records of a flight in one call: this saves packets, and an alert after another record is not left unsent.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_plain(), "a handshake runs before the socket has TLS");
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

/// The number of a network interface of this machine, by its name.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    // Any socket does: the kernel answers for the network namespace that it is in.
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(socket, name).ok()
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
