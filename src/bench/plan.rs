//! What a run does, as plain data: every workload is a point in the same space, and the driver knows no workload by name.

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
    /// What it is called in the result.
    pub(super) name: &'static str,
    pub(super) target: SocketAddr,
    /// All of it goes over TLS.
    pub(super) tls: Option<Tls>,
    /// MQTT goes over WebSocket.
    pub(super) websocket: Option<Endpoint>,
    pub(super) sources: Sources,
    /// Clients that return come from another source each time.
    pub(super) roam: bool,
    pub(super) clients: u32,
    /// The first so many clients publish.
    pub(super) publishers: u32,
    pub(super) audience: Audience,
    /// Without a session that outlives the connection.
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
    /// From the first dial to the last; those that are not here by then have failed.
    pub(super) connecting_max: Nanos,
    pub(super) then: Then,
    pub(super) parting: Parting,
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
    /// Who tells the clients' nodes where CONNACK does not.
    pub(super) emqx: Option<Api>,
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

/// Who subscribes to what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Nobody of this run.
    None,
    /// Each client to its own topic.
    Sender,
    /// The clients that do not publish: in turn to the publishers' topics, or all to the one topic there is.
    Others,
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
    /// It stays until all are here; then all are cut off, and return, so many times.
    Return(u32),
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

impl Plan {
    /// Whether all publish into one topic.
    pub(super) fn has_one_topic(&self) -> bool {
        !self.topic.contains("%i")
    }

    /// The number in a client's topic: its own, or that of the publisher it listens to.
    pub(super) fn topic_number(&self, client: u32) -> u32 {
        match client.checked_sub(self.publishers) {
            None => client,
            Some(subscriber) => subscriber
                .checked_rem(self.publishers)
                .unwrap_or(subscriber),
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
