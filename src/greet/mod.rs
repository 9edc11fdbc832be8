//! Takes a routed client to a node that accepts it: dial, replay, read the CONNACK; the next node where that cures.

use std::time::Duration;

/// How long nodes have to answer, and what the client hears when none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From the CONNECT's last needed byte sent to the CONNACK, per node.
    pub timeout: Duration,
    /// From accept to the accepted CONNACK, over all nodes.
    pub deadline: Duration,
    /// What the client hears when every node refused.
    pub refuse: Refuse,
}

/// What the client hears when every node refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// The connection is closed; every client tries again.
    #[default]
    Close,
    /// The last node's own CONNACK, else 3 or 0x88. MQTT.js never tries again after one.
    Connack,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(12),
            refuse: Refuse::default(),
        }
    }
}
