//! What systemd is told of the service: when it is ready, reloads or stops, that it is well, and one line on its state.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

use remora::cluster::NodeState;
use remora::serve::Handle;

/// How often the line is made anew; it is sent only if it has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// The sockets that systemd has opened for this process, by number, each with its `FileDescriptorName`.
///
/// # Errors
/// What systemd says of them cannot be read.
pub(super) fn sockets() -> io::Result<Vec<(String, RawFd)>> {
    let sockets = sd_notify::listen_fds_with_names()?;
    Ok(sockets.map(|(socket, name)| (name, socket)).collect())
}

/// Notifies systemd, if it started this process with Type=notify.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    /// What the line says beside the numbers.
    note: Arc<Mutex<String>>,
    /// Another process is the service now, and nothing is said of this one.
    is_another: Arc<AtomicBool>,
}

impl Service {
    /// The service is ready to accept clients.
    pub(super) fn ready(&self, handle: &Handle) {
        self.notify(&[NotifyState::Ready, NotifyState::Status(&self.status(handle))]);
    }

    /// The process with this number, a child of this one, has taken over: it is the service from now on.
    pub(super) fn handed_over(&self, pid: u32) {
        self.notify(&[NotifyState::MainPid(pid)]);
        self.is_another.store(true, Ordering::Relaxed);
    }

    /// It has begun to reload.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(_) => self.notify(&[NotifyState::Reloading]),
        }
    }

    /// The reload is over; `refused` says why nothing has changed, if nothing has.
    pub(super) fn reloaded(&self, handle: &Handle, refused: Option<&str>) {
        self.say(refused.map_or_else(String::new, |why| format!("; the last reload was refused: {why}")));
        self.ready(handle);
    }

    /// It stops, in the way that `how` says. systemd ends it after TimeoutStopSec.
    pub(super) fn stopping(&self, how: &str, handle: &Handle) {
        self.say(format!("; {how}"));
        self.notify(&[NotifyState::Stopping, NotifyState::Status(&self.status(handle))]);
    }

    /// It accepts no more clients and keeps those that it has, for as long as they stay: systemd must not wait for its end.
    pub(super) fn stopping_softly(&self, handle: &Handle) {
        self.say("; accepts no more clients, and ends with the last one".to_owned());
        self.notify(&[NotifyState::Status(&self.status(handle))]);
    }

    /// From now on, notifies systemd of the state when it changes, and of its watchdog while no thread is stuck, if the service has
    /// one (`WatchdogSec`). On a thread of its own, since the main thread may wait for a file while it reloads.
    pub(super) fn watch(&self, handle: Handle) -> io::Result<()> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(());
        }
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        // sd_watchdog_enabled(3) recommends half of the limit.
        let interval = limit.map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / 2));
        let service = self.clone();
        // Ends with the process.
        std::thread::Builder::new()
            .name("remora-systemd".into())
            .spawn(move || {
                let mut sent = String::new();
                loop {
                    if limit.is_some() && handle.stuck_thread().is_none() {
                        service.notify(&[NotifyState::Watchdog]);
                    }
                    let status = service.status(&handle);
                    if status != sent {
                        service.notify(&[NotifyState::Status(&status)]);
                        sent = status;
                    }
                    std::thread::park_timeout(interval);
                }
            })?;
        Ok(())
    }

    fn notify(&self, states: &[NotifyState<'_>]) {
        if self.is_another.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "cannot notify systemd");
        }
    }

    fn say(&self, note: String) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// The line that `systemctl status` shows.
    fn status(&self, handle: &Handle) -> String {
        let nodes = handle.nodes();
        // A removed node that still has connections is none of the cluster's.
        let nodes = nodes.iter().filter(|node| !node.endpoints.is_empty());
        let is_up = |node: &&_| -> bool {
            let remora::serve::NodeStatus { endpoints, .. } = *node;
            endpoints.iter().all(|(_, state)| *state == NodeState::Up)
        };
        let (count, up) = (nodes.clone().count(), nodes.filter(is_up).count());
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        format!("nodes up: {up} of {count}, connections: {}{note}", handle.connections())
    }
}
