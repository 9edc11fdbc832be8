//! TLS handshakes under way in the whole process, and the limit on them.

use std::sync::Arc;

use crate::ended::Ended;
use crate::sync::{AtomicUsize, Ordering};

/// TLS handshakes under way, counted over all workers.
#[derive(Debug, Default)]
pub struct Handshakes(AtomicUsize);

impl Handshakes {
    /// Handshakes now.
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more for as long as what is returned is held.
    ///
    /// # Errors
    /// [`Ended::LimitHandshakes`]: there are `max` already.
    pub fn begin(self: &Arc<Self>, max: usize) -> Result<Handshake, Ended> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let handshake = Handshake(Arc::clone(self));
        match before < max {
            true => Ok(handshake),
            false => Err(Ended::LimitHandshakes),
        }
    }
}

/// One handshake counted, for as long as this is held.
#[derive(Debug)]
pub struct Handshake(Arc<Handshakes>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_waits_for_nobody_and_takes_no_place() {
        let handshakes: Arc<Handshakes> = Arc::default();
        let one = handshakes.begin(1).expect("room");
        assert_eq!(
            handshakes.begin(1).expect_err("full"),
            Ended::LimitHandshakes
        );
        assert_eq!(handshakes.now(), 1);
        drop(one);
        assert_eq!(handshakes.now(), 0);
        handshakes.begin(1).expect("room again");
    }
}
