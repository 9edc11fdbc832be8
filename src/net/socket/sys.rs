//! The system calls that no crate wraps safely: all `unsafe` code of this library, each use with its reason. Every other system
//! call goes through rustix or socket2.

#![expect(
    unsafe_code,
    reason = "a registration, a passed descriptor, two socket options and an ioctl that are unsafe, or missing, in std, tokio, rustix and socket2"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::unix::AsyncFd;

/// Registers a nonblocking socket with this thread's runtime.
///
/// # Errors
/// epoll refuses the descriptor.
pub(crate) fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: tokio needs the descriptor to stay open and the same while it is registered. An `OwnedFd` is open and never
    // changes, the `AsyncFd` owns it from here on, and lends it only by shared reference, which cannot replace it.
    // `AsyncFd::get_mut` could; it is not called in this crate.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// The descriptors with these numbers, which the process was started with: each is closed with what is returned.
///
/// # Errors
/// One of them is not open.
pub(crate) fn passed(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let owned = numbers.iter().map(|number| {
        // SAFETY: only a number is looked at, and fcntl says EBADF for one that is not open.
        let passed = unsafe { BorrowedFd::borrow_raw(*number) };
        fcntl_setfd(passed, FdFlags::CLOEXEC)?;
        // SAFETY: it is open, as was just seen. systemd passes it for this process to own, as LISTEN_PID says, nothing here has opened
        // it, and the caller asks once, since the numbers are those of the start.
        Ok(unsafe { OwnedFd::from_raw_fd(*number) })
    });
    owned.collect()
}

/// Keeps a connection in the kernel until the client has sent something (TCP_DEFER_ACCEPT): one wake-up instead of two, and a
/// scanner that sends nothing takes no descriptor and no memory here until `seconds` have passed. 0 turns the option off.
///
/// # Errors
/// The kernel refuses the option.
pub(crate) fn defer_accept(listener: BorrowedFd<'_>, seconds: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so it is open; the kernel reads one int of this length through the pointer, and
    // keeps neither.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Lets the kernel choose the source port at `connect`, not at `bind` (IP_BIND_ADDRESS_NO_PORT): a port that is chosen at `bind`
/// cannot be used for other nodes at the same time (envoyproxy/envoy#44747).
///
/// # Errors
/// The kernel refuses the option.
pub(crate) fn choose_port_when_connecting(socket: &socket2::Socket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?)
}

/// The network namespace in which a socket was opened, as a number that no other one has until the machine restarts (SO_NETNS_COOKIE).
///
/// # Errors
/// The kernel does not know the option: before Linux 5.14, for one.
pub(crate) fn network_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open; the kernel writes at most `length` bytes through the first pointer, which are
    // those of `cookie`, and their number through the second, and keeps neither.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(cookie)
}

/// Bytes given to the kernel that the peer has not acknowledged yet (SIOCOUTQ, tcp(7)).
pub fn unacknowledged(socket: BorrowedFd<'_>) -> usize {
    // For sockets, `TIOCOUTQ` is called `SIOCOUTQ`.
    const SIOCOUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: SIOCOUTQ writes one `int` through its argument, which is what the getter provides.
    let queued = unsafe {
        let getter = rustix::ioctl::Getter::<SIOCOUTQ, c_int>::new();
        rustix::ioctl::ioctl(socket, getter)
    };
    // A closed socket has nothing in flight.
    queued.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
}
