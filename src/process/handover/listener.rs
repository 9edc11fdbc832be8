//! Waits for processes that take over at the socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::socket::HandoverSocket;
use crate::admin::Serving;
use crate::process::handle::Handle;

/// How long it pauses after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// Hands over to processes that connect, one after the other, until one has taken over.
pub(in crate::process) async fn serve(
    socket: Arc<HandoverSocket>,
    handle: Handle,
    mut serving: watch::Receiver<Serving>,
) {
    // Who can change it lasts as long as what is served.
    let _ = serving.wait_for(|serving| *serving != Serving::NotYet).await;
    let listener = match socket.listen() {
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
        Ok(_) = serving.wait_for(|serving| *serving == Serving::NoMore) => {}
    }
}
