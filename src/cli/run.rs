//! What `remora run` does: starts the balancer, and does what signals say until one of them ends it.

use std::io;
use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;

use remora::config::{self, Config};
use remora::log;
use remora::serve::{self, Running};
use remora::vital::Task;

use super::signals::{Signals, Wish};

/// How long the word of a panic may take to come after the first sign of it.
const WORD_MAX: Duration = Duration::from_secs(1);

/// Runs until a signal ends it.
pub(super) fn run(path: &Path, config: Config) -> io::Result<()> {
    let (runtime, mut signals) = Signals::catch()?;
    let _log = log::init(&config.log);
    log_panics();
    let mut running = serve::start(config)?;
    tracing::info!(addresses = ?running.addresses(), admin = ?running.admin(), "listening");
    notify(&[NotifyState::Ready]);
    let lost = running.lost();
    let end = runtime.block_on(async {
        tokio::select! {
            biased;
            task = lost => Err(panicked(task)),
            end = obey(path, &mut running, &mut signals) => end,
        }
    });
    if let Err(error) = end {
        // Not stopped: what waits for a broken balancer's threads may wait for ever, and whoever starts it anew waits for this.
        std::mem::forget(running);
        return Err(error);
    }
    // A task may also panic over its end.
    running.stop().map_or(Ok(()), |task| Err(panicked(task)))
}

/// Why a process ends whose balancer has lost this task.
pub(super) fn panicked(task: Task) -> io::Error {
    io::Error::other(format!("the task {} panicked", task.name()))
}

/// Does what signals say, until one of them ends it. An error is that of a balancer that is broken.
async fn obey(path: &Path, running: &mut Running, signals: &mut Signals) -> io::Result<()> {
    loop {
        match signals.next().await {
            Wish::Reload => reload(path, running).await,
            Wish::Stop(signal) => {
                tracing::info!(signal, "stopping");
                notify(&[NotifyState::Stopping]);
                return Ok(());
            }
            Wish::Drain(signal) => {
                let connections = running.connections();
                tracing::info!(signal, connections, "draining");
                notify(&[NotifyState::Stopping]);
                return drain(running, signals).await;
            }
        }
    }
}

async fn drain(running: &mut Running, signals: &mut Signals) -> io::Result<()> {
    let drained = tokio::select! {
        drained = running.drain() => drained,
        signal = signals.second() => {
            tracing::info!(signal, "stopping before all connections are drained");
            return Ok(());
        }
    };
    if let Err(error) = drained {
        tracing::error!(%error, "draining failed");
        // No worker goes by itself: one has panicked, and the word of it, which ends this wait, is not here yet.
        tokio::time::sleep(WORD_MAX).await;
        return Err(error);
    }
    tracing::info!(connections = running.connections(), "drained");
    Ok(())
}

/// Takes the file as it is now, whole or not at all.
async fn reload(path: &Path, running: &mut Running) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    match config::load(path) {
        Err(problems) => {
            running.reload_failed();
            // One line for each problem: this is a log, and may be JSON.
            for problem in problems.iter() {
                let position = problems
                    .position(problem)
                    .map_or(String::new(), |at| format!(":{}:{}", at.line, at.column));
                tracing::error!(file = %format!("{}{position}", path.display()), "{problem}");
            }
            tracing::error!("the configuration has problems: nothing was changed");
        }
        Ok(config) => match running.reload(config).await {
            Ok(reloaded) => {
                for key in &reloaded.restart {
                    tracing::warn!(key, "takes a restart: the old value holds until then");
                }
                tracing::info!(addresses = ?running.addresses(), "configuration reloaded");
            }
            Err(error) => tracing::error!(%error, "reload failed: nothing was changed"),
        },
    }
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, where it has started this process and wants to know.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// A panic ends one connection, or all where a vital task meets it, and a line says so; this one says where the bug is.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(backtrace = %std::backtrace::Backtrace::force_capture(), "{panic}");
    }));
}
