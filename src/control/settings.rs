//! The settings of control.

use std::fmt;
use std::time::Duration;

use super::check::Check;
use super::discovery::Discovery;

/// How fast clients are taken to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// CONNECTs that each node gets in a second at most; `None` means no limit.
    pub connects_per_second: Option<u32>,
    /// How long that rate rises, from a tenth, after a node has come back.
    pub slow_start: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            connects_per_second: None,
            slow_start: Duration::from_secs(30),
        }
    }
}

/// When a node counts as down, how often names are resolved, and how fast clients are taken to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures that make an endpoint down, of different clients and of probes, at least one of each; for one that has never answered,
    /// of probes alone.
    pub failures_max: u32,
    /// Failed probes in a row that make an endpoint down without any client that failed, if it has answered before. They begin a second
    /// apart.
    pub fall: u32,
    /// Answers to probes in a row, or to clients, that make an endpoint up again.
    pub rise: u32,
    /// How far a probe goes.
    pub probe: ProbeDepth,
    /// Whom the PROXY header of a probe names.
    pub probe_proxy: ProbeProxy,
    /// The time between two probes of an endpoint that is up, a tenth more or less; `None` probes it only when there is a reason to.
    pub interval: Option<Duration>,
    /// The share of the nodes, in percent, that probes alone may take down.
    pub down_share: u8,
    /// From the start of the probe that took an endpoint down to the start of the next; doubles each time that one fails.
    pub down_min: Duration,
    /// The longest time between two probes of an endpoint that is down.
    pub down_max: Duration,
    /// What happens to the connections of an endpoint that is down.
    pub on_down: OnDown,
    /// How many of them are closed per second.
    pub on_down_rate: u32,
    /// The interval between two look-ups of a node's host name.
    pub resolve_interval: Duration,
    /// How fast clients are taken to nodes.
    pub pacing: Pacing,
    /// How the nodes' HTTP APIs are asked.
    pub api: ApiSettings,
    /// Where further nodes are found, if anywhere.
    pub discovery: Option<Discovery>,
}

/// What happens to the connections of an endpoint that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// They are closed, while another node takes clients.
    #[default]
    Close,
    /// They stay until a peer or a limit ends them.
    Keep,
}

/// How far a probe goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeDepth {
    /// As far as a client: with TLS and an upgrade where the endpoint has them, a CONNECT and its CONNACK, whatever that says.
    #[default]
    Mqtt,
    /// The TCP connection, with TLS where the endpoint has it.
    Connect,
}

/// Whom the PROXY header of a probe names, where an endpoint expects one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeProxy {
    /// This machine, as if it were a client. Some brokers never answer the other one.
    #[default]
    Proxy,
    /// Nobody: LOCAL, or UNKNOWN in version 1. Nodes then see the connection's own addresses.
    Local,
}

/// How the HTTP APIs of nodes are asked, of those that have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// What they are asked.
    pub check: Check,
    /// The key to the API; `None` asks without one.
    pub credentials: Option<Credentials>,
    /// The time between an answer and the next question, a tenth more or less.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// The field Authorization of a request to a node's API. It is secret, and not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

impl Credentials {
    /// The value of the field, such as `Basic a2V5OnNlY3JldA==`.
    pub fn new(authorization: String) -> Self {
        Self(authorization)
    }

    pub(super) fn authorization(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            check: Check::default(),
            credentials: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_max: 3,
            // So that one of which 30 % of the probes are lost stays up; see the simulation of that.
            fall: 10,
            rise: 1,
            probe_proxy: ProbeProxy::default(),
            interval: None,
            down_share: 50,
            probe: ProbeDepth::default(),
            down_min: Duration::from_secs(1),
            down_max: Duration::from_secs(1),
            on_down: OnDown::default(),
            on_down_rate: 500,
            resolve_interval: Duration::from_secs(30),
            pacing: Pacing::default(),
            api: ApiSettings::default(),
            discovery: None,
        }
    }
}
