//! How a process hands over, as configured.

use std::path::PathBuf;
use std::time::Duration;

/// How a process hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The unix socket at which another process can take over; `None` means that only a child of this process can.
    pub socket: Option<PathBuf>,
    /// How long the connections that could not move may stay with the old process, before it drains them.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: None,
            grace: Duration::from_secs(60 * 60),
        }
    }
}
