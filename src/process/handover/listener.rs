//! The unix socket at which another process can take over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::admin::Serving;
use crate::handover::Settings;
use crate::net::unix::{Purpose, SocketFile};
use crate::process::handle::Handle;

/// How long it pauses after a connection could not be accepted.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// The socket, bound.
#[derive(Debug)]
pub(in crate::process) struct HandoverListener(SocketFile);

impl HandoverListener {
    /// Binds the configured socket, if there is one, or takes the one that was inherited.
    ///
    /// # Errors
    /// It cannot be bound.
    pub(in crate::process) fn bind(
        settings: &Settings,
        inherited: Option<(PathBuf, OwnedFd)>,
    ) -> io::Result<Option<Self>> {
        let Some(path) = &settings.socket else {
            return Ok(None);
        };
        let file = match inherited {
            Some((inherited, socket)) if inherited == *path => SocketFile::inherit(socket, path)?,
            _ => SocketFile::bind(path, Purpose::Handover)?,
        };
        Ok(Some(Self(file)))
    }

    pub(in crate::process) fn path(&self) -> &Path {
        &self.0.path
    }

    /// A duplicate, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(in crate::process) fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.0.listener.try_clone()?.into())
    }

    /// Hands over to processes that connect, one after the other, until one has taken over.
    pub(in crate::process) async fn serve(self: Arc<Self>, handle: Handle, mut serving: watch::Receiver<Serving>) {
        // Who can change it lasts as long as what is served.
        let _ = serving.wait_for(|serving| *serving != Serving::NotYet).await;
        let accepted = self.0.listener.try_clone().and_then(UnixListener::from_std);
        let listener = match accepted {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "no other process can take over at handover.socket");
                return;
            }
        };
        let accept = async {
            loop {
                match listener.accept().await.and_then(|(socket, _)| socket.into_std()) {
                    // What becomes of it is in the log.
                    Ok(socket) => drop(handle.hand_over(socket, |_| {}).await),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::select! {
            () = accept => {}
            Ok(_) = serving.wait_for(|serving| *serving == Serving::NoMore) => self.0.leave_file(),
        }
    }
}
