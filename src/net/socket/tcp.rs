//! One TCP socket: readiness from tokio, system calls of our own, no buffer.
//!
//! tokio's `TcpStream` would either make one system call too many (`try_read` does not clear readiness after a short read) or
//! allow no splice between two sockets. Here reading and splicing share one rule for when a socket counts as drained.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::pipe::SpliceFlags;
use tokio::io::unix::AsyncFd;

use super::sys;
use crate::base::scratch;

/// A connected, nonblocking TCP socket, registered with the runtime of the thread that created it.
#[derive(Debug)]
pub(crate) struct Tcp(AsyncFd<OwnedFd>);

impl Tcp {
    /// Registers a nonblocking socket with this thread's runtime.
    ///
    /// # Errors
    /// epoll refuses the descriptor.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::register(fd).map(Self)
    }

    /// Deregisters the descriptor, so that it can be registered with another runtime.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    ///
    /// A short read means that the socket is drained, so it is not read again before the next event. Readiness after a FIN or
    /// RST is never cleared (tokio keeps the closed bits), so an end that arrived with the last bytes is not missed.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty()) {
                Ok((_, read)) => {
                    if read < buffer.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    /// Sends as many of `bytes` as fit. Waits only if the kernel's buffer is full.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.send_now(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.poll_write_ready(cx))?.clear_ready();
                }
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends as much of `parts` as fits, one after the other, in one call.
    pub(crate) fn poll_send_parts(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let mut nothing = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.0, parts, &mut nothing, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    ready!(self.0.poll_write_ready(cx))?.clear_ready();
                }
                sent => return Poll::Ready(sent.map_err(Into::into)),
            }
        }
    }

    /// Sends as many of `bytes` as fit now.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits or the connection is not established yet; otherwise the error of the connection.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map_err(Into::into),
            }
        }
    }

    /// Moves up to `bytes_max` bytes from this socket into a pipe without copying; 0 is the end of the stream.
    pub(crate) fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match splice(self.0.as_fd(), pipe, bytes_max) {
                // A short splice does not mean that the socket is drained: the pipe may be full of small fragments.
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    /// Moves up to `bytes_max` bytes from a pipe into this socket without copying.
    pub(crate) fn poll_splice_in(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match splice(pipe, self.0.as_fd(), bytes_max) {
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    /// Appends up to `room` received bytes to `bytes` and leaves them in the socket (MSG_PEEK); 0 is the end of the stream.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>, bytes: &mut Vec<u8>, room: usize) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let seen = scratch::with(|scratch| {
                let room = room.min(scratch.len());
                let (_, seen) = rustix::net::recv(&self.0, &mut scratch[..room], RecvFlags::PEEK)?;
                bytes.extend_from_slice(&scratch[..seen]);
                Ok(seen)
            });
            match seen {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                seen => return Poll::Ready(seen.map_err(Into::into)),
            }
        }
    }

    /// Sends a FIN; reading goes on.
    pub(crate) fn shutdown_write(&self) {
        // A socket that is already closed cannot be shut down.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    /// Bytes given to the kernel that the peer has not acknowledged yet.
    pub(crate) fn unacknowledged(&self) -> usize {
        sys::unacknowledged(self.0.as_fd())
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes `socket` send a RST when it is closed; unsent bytes are discarded.
pub(crate) fn reset_on_close(socket: BorrowedFd<'_>) {
    // A socket that is already closed cannot be reset.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes_max: usize) -> rustix::io::Result<usize> {
    // Never SPLICE_F_MORE: it holds small packets back for 200 ms (golang/go#10948).
    rustix::pipe::splice(
        from,
        None,
        to,
        None,
        bytes_max,
        SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
    )
}
