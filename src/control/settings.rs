//! The settings of control.

use std::time::Duration;

use super::probe::ProbeDepth;

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
    /// Failures that make an endpoint down, of different clients and of probes, at least one of a probe.
    pub failures_max: u32,
    /// How far a probe goes.
    pub probe: ProbeDepth,
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

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_max: 3,
            probe: ProbeDepth::default(),
            down_min: Duration::from_secs(1),
            down_max: Duration::from_secs(1),
            on_down: OnDown::default(),
            on_down_rate: 500,
            resolve_interval: Duration::from_secs(30),
            pacing: Pacing::default(),
        }
    }
}
