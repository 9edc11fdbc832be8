//! The settings of the doctor.

use std::fmt;
use std::time::Duration;

/// What the doctor publishes under, and what it counts as lost or slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time between two route checks while the balancer runs; `None` means that none is made by itself.
    pub interval: Option<Duration>,
    /// What all topics of the doctor begin with.
    pub topic: String,
    /// What its clients log in with, if the nodes want that.
    pub login: Option<Login>,
    /// After this time a message counts as lost.
    pub timeout: Duration,
    /// A message that takes longer is late, and a route on which more than a tenth of them are is slow.
    pub slow_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: None,
            topic: "remora/doctor".to_owned(),
            login: None,
            timeout: Duration::from_secs(2),
            slow_after: Duration::from_millis(500),
        }
    }
}

/// A user name and a password. They are secret, and not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(super) username: String,
    pub(super) password: Vec<u8>,
}

impl Login {
    /// This user name and password.
    pub fn new(username: String, password: Vec<u8>) -> Self {
        Self { username, password }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}
