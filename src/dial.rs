//! Opens a socket to a node: a leaf for greeting, and later for probes and the doctor.

use std::net::IpAddr;
use std::time::Duration;

/// How sockets to nodes are opened. Keepalive and user timeout hold for the clients' sockets as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For one connection attempt.
    pub timeout: Duration,
    /// Source addresses to take in turn; empty leaves the choice to the kernel. Each brings another 28,000 or so
    /// connections to one node.
    pub sources: Vec<IpAddr>,
    /// TCP keepalive on both legs.
    pub keepalive: Keepalive,
    /// TCP_USER_TIMEOUT on both legs: unacknowledged data for this long ends the connection.
    pub user_timeout: Duration,
}

/// TCP keepalive: it finds peers that vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes that end the connection.
    pub count: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            sources: Vec::new(),
            keepalive: Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(15),
                count: 4,
            },
            user_timeout: Duration::from_secs(90),
        }
    }
}
