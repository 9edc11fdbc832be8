//! Holds up what closes connections at a rate, while connections change hands.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Shut while connections change hands: nothing is closed then, and no order is taken that the other process would not learn of.
#[derive(Clone, Debug, Default)]
pub(super) struct ClosingGate(Arc<RwLock<()>>);

/// The gate stays open for as long as this lasts.
pub(super) type Passing = OwnedRwLockReadGuard<()>;

/// The gate stays shut for as long as this lasts.
pub(super) type Shut = OwnedRwLockWriteGuard<()>;

impl ClosingGate {
    /// Waits until the gate is open. A caller that has passed must not wait for it again: it may be about to be shut.
    pub(super) async fn pass(&self) -> Passing {
        Arc::clone(&self.0).read_owned().await
    }

    /// Waits for the callers that have passed, and shuts out others.
    pub(super) async fn shut(&self) -> Shut {
        Arc::clone(&self.0).write_owned().await
    }
}
