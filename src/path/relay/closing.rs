//! Closes a socket whose relay has ended, after its peer has received everything that was sent before.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::socket::Socket;

/// How long a reset waits for the bytes before it to be acknowledged.
const RESET_WAIT_MAX: Duration = Duration::from_secs(1);

/// The first wait before a reset checks for acknowledgements; each further wait is twice as long. A peer may delay its
/// last acknowledgement by 40 ms.
const RESET_CHECK_FIRST: Duration = Duration::from_millis(5);

/// How to close a socket whose relay has ended.
#[derive(Debug)]
pub enum Closing {
    /// Reset it once its peer has received everything that was sent before.
    Reset(Socket),
    /// Send these bytes and a FIN, then read until the peer closes.
    Gracefully(Socket, Vec<u8>),
}

impl Closing {
    /// Closes the socket in a task of its own.
    pub fn spawn(self) {
        tokio::task::spawn_local(self.close());
    }

    pub(super) async fn close(self) {
        match self {
            Self::Reset(socket) => reset_once_acknowledged(socket).await,
            Self::Gracefully(socket, bytes) => socket.close_after(&bytes).await,
        }
    }
}

/// Resets `socket` once its peer has received everything that was sent before, so that the reset overtakes nothing.
async fn reset_once_acknowledged(socket: Socket) {
    let due = Instant::now() + RESET_WAIT_MAX;
    let mut pause = RESET_CHECK_FIRST;
    while socket.unacknowledged() > 0 && Instant::now() < due {
        tokio::time::sleep_until(due.min(Instant::now() + pause)).await;
        pause *= 2;
    }
    socket.reset_on_close();
}
