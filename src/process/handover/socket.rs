//! The unix socket at which another process can take over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::handover::Settings;
use crate::net::unix::{Purpose, SocketFile};

/// The socket, bound.
#[derive(Debug)]
pub(in crate::process) struct HandoverSocket(SocketFile);

impl HandoverSocket {
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
            // That process may be in another container, where the path is another one.
            Some((inherited, socket)) if inherited == *path && path.exists() => SocketFile::inherit(socket, path)?,
            _ => SocketFile::bind(path, Purpose::Handover)?,
        };
        Ok(Some(Self(file)))
    }

    /// Where it is.
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

    /// Accepts on it, on this thread's runtime.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        self.0.listener.try_clone().and_then(UnixListener::from_std)
    }

    /// Its file is this process's, which removes it at its end.
    pub(in crate::process) fn own_file(&self) {
        self.0.own_file();
    }

    /// Leaves its file to another process.
    pub(super) fn leave_file(&self) {
        self.0.leave_file();
    }
}
