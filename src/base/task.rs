//! The critical tasks of a balancer, by name.

/// A critical task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Accepts the clients of one listener on one worker.
    Accept,
    /// Closes a listener on one worker.
    Unlisten,
    /// Checks all relays of a worker once a second.
    Sweep,
    /// Carries out the orders to a worker.
    Orders,
    /// Publishes the cluster.
    Control,
    /// Keeps the placements within their limits.
    Placements,
    /// Serves the admin listener.
    Admin,
    /// Closes the connections of nodes that are down.
    OnDown,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Accept,
        Self::Unlisten,
        Self::Sweep,
        Self::Orders,
        Self::Control,
        Self::Placements,
        Self::Admin,
        Self::OnDown,
    ];

    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Unlisten => "unlisten",
            Self::Sweep => "sweep",
            Self::Orders => "orders",
            Self::Control => "control",
            Self::Placements => "placements",
            Self::Admin => "admin",
            Self::OnDown => "on_down",
        }
    }
}
