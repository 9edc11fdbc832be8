//! Ctrl-C as an event among others: the first ends the run in order, the second ends the program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT and SIGTERM of this process, held back and to be read.
pub(super) struct Interrupts(SignalFd);

impl Interrupts {
    /// Holds them back from now on.
    pub(super) fn caught() -> io::Result<Self> {
        let signals = signals();
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }

    /// Whether one came; from then on the next one ends the program as it does any other.
    pub(super) fn came(&self) -> bool {
        let came = matches!(self.0.read_signal(), Ok(Some(_)));
        if came {
            // If they stay held back, the run still ends by itself.
            let _ = signals().thread_unblock();
        }
        came
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
