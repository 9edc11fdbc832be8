//! Readiness and wake-ups: epoll, and a timerfd in it, since epoll's own timeout is too coarse for an open loop.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::clock::Nanos;

/// The token of the timer; clients and connections count up from zero and never reach it.
const TIMER: u64 = u64::MAX;

/// The token of a waker.
const WAKER: u64 = u64::MAX - 1;

/// The sockets of one thread, and its timer.
pub(super) struct Poll {
    epoll: Epoll,
    timer: TimerFd,
    alarm: Nanos,
    events: Vec<EpollEvent>,
}

/// What happened to one socket. Edge-triggered: each event is reported once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// The token that the socket was added with.
    pub(super) token: u64,
    /// There may be something to read: bytes, the end of the stream or an error.
    pub(super) readable: bool,
    /// There may be room to write, or the connect is over.
    pub(super) writable: bool,
    /// The peer has closed its side, or the connection failed: read until that is returned.
    pub(super) hangup: bool,
}

impl Poll {
    /// An empty set.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        // Edge-triggered and set anew for each alarm, so that it never has to be read.
        epoll.add(
            &timer,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER),
        )?;
        Ok(Self {
            epoll,
            timer,
            alarm: 0,
            events: vec![EpollEvent::empty(); 512],
        })
    }

    /// Watches a socket for every kind of event until it is closed, with one system call for its whole life.
    pub(super) fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.epoll.add(socket, EpollEvent::new(flags, token))?)
    }

    /// Ends waits when there is something to read.
    pub(super) fn add_waker(&self, waker: impl AsFd) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.add(waker, EpollEvent::new(flags, WAKER))?)
    }

    /// Waits for sockets, at most until `due` (and not at all when that has passed), and puts what happened into
    /// `ready`.
    pub(super) fn wait(&mut self, now: Nanos, due: Nanos, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let timeout = if due <= now {
            EpollTimeout::ZERO
        } else {
            self.set_alarm(due)?;
            EpollTimeout::NONE
        };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let sockets = self.events[..count].iter().filter(|event| event.data() < WAKER);
        ready.extend(sockets.map(|event| {
            let flags = event.events();
            let hangup = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            Ready {
                token: event.data(),
                readable: hangup || flags.contains(EpollFlags::EPOLLIN),
                writable: flags.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR),
                hangup,
            }
        }));
        Ok(())
    }

    fn set_alarm(&mut self, due: Nanos) -> io::Result<()> {
        if self.alarm != due {
            let time = TimeSpec::from(Duration::from_nanos(due));
            self.timer
                .set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            self.alarm = due;
        }
        Ok(())
    }
}
