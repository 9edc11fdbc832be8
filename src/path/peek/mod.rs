//! Reads as much of the CONNECT as the affinity key needs, under a cap and a deadline, and keeps every byte for replay.

use std::time::Duration;

use tokio::time::Instant;

use crate::mqtt::{Connect, Need, Verdict, malformed, read_connect};
use crate::net::held::{HeldReader, ReadError, Reservation};
use crate::net::socket::Socket;
use crate::net::websocket::Upgrade;
use crate::net::websocket::frames::Fault;
use crate::path::ended::{Details, Ended, SetUpEnded};
use crate::path::opening::{Framing, Opening, Replay};

/// The most bytes held for one connection while its client id is awaited: MQTT 5 properties and the longest id fit twice.
const CLIENT_ID_BYTES_MAX: usize = 128 * 1024;

/// The most bytes held for one connection while its user name is awaited, which comes after the will.
const USERNAME_BYTES_MAX: usize = 384 * 1024;

/// How long a client's CONNECT is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time from accept to route: PROXY header, TLS, upgrade and CONNECT together. A listener may have its own.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
        }
    }
}

/// Reads CONNECTs for one worker.
#[derive(Debug)]
pub(crate) struct Peek {
    need: Need,
    deadline: Duration,
    answers_malformed: bool,
}

impl Peek {
    /// A reader that waits for the fields that `need` names, and tells clients of MQTT 5 with a CONNACK that theirs is malformed, if it
    /// `answers_malformed`.
    pub(crate) fn new(need: Need, limits: &Limits, answers_malformed: bool) -> Self {
        Self {
            need,
            deadline: limits.deadline,
            answers_malformed,
        }
    }

    /// When a client that was accepted at `accepted` must be routed, on a listener that may have a deadline of its own.
    pub(crate) fn due(&self, accepted: Instant, of_listener: Option<Duration>) -> Instant {
        accepted + of_listener.unwrap_or(self.deadline)
    }

    /// Waits until `due` for the CONNECT of a client, and counts the bytes held for it in `reservation`.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub(crate) async fn opening(
        &self,
        client: Socket,
        framing: Framing,
        upgrade: Option<Box<Upgrade>>,
        reservation: Reservation,
        due: Instant,
    ) -> Result<Opening, SetUpEnded> {
        let mut reading = Reading {
            need: self.need,
            answers_malformed: self.answers_malformed,
            client,
            replay: Replay::new(framing),
            enough: 1,
            reservation,
        };
        let connect = match tokio::time::timeout_at(due, reading.connect()).await {
            Ok(Ok(connect)) => connect,
            Ok(Err(stop)) => {
                // A TLS handshake or an upgrade counts as sent by the client, too.
                let is_silent = upgrade.is_none() && reading.client.is_plain() && reading.replay.received_bytes() == 0;
                let details = stop.details();
                let ended = SetUpEnded::gone(reading.stop(stop).await, !is_silent);
                return Err(SetUpEnded { details, ..ended });
            }
            Err(_elapsed) => {
                let late = Ended::ConnectTimeout;
                return Err(reading.stop(late.into()).await.into());
            }
        };
        Ok(Opening {
            connect,
            client: reading.client,
            replay: reading.replay,
            upgrade,
            reservation: reading.reservation,
        })
    }
}

/// Why the reading of a CONNECT stopped.
enum Stop {
    Ended(Ended),
    /// The client could not be read.
    Read(ReadError),
    /// The frames around it are invalid.
    Fault(Fault),
}

impl From<Ended> for Stop {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Stop {
    /// What the log says beside the cause.
    fn details(&self) -> Option<Box<Details>> {
        let details = match self {
            Self::Fault(fault) => Some(Details::of_words(fault.words())),
            Self::Read(ReadError::Socket(error)) => Details::of_socket(error),
            Self::Read(ReadError::HeldBytesFull) | Self::Ended(_) => None,
        };
        details.map(Box::new)
    }
}

/// A CONNECT that is being read.
struct Reading {
    need: Need,
    answers_malformed: bool,
    client: Socket,
    replay: Replay,
    /// Parsing again is useless before this many bytes have arrived.
    enough: usize,
    reservation: Reservation,
}

impl Reading {
    async fn connect(&mut self) -> Result<Connect, Stop> {
        loop {
            let Self {
                client,
                replay,
                reservation,
                ..
            } = self;
            let read = HeldReader::new(client, reservation).read(|bytes| {
                let held = replay.held_bytes();
                replay.push(bytes).map_err(Stop::Fault)?;
                Ok::<_, Stop>(replay.held_bytes() - held)
            });
            let read = read.await?;
            if read == 0 || !replay.send_replies(client) || replay.is_closed() {
                return Err(Ended::ClientClosed.into());
            }
            if let Some(connect) = self.parse()? {
                return Ok(connect);
            }
            // A client may have sent very many pings, and go on.
            tokio::task::yield_now().await;
        }
    }

    /// The CONNECT, if enough of it has arrived.
    fn parse(&mut self) -> Result<Option<Connect>, Stop> {
        let mqtt = self.replay.mqtt();
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

    /// Closes the connection, over WebSocket with a close frame that says why, and in MQTT 5 with a CONNACK, where that is wished.
    async fn stop(&mut self, stop: Stop) -> Ended {
        let (ended, fault) = match stop {
            Stop::Fault(fault) => (Ended::FrameFault, Some(fault)),
            Stop::Read(error) => (error.into(), None),
            Stop::Ended(ended) => (ended, None),
        };
        let answer = match ended {
            Ended::Malformed if self.answers_malformed => malformed(self.replay.mqtt()),
            _ => None,
        };
        self.replay
            .close(&self.client, ended, fault, answer.unwrap_or_default())
            .await;
        ended
    }

    fn within_cap(&self) -> Result<Option<Connect>, Stop> {
        let cap = match self.need {
            Need::ClientId => CLIENT_ID_BYTES_MAX,
            Need::Username => USERNAME_BYTES_MAX,
        };
        // Frames of one byte each are seven times as long as their payload. Pings count, so that a client cannot send
        // them without limit.
        let received = self.replay.received_bytes();
        if self.replay.mqtt().len() >= cap || self.enough > cap || received >= 8 * cap as u64 {
            return Err(Ended::ConnectTooLarge.into());
        }
        Ok(None)
    }
}
