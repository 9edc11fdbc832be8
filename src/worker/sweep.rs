//! What a worker does once a second.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::MissedTickBehavior;

use crate::base::heartbeat::{self, Heartbeat};
use crate::path::connection::Path;

/// Sweeps the path once a second, forever, and shows with `heartbeat` that the worker runs.
pub(super) async fn sweep(path: Rc<Path>, heartbeat: Arc<Heartbeat>) {
    let mut seconds = tokio::time::interval(heartbeat::INTERVAL);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        path.sweep();
        heartbeat.beat();
    }
}
