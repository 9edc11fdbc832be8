//! How a connection learns that it is evicted: its whole set-up runs under one wait for that, so that no step can miss it.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::limits::Room;
use crate::base::sync::{AtomicU32, Mutex, MutexGuard, Ordering};

/// The eviction of one holder.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// 0 until then, and after that what there was too little of.
    room: AtomicU32,
    /// The task that awaits the eviction. One is enough: a connection is set up by one task.
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// Evicts the holder, whose task is to be woken next.
    pub(super) fn set(&self, room: Room) {
        self.room.store(1 + room as u32, Ordering::Relaxed);
    }

    pub(super) fn wake(&self) {
        let waker = self.lock_waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn get(&self) -> Option<Room> {
        match self.room.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Room::Bytes),
            2 => Some(Room::Undecided),
            _ => Some(Room::Handshakes),
        }
    }

    fn lock_waker(&self) -> MutexGuard<'_, Option<Waker>> {
        // No code that can panic runs under the lock.
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when a holder is evicted.
#[derive(Debug)]
pub struct Eviction(Arc<Signal>);

impl Eviction {
    pub(super) fn new(signal: &Arc<Signal>) -> Self {
        Self(Arc::clone(signal))
    }

    /// Runs `work` to its end, or up to the moment at which the holder is evicted. The caller must then drop it, with everything that
    /// it holds.
    ///
    /// # Errors
    /// What there was too little of.
    pub async fn or<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Room> {
        std::future::poll_fn(|cx| {
            if let Some(room) = self.0.get() {
                return Poll::Ready(Err(room));
            }
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                // It may have been evicted by what it has just taken itself.
                Poll::Pending => self.poll(cx).map(Err),
            }
        })
        .await
    }

    /// Ready once the holder is evicted, and from then on. As with a socket, only the last waker is woken.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Room> {
        match &mut *self.0.lock_waker() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        // Checked after the waker is stored: an earlier eviction is seen here, and a later one wakes the task.
        self.0.get().map_or(Poll::Pending, Poll::Ready)
    }
}
