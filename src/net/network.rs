//! Which network a socket is in: that of the process that opened it, for as long as it lives, whichever process has it later.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use crate::net::socket::sys;

/// Whether a socket is in the network namespace of this process; also if the kernel does not say.
pub(crate) fn is_own(socket: impl AsFd) -> bool {
    let same = || {
        let own = UnixDatagram::unbound()?;
        Ok::<_, io::Error>(sys::network_of(own.as_fd())? == sys::network_of(socket.as_fd())?)
    };
    same().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_this_process_opens_is_in_its_own_network() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert!(is_own(&socket));
        // Where the kernel has the option, it says the same of every socket of one namespace.
        let other = UnixDatagram::unbound().expect("a descriptor");
        assert_eq!(
            sys::network_of(socket.as_fd()).ok(),
            sys::network_of(other.as_fd()).ok()
        );
    }

    #[test]
    fn what_is_no_socket_is_not_taken_for_one_of_another_network() {
        let file = tempfile::tempfile().expect("a file");
        sys::network_of(file.as_fd()).expect_err("no socket");
        assert!(is_own(&file));
    }
}
