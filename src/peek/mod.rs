//! Reads as much of the CONNECT as the affinity key needs, under a cap and a deadline, and keeps every byte for replay.

use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::ended::{Ended, SetUpEnded};
use crate::held::{HeldBytesFull, Share};
use crate::mqtt::{Connect, Need, Verdict, read_connect};
use crate::opening::{Leg, Opening, Said};
use crate::scratch;
use crate::socket::Socket;
use crate::websocket::Upgrade;
use crate::websocket::frames::{self, Fault};

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
}

impl Peek {
    /// A reader that waits for as much as `need` says.
    pub fn new(need: Need, limits: &Limits) -> Self {
        Self {
            need,
            deadline: limits.deadline,
        }
    }

    /// Until when a client that was accepted at `accepted` must be routed.
    pub fn due(&self, accepted: Instant) -> Instant {
        accepted + self.deadline
    }

    /// Waits until `due` for the CONNECT of a client, and counts what it holds of it in `share`.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn opening(
        &self,
        client: Socket,
        leg: Leg,
        upgrade: Option<Box<Upgrade>>,
        share: Share,
        due: Instant,
    ) -> Result<Opening, SetUpEnded> {
        let mut reading = Reading {
            need: self.need,
            client,
            said: Said::nothing(leg),
            enough: 1,
            share,
        };
        let connect = match tokio::time::timeout_at(due, reading.connect()).await {
            Ok(Ok(connect)) => connect,
            Ok(Err(stop)) => {
                // What lies below MQTT is said by the client, too.
                let is_silent =
                    upgrade.is_none() && reading.client.is_plain() && reading.said.heard() == 0;
                return Err(SetUpEnded::gone(reading.stop(stop).await, !is_silent));
            }
            Err(_elapsed) => {
                let late = Ended::ConnectTimeout;
                return Err(reading.stop(late.into()).await.into());
            }
        };
        Ok(Opening {
            connect,
            client: reading.client,
            said: reading.said,
            upgrade,
            share: reading.share,
        })
    }
}

/// Why the reading of a CONNECT stopped.
enum Stop {
    Ended(Ended),
    /// The frames around it are wrong.
    Fault(Fault),
}

impl From<Ended> for Stop {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<HeldBytesFull> for Stop {
    fn from(full: HeldBytesFull) -> Self {
        Self::Ended(full.into())
    }
}

/// One CONNECT on its way in.
struct Reading {
    need: Need,
    client: Socket,
    said: Said,
    /// The reader cannot say anything new before this many bytes are here.
    enough: usize,
    share: Share,
}

impl Reading {
    async fn connect(&mut self) -> Result<Connect, Stop> {
        loop {
            let eviction = self.share.eviction();
            let arrived = std::future::poll_fn(|cx| {
                scratch::with(|scratch| match self.client.poll_recv(cx, scratch) {
                    Poll::Ready(read) => Poll::Ready(self.take(read, scratch)),
                    Poll::Pending => self
                        .share
                        .poll_cover(self.client.sealed())
                        .map(|covered| Ok(covered.map(|()| None)?)),
                })
            });
            let connect = tokio::select! {
                biased;
                connect = arrived => connect?,
                () = eviction.told() => return Err(Ended::HeldBytesFull.into()),
            };
            if let Some(connect) = connect {
                return Ok(connect);
            }
        }
    }

    /// What `read` bytes, which are in `scratch`, add to what is known.
    fn take(&mut self, read: io::Result<usize>, scratch: &[u8]) -> Result<Option<Connect>, Stop> {
        let read = match read {
            Ok(0) => return Err(Ended::ClientClosed.into()),
            Ok(read) => read,
            Err(error) => return Err(Ended::of_client(&error).into()),
        };
        let held = self.said.held();
        self.said.hear(&scratch[..read]).map_err(Stop::Fault)?;
        let more = self.said.held() - held;
        self.share.hear(more, self.client.sealed())?;
        if !self.said.reply(&self.client) || self.said.is_closed() {
            return Err(Ended::ClientClosed.into());
        }
        let mqtt = self.said.mqtt();
        if mqtt.len() < self.enough {
            return self.within_cap();
        }
        match read_connect(mqtt, self.need) {
            Verdict::Complete(connect) => Ok(Some(connect)),
            Verdict::Stranger(stranger) => Err(Ended::from(stranger).into()),
            Verdict::NeedMore(enough) => {
                self.enough = enough;
                self.within_cap()
            }
        }
    }

    /// Says in a close frame what is wrong, where there are frames.
    async fn stop(&mut self, stop: Stop) -> Ended {
        let (code, ended) = match stop {
            Stop::Fault(fault) => (fault.close_code(), Ended::FrameFault),
            // "Too large to process" (RFC 6455, 7.4.1).
            Stop::Ended(ended @ Ended::ConnectTooLarge) => (1009, ended),
            Stop::Ended(ended) => {
                self.client.say_end();
                return ended;
            }
        };
        if self.said.leg() == Leg::Ws {
            let words = self.said.last_words(&frames::close(&code.to_be_bytes()));
            self.client.farewell(&words).await;
        } else {
            self.client.say_end();
        }
        ended
    }

    fn within_cap(&self) -> Result<Option<Connect>, Stop> {
        let cap = match self.need {
            Need::ClientId => CLIENT_ID_BYTES_MAX,
            Need::Username => USERNAME_BYTES_MAX,
        };
        // Frames of one byte each are seven times as long as what is in them. Pings count: a client that only asks has an end.
        let heard = self.said.heard();
        if self.said.mqtt().len() >= cap || self.enough > cap || heard >= 8 * cap as u64 {
            return Err(Ended::ConnectTooLarge.into());
        }
        Ok(None)
    }
}
