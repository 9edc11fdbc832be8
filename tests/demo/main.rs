//! The demo as a newcomer sees it, and the sandbox as the fake cluster of a balancer in the same process.

mod client;
mod nodes;
mod screen;

use std::time::Duration;

/// How long anything that must come may take.
const DEADLINE: Duration = Duration::from_secs(20);
