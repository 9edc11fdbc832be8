//! Joins a client and its node until one ends: bytes untouched, each once and in order.

mod coding;
mod flow;
mod pipes;
mod table;

use std::time::Duration;

pub use table::{Bytes, Finished, Left, Outcome, Relayed, RowId, Table};

/// As many pipes as each worker may have at least: as many as it keeps.
pub const PIPES_MIN: usize = pipes::KEPT_MAX;

/// How bytes are moved, and when a silent connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long one direction may go on after the other was closed.
    pub linger: Duration,
    /// Added to one and a half times Keep Alive, so that the node's own limit comes first.
    pub idle_slack: Duration,
    /// Silence of a client that ends its connection whatever its Keep Alive says; none means no ceiling.
    pub idle_max: Option<Duration>,
    /// Whether bulk goes through the kernel's splice.
    pub splice: bool,
    /// Pipes of each worker at once, two descriptors each; whoever starts workers reserves those.
    pub pipes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(5),
            idle_slack: Duration::from_secs(35),
            idle_max: None,
            splice: true,
            pipes_max: PIPES_MIN,
        }
    }
}
