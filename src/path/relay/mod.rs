//! Joins a client and its node until one ends: every byte passes once and in order.

mod activity;
mod closing;
pub mod coding;
mod flow;
mod index;
mod mode;
mod parked;
mod pipes;
mod ports;
mod relayed;
mod row;
mod run;
mod stays;
mod table;
mod waiting;

use std::time::Duration;

use crate::base::clock::Seconds;

pub use closing::Closing;
pub(crate) use parked::{Adopted, Parked};
pub use relayed::{Finished, RelayStatus, RelayView, Relayed};
pub(crate) use run::spawn_frozen;
pub use run::{Owner, spawn};
pub use stays::Stays;
pub(crate) use table::Movable;
pub use table::{OrderedToEnd, Outcome, RowId, Table};
pub use waiting::WaitingBytes;

/// The fewest pipes that a worker can be limited to: as many as it keeps.
pub(crate) const PIPES_MIN: usize = pipes::KEPT_MAX;

/// Source ports of one address, as Linux has them unless `net.ipv4.ip_local_port_range` says otherwise.
const PORTS_DEFAULT: usize = 28_232;

/// How bytes are moved, and when a silent connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long one direction may go on after the other was closed.
    pub linger: Duration,
    /// Added to one and a half times Keep Alive, so that the node's own limit comes first.
    pub idle_slack: Duration,
    /// A client that is silent for this long is disconnected whatever its Keep Alive; `None` means no such ceiling.
    pub idle_max: Option<Duration>,
    /// Whether bulk goes through the kernel's splice.
    pub splice: bool,
    /// Pipes of each worker at once, two descriptors each, which are reserved when the workers start.
    pub pipes_max: usize,
    /// A client that keeps bytes waiting for a minute, and takes fewer than this many of them a second, is disconnected.
    pub rate_min: u64,
    /// Bytes that may wait for receivers without room, here and in the kernel, in all relays together.
    pub waiting_bytes_max: usize,
    /// Source ports towards one node.
    pub ports_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(5),
            idle_slack: Duration::from_secs(35),
            idle_max: None,
            splice: true,
            pipes_max: PIPES_MIN,
            rate_min: 1024,
            waiting_bytes_max: 1 << 30,
            ports_max: PORTS_DEFAULT,
        }
    }
}

impl Settings {
    /// How long a client may send nothing before its connection is closed: `keep_alive_limit`, after which the node closes it
    /// (MQTT 5, 3.1.2.10), and the slack, so that the node's limit comes first; at most the ceiling, if there is one.
    pub fn idle_limit(&self, keep_alive_limit: Option<Duration>) -> Option<Seconds> {
        let by_keep_alive = keep_alive_limit.map(|limit| limit + self.idle_slack);
        let limit = match (by_keep_alive, self.idle_max) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => one.or(other)?,
        };
        Some(Seconds::at_least(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::keep_alive_limit;

    #[test]
    fn the_idle_limit_is_later_than_the_nodes_own() {
        let settings = Settings {
            idle_slack: Duration::from_secs(35),
            ..Settings::default()
        };
        let idle_limit = |settings: &Settings, keep_alive| settings.idle_limit(keep_alive_limit(keep_alive));
        assert_eq!(idle_limit(&settings, 60), Some(Seconds(125)));
        assert_eq!(idle_limit(&settings, 1), Some(Seconds(37)));
        assert_eq!(idle_limit(&settings, 0), None);
        let capped = Settings {
            idle_max: Some(Duration::from_secs(100)),
            ..settings
        };
        assert_eq!(idle_limit(&capped, 60), Some(Seconds(100)));
        assert_eq!(idle_limit(&capped, 0), Some(Seconds(100)));
    }
}
