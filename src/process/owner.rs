//! The way of the API's requests to the owner of the process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::handle::Handle;
use super::requests::{NotReloaded, Program, Reloaded, Request, Upgrade};
use crate::admin::api::answers::UpgradeStep;

/// The capacity of the queue of requests. One is under way at a time.
const REQUESTS_MAX: usize = 4;

/// As many steps as an upgrade may be ahead of who reads them; the others are left out.
const STEPS_MAX: usize = 256;

impl Handle {
    /// The requests to the owner of the process. The caller carries them out from then on; without one, the API refuses them. `program` is
    /// what an upgrade starts, if the owner can.
    pub fn requests(&self, program: Option<Arc<Program>>) -> mpsc::Receiver<Request> {
        self.0.program.store(program);
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        self.0.requests.store(Some(sender.into()));
        requests
    }

    /// Has the owner of the process read the configuration again.
    ///
    /// # Errors
    /// The process takes no such request, or not any more.
    pub(crate) async fn request_reload(&self) -> io::Result<Result<Reloaded, NotReloaded>> {
        let (reply, reloaded) = oneshot::channel();
        self.request(Request::Reload(reply)).await?;
        reloaded.await.map_err(|_| is_ending())
    }

    /// Has the owner of the process drain it and end.
    ///
    /// # Errors
    /// The process takes no such request, or not any more.
    pub(crate) async fn request_drain(&self) -> io::Result<()> {
        self.request(Request::Drain).await
    }

    /// Has the owner of the process start another one that takes over. Returns how far it is.
    ///
    /// # Errors
    /// The process takes no such request, or not any more.
    pub(crate) async fn request_upgrade(&self, binary: Option<PathBuf>) -> io::Result<mpsc::Receiver<UpgradeStep>> {
        let (steps, taken) = mpsc::channel(STEPS_MAX);
        self.request(Request::Upgrade(Upgrade { binary, steps })).await?;
        Ok(taken)
    }

    /// The program that an upgrade starts, if the owner of the process can do that.
    pub(crate) fn program(&self) -> Option<Arc<Program>> {
        self.0.program.load_full()
    }

    async fn request(&self, request: Request) -> io::Result<()> {
        let requests = self.0.requests.load_full().ok_or_else(|| {
            let error =
                "this process was not started by `remora run`, and is reloaded and ended by the program that it is in";
            io::Error::new(io::ErrorKind::Unsupported, error)
        })?;
        requests.send(request).await.map_err(|_| is_ending())
    }
}

fn is_ending() -> io::Error {
    io::Error::other("the process is ending")
}
