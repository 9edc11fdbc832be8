//! Decides what the cluster is: folds names resolved, dials failed and the operator's wishes into published snapshots.

use std::time::Duration;

/// When a node counts as down, and how often names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failed dials or greet timeouts in a row that make a node down.
    pub failures_max: u32,
    /// How long a node stays down the first time; doubles each time a trial fails.
    pub down_min: Duration,
    /// How long a node stays down at most before the next trial.
    pub down_max: Duration,
    /// Between two look-ups of a node's host name.
    pub resolve_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_max: 3,
            down_min: Duration::from_secs(1),
            down_max: Duration::from_secs(30),
            resolve_interval: Duration::from_secs(30),
        }
    }
}
