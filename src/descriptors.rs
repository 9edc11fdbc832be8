//! The descriptors of the process: each connection needs two, and one per door is kept for telling clients that none is left,
//! one for answering an operator then.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The reserves of this process.
static RESERVES: Reserves = Reserves::new();

/// Takes as many descriptors as the system allows.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// `opened`, which was just opened to stay open: unless a [`Reserve`] lacks its descriptor, which goes first.
///
/// # Errors
/// EMFILE: as if the kernel had none left, which would be so if the reserve had its own.
pub fn keep<T>(opened: T) -> Result<T, Errno> {
    RESERVES.keep(opened)
}

/// Whether a [`Reserve`] lacks its descriptor: for who has a farewell to say before giving up what was opened.
pub fn is_reserve_lacking() -> bool {
    RESERVES.are_lacking()
}

/// How many reserves lack their descriptor.
#[derive(Debug)]
struct Reserves {
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
/// Another thread may open something at that very moment, and would hold what the reserve needs back for as long as a
/// connection lives. So whatever is opened to stay passes [`keep`], which gives it up while a reserve lacks its own.
#[derive(Debug)]
pub struct Reserve {
    reserves: &'static Reserves,
    kept: Option<OwnedFd>,
}

impl Reserve {
    /// A reserve that has its descriptor.
    ///
    /// # Errors
    /// There is none left already.
    pub fn new() -> io::Result<Self> {
        Self::among(&RESERVES)
    }

    /// A reserve that lacks its descriptor, until [`Reserve::take_back`].
    pub fn lacking() -> Self {
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

    /// Lends the descriptor to `act`, which opens and closes, and takes it back. If it cannot, whoever owns the reserve must
    /// [`Reserve::take_back`] until it can: nothing is kept meanwhile, in the whole process.
    pub fn lend<T>(&mut self, act: impl FnOnce() -> T) -> T {
        self.release();
        let result = act();
        self.take_back();
        result
    }

    /// Gives the descriptor to what `act` opens, to stay: nothing is lacking then. What was opened can become a reserve again.
    ///
    /// # Errors
    /// Nothing was opened: the reserve, which may lack its descriptor until [`Reserve::take_back`].
    pub fn give<T>(mut self, act: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        self.release();
        act().ok_or_else(|| {
            self.take_back();
            self
        })
    }

    /// Takes the descriptor back where it is lacking; whether it is there now.
    pub fn take_back(&mut self) -> bool {
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
            // First told, then given up: who gets it sees that it is lacking.
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
