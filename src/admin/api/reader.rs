//! The place of a reader among the events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::events::Events;

/// A reader that follows the events.
#[derive(Debug)]
pub(in crate::admin) struct Reader {
    pub(super) events: Arc<Events>,
    /// The number of the event that it gets next.
    pub(super) next: AtomicU64,
}

impl Reader {
    /// Waits until events that the reader has not taken are no longer kept: it reads too slowly, or not at all.
    pub(in crate::admin) async fn falls_behind(&self) {
        loop {
            if self.next.load(Ordering::Relaxed) < self.events.oldest() {
                return;
            }
            self.events.wait_for(self.events.newest() + 1).await;
        }
    }
}
