//! File descriptors of the process. Each connection needs two. One per listening socket and one for the admin listener are held
//! in reserve, so that clients can be reset and operators answered when no other descriptor is left.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static RESERVES: Reserves = Reserves::new();

/// Raises the soft limit of open files to the hard limit.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the open-file limit");
    }
}

/// Returns `opened`, a descriptor that was just opened and is to stay open. If a `Reserve` lacks its descriptor, `opened` is
/// dropped instead, so that the reserve can have it.
///
/// # Errors
/// EMFILE while a reserve lacks its descriptor: with its descriptor in place, the kernel would have returned the same.
pub fn keep<T>(opened: T) -> Result<T, Errno> {
    RESERVES.keep(opened)
}

/// Whether a [`Reserve`] lacks its descriptor: for a caller that has something to send before it closes what was opened.
pub(crate) fn is_reserve_lacking() -> bool {
    RESERVES.are_lacking()
}

#[derive(Debug)]
struct Reserves {
    /// How many reserves lack their descriptor.
    lacking: AtomicUsize,
}

impl Reserves {
    const fn new() -> Self {
        Self {
            lacking: AtomicUsize::new(0),
        }
    }

    fn are_lacking(&self) -> bool {
        self.lacking.load(Ordering::SeqCst) > 0
    }

    fn keep<T>(&self, opened: T) -> Result<T, Errno> {
        if self.are_lacking() {
            return Err(Errno::MFILE);
        }
        Ok(opened)
    }
}

/// One descriptor that is lent for a moment when no other is left.
///
/// Another thread may open a descriptor at that moment, and would hold the one that the reserve needs back for as long as a
/// connection lasts. So every descriptor that is to stay open passes through [`keep`], which closes it while a reserve lacks its
/// own.
#[derive(Debug)]
pub(crate) struct Reserve {
    reserves: &'static Reserves,
    kept: Option<OwnedFd>,
}

impl Reserve {
    /// A reserve that has its descriptor.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        Self::among(&RESERVES)
    }

    /// A reserve that lacks its descriptor, until [`Reserve::take_back`].
    pub(crate) fn lacking() -> Self {
        RESERVES.lacking.fetch_add(1, Ordering::SeqCst);
        Self {
            reserves: &RESERVES,
            kept: None,
        }
    }

    fn among(reserves: &'static Reserves) -> io::Result<Self> {
        Ok(Self {
            reserves,
            kept: Some(open()?),
        })
    }

    /// Lends the descriptor to `act`, which opens a descriptor and closes it, and takes it back. If that fails, the owner must
    /// call [`Reserve::take_back`] until it succeeds: until then [`keep`] fails in the whole process.
    pub(crate) fn lend<T>(&mut self, act: impl FnOnce() -> T) -> T {
        self.release();
        let result = act();
        self.take_back();
        result
    }

    /// Gives the descriptor up for good: `act` opens another one in its place, which may stay open. What was opened can become a
    /// reserve again.
    ///
    /// # Errors
    /// If `act` opened nothing, returns the reserve, which may lack its descriptor until [`Reserve::take_back`].
    pub(crate) fn give<T>(mut self, act: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        self.release();
        act().ok_or_else(|| {
            self.take_back();
            self
        })
    }

    /// Takes the descriptor back if it is lacking. Returns whether the reserve has it now.
    pub(crate) fn take_back(&mut self) -> bool {
        if self.kept.is_none()
            && let Ok(descriptor) = open()
        {
            self.kept = Some(descriptor);
            self.reserves.lacking.fetch_sub(1, Ordering::SeqCst);
        }
        self.kept.is_some()
    }

    fn release(&mut self) {
        if let Some(kept) = self.kept.take() {
            // Counted before the descriptor is closed, so that a thread that gets it sees the count.
            self.reserves.lacking.fetch_add(1, Ordering::SeqCst);
            drop(kept);
        }
    }
}

impl From<OwnedFd> for Reserve {
    fn from(opened: OwnedFd) -> Self {
        Self {
            reserves: &RESERVES,
            kept: Some(opened),
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        if self.kept.is_none() {
            self.reserves.lacking.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    File::open("/dev/null").map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserves() -> &'static Reserves {
        Box::leak(Box::new(Reserves::new()))
    }

    #[test]
    fn nothing_is_kept_while_a_reserve_is_lent() {
        let reserves = reserves();
        let mut reserve = Reserve::among(reserves).expect("a descriptor");
        assert_eq!(reserves.keep("before"), Ok("before"));
        reserve.lend(|| assert_eq!(reserves.keep("meanwhile"), Err(Errno::MFILE)));
        assert_eq!(reserves.keep("after"), Ok("after"));
    }

    #[test]
    fn a_reserve_is_lacking_until_it_is_given_or_back() {
        let reserves = reserves();
        let reserve = Reserve::among(reserves).expect("a descriptor");
        let nothing = || {
            assert!(reserves.are_lacking());
            None::<()>
        };
        let reserve = reserve.give(nothing).expect_err("nothing was opened");
        assert!(!reserves.are_lacking());
        reserve.give(|| Some(())).expect("what was opened");
        assert!(!reserves.are_lacking());
    }

    #[test]
    fn a_reserve_that_lost_its_descriptor_and_goes_is_lacking_no_more() {
        let reserves = reserves();
        let mut reserve = Reserve::among(reserves).expect("a descriptor");
        let mut other = Reserve::among(reserves).expect("a descriptor");
        other.lend(|| ());
        reserve.kept = None;
        reserves.lacking.fetch_add(1, Ordering::SeqCst);
        other.lend(|| ());
        assert_eq!(reserves.keep(()), Err(Errno::MFILE));
        drop(reserve);
        assert_eq!(reserves.keep(()), Ok(()));
    }

    #[test]
    fn a_reserve_takes_its_descriptor_back_once() {
        let reserves = reserves();
        let mut reserve = Reserve::among(reserves).expect("a descriptor");
        let take_back: [fn(&mut Reserve) -> bool; 2] = [Reserve::take_back, |reserve| {
            reserve.lend(|| ());
            reserve.kept.is_some()
        }];
        for take_back in take_back {
            reserve.kept = None;
            reserves.lacking.fetch_add(1, Ordering::SeqCst);
            for _ in 0..3 {
                assert!(take_back(&mut reserve));
                assert_eq!(reserves.lacking.load(Ordering::SeqCst), 0);
            }
        }
    }
}
