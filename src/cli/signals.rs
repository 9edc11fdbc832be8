//! Signals, as wishes.

use std::io;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean something here.
pub(super) struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
pub(super) enum Wish {
    /// Take the configuration as it is now.
    Reload,
    /// Let go of all clients in order, then end.
    Drain(&'static str),
    /// End.
    Stop(&'static str),
}

impl Signals {
    /// Catches them from now on, and the runtime to wait in. To be called before anything is started, so that no signal
    /// ends a half-started balancer without order.
    pub(super) fn catch() -> io::Result<(Runtime, Self)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        drop(entered);
        Ok((runtime, signals))
    }

    /// What the next signal asks for.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Drain("SIGTERM"),
            _ = self.quit.recv() => Wish::Drain("SIGQUIT"),
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    /// The signal that ends a balancer which drains already.
    pub(super) async fn second(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// The next signal that asks for an end, at once or in order.
    pub(super) async fn end(&mut self) -> &'static str {
        loop {
            if let Wish::Drain(signal) | Wish::Stop(signal) = self.next().await {
                return signal;
            }
        }
    }
}
