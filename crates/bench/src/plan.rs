//! What a run does, as plain data. Every workload is a plan, and the driver knows no workload by name.

use std::net::SocketAddr;

use super::clock::Nanos;
use super::emqx::Api;
use super::packet::Version;
use super::sources::Sources;
use super::tls::Tls;
use super::upgrade::Endpoint;

/// One run against one target.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The name in the result.
    pub(super) name: &'static str,
    pub(super) target: SocketAddr,
    /// TLS, if it is used.
    pub(super) tls: Option<Tls>,
    /// The WebSocket endpoint, if WebSocket is used.
    pub(super) websocket: Option<Endpoint>,
    pub(super) sources: Sources,
    /// Clients that return use another source address each time.
    pub(super) roam: bool,
    pub(super) clients: u32,
    /// How many of the clients publish: the first ones.
    pub(super) publishers: u32,
    pub(super) audience: Audience,
    /// Sessions end with their connections.
    pub(super) clean: bool,
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
    /// From the first dial; clients that have not connected by then have failed.
    pub(super) connecting_max: Nanos,
    pub(super) then: Then,
    pub(super) close_mode: CloseMode,
    pub(super) traffic: Traffic,
    pub(super) qos: u8,
    /// The payload, stamp included.
    pub(super) size: usize,
    /// Traffic before the measured time.
    pub(super) warm_up: Nanos,
    /// The measured time.
    pub(super) duration: Nanos,
    /// From the last close to the last reading of the processes' memory.
    pub(super) settle: Nanos,
    /// Where to look up the clients' nodes, when CONNACK does not name them.
    pub(super) emqx: Option<Api>,
    /// Processes whose CPU time and memory are read.
    pub(super) pids: Vec<u32>,
}

/// When clients connect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arrival {
    /// The next one as soon as fewer than this many are connecting.
    AtOnce(u32),
    /// So many a second, at fixed times, even if the target is slow.
    PerSecond(f64),
}

/// Who subscribes to what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// No client of this run.
    None,
    /// Each client to its own topic.
    Sender,
    /// The clients that do not publish: to the publishers' topics in turn, or all of them to the one topic.
    Others,
}

/// What a client does after it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It disconnects at once.
    Leave,
    /// It pings once, then stays connected.
    Ping,
    /// It stays connected.
    Stay,
    /// It stays connected until all clients are; then all are cut off and reconnect, so many times.
    Return(u32),
}

/// How a client closes its connection after DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseMode {
    /// Gracefully; this end keeps the port for a minute (TIME_WAIT).
    Fin,
    /// With a reset, so that storms do not run out of ports.
    Reset,
}

/// When clients publish.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Traffic {
    /// Never.
    None,
    /// The next message as soon as fewer than this many of the client's own are in flight.
    Window(u32),
    /// So many a second over all clients, at fixed times, even if the target is slow.
    PerSecond {
        rate: f64,
        /// Most of a client's own messages in flight. A message that waits for it is sent late, and its latency says
        /// so.
        window: u32,
    },
}

impl Plan {
    /// Whether all clients publish to one topic.
    pub(super) fn has_one_topic(&self) -> bool {
        !self.topic.contains("%i")
    }

    /// The number in a client's topic: its own, or that of the publisher it subscribes to.
    pub(super) fn topic_number(&self, client: u32) -> u32 {
        match client.checked_sub(self.publishers) {
            None => client,
            Some(subscriber) => subscriber.checked_rem(self.publishers).unwrap_or(subscriber),
        }
    }

    /// Whether a client subscribes.
    pub(super) fn subscribes(&self, client: u32) -> bool {
        match self.audience {
            Audience::None => false,
            Audience::Sender => true,
            Audience::Others => client >= self.publishers,
        }
    }
}
