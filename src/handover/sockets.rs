//! What a descriptor that another process has sent really is.

use std::os::fd::OwnedFd;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

/// Whether it is a socket on which clients or operators are accepted.
pub(super) fn listens(descriptor: &OwnedFd) -> bool {
    let families = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX];
    is_stream(descriptor, &families) && socket_acceptconn(descriptor) == Ok(true)
}

/// Whether it is the socket of a TCP connection, which may have ended.
pub(super) fn is_connection(descriptor: &OwnedFd) -> bool {
    let families = [AddressFamily::INET, AddressFamily::INET6];
    is_stream(descriptor, &families) && socket_acceptconn(descriptor) == Ok(false)
}

fn is_stream(descriptor: &OwnedFd, families: &[AddressFamily]) -> bool {
    socket_type(descriptor) == Ok(SocketType::STREAM)
        && socket_domain(descriptor).is_ok_and(|family| families.contains(&family))
}
