//! Reads as much of the CONNECT as the affinity key needs, under a cap and a deadline, and keeps every byte for replay.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ended::Ended;
use crate::held::{Held, Share};
use crate::mqtt::{Connect, Need, Verdict, read_connect};
use crate::opening::Opening;
use crate::scratch;
use crate::socket::Socket;

/// Held for one connection at most while its client id is awaited: MQTT 5 properties and the longest id fit twice.
const CLIENT_ID_BYTES_MAX: usize = 128 * 1024;

/// Held for one connection at most while its user name is awaited, which stands behind the will.
const USERNAME_BYTES_MAX: usize = 384 * 1024;

/// How much of an undecided client is held, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From accept to routed: PROXY header, TLS, upgrade and CONNECT together.
    pub deadline: Duration,
    /// Bytes held for all undecided connections together; when full, the largest holder is closed.
    pub held_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            held_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// Reads CONNECTs for one worker.
#[derive(Debug)]
pub struct Peek {
    need: Need,
    deadline: Duration,
    held: Arc<Held>,
}

impl Peek {
    /// A reader that waits for as much as `need` says and counts what it holds in `held`.
    pub fn new(need: Need, limits: &Limits, held: Arc<Held>) -> Self {
        Self {
            need,
            deadline: limits.deadline,
            held,
        }
    }

    /// Waits for the CONNECT of a client that was accepted at `accepted`.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn opening(&self, client: Socket, accepted: Instant) -> Result<Opening, Ended> {
        let mut reading = Reading {
            need: self.need,
            client,
            bytes: Vec::new(),
            enough: 1,
            share: self.held.share(),
        };
        let due = accepted + self.deadline;
        match tokio::time::timeout_at(due, reading.connect()).await {
            Ok(connect) => Ok(Opening {
                connect: connect?,
                client: reading.client,
                bytes: reading.bytes,
                share: reading.share,
            }),
            Err(_elapsed) => Err(Ended::ConnectTimeout),
        }
    }
}

/// One CONNECT on its way in.
struct Reading {
    need: Need,
    client: Socket,
    bytes: Vec<u8>,
    /// The reader cannot say anything new before this many bytes are here.
    enough: usize,
    share: Share,
}

impl Reading {
    async fn connect(&mut self) -> Result<Connect, Ended> {
        loop {
            let eviction = self.share.eviction();
            let arrived = std::future::poll_fn(|cx| {
                scratch::with(|scratch| {
                    self.client
                        .poll_recv(cx, scratch)
                        .map(|read| self.take(read, scratch))
                })
            });
            let connect = tokio::select! {
                biased;
                connect = arrived => connect?,
                () = eviction.told() => return Err(Ended::HeldBytesFull),
            };
            if let Some(connect) = connect {
                return Ok(connect);
            }
        }
    }

    /// What `read` bytes, which are in `scratch`, add to what is known.
    fn take(&mut self, read: io::Result<usize>, scratch: &[u8]) -> Result<Option<Connect>, Ended> {
        let read = match read {
            Ok(0) => return Err(Ended::ClientClosed),
            Ok(read) => read,
            Err(_) => return Err(Ended::ClientReset),
        };
        self.share.grow(read).map_err(|_| Ended::HeldBytesFull)?;
        self.bytes.extend_from_slice(&scratch[..read]);
        if self.bytes.len() < self.enough {
            return self.within_cap();
        }
        match read_connect(&self.bytes, self.need) {
            Verdict::Complete(connect) => Ok(Some(connect)),
            Verdict::Stranger(stranger) => Err(stranger.into()),
            Verdict::NeedMore(enough) => {
                self.enough = enough;
                self.within_cap()
            }
        }
    }

    fn within_cap(&self) -> Result<Option<Connect>, Ended> {
        let cap = match self.need {
            Need::ClientId => CLIENT_ID_BYTES_MAX,
            Need::Username => USERNAME_BYTES_MAX,
        };
        if self.bytes.len() >= cap || self.enough > cap {
            return Err(Ended::ConnectTooLarge);
        }
        Ok(None)
    }
}
