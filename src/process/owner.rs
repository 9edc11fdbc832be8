//! The way of the API's requests to the owner of the process.

use std::io;

use tokio::sync::{mpsc, oneshot};

use super::handle::Handle;
use super::requests::{NotReloaded, Reloaded, Request};

/// The capacity of the queue of requests. One is under way at a time.
const REQUESTS_MAX: usize = 4;

impl Handle {
    /// The requests to the owner of the process. The caller carries them out from then on; without one, the API refuses them.
    pub fn requests(&self) -> mpsc::Receiver<Request> {
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
