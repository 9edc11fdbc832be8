//! Maps signals to actions.

use std::fs;
use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::task::Poll;

use rustix::process::Signal as Number;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are handled.
pub(super) struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
    user_2: Signal,
    foreign: Vec<(Signal, Foreign)>,
    /// SIGHUP was ignored when the process was started, as nohup does for what is to outlive its terminal.
    outlives_terminal: bool,
}

/// A signal that means something to nginx or HAProxy, and nothing here. The default action of most would end or stop the process,
/// and scripts of a predecessor may go on sending them.
#[derive(Clone, Copy)]
pub(super) struct Foreign {
    /// Its name.
    pub signal: &'static str,
    /// What it means elsewhere, and what would do here.
    pub hint: &'static str,
    number: Number,
    /// A terminal sends it as well, and then it means that.
    of_terminal: bool,
}

const FOREIGN: [Foreign; 3] = [
    Foreign {
        signal: "SIGWINCH",
        hint: "nginx stops its workers gracefully; here SIGTERM drains",
        number: Number::WINCH,
        of_terminal: true,
    },
    Foreign {
        signal: "SIGTTOU",
        hint: "HAProxy pauses its listeners; here SIGTERM drains",
        number: Number::TTOU,
        of_terminal: true,
    },
    Foreign {
        signal: "SIGTTIN",
        hint: "HAProxy resumes its listeners; here they are never paused",
        number: Number::TTIN,
        of_terminal: true,
    },
];

/// The action that a signal requests.
pub(super) enum Action {
    /// Reload the configuration.
    Reload(&'static str),
    /// Drain, then end.
    Drain(&'static str),
    /// Open the log's file anew; if it has none, accept no more clients, and end with the last one.
    ReopenOrStopSoftly(&'static str),
    /// End at once.
    Stop(&'static str),
    /// Say that nothing is done.
    Ignore(Foreign),
}

/// The faster end that a signal requests of a balancer that stops softly.
pub(super) enum Faster {
    /// Drain, then end.
    Drain(&'static str),
    /// End at once.
    Stop(&'static str),
}

impl Signals {
    /// Installs the handlers, and returns them with the runtime to wait in. To be called before anything is started, so that no
    /// signal kills a half-started balancer.
    pub(super) fn catch() -> io::Result<(Runtime, Self)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let has_terminal = io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
        let foreign = FOREIGN
            .into_iter()
            .filter(|foreign| !(foreign.of_terminal && has_terminal));
        let foreign = foreign.map(|foreign| {
            let kind = SignalKind::from_raw(foreign.number.as_raw());
            Ok((signal(kind)?, foreign))
        });
        let signals = Self {
            // Before the handler replaces that.
            outlives_terminal: is_ignored(Number::HUP),
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            foreign: foreign.collect::<io::Result<_>>()?,
        };
        drop(entered);
        Ok((runtime, signals))
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Action {
        tokio::select! {
            _ = self.terminate.recv() => Action::Drain("SIGTERM"),
            _ = self.quit.recv() => Action::Drain("SIGQUIT"),
            _ = self.interrupt.recv() => Action::Stop("SIGINT"),
            _ = self.hang_up.recv() => Action::Reload("SIGHUP"),
            // As to nginx, for logrotate, where there is a file; otherwise as to HAProxy, whose new process sends it to the old one.
            _ = self.user_1.recv() => Action::ReopenOrStopSoftly("SIGUSR1"),
            // As to HAProxy: who renews a certificate and sends it expects the new one to be served. nginx would start its new
            // binary, to which a reload does no harm.
            _ = self.user_2.recv() => Action::Reload("SIGUSR2"),
            foreign = next_of(&mut self.foreign) => Action::Ignore(foreign),
        }
    }

    /// Waits for a signal that ends a draining balancer. Passes those that do nothing to `ignored`, and calls `reopen` for SIGUSR1.
    pub(super) async fn second(&mut self, ignored: impl Fn(Foreign), reopen: impl AsyncFn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.user_1.recv() => reopen().await,
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                foreign = next_of(&mut self.foreign) => ignored(foreign),
            }
        }
    }

    /// Waits for a signal that requests a faster end than a soft stop. Passes those that do nothing to `ignored`, and calls `reopen` for
    /// SIGUSR1.
    pub(super) async fn faster(&mut self, ignored: impl Fn(Foreign), reopen: impl AsyncFn()) -> Faster {
        loop {
            tokio::select! {
                _ = self.user_1.recv() => reopen().await,
                _ = self.terminate.recv() => return Faster::Drain("SIGTERM"),
                _ = self.quit.recv() => return Faster::Drain("SIGQUIT"),
                _ = self.interrupt.recv() => return Faster::Stop("SIGINT"),
                foreign = next_of(&mut self.foreign) => ignored(foreign),
            }
        }
    }

    /// Waits for a signal that ends what has no configuration to read again: a request to end, or the loss of the terminal
    /// unless that is to be outlived.
    pub(super) async fn end_or_hang_up(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Action::Drain(signal) | Action::Stop(signal) | Action::ReopenOrStopSoftly(signal) => return signal,
                Action::Reload(signal @ "SIGHUP") if !self.outlives_terminal => return signal,
                Action::Reload(_) | Action::Ignore(_) => {}
            }
        }
    }
}

/// Whether this process ignores a signal, as it does when it was started so.
fn is_ignored(signal: Number) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) >> (signal.as_raw() - 1) & 1 == 1
}

/// Waits for one of these signals.
async fn next_of(signals: &mut [(Signal, Foreign)]) -> Foreign {
    poll_fn(|cx| {
        let mut signals = signals.iter_mut();
        let arrived = signals.find_map(|(signal, foreign)| signal.poll_recv(cx).is_ready().then_some(*foreign));
        arrived.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
