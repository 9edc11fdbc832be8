//! What a run does, as plain data: every workload is a point in the same space, and the driver knows no workload by name.

use std::net::SocketAddr;

use super::clock::Nanos;
use super::packet::Version;

/// One run against one target.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) target: SocketAddr,
    pub(super) clients: u32,
    pub(super) version: Version,
    /// With `%i` for the client's number.
    pub(super) client_id: String,
    /// With `%i` for the client's number.
    pub(super) topic: String,
    pub(super) keep_alive_s: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) arrival: Arrival,
    /// From the dial to CONNACK.
    pub(super) connect_timeout: Nanos,
    pub(super) then: Then,
    pub(super) parting: Parting,
    pub(super) subscribes: bool,
    pub(super) traffic: Traffic,
    pub(super) qos: u8,
    /// The payload, stamp included.
    pub(super) size: usize,
    /// Traffic before the measured time.
    pub(super) warm_up: Nanos,
    /// The measured time.
    pub(super) duration: Nanos,
    /// From the last close to the last look at the processes' memory.
    pub(super) settle: Nanos,
    /// Processes whose CPU time and memory are read.
    pub(super) pids: Vec<u32>,
}

/// When clients connect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arrival {
    /// The next one as soon as fewer than this many are under way.
    AtOnce(u32),
    /// So many a second, whatever the target does.
    PerSecond(f64),
}

/// What a client does once it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It leaves at once.
    Leave,
    /// It pings once, then stays.
    Ping,
    /// It stays.
    Stay,
}

/// How a client leaves, after its DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// In order; this end keeps the port for a minute.
    Fin,
    /// By a reset, so that storms do not run out of ports.
    Reset,
}

/// When clients publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Traffic {
    /// Never.
    None,
    /// The next message as soon as fewer than this many of the client's own are under way.
    Window(u32),
    /// So many a second over all clients, at fixed times, whatever the target does.
    PerSecond {
        rate: f64,
        /// Most of a client's own messages under way: those that have to wait for it are late, and measured as that.
        window: u32,
    },
}
