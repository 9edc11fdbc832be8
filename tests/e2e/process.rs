//! A process of the program: one that the test has started, or one that has taken over from it.

use std::process::Child;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, set_child_subreaper, test_kill_process, waitpid,
};

use crate::wait;

#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// How it ended, if that is known.
    ended: Option<Option<WaitStatus>>,
}

impl Process {
    pub(crate) fn started(child: &Child) -> Self {
        Self::of(Pid::from_child(child))
    }

    /// A child of a process of the test. It becomes one of the test's once that has ended.
    pub(crate) fn that_took_over(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Self::of(pid.expect("a process"))
    }

    fn of(pid: Pid) -> Self {
        // The processes that take over from children of this one are its children, too.
        set_child_subreaper(Some(rustix::process::getpid())).expect("a system that allows it");
        Self { pid, ended: None }
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a process that runs");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = match waitpid(Some(self.pid), WaitOptions::NOHANG) {
                Ok(found) => found.map(|(_, status)| Some(status)),
                // Its parent is another process, and has reaped it if it is no more.
                Err(Errno::CHILD) => test_kill_process(self.pid).is_err().then_some(None),
                Err(error) => panic!("cannot wait: {error}"),
            };
        }
        self.ended.is_some()
    }

    /// Waits for its end; its exit code, if it had one and that is known.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let this = std::cell::RefCell::new(&mut *self);
        wait::until("the program's end", || this.borrow_mut().has_ended());
        self.ended.flatten()?.exit_status()
    }
}
