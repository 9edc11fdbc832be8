//! One TCP socket: readiness from tokio, system calls of our own, no buffer.
//!
//! tokio's `TcpStream` would either ask the kernel once too often (`try_read` does not clear readiness after a short read)
//! or allow no splice between two sockets; here both kinds of move share one rule for when a socket counts as drained.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use rustix::pipe::SpliceFlags;
use tokio::io::unix::AsyncFd;

use crate::scratch;

/// A connected, nonblocking TCP socket, registered with the runtime of the thread that made it.
#[derive(Debug)]
pub struct Tcp(AsyncFd<OwnedFd>);

impl Tcp {
    /// Registers a nonblocking socket with this thread's runtime.
    ///
    /// # Errors
    /// What epoll says.
    #[expect(
        unsafe_code,
        reason = "tokio asks for a promise that the descriptor stays open and the same while registered"
    )]
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open, always the same, and closed only when the `AsyncFd` that now owns it goes.
        unsafe { AsyncFd::register(fd) }
            .map(Self)
            .map_err(io::Error::from)
    }

    /// Takes the descriptor out of the runtime, to be registered elsewhere.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// Reads into `buffer`; 0 is the end of the stream.
    ///
    /// A short read means that the socket is drained, so it is not asked again before the next event. Readiness after a
    /// FIN or RST is never cleared (tokio keeps the closed bits), so an end that came with the last bytes is not missed.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
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

    /// Sends what fits of `bytes`. Asks the kernel first and waits only when it is full.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.send_now(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.poll_write_ready(cx))?.clear_ready();
                }
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends what fits of `parts`, one behind the other, in one call.
    pub fn poll_send_parts(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.0, parts, &mut none, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    ready!(self.0.poll_write_ready(cx))?.clear_ready();
                }
                sent => return Poll::Ready(sent.map_err(Into::into)),
            }
        }
    }

    /// Sends what fits of `bytes` now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits or the connection is not established yet; else what became of the connection.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map_err(Into::into),
            }
        }
    }

    /// Moves up to `bytes_max` from this socket into a pipe without copying; 0 is the end of the stream.
    pub fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            match splice(self.0.as_fd(), pipe, bytes_max) {
                // A short splice may also mean a pipe full of small fragments, so it does not mean a drained socket.
                Ok(moved) => return Poll::Ready(Ok(moved)),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
    }

    /// Moves up to `bytes_max` from a pipe into this socket without copying.
    pub fn poll_splice_in(
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

    /// Puts up to `room` bytes of what comes next onto the end of `bytes`, and leaves them to be read again; 0 is the end of
    /// the stream.
    pub fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
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
    pub fn shutdown_write(&self) {
        // A socket that is gone already has nothing left to shut down.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    /// Bytes given to the kernel that the peer has not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        unacknowledged(self.0.as_fd())
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes the coming close of `socket` a reset: what is still unsent is thrown away.
pub fn reset_on_close(socket: BorrowedFd<'_>) {
    // On a socket that is gone already there is nothing left to reset.
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

#[expect(
    unsafe_code,
    reason = "no crate at hand has a safe SIOCOUTQ; the opcode takes a pointer to one int and writes it"
)]
fn unacknowledged(socket: BorrowedFd<'_>) -> usize {
    // `TIOCOUTQ`, which sockets know as `SIOCOUTQ` (tcp(7)).
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one `int` through its argument, which is what the getter provides.
    let queued = unsafe {
        let getter = rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(socket, getter)
    };
    // A socket that is gone has nothing on its way.
    queued.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
}
