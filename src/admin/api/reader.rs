//! The place of a reader among the events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::events::Events;

/// An answer that takes longer than others.
#[derive(Clone, Debug)]
pub(in crate::admin) enum Lasting {
    /// As long as this reader keeps up.
    Reader(Arc<Reader>),
    /// As long as what it tells of, which has deadlines of its own.
    Bounded,
}

impl Lasting {
    /// Waits until the answer has lasted for too long.
    pub(in crate::admin) async fn lasts_too_long(&self) {
        match self {
            Self::Reader(reader) => reader.falls_behind().await,
            Self::Bounded => std::future::pending().await,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::events::Change;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_read_falls_behind_and_one_that_does_never() {
        let events = Arc::<Events>::default();
        let reader = || Reader {
            events: Arc::clone(&events),
            next: AtomicU64::new(1),
        };
        let (slow, fast) = (reader(), reader());
        let is_behind = async |reader: &Reader| {
            let behind = tokio::time::timeout(std::time::Duration::from_secs(1), reader.falls_behind());
            behind.await.is_ok()
        };
        for _ in 0..1024 {
            events.push(Change::Drain { connections: 0 });
            fast.next.fetch_add(1, Ordering::Relaxed);
        }
        assert!(!is_behind(&slow).await, "the oldest event is still kept");
        events.push(Change::Drain { connections: 0 });
        assert!(is_behind(&slow).await);
        assert!(!is_behind(&fast).await);
    }
}
