//! Ctrl-C as an event: the first one ends the run gracefully, the second one ends the program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT and SIGTERM of this process, blocked and read from a descriptor.
pub(super) struct Interrupts(SignalFd);

impl Interrupts {
    /// Blocks both signals from now on.
    pub(super) fn block() -> io::Result<Self> {
        let signals = signals();
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }

    /// Whether a signal was received. The next one then ends the program as usual.
    pub(super) fn received(&self) -> bool {
        let received = matches!(self.0.read_signal(), Ok(Some(_)));
        if received {
            // Should they stay blocked, the run still ends by itself.
            let _ = signals().thread_unblock();
        }
        received
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn signals() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM])
}
