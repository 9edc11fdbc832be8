//! Puts the parts together: workers, listeners, control; what a program or a test starts.

use std::io;
use std::net::SocketAddr;

use crate::config::Config;

/// A balancer that runs, until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {}

/// Starts a balancer: binds every listener, starts the workers and control, and returns.
///
/// # Errors
/// The first thing that the system refuses: an address in use, a thread that cannot start.
pub fn start(_config: Config) -> io::Result<Running> {
    Ok(Running {})
}

impl Running {
    /// The bound addresses, in the order of the configuration's listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &[]
    }

    /// Closes the listeners and every connection, and returns when all threads have ended.
    pub fn stop(self) {}
}
