//! What both sides of a handover have in common: what moves, how far it is, how long it may take, and why it failed.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::timeout;

use crate::handover::messages::Relay;

/// A relay, with its two sockets.
#[derive(Debug)]
pub struct Offered {
    /// What does not change of it.
    pub relay: Relay,
    /// The client's socket.
    pub client: OwnedFd,
    /// The node's socket.
    pub node: OwnedFd,
}

/// How far a handover is, for an operator who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The other process has said who it is.
    Known {
        /// Its process id, by its own count.
        pid: u32,
    },
    /// Both sides know each other, and neither has refused.
    Checked,
    /// The listening sockets were sent.
    Sockets,
    /// So many relays were sent.
    Relays {
        /// Sent until now.
        sent: u64,
        /// About so many there are.
        of: u64,
    },
    /// The taker is ready for the moment in which the relays change hands.
    Prepared,
    /// The giver relays nothing that moves.
    Frozen,
    /// The taker holds everything.
    Adopted,
    /// The taker relays.
    Running {
        /// 1 for the first round.
        round: u32,
        /// How many relays have moved in it.
        relays: u64,
    },
    /// There are no more rounds.
    Done,
}

impl Step {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Known { .. } => "known",
            Self::Checked => "checked",
            Self::Sockets => "sockets",
            Self::Relays { .. } => "relays",
            Self::Prepared => "prepared",
            Self::Frozen => "frozen",
            Self::Adopted => "adopted",
            Self::Running { .. } => "running",
            Self::Done => "done",
        }
    }
}

/// How long the steps of a handover may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// The first message: a stranger may connect and send nothing.
    pub hello: Duration,
    /// Any other message, and the room to send one.
    pub message: Duration,
    /// The taker's start, from the last message before to [`Prepared`](crate::handover::messages::Body::Prepared).
    pub prepare: Duration,
    /// From the moment in which the giver freezes until the taker runs.
    pub pause: Duration,
}

/// Waits for a step of this process itself, which has a deadline as those of the other one have.
pub(super) async fn within<T>(
    limit: Duration,
    what: &'static str,
    step: impl Future<Output = T>,
) -> Result<T, Failure> {
    timeout(limit, step).await.map_err(|_| Failure::TooLate(what))
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            message: Duration::from_secs(30),
            prepare: Duration::from_secs(60),
            pause: Duration::from_secs(5),
        }
    }
}

/// Why a handover, or a round of it, has failed.
#[derive(Debug)]
pub enum Failure {
    /// The other side has refused, and says why.
    Refused(String),
    /// This side has refused, and has said why.
    Refusal(String),
    /// The other side has ended the conversation, or is dead.
    Closed,
    /// The other side, or this process itself, took too long for this.
    TooLate(&'static str),
    /// The other side violates the protocol.
    Violation(&'static str),
    /// The system failed.
    System(io::Error),
}

pub(super) const UNEXPECTED: Failure = Failure::Violation("an unexpected message");

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "the other process refused: {why}"),
            Self::Refusal(why) => f.write_str(why),
            Self::Closed => f.write_str("the other process ended the handover"),
            Self::TooLate(what) => write!(f, "timed out waiting for {what}"),
            Self::Violation(what) => write!(f, "the other process violates the protocol: {what}"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::System(error),
        }
    }
}
