//! Bytes held for clients that are not decided yet: counted over all workers, bounded; the largest holder pays.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// Holders of no more than this are not listed as large, so that an ordinary CONNECT touches no lock.
pub const SMALL_BYTES: usize = 4 * 1024;

/// The account of all held bytes of the process.
#[derive(Debug)]
pub struct Held {
    bytes_max: AtomicUsize,
    bytes: AtomicUsize,
    /// Bytes of holders that were told to go and have not gone yet.
    leaving: AtomicUsize,
    next: AtomicU64,
    /// By size, so that the last is the largest.
    large: Mutex<BTreeMap<(usize, u64), Arc<Large>>>,
}

/// A holder of more than [`SMALL_BYTES`].
#[derive(Debug)]
struct Large {
    number: u64,
    evicted: Notify,
    /// What it held when it was told to go; 0 while it may stay.
    leaving: AtomicUsize,
}

/// What one connection holds; given back when dropped.
#[derive(Debug)]
pub struct Share {
    held: Arc<Held>,
    bytes: usize,
    /// How much of it is for records that were not whole.
    sealed: usize,
    /// Set once the share is a large one.
    large: Option<Arc<Large>>,
}

/// The ear of one share, as large as it is now.
#[derive(Debug)]
pub struct Eviction(Option<Arc<Large>>);

impl Eviction {
    /// Resolves when the share must go; never for a share that was small.
    pub async fn told(&self) {
        match &self.0 {
            Some(large) => large.evicted.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// The account is full, and this connection holds the most (or everyone holds little).
#[derive(Debug, PartialEq, Eq)]
pub struct HeldBytesFull;

impl Held {
    /// An account of `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max: AtomicUsize::new(bytes_max),
            bytes: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            large: Mutex::default(),
        })
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Changes how many bytes may be held; what is held already stays.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// An empty share for one more connection.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            held: Arc::clone(self),
            bytes: 0,
            sealed: 0,
            large: None,
        }
    }

    /// Tells the largest holder to go, if there is a large one, and says which it was.
    fn evict(&self) -> Option<u64> {
        let mut listed = self.lock();
        let ((bytes, number), largest) = listed.pop_last()?;
        // Under the lock, so that it can neither go nor list itself again before it counts as leaving.
        largest.leaving.store(bytes, Ordering::Relaxed);
        self.leaving.fetch_add(bytes, Ordering::Relaxed);
        drop(listed);
        largest.evicted.notify_one();
        Some(number)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(usize, u64), Arc<Large>>> {
        // No code that can panic runs under the lock; a poisoned map would still be a right one.
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes `more` bytes.
    ///
    /// When the account is full, the largest holder is told to go ([`Share::eviction`]); its bytes come back when it does,
    /// so for a moment the account is over its limit by what was taken meanwhile.
    ///
    /// # Errors
    /// This share is the largest, or there is no large one to close.
    pub fn grow(&mut self, more: usize) -> Result<(), HeldBytesFull> {
        let before = self.held.bytes.fetch_add(more, Ordering::Relaxed);
        self.list(self.bytes + more);
        let leaving = self.held.leaving.load(Ordering::Relaxed);
        let bytes_max = self.held.bytes_max.load(Ordering::Relaxed);
        if (before + more).saturating_sub(leaving) <= bytes_max {
            return Ok(());
        }
        let own = self.large.as_ref().map(|large| large.number);
        match self.held.evict() {
            Some(number) if own != Some(number) => Ok(()),
            Some(_) | None => Err(HeldBytesFull),
        }
    }

    /// Takes room for `sealed` bytes of TLS of which nothing has come out yet, beyond what it has for such bytes already, and
    /// gives back what it has beyond them. As many as fit into what rustls reads with in any case are free.
    ///
    /// Ready when it has taken some, so that a new ear hears more than the one before.
    ///
    /// # Errors
    /// As for [`Share::grow`].
    pub fn poll_cover(&mut self, sealed: usize) -> Poll<Result<(), HeldBytesFull>> {
        self.uncover(sealed);
        let sealed = counted(sealed);
        if sealed <= self.sealed {
            return Poll::Pending;
        }
        let more = sealed - self.sealed;
        self.sealed = sealed;
        Poll::Ready(self.grow(more))
    }

    /// Takes room for `bytes` that came, perhaps out of TLS, of which `sealed` are left in it.
    ///
    /// # Errors
    /// As for [`Share::grow`].
    pub fn hear(&mut self, bytes: usize, sealed: usize) -> Result<(), HeldBytesFull> {
        // First, else what came out would count twice.
        self.uncover(sealed);
        self.grow(bytes)
    }

    /// Gives back what it has beyond `sealed` bytes of TLS, unless it was told to go: all that it had then counts as leaving.
    fn uncover(&mut self, sealed: usize) {
        let sealed = counted(sealed);
        if sealed >= self.sealed {
            return;
        }
        // It has covered more than a small one holds.
        let Some(large) = &self.large else { return };
        let less = self.sealed - sealed;
        let bytes = self.bytes - less;
        let mut listed = self.held.lock();
        if listed.remove(&(self.bytes, large.number)).is_none() {
            return;
        }
        if bytes > SMALL_BYTES {
            listed.insert((bytes, large.number), Arc::clone(large));
        }
        drop(listed);
        self.sealed = sealed;
        self.bytes = bytes;
        self.held.bytes.fetch_sub(less, Ordering::Relaxed);
    }

    /// Hears when this share must go because another one needs its bytes. A small share never must.
    pub fn eviction(&self) -> Eviction {
        Eviction(self.large.clone())
    }

    /// Whether it is among those of which the largest must go, so that a new ear hears more than the one before.
    pub fn is_large(&self) -> bool {
        self.large.is_some()
    }

    fn list(&mut self, bytes: usize) {
        let was = self.bytes;
        self.bytes = bytes;
        if bytes <= SMALL_BYTES {
            return;
        }
        let held = &self.held;
        let large = self.large.get_or_insert_with(|| {
            Arc::new(Large {
                number: held.next.fetch_add(1, Ordering::Relaxed),
                evicted: Notify::new(),
                leaving: AtomicUsize::new(0),
            })
        });
        let mut listed = held.lock();
        listed.remove(&(was, large.number));
        if large.leaving.load(Ordering::Relaxed) == 0 {
            listed.insert((bytes, large.number), Arc::clone(large));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(large) = &self.large {
            let mut listed = self.held.lock();
            listed.remove(&(self.bytes, large.number));
            let leaving = large.leaving.load(Ordering::Relaxed);
            self.held.leaving.fetch_sub(leaving, Ordering::Relaxed);
        }
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Sealed bytes that count: as many as fit into what rustls reads with in any case are free.
fn counted(sealed: usize) -> usize {
    match sealed {
        ..=SMALL_BYTES => 0,
        _ => sealed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_comes_back_when_dropped() {
        let held = Held::new(100_000);
        let mut share = held.share();
        share.grow(10).expect("room");
        share.grow(9_000).expect("room");
        assert_eq!(held.bytes(), 9_010);
        drop(share);
        assert_eq!(held.bytes(), 0);
        assert!(held.large.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn what_is_sealed_is_covered_once_and_comes_back_when_it_no_longer_is() {
        let held = Held::new(100_000);
        let mut share = held.share();
        for (sealed, grows, bytes) in [
            (SMALL_BYTES, false, 0),
            (10_000, true, 10_000),
            (10_000, false, 10_000),
            (9_000, false, 9_000),
            (12_000, true, 12_000),
            (SMALL_BYTES, false, 0),
            (SMALL_BYTES + 1, true, SMALL_BYTES + 1),
        ] {
            let grown = match grows {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
            assert_eq!(share.poll_cover(sealed), grown, "{sealed}");
            assert_eq!(held.bytes(), bytes, "{sealed}");
            let listed = held.large.lock().expect("not poisoned").len();
            assert_eq!(listed, usize::from(bytes > SMALL_BYTES), "{sealed}");
        }
        assert_eq!(share.poll_cover(100_001), Poll::Ready(Err(HeldBytesFull)));
    }

    #[test]
    fn nothing_comes_back_of_a_share_that_is_leaving_until_it_has_left() {
        let held = Held::new(20_000);
        let (mut leaving, mut other) = (held.share(), held.share());
        assert_eq!(leaving.poll_cover(15_000), Poll::Ready(Ok(())));
        other.grow(10_000).expect("the largest goes instead");
        assert_eq!(leaving.poll_cover(0), Poll::Pending);
        assert_eq!(held.bytes(), 25_000);
        assert_eq!(held.leaving.load(Ordering::Relaxed), 15_000);
        drop(leaving);
        assert_eq!(held.bytes(), 10_000);
        assert_eq!(held.leaving.load(Ordering::Relaxed), 0);
        assert_eq!(other.grow(10_001), Err(HeldBytesFull));
    }

    #[tokio::test]
    async fn the_largest_holder_is_told_to_go() {
        let held = Held::new(20_000);
        let mut largest = held.share();
        let mut other = held.share();
        let mut small = held.share();
        largest.grow(10_000).expect("room");
        other.grow(8_000).expect("room");
        small.grow(2_001).expect("the largest goes instead");
        tokio::time::timeout(std::time::Duration::from_secs(1), largest.eviction().told())
            .await
            .expect("the largest was told");
    }

    #[test]
    fn the_largest_itself_gets_no_more() {
        let held = Held::new(20_000);
        let mut share = held.share();
        share.grow(20_000).expect("room");
        assert_eq!(share.grow(1), Err(HeldBytesFull));
    }

    #[test]
    fn where_everyone_is_small_the_newcomer_goes() {
        let held = Held::new(1_000);
        let mut first = held.share();
        first.grow(1_000).expect("room");
        assert_eq!(held.share().grow(1), Err(HeldBytesFull));
    }
}
